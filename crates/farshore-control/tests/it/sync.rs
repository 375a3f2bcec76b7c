//! Gateways ask and send on the device port; people see what came of it.

use axum::http::Method;
use farshore_api::series::SeriesRange;
use farshore_api::sync::{GatewaySync, SyncAnswer};
use farshore_domain::time::UnixMs;
use farshore_series::{Columns, DEFAULT_LEVEL, PointBatch, Value as Reading, encode_columns};
use farshore_store::Driver;
use farshore_store::sync::{NewBatch, NewLatest};
use farshore_trust::sealed::{BatchHeader, DataKey, DeviceKey, IngestKey, IngestPublicKey, seal};
use serde_json::{Value, json};

use crate::harness::{Answer, Fleet, TestDevice, each_engine};

pub(crate) const EPOCH: u64 = 0x00ab_cdef_0000_0007;
const S: i64 = 1_000_000_000;

/// Readings of one room, a second apart.
fn points(from_s: i64, values: &[f64]) -> Vec<u8> {
    let mut batch = PointBatch::new();
    let series = batch.series("temp", "value", [("room", "12")]).unwrap();
    for (second, value) in (from_s..).zip(values) {
        batch.push(series, second * S, Reading::Float(*value)).unwrap();
    }
    encode_columns(&Columns::of(&batch), DEFAULT_LEVEL).unwrap()
}

pub(crate) fn sealed(stream: &str, sequence: u64, contents: &[u8], key: Option<&IngestPublicKey>) -> Vec<u8> {
    let data = DataKey::generate().unwrap();
    let header = BatchHeader {
        class: 2,
        thinned: false,
        epoch: EPOCH,
        sequence,
        points: 1,
        earliest_ns: 0,
        latest_ns: 0,
        boot: [1; 16],
        sealed_wall_ns: 0,
        sealed_mono_ns: 0,
        stream: stream.to_owned(),
        for_device: data.wrap_for_device(&DeviceKey::generate().unwrap()).unwrap(),
        for_ingest: key.map(|key| (key.id(), data.wrap_for_ingest(key).unwrap())),
    };
    seal(&header, &data, contents).unwrap()
}

pub(crate) async fn ask(device: &TestDevice) -> (SyncAnswer, IngestPublicKey) {
    let report = json!({"backlogPoints": 5, "oldestUnsentAt": 1_000, "drainSeconds": 9, "laterMember": {},
        "streams": [{"name": "data/a", "class": "telemetry", "backlogPoints": 5}, {"name": "../x", "class": "log"}]});
    let body = json!({"epoch": format!("{EPOCH:016x}"), "report": report});
    let answer: SyncAnswer = device.post("/api/device/sync", body).await.expect(200).json();
    let mut key = [0; 32];
    hex_to(&answer.ingest_key.public_key, &mut key);
    (answer, IngestPublicKey::from_bytes(key))
}

fn hex_to(text: &str, bytes: &mut [u8]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap();
    }
}

pub(crate) async fn put(device: &TestDevice, path: &str, body: Vec<u8>) -> Answer {
    let path = format!("/api/device/batches/{path}");
    Answer::of(
        device.request(Method::PUT, &path).header("content-type", "application/octet-stream").body(body),
    )
    .await
}

pub(crate) fn at(stream: &str, sequence: u64) -> String {
    format!("{}/{EPOCH:016x}/{sequence}?floor=1", stream.replace('/', "+"))
}

