//! A disk that fills up, and more at once than there is room for.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use farshore_gateway::{EdgeGateway, GatewayConfig, Health};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Site, points_in, send};

/// A small filesystem in memory; only root may have one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        eprintln!("no filesystem of its own can be mounted here: only root may; the test ends");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(gone.is_ok_and(|status| status.success()), "the small disk stays mounted");
    }
}

#[tokio::test]
async fn a_full_disk_is_told_loses_nothing_and_heals_by_itself() {
    let Some(disk) = SmallDisk::new("4m") else { return };
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![1_u8; 3 * 1024 * 1024]).expect("room");
    let journal = disk.path().join("journal");
    let mut config = GatewayConfig::new("full", &journal);
    config.http = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.mqtt = None;
    let gateway = EdgeGateway::new(config).expect("settings");
    gateway.start().await.expect("a gateway");
    let at = gateway.addresses().await.and_then(|addresses| addresses.http).expect("HTTP");
    // Noise, so that it can't be packed away.
    let mut number: u64 = 1;
    let mut body = || {
        let mut lines = String::new();
        for _ in 0..500 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            lines.push_str(&format!("m v={}.{}\n", number >> 40, number & 0xffff_ffff));
        }
        lines
    };
    let (mut acknowledged, mut sent, mut refused) = (0_u64, 0_u64, None);
    for _ in 0..400 {
        sent += 500;
        let answer = send(at, "POST", "/api/v2/write", &[], body().as_bytes()).await;
        match answer.status {
            204 => acknowledged += 500,
            _ => {
                refused = Some(answer);
                break;
            }
        }
    }
    let refused = refused.expect("4 MB are full sooner or later");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(
        refused.head.contains("retry-after: 30") && refused.text().contains("disk is full"),
        "{refused:?}"
    );
    assert!(acknowledged > 0);
    // The gateway lives, and says what it can't do, also before anybody asks whether it is ready.
    let health = send(at, "GET", "/health", &[], b"").await;
    assert_eq!((health.status, &health.json()["status"]), (200, &serde_json::json!("unhealthy")));
    let page = send(at, "GET", "/", &[], b"").await.text();
    assert!(page.contains("does not take readings") && page.contains("the disk is full"), "{page}");
    let ready = send(at, "GET", "/ready", &[], b"").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("disk is full"), "{}", ready.text());
    let status = gateway.get_status().await.expect("running");
    assert!(status.pending_sync_count >= acknowledged);
    // Room again: nobody has to start anything anew.
    std::fs::remove_file(&filler).expect("removed");
    let answer = send(at, "POST", "/api/v2/write", &[], body().as_bytes()).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    (acknowledged, sent) = (acknowledged + 500, sent + 500);
    assert_eq!(send(at, "GET", "/ready", &[], b"").await.status, 200);
    let health = send(at, "GET", "/health", &[], b"").await.json();
    assert_eq!(health["status"], serde_json::json!("healthy"), "{health}");
    gateway.stop().await;
    let kept = points_in(&journal);
    assert!((acknowledged..=sent).contains(&kept), "{acknowledged} acknowledged, {kept} kept, {sent} sent");
}

#[tokio::test]
async fn a_disk_that_has_room_again_is_noticed_without_anybody_who_sends_or_asks_for_it() {
    let Some(disk) = SmallDisk::new("2m") else { return };
    let mut config = GatewayConfig::new("full", disk.path().join("journal"));
    config.http = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.mqtt = None;
    let gateway = EdgeGateway::new(config).expect("settings");
    gateway.start().await.expect("a gateway");
    let at = gateway.addresses().await.and_then(|addresses| addresses.http).expect("HTTP");
    let filler = disk.path().join("filler");
    // As much as there is room for: the rest of the write fails.
    let filled = std::fs::write(&filler, vec![1_u8; 3 * 1024 * 1024]);
    assert!(filled.is_err());
    assert_eq!(send(at, "GET", "/ready", &[], b"").await.status, 503);
    let state = async || gateway.health_check().await.expect("running").status;
    assert_eq!(state().await, Health::Unhealthy);
    std::fs::remove_file(&filler).expect("removed");
    let healed = async {
        while state().await != Health::Healthy {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), healed).await.expect("it is well again");
    gateway.stop().await;
}

#[tokio::test]
async fn too_many_large_bodies_at_once_are_told_to_wait() {
    let site = Site::new().await;
    let address = site.at.http.expect("HTTP");
    // None of them sends the end of its body: there is room for two.
    let held = (0..4).map(|_| {
        Box::pin(async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let length = 16 * 1024 * 1024;
            let head =
                format!("POST /api/v2/write HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sent");
            // It may be refused before all is sent.
            let _ = stream.write_all(&vec![b'\n'; length - 1]).await;
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        })
    });
    let (answer, _, held) = futures_util::future::select_all(held).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert_eq!(site.send("POST", "/api/v2/write", &[], b"m v=1").await.status, 204, "small ones go on");
    drop(held);
}

#[tokio::test]
async fn a_stream_that_rejects_is_full_with_a_reason() {
    let site = Site::with(|config| {
        config.max_queue_points = Some(100);
        config.cleanup = farshore_gateway::config::CleanupStrategy::Reject;
    })
    .await;
    for _ in 0..100 {
        assert_eq!(site.send("POST", "/api/v2/write", &[], b"m v=1").await.status, 204);
    }
    let answer = site.send("POST", "/api/v2/write", &[], b"m v=1").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("stream data/default is full"), "{}", answer.text());
    let health = site.send("GET", "/health", &[], b"").await.json();
    assert_eq!(health["status"], serde_json::json!("unhealthy"), "{health}");
    assert_eq!(site.pending().await, 100);
}

#[tokio::test]
async fn the_smallest_journal_takes_readings() {
    let site = Site::with(|config| config.max_bytes = Some(1024 * 1024)).await;
    let answer = site.send("POST", "/api/v2/write", &[], b"m v=1").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(site.pending().await, 1);
}
