//! The listener: one request per connection, everything bounded.
//!
//! A connection may take [`REQUEST_TIME`] for its whole request head and [`MAX_HEAD`] bytes of it; [`MAX_CONNECTIONS`]
//! are served at a time and the rest are answered 503 or closed at once, so that a client that dawdles cannot keep others out for
//! longer than that.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::health::{self, Health};
use crate::page::{self, Response};
use crate::settings::Settings;

/// Largest request head that is read, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Time for the whole request head, and for each write of the answer.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Connections served at the same time.
const MAX_CONNECTIONS: usize = 32;
/// Connections refused in words at the same time; what comes on top is closed without any.
const MAX_REFUSALS: usize = 16;
/// Failures of `accept` in a row after which the service gives up.
const MAX_ACCEPT_FAILURES: u32 = 100;

#[derive(Debug)]
struct Service {
    settings: Settings,
    started: Instant,
    served: AtomicU64,
    open: AtomicUsize,
}

/// Gives a connection's place back, however its thread ends.
#[derive(Debug)]
struct Place(Arc<Service>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves until the process ends.
///
/// # Errors
/// When the listener fails many times in a row.
pub(crate) fn serve(listener: TcpListener, settings: Settings) -> io::Result<()> {
    let service = Arc::new(Service {
        settings,
        started: Instant::now(),
        served: AtomicU64::new(0),
        open: AtomicUsize::new(0),
    });
    let mut failures = 0;
    for connection in listener.incoming() {
        let stream = match connection {
            Ok(stream) => stream,
            Err(error) => {
                failures += 1;
                if failures > MAX_ACCEPT_FAILURES {
                    return Err(error);
                }
                // Out of descriptors, most likely: give the open connections time to end.
                std::thread::park_timeout(Duration::from_millis(50));
                continue;
            }
        };
        failures = 0;
        let place = Place(Arc::clone(&service));
        let open = service.open.fetch_add(1, Ordering::AcqRel);
        if open >= MAX_CONNECTIONS + MAX_REFUSALS {
            // Not even a polite refusal is free; dropping both gives the place back and closes the connection.
            continue;
        }
        let handle = move || {
            let outcome = if open < MAX_CONNECTIONS { handle(&place.0, stream) } else { refuse(stream) };
            if let Err(error) = outcome {
                // A client that goes away is its own affair; it is said, because silence hides real faults.
                eprintln!("edge-web-service: connection ended early: {error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().stack_size(128 * 1024).spawn(handle) {
            eprintln!("edge-web-service: cannot start a thread: {error}");
        }
    }
    Ok(())
}

/// Answers 503 without reading the request first.
fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_TIME))?;
    finish(&mut stream, &Response::error(503, "too many connections; try again"), true)
}

fn handle(service: &Service, mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_TIME))?;
    let (response, with_body) = match read_head(&mut stream)? {
        Head::Request { method, path } => respond(service, &method, &path),
        Head::TooLong => (Response::error(431, "the request head is longer than 8 KiB"), true),
        Head::TooSlow => (Response::error(408, "the request head took longer than 5 s"), true),
        Head::Malformed => (Response::error(400, "this is not an HTTP/1 request"), true),
        Head::Closed => return Ok(()),
    };
    finish(&mut stream, &response, with_body)
}

fn finish(stream: &mut TcpStream, response: &Response, with_body: bool) -> io::Result<()> {
    stream.write_all(&response.encode(with_body))?;
    stream.shutdown(Shutdown::Write)?;
    drain(stream);
    Ok(())
}

fn respond(service: &Service, method: &str, path: &str) -> (Response, bool) {
    let with_body = method != "HEAD";
    if !matches!(method, "GET" | "HEAD") {
        return (Response::error(405, "only GET and HEAD are answered"), true);
    }
    let health: Health = health::judge(&service.settings, service.started.elapsed());
    let served = service.served.fetch_add(1, Ordering::Relaxed);
    let path = path.split('?').next().unwrap_or(path);
    (page::answer(path, &service.settings, &health, served), with_body)
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    Request { method: String, path: String },
    TooLong,
    TooSlow,
    Malformed,
    Closed,
}

/// Reads up to the empty line after the headers. The time counts for the whole head, so that a byte every few seconds
/// does not keep the connection.
fn read_head(stream: &mut TcpStream) -> io::Result<Head> {
    let begin = Instant::now();
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    loop {
        let Some(left) = REQUEST_TIME.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else {
            return Ok(Head::TooSlow);
        };
        stream.set_read_timeout(Some(left))?;
        let read = match stream.read(&mut chunk) {
            Ok(0) if head.is_empty() => return Ok(Head::Closed),
            Ok(0) => return Ok(Head::Malformed),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(Head::TooSlow);
            }
            Err(error) => return Err(error),
        };
        head.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            head.truncate(end);
            return Ok(parse_request_line(&head));
        }
        if head.len() >= MAX_HEAD {
            return Ok(Head::TooLong);
        }
    }
}

/// `GET /path HTTP/1.1` (RFC 9112 section 3); everything else is malformed.
fn parse_request_line(head: &[u8]) -> Head {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return Head::Malformed };
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(path), Some("HTTP/1.0" | "HTTP/1.1"), None)
            if !method.is_empty() && path.starts_with('/') =>
        {
            Head::Request { method: method.to_owned(), path: path.to_owned() }
        }
        _ => Head::Malformed,
    }
}

/// Reads what the client still sends, up to a bound, so that closing does not reset the connection before the client
/// has read the answer.
fn drain(stream: &mut TcpStream) {
    let begin = Instant::now();
    let mut chunk = [0; 1024];
    if stream.set_read_timeout(Some(Duration::from_millis(200))).is_err() {
        return;
    }
    let mut total = 0;
    while total < 64 * 1024 && begin.elapsed() < Duration::from_secs(1) {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(read) => total += read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_1_request_lines_are_understood() {
        let request = |method: &str, path: &str| Head::Request { method: method.into(), path: path.into() };
        assert_eq!(parse_request_line(b"GET /a?b HTTP/1.1\r\nHost: x"), request("GET", "/a?b"));
        for bad in [
            &b"GET / HTTP/2"[..],
            b"GET /",
            b"",
            b"\xff\xff / HTTP/1.1",
            b"GET / HTTP/1.1 x",
            b" / HTTP/1.1",
            b"GET http://x/ HTTP/1.1",
        ] {
            assert_eq!(parse_request_line(bad), Head::Malformed, "{bad:?}");
        }
    }
}
