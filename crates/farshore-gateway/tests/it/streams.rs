//! Streams with settings of their own, from a file.

use farshore_gateway::{Class, Durability, Overflow, StreamSettings, Streams};

use crate::support::{Site, points_in};

async fn site(text: &str) -> Site {
    let streams = Streams::parse(text).expect("good");
    Site::with(|config| config.streams = streams).await
}

#[tokio::test]
async fn each_stream_says_what_an_acknowledgement_means_in_it() {
    let site = site("streams: {data/fast: {durability: memory, overflow: thin(1m), maxAge: 3d}, data/log: {class: log, maxRecords: 9}}").await;
    for stream in ["fast", "log", "other"] {
        let path = format!("/api/data?stream={stream}");
        let answer = site.send("POST", &path, &[], br#"{"sensor_id":"a","value":1}"#).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let status = site.send("GET", "/api/status", &[], b"").await.json();
    let of = |name: &str| {
        let streams = status["streams"].as_array().expect("streams");
        streams.iter().find(|stream| stream["name"] == name).expect(name).clone()
    };
    let fast = of("data/fast");
    assert_eq!((fast["durable"].as_bool(), fast["durability"].as_str()), (Some(false), Some("memory")));
    assert_eq!((fast["overflow"].as_str(), fast["max_age_s"].as_u64()), (Some("thin(60s)"), Some(259_200)));
    let log = of("data/log");
    assert_eq!((log["class"].as_str(), log["durability"].as_str()), (Some("log"), Some("group(20)")));
    assert_eq!((log["max_points"].as_u64(), of("data/other")["max_points"].as_u64()), (Some(9), None));
    let page = site.send("GET", "/", &[], b"").await.text();
    assert!(page.contains("<td>data/fast</td><td>telemetry</td><td>taken, not durable</td>"), "{page}");
    site.gateway.stop().await;
    assert_eq!(points_in(&site.journal_folder()), 3, "an orderly end keeps it all");
}

#[tokio::test]
async fn at_its_bounds_a_stream_does_what_it_was_told_and_others_do_not() {
    let site = site("streams: {data/newest: {overflow: drop-newest, maxRecords: 10}, data/full: {overflow: reject, maxRecords: 10}}").await;
    let send = async |stream: &str, count: usize| {
        let mut statuses = Vec::new();
        for number in 0..count {
            let path = format!("/api/v2/write?bucket={stream}");
            statuses.push(site.send("POST", &path, &[], format!("m v={number}").as_bytes()).await.status);
        }
        statuses
    };
    assert_eq!(send("newest", 15).await, [204; 15]);
    let full = send("full", 12).await;
    assert_eq!((full[9], full[10], full[11]), (204, 503, 503));
    assert_eq!(send("other", 15).await, [204; 15]);
    let streams = site.gateway.get_status().await.expect("running").streams;
    let of = |name: &str| streams.iter().find(|stream| stream.name == name).expect("a stream");
    assert_eq!((of("data/newest").pending_points, of("data/newest").lost_points), (10, 5));
    assert_eq!((of("data/full").pending_points, of("data/full").lost_points), (10, 0));
    assert_eq!(of("data/other").pending_points, 15);
}

#[tokio::test]
async fn what_a_stream_can_never_hold_is_refused_and_costs_nothing_that_is_there() {
    let site = site("streams: {data/small: {maxRecords: 100}}").await;
    let lines = |count: usize| "m v=1\n".repeat(count).into_bytes();
    let path = "/api/v2/write?bucket=small";
    assert_eq!(site.send("POST", path, &[], &lines(100)).await.status, 204);
    let answer = site.send("POST", path, &[], &lines(101)).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("keeps at most 100 points"), "{}", answer.text());
    // Many at once that fit one by one: the oldest go, and nothing that is new.
    let half = lines(50);
    let all = (0..8).map(|_| site.send("POST", path, &[], &half));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.status, 204);
    }
    let status = site.gateway.get_status().await.expect("running");
    let small = status.streams.iter().find(|stream| stream.name == "data/small").expect("a stream");
    assert_eq!(small.lost.keys().copied().collect::<Vec<_>>(), ["drop-oldest"]);
    assert_eq!((small.pending_points + small.lost_points, small.pending_points), (500, 100));
}

#[tokio::test]
async fn losses_are_on_the_page_with_reason_and_times() {
    let site = site("streams: {data/newest: {overflow: drop-newest, maxRecords: 1}}").await;
    let page = site.send("GET", "/", &[], b"").await.text();
    assert!(!page.contains("Losses"), "{page}");
    for seconds in [1_760_000_000, 1_760_000_001] {
        let line = format!("m v=1 {seconds}");
        let answer = site.send("POST", "/api/v2/write?bucket=newest&precision=s", &[], line.as_bytes()).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    let shown = async {
        while site.gateway.get_status().await.expect("running").losses.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), shown).await.expect("it is read");
    let page = site.send("GET", "/", &[], b"").await.text();
    let status = site.send("GET", "/api/status", &[], b"").await.json();
    let losses = status["streams"].as_array().expect("streams").last().expect("a stream").clone();
    assert_eq!(
        (losses["name"].as_str(), losses["overflow"].as_str()),
        (Some("journal/losses"), Some("reject"))
    );
    let row = "<td>data/newest</td><td>drop-newest</td><td class=\"n\">1</td>";
    assert!(page.contains(&format!("<tr>{row}</tr>")), "{page}");
    let times = "<td>2025-10-09T08:53:21Z</td><td>2025-10-09T08:53:21Z</td></tr>";
    assert!(page.contains(&format!("{row}{times}")), "{page}");
}

#[test]
fn what_a_program_sets_is_checked_as_well() {
    let mut config = farshore_gateway::GatewayConfig::new("wrong", "/tmp/never-made");
    let settings = StreamSettings {
        class: Some(Class::Document),
        durability: Some(Durability::Os),
        overflow: Some(Overflow::Thin(std::time::Duration::ZERO)),
        ..StreamSettings::default()
    };
    config.streams.0.insert("data/mqtt".parse().expect("a name"), settings);
    assert_eq!(config.check().expect_err("wrong").len(), 3);
    config.streams = Streams::default();
    config.durability = Durability::Memory;
    assert_eq!(config.check().expect_err("for all streams").len(), 1);
}
