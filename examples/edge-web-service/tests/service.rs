//! The service as a device runs it: a child process and real sockets on loopback.

#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Service {
    child: Child,
    address: String,
}

impl Service {
    /// Starts the service on a free port and waits for the line that says it listens.
    fn start(environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_edge-web-service"))
            .args(["--port", "0"])
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the service");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("read its first line");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set timeout");
        stream
    }

    /// Sends raw bytes and returns the whole answer.
    fn send(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).expect("send");
        read_all(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read the answer");
    String::from_utf8(answer).expect("text")
}

#[test]
fn shows_version_greeting_and_requests_served() {
    let service = Service::start(&[("APP_VERSION", "1.1.0"), ("GREETING", "Hi <all> & \"you\"")]);
    assert!(service.get("/version").ends_with("\r\n\r\n{\"version\":\"1.1.0\"}\n"));
    let page = service.get("/?from=test");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("<h1>Hi &lt;all&gt; &amp; &quot;you&quot;</h1>"), "{page}");
    assert!(page.contains("<dd>1.1.0</dd>"), "{page}");
    assert!(page.contains("<dt>Requests served</dt><dd>1</dd>"), "{page}");
}

#[test]
fn is_healthy_unless_the_named_variable_has_the_named_value() {
    let healthy = Service::start(&[("FAIL_HEALTH_WHEN", "LOCATION=store-1"), ("LOCATION", "store-2")]);
    let answer = healthy.get("/healthz");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"status\":\"healthy\""),
        "{answer}"
    );

    let failing = Service::start(&[("FAIL_HEALTH_WHEN", "LOCATION=store-1"), ("LOCATION", "store-1")]);
    let answer = failing.get("/healthz");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\"reason\":\"LOCATION is store-1\""), "{answer}");
    assert!(failing.get("/").starts_with("HTTP/1.1 200 OK\r\n"), "an unhealthy service still shows its page");
}

#[test]
fn becomes_unhealthy_after_a_while_when_told_so() {
    let service = Service::start(&[("UNHEALTHY_AFTER_MS", "0")]);
    assert!(service.get("/healthz").starts_with("HTTP/1.1 503 "));
}

#[test]
fn crashes_with_its_own_status_when_told_so() {
    let mut service = Service::start(&[("CRASH_AFTER_MS", "30")]);
    let status = service.child.wait().expect("wait for the end");
    assert_eq!(status.code(), Some(70));
}

#[test]
fn refuses_a_head_that_is_too_long() {
    let service = Service::start(&[]);
    let mut request = b"GET / HTTP/1.1\r\nX-Long: ".to_vec();
    request.resize(9 * 1024, b'a');
    assert!(service.send(&request).starts_with("HTTP/1.1 431 "));
}

#[test]
fn answers_malformed_requests_without_falling_over() {
    let service = Service::start(&[]);
    for request in
        [&b"\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n"]
    {
        assert!(service.send(request).starts_with("HTTP/1.1 400 "), "{request:?}");
    }
    assert!(service.send(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").starts_with("HTTP/1.1 405 "));
    assert!(service.get("/../../etc/passwd").starts_with("HTTP/1.1 404 "));
    let head = service.send(b"HEAD /version HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "HEAD has no body: {head}");
}

#[test]
fn a_client_that_dawdles_loses_its_place() {
    let service = Service::start(&[]);
    let begin = Instant::now();
    let mut slow = service.connect();
    slow.write_all(b"GET / HTTP/1.1\r\n").expect("send half a request");
    assert!(read_all(&mut slow).starts_with("HTTP/1.1 408 "));
    assert!(begin.elapsed() < Duration::from_secs(15), "cut off after {:?}", begin.elapsed());
}

#[test]
fn too_many_connections_are_refused_and_the_service_recovers() {
    let service = Service::start(&[]);
    let idle: Vec<TcpStream> = (0..32).map(|_| service.connect()).collect();
    let refused = service.get("/healthz");
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too many connections"), "{refused}");
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !service.get("/healthz").starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < deadline, "still refusing after the connections were closed");
        std::thread::yield_now();
    }
}

#[test]
fn an_unknown_argument_ends_it_with_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_edge-web-service")).arg("--prot").output().expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown argument \"--prot\""));
}
