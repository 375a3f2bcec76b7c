//! The device at work: one loop that hears, decides, keeps, acts and reports.
//!
//! Generic over who carries decisions out ([`Executor`]) and where things are kept ([`Journal`]), so that a virtual fleet runs this very
//! code. One task holds all state; what takes long runs beside it and comes back as a [`Done`]. Offline it goes on the same way.

mod desired;
mod events;
mod health;
mod hear;
mod incidents;
mod kernel;
mod operate;
mod operations;
mod policy;
mod report;
mod stalls;
mod turn;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use farshore_domain::connectivity::Monitor;
use farshore_domain::desired::Generation;
use farshore_domain::device::Hardware;
use farshore_domain::digest::Digest;
use farshore_domain::id::IncidentId;
use farshore_domain::incident::{Book, Part};
use farshore_domain::name::Name;
use farshore_domain::reconcile::{Busy, DeviceState, DeviceView, MonoMs, Observed, Outcome};
use farshore_domain::release::Manifest;
use farshore_domain::time::UnixMs;
use farshore_protocol::{self as wire, AgentFrame, agent_frame};
use farshore_series::BlockBuilder;
use farshore_trust::keyset::{self, SignedKeySet, TrustedKeySet};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::claim;
use crate::clock;
use crate::executor::{Executor, ExecutorError, ProbeAnswer};
use crate::eyes::{Eyes, Look, Source, Sources, keep_watching};
use crate::identity::Identity;
use crate::journal::{Change, EVENTS, INCIDENTS, Journal, JournalError, STATE};
use crate::link;
use crate::pressure;
use crate::runner::{RunnerClient, Signed};
use desired::{Desired, Rules, StoredDesired};
use health::{AllHealth, Due};

/// The stream of host metrics.
const HOST: &str = "host";
/// Batches of one stream that are on their way without an acknowledgement.
const WINDOW: usize = 8;
/// Live samples for at most this long without being asked again.
const MAX_LIVE_SECONDS: u32 = 600;
/// Numbers beyond this are no sequence of this device.
const MAX_SEQUENCE: u64 = 1 << 53;

/// Measures the host. One for each rhythm, because rates are taken over the time since the last sample.
pub trait Sampler: Send {
    /// Names and values at a moment.
    fn sample(&mut self, at: UnixMs, mono: MonoMs) -> Vec<(&'static str, f64)>;
}

/// Why an agent can't go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("what must not be forgotten can't be kept")]
    Journal(#[from] JournalError),
    #[error("{0} in the journal is damaged")]
    Damaged(&'static str),
}

impl AgentError {
    /// Whether the journal itself is damaged: to go on would make it worse.
    fn is_damage(&self) -> bool {
        matches!(self, Self::Journal(error) if error.is_damage())
    }
}

/// How an agent behaves, besides what the control plane says.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// How often the executor is asked what runs: while something is under way, and while nothing is.
    pub busy_poll: Duration,
    pub idle_poll: Duration,
    /// Until the control plane says otherwise.
    pub sample_every: Duration,
    pub batch_every: Duration,
    /// Where to write what `farshore-agent status` shows.
    pub status_file: Option<PathBuf>,
    /// An incident ends once its app was well for this long.
    pub incident_settle: Duration,
    pub hardware: Hardware,
    pub boot_id: String,
    /// Where the runner is asked to tell what the kernel tells; `None` for a device without a kernel of its own.
    pub watch: Option<RunnerClient>,
    /// Where the kernel is asked to tell of stalls; `None` for the same.
    pub pressure: Option<PathBuf>,
    pub(crate) eyes: Eyes,
}

impl AgentSettings {
    /// The settings of a real device.
    #[must_use]
    pub fn new(hardware: Hardware) -> Self {
        Self {
            busy_poll: Duration::from_millis(250),
            idle_poll: Duration::from_secs(5),
            sample_every: Duration::from_secs(10),
            batch_every: Duration::from_secs(60),
            status_file: None,
            incident_settle: Duration::from_secs(60),
            hardware,
            boot_id: clock::boot_id(),
            watch: None,
            pressure: None,
            eyes: Eyes::default(),
        }
    }
}

/// What a task beside the loop brought.
#[derive(Debug)]
enum Done {
    Listed(u64, Result<BTreeMap<Name, Observed>, ExecutorError>),
    Connected(Result<Vec<String>, ExecutorError>),
    Outcome {
        app: Name,
        staging: bool,
        acting: bool,
        outcome: Option<Outcome>,
        error: Option<ExecutorError>,
    },
    Probed {
        app: Name,
        due: Due,
        answer: ProbeAnswer,
    },
    Operation(wire::OperationUpdate),
    /// The device is on its way down.
    Rebooting,
    Obeyed(Result<(), ExecutorError>),
    /// What is not wanted any more of what was fetched is gone.
    Pruned(Result<(), ExecutorError>),
    Evidence(incidents::Gathered),
}

struct Live {
    until: MonoMs,
    every_ms: i64,
    next: MonoMs,
    sampler: Box<dyn Sampler>,
    usage: usage::Usage,
}

/// A connection that has said `welcome`.
struct Session {
    outbox: mpsc::Sender<AgentFrame>,
    welcomed: bool,
    /// The control plane's clock minus this boot's clock.
    server_offset: i64,
    sent: BTreeMap<String, u64>,
    /// The control plane takes incidents.
    incidents: bool,
    /// The control plane keeps the stream of operations.
    operations: bool,
    /// The control plane shows events that are not kept to whoever looks.
    live_events: bool,
    heartbeat_ms: i64,
    next_heartbeat: MonoMs,
    reported: Option<wire::StatusReport>,
    /// The abilities that its hello named; none yet: it waits for the runner.
    told: Option<Vec<String>>,
    /// When the hello is said without them.
    hello_by: MonoMs,
}

/// The agent of one device.
pub struct Agent<E, J> {
    settings: AgentSettings,
    identity: Arc<Identity>,
    executor: Arc<E>,
    journal: J,
    samplers: Box<dyn FnMut() -> Box<dyn Sampler> + Send>,
    sampler: Box<dyn Sampler>,

