//! Readings go into a gateway by HTTP and come out of `farshore series`, each once, whoever is killed meanwhile and however bad the link is.
//!
//! Only what the gateway acknowledged is counted, and nothing is sent while the gateway is dead: counts are exact.

use std::time::Duration;

use serde_json::Value;

use crate::Random;
use crate::proxy::Proxy;
use crate::site::{Site, long};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_of_an_outage_arrive_once_whoever_is_killed_while_they_drain() {
    let points = if long() { 500 } else { 20 };
    let mut random = Random(11);
    let mut site = Site::start().await;
    site.send(10);
    site.settled().await;

    // An outage: readings are taken as ever, and wait.
    site.kill_control();
    for _ in 0..5 {
        site.send(40);
    }
    assert!(site.health().unwrap()["pending_sync_count"].as_u64() > Some(0));
    site.restart_control();
    site.settled().await;
    let status = site.json(&["sync", "status"]);
    let gateway = &status["items"][0];
    assert_eq!(gateway["receivedPoints"], site.sent.0, "{status}");
    assert_eq!((&gateway["location"], &gateway["lostPoints"]), (&"Riga".into(), &0.into()), "{status}");

    let mut killed = [0, 0];
    for crash in 0..points {
        for _ in 0..1 + random.below(4) {
            site.send(1 + random.below(50));
        }
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        let control = random.below(2) == 0;
        eprintln!(
            "crash {crash}: {} after {} readings",
            if control { "control plane" } else { "gateway" },
            site.sent.0
        );
        killed[usize::from(control)] += 1;
        if control { site.restart_control() } else { site.restart_gateway().await }
    }
    site.drained().await;
    site.tell_figures(killed);
    site.settled().await;

    // Another key for what comes now; what came before is still read.
    site.farshore(&["sync", "rotate-key"]).expect("a new key");
    site.send(5);
    site.settled().await;
    // The latest value is the last one.
    let latest = site.json(&["get", "series"]);
    let temp = latest["items"].as_array().unwrap().iter().find(|item| item["measurement"] == "temp").unwrap();
    assert_eq!((&temp["value"], &temp["tags"]["room"]), (&site.sent.0.into(), &"a".into()), "{latest}");
    // A device that is revoked sends nothing any more, and keeps what it takes.
    let device = gateway_name(&status);
    site.farshore(&["device", "revoke", &device]).expect("revoked");
    site.send(3);
    site.until("the refusal", || {
        let status: Value = serde_json::from_str(&site.curl(&[&site.url("/api/status")])?).ok()?;
        status["sync_note"].as_str()?.contains("refused this device").then_some(())
    })
    .await;
    assert_eq!(site.health().unwrap()["pending_sync_count"], 3);
}

fn gateway_name(status: &Value) -> String {
    status["items"][0]["deviceName"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_refuses_delays_and_cuts_off_loses_and_doubles_nothing() {
    let mut site = Site::control().await;
    let proxy = Proxy::start(site.device_port(), 5).await;
    // With a key, by another address than the one in it.
    site.key(proxy.port);
    site.set("CONNECTION_TIMEOUT_SECONDS", "1");
    site.set("BATCH_SIZE", "20");
    site.start_gateway().await;
    let mut random = Random(3);
    let seen = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    // Connections, refused, nowhere, cut, held back.
    let told = || {
        let all = [
            &proxy.seen.connections,
            &proxy.seen.refused,
            &proxy.seen.nowhere,
            &proxy.seen.cut,
            &proxy.seen.held_back,
        ];
        all.map(seen)
    };
    let bad_enough = |told: [u64; 5]| told[1] > 0 && told[3] > 3 && told[4] > 0;
    // How much of the link a round meets depends on how busy the machine is.
    let (least, most) = if long() { (800, 800) } else { (60, 600) };
    for round in 0..most {
        if round >= least && bad_enough(told()) {
            break;
        }
        for _ in 0..1 + random.below(3) {
            site.send(1 + random.below(80));
        }
        // Somebody who asks now does not wait for the longest pause; whether it went, the link decides.
        if round % 4 == 0 {
            site.force_sync();
        }
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
    }
    let told = told();
    eprintln!("connections, refused, nowhere, cut, held back: {told:?}");
    assert!(bad_enough(told), "the link was too good: {told:?}");
    proxy.calm();
    site.until("everything sent", || site.force_sync().then_some(())).await;
    site.settled().await;
    let keys = site.json(&["get", "gateway-keys"]);
    assert_eq!(keys["items"][0]["spec"]["device"], "hall", "{keys}");
    assert!(keys["items"][0]["status"]["lastUsedAt"].is_number(), "{keys}");
    // Without its key it keeps what it takes.
    let name = keys["items"][0]["metadata"]["name"].as_str().unwrap();
    site.farshore(&["delete", "gateway-key", name]).expect("deleted");
    site.send(3);
    assert!(!site.force_sync());
    assert_eq!(site.health().unwrap()["pending_sync_count"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_outage_drains_with_live_readings_between_and_each_arrives_once() {
    const STEP_NS: u64 = 1_000_000_000;
    let rate = if long() { 1_000 } else { 50 };
    let mut site = Site::start().await;
    site.send(1);
    site.settled().await;
    site.kill_control();
    #[expect(clippy::disallowed_methods, reason = "readings say when they were taken")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let begin = u64::try_from(now.as_nanos()).unwrap() - 3_600 * STEP_NS;
    // An hour of readings, as fast as they go in, a hundred seconds at a time.
    let mut first = site.sent.0 + 1;
    for chunk in 0..36 {
        let mut lines = String::new();
        for n in 0..100 * rate {
            let at = begin + (chunk * 100 * rate + n) * (STEP_NS / rate);
            lines.push_str(&format!("temp,room=a value={}i {at}\n", first + n));
        }
        let sum = (first..first + 100 * rate).sum::<u64>();
        site.write(&lines).expect("acknowledged");
        site.sent = (site.sent.0 + 100 * rate, site.sent.1 + sum);
        first += 100 * rate;
    }
    assert_eq!(site.health().unwrap()["pending_sync_count"], 3_600 * rate);
    site.restart_control();
    for _ in 0..10 {
        site.send(5);
    }
    site.until("everything sent", || site.force_sync().then_some(())).await;
    site.settled().await;
}
