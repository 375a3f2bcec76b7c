use std::io::Write as _;

use farshore_gateway::limits::MAX_VALUES;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Site, points_in, token};

#[tokio::test]
async fn line_protocol_has_influxdbs_answers() {
    let site = Site::new().await;
    let write = "/api/v2/write?org=o&bucket=Plant&precision=s";
    let answer = site
        .send("POST", write, &[], b"temp,room=a value=21.5 1700000000\ntemp,room=b value=20 1700000000")
        .await;
    assert_eq!((answer.status, answer.body.as_slice()), (204, &b""[..]));
    let answer = site.send("POST", write, &[], b"temp value=1\nbroken").await;
    let body = answer.json();
    assert_eq!((answer.status, &body["code"]), (400, &json!("invalid")));
    assert!(body["message"].as_str().expect("text").contains("1 taken, 1 left out: 2: "), "{body}");
    assert_eq!(site.pending().await, 3);
    assert_eq!(site.send("POST", "/api/v2/write?precision=week", &[], b"a b=1").await.status, 400);
    assert_eq!(site.send("POST", "/api/v2/write?bucket=../x", &[], b"a b=1").await.status, 404);
    assert_eq!(site.send("GET", write, &[], b"").await.status, 405);
    assert_eq!(site.send("POST", "/elsewhere", &[], b"").await.status, 404);
    // As InfluxDB 1 has it.
    assert_eq!(site.send("POST", "/write?db=old&precision=n", &[], b"a b=1 5").await.status, 204);
    let streams = site.gateway.get_status().await.expect("running").streams;
    let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(names, ["data/old", "data/plant"]);
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_journal_after_a_stop() {
    let site = Site::new().await;
    let answer = site
        .send("POST", "/api/data", &[], br#"[{"sensor_id":"a","value":1},{"sensor_id":"b","value":2}]"#)
        .await;
    assert_eq!((answer.status, answer.json()), (200, json!({"accepted": 2, "rejected": 0, "errors": []})));
    let answer = site.send("POST", "/api/data", &[], b"{\"sensor_id\":\"a\",\"value\":1}\n{}").await;
    assert_eq!((answer.status, answer.json()["accepted"].clone()), (400, json!(1)));
    site.gateway.stop().await;
    assert_eq!(points_in(&site.journal_folder()), 3);
}

#[tokio::test]
async fn packed_bodies_and_bombs() {
    let site = Site::new().await;
    let lines = "m f=1\n".repeat(10);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let zstd = zstd::encode_all(lines.as_bytes(), 3).expect("memory");
    assert_eq!(site.send("POST", "/api/v2/write", &[("content-encoding", "gzip")], &gzip).await.status, 204);
    assert_eq!(site.send("POST", "/api/v2/write", &[("content-encoding", "zstd")], &zstd).await.status, 204);
    assert_eq!(site.pending().await, 20);
    let bomb = zstd::encode_all(vec![b'\n'; 64 << 20].as_slice(), 1).expect("memory");
    assert_eq!(site.send("POST", "/api/v2/write", &[("content-encoding", "zstd")], &bomb).await.status, 413);
    assert_eq!(
        site.send("POST", "/api/v2/write", &[("content-encoding", "gzip")], b"no gzip").await.status,
        400
    );
    assert_eq!(site.send("POST", "/api/v2/write", &[("content-encoding", "br")], b"x").await.status, 415);
    assert_eq!(site.send("POST", "/api/v2/write", &[], &vec![b'x'; 17 << 20]).await.status, 413);
    assert_eq!(site.pending().await, 20);
}

#[tokio::test]
async fn a_body_with_more_values_than_fit_is_refused_as_a_whole() {
    let site = Site::new().await;
    let lines = |values: usize| "a f=t\n".repeat(values);
    let answer = site.send("POST", "/api/v2/write", &[], lines(MAX_VALUES + 1).as_bytes()).await;
    assert!(answer.status == 413 && answer.text().contains("500000 values"), "{answer:?}");
    assert_eq!(site.pending().await, 0);
    let answer = site.send("POST", "/api/v2/write", &[], lines(MAX_VALUES).as_bytes()).await;
    assert_eq!((answer.status, site.pending().await), (204, MAX_VALUES as u64));
}

#[tokio::test]
async fn clients_that_announce_bodies_and_send_nothing_hold_up_nobody() {
    let site = Site::new().await;
    let at = site.at.http.expect("HTTP");
    let mut silent = Vec::new();
    for head in
        ["transfer-encoding: chunked", "transfer-encoding: chunked", "content-length: 16000000"].repeat(4)
    {
        let mut stream = TcpStream::connect(at).await.expect("connected");
        let request = format!("POST /api/data HTTP/1.1\r\nhost: {at}\r\n{head}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        silent.push(stream);
    }
    // Each of them has been heard when others are answered on connections that were made later.
    for _ in 0..3 {
        let mut stream = TcpStream::connect(at).await.expect("connected");
        let body = "{\"sensor_id\":\"a\",\"value\":1}";
        let request = format!(
            "POST /api/data HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            &body[..5],
            body.len() - 5,
            &body[5..]
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(site.pending().await, 3);
}

#[tokio::test]
async fn a_request_with_the_same_key_is_taken_once() {
    let site = Site::new().await;
    let key = [("idempotency-key", "batch-1")];
    for _ in 0..3 {
        let answer = site.send("POST", "/api/data", &key, br#"{"sensor_id":"a","value":1}"#).await;
        assert_eq!((answer.status, answer.json()["accepted"].clone()), (200, json!(1)));
    }
    assert_eq!(site.pending().await, 1);
    assert_eq!(site.metric("edge_gateway_duplicates_dropped_total{protocol=\"http\"}").await, "2");
    let other = site.send("POST", "/api/data", &key, br#"{"sensor_id":"a","value":2}"#).await;
    assert_eq!(other.status, 422);
    // The same body means something else at another address, in another precision or form.
    let lines = [("idempotency-key", "batch-2")];
    assert_eq!(site.send("POST", "/api/v2/write?precision=s", &lines, b"m f=1 5").await.status, 204);
    for path in ["/api/v2/write?precision=ms", "/api/v2/write", "/api/data"] {
        assert_eq!(site.send("POST", path, &lines, b"m f=1 5").await.status, 422, "{path}");
    }
    let packed = [("idempotency-key", "batch-2"), ("content-encoding", "gzip")];
    assert_eq!(site.send("POST", "/api/v2/write?precision=s", &packed, b"m f=1 5").await.status, 422);
    assert_eq!(site.pending().await, 2);
    assert_eq!(site.send("POST", "/api/data", &[("idempotency-key", "")], b"{}").await.status, 400);
}

#[tokio::test]
async fn a_key_outlives_a_restart() {
    let mut site = Site::new().await;
    let key = [("idempotency-key", "batch-1")];
    let body = br#"{"sensor_id":"a","value":1}"#;
    let first = site.send("POST", "/api/data", &key, body).await;
    site.gateway.stop().await;
    site.gateway.start().await.expect("again");
    site.at = site.gateway.addresses().await.expect("running");
    let again = site.send("POST", "/api/data", &key, body).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    assert_eq!(site.pending().await, 1);
    assert_eq!(site.send("POST", "/api/data", &key, br#"{"sensor_id":"a","value":2}"#).await.status, 422);
}

#[tokio::test]
async fn otlp_answers_in_the_form_of_the_request() {
    let site = Site::new().await;
    let body = br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","gauge":{"dataPoints":[{"asDouble":1.5},{"asDouble":"NaN"}]}}]}]}]}"#;
    let answer = site.send("POST", "/v1/metrics", &[("content-type", "application/json")], body).await;
    assert_eq!(
        (answer.status, answer.json()["partialSuccess"]["rejectedDataPoints"].clone()),
        (200, json!("1"))
    );
    let answer = site.send("POST", "/v1/metrics", &[("content-type", "application/x-protobuf")], b"").await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let answer = site.send("POST", "/v1/metrics", &[("content-type", "application/x-protobuf")], b"{}").await;
    assert!(answer.status == 400 && answer.head.contains("application/x-protobuf"), "{answer:?}");
    assert_eq!(site.send("POST", "/v1/metrics", &[("content-type", "text/plain")], b"").await.status, 415);
    assert_eq!(site.pending().await, 1);
    // Also what the journal says.
    let full = Site::with(|config| {
        config.max_queue_points = Some(1);
        config.cleanup = farshore_gateway::config::CleanupStrategy::Reject;
    })
    .await;
    let json = [("content-type", "application/json")];
    assert_eq!(full.send("POST", "/v1/metrics", &json, body).await.status, 200);
    let answer = full.send("POST", "/v1/metrics", &json, body).await;
    assert!(answer.status == 503 && answer.head.contains("retry-after: 30"), "{answer:?}");
    let members = answer.json();
    let members: Vec<&String> = members.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["message"]);
    let key = [("content-type", "application/x-protobuf"), ("idempotency-key", "")];
    let answer = site.send("POST", "/v1/metrics", &key, b"").await;
    assert!(answer.status == 400 && answer.head.contains("application/x-protobuf"), "{answer:?}");
}

#[tokio::test]
async fn health_has_the_documented_fields_and_no_others() {
    let site = Site::new().await;
    site.send("POST", "/api/data", &[], br#"{"sensor_id":"a","value":1}"#).await;
    let answer = site.send("GET", "/health", &[], b"").await;
    let health = answer.json();
    let fields: Vec<&str> = health.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut documented = [
        "status",
        "device_id",
        "is_online",
        "pending_sync_count",
        "last_sync",
        "uptime_seconds",
        "local_storage_mb",
        "cpu_percent",
        "memory_mb",
    ];
    documented.sort_unstable();
    assert_eq!(fields, documented);
    assert_eq!((&health["status"], &health["pending_sync_count"]), (&json!("healthy"), &json!(1)));
    assert!(health["memory_mb"].as_f64().expect("a number") > 1.0);
    let ready = site.send("GET", "/ready", &[], b"").await;
    assert_eq!((ready.status, &ready.json()["journal"]), (200, &json!("writable")));
    assert_eq!(ready.json()["listeners"], json!({"http": true, "mqtt": true}));
    assert_eq!(site.metric("edge_gateway_data_points_total").await, "1");
    assert_eq!(site.metric("edge_gateway_queue_size").await, "1");
    assert_eq!(site.metric("edge_gateway_future_times_total").await, "0");
    for path in ["/health", "/ready", "/metrics", "/ping", "/", "/api/status", "/documents"] {
        let answer = site.send("HEAD", path, &[], b"").await;
        assert!(matches!(answer.status, 200 | 204) && answer.body.is_empty(), "{path}: {answer:?}");
    }
    let answer = site.send("HEAD", "/api/data", &[], b"").await;
    assert!(answer.status == 405 && answer.head.contains("allow: post"), "{answer:?}");
}

#[tokio::test]
async fn the_page_shows_what_came_and_trusts_nobody() {
    let site = Site::new().await;
    let empty = site.send("GET", "/", &[], b"").await;
    assert!(empty.status == 200 && empty.text().contains("No reading came in yet"));
    site.send("POST", "/api/data", &[], br#"{"sensor_id":"<script>alert(1)</script>","value":23.5}"#).await;
    let page = site.send("GET", "/", &[], b"").await;
    assert!(page.head.contains("default-src 'none'"));
    let text = page.text();
    assert!(text.contains("23.5") && text.contains("&lt;script&gt;") && !text.contains("<script>"));
}

#[tokio::test]
async fn with_credentials_only_supervision_is_open() {
    let site = Site::with(|config| config.credentials = token("secret")).await;
    let body = br#"{"sensor_id":"a","value":1}"#;
    let answer = site.send("POST", "/api/data", &[], body).await;
    assert!(answer.status == 401 && answer.head.contains("www-authenticate: basic"), "{answer:?}");
    assert_eq!(site.send("POST", "/api/data", &[("authorization", "Bearer wrong")], body).await.status, 401);
    assert_eq!(site.send("GET", "/", &[], b"").await.status, 401);
    assert_eq!(site.send("POST", "/api/data", &[("authorization", "Token secret")], body).await.status, 200);
    for open in ["/health", "/ready", "/metrics"] {
        assert_eq!(site.send("GET", open, &[], b"").await.status, 200, "{open}");
    }
    // Without credentials a web page must not reach what listens on loopback.
    let open = Site::new().await;
    let evil = ("origin", "https://evil.example");
    assert_eq!(open.send("POST", "/api/data", &[evil], body).await.status, 403);
    // With them neither: browsers send along what they know.
    let known = ("authorization", "Token secret");
    for path in ["/api/data", "/api/sync"] {
        assert_eq!(site.send("POST", path, &[evil, known], body).await.status, 403, "{path}");
    }
    let own = format!("http://{}", site.at.http.expect("HTTP"));
    assert_eq!(site.send("POST", "/api/data", &[("origin", &own), known], body).await.status, 200);
    assert_eq!(site.pending().await, 2);
}