    state: DeviceState,
    accepted: Generation,
    desired: Option<Desired>,
    policy: policy::Policy,
    stored: Option<StoredDesired>,
    signed: BTreeMap<Digest, Signed>,
    manifests: BTreeMap<Digest, Manifest>,
    key_sets: Vec<Signed>,
    keys: Option<TrustedKeySet>,
    operations: operations::Operations,
    kept_floor: UnixMs,

    observed: Option<BTreeMap<Name, Observed>>,
    observed_since: UnixMs,
    capabilities: Option<Vec<String>>,
    health: AllHealth,
    busy: BTreeMap<Name, Busy>,
    outcomes: Vec<Outcome>,
    restart: BTreeSet<Name>,
    /// Apps that go back because somebody asked for it, and why.
    rollback: BTreeMap<Name, String>,
    progress: BTreeMap<Name, (Arc<AtomicU64>, u64)>,
    /// What is being fetched and staged, and how to give it up.
    staging: BTreeMap<Name, (Digest, Arc<Notify>)>,
    /// Open incidents, what they need of the last minutes, and the evidence that is being gathered or waits to be kept.
    incidents: Book,
    black_box: incidents::BlackBox,
    gathering: BTreeSet<(IncidentId, Part)>,
    gathered: Vec<incidents::Gathered>,
    view: Option<DeviceView>,
    shown: Option<Vec<u8>>,

    tasks: JoinSet<Done>,
    listing: bool,
    next_list: MonoMs,
    /// Lists asked for so far; and per app the list that must come before what ended is no longer busy.
    lists: u64,
    settling: BTreeMap<Name, (u64, Busy)>,
    session: Option<Session>,
    /// The control plane's clock minus this boot's clock, as it was told last in this boot.
    server_offset: Option<i64>,
    clock_wrong: bool,
    unverified: Option<hear::Unverified>,
    connectivity: Monitor,
    /// When log files that are too old are looked for next.
    next_log_cut: MonoMs,
    link_reason: String,
    samples: BlockBuilder,
    sample_ms: i64,
    batch_ms: i64,
    next_sample: MonoMs,
    batch_due: MonoMs,
    live: Option<Live>,
    apps_usage: usage::Gathered,
    /// The streams that have had measurements.
    metric_streams: BTreeSet<String>,

