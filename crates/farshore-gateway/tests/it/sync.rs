//! The sender, against a cloud that stores by hand and says what it is told to say. Whether the real one stores once is tested with the real one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farshore_gateway::config::SyncStrategy;
use farshore_gateway::sync::{
    DeviceConfig, Exchange, IngestKeyName, StreamMark, SyncAnswer, SyncRequest, Uplink, UplinkError,
};
use farshore_gateway::{DataPoint, EdgeGateway, GatewayConfig};
use farshore_journal::Outgoing;
use farshore_trust::sealed::{Batch, IngestKey};
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Cloud(Mutex<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    keys: Vec<IngestKey>,
    /// Points by stream and number.
    stored: BTreeMap<(String, u64), u32>,
    twice: u32,
    /// What the next batches are answered; when it is empty, they are stored.
    pub(crate) say: VecDeque<Option<UplinkError>>,
    /// Stores and says that it did not arrive.
    mute: bool,
    /// So many questions get lost.
    pub(crate) deaf: u32,
    /// What it wants done.
    pub(crate) force: Option<String>,
    pub(crate) reports: Vec<SyncRequest>,
    /// The streams of the batches that were begun, in order.
    pub(crate) begun: Vec<String>,
    /// Where there is one, each batch needs a place.
    pub(crate) gate: Option<Arc<Semaphore>>,
    /// What the device is given.
    pub(crate) config: Option<DeviceConfig>,
}

impl Cloud {
    pub(crate) fn new() -> Arc<Self> {
        let key = IngestKey::generate().expect("a key");
        Arc::new(Self(Mutex::new(Inner {
            keys: vec![key],
            stored: BTreeMap::new(),
            twice: 0,
            say: VecDeque::new(),
            mute: false,
            deaf: 0,
            force: None,
            reports: Vec::new(),
            begun: Vec::new(),
            gate: None,
            config: None,
        })))
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn points(&self) -> u32 {
        self.with(|cloud| cloud.stored.values().sum())
    }
}

impl Inner {
    fn take(&mut self, batch: &Outgoing) -> Result<bool, UplinkError> {
        if let Some(Some(error)) = self.say.pop_front() {
            return Err(error);
        }
        let sealed = Batch::read(&batch.bytes).expect("a batch");
        let key = self.keys.iter().find(|key| Some(key.public().id()) == batch.sealed_for());
        let Some(key) = key else { return Err(UplinkError::OtherKey) };
        sealed.open(key).expect("it opens");
        let name = (batch.stream.to_string(), batch.sequence);
        let fresh = self.stored.insert(name, batch.points).is_none();
        self.twice += u32::from(!fresh);
        if self.mute { Err(UplinkError::Unreachable("cut off".to_owned())) } else { Ok(fresh) }
    }
}

impl Uplink for Cloud {
    fn ask<'a>(&'a self, request: &'a SyncRequest) -> Exchange<'a, SyncAnswer> {
        let answer = self.with(|cloud| {
            if let Some(left) = cloud.deaf.checked_sub(1) {
                cloud.deaf = left;
                return Err(UplinkError::Unreachable("lost".to_owned()));
            }
            cloud.reports.push(request.clone());
            // Done is done.
            if request.forced.iter().any(|forced| Some(&forced.operation) == cloud.force.as_ref()) {
                cloud.force = None;
            }
            let mut streams: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
            for (stream, sequence) in cloud.stored.keys() {
                streams.entry(stream).or_default().push((*sequence, *sequence));
            }
            let key = cloud.keys.last().expect("a key").public();
            let public_key = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            let mark = |(stream, above): (&str, _)| StreamMark { stream: stream.to_owned(), floor: 1, above };
            Ok(SyncAnswer {
                ingest_key: IngestKeyName { public_key },
                streams: streams.into_iter().map(mark).collect(),
                force_sync: cloud.force.clone(),
                config: cloud.config.clone(),
            })
        });
        Box::pin(async move { answer })
    }

