//! How much memory foreign bytes may cost. Each of these tests wants a process of its own, as nextest gives it.

use std::io::Write as _;

use farshore_domain::digest::Digest;
use farshore_gateway::decode::otlp;
use farshore_gateway::limits::MAX_VALUES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Site, send};

/// Most bytes that this process held since [`forget_peak`].
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<usize>().ok()).expect("a number") * 1024
}

/// From now on the peak is that of what comes. Says what is held now.
fn forget_peak() -> usize {
    std::fs::write("/proc/self/clear_refs", "5").expect("this process");
    peak()
}

const MB: usize = 1024 * 1024;

#[test]
fn an_array_of_many_small_elements_costs_no_memory() {
    let of = |element: &str, bytes: usize| {
        let elements = vec![element; bytes / (element.len() + 1)].join(",");
        format!("{{\"resourceMetrics\":[{elements}]}}").into_bytes()
    };
    // Numbers where messages belong are no request; empty messages are one.
    let (numbers, messages) = (of("1", 4 * MB), of("{}", 4 * MB));
    let points = |body: &[u8]| otlp::decode_json(body, &mut |_| Ok(()));
    let before = forget_peak();
    assert!(points(&numbers).is_err());
    assert_eq!(points(&messages).expect("readable").accepted, 0);
    let grown = peak() - before;
    assert!(grown < 4 * MB, "{} KB", grown / 1024);
}

/// Sends the same body several times at once.
async fn at_once(
    site: &Site,
    times: usize,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<Answer> {
    let at = site.at.http.expect("HTTP");
    let sent = (0..times).map(|_| send(at, "POST", path, headers, body));
    futures_util::future::join_all(sent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn small_packed_bodies_that_become_large_take_turns() {
    let site = Site::new().await;
    // As well packed as is allowed, thanks to a part that can't be packed.
    let noise: String = (0_u32..1000).map(|n| Digest::of(&n.to_le_bytes()).hex()).collect();
    let body = format!("{{\"x\":\"{noise}\",\"resourceMetrics\":[1{}]}}", ",1".repeat(4 * MB));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body.as_bytes()).expect("memory");
    let (packed, plain) = (gzip.finish().expect("memory"), body.len());
    drop(body);
    assert!(packed.len() < 100 * 1024 && plain > 8 * MB, "{}", packed.len());
    let before = forget_peak();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    for answer in at_once(&site, 10, "/v1/metrics", &headers, &packed).await {
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let grown = peak() - before;
    assert!(grown < 75 * MB, "{} MB", grown / MB);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_of_tiny_points_take_turns() {
    let site = Site::new().await;
    // One value too many: all of them are read, and nothing is left of them.
    let body = "a f=t\n".repeat(MAX_VALUES + 1);
    let before = forget_peak();
    for answer in at_once(&site, 8, "/api/v2/write", &[], body.as_bytes()).await {
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    let grown = peak() - before;
    assert!(grown < 110 * MB, "{} MB", grown / MB);
}

#[tokio::test]
async fn clients_that_have_not_said_who_they_are_cost_little() {
    let site = Site::new().await;
    let mut connect = b"\x10\xff\xff\x3f\x00\x04MQTT\x04\x04\x00\x3c\x00\x01c\x00\x01w\xff\xff".to_vec();
    connect.resize(MB, b'x');
    let before = forget_peak();
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(site.at.mqtt.expect("MQTT")).await.expect("connected");
        // Cut off before all of it is sent.
        let sent = stream.write_all(&connect).await;
        let mut answer = Vec::new();
        let left = sent.is_err() || stream.read_to_end(&mut answer).await.is_err() || answer.is_empty();
        assert!(left, "{answer:?}");
        clients.push(stream);
    }
    let grown = peak() - before;
    assert!(grown < 20 * MB, "{} MB", grown / MB);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_of_many_clients_wait_for_each_other() {
    let site = Site::new().await;
    let at = site.at.mqtt.expect("MQTT");
    // Longer than a value may be: it is acknowledged, and nothing is kept of it.
    let mut message = b"\x32\xfb\xff\x3f\x00\x01t\x00\x01\"".to_vec();
    message.resize(MB - 2, b'x');
    message.push(b'"');
    let before = forget_peak();
    let clients = (0_u8..120).map(|client| {
        let message = &message;
        async move {
            let mut stream = TcpStream::connect(at).await.expect("connected");
            stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01").await.expect("sent");
            stream.write_all(&[client + 1]).await.expect("sent");
            stream.write_all(message).await.expect("sent");
            let mut answers = [0; 8];
            stream.read_exact(&mut answers).await.expect("answers");
            assert_eq!(&answers, b"\x20\x02\x00\x00\x40\x02\x00\x01");
            stream
        }
    });
    let clients = futures_util::future::join_all(clients).await;
    let grown = peak() - before;
    assert!(grown < 50 * MB, "{} MB", grown / MB);
    assert_eq!(site.metric("edge_gateway_points_rejected_total").await, "120");
    drop(clients);
}
