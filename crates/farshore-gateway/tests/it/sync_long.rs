//! A drain that takes long looks up between its batches.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_gateway::sync::{DeviceConfig, GivenPipelines};
use farshore_gateway::{EdgeGateway, GatewayConfig, Streams};
use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

use crate::support::send;
use crate::sync::{Cloud, with};

/// A gateway that begins, with one stream for alerts.
async fn beginning(
    folder: &std::path::Path,
    cloud: &Arc<Cloud>,
    change: impl FnOnce(&mut GatewayConfig),
) -> (EdgeGateway, SocketAddr) {
    let site = with(folder, cloud, |config| {
        config.http = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.streams = Streams::parse("streams: {data/stop: {class: alert}}").expect("good");
        change(config);
    })
    .await;
    let at = site.addresses().await.and_then(|at| at.http).expect("HTTP");
    (site, at)
}

/// The same, when what it does by itself at its start is over, with a point in each of four streams, none of them sent yet.
async fn with_backlog(
    folder: &std::path::Path,
    cloud: &Arc<Cloud>,
    change: impl FnOnce(&mut GatewayConfig),
) -> (EdgeGateway, SocketAddr) {
    let (site, at) = beginning(folder, cloud, change).await;
    assert!(site.force_sync().await.is_ok_and(|sync| sync.success));
    fill(at).await;
    (site, at)
}

async fn fill(at: SocketAddr) {
    for stream in ["a", "b", "c", "d"] {
        write(at, stream).await;
    }
}

async fn write(at: SocketAddr, stream: &str) {
    write_line(at, stream, "m v=1").await;
}

async fn write_line(at: SocketAddr, stream: &str, line: &str) {
    let path = format!("/api/v2/write?bucket={stream}");
    let answer = send(at, "POST", &path, &[], line.as_bytes()).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// A control plane that takes a batch for each permit.
fn gated() -> (Arc<Cloud>, Arc<Semaphore>) {
    let (cloud, gate) = (Cloud::new(), Arc::new(Semaphore::new(0)));
    cloud.with(|cloud| cloud.gate = Some(Arc::clone(&gate)));
    (cloud, gate)
}

/// Long enough for a report that is due each minute.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let all = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), all).await.expect(what);
}

#[tokio::test]
async fn an_alert_that_comes_while_a_backlog_drains_is_the_next_that_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cloud, gate) = gated();
    let (site, at) = with_backlog(folder.path(), &cloud, |_| ()).await;
    let works = async {
        until("two are under way", || cloud.with(|cloud| cloud.begun.len()) == 2).await;
        write(at, "stop").await;
        gate.add_permits(1);
        until("the third begins", || cloud.with(|cloud| cloud.begun.len()) == 3).await;
        gate.add_permits(10);
    };
    let (sync, ()) = tokio::join!(site.force_sync(), works);
    assert!(sync.is_ok_and(|sync| sync.success && sync.points_pending == 0));
    assert_eq!(cloud.with(|cloud| cloud.begun[2].clone()), "data/stop");
    site.stop().await;
}

#[tokio::test]
async fn an_alert_goes_before_a_batch_that_waits_for_the_bandwidth() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    // Some seconds for a batch.
    let slow = |config: &mut GatewayConfig| config.sync_bytes_per_second = Some(100);
    let (site, at) = with_backlog(folder.path(), &cloud, slow).await;
    let works = async {
        until("the first begins", || cloud.with(|cloud| cloud.begun.len()) == 1).await;
        write(at, "stop").await;
        until("the second begins", || cloud.with(|cloud| cloud.begun.len()) == 2).await;
    };
    tokio::select! {
        _ = site.force_sync() => {}
        () = works => {}
    }
    assert_eq!(cloud.with(|cloud| cloud.begun[1].clone()), "data/stop");
    site.stop().await;
}

