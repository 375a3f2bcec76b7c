//! Sinks hand readings over to receivers on real sockets and into files, from where they were, whatever happens in between.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use farshore_gateway::{EdgeGateway, GatewayConfig};
use farshore_series::{Columns, DEFAULT_LEVEL, PointBatch, Value as Reading, encode_columns};
use farshore_store::test_util::TestDatabase;
use farshore_trust::sealed::IngestPublicKey;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::RowAccessor as _;
use serde_json::{Value, json};

use crate::alerts::{Receiver, Taken, any};
use crate::harness::{Fleet, TestDevice, each_engine, each_engine_with, eventually};
use crate::sync::{ask, at, put, sealed};

const S: i64 = 1_000_000_000;

/// A batch of one reading.
async fn send(device: &TestDevice, key: &IngestPublicKey, stream: &str, sequence: u64, value: f64) {
    let mut batch = PointBatch::new();
    let series = batch.series("temp", "value", [("room", "12")]).unwrap();
    batch.push(series, i64::try_from(sequence).unwrap() * S, Reading::Float(value)).unwrap();
    let contents = encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap();
    put(device, &at(stream, sequence), sealed(stream, sequence, &contents, Some(key))).await.expect(200);
}

async fn make(fleet: &Fleet, name: &str, spec: Value) -> Value {
    fleet.admin.post("/api/sinks", json!({"metadata": {"name": name}, "spec": spec})).await.expect(201).json()
}

/// The sink, once it is so.
async fn until(fleet: &Fleet, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("sink {name}"), || async {
        let sink: Value = fleet.admin.get(&format!("/api/sinks/{name}")).await.expect(200).json();
        holds(&sink["status"]).then_some(sink)
    })
    .await
}

/// All values that a webhook took, by stream, in the order in which they came.
fn values(taken: &[Taken]) -> BTreeMap<String, Vec<f64>> {
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for message in taken.iter().map(Taken::json) {
        let stream = message["data"]["stream"].as_str().unwrap().to_owned();
        for series in message["data"]["series"].as_array().unwrap() {
            let all = series["values"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap());
            values.entry(stream.clone()).or_default().extend(all);
        }
    }
    values
}

