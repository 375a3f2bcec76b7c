//! The gateway as a Rust program has it.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_domain::document::{DocumentError, Rule, Strategy as ConflictStrategy};
use farshore_journal::{Config, Journal, JournalError, StreamName, StreamStats};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::clock;
use crate::config::{CleanupStrategy, GatewayConfig, SyncStrategy};

use crate::counters::{Counters, Observed};
use crate::documents::task::Exchanger;
use crate::documents::{Documents, DocumentsError};
use crate::http;
use crate::ingest::{Ingest, lock};
use crate::losses::{self, Losses};
use crate::mqtt;
use crate::pipeline::{
    DataProcessor, Definition, Delivered, GIVE_UP_AFTER, MAX_CALLS, Places, ProcessingStatus, Recovery,
    Runner, Settings, Source, call_webhooks, forget,
};
use crate::point::{Point, PointError};
use crate::process;
use crate::ready::{self, Listening, WriteProbe};
use crate::status::{DataPoint, GatewayStatus, Health, HealthStatus, StreamStatus, SyncResult};
use crate::streams;
use crate::sync::{Forced, ProcessingReport, Sender, SyncState, Uplink, ingest_key_on_disk};

const MB: u64 = 1024 * 1024;
/// How long a stop waits for requests that are under way.
const STOP: Duration = Duration::from_secs(10);

/// Why the gateway could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    #[error("the settings are wrong: {}", .0.join("; "))]
    Settings(Vec<String>),
    #[error("the gateway isn't running; call start() first")]
    NotRunning,
    #[error("the gateway is running already")]
    Running,
    #[error("the folder {folder} can't be made")]
    Folder {
        folder: String,
        #[source]
        source: std::io::Error,
    },
    #[error("can't listen on {address} for {what}")]
    Listen {
        what: &'static str,
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS for MQTT can't be set up from {file}")]
    TlsFile {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS for MQTT can't be set up")]
    Tls(#[source] farshore_trust::tls::TlsError),
    #[error("the pipelines can't be taken: {0}")]
    Pipelines(String),
    #[error("the signals that end it can't be listened to")]
    Signals(#[source] std::io::Error),
    #[error("the reading isn't taken")]
    Point(#[source] PointError),
    #[error("the journal did not take it")]
    Journal(#[source] JournalError),
    #[error("the documents can't be used")]
    Documents(#[source] DocumentsError),
}

/// Changes for [`EdgeGateway::configure`]; what is not given stays.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub batch_size: Option<u32>,
    pub worker_threads: Option<usize>,
    pub sync_strategy: Option<SyncStrategy>,
    pub sync_interval: Option<Duration>,
    pub max_records: Option<u64>,
    /// Whether points are processed here: by the file of pipelines, or, where there is none, into aggregates of all series.
    pub local_analytics: Option<bool>,
    /// Taken so that programs that set it go on as they are, and without effect: nothing is collected to be cleaned up at intervals. What was
    /// delivered goes when that is acknowledged, and what is beyond the bounds or too old goes within a second.
    pub cleanup_interval: Option<Duration>,
    /// Taken so that programs that set it go on as they are, and without effect: the journal is no database and nobody waits for a lock on it. A
    /// second process that opens it gets an error at once, and readings that the disk does not keep up with are refused with the time to come again.
    pub db_timeout: Option<Duration>,
}

/// When a change holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// From the next [`EdgeGateway::start`].
    AtStart,
    /// It always was so.
    Already,
}

/// A gateway: takes readings by HTTP, MQTT and [`send_data`](Self::send_data), and keeps them until the cloud has them.
#[derive(Debug)]
pub struct EdgeGateway {
    config: Mutex<GatewayConfig>,
    uplink: Option<Arc<dyn Uplink>>,
    processor: Option<Arc<dyn DataProcessor>>,
    running: tokio::sync::Mutex<Option<Running>>,
    shared: Mutex<Option<Arc<Shared>>>,
    /// What decides conflicts of documents where the tenant has said nothing.
    conflict_rule: Mutex<Option<Rule>>,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    addresses: Addresses,
    _processing: Closing,
}

/// Processing that ends with whatever holds this: a start that came to nothing, or a gateway that was dropped.
#[derive(Debug)]
struct Closing(Option<Arc<Runner>>);

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(runner) = self.0.take() {
            runner.close();
        }
    }
}

/// Where it listens, with the ports that the system chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub http: Option<std::net::SocketAddr>,
    pub mqtt: Option<std::net::SocketAddr>,
    pub mqtt_tls: Option<std::net::SocketAddr>,
}

/// What requests and messages share while the gateway runs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: GatewayConfig,
    pub(crate) journal: Journal,
    /// What the journal was told of its streams.
    streams: Config,
    pub(crate) documents: Documents,
    pub(crate) ingest: Ingest,
    pub(crate) counters: Arc<Counters>,
    pub(crate) mqtt: mqtt::Sessions,
    pub(crate) hub: Arc<mqtt::Hub>,
    /// Nothing where points are only kept, and nobody can give pipelines.
    pub(crate) processing: Option<Arc<Runner>>,
    /// What the control plane gave.
    pub(crate) delivered: Arc<Delivered>,
    pub(crate) mqtt_stream: StreamName,
    pub(crate) broker: mqtt::subscriber::BrokerState,
    pub(crate) sync: SyncState,
    /// Asks the sender to send everything now; nothing where there is no sender.
    force: Option<mpsc::Sender<Forced>>,
    pub(crate) recent: http::idempotency::Recent,
    pub(crate) listening: Listening,
    pub(crate) probe: WriteProbe,
    pub(crate) losses: Losses,
    started_wall_ns: i64,
    started_mono_ns: i64,
    cpu: Mutex<CpuSample>,
}

