//! A virtual fleet: starts its devices, counts what they do, stops them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farshore_domain::time::UnixMs;
use farshore_trust::keyset::TrustedKeySet;
use farshore_trust::token::{ClaimToken, ClaimTokenError};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::device::{self, Berth};
use crate::options::{FleetOptions, Group};
use crate::store::{Keep, KeepError};

/// Stopping takes at most this long.
const STOPPING: Duration = Duration::from_secs(10);

/// Why a fleet did not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the claim token of group {group} is none")]
    Token {
        group: String,
        #[source]
        source: ClaimTokenError,
    },
    #[error("group {0} is there twice")]
    GroupTwice(String),
    #[error("what the fleet keeps can't be used")]
    Keep(#[from] KeepError),
}

/// What all devices share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: FleetOptions,
    pub(crate) groups: Vec<Group>,
    pub(crate) tokens: Vec<Option<ClaimToken>>,
    pub(crate) keep: Keep,
    pub(crate) stats: Arc<FleetStats>,
    pub(crate) connecting: Semaphore,
    pub(crate) stop: CancellationToken,
    /// Something that all devices look at has changed.
    pub(crate) changed: Notify,
    pub(crate) boot_id: String,
    pub(crate) started: UnixMs,
    keys: Mutex<Vec<Arc<TrustedKeySet>>>,
}

impl Shared {
    /// One copy of a set of keys for all that trust it.
    pub(crate) fn share_keys(&self, set: TrustedKeySet) -> Arc<TrustedKeySet> {
        let mut known = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|known| ***known == set) {
            return same.clone();
        }
        let set = Arc::new(set);
        // Old sets are dropped with the devices that still hold them.
        if known.len() >= 16 {
            known.remove(0);
        }
        known.push(set.clone());
        set
    }
}

/// What the devices of a fleet have done so far.
#[derive(Debug, Default)]
pub struct FleetStats {
    connected: AtomicI64,
    claimed: AtomicU64,
    claims_failed: AtomicU64,
    handshakes: AtomicU64,
    handshakes_failed: AtomicU64,
    refused: AtomicU64,
    events_sent: AtomicU64,
    events_acknowledged: AtomicU64,
    desired_accepted: AtomicU64,
    desired_refused: AtomicU64,
    /// Events a second of each device, as bits of an `f64`.
    event_rate: AtomicU64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $get:ident, $add:ident, $field:ident;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $get(&self) -> u64 {
                self.$field.load(Ordering::Relaxed)
            }

            pub(crate) fn $add(&self) {
                self.$field.fetch_add(1, Ordering::Relaxed);
            }
        )*
    };
}

impl FleetStats {
    counters! {
        /// Devices that were claimed by this process.
        claims, claimed, claimed;
        /// Attempts to claim that failed.
        failed_claims, claim_failed, claims_failed;
        /// Channels that were refused with an HTTP status, as when the control plane sheds load.
        refusals, refused, refused;
        /// Desired states that passed every check.
        accepted, desired_accepted, desired_accepted;
        /// Desired states that did not.
        distrusted, desired_refused, desired_refused;
    }

    /// Devices that have said `hello` and heard `welcome`, now.
    #[must_use]
    pub fn online(&self) -> u64 {
        u64::try_from(self.connected.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Channels that were opened, with the TLS handshake in full, and attempts that failed.
    #[must_use]
    pub fn handshakes(&self) -> (u64, u64) {
        (self.handshakes.load(Ordering::Relaxed), self.handshakes_failed.load(Ordering::Relaxed))
    }

    /// Events sent, and events that the control plane has stored.
    #[must_use]
    pub fn events(&self) -> (u64, u64) {
        (self.events_sent.load(Ordering::Relaxed), self.events_acknowledged.load(Ordering::Relaxed))
    }

    pub(crate) fn connected(&self, change: i64) {
        self.connected.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn handshake(&self, done: bool) {
        let counter = if done { &self.handshakes } else { &self.handshakes_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn events_sent(&self, events: usize) {
        self.events_sent.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn events_acknowledged(&self, events: usize) {
        self.events_acknowledged.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn event_rate(&self) -> f64 {
        f64::from_bits(self.event_rate.load(Ordering::Relaxed))
    }
}

/// Running virtual devices. They end when this is stopped or dropped.
#[derive(Debug)]
pub struct VirtualFleet {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl VirtualFleet {
    /// Starts all devices of all groups: those that are kept connect, the others are claimed first. Returns at once; the
    /// [`stats`](Self::stats) tell how far they are. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a claim token is none or the folder can't be used.
    pub fn start(options: FleetOptions) -> Result<Self, FleetError> {
        farshore_trust::provider::install();
        let mut tokens = Vec::with_capacity(options.groups.len());
        let mut names = BTreeMap::new();
        for group in &options.groups {
            if names.insert(group.name.clone(), ()).is_some() {
                return Err(FleetError::GroupTwice(group.name.to_string()));
            }
            let token = group.claim_token.as_ref().map(|text| text.parse()).transpose();
            tokens.push(token.map_err(|source| FleetError::Token { group: group.name.to_string(), source })?);
        }
        let (keep, mut kept) = Keep::open(&options.folder)?;
        let stats = Arc::new(FleetStats::default());
        stats.event_rate.store(options.behaviours.events_per_second.to_bits(), Ordering::Relaxed);
        let started = clock::wall();
        let shared = Arc::new(Shared {
            groups: options.groups.clone(),
            tokens,
            keep,
            stats,
            connecting: Semaphore::new(options.max_connecting.max(1)),
            stop: CancellationToken::new(),
            changed: Notify::new(),
            // A start of the fleet is a boot of its machines.
            boot_id: uuid::Uuid::new_v4().to_string(),
            started,
            keys: Mutex::default(),
            options,
        });
        let mut tasks = JoinSet::new();
        let mut key = 0;
        for (index, group) in shared.groups.iter().enumerate() {
            for number in 1..=group.count {
                key += 1;
                let berth = Berth { group: index, number, key };
                let mut kept = kept.remove(&(group.name.clone(), number));
                if let Some(kept) = &mut kept {
                    shared.keep.share(&mut kept.identity);
                }
                if kept.is_none() && group.claim_token.is_none() {
                    continue;
                }
                tasks.spawn(device::live(shared.clone(), berth, kept));
            }
        }
        Ok(Self { shared, tasks })
    }

    /// What the devices have done so far.
    #[must_use]
    pub fn stats(&self) -> Arc<FleetStats> {
        self.shared.stats.clone()
    }

    /// How many devices there are.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.tasks.len()
    }

    /// Makes each device make up this many events a second from now on.
    pub fn set_events_per_second(&self, rate: f64) {
        self.shared.stats.event_rate.store(rate.to_bits(), Ordering::Relaxed);
        self.shared.changed.notify_waiters();
    }

    /// Closes all channels and keeps what the machines remember; after ten seconds whatever is left is dropped.
    ///
    /// # Errors
    /// When what is to be kept can't be written.
    pub async fn stop(mut self) -> Result<(), FleetError> {
        self.shared.stop.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::warn!(%error, "a virtual device ended badly");
                }
            }
        };
        if timeout(STOPPING, all).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "virtual devices did not stop in time");
            self.tasks.abort_all();
        }
        Ok(self.shared.keep.flush()?)
    }
}

impl Drop for VirtualFleet {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
