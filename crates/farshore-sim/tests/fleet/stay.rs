//! Devices that stay the same: over a start of the fleet, over a start of the control plane, over outages.

use farshore_domain::name::Name;
use farshore_sim::{Behaviours, FleetOptions, Group, Outages, VirtualFleet};
use serde_json::json;

use crate::plane::{Plane, eventually};

fn options(folder: &std::path::Path, count: u32, token: Option<String>) -> FleetOptions {
    let mut options = FleetOptions::new(folder.to_owned());
    options.groups = vec![Group::new(Name::new("kiosk").unwrap(), count, token)];
    options.max_backoff_ms = 500;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_starts_again_is_the_same_fleet() {
    let plane = Plane::start().await;
    let token = plane.claim_token("virtual", json!({"uses": 5})).await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = VirtualFleet::start(options(folder.path(), 5, Some(token))).unwrap();
    let stats = fleet.stats();
    eventually("5 devices online", || async { (stats.online() == 5).then_some(()) }).await;
    fleet.stop().await.unwrap();
    let fleet = VirtualFleet::start(options(folder.path(), 5, None)).unwrap();
    let stats = fleet.stats();
    eventually("5 devices online again", || async { (stats.online() == 5).then_some(()) }).await;
    assert_eq!((stats.claims(), plane.count("").await), (0, 5));
    fleet.stop().await.unwrap();
    plane.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_back_to_a_control_plane_that_was_away() {
    let plane = Plane::start().await;
    let token = plane.claim_token("virtual", json!({"uses": 20})).await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = VirtualFleet::start(options(folder.path(), 20, Some(token))).unwrap();
    let stats = fleet.stats();
    eventually("20 devices online", || async { (stats.online() == 20).then_some(()) }).await;
    let before = stats.handshakes().0;
    let plane = plane.restart().await;
    eventually("20 devices back", || async {
        (stats.online() == 20 && stats.handshakes().0 >= before + 20).then_some(())
    })
    .await;
    fleet.stop().await.unwrap();
    plane.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_outages_end_channels_and_devices_return() {
    let plane = Plane::start().await;
    let token = plane.claim_token("virtual", json!({"uses": 5})).await;
    let folder = tempfile::tempdir().unwrap();
    let outages = Outages { percent: 100, every_seconds: (1, 1), for_seconds: (0, 1) };
    let behaviours = Behaviours { outages: Some(outages), ..Behaviours::default() };
    let fleet =
        VirtualFleet::start(FleetOptions { behaviours, ..options(folder.path(), 5, Some(token)) }).unwrap();
    let stats = fleet.stats();
    eventually("each device three times", || async { (stats.handshakes().0 >= 15).then_some(()) }).await;
    fleet.stop().await.unwrap();
    plane.running.shutdown().await;
}