#[derive(Debug)]
struct CpuSample {
    at_mono_ns: i64,
    cpu_ns: i64,
    percent: f64,
}

impl EdgeGateway {
    /// A gateway that is not running yet.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn new(config: GatewayConfig) -> Result<Self, GatewayError> {
        config.check().map_err(GatewayError::Settings)?;
        Ok(Self {
            config: Mutex::new(config),
            uplink: None,
            processor: None,
            running: tokio::sync::Mutex::default(),
            shared: Mutex::default(),
            conflict_rule: Mutex::default(),
        })
    }

    /// The same gateway with a way to a control plane, to which it sends what its journal has.
    #[must_use]
    pub fn with_uplink(self, uplink: Arc<dyn Uplink>) -> Self {
        Self { uplink: Some(uplink), ..self }
    }

    /// The same gateway with processing written in Rust, besides that of the pipelines.
    #[must_use]
    pub fn with_processor(self, processor: Arc<dyn DataProcessor>) -> Self {
        Self { processor: Some(processor), ..self }
    }

    /// Opens the journal and starts to listen.
    ///
    /// # Errors
    /// When the journal can't be opened or an address is taken.
    pub async fn start(&self) -> Result<(), GatewayError> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Err(GatewayError::Running);
        }
        let config = lock(&self.config).clone();
        config.check().map_err(GatewayError::Settings)?;
        make_folder(&config)?;
        let documents = Documents::open(&config.folder).map_err(GatewayError::Documents)?;
        documents.set_wish(lock(&self.conflict_rule).clone());
        let off = config.local_analytics == Some(false);
        let closed = off.then_some("ENABLE_LOCAL_ANALYTICS=false: this device processes nothing");
        let delivered =
            Arc::new(Delivered::open(&config.folder, closed, config.pipeline_webhook_allow.clone()));
        let places = Places {
            delivered: Arc::clone(&delivered),
            file: config.pipeline_file.clone(),
            window: config.processes().then_some(config.aggregation_window),
            context: config.pipeline_context_file.clone(),
            documents: documents.clone(),
            allow: config.pipeline_webhook_allow.clone(),
        };
        let prepared = prepare_processing(&config, self.processor.clone(), places, self.uplink.is_some())?;
        let follower = prepared.as_ref().map(|(runner, _)| Arc::clone(runner));
        let (journal, streams) = open_journal(&config, follower)?;
        let hub = Arc::new(mqtt::Hub::default());
        let (calls, to_call) = mpsc::channel(MAX_CALLS);
        let processing = match prepared {
            None => {
                forget(&config.folder);
                None
            }
            Some((runner, recovery)) => {
                if !runner.is_active() {
                    forget(&config.folder);
                }
                runner
                    .start(journal.clone(), Arc::clone(&hub), calls, recovery)
                    .map_err(|error| GatewayError::Pipelines(error.to_string()))?;
                Some(runner)
            }
        };
        let closing = Closing(processing.clone());
        let counters = Arc::new(Counters::default());
        let (force, forced) = mpsc::channel(16);
        let shared = Arc::new(Shared {
            ingest: Ingest::new(
                journal.clone(),
                Arc::clone(&counters),
                config.max_series,
                processing.clone(),
            ),
            journal,
            streams,
            documents,
            counters,
            mqtt: mqtt::Sessions::default(),
            hub,
            processing,
            delivered,
            mqtt_stream: stream(streams::MQTT)?,
            broker: mqtt::subscriber::BrokerState::default(),
            sync: SyncState::default(),
            force: self.uplink.is_some().then_some(force),
            recent: http::idempotency::Recent::open(&config.folder).map_err(GatewayError::Journal)?,
            listening: Listening::default(),
            probe: WriteProbe::default(),
            losses: Losses::default(),
            started_wall_ns: clock::wall_ns(),
            started_mono_ns: clock::mono_ns(),
            cpu: Mutex::new(CpuSample {
                at_mono_ns: clock::mono_ns(),
                cpu_ns: process::cpu_ns(),
                percent: 0.0,
            }),
            config,
        });
        let config = &shared.config;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut addresses = Addresses::default();
        if let Some(address) = config.http {
            let (listener, at) = listen("HTTP", address).await?;
            addresses.http = Some(at);
            tasks.spawn(http::serve(listener, Arc::clone(&shared), stopped.clone()));
        }
        if let Some(address) = config.mqtt {
            let (listener, at) = listen("MQTT", address).await?;
            addresses.mqtt = Some(at);
            tasks.spawn(mqtt::serve(listener, None, Arc::clone(&shared), stopped.clone()));
        }
        if let Some((address, files)) = &config.mqtt_tls {
            let tls = mqtt::tls_acceptor(files)?;
            let (listener, at) = listen("MQTT over TLS", *address).await?;
            addresses.mqtt_tls = Some(at);
            tasks.spawn(mqtt::serve(listener, Some(tls), Arc::clone(&shared), stopped.clone()));
        }
        if let Some(broker) = &config.broker {
            let tls = broker.ca.as_deref().map(mqtt::subscriber::tls).transpose()?;
            tasks.spawn(mqtt::subscriber::run(Arc::clone(&shared), broker.clone(), tls, stopped.clone()));
        }
        tasks.spawn(ready::watch(Arc::clone(&shared), stopped.clone()));
        tasks.spawn(losses::watch(Arc::clone(&shared), stopped.clone()));
        if let Some(runner) = &shared.processing {
            tasks.spawn(call_webhooks(Arc::clone(runner), to_call, stopped.clone()));
        }
        if let Some(uplink) = &self.uplink {
            let sender = Sender::new(Arc::clone(&shared), Arc::clone(uplink));
            tasks.spawn(sender.run(stopped.clone(), forced));
            let exchanger = Exchanger {
                documents: shared.documents.clone(),
                uplink: Arc::clone(uplink),
                strategy: config.sync_strategy,
                interval: config.sync_interval,
            };
            tasks.spawn(exchanger.run(stopped));
        }
        tracing::info!(device = %config.device_id, http = addresses.http.map(tracing::field::display), mqtt = addresses.mqtt.map(tracing::field::display), mqtt_tls = addresses.mqtt_tls.map(tracing::field::display), folder = %config.folder.display(), "the gateway takes readings");
        if self.uplink.is_none() && (config.cloud_url.is_some() || config.cloud_api_key.is_some()) {
            tracing::warn!("{}", without_uplink(config));
        }
        *lock(&self.shared) = Some(shared);
        *running = Some(Running { stop, tasks, addresses, _processing: closing });
        Ok(())
    }

    /// Where it listens; nothing while it is not running.
    pub async fn addresses(&self) -> Option<Addresses> {
        self.running.lock().await.as_ref().map(|running| running.addresses)
    }

    /// Ends what is under way, writes what waits and closes the journal. Nothing that was acknowledged is lost without it, too.
    /// Returns whether everything ended by itself; else what still went on after ten seconds was cut off.
    pub async fn stop(&self) -> bool {
        let Some(mut running) = self.running.lock().await.take() else { return true };
        // Nobody listens any more where the tasks have ended by themselves.
        let _ = running.stop.send(true);
        let ended = async { while running.tasks.join_next().await.is_some() {} };
        let by_itself = tokio::time::timeout(STOP, ended).await.is_ok();
        if !by_itself {
            tracing::warn!("some connections did not end in time and are cut off");
        }
        running.tasks.shutdown().await;
        let shared = lock(&self.shared).take();
        if let Some(shared) = shared {
            let closed = tokio::task::spawn_blocking(move || {
                if let Some(processing) = &shared.processing {
                    processing.close();
                }
                shared.journal.close();
                shared.recent.close();
            })
            .await;
            if let Err(error) = closed {
                tracing::error!(%error, "the journal could not be closed");
            }
        }
        by_itself
    }

    fn shared(&self) -> Result<Arc<Shared>, GatewayError> {
        lock(&self.shared).clone().ok_or(GatewayError::NotRunning)
    }

    /// Keeps a reading. `true`: it is durable, whatever happens now (taken, where the program itself has set the stream `data/default` to be not durable).
    ///
    /// # Errors
    /// When it isn't taken: keep it and try again.
    pub async fn send_data(&self, data: DataPoint) -> Result<bool, GatewayError> {
        let shared = self.shared()?;
        let mut point = Point {
            measurement: data.sensor_id.into(),
            tags: data.tags.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            fields: vec![("value".into(), data.value)],
            time_ns: data.timestamp_ns,
        };
        if let Some(unit) = data.unit {
            point.tags.push(("unit".into(), unit.into()));
        }
        let stream = default_stream()?;
        let taken = shared.ingest.point(None, &stream, &mut point).map_err(GatewayError::Point)?;
        shared.ingest.durable(taken).await.map_err(GatewayError::Journal)?;
        Ok(true)
    }

    /// # Errors
    /// When it is not running.
    pub async fn get_status(&self) -> Result<GatewayStatus, GatewayError> {
        Ok(self.shared()?.status())
    }

    /// How the pipelines stand; nothing where there are none.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn processing(&self) -> Result<Option<ProcessingStatus>, GatewayError> {
        Ok(self.shared()?.processing.as_ref().and_then(|processing| processing.status()))
    }

    /// # Errors
    /// When it is not running.
    pub async fn health_check(&self) -> Result<HealthStatus, GatewayError> {
        Ok(self.shared()?.health())
    }

    /// Sends what waits, now.
    ///
    /// # Errors
    /// When it is not running. That the cloud can't be reached is no error but the result.
    pub async fn force_sync(&self) -> Result<SyncResult, GatewayError> {
        Ok(self.shared()?.force_sync().await)
    }

    /// Changes settings; they hold from the next start.
    ///
    /// # Errors
    /// When the result would be wrong; nothing is changed then.
    pub fn configure(&self, options: &Options) -> Result<Applied, GatewayError> {
        self.change(|config| {
            config.batch_size = options.batch_size.map(|points| points.max(1)).or(config.batch_size);
            config.worker_threads = options.worker_threads.unwrap_or(config.worker_threads).clamp(1, 64);
            config.sync_strategy = options.sync_strategy.unwrap_or(config.sync_strategy);
            config.sync_interval = options.sync_interval.unwrap_or(config.sync_interval);
            config.max_queue_points = options.max_records.or(config.max_queue_points);
            config.local_analytics = options.local_analytics.or(config.local_analytics);
        })
    }

    /// How much is kept for the cloud, and what gives way beyond that; from the next start.
    ///
    /// # Errors
    /// When a bound is zero.
    pub fn configure_retention(
        &self,
        max_days: Option<u32>,
        max_records: Option<u64>,
        cleanup: CleanupStrategy,
    ) -> Result<Applied, GatewayError> {
        self.change(|config| {
            config.max_age = max_days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
            config.max_queue_points = max_records;
            config.cleanup = cleanup;
        })
    }

    /// How hard batches are packed before they are sent, from 1 (fast) to 9 (small); from the next start. Batches are always packed.
    ///
    /// # Errors
    /// When it is another level.
    pub fn enable_compression(&self, level: u8) -> Result<Applied, GatewayError> {
        if !(1..=9).contains(&level) {
            return Err(GatewayError::Settings(vec![format!("a compression level is 1 to 9, not {level}")]));
        }
        self.change(|config| config.compression_level = Some(level))
    }

    /// Readings that are stored and what is sent are always encrypted: there is nothing to switch on, and it can't be switched off. Documents are stored as
    /// they are, in a file that nobody but the gateway's user may read.
    ///
    /// # Errors
    /// When it is to be switched off.
    pub fn enable_encryption(&self, at_rest: bool, in_transit: bool) -> Result<Applied, GatewayError> {
        if at_rest && in_transit {
            return Ok(Applied::Already);
        }
        Err(GatewayError::Settings(vec![
            "encryption can't be switched off, neither of readings that are stored nor of what is sent"
                .to_owned(),
        ]))
    }

    /// The documents of this device.
    ///
    /// # Errors
    /// When it is not running.
    pub fn documents(&self) -> Result<Documents, GatewayError> {
        Ok(self.shared()?.documents.clone())
    }

    /// What decides where this device and the cloud changed the same part of a document: `last-write-wins`, `cloud-wins`, `edge-wins`, `merge` or
    /// `manual`; for `custom` there is [`set_conflict_resolver`](Self::set_conflict_resolver). The control plane decides by it in collections for which
    /// the tenant has set no rules; at once, without a new start.
    ///
    /// # Errors
    /// When there is no such strategy.
    pub fn set_conflict_resolution_strategy(&self, strategy: &str) -> Result<(), GatewayError> {
        let strategy = strategy.parse().map_err(wrong_rule)?;
        self.set_conflict_rule(Rule { strategy, ..Rule::default() })
    }

    /// The same by a CEL expression over `base`, `edge` and `cloud` (`null` where there is none), `edgeTime`, `cloudTime` and `path`, such as
    /// `edge.timestamp > cloud.timestamp ? edge : cloud`. A resolver that fails leaves the conflict to be decided by hand.
    ///
    /// # Errors
    /// When it does not compile; with the line and the reason.
    pub fn set_conflict_resolver(&self, expression: &str) -> Result<(), GatewayError> {
        let resolver = Some(expression.to_owned());
        self.set_conflict_rule(Rule { strategy: ConflictStrategy::Custom, resolver, ..Rule::default() })
    }

    fn set_conflict_rule(&self, rule: Rule) -> Result<(), GatewayError> {
        rule.check().map_err(wrong_rule)?;
        *lock(&self.conflict_rule) = Some(rule.clone());
        if let Some(shared) = lock(&self.shared).as_ref() {
            shared.documents.set_wish(Some(rule));
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut GatewayConfig)) -> Result<Applied, GatewayError> {
        let mut config = lock(&self.config);
        let mut changed = config.clone();
        change(&mut changed);
        changed.check().map_err(GatewayError::Settings)?;
        *config = changed;
        Ok(Applied::AtStart)
    }
}