    fn put<'a>(&'a self, batch: &'a Outgoing) -> Exchange<'a, bool> {
        let gate = self.with(|cloud| {
            cloud.begun.push(batch.stream.to_string());
            cloud.gate.clone()
        });
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.expect("open").forget();
            }
            self.with(|cloud| cloud.take(batch))
        })
    }
}

async fn gateway(folder: &std::path::Path, cloud: &Arc<Cloud>) -> EdgeGateway {
    with_strategy(folder, cloud, SyncStrategy::FixedInterval).await
}

async fn with_strategy(folder: &std::path::Path, cloud: &Arc<Cloud>, strategy: SyncStrategy) -> EdgeGateway {
    with(folder, cloud, |config| config.sync_strategy = strategy).await
}

pub(crate) async fn with(
    folder: &std::path::Path,
    cloud: &Arc<Cloud>,
    change: impl FnOnce(&mut GatewayConfig),
) -> EdgeGateway {
    let mut config = GatewayConfig::new("gw", folder.join("journal"));
    config.http = None;
    config.mqtt = None;
    config.sync_interval = Duration::from_secs(3600);
    config.max_retry_attempts = 0;
    change(&mut config);
    let gateway =
        EdgeGateway::new(config).expect("settings").with_uplink(Arc::clone(cloud) as Arc<dyn Uplink>);
    gateway.start().await.expect("a gateway");
    gateway
}

async fn send(gateway: &EdgeGateway, points: usize) {
    for n in 0..points {
        gateway.send_data(DataPoint::new("temp", n as f64)).await.expect("taken");
    }
}

/// A device that belongs to nobody.
#[derive(Debug)]
struct Nobody;

impl Uplink for Nobody {
    fn ask<'a>(&'a self, _: &'a SyncRequest) -> Exchange<'a, SyncAnswer> {
        Box::pin(async { Err(UplinkError::Unclaimed("there is no identity".to_owned())) })
    }

    fn put<'a>(&'a self, _: &'a Outgoing) -> Exchange<'a, bool> {
        Box::pin(async { Err(UplinkError::Unclaimed("there is no identity".to_owned())) })
    }
}

#[tokio::test]
async fn a_gateway_of_nobody_counts_no_failed_exchanges() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = GatewayConfig::new("alone", folder.path().join("journal"));
    (config.http, config.mqtt) = (None, None);
    let gateway = EdgeGateway::new(config).expect("settings").with_uplink(Arc::new(Nobody));
    gateway.start().await.expect("a gateway");
    let sync = gateway.force_sync().await.expect("running");
    assert!(sync.error.is_some_and(|why| why.contains("no identity")));
    let status = gateway.get_status().await.expect("running");
    assert_eq!((status.failed_sync_count, status.is_online), (0, false));
    assert!(status.sync_note.is_some_and(|note| note.contains("no identity")));
    gateway.stop().await;
}

#[tokio::test]
async fn what_waits_is_sent_on_demand_and_forgotten_and_a_lost_acknowledgement_doubles_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = gateway(folder.path(), &cloud).await;
    send(&site, 3).await;
    let sync = site.force_sync().await.expect("running");
    assert!(sync.success && sync.points_pending == 0, "{sync:?}");
    assert_eq!(cloud.points(), 3);
    // It arrives, and nobody hears of it.
    cloud.with(|cloud| cloud.mute = true);
    send(&site, 4).await;
    let sync = site.force_sync().await.expect("running");
    assert!(
        !sync.success && sync.error.as_deref().is_some_and(|error| error.contains("cut off")),
        "{sync:?}"
    );
    let status = site.get_status().await.expect("running");
    assert!(!status.is_online && status.sync_note.is_some_and(|note| note.contains("cut off")));
    cloud.with(|cloud| cloud.mute = false);
    // Also across a restart: it asks first.
    site.stop().await;
    let site = gateway(folder.path(), &cloud).await;
    let sync = site.force_sync().await.expect("running");
    assert!(sync.success && sync.points_pending == 0, "{sync:?}");
    assert_eq!(
        (cloud.points(), cloud.with(|cloud| cloud.twice)),
        (7, 0),
        "it was asked for and not sent again"
    );
    let status = site.get_status().await.expect("running");
    assert!(status.is_online && status.last_sync_time.is_some() && status.drain_estimate == Some(0.0));
    site.stop().await;
}