#[tokio::test]
async fn over_a_link_that_may_be_slow_a_large_batch_goes_alone_but_for_alerts() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cloud, gate) = gated();
    let (site, at) = with_backlog(folder.path(), &cloud, |_| ()).await;
    // Nothing that could be packed.
    let mut random = 1_u64;
    for _ in 0..6 {
        let noise = (0..50_000).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'0' + u8::try_from(random >> 58).expect("six bits")).to_string().replace('\\', "/")
        });
        write_line(at, "a", &format!("noise v=\"{}\"", noise.collect::<String>())).await;
    }
    let works = async {
        until("the large one is under way", || !cloud.with(|cloud| cloud.begun.is_empty())).await;
        write(at, "stop").await;
        until("another begins", || cloud.with(|cloud| cloud.begun.len()) == 2).await;
        gate.add_permits(10);
    };
    let (sync, ()) = tokio::join!(site.force_sync(), works);
    assert!(sync.is_ok_and(|sync| sync.success && sync.points_pending == 0));
    let begun = cloud.with(|cloud| cloud.begun.clone());
    assert_eq!(begun[..2], ["data/a", "data/stop"], "{begun:?}");
    site.stop().await;
}

#[tokio::test]
async fn whoever_asks_while_a_backlog_drains_is_heard_before_it_has_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cloud, gate) = gated();
    let (site, at) = with_backlog(folder.path(), &cloud, |_| ()).await;
    let works = async {
        until("two are under way", || cloud.with(|cloud| cloud.begun.len()) == 2).await;
        write(at, "new").await;
        let mut second = pin!(site.force_sync());
        assert!(second.as_mut().now_or_never().is_none(), "it takes its time");
        gate.add_permits(2);
        // Those two have gone, and nothing else: three are left.
        let told = || cloud.with(|cloud| cloud.reports.last().map(|request| request.report.backlog_points));
        until("the control plane is told", || told() == Some(3)).await;
        gate.add_permits(10);
        second.await.expect("running")
    };
    let (first, second) = tokio::join!(site.force_sync(), works);
    assert!(first.is_ok_and(|sync| sync.success));
    assert_eq!((second.success, second.points_pending), (true, 0), "what is new went, too");
    assert_eq!(cloud.with(|cloud| cloud.begun.len()), 5);
    site.stop().await;
}

#[tokio::test]
async fn until_when_it_will_have_gone_counts_the_wait_for_the_bandwidth() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    // Some seconds for a batch.
    let slow = |config: &mut GatewayConfig| config.sync_bytes_per_second = Some(100);
    let (site, _) = with_backlog(folder.path(), &cloud, slow).await;
    assert_eq!(site.get_status().await.expect("running").drain_estimate, None, "nobody knows");
    let first = async {
        loop {
            let status = site.get_status().await.expect("running");
            if let Some(estimate) = status.drain_estimate {
                return (status.pending_sync_count, estimate);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (pending, estimate) = tokio::select! {
        _ = site.force_sync() => panic!("it takes longer"),
        first = tokio::time::timeout(Duration::from_secs(20), first) => first.expect("it is known"),
    };
    assert_eq!(pending, 3);
    assert!((3.0..60.0).contains(&estimate), "three times more than a second: {estimate}");
    site.stop().await;
}

#[tokio::test]
async fn the_control_plane_is_told_and_heard_while_batches_are_under_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cloud, gate) = gated();
    // What came of pipelines is told after three seconds, rather than after a minute.
    let text = "pipelines:\n  - name: all\n    steps:\n      - emit: {stream: data/all}\n".to_owned();
    let digest = Digest::of(text.as_bytes());
    let pipelines = Some(GivenPipelines { digest, from: "rooms".to_owned(), text: Some(text) });
    cloud.with(|cloud| cloud.config = Some(DeviceConfig { pipelines, ..DeviceConfig::default() }));
    let (site, at) = beginning(folder.path(), &cloud, |_| ()).await;
    fill(at).await;
    let works = async {
        until("two are under way", || cloud.with(|cloud| cloud.begun.len()) == 2).await;
        let before = cloud.with(|cloud| {
            cloud.force = Some("now".to_owned());
            // The link is full of batches, and the first time it does not come through.
            cloud.deaf = 1;
            cloud.reports.len()
        });
        until("it is told", || cloud.with(|cloud| cloud.reports.len()) > before).await;
        assert_eq!(cloud.with(|cloud| cloud.begun.len()), 2, "nothing has arrived yet");
        gate.add_permits(100);
        let told = || cloud.with(|cloud| cloud.reports.iter().any(|report| !report.forced.is_empty()));
        until("what was asked for is told", told).await;
    };
    let (sync, ()) = tokio::join!(site.force_sync(), works);
    assert!(sync.is_ok_and(|sync| sync.success), "that is no failure while batches go");
    site.stop().await;
}