/// Why a gateway sends nothing that has no way to a control plane.
fn without_uplink(config: &GatewayConfig) -> &'static str {
    if config.cloud_url.is_some() || config.cloud_api_key.is_some() {
        "an address or a key of the cloud is set, and this program has given the gateway no uplink, so that nothing is sent: call \
         EdgeGateway::with_uplink, with farshore_agent::DeviceUplink for one; readings are kept here"
    } else {
        "no control plane is set; readings are kept here"
    }
}

fn wrong_rule(error: DocumentError) -> GatewayError {
    GatewayError::Settings(vec![error.0])
}

/// The stream of readings that name none.
pub(crate) fn default_stream() -> Result<StreamName, GatewayError> {
    stream(streams::DEFAULT)
}

fn stream(name: &str) -> Result<StreamName, GatewayError> {
    name.parse()
        .map_err(|error: farshore_journal::StreamNameError| GatewayError::Settings(vec![error.to_string()]))
}

async fn listen(
    what: &'static str,
    address: std::net::SocketAddr,
) -> Result<(TcpListener, std::net::SocketAddr), GatewayError> {
    let failed = |source| GatewayError::Listen { what, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    Ok((listener, at))
}

/// Opens the journal as the settings ask, and makes it when it is not there. Also what it was told.
///
/// # Errors
/// When its folder can't be made or another process has it.
pub(crate) fn open_journal(
    config: &GatewayConfig,
    follower: Option<Arc<Runner>>,
) -> Result<(Journal, Config), GatewayError> {
    make_folder(config)?;
    let free = process::free_bytes(&config.folder).unwrap_or(2 * 1024 * MB);
    let max_bytes = config.max_bytes.unwrap_or_else(|| (free / 2).clamp(64 * MB, 10 * 1024 * MB));
    let mut settings = Config {
        max_bytes,
        // Of a small journal a small part, or nothing would be left for readings.
        alert_reserve_bytes: (max_bytes / 8).min(8 * MB),
        backfill: config.backfill,
        ingest_key: ingest_key_on_disk(&config.folder),
        segment_points: config.batch_size,
        ..streams::for_journal(config)
    };
    if let Some(level) = config.compression_level {
        settings.zstd_level = zstd_level(level);
    }
    let journal = match follower {
        None => Journal::open(&config.folder, settings.clone()),
        Some(follower) => Journal::open_followed(&config.folder, settings.clone(), follower),
    };
    Ok((journal.map_err(GatewayError::Journal)?, settings))
}

/// Nobody else may look into it. Folders above it that are not there either may be for others, too.
fn make_folder(config: &GatewayConfig) -> Result<(), GatewayError> {
    let above = config.folder.parent().map_or(Ok(()), fs::create_dir_all);
    above
        .and_then(|()| fs::DirBuilder::new().mode(0o700).recursive(true).create(&config.folder))
        .map_err(|source| GatewayError::Folder { folder: config.folder.display().to_string(), source })
}

/// Reads the pipelines, and where they were when the gateway ended. Changes nothing that another gateway could be using. `may_be_given`: there may be
/// pipelines later.
fn prepare_processing(
    config: &GatewayConfig,
    processor: Option<Arc<dyn DataProcessor>>,
    places: Places,
    may_be_given: bool,
) -> Result<Option<(Arc<Runner>, Recovery)>, GatewayError> {
    let off = config.local_analytics == Some(false);
    if off && processor.is_none() {
        return Ok(None);
    }
    let (source, definition) =
        if off { (Source::none(), None) } else { Source::open(places).map_err(GatewayError::Pipelines)? };
    let active = definition.is_some() || processor.is_some();
    if !active && !may_be_given {
        return Ok(None);
    }
    let outputs = definition.as_ref().map(Definition::outputs).unwrap_or_default();
    let recovery = Recovery::read(&config.folder, &outputs, active)
        .map_err(|error| GatewayError::Pipelines(error.to_string()))?;
    let settings = Settings {
        folder: config.folder.clone(),
        source,
        processor,
        max_series: 4 * config.max_series,
        give_up_after: GIVE_UP_AFTER,
    };
    Ok(Some((Arc::new(Runner::new(settings, definition.as_ref())), recovery)))
}

/// The level of zstd that takes about as long as this level of gzip would.
fn zstd_level(gzip: u8) -> i32 {
    match gzip {
        0..=2 => 1,
        3 => 2,
        4..=6 => 3,
        7 => 6,
        8 => 9,
        _ => 12,
    }
}

/// Makes the journal's folder and looks whether it can be opened: `--init-db`.
///
/// # Errors
/// When it can't.
pub fn init_db(config: &GatewayConfig) -> Result<(), GatewayError> {
    open_journal(config, None)?.0.close();
    Ok(())
}

impl Shared {
    pub(crate) fn uptime_seconds(&self) -> u64 {
        u64::try_from((clock::mono_ns() - self.started_mono_ns) / 1_000_000_000).unwrap_or(0)
    }

    fn oldest_age_s(&self, oldest_ns: Option<i64>) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
        oldest_ns.map(|oldest| (clock::wall_ns().saturating_sub(oldest)).max(0) as f64 / 1e9)
    }

    /// Sends what waits, now, and says what came of it.
    pub(crate) async fn force_sync(&self) -> SyncResult {
        let (tell, told) = oneshot::channel();
        if let Some(force) = &self.force
            && force.send(tell).await.is_ok()
            && let Ok(result) = told.await
        {
            return result;
        }
        let status = self.status();
        SyncResult {
            success: status.pending_sync_count == 0,
            points_sent: 0,
            points_pending: status.pending_sync_count,
            error: (status.pending_sync_count > 0).then_some(status.sync_note).flatten(),
        }
    }

    /// What the control plane is told of processing.
    pub(crate) fn processing_report(&self) -> Option<ProcessingReport> {
        let status = self.processing.as_ref().and_then(|processing| processing.status());
        crate::pipeline::report(status.as_ref(), self.delivered.refused())
    }

    /// Whether the journal takes writes at this moment; if not, why.
    pub(crate) async fn can_write(self: &Arc<Self>) -> Result<(), String> {
        let journal = self.journal.clone();
        let answer = self.probe.ask(clock::mono_ns(), move || journal.probe()).await;
        self.ingest.taking.probed(&answer);
        answer
    }

    pub(crate) fn status(&self) -> GatewayStatus {
        let stats = self.journal.stats();
        let sync = self.sync.seen(stats.pending_points());
        let note = match &self.force {
            None => Some(without_uplink(&self.config).to_owned()),
            Some(_) => sync.last_error,
        };
        GatewayStatus {
            device_id: self.config.device_id.clone(),
            device_name: self.config.device_name.clone(),
            is_online: sync.online,
            pending_sync_count: stats.pending_points(),
            pending_bytes: stats.bytes,
            oldest_unsent_age: self.oldest_age_s(stats.oldest_ns()),
            drain_estimate: sync.drain.map(|drain| drain.as_secs_f64()),
            last_sync_time: sync.last_sync_ns.map(clock::rfc3339),
            failed_sync_count: self.counters.sync_failures.get(),
            refused_batches: sync.refused_batches,
            sync_note: note,
            refusal: self.ingest.taking.refusal(clock::mono_ns()),
            metered_link: sync.costs,
            broker: self.config.broker.as_ref().map(|broker| self.broker.status(broker)),
            streams: stats.streams.iter().map(|(name, stream)| self.stream_status(name, stream)).collect(),
            losses: self.losses.newest(),
            processing: self.processing.as_ref().and_then(|processing| processing.status()),
        }
    }

    fn stream_status(&self, name: &StreamName, stream: &StreamStats) -> StreamStatus {
        let settings = streams::settings_of(&self.streams, name);
        let bound = |bound: u64| (bound < u64::MAX).then_some(bound);
        StreamStatus {
            name: name.to_string(),
            class: stream.class.as_str(),
            durable: settings.durability.is_durable(),
            durability: streams::durability_text(settings.durability),
            overflow: streams::overflow_text(settings.overflow),
            max_bytes: bound(settings.bounds.bytes),
            max_points: bound(settings.bounds.points),
            max_age_s: bound(settings.bounds.age.as_secs()),
            pending_points: stream.pending_points,
            pending_bytes: stream.pending_bytes,
            lost_points: stream.lost.values().sum(),
            lost: stream.lost.iter().map(|(reason, points)| (reason.as_str(), *points)).collect(),
        }
    }

    /// Share of one processor since it was asked before, at least a second ago.
    fn cpu_percent(&self) -> f64 {
        let mut sample = lock(&self.cpu);
        let (at_mono_ns, cpu_ns) = (clock::mono_ns(), process::cpu_ns());
        let passed = at_mono_ns.saturating_sub(sample.at_mono_ns);
        if passed >= 1_000_000_000 {
            #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
            let percent = (cpu_ns.saturating_sub(sample.cpu_ns)) as f64 * 100.0 / passed as f64;
            *sample = CpuSample { at_mono_ns, cpu_ns, percent: (percent * 10.0).round() / 10.0 };
        }
        sample.percent
    }

    pub(crate) fn health(&self) -> HealthStatus {
        let stats = self.journal.stats();
        let lost = stats
            .streams
            .values()
            .any(|stream| stream.lost_bytes > 0 || stream.lost.values().any(|lost| *lost > 0));
        let sync = self.sync.seen(stats.pending_points());
        #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
        let mb = |bytes: u64| (bytes as f64 / MB as f64 * 10.0).round() / 10.0;
        HealthStatus {
            status: match self.ingest.taking.refusal(clock::mono_ns()) {
                Some(_) => Health::Unhealthy,
                None if lost => Health::Degraded,
                None => Health::Healthy,
            },
            device_id: self.config.device_id.clone(),
            is_online: sync.online,
            pending_sync_count: stats.pending_points(),
            last_sync: sync.last_sync_ns.map(clock::rfc3339),
            uptime_seconds: self.uptime_seconds(),
            local_storage_mb: mb(stats.bytes),
            cpu_percent: self.cpu_percent(),
            memory_mb: mb(process::rss_bytes().unwrap_or(0)),
        }
    }

    pub(crate) fn metrics(&self) -> String {
        let stats = self.journal.stats();
        let wall = clock::wall_ns().saturating_sub(self.started_wall_ns);
        let mono = clock::mono_ns().saturating_sub(self.started_mono_ns);
        let lost = stats.streams.iter().flat_map(|(name, stream)| {
            stream.lost.iter().map(|(reason, points)| (name.to_string(), reason.as_str(), *points))
        });
        let sync = self.sync.seen(stats.pending_points());
        #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
        let clock_offset_s = (wall.saturating_sub(mono)) as f64 / 1e9;
        self.counters.render(&Observed {
            queue_points: stats.pending_points(),
            queue_bytes: stats.bytes,
            oldest_age_s: self.oldest_age_s(stats.oldest_ns()),
            drain_s: sync.drain.map(|drain| drain.as_secs_f64()),
            online: sync.online,
            refused_batches: sync.refused_batches,
            clock_offset_s,
            rebased: stats.rebased,
            future_times: stats.future_times,
            lost: lost.collect(),
            lost_bytes: stats
                .streams
                .iter()
                .filter(|(_, stream)| stream.lost_bytes > 0)
                .map(|(name, stream)| (name.to_string(), stream.lost_bytes))
                .collect(),
            mqtt_connections: self.mqtt.connections(),
            broker: self.config.broker.as_ref().map(|broker| self.broker.status(broker).connected),
            mqtt_deliveries: self.hub.counts(),
            processing: self.processing.as_ref().and_then(|processing| processing.status()),
        })
    }
}
