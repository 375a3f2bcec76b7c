use std::time::Duration;

use farshore_gateway::config::{CleanupStrategy, SyncStrategy};
use farshore_gateway::{Applied, DataPoint, EdgeGateway, GatewayConfig, GatewayError, Health, Options};

use crate::support::{Site, points_in};

#[tokio::test]
async fn a_program_sends_and_asks() {
    let site = Site::new().await;
    let point = DataPoint::new("temp-01", 23.5).unit("celsius").tag("location", "warehouse-A");
    assert!(site.gateway.send_data(point).await.expect("taken"));
    let status = site.gateway.get_status().await.expect("running");
    assert!(!status.is_online && status.pending_sync_count == 1 && status.last_sync_time.is_none());
    assert!(status.oldest_unsent_age.expect("something waits") < 60.0);
    let health = site.gateway.health_check().await.expect("running");
    assert_eq!((health.status, health.pending_sync_count), (Health::Healthy, 1));
    let sync = site.gateway.force_sync().await.expect("running");
    assert!(!sync.success && sync.points_pending == 1 && sync.error.is_some());
    let bad = site.gateway.send_data(DataPoint::new("", 1.0)).await;
    assert!(matches!(bad, Err(GatewayError::Point(_))), "{bad:?}");
    let bad = site.gateway.send_data(DataPoint::new("a", f64::NAN)).await;
    assert!(matches!(bad, Err(GatewayError::Point(_))), "{bad:?}");
    assert!(matches!(site.gateway.start().await, Err(GatewayError::Running)));
    assert!(site.gateway.stop().await, "nothing had to be cut off");
    assert!(matches!(site.gateway.get_status().await, Err(GatewayError::NotRunning)));
    assert!(matches!(site.gateway.send_data(DataPoint::new("a", 1.0)).await, Err(GatewayError::NotRunning)));
    assert_eq!(points_in(&site.journal_folder()), 1);
    site.gateway.start().await.expect("again");
    assert_eq!(site.pending().await, 1);
}

#[tokio::test]
async fn settings_hold_from_the_next_start() {
    let site = Site::new().await;
    let options = Options {
        batch_size: Some(500),
        worker_threads: Some(4),
        sync_strategy: Some(SyncStrategy::OnChange),
        sync_interval: Some(Duration::from_secs(5)),
        max_records: Some(10),
        local_analytics: Some(true),
        cleanup_interval: Some(Duration::from_secs(3600)),
        db_timeout: Some(Duration::from_secs(30)),
    };
    assert_eq!(site.gateway.configure(&options).expect("valid"), Applied::AtStart);
    let kept = site.gateway.configure_retention(Some(7), Some(50_000), CleanupStrategy::Reject);
    assert_eq!(kept.expect("valid"), Applied::AtStart);
    assert_eq!(site.gateway.enable_compression(9).expect("valid"), Applied::AtStart);
    assert!(matches!(site.gateway.enable_compression(10), Err(GatewayError::Settings(_))));
    assert_eq!(site.gateway.enable_encryption(true, true).expect("it is so"), Applied::Already);
    assert!(matches!(site.gateway.enable_encryption(false, true), Err(GatewayError::Settings(_))));
    let never = site.gateway.configure_retention(Some(0), None, CleanupStrategy::OldestFirst);
    assert!(matches!(never, Err(GatewayError::Settings(_))));
    let none = site.gateway.configure(&Options { max_records: Some(0), ..Options::default() });
    assert!(matches!(none, Err(GatewayError::Settings(_))), "each reading would be taken and dropped");
}

#[test]
fn bounds_in_which_nothing_fits_are_refused() {
    for change in [
        (|config| config.max_queue_points = Some(0)) as fn(&mut GatewayConfig),
        |config| config.max_age = Some(Duration::ZERO),
        |config| config.max_bytes = Some(1024 * 1024 - 1),
        |config| config.max_series = 0,
        |config| config.batch_size = Some(0),
    ] {
        let mut config = GatewayConfig::new("small", "/tmp/never-made");
        change(&mut config);
        assert!(matches!(EdgeGateway::new(config), Err(GatewayError::Settings(_))));
    }
}

#[tokio::test]
async fn local_analytics_are_switched_on_and_off_for_the_next_start() {
    let site = Site::new().await;
    for on in [true, false] {
        let options = Options { local_analytics: Some(on), ..Options::default() };
        assert_eq!(site.gateway.configure(&options).expect("valid"), Applied::AtStart);
        site.gateway.stop().await;
        site.gateway.start().await.expect("again");
        let processing = site.gateway.processing().await.expect("running");
        assert_eq!(processing.map(|processing| processing.source), on.then_some("aggregates"));
    }
}

#[tokio::test]
async fn a_program_that_sets_an_address_and_gives_no_uplink_is_told() {
    let note = async |site: &Site| site.gateway.get_status().await.expect("running").sync_note;
    let plain = note(&Site::new().await).await.expect("a note");
    assert!(!plain.contains("with_uplink"), "{plain}");
    let site = Site::with(|config| config.cloud_url = Some("https://cloud.example".to_owned())).await;
    let told = note(&site).await.expect("a note");
    assert!(told.contains("EdgeGateway::with_uplink") && told.contains("DeviceUplink"), "{told}");
    let answer = site.gateway.force_sync().await.expect("running");
    assert!(answer.success, "nothing waits");
}

#[tokio::test]
async fn two_gateways_do_not_share_a_journal() {
    let site = Site::new().await;
    let mut config = GatewayConfig::new("other", site.journal_folder());
    config.http = None;
    config.mqtt = None;
    let other = EdgeGateway::new(config).expect("settings");
    assert!(matches!(other.start().await, Err(GatewayError::Journal(_))));
}

#[test]
fn a_gateway_that_is_open_to_the_network_needs_credentials() {
    let mut config = GatewayConfig::new("open", "/tmp/never-made");
    config.http = Some(([0, 0, 0, 0], 8000).into());
    assert!(matches!(EdgeGateway::new(config), Err(GatewayError::Settings(_))));
}