fn holds(taken: &Taken, value: f64) -> bool {
    values(std::slice::from_ref(taken)).values().flatten().any(|one| *one == value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_gets_each_stream_in_order_and_a_batch_that_it_refuses_holds_nobody_up() {
    each_engine_with(any, async |fleet| {
        let receiver = Receiver::start_with(|_, taken| if holds(taken, 666.0) { 422 } else { 204 }).await;
        let gateway = fleet.device("gw").await;
        let (_, key) = ask(&gateway).await;
        send(&gateway, &key, "data/a", 1, 0.5).await;
        let made = make(fleet, "plant", json!({"type": "webhook", "webhook": {"url": receiver.url}})).await;
        let secret = made["status"]["secret"].as_str().unwrap().to_owned();
        // The second one of this stream can't be taken; what is no data does not go.
        for (sequence, value) in [(2, 1.0), (3, 666.0), (4, 2.0)] {
            send(&gateway, &key, "data/a", sequence, value).await;
        }
        for (sequence, value) in [(1, 10.0), (2, 11.0)] {
            send(&gateway, &key, "data/b", sequence, value).await;
            send(&gateway, &key, "journal/clock", sequence, value).await;
        }
        let sink =
            until(fleet, "plant", |status| status["skippedBatches"] == 1 && status["deliveredBatches"] == 4)
                .await;
        assert_eq!(
            (&sink["status"]["waitingBatches"], &sink["status"]["state"]),
            (&json!(0), &json!("running"))
        );
        let taken: Vec<Taken> = receiver.taken().into_iter().filter(|taken| !holds(taken, 666.0)).collect();
        let ids: Vec<String> = taken.iter().map(|taken| taken.check(&secret)).collect();
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
        let came = values(&taken);
        // It began when it was made, with what came after.
        assert_eq!(came["data/a"], [1.0, 2.0]);
        assert_eq!(came["data/b"], [10.0, 11.0]);
        assert_eq!(came.len(), 2);
        let first = taken[0].json();
        assert_eq!(first["type"], "points");
        assert_eq!(first["data"]["deviceName"], gateway.name().as_str());
        let told = eventually("the event", || async {
            let events: Value =
                fleet.admin.get("/api/events?kind=sink.batch-skipped").await.expect(200).json();
            events["items"].as_array().unwrap().first().cloned()
        })
        .await;
        assert_eq!(told["subject"]["name"], "plant");
        assert_eq!(told["payload"]["batch"], 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_goes_on_where_it_was_after_its_receiver_and_the_control_plane_were_away() {
    for database in TestDatabase::each().await {
        let mut fleet = Fleet::start(database, &any).await;
        // Away at first, and for a moment later on.
        let receiver =
            Receiver::start_with(|before, _| if matches!(before, 0 | 1 | 4) { 503 } else { 200 }).await;
        let mut gateway = fleet.device("gw").await;
        let (_, key) = ask(&gateway).await;
        for sequence in 1..=5_u32 {
            send(&gateway, &key, "data/a", sequence.into(), f64::from(sequence)).await;
        }
        make(
            &fleet,
            "all",
            json!({"type": "webhook", "start": "earliest", "webhook": {"url": receiver.url}}),
        )
        .await;
        receiver.wait(1).await;
        let sink = until(&fleet, "all", |status| status["state"] == "failing").await;
        assert_eq!(sink["status"]["lastError"], "the receiver answered 503 Service Unavailable");
        assert!(sink["status"]["nextAt"].is_i64());
        fleet = fleet.restart().await;
        until(&fleet, "all", |status| status["deliveredBatches"] == 5 && status["state"] == "running").await;
        gateway.url.clone_from(&fleet.running.device_url);
        for sequence in 6..=9_u32 {
            send(&gateway, &key, "data/a", sequence.into(), f64::from(sequence)).await;
        }
        until(&fleet, "all", |status| status["deliveredBatches"] == 9).await;
        // Every batch, in order; what came again says so by its numbers.
        let mut next = 1;
        for (_, message) in
            receiver.taken().iter().enumerate().filter(|(number, _)| !matches!(number, 0 | 1 | 4))
        {
            let first = message.json()["data"]["batches"][0].as_i64().unwrap();
            for (batch, value) in (first..).zip(&values(std::slice::from_ref(message))["data/a"]) {
                #[expect(clippy::cast_precision_loss, reason = "nine batches")]
                let expected = batch as f64;
                assert_eq!(*value, expected);
                assert!(batch <= next, "{batch} came before {next}");
                next = next.max(batch + 1);
            }
        }
        assert_eq!(next, 10);
        fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_metrics_are_taken_by_a_real_receiver() {
    each_engine_with(any, async |fleet| {
        // Our own gateway is a receiver of OTLP.
        let folder = tempfile::tempdir().unwrap();
        let mut config = GatewayConfig::new("collector", folder.path().join("journal"));
        config.http = Some("127.0.0.1:0".parse().unwrap());
        config.mqtt = None;
        let collector = EdgeGateway::new(config).unwrap();
        collector.start().await.unwrap();
        let address = collector.addresses().await.unwrap().http.unwrap();

        let gateway = fleet.device("gw").await;
        let (_, key) = ask(&gateway).await;
        for sequence in 1..=3_u32 {
            send(&gateway, &key, "data/a", sequence.into(), f64::from(sequence) + 0.5).await;
        }
        let spec = json!({"type": "otlp", "start": "earliest", "otlp": {"url": format!("http://{address}"), "authorization": "Bearer geheim"}});
        let made = make(fleet, "metrics", spec).await;
        assert_eq!(made["status"]["secretSet"], true);
        assert!(!made.to_string().contains("geheim"));
        let sink = until(fleet, "metrics", |status| status["deliveredBatches"] == 3).await;
        assert_eq!(sink["status"]["deliveredPoints"], 3);
        let page = reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap();
        assert!(page.contains("temp") && page.contains("3.5"), "{page}");
        assert!(page.contains("host.name=") && page.contains("room=12"), "{page}");
        let status = collector.get_status().await.unwrap();
        assert_eq!(status.pending_sync_count, 3);
        collector.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_sent_before_it_was_decommissioned_is_handed_on() {
    each_engine(async |fleet| {
        let gateway = fleet.device("gw").await;
        let (_, key) = ask(&gateway).await;
        send(&gateway, &key, "data/a", 1, 1.5).await;
        fleet.admin.delete(&format!("/api/devices/{}", gateway.name())).await;
        let listed: Value = fleet.admin.get("/api/sync").await.expect(200).json();
        assert_eq!(listed["items"], json!([]), "it is one no more");
        let spec =
            json!({"type": "parquet", "start": "earliest", "parquet": {"everySeconds": 1, "keepDays": 3650}});
        make(fleet, "lake", spec).await;
        until(fleet, "lake", |status| status["deliveredBatches"] == 1 && status["waitingBatches"] == 0).await;
    })
    .await;
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_files_lie_by_tenant_and_hour_and_hold_every_reading() {
    each_engine(async |fleet| {
        let gateway = fleet.device("gw").await;
        let (_, key) = ask(&gateway).await;
        send(&gateway, &key, "data/a", 1, 1.5).await;
        send(&gateway, &key, "data/b", 3_700, 2.5).await;
        let spec =
            json!({"type": "parquet", "start": "earliest", "parquet": {"everySeconds": 1, "keepDays": 3650}});
        // Readings of 1970 are older than any file is kept: they are passed over.
        let made = make(fleet, "lake", spec).await;
        let folder = fleet.app.settings().data.folder.join(made["status"]["folder"].as_str().unwrap());
        let sink = until(fleet, "lake", |status| status["deliveredBatches"] == 2).await;
        assert_eq!(sink["status"]["deliveredPoints"], 0);
        assert_eq!(files(&folder), [] as [PathBuf; 0]);

        let hour = crate::wire::now().0.div_euclid(3_600_000) * 3_600_000;
        let at_ns = |n: i64| hour * 1_000_000 + n;
        let mut batch = PointBatch::new();
        let series = batch.series("temp", "value", [("room", "12")]).unwrap();
        for n in 0..1_000 {
            batch.push(series, at_ns(n), Reading::Integer(n)).unwrap();
        }
        batch.push(series, at_ns(-1), Reading::Text("on".into())).unwrap();
        let contents = encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap();
        put(&gateway, &at("data/a", 2), sealed("data/a", 2, &contents, Some(&key))).await.expect(200);
        until(fleet, "lake", |status| status["deliveredPoints"] == 1_001).await;
        let files = files(&folder);
        assert_eq!(files.len(), 2, "an hour each: {files:?}");
        let (mut integers, mut texts) = (Vec::new(), Vec::new());
        for file in &files {
            let bytes = std::fs::read(file).unwrap();
            assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
            let reader = SerializedFileReader::new(std::fs::File::open(file).unwrap()).unwrap();
            for row in reader.get_row_iter(None).unwrap() {
                let row = row.unwrap();
                assert_eq!(row.get_string(1).unwrap(), &gateway.uid());
                assert_eq!(row.get_string(4).unwrap(), "data/a");
                assert_eq!(row.get_string(7).unwrap(), r#"{"room":"12"}"#);
                match row.get_long(9) {
                    Ok(integer) => integers.push(integer),
                    Err(_) => texts.push(row.get_string(10).unwrap().clone()),
                }
            }
        }
        assert_eq!(integers, (0..1_000).collect::<Vec<_>>());
        assert_eq!(texts, ["on"]);
        fleet.admin.delete("/api/sinks/lake").await.expect(204);
        fleet.admin.get("/api/sinks/lake").await.problem(404, "not-found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_sinks_are_refused_by_field_and_secrets_are_never_shown() {
    each_engine(async |fleet| {
        let hook = "https://example.com/hook";
        for (spec, field) in [
            (json!({"type": "webhook"}), "spec.webhook"),
            (json!({"type": "kafka"}), "spec.type"),
            (json!({"type": "webhook", "webhook": {"url": "http://127.0.0.1/"}}), "spec.webhook.url"),
            (json!({"type": "otlp", "otlp": {"url": "http://169.254.169.254/"}}), "spec.otlp.url"),
            (json!({"type": "otlp", "otlp": {"url": hook, "authorization": "a\nb"}}), "spec.otlp.authorization"),
            (json!({"type": "webhook", "webhook": {"url": hook, "secret": "short"}}), "spec.webhook.secret"),
            (json!({"type": "webhook", "webhook": {"url": hook}, "parquet": {}}), "spec.parquet"),
            (json!({"type": "parquet", "parquet": {"everySeconds": 0}}), "spec.parquet.everySeconds"),
            (json!({"type": "parquet", "parquet": {"keepDays": 0}}), "spec.parquet.keepDays"),
            (json!({"type": "parquet", "parquet": {}, "streams": [""]}), "spec.streams"),
            (json!({"type": "parquet", "parquet": {}, "start": "noon"}), "spec.start"),
        ] {
            let body = json!({"metadata": {"name": "s"}, "spec": spec});
            let problem = fleet.admin.post("/api/sinks", body).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{spec}");
        }
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let spec = |url: &str| json!({"type": "webhook", "enabled": false, "webhook": {"url": url, "secret": secret}});
        let made = make(fleet, "s", spec(hook)).await;
        assert_eq!((&made["status"]["state"], &made["status"]["secretSet"]), (&json!("disabled"), &json!(true)));
        let kept = json!({"metadata": {"name": "s"}, "spec": {"type": "webhook", "enabled": false, "webhook": {"url": "https://example.com/other"}}});
        fleet.admin.put("/api/sinks/s", kept).await.expect(200);
        let away = json!({"metadata": {"name": "s"}, "spec": {"type": "webhook", "webhook": {"url": "https://other.example.com/"}}});
        let problem = fleet.admin.put("/api/sinks/s", away).await.problem(400, "invalid");
        assert_eq!(problem.errors[0].field, "spec.webhook.secret");
        for path in ["/api/sinks", "/api/sinks/s", "/api/events"] {
            let text = fleet.admin.get(path).await.expect(200).text();
            assert!(!text.contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") && !text.contains("sealed"), "{path}");
        }
        fleet.tenant("other").await;
        fleet.admin.in_tenant("other").get("/api/sinks/s").await.problem(404, "not-found");
        let viewer = fleet.role("viewer").await;
        viewer.get("/api/sinks").await.expect(200);
        viewer.delete("/api/sinks/s").await.problem(403, "forbidden");
    })
    .await;
}
