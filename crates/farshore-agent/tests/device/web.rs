//! A web service for the tests of slots: answers each request with its version and slot; how its health check answers is its first argument.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn main() {
    let variable = |name: &str| std::env::var(name).expect("a variable is missing");
    let nature = std::env::args().nth(1).expect("it says how it behaves");
    let listener = TcpListener::bind(format!("127.0.0.1:{}", variable("PORT"))).expect("its port is free");
    let begun = Instant::now();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        let Ok(count) = stream.read(&mut request) else { continue };
        let healthy = match nature.as_str() {
            "good" => true,
            "sick" => begun.elapsed() < Duration::from_secs(4),
            _ => false,
        };
        let status = if request[..count].starts_with(b"GET /healthz") && !healthy { 503 } else { 200 };
        let body = format!("{} {}", variable("FARSHORE_VERSION"), variable("FARSHORE_SLOT"));
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        // Whoever asked may have gone.
        let _ = stream.write_all(answer.as_bytes());
    }
}