#[tokio::test]
async fn who_asks_again_is_told_of_the_points_of_that_exchange_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = gateway(folder.path(), &cloud).await;
    // From here on nothing goes by itself.
    assert!(site.force_sync().await.expect("running").success);
    for points in [1, 1, 3, 0] {
        send(&site, points).await;
        let sync = site.force_sync().await.expect("running");
        assert_eq!((sync.success, sync.points_sent), (true, points as u64), "{sync:?}");
    }
    site.stop().await;
}

#[tokio::test]
async fn what_the_control_plane_asks_for_is_done_once_and_told_with_how_it_went() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    // Over a link that costs: it is sent all the same.
    let start =
        async || with(folder.path(), &cloud, |config| config.metered_interfaces = vec!["*".to_owned()]).await;
    let told = || {
        cloud.with(|cloud| cloud.reports.iter().flat_map(|report| report.forced.clone()).collect::<Vec<_>>())
    };
    let wait = async |count: usize| {
        let all = async {
            while told().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.expect("it is told");
    };
    let site = start().await;
    send(&site, 3).await;
    site.stop().await;
    // It is heard with the first exchange.
    cloud.with(|cloud| cloud.force = Some("one".to_owned()));
    let site = start().await;
    wait(1).await;
    assert_eq!((cloud.points(), told()[0].operation.as_str(), told()[0].points_sent), (3, "one", 3));
    assert_eq!((told()[0].points_pending, told()[0].error.clone()), (0, None));
    // It can't be sent: that is told as soon as anything can be.
    send(&site, 2).await;
    site.stop().await;
    cloud.with(|cloud| {
        cloud.say.push_back(Some(UplinkError::Refused("no".to_owned())));
        cloud.force = Some("two".to_owned());
    });
    let site = start().await;
    wait(2).await;
    let second = told().remove(1);
    assert_eq!((second.operation.as_str(), second.points_sent), ("two", 0));
    assert!(second.error.is_some_and(|error| error.contains("no")));
    assert_eq!(told().len(), 2, "each once");
    site.stop().await;
}

#[tokio::test]
async fn points_that_can_not_be_sealed_yet_are_no_success_and_go_when_they_can_be_without_being_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    // What processing remembers can't be written.
    let in_the_way = folder.path().join("journal/pipeline.state.new");
    std::fs::create_dir_all(&in_the_way).expect("a folder");
    let cloud = Cloud::new();
    let site = with(folder.path(), &cloud, |config| config.local_analytics = Some(true)).await;
    send(&site, 3).await;
    let sync = site.force_sync().await.expect("running");
    assert!(!sync.success && sync.points_pending == 3 && cloud.points() == 0, "{sync:?}");
    assert!(sync.error.as_deref().is_some_and(|error| error.contains("processing")), "{sync:?}");
    std::fs::remove_dir(&in_the_way).expect("removed");
    let sent = async {
        while cloud.points() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), sent).await.expect("long before its interval of an hour");
    let sync = site.force_sync().await.expect("running");
    assert!(sync.success, "{sync:?}");
    site.stop().await;
}

#[tokio::test]
async fn one_batch_that_can_never_be_read_is_set_aside_and_blocks_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = gateway(folder.path(), &cloud).await;
    assert!(site.force_sync().await.expect("running").success);
    cloud.with(|cloud| cloud.say.push_back(Some(UplinkError::BadBatch("nonsense".to_owned()))));
    send(&site, 5).await;
    assert!(site.force_sync().await.expect("running").success);
    send(&site, 2).await;
    // The next one takes the loss along.
    assert!(site.force_sync().await.expect("running").success);
    let status = site.get_status().await.expect("running");
    assert_eq!((status.refused_batches, status.pending_sync_count), (1, 0));
    let lost: u64 = status.streams.iter().map(|stream| stream.lost_points).sum();
    assert_eq!(lost, 5);
    let stored: Vec<(String, u32)> = cloud
        .with(|cloud| cloud.stored.iter().map(|((stream, _), points)| (stream.clone(), *points)).collect());
    assert_eq!(stored, [("data/default".to_owned(), 2), ("journal/losses".to_owned(), 4)]);
    let aside = std::fs::read_dir(folder.path().join("journal/quarantine")).expect("a folder").count();
    assert_eq!(aside, 1);
    let told =
        cloud.with(|cloud| cloud.reports.last().map(|request| request.report.clone())).expect("a report");
    assert_eq!((told.refused_batches, told.lost_points, told.backlog_points), (1, 5, 0));
    site.stop().await;
}