    /// What was counted last, who tells it, and how much of it may be kept.
    eyes: Eyes,
    sources: Sources,
    /// Who tells of stalls, and what was told of them.
    stall_source: Option<Source>,
    stalls: stalls::Stalls,
    allowances: kernel::Allowances,
    look: watch::Sender<Look>,
}

impl<E, J> std::fmt::Debug for Agent<E, J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("device", &self.identity.registration.device).finish_non_exhaustive()
    }
}

fn to_json(value: &impl serde::Serialize, what: &'static str) -> Result<Vec<u8>, AgentError> {
    serde_json::to_vec(value).map_err(|_| AgentError::Damaged(what))
}

fn duration_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Keeps the key sets that a claim brought, for an agent that is yet to run.
///
/// # Errors
/// When the journal can't keep them.
pub fn keep_key_sets(journal: &mut impl Journal, sets: &[Signed]) -> Result<(), AgentError> {
    let bytes = to_json(&sets, "the trusted keys")?;
    Ok(journal.apply(Change { values: vec![("keys".to_owned(), Some(bytes))], batches: Vec::new() })?)
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// Reads what was kept. `samplers` makes a sampler for each rhythm.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub fn new(
        settings: AgentSettings,
        identity: Arc<Identity>,
        executor: E,
        journal: J,
        mut samplers: impl FnMut() -> Box<dyn Sampler> + Send + 'static,
    ) -> Result<Self, AgentError> {
        let sampler = samplers();
        let now = clock::mono();
        let (sample_ms, batch_ms) = (duration_ms(settings.sample_every), duration_ms(settings.batch_every));
        let mut agent = Self {
            identity,
            executor: Arc::new(executor),
            samplers: Box::new(samplers),
            sampler,
            state: DeviceState::default(),
            accepted: Generation::default(),
            desired: None,
            policy: policy::Policy::default(),
            stored: None,
            signed: BTreeMap::new(),
            manifests: BTreeMap::new(),
            key_sets: Vec::new(),
            keys: None,
            operations: operations::Operations::default(),
            kept_floor: UnixMs(0),
            observed: None,
            observed_since: clock::wall(),
            capabilities: None,
            health: BTreeMap::new(),
            busy: BTreeMap::new(),
            outcomes: Vec::new(),
            restart: BTreeSet::new(),
            rollback: BTreeMap::new(),
            progress: BTreeMap::new(),
            staging: BTreeMap::new(),
            incidents: Book::default(),
            black_box: incidents::BlackBox::default(),
            gathering: BTreeSet::new(),
            gathered: Vec::new(),
            view: None,
            shown: None,
            tasks: JoinSet::new(),
            listing: false,
            next_list: now,
            lists: 0,
            settling: BTreeMap::new(),
            session: None,
            server_offset: None,
            clock_wrong: false,
            unverified: None,
            connectivity: Monitor::new(clock::now()),
            next_log_cut: now,
            link_reason: "not connected yet".to_owned(),
            samples: BlockBuilder::new(),
            sample_ms,
            batch_ms,
            next_sample: now.plus_ms(sample_ms),
            batch_due: now.plus_ms(batch_ms),
            live: None,
            apps_usage: usage::Gathered::default(),
            metric_streams: BTreeSet::from([HOST.to_owned()]),
            eyes: settings.eyes.clone(),
            sources: Sources::new(),
            stall_source: None,
            stalls: stalls::Stalls::default(),
            allowances: kernel::Allowances::new(now),
            look: watch::Sender::new(Look::default()),
            settings,
            journal,
        };
        agent.load()?;
        Ok(agent)
    }

    fn load(&mut self) -> Result<(), AgentError> {
        // What can't be read any more is done without: the runner tells what runs, the control plane what should.
        self.state = self.read(STATE)?.unwrap_or_default();
        self.accepted = self.read("accepted")?.unwrap_or_default();
        self.incidents = self.read(INCIDENTS)?.unwrap_or_default();
        self.black_box = incidents::BlackBox::load(&self.journal)?;
        let streams = self.journal.streams()?.into_keys();
        self.metric_streams.extend(streams.filter(|stream| usage::is_metrics(stream)));
        let boot = self.journal.get("boot")?;
        let same_boot = boot.as_deref() == Some(self.settings.boot_id.as_bytes());
        if let Some(known) = self.read::<Monitor>("connectivity")? {
            self.connectivity = known;
        }
        let mut lost = None;
        if !same_boot {
            self.state.rebooted();
            self.incidents.rebooted();
            lost = self.connectivity.rebooted();
        }
        self.tell_connectivity(lost)?;
        let kept: Vec<Signed> = self.read("signed")?.unwrap_or_default();
        self.signed = kept.into_iter().map(|signed| (Digest::of(&signed.document), signed)).collect();
        self.key_sets = self.read("keys")?.unwrap_or_default();
        self.read_keys();
        self.load_operations()?;
        self.kept_floor = self.read("floor")?.unwrap_or_default();
        self.identity.clock.raise_floor(self.kept_floor);
        if let Some(mut stored) = self.read::<StoredDesired>("desired")? {
            if stored.boot != self.settings.boot_id {
                // Another boot's clock says nothing about when they end.
                stored.permits.clear();
                stored.boot.clone_from(&self.settings.boot_id);
            }
            self.stored = Some(stored);
            self.offer_again()?;
        }
        let boot = ("boot".to_owned(), Some(self.settings.boot_id.clone().into_bytes()));
        self.keep(vec![boot], Vec::new())?;
        let details = serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "reboot": !same_boot });
        self.note(events::note("agent.started", "the agent started", &details))
    }

    /// A kept value; `None` when there is none or it is damaged.
    fn read<T: serde::de::DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, AgentError> {
        let Some(bytes) = self.journal.get(key)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                tracing::error!(key, %error, "what was kept is damaged and done without");
                Ok(None)
            }
        }
    }

    /// The newest set that the kept chain leads to.
    fn read_keys(&mut self) {
        let tenant = self.identity.registration.tenant;
        let mut current: Option<TrustedKeySet> = None;
        for signed in &self.key_sets {
            let next =
                SignedKeySet { document: signed.document.clone(), signature: signed.signature.clone() };
            match keyset::accept_next(current.as_ref(), &next, tenant) {
                Ok(set) => current = Some(set),
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "a set of trusted keys is not taken")
                }
            }
        }
        self.keys = current;
    }

    /// Builds the offers anew, from the kept desired state and the keys of now.
    fn offer_again(&mut self) -> Result<(), AgentError> {
        let Some(stored) = &self.stored else { return Ok(()) };
        let state = farshore_domain::desired::DesiredState::parse(&stored.signed.document)
            .map_err(|_| AgentError::Damaged("the desired state"))?;
        self.accepted = state.at();
        let rules = Rules {
            keys: self.keys.as_ref(),
            tenant: &self.identity.registration.tenant_name,
            hardware: &self.settings.hardware,
            capabilities: self.capabilities.as_deref(),
        };
        let offers = rules.offers(&state, &stored.permits, &self.signed, &mut self.manifests);
        let safe = rules.safe(&state, &self.signed, &mut self.manifests);
        self.policy.adopt(state.policy.as_ref(), safe);
        let look = self.policy.look();
        self.look.send_if_modified(|known| std::mem::replace(known, look) != look);
        // A mirror that drips must not keep the device from what is wanted now.
        let installed = self.installed();
        for (name, (manifest, give_up)) in &self.staging {
            let offered = |offer: &farshore_domain::reconcile::Offer| {
                offer.app == *name && offer.release.manifest == *manifest
            };
            if !offers.iter().any(offered) && !installed.contains(manifest) {
                give_up.notify_one();
            }
        }
        // What failed lies on the device already, and is not fetched again by itself, unless somebody says so.
        let held = |offer: &farshore_domain::reconcile::Offer| {
            let app = self.state.apps.get(&offer.app);
            app.is_some_and(|app| app.is_held(offer.release.manifest) && offer.resumed <= app.resumed)
        };
        let mut wanted = installed;
        wanted.extend(offers.iter().filter(|offer| !held(offer)).map(|offer| offer.release.manifest));
        let executor = Arc::clone(&self.executor);
        self.tasks.spawn(async move { Done::Pruned(executor.keep_downloads(wanted).await) });
        self.desired = Some(Desired { state, offers });
        // What runs or is gone back to needs its manifest, too, for its checks.
        for digest in self.installed() {
            if let Some(signed) = self.signed.get(&digest).filter(|_| !self.manifests.contains_key(&digest))
                && let Ok(manifest) = Manifest::parse(&signed.document)
            {
                self.manifests.insert(digest, manifest);
            }
        }
        Ok(())
    }

    fn installed(&self) -> BTreeSet<Digest> {
        let apps = self.state.apps.values();
        apps.flat_map(|app| [&app.active, &app.previous])
            .flatten()
            .chain(self.policy.healing().safe.values())
            .map(|installed| installed.manifest)
            .collect()
    }

    /// Works until `stop` is told or dropped. Apps go on when it ends.
    ///
    /// # Errors
    /// When the journal is found to be damaged: whoever starts the agent again begins a new one.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) -> Result<(), AgentError> {
        let renew = Arc::new(Notify::new());
        let (events, mut link) = mpsc::channel(16);
        let mut helpers = JoinSet::new();
        helpers.spawn(link::keep_open(Arc::clone(&self.identity), Arc::clone(&renew), events));
        helpers.spawn(claim::keep_renewed(Arc::clone(&self.identity), renew));
        let (seen, mut glances) = mpsc::channel(16);
        if let Some(runner) = self.settings.watch.clone() {
            helpers.spawn(keep_watching(runner, self.look.subscribe(), seen));
        }
        let (stall, mut stalls) = mpsc::channel(4);
        if let Some(folder) = self.settings.pressure.clone() {
            let (triggers, source) = pressure::open(&folder);
            tracing::debug!(by = %source.by, reason = %source.reason, "stalls");
            self.stall_source = Some(source);
            helpers.spawn(pressure::watch(folder, triggers, stall));
        }
        self.connect_executor();
        let said = Arc::clone(&self.operations.wake);
        let turned = self.turn();
        self.survive(turned)?;
        loop {
            let wait = self.next_wake().since_ms(clock::mono()).max(0).unsigned_abs();
            let until = Instant::now() + clock::pause(wait);
            tokio::select! {
                _ = &mut stop => break,
                Some(event) = link.recv() => {
                    let heard = self.hear(event);
                    if heard.is_err() {
                        // What came could not be kept and would not be sent again: hang up, a new channel brings it.
                        self.session = None;
                    }
                    self.survive(heard)?;
                }
                Some(glance) = glances.recv() => {
                    let taken = self.glance(glance);
                    self.survive(taken)?;
                }
                Some(stall) = stalls.recv() => {
                    let taken = self.stalled(stall);
                    self.survive(taken)?;
                }
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.take(done),
                    Err(error) => tracing::error!(%error, "a task of the agent failed"),
                },
                () = said.notified() => {}
                () = sleep_until(until) => {}
            }
            let turned = self.turn();
            self.survive(turned)?;
        }
        if !self.samples.is_empty() {
            let sealed = self.seal();
            self.survive(sealed)?;
        }
        tracing::info!("the agent ends; apps go on");
        Ok(())
    }

    /// A full disk must not end the agent: what was not kept was not done, and is tried again.
    fn survive(&mut self, result: Result<(), AgentError>) -> Result<(), AgentError> {
        match result {
            Err(error) if error.is_damage() => Err(error),
            Err(error) => {
                tracing::error!(error = %crate::chain(&error), "something can't be kept; trying again in a while");
                self.next_list = self.next_list.max(clock::mono().plus_ms(1_000));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends a frame if the channel takes it now.
    fn send(&self, body: agent_frame::Body) -> bool {
        let Some(session) = &self.session else { return false };
        let request_id = uuid::Uuid::now_v7().to_string();
        let frame = AgentFrame { request_id, traceparent: String::new(), body: Some(body) };
        session.outbox.try_send(frame).is_ok()
    }

    /// Keeps values and batches; durable when it returns.
    fn keep(
        &mut self,
        values: Vec<(String, Option<Vec<u8>>)>,
        batches: Vec<(String, Vec<u8>)>,
    ) -> Result<(), AgentError> {
        Ok(self.journal.apply(Change { values, batches })?)
    }

    /// Keeps one event for the stream.
    fn note(&mut self, event: wire::DeviceEvent) -> Result<(), AgentError> {
        self.black_box.hear(std::slice::from_ref(&event));
        let batch = events::batch(vec![event]);
        self.keep(Vec::new(), vec![(EVENTS.to_owned(), batch)])
    }
}
