//! A good rollout, and one that fails on some devices, halts and goes back.

use std::collections::BTreeMap;

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_sim::{Behaviours, Fault, FaultKind, FleetOptions, Group, VirtualFleet};
use serde_json::{Value, json};

use crate::plane::{Plane, eventually};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn group(text: &str, count: u32, hardware: &str, token: &str) -> Group {
    let labels = Labels::new(BTreeMap::from([("hw".to_owned(), hardware.to_owned())])).unwrap();
    Group { labels, ..Group::new(name(text), count, Some(token.to_owned())) }
}

async fn finished(plane: &Plane, rollout: &str) -> Value {
    eventually(&format!("the end of rollout {rollout}"), || async {
        let rollout = plane.get(&format!("/api/rollouts/{rollout}")).await;
        let summary = rollout["status"]["summary"].clone();
        (!summary["finishedAt"].is_null()).then_some(summary)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_devices_take_a_good_release_and_give_a_bad_one_back() {
    let plane = Plane::start().await;
    plane.trust_keys().await;
    let token = plane.claim_token("virtual", json!({"uses": 50})).await;
    let folder = tempfile::tempdir().unwrap();
    let bad = Fault::of(name("web"), "1.1".parse().unwrap(), FaultKind::Crashes);
    let behaviours = Behaviours {
        stage_ms: (10, 200),
        start_ms: (10, 100),
        healthy_ms: (10, 200),
        faults: vec![bad.on("hw=old".parse().unwrap())],
        ..Behaviours::default()
    };
    let fleet = VirtualFleet::start(FleetOptions {
        behaviours,
        groups: vec![group("old", 40, "old", &token), group("new", 10, "new", &token)],
        ..FleetOptions::new(folder.path().to_owned())
    })
    .unwrap();
    let stats = fleet.stats();
    eventually("50 devices online", || async { (stats.online() == 50).then_some(()) }).await;
    eventually("50 devices listed online", || async {
        (plane.count("reachability=online").await == 50).then_some(())
    })
    .await;
    assert_eq!(plane.count("labelSelector=hw%3Dold").await, 40);

    plane.post("/api/apps", json!({"metadata": {"name": "web"}, "spec": {}})).await;
    plane.post("/api/placements", json!({"metadata": {"name": "web"}, "spec": {"app": "web"}})).await;
    plane.release("1.0").await;
    plane.roll_out("first", "1.0").await;
    let first = finished(&plane, "first").await;
    assert_eq!(first["phase"], "succeeded", "{first:#}");
    assert_eq!(plane.versions().await, BTreeMap::from([("1.0".to_owned(), 50)]));
    eventually("50 devices healthy and conforming", || async {
        (plane.count("health=healthy&conformance=conforming").await == 50).then_some(())
    })
    .await;

    plane.release("1.1").await;
    plane.roll_out("second", "1.1").await;
    let second = finished(&plane, "second").await;
    assert_ne!(second["phase"], "succeeded", "{second:#}");
    assert!(second["wave"] == 1, "it halted inside the first wave: {second:#}");
    eventually("every device back on 1.0", || async {
        (plane.versions().await == BTreeMap::from([("1.0".to_owned(), 50)])).then_some(())
    })
    .await;
    eventually("50 devices healthy", || async { (plane.count("health=healthy").await == 50).then_some(()) })
        .await;
    assert_eq!(stats.distrusted(), 0);
    fleet.stop().await.unwrap();
    plane.running.shutdown().await;
}