#[tokio::test]
async fn an_alert_leaves_at_once_and_readings_at_their_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = with_strategy(folder.path(), &cloud, SyncStrategy::Adaptive).await;
    assert!(site.force_sync().await.expect("running").success);
    // A refused batch is a loss, and losses are alerts.
    send(&site, 5).await;
    cloud.with(|cloud| cloud.say.push_back(Some(UplinkError::BadBatch("nonsense".to_owned()))));
    assert!(site.force_sync().await.expect("running").success);
    send(&site, 3).await;
    let told = async {
        while cloud.points() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), told).await.expect("the loss is told before anybody asks");
    let streams: Vec<String> =
        cloud.with(|cloud| cloud.stored.keys().map(|(stream, _)| stream.clone()).collect());
    assert_eq!(streams, ["journal/losses"], "readings wait for company");
    site.stop().await;
}

#[tokio::test]
async fn over_a_link_that_costs_only_alerts_go_unless_somebody_asks() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = with(folder.path(), &cloud, |config| {
        config.sync_strategy = SyncStrategy::OnChange;
        // Any link.
        config.metered_interfaces = vec!["*".to_owned()];
    })
    .await;
    send(&site, 5).await;
    assert!(site.force_sync().await.expect("running").success);
    assert_eq!(cloud.points(), 5, "who asks has it sent");
    assert!(site.get_status().await.expect("running").metered_link.is_some());
    // A loss is an alert; what comes with it stays.
    cloud.with(|cloud| cloud.say.push_back(Some(UplinkError::BadBatch("nonsense".to_owned()))));
    send(&site, 2).await;
    assert!(site.force_sync().await.expect("running").success);
    send(&site, 3).await;
    let told = async {
        // Until it is acknowledged, too.
        while cloud.points() == 5 || site.get_status().await.expect("running").pending_sync_count > 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.expect("the loss is told");
    assert_eq!(cloud.points(), 9, "four points of a loss, and no reading");
    assert_eq!(site.get_status().await.expect("running").pending_sync_count, 3);
    site.stop().await;
}

#[tokio::test]
async fn what_was_sealed_for_another_key_is_sealed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = gateway(folder.path(), &cloud).await;
    assert!(site.force_sync().await.expect("running").success);
    send(&site, 5).await;
    // The cloud has another key, and the old one no more.
    cloud.with(|cloud| cloud.keys = vec![IngestKey::generate().expect("a key")]);
    let first = site.force_sync().await.expect("running");
    let second = site.force_sync().await.expect("running");
    assert!(second.success && second.points_pending == 0, "{first:?} {second:?}");
    assert_eq!((cloud.points(), cloud.with(|cloud| cloud.twice)), (5, 0));
    site.stop().await;
}

#[tokio::test]
async fn whoever_asks_to_wait_is_waited_for_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let cloud = Cloud::new();
    let site = gateway(folder.path(), &cloud).await;
    assert!(site.force_sync().await.expect("running").success);
    for error in [
        UplinkError::Later { why: "busy".to_owned(), after: Some(Duration::from_secs(1)) },
        UplinkError::NoSync,
        UplinkError::Refused("revoked".to_owned()),
    ] {
        send(&site, 1).await;
        cloud.with(|cloud| cloud.say.push_back(Some(error.clone())));
        let sync = site.force_sync().await.expect("running");
        assert_eq!((sync.success, sync.error), (false, Some(error.to_string())));
    }
    let sync = site.force_sync().await.expect("running");
    assert!(sync.success && sync.points_pending == 0, "{sync:?}");
    assert_eq!(cloud.points(), 3);
    site.stop().await;
}
