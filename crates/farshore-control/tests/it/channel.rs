//! The device channel, over real mTLS and WebSockets.

use std::time::{Duration, Instant};

use axum::http::Method;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_protocol::{
    AppStatus, DeviceEvent, EventBatch, Heartbeat, MAX_FRAME_BYTES, MetricBatch, OperationUpdate,
    StatusReport, agent_frame, server_frame,
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::harness::{Fleet, TestDevice, each_engine, eventually};
use crate::wire::{Channel, SseReader, batch, now};

async fn shown(fleet: &Fleet, device: &TestDevice) -> Value {
    fleet.admin.get(&format!("/api/devices/{}", device.name())).await.expect(200).json()
}

async fn reaches(fleet: &Fleet, device: &TestDevice, word: &str) {
    eventually(word, async || (shown(fleet, device).await["status"]["reachability"] == word).then_some(()))
        .await;
}

/// Messages of events of this type, oldest first, once there are `count`.
async fn events(fleet: &Fleet, kind: &str, count: usize) -> Vec<Value> {
    eventually(kind, async || {
        let path = format!("/api/events?kind={kind}&after=0");
        let list: Value = fleet.admin.get(&path).await.expect(200).json();
        let items = list["items"].as_array().unwrap().clone();
        (items.len() >= count).then_some(items)
    })
    .await
}

fn ids(device: &TestDevice) -> (TenantId, DeviceId) {
    let identity = farshore_trust::certificate::chain_from_pem(&device.claimed().certificate).unwrap();
    let identity = farshore_trust::identity::DeviceIdentity::parse(&identity[0]).unwrap();
    (identity.tenant, identity.device)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_says_hello_and_is_online_until_its_channel_ends() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        assert_eq!(shown(fleet, &device).await["status"]["reachability"], "offline");
        let (mut channel, welcome) = Channel::open(fleet, &device).await;
        assert_eq!((welcome.protocol_version, welcome.heartbeat_seconds), (1, 30));
        assert!((welcome.server_time_ms - now().0).abs() < 60_000 && welcome.acknowledged.is_empty());
        let seen = shown(fleet, &device).await;
        assert_eq!(seen["status"]["reachability"], "online", "as soon as the welcome is there");
        assert_eq!(seen["status"]["hardware"]["model"], "Pi 4");
        assert_eq!(seen["status"]["agentVersion"], "0.1.0");
        channel.send(agent_frame::Body::Heartbeat(Heartbeat { device_time_ms: 0 })).await;
        channel.close().await;
        reaches(fleet, &device, "stale").await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sent_twice_is_acknowledged_twice_and_stored_once() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let start = now().0 - 600_000;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        for sequence in [1, 2, 2, 1] {
            let at = start + 60_000 * i64::try_from(sequence).unwrap();
            channel.metrics("host", sequence, &[(at, 0.25), (at + 10_000, 0.75)]).await;
        }
        channel.metrics("app/edge-web", 1, &[(start, 1.0)]).await;
        channel.close().await;
        // The next channel begins after what is stored.
        let (channel, mut welcome) = Channel::open(fleet, &device).await;
        welcome.acknowledged.sort_by(|a, b| a.stream.cmp(&b.stream));
        let marks: Vec<(String, u64)> =
            welcome.acknowledged.into_iter().map(|m| (m.stream, m.sequence)).collect();
        assert_eq!(marks, [("app/edge-web".to_owned(), 1), ("host".to_owned(), 2)]);
        let path = format!("/api/devices/{}/metrics?metrics=cpu&from={start}", device.name());
        let read: Value = fleet.admin.get(&path).await.expect(200).json();
        assert_eq!(read["columns"], json!({"cpu": [0.25, 0.75, 0.25, 0.75]}));
        assert_eq!(read["at"][0], start + 60_000);
        let two: Value = fleet.admin.get(&format!("{path}&points=2&aggregate=max")).await.expect(200).json();
        assert!(two["at"].as_array().unwrap().len() <= 2 && two["columns"]["cpu"][0] == 0.75, "{two}");
        let list: Value = fleet.admin.get("/api/devices?sparkline=cpu").await.expect(200).json();
        let status = &list["items"][0]["status"];
        assert_eq!((&status["latest"]["cpu"], &status["latest"]["load1"]), (&json!(0.75), &json!(2.0)));
        let line: Vec<f64> =
            status["sparkline"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        assert!(!line.is_empty() && line.iter().all(|value| (0.25..=0.75).contains(value)), "{status}");
        channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_wins() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let (older, _) = Channel::open(fleet, &device).await;
        let (mut newer, _) = Channel::open(fleet, &device).await;
        let closed = older.closed().await;
        assert_eq!(closed.goodbye.unwrap().reason, "replaced");
        newer.metrics("host", 1, &[(now().0, 0.5)]).await;
        assert_eq!(shown(fleet, &device).await["status"]["reachability"], "online");
        assert_eq!(fleet.app.hub().connected(), 1);
        newer.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_breaks_the_protocol_is_closed_and_told_of() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let hostile: Vec<(u16, Message)> =
            vec![(1007, Message::Binary(vec![0xff; 64].into())), (1008, Message::Text("hello".into()))];
        for (code, message) in hostile {
            // As the first word, and later.
            let mut channel = Channel::connect(fleet, &device).await.unwrap();
            channel.send_raw(message.clone()).await.unwrap();
            assert_eq!(channel.closed().await.code, code);
            let (mut channel, _) = Channel::open(fleet, &device).await;
            channel.send_raw(message).await.unwrap();
            assert_eq!(channel.closed().await.code, code);
        }
        let heartbeat = agent_frame::Body::Heartbeat(Heartbeat { device_time_ms: 0 });
        let mut channel = Channel::connect(fleet, &device).await.unwrap();
        channel.send(heartbeat).await;
        let closed = channel.closed().await;
        assert_eq!(
            (closed.code, closed.goodbye.unwrap().reason.as_str()),
            (1008, "the first frame must be hello")
        );
        // Larger than a frame may be: the connection ends, however it ends.
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let giant = Message::Binary(vec![0; MAX_FRAME_BYTES + 1].into());
        // The server may close before all of it is sent.
        let _ = channel.send_raw(giant).await;
        channel.closed().await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let bad = MetricBatch { stream: "../etc".to_owned(), sequence: 1, block: Vec::new() };
        channel.send(agent_frame::Body::Metrics(bad)).await;
        assert_eq!(channel.closed().await.code, 1008);
        // One event for all of it.
        let told = events(fleet, "device.protocol-error", 1).await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["subject"]["name"], "kiosk-7");
        assert_eq!(fleet.app.hub().connected(), 0);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_blocks_are_forgotten_and_too_many_of_them_close_the_channel() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let broken = |sequence| MetricBatch { stream: "host".to_owned(), sequence, block: vec![1, 2, 3] };
        for sequence in 1..=7 {
            channel.send(agent_frame::Body::Metrics(broken(sequence))).await;
            channel.acknowledged("host", sequence).await;
        }
        channel.metrics("host", 8, &[(now().0, 0.5)]).await;
        channel.send(agent_frame::Body::Metrics(broken(9))).await;
        assert_eq!(channel.closed().await.code, 1008);
        let (channel, welcome) = Channel::open(fleet, &device).await;
        assert_eq!(welcome.acknowledged[0].sequence, 8);
        channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_loses_its_channel_at_once_and_gets_no_other() {
    Box::pin(each_engine(async |fleet| {
        let (device, other) = (fleet.device("kiosk-7").await, fleet.device("kiosk-8").await);
        let (channel, _) = Channel::open(fleet, &device).await;
        let (other_channel, _) = Channel::open(fleet, &other).await;
        let start = Instant::now();
        let path = format!("/api/devices/{}:revoke", device.name());
        let revoked: Value = fleet.admin.post(&path, json!({"comment": "stolen"})).await.expect(200).json();
        assert_eq!(revoked["status"]["reasons"][0]["code"], "Revoked");
        let closed = channel.closed().await;
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!((closed.code, closed.goodbye.unwrap().reason.as_str()), (1008, "revoked"));
        assert_eq!(Channel::connect(fleet, &device).await.unwrap_err().status, 403);
        assert_eq!(fleet.app.hub().connected(), 1, "the other one stays");
        other_channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rush_of_connections_is_shed_with_a_time_to_come_back() {
    Box::pin(each_engine(async |fleet| {
        fleet.app.hub().limit_admission(0.000_1, 2.0);
        let device = fleet.device("kiosk-7").await;
        let (first, _) = Channel::open(fleet, &device).await;
        let (second, _) = Channel::open(fleet, &device).await;
        let refused = Channel::connect(fleet, &device).await.unwrap_err();
        assert_eq!(refused.status, 503);
        let seconds: u32 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=15).contains(&seconds));
        first.closed().await;
        second.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_channel_is_told_why() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        device.get("/api/channel").await.problem(400, "malformed");
        for protocol in [None, Some("farshore.channel.v999")] {
            let refused = Channel::connect_as(fleet, &device, protocol).await.unwrap_err();
            assert_eq!(refused.status, 400, "{}", refused.body);
        }
        TestDevice::new(fleet).get("/api/channel").await.problem(401, "unauthenticated");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_shown_and_its_changes_are_events() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let release = Uuid::now_v7();
        let status = |phase: &str, health: &str, isolation: &str| {
            agent_frame::Body::Status(StatusReport {
                epoch: 1,
                generation: 3,
                health: health.to_owned(),
                conformance: "conforming".to_owned(),
                apps: vec![AppStatus {
                    app: "edge-web".to_owned(),
                    phase: phase.to_owned(),
                    health: health.to_owned(),
                    active_release: release.to_string(),
                    active_version: "1.1.0".to_owned(),
                    isolation: isolation.to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            })
        };
        channel.send(status("running", "healthy", r#"{"pid":"private"}"#)).await;
        let seen = eventually("the status", async || {
            let seen = shown(fleet, &device).await;
            (seen["status"]["health"] == "healthy").then_some(seen)
        })
        .await;
        assert_eq!(seen["status"]["apps"][0]["activeVersion"], "1.1.0");
        assert_eq!(seen["status"]["accepted"], json!({"epoch": 1, "generation": 3}));
        assert_eq!(seen["status"]["apps"][0]["isolation"], json!({"pid": "private"}));
        channel.send(status("running", "healthy", r#"{"pid":"private"}"#)).await;
        // Words of a later version say nothing here.
        channel.send(status("failing", "failing", r#"{"aether":"private"}"#)).await;
        let told = events(fleet, "device.health-changed", 2).await;
        assert_eq!(told.len(), 2);
        assert_eq!(
            (&told[1]["payload"]["from"], &told[1]["payload"]["to"]),
            (&json!("healthy"), &json!("failing"))
        );
        assert_eq!(told[1]["actor"], "device:kiosk-7");
        assert_eq!(shown(fleet, &device).await["status"]["apps"][0].get("isolation"), None);
        let summary: Value = fleet.admin.get("/api/devices/summary").await.expect(200).json();
        assert_eq!((&summary["total"], &summary["health"]["failing"]), (&json!(1), &json!(1)));
        assert_eq!(summary["byLocation"][0]["unhealthy"], 1);
        channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn device_events_come_once_and_not_in_the_control_planes_name() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let event = |kind: &str| DeviceEvent {
            uid: Uuid::now_v7().to_string(),
            at_ms: now().0,
            kind: kind.to_owned(),
            app: "edge-web".to_owned(),
            message: format!("it {kind}"),
            detail_json: r#"{"code":7}"#.to_owned(),
        };
        let events_of = |sequence, kinds: &[&str]| EventBatch {
            sequence,
            events: kinds.iter().map(|kind| event(kind)).collect(),
        };
        let first = events_of(1, &["app.exited", "device.revoked"]);
        for sent in [first.clone(), first, events_of(2, &["app.started"])] {
            let sequence = sent.sequence;
            channel.send(agent_frame::Body::Events(sent)).await;
            channel.acknowledged("events", sequence).await;
        }
        events(fleet, "app.started", 1).await;
        let exited = events(fleet, "app.exited", 1).await;
        assert_eq!(exited.len(), 1);
        assert_eq!(exited[0]["payload"], json!({"code": 7, "app": "edge-web"}));
        assert_eq!(events(fleet, "agent.device.revoked", 1).await.len(), 1);
        let list: Value = fleet.admin.get("/api/events?kind=device.revoked").await.expect(200).json();
        assert_eq!(list["items"], json!([]));
        channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_told_of_its_outages_is_shown_as_stretches_of_time() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let path = format!("/api/devices/{}/connectivity", device.name());
        let none: Value = fleet.admin.get(&path).await.expect(200).json();
        assert_eq!((&none["state"], &none["spans"]), (&json!("unknown"), &json!([])), "{none}");
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let at = now().0;
        let hour = 3_600_000;
        let told = |kind: &str, from: &str, cause: &str, since: i64, lasted: i64| DeviceEvent {
            uid: Uuid::now_v7().to_string(),
            at_ms: since + 10_000,
            kind: format!("connectivity.{kind}"),
            app: String::new(),
            message: format!("offline ({cause}) after a while: no such name"),
            detail_json:
                json!({"from": from, "cause": cause, "since": since, "lastedSeconds": lasted / 1000})
                    .to_string(),
        };
        // What happened while it was away comes later than what it was before, and an old agent names it as it does.
        let events = vec![
            told("online", "dns", "online", at - hour, hour),
            told("offline", "online", "dns", at - 2 * hour, 8 * hour),
            told("cause", "online", "telepathy", at - 500 * hour, hour),
        ];
        let batch = EventBatch { sequence: 1, events };
        channel.send(agent_frame::Body::Events(batch)).await;
        channel.acknowledged("events", 1).await;
        self::events(fleet, "connectivity.online", 1).await;
        let shown: Value = fleet.admin.get(&path).await.expect(200).json();
        let spans = shown["spans"].as_array().unwrap();
        let states: Vec<_> = spans.iter().map(|span| span["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["unknown", "online", "dns", "online"], "{shown}");
        assert_eq!(spans[2]["message"], "no such name");
        assert_eq!(
            (&shown["state"], &shown["outages"], &shown["since"]),
            (&json!("online"), &json!(1), &json!(at - hour))
        );
        let lasted = spans[2]["to"].as_i64().unwrap() - spans[2]["from"].as_i64().unwrap();
        assert_eq!(lasted, hour);
        let long: Value = fleet.admin.get(&format!("{path}?days=90")).await.expect(200).json();
        assert!(long["from"].as_i64() < shown["from"].as_i64());
        for bad in ["days=0", "days=91", "days=x", "hours=3"] {
            fleet.admin.get(&format!("{path}?{bad}")).await.problem(400, "invalid");
        }
        fleet.admin.get("/api/devices/nobody/connectivity").await.problem(404, "not-found");
        channel.close().await;
        reaches(fleet, &device, "stale").await;
        let silent: Value = fleet.admin.get(&path).await.expect(200).json();
        assert_eq!(silent["state"], "silent", "{silent}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_waits_for_the_device_and_is_reported() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let action = format!("/api/devices/{}:restart-app", device.name());
        fleet.admin.post(&action, json!({"app": "edge-web"})).await.problem(400, "invalid");
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let app = AppStatus { app: "edge-web".to_owned(), phase: "running".to_owned(), ..Default::default() };
        channel.send(agent_frame::Body::Status(StatusReport { apps: vec![app], ..Default::default() })).await;
        events(fleet, "device.app-changed", 1).await;
        channel.close().await;
        reaches(fleet, &device, "stale").await;
        fleet.role("viewer").await.post(&action, json!({"app": "edge-web"})).await.problem(403, "forbidden");
        fleet.admin.post(&action, json!({"app": "edge-web"})).await.expect(202);
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let operation = |body| match body {
            server_frame::Body::Operation(operation) => Some(operation),
            _ => None,
        };
        let waited = channel.until("the operation", operation).await;
        assert_eq!((waited.kind.as_str(), waited.app.as_str()), ("restart-app", "edge-web"));
        // While it is connected, the next one comes at once.
        fleet.admin.post(&action, json!({"app": "edge-web"})).await.expect(202);
        let next = eventually_other(&mut channel, &waited.uid).await;
        for uid in [waited.uid, next] {
            let update = OperationUpdate { uid, state: "succeeded".to_owned(), ..Default::default() };
            channel.send(agent_frame::Body::OperationUpdate(update)).await;
        }
        assert_eq!(events(fleet, "device.operation-finished", 2).await.len(), 2);
        channel.close().await;
    }))
    .await;
}

async fn eventually_other(channel: &mut Channel, known: &str) -> String {
    channel
        .until("another operation", |body| match body {
            server_frame::Body::Operation(operation) if operation.uid != known => Some(operation.uid),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_gets_live_samples_and_the_device_is_asked_only_meanwhile() {
    Box::pin(each_engine(async |fleet| {
        let device = fleet.device("kiosk-7").await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let live = |body| match body {
            server_frame::Body::Live(live) => Some((live.seconds, live.interval_ms)),
            _ => None,
        };
        // Nobody looks: a live sample goes nowhere, and is not stored.
        channel.send(agent_frame::Body::Metrics(batch("host", 0, &[(now().0, 0.9)]))).await;
        channel.metrics("app/edge-web", 1, &[(now().0, 0.9)]).await;
        let path = format!("/api/devices/{}/metrics/stream", device.name());
        let mut one = SseReader::open(fleet.admin.request(Method::GET, &path)).await;
        assert_eq!(channel.until("a live request", live).await, (60, 1_000));
        let two = SseReader::open(fleet.role("viewer").await.request(Method::GET, &path)).await;
        let at = now().0;
        channel.send(agent_frame::Body::Metrics(batch("host", 0, &[(at, 0.5)]))).await;
        let sample = one.of("sample").await;
        assert_eq!(sample.data, json!({"stream": "host", "at": at, "values": {"cpu": 0.5, "load1": 2.0}}));
        assert_eq!(sample.id, None);
        channel
            .send(agent_frame::Body::Status(StatusReport {
                health: "healthy".to_owned(),
                ..Default::default()
            }))
            .await;
        one.of("device").await;
        // A device that comes back while somebody looks is asked again.
        channel.close().await;
        let (mut channel, welcome) = Channel::open(fleet, &device).await;
        assert!(welcome.acknowledged.iter().all(|mark| mark.stream != "host"), "nothing live was kept");
        assert_eq!(channel.until("a live request", live).await.0, 60);
        drop(two);
        drop(one);
        assert_eq!(channel.until("the end of it", |body| live(body).filter(|(s, _)| *s == 0)).await.0, 0);
        let (tenant, id) = ids(&device);
        assert!(!fleet.app.hub().live().is_watched(tenant, id));
        channel.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_says_goodbye_and_the_next_start_forgets_the_sessions() {
    for database in farshore_store::test_util::TestDatabase::each().await {
        let fleet = Fleet::start(database, &|_| {}).await;
        let device = fleet.device("kiosk-7").await;
        let (channel, _) = Channel::open(&fleet, &device).await;
        let (closed, fleet) = tokio::join!(channel.closed(), fleet.restart());
        assert_eq!(closed.goodbye.unwrap().reason, "shutting-down");
        reaches(&fleet, &device, "stale").await;
        fleet.stop().await;
    }
}