async fn range(fleet: &Fleet, query: &str) -> SeriesRange {
    fleet.admin.get(&format!("/api/series?{query}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_stored_once_and_its_points_can_be_read() {
    each_engine(async |fleet| {
        fleet.tenant("other").await;
        let device = fleet.device("gw").await;
        let (answer, key) = ask(&device).await;
        assert_eq!(answer.streams, []);
        assert_eq!(ask(&device).await.1, key, "a tenant has one key");
        let foreign = fleet.device_in("other", "gw").await;
        assert_ne!(ask(&foreign).await.1, key, "and not another tenant's");

        let bytes = sealed("data/a", 3, &points(100, &[1.0, 2.0, 6.0]), Some(&key));
        for stored in [true, false, false] {
            let taken: Value = put(&device, &at("data/a", 3), bytes.clone()).await.expect(200).json();
            assert_eq!(taken["stored"], stored);
        }
        let more = sealed("data/a", 1, &points(110, &[11.0]), Some(&key));
        put(&device, &at("data/a", 1), more).await.expect(200);
        let (answer, _) = ask(&device).await;
        assert_eq!(
            serde_json::to_value(&answer.streams).unwrap(),
            json!([{"stream": "data/a", "floor": 2, "above": [[3, 3]]}])
        );

        for (aggregate, value) in
            [("count", 3.0), ("sum", 9.0), ("mean", 3.0), ("min", 1.0), ("max", 6.0), ("last", 6.0)]
        {
            let range =
                range(fleet, &format!("from=0&to=200000&step=110000&aggregate={aggregate}&tags=room%3D12"))
                    .await;
            assert_eq!(
                (range.items.len(), range.items[0].at.as_slice()),
                (1, &[0, 110_000][..]),
                "{aggregate}"
            );
            assert_eq!(range.items[0].values[0], Some(value), "{aggregate}");
            assert_eq!(range.items[0].device_name.as_ref(), Some(device.name()));
        }
        for nothing in [
            "from=0&to=99999",
            "from=0&to=200000&tags=room%3D13",
            "from=0&to=200000&measurement=x",
            "from=0&to=200000&location=Riga",
        ] {
            assert_eq!(range(fleet, nothing).await.items, [], "{nothing}");
        }
        assert_eq!(
            range(fleet, &format!("from=0&to=200000&by=device&device={}", device.name())).await.items.len(),
            1
        );
        let latest: Value = fleet.admin.get("/api/series/latest?measurement=temp").await.expect(200).json();
        assert_eq!(
            (&latest["items"][0]["value"], &latest["items"][0]["at"]),
            (&json!(11.0), &json!(110_000))
        );
        assert_eq!(latest["items"][0]["name"], "temp{room=12} value");

        let list: Value = fleet.admin.get("/api/sync").await.expect(200).json();
        let gateway: GatewaySync = serde_json::from_value(list["items"][0].clone()).unwrap();
        assert_eq!((gateway.received_points, gateway.received_batches, gateway.refused_batches), (4, 2, 0));
        assert_eq!((gateway.report.backlog_points, gateway.report.drain_seconds), (5, Some(9)));
        assert_eq!(gateway.report.streams.len(), 1, "what names no stream is left out");
        assert_eq!(gateway.newest_at.map(|at| at.0), Some(110_000));

        // Another tenant sees and reads none of it.
        let other = fleet.admin.in_tenant("other");
        let text = other.get("/api/series/latest").await.expect(200).text()
            + &other.get("/api/series?from=0&to=200000").await.expect(200).text();
        assert!(!text.contains("temp"), "{text}");
        put(&foreign, &at("data/a", 9), sealed("data/a", 9, &points(1, &[1.0]), Some(&key)))
            .await
            .problem(409, "other-key");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_can_never_be_read_is_refused_and_blocks_nothing() {
    each_engine(async |fleet| {
        let device = fleet.device("gw").await;
        let (_, key) = ask(&device).await;
        let good = |sequence| sealed("data/a", sequence, &points(100, &[1.0]), Some(&key));
        // Nonsense under a good seal, a changed byte, and a wrap that does not open.
        let nonsense = sealed("data/a", 1, b"\x02nonsense", Some(&key));
        put(&device, &at("data/a", 1), nonsense).await.problem(422, "bad-batch");
        let mut changed = good(2);
        let last = changed.len() - 1;
        changed[last] ^= 1;
        put(&device, &at("data/a", 2), changed).await.problem(422, "bad-batch");
        let strange = IngestKey::generate().unwrap().public();
        put(&device, &at("data/a", 3), sealed("data/a", 3, &points(1, &[1.0]), Some(&strange)))
            .await
            .problem(409, "other-key");
        put(&device, &at("data/a", 3), sealed("data/a", 3, &points(1, &[1.0]), None))
            .await
            .problem(409, "other-key");
        // Of a later version: it is kept, not thrown away.
        let later = put(&device, &at("data/a", 4), b"FSB9 from the future".to_vec()).await;
        assert_eq!(later.header("retry-after"), "300");
        later.problem(503, "unavailable");
        let mut contents = points(1, &[1.0]);
        contents[0] = 9;
        put(&device, &at("data/a", 4), sealed("data/a", 4, &contents, Some(&key)))
            .await
            .problem(503, "unavailable");
        // What does not fit its address.
        for (path, field) in [
            (at("data/b", 5), "sequence"),
            (at("data/a", 6), "sequence"),
            ("..%2Fx/0000000000000001/5".to_owned(), "stream"),
            ("data+a/1/5".to_owned(), "epoch"),
            (format!("data+a/{EPOCH:016x}/0"), "sequence"),
            (format!("data+a/{EPOCH:016x}/18446744073709551615"), "sequence"),
        ] {
            let problem = put(&device, &path, good(5)).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{path}");
        }
        put(&device, &at("data/a", 5), good(5)).await.expect(200);
        let list: Value = fleet.admin.get("/api/sync").await.expect(200).json();
        assert_eq!(
            (&list["items"][0]["refusedBatches"], &list["items"][0]["receivedBatches"]),
            (&json!(2), &json!(1))
        );
        device.post("/api/device/sync", json!({"epoch": "x"})).await.problem(400, "invalid");

        // Another key for what comes; the old one still opens.
        let made: Value = fleet.admin.post("/api/ingest-keys:rotate", json!({})).await.expect(201).json();
        let (answer, next) = ask(&device).await;
        assert_eq!(made["publicKey"], answer.ingest_key.public_key);
        assert_ne!(next, key);
        put(&device, &at("data/a", 7), good(7)).await.expect(200);
        put(&device, &at("data/a", 8), sealed("data/a", 8, &points(9, &[1.0]), Some(&next)))
            .await
            .expect(200);
        let keys: Value = fleet.admin.get("/api/ingest-keys").await.expect(200).json();
        assert_eq!(keys["items"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&keys["items"][0]["current"], &keys["items"][1]["current"]),
            (&json!(true), &json!(false))
        );
        let text = keys.to_string();
        assert!(!text.contains("wrapped") && !text.contains("secret"), "{text}");

        let uid = device.uid();
        fleet.admin.post(&format!("/api/devices/{uid}:revoke"), json!({})).await.expect(200);
        put(&device, &at("data/a", 10), good(10)).await.problem(403, "forbidden");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_only_says_that_batches_come_holds_up_nobody_else() {
    each_engine(async |fleet| {
        let (idle, device) = (fleet.device("idle").await, fleet.device("gw").await);
        let (_, key) = ask(&device).await;
        let head = |sequence: u64| {
            let nothing = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
            let path = format!("/api/device/batches/{}", at("data/a", sequence));
            idle.request(Method::PUT, &path)
                .header("content-type", "application/octet-stream")
                .header("content-length", 48 * 1024 * 1024)
                .body(reqwest::Body::wrap_stream(nothing))
        };
        let waiting: Vec<_> = (1..=4).map(|sequence| tokio::spawn(head(sequence).send())).collect();
        // They are all there once there is no place for another one of this device.
        let full = async { while put(&idle, &at("data/a", 5), b"FSB9".to_vec()).await.status != 429 {} };
        tokio::time::timeout(std::time::Duration::from_secs(60), full).await.unwrap();
        put(&device, &at("data/a", 1), sealed("data/a", 1, &points(1, &[1.0]), Some(&key))).await.expect(200);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_values_go_on_behind_all_that_was_looked_through_for_nothing() {
    each_engine(async |fleet| {
        let system = fleet.app.store().system(Driver::DevicePort);
        let (tenant, _) = system.tenant_ids().await.unwrap()[0].clone();
        let db = system.tenant(tenant);
        let mut devices = Vec::new();
        for name in ["one", "two", "three"] {
            let device = fleet.device(name).await;
            ask(&device).await;
            devices.push(device.claimed().device);
        }
        devices.sort();
        for (number, device) in devices.into_iter().enumerate() {
            let last = number == 2;
            let latest: Vec<NewLatest> = (0..if last { 1 } else { 50_000_u32 }).map(latest).collect();
            let batch = NewBatch {
                device: farshore_domain::id::DeviceId(device),
                epoch: EPOCH,
                stream: if last { "data/wanted" } else { "data/other" },
                class: "telemetry",
                sequence: 1,
                floor: 1,
                from: UnixMs(1),
                to: UnixMs(1),
                points: 1,
                sealed_bytes: 1,
                block: b"none",
                latest: &latest,
                losses: &[],
            };
            db.take_batch(&batch, UnixMs(1)).await.unwrap();
        }
        let page: Value = fleet.admin.get("/api/series/latest?stream=data/wanted").await.expect(200).json();
        assert_eq!(page["items"], json!([]));
        let next = page["metadata"]["continue"].as_str().unwrap();
        let next = format!("/api/series/latest?stream=data/wanted&continue={next}");
        let page: Value = fleet.admin.get(&next).await.expect(200).json();
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        assert_eq!(page["metadata"]["continue"], Value::Null);
    })
    .await;
}

fn latest(series: u32) -> NewLatest {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&series.to_be_bytes());
    NewLatest {
        series: id,
        measurement: "temp".to_owned(),
        field: "value".to_owned(),
        tags: std::collections::BTreeMap::new(),
        kind: "float",
        at_ns: 1,
        value: "1.5".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_question_about_series_names_the_field() {
    each_engine(async |fleet| {
        for (path, field) in [
            ("/api/series?from=2&to=1", "from"),
            ("/api/series?step=0", "step"),
            ("/api/series?tags=x", "tags"),
            ("/api/series?by=colour", "by"),
            ("/api/series?colour=red", "colour"),
            ("/api/series/latest?continue=x", "continue"),
            ("/api/series/latest?limit=0", "limit"),
            ("/api/sync?limit=1001", "limit"),
        ] {
            let problem = fleet.admin.get(path).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, field, "{path}: {}", problem.detail);
        }
        fleet.admin.get("/api/series?device=nobody").await.problem(404, "not-found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_sync_waits_for_its_gateway_and_says_how_it_went() {
    each_engine(async |fleet| {
        let device = fleet.device("gw").await;
        let verb = format!("/api/devices/{}:force-sync", device.name());
        let refused = fleet.admin.post(&verb, json!({})).await.problem(409, "conflict");
        assert!(refused.detail.contains("gateway"), "{}", refused.detail);
        assert_eq!(ask(&device).await.0.force_sync, None);
        let asked: Value = fleet.admin.post(&verb, json!({"reason": "audit"})).await.expect(202).json();
        let uid = asked["metadata"]["uid"].as_str().unwrap().to_owned();
        assert_eq!((&asked["status"]["state"], &asked["status"]["waits"]), (&json!("queued"), &json!("")));
        let stands = async |uid: &str| -> Value {
            let operation: Value = fleet.admin.get(&format!("/api/operations/{uid}")).await.expect(200).json();
            operation["status"].clone()
        };
        // Its answer may be lost: it hears of it until it has said how it went.
        for _ in 0..2 {
            assert_eq!(ask(&device).await.0.force_sync.map(|uid| uid.to_string()), Some(uid.clone()));
            assert_eq!(stands(&uid).await["state"], "running");
        }
        let say = async |uid: &str, more: Value| -> SyncAnswer {
            let mut forced = json!({"operation": uid, "pointsSent": 12, "pointsPending": 3});
            forced.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let body = json!({"epoch": format!("{EPOCH:016x}"), "forced": [forced]});
            device.post("/api/device/sync", body).await.expect(200).json()
        };
        for _ in 0..2 {
            assert_eq!(say(&uid, json!({})).await.force_sync, None);
        }
        let done = stands(&uid).await;
        assert_eq!((&done["state"], &done["message"]), (&json!("succeeded"), &json!("12 points went, 3 wait")));
        // Many at once, by the same name, and why not.
        let body = json!({"verb": "force-sync", "devices": [device.name()], "dryRun": true});
        let plan: Value = fleet.admin.post("/api/devices:operate", body).await.expect(200).json();
        assert_eq!((&plan["accepted"], &plan["refused"]), (&json!(1), &json!(0)), "{plan}");
        let again: Value = fleet.admin.post(&verb, json!({})).await.expect(202).json();
        let uid = again["metadata"]["uid"].as_str().unwrap().to_owned();
        assert!(ask(&device).await.0.force_sync.is_some());
        say(&uid, json!({"error": "the link\nis down"})).await;
        let done = stands(&uid).await;
        assert_eq!(done["state"], "failed");
        assert_eq!(done["message"], "the linkis down; 12 points went, 3 wait");
        // Nobody ends another device's, and what nobody asked for is nothing.
        let third: Value = fleet.admin.post(&verb, json!({})).await.expect(202).json();
        let uid = third["metadata"]["uid"].as_str().unwrap().to_owned();
        let other = fleet.device("other").await;
        let body = json!({"epoch": format!("{EPOCH:016x}"), "forced": [{"operation": uid, "pointsSent": 1, "pointsPending": 0}]});
        other.post("/api/device/sync", body).await.expect(200);
        assert_eq!(stands(&uid).await["state"], "queued");
        fleet.admin.post(&format!("/api/operations/{uid}:cancel"), json!({})).await.expect(200);
        assert_eq!(ask(&device).await.0.force_sync, None);
    })
    .await;
}
