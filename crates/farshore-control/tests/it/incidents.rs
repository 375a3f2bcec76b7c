//! Incidents: what a device tells over its channel, what people do about it, the evidence.

use std::collections::BTreeMap;
use std::io::Read as _;

use farshore_protocol::{IncidentBatch, IncidentEvidence, agent_frame};
use farshore_series::{BlockBuilder, encode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Fleet, TestDevice, each_engine};
use crate::objects::Publisher;
use crate::wire::{Channel, SseReader, now};

pub(crate) fn incident(uid: Uuid, signs: u32, more: Value) -> String {
    let at = now().0 - 30_000;
    let mut told = json!({
        "uid": uid, "app": "web", "cause": "process-exit", "message": "it ended with code 1", "startedAt": at, "lastAt": at + 1_000,
        "signs": signs,
        "actions": [{"kind": "auto-restart", "at": at, "lastAt": at, "count": signs, "message": "it ended with code 1"}],
    });
    told.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    told.to_string()
}

pub(crate) async fn tell(
    channel: &mut Channel,
    sequence: u64,
    incidents: Vec<String>,
    evidence: Vec<IncidentEvidence>,
) {
    let batch = IncidentBatch { sequence, incidents_json: incidents, evidence };
    channel.send(agent_frame::Body::Incidents(batch)).await;
    channel.acknowledged("incidents", sequence).await;
}

fn evidence(uid: Uuid) -> IncidentEvidence {
    let mut builder = BlockBuilder::new();
    for minute in 0..10 {
        builder.push(now().0 - 600_000 + minute * 60_000, [("cpu", 0.5), ("mem_used", 1e9)]).unwrap();
    }
    let event = farshore_protocol::DeviceEvent {
        uid: Uuid::now_v7().to_string(),
        at_ms: now().0,
        kind: "process_exit".to_owned(),
        app: "web".to_owned(),
        message: "signal 11".to_owned(),
        detail_json: r#"{"signal":11}"#.to_owned(),
    };
    IncidentEvidence {
        incident: uid.to_string(),
        part: "opening".to_owned(),
        taken_at_ms: now().0,
        log: "panic: out of cheese\n".to_owned(),
        log_missing: String::new(),
        blocks: vec![encode(&builder.finish()).unwrap()],
        events: vec![event],
    }
}

/// The files of an archive, by name without the folder.
pub(crate) fn unpack(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (path.split_once('/').unwrap().1.to_owned(), text)
        })
        .collect()
}

async fn list(fleet: &Fleet, query: &str) -> Vec<Value> {
    let list: Value = fleet.admin.get(&format!("/api/incidents{query}")).await.expect(200).json();
    list["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_told_in_order_and_counts_once_however_often_it_comes() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let (mut channel, welcome) = Channel::open(fleet, &device).await;
        assert!(welcome.capabilities.iter().any(|capability| capability == "incidents/v1"), "{welcome:?}");
        let uid = Uuid::now_v7();
        tell(&mut channel, 1, vec![incident(uid, 1, json!({}))], Vec::new()).await;
        tell(&mut channel, 2, vec![incident(uid, 3, json!({}))], vec![evidence(uid)]).await;
        // The acknowledgements were lost: everything comes again.
        tell(&mut channel, 1, vec![incident(uid, 1, json!({}))], Vec::new()).await;
        tell(&mut channel, 2, vec![incident(uid, 3, json!({}))], vec![evidence(uid)]).await;
        let all = list(fleet, "").await;
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(
            (all[0]["status"]["state"].as_str(), all[0]["status"]["signs"].as_i64()),
            (Some("open"), Some(3))
        );
        let opened: Value = crate::harness::eventually("the event", async || {
            let list: Value = fleet.admin.get("/api/events?kind=incident.opened").await.expect(200).json();
            (!list["items"].as_array().unwrap().is_empty()).then_some(list)
        })
        .await;
        assert_eq!(opened["items"].as_array().unwrap().len(), 1);
        // After the connection was lost it goes on where it was.
        drop(channel);
        let (mut channel, welcome) = Channel::open(fleet, &device).await;
        let mark = welcome.acknowledged.iter().find(|mark| mark.stream == "incidents").unwrap();
        assert_eq!(mark.sequence, 2);
        let ended = incident(uid, 3, json!({ "endedAt": now().0 }));
        tell(&mut channel, 3, vec![ended], Vec::new()).await;
        let shown: Value = fleet.admin.get(&format!("/api/incidents/{uid}")).await.expect(200).json();
        assert_eq!(shown["status"]["state"], "resolved");
        assert_eq!(shown["status"]["resolvedBy"], format!("device:{}", device.name()));
        assert_eq!(shown["status"]["evidence"][0]["part"], "opening");
        // Filters.
        for (query, count) in [
            ("?state=open", 0),
            ("?state=resolved", 1),
            ("?app=web", 1),
            ("?app=other", 0),
            ("?device=kiosk", 1),
            ("?device=other", 0),
            ("?since=1", 1),
            (&format!("?since={}", now().0 + 60_000), 0),
        ] {
            assert_eq!(list(fleet, query).await.len(), count, "{query}");
        }
        fleet.admin.get("/api/incidents?state=lost").await.problem(400, "invalid");
        fleet.admin.get("/api/incidents?rollout=none").await.problem(404, "not-found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_can_not_tell_of_another_devices_incident() {
    each_engine(async |fleet| {
        let (one, two) = (fleet.device("one").await, fleet.device("two").await);
        let uid = Uuid::now_v7();
        let (mut channel, _) = Channel::open(fleet, &one).await;
        tell(&mut channel, 1, vec![incident(uid, 1, json!({}))], Vec::new()).await;
        let (mut liar, _) = Channel::open(fleet, &two).await;
        let ended = incident(uid, 9, json!({ "endedAt": now().0, "message": "all is well" }));
        tell(&mut liar, 1, vec![ended], vec![evidence(uid)]).await;
        let shown: Value = fleet.admin.get(&format!("/api/incidents/{uid}")).await.expect(200).json();
        assert_eq!(
            (shown["status"]["state"].as_str(), shown["status"]["signs"].as_i64()),
            (Some("open"), Some(1))
        );
        assert_eq!(shown["status"]["evidence"], json!([]));
        assert_eq!(shown["spec"]["deviceName"], "one");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_acknowledge_and_resolve_and_a_new_sign_opens_it_again() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let uid = Uuid::now_v7();
        tell(&mut channel, 1, vec![incident(uid, 1, json!({}))], Vec::new()).await;
        let path = format!("/api/incidents/{uid}");
        let viewer = fleet.role("viewer").await;
        viewer.get(&path).await.expect(200);
        viewer.post(&format!("{path}:acknowledge"), json!({})).await.problem(403, "forbidden");
        let said = json!({"comment": "on it"});
        let shown: Value = fleet.admin.post(&format!("{path}:acknowledge"), said).await.expect(200).json();
        assert!(shown["status"]["acknowledgedAt"].is_i64() && shown["status"]["state"] == "open");
        let said = json!({"comment": "cable"});
        let shown: Value = fleet.admin.post(&format!("{path}:resolve"), said).await.expect(200).json();
        assert_eq!(shown["status"]["state"], "resolved");
        let long = json!({"comment": "x".repeat(1_001)});
        fleet.admin.post(&format!("{path}:resolve"), long).await.problem(400, "invalid");
        // Told again as it was: it stays resolved. More signs: it was not over.
        tell(&mut channel, 2, vec![incident(uid, 1, json!({}))], Vec::new()).await;
        assert_eq!(list(fleet, "?state=open").await.len(), 0);
        tell(&mut channel, 3, vec![incident(uid, 2, json!({}))], Vec::new()).await;
        let open = list(fleet, "?state=open").await;
        let did: Vec<_> = open[0]["status"]["notes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|note| note["did"].as_str().unwrap())
            .collect();
        assert_eq!(did, ["acknowledged", "resolved", "reopened"]);
    })
    .await;
}

async fn rollout(fleet: &Fleet) -> (String, String) {
    let publisher = Publisher::new(fleet, "default").await;
    let release = publisher.release("web", "1.1.0").await;
    for (path, spec) in [("/api/apps", json!({})), ("/api/channels", json!({}))] {
        let name = if path == "/api/apps" { "web" } else { "prod" };
        fleet.admin.post(path, json!({"metadata": {"name": name}, "spec": spec})).await;
    }
    let spec = json!({"app": "web", "channel": "prod", "release": "web@1.1.0"});
    let made: Value = fleet
        .admin
        .post("/api/rollouts?start=false", json!({"metadata": {"name": "web-1-1"}, "spec": spec}))
        .await
        .expect(201)
        .json();
    let uid = |object: &Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    (uid(&made), uid(&release))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_is_one_archive_with_everything_and_its_sums() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let (rollout, release) = rollout(fleet).await;
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let uid = Uuid::now_v7();
        let told = incident(uid, 2, json!({ "release": release, "version": "1.1.0", "rollout": rollout }));
        tell(&mut channel, 1, vec![told], vec![evidence(uid)]).await;
        let of_rollout: Value = fleet.admin.get("/api/rollouts/web-1-1/incidents").await.expect(200).json();
        assert_eq!(of_rollout["items"][0]["metadata"]["uid"], uid.to_string());
        assert_eq!(of_rollout["items"][0]["spec"]["rolloutName"], "web-1-1");
        let answer = fleet.admin.get(&format!("/api/incidents/{uid}/evidence")).await.expect(200);
        assert_eq!(answer.header("content-type"), "application/gzip");
        assert!(answer.header("content-disposition").ends_with(".tar.gz\""));
        let files = unpack(&answer.body);
        for name in [
            "incident.json",
            "release.json",
            "rollout.json",
            "reasons.json",
            "device.json",
            "events.json",
            "kernel-events.json",
            "black-box-events.json",
            "metrics.csv",
            "logs/opening.log",
            "post-mortem.md",
            "SHA256SUMS",
        ] {
            assert!(files.contains_key(name), "{name} in {:?}", files.keys());
        }
        assert_eq!(files["logs/opening.log"], "panic: out of cheese\n");
        assert!(files["metrics.csv"].starts_with("time_ms,cpu,mem_used\n"), "{}", files["metrics.csv"]);
        assert!(files["metrics.csv"].lines().count() > 5);
        assert!(files["kernel-events.json"].contains("signal 11"));
        let post_mortem = &files["post-mortem.md"];
        for word in ["web 1.1.0", "web-1-1", "process-exit", "auto-restart", "## Root cause", "kiosk"] {
            assert!(post_mortem.contains(word), "{word} in {post_mortem}");
        }
        for line in files["SHA256SUMS"].lines() {
            let (sum, name) = line.split_once("  ").unwrap();
            let digest = farshore_domain::digest::Digest::of(files[name].as_bytes()).to_string();
            assert_eq!(digest, format!("sha256:{sum}"), "{name}");
        }
        // Nobody else gets it.
        fleet.tenant("other").await;
        let other = fleet.admin.in_tenant("other");
        other.get(&format!("/api/incidents/{uid}/evidence")).await.problem(404, "not-found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_told_at_once_and_when_it_changes() {
    each_engine(async |fleet| {
        let device = fleet.device("kiosk").await;
        let request = fleet
            .admin
            .header("accept", "text/event-stream")
            .request(axum::http::Method::GET, "/api/active-ops");
        let mut stream = SseReader::open(request).await;
        let first = stream.next().await.unwrap();
        assert_eq!((first.event.as_str(), &first.data["incidents"]), ("active-ops", &json!([])));
        let (mut channel, _) = Channel::open(fleet, &device).await;
        let uid = Uuid::now_v7();
        tell(&mut channel, 1, vec![incident(uid, 1, json!({}))], Vec::new()).await;
        loop {
            let next = stream.next().await.unwrap();
            if next.data["incidents"][0]["metadata"]["uid"] == uid.to_string() {
                break;
            }
        }
        let plain: Value = fleet.admin.get("/api/active-ops").await.expect(200).json();
        assert_eq!(plain["incidents"].as_array().unwrap().len(), 1);
        assert_eq!(plain["operations"], json!([]));
    })
    .await;
}

/// A device that has told of one open incident.
pub(crate) async fn sick(fleet: &Fleet, name: &str) -> (TestDevice, Channel, Uuid) {
    let device = fleet.device(name).await;
    let (mut channel, _) = Channel::open(fleet, &device).await;
    let uid = Uuid::now_v7();
    tell(&mut channel, 1, vec![incident(uid, 5, json!({}))], Vec::new()).await;
    (device, channel, uid)
}
