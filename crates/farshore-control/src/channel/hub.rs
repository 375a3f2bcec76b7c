//! The live sessions of this replica.
//!
//! Nobody sends on a connection but its own task. Whoever has something for a device sets a flag in its session and wakes the task,
//! so that ten changes in a row become one frame, and an idle connection has no queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use farshore_domain::device::{self, Reachability};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use tokio::sync::{Notify, broadcast};

use super::admission::Admission;
use super::live::Live;
use super::presence::Pauses;
use super::writer::Queue;
use crate::events::Feed;
use crate::operations::output::Outputs;

/// A connection that was told to end and is stuck is cut after this time.
const CUT_AFTER: Duration = Duration::from_secs(3);
/// At most this many devices have their last protocol error remembered.
const MAX_TROUBLED: usize = 10_000;
/// A device's protocol errors make at most one event in this time.
const TROUBLE_EVERY_MS: i64 = 10 * 60 * 1_000;

pub(crate) type Key = (TenantId, DeviceId);

/// What waits to be sent on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) desired: bool,
    pub(crate) keys: bool,
    pub(crate) operations: bool,
    /// Samples are wanted for this many seconds; 0 ends it.
    pub(crate) live_seconds: Option<u32>,
    /// The connection ends, with this reason.
    pub(crate) goodbye: Option<&'static str>,
}

/// One live connection.
#[derive(Debug)]
pub struct Session {
    pub(crate) key: Key,
    /// Grows with each connection; the newest of a device wins.
    pub(crate) epoch: i64,
    pub(crate) name: OnceLock<Box<str>>,
    last_seen: AtomicI64,
    flushed: AtomicI64,
    pending: Mutex<Pending>,
    pub(crate) wake: Notify,
    /// Ends the task wherever it is.
    pub(crate) cut: Notify,
}

impl Session {
    /// A frame came.
    pub(crate) fn seen(&self, now: UnixMs) {
        self.last_seen.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn last_seen(&self) -> UnixMs {
        UnixMs(self.last_seen.load(Ordering::Relaxed))
    }

    /// When the device was heard from, if that was not told before.
    pub(crate) fn unflushed(&self) -> Option<UnixMs> {
        let seen = self.last_seen.load(Ordering::Relaxed);
        (self.flushed.swap(seen, Ordering::Relaxed) != seen).then_some(UnixMs(seen))
    }

    fn note(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    pub(crate) fn take_pending(&self) -> Pending {
        std::mem::take(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device's name, known once its session is stored.
    pub(crate) fn name(&self) -> &str {
        self.name.get().map_or("", |name| name)
    }
}

/// A device changed in a way that a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub tenant: TenantId,
    pub device: DeviceId,
}

/// Which devices are connected here, and the way to them.
#[derive(Debug)]
pub struct Hub {
    sessions: Mutex<HashMap<Key, Arc<Session>>>,
    last_epoch: AtomicI64,
    heartbeat_ms: AtomicI64,
    changed: broadcast::Sender<Changed>,
    troubled: Mutex<HashMap<Key, UnixMs>>,
    pub(crate) admission: Admission,
    pub(crate) writer: Queue,
    pub(crate) pauses: Pauses,
    live: Live,
    feed: Feed,
    outputs: Outputs,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            sessions: Mutex::default(),
            last_epoch: AtomicI64::new(0),
            heartbeat_ms: AtomicI64::new(farshore_store::presence::HEARTBEAT_MS),
            changed: broadcast::Sender::new(4_096),
            troubled: Mutex::default(),
            admission: Admission::default(),
            writer: Queue::default(),
            pauses: Pauses::default(),
            live: Live::default(),
            feed: Feed::default(),
            outputs: Outputs::default(),
        }
    }
}

impl Hub {
    fn sessions(&self) -> MutexGuard<'_, HashMap<Key, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, tenant: TenantId, device: DeviceId) -> Option<Arc<Session>> {
        self.sessions().get(&(tenant, device)).cloned()
    }

    /// How often devices say that they are there.
    pub(crate) fn set_heartbeat_ms(&self, heartbeat_ms: i64) {
        self.heartbeat_ms.store(heartbeat_ms, Ordering::Relaxed);
    }

    /// How often devices say that they are there, in milliseconds.
    #[must_use]
    pub fn heartbeat_ms(&self) -> i64 {
        self.heartbeat_ms.load(Ordering::Relaxed)
    }

    /// Enters a connection. An older one of the same device is told goodbye.
    pub(crate) fn enter(&self, tenant: TenantId, device: DeviceId, now: UnixMs) -> Arc<Session> {
        // Later starts and other replicas count on from their clock, in thousandths of a millisecond.
        let floor = now.0.saturating_mul(1_000);
        let before = self
            .last_epoch
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(last.saturating_add(1).max(floor))
            })
            .unwrap_or(floor);
        let session = Arc::new(Session {
            key: (tenant, device),
            epoch: before.saturating_add(1).max(floor),
            name: OnceLock::new(),
            last_seen: AtomicI64::new(now.0),
            flushed: AtomicI64::new(now.0),
            pending: Mutex::default(),
            wake: Notify::new(),
            cut: Notify::new(),
        });
        let older = self.sessions().insert((tenant, device), Arc::clone(&session));
        if let Some(older) = older {
            older.note(|pending| pending.goodbye = Some("replaced"));
        }
        session
    }

    /// Takes a connection out, unless a newer one of the same device is there.
    pub(crate) fn leave(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        if sessions.get(&session.key).is_some_and(|current| Arc::ptr_eq(current, session)) {
            sessions.remove(&session.key);
        }
    }

    /// How many devices are connected here.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.sessions().len()
    }

    /// Whether the device is connected here.
    #[must_use]
    pub fn is_connected(&self, tenant: TenantId, device: DeviceId) -> bool {
        self.sessions().contains_key(&(tenant, device))
    }

    /// The name of a device that is connected here.
    #[must_use]
    pub fn name(&self, tenant: TenantId, device: DeviceId) -> Option<String> {
        self.session(tenant, device).map(|session| session.name().to_owned()).filter(|name| !name.is_empty())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions().values().cloned().collect()
    }

    /// How reachable a device is, and when it was last heard; `stored` is what the database knows.
    #[must_use]
    pub fn presence(
        &self,
        tenant: TenantId,
        device: DeviceId,
        stored: Option<UnixMs>,
        now: UnixMs,
    ) -> (Reachability, Option<UnixMs>) {
        let heard = self.session(tenant, device).map(|session| session.last_seen());
        let last = heard.into_iter().chain(stored).max();
        (device::reachability(heard.is_some(), last, self.heartbeat_ms(), now), last)
    }

    /// The device's desired state changed: its channel sends the new one. Many calls in a row make one frame.
    pub fn push_desired(&self, tenant: TenantId, device: DeviceId) {
        if let Some(session) = self.session(tenant, device) {
            session.note(|pending| pending.desired = true);
        }
    }

    /// The tenant's trusted keys changed: all its channels send the new ones.
    pub fn push_trusted_keys(&self, tenant: TenantId) {
        let sessions: Vec<_> = self
            .sessions()
            .iter()
            .filter(|((owner, _), _)| *owner == tenant)
            .map(|(_, s)| Arc::clone(s))
            .collect();
        for session in sessions {
            session.note(|pending| pending.keys = true);
        }
    }

    /// What running operations say.
    pub(crate) const fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// An operation waits for the device, or is to be given up.
    pub fn push_operations(&self, tenant: TenantId, device: DeviceId) {
        if let Some(session) = self.session(tenant, device) {
            session.note(|pending| pending.operations = true);
        }
    }

    /// Asks the device for live samples for so many seconds; 0 ends it.
    pub(crate) fn ask_live(&self, tenant: TenantId, device: DeviceId, seconds: u32) {
        if let Some(session) = self.session(tenant, device) {
            session.note(|pending| pending.live_seconds = Some(seconds));
        }
    }

    /// Closes the device's channel at once. `reason` is `revoked`, or another word of `farshore_protocol::Goodbye`. Returns whether there was one.
    pub fn disconnect(&self, tenant: TenantId, device: DeviceId, reason: &'static str) -> bool {
        let Some(session) = self.session(tenant, device) else { return false };
        session.note(|pending| pending.goodbye = Some(reason));
        let session = Arc::downgrade(&session);
        tokio::spawn(async move {
            tokio::time::sleep(CUT_AFTER).await;
            if let Some(session) = session.upgrade() {
                session.cut.notify_one();
            }
        });
        true
    }

    /// Who looks at devices.
    #[must_use]
    pub const fn live(&self) -> &Live {
        &self.live
    }

    /// The streams of numbered events.
    #[must_use]
    pub const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Tells that a device changed in a way that a page shows.
    pub fn changed(&self, tenant: TenantId, device: DeviceId) {
        // Without a receiver there is nobody to tell.
        let _ = self.changed.send(Changed { tenant, device });
    }

    /// Follows the devices that change, of all tenants.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Changed> {
        self.changed.subscribe()
    }

    /// Changes how many new channels a second are let in, and how many at once.
    pub fn limit_admission(&self, per_second: f64, burst: f64) {
        self.admission.limit(per_second, burst);
    }

    /// Whether a protocol error of this device should make an event now; at most one in ten minutes does.
    pub(crate) fn may_tell_trouble(&self, key: Key, now: UnixMs) -> bool {
        let mut troubled = self.troubled.lock().unwrap_or_else(PoisonError::into_inner);
        if troubled.get(&key).is_some_and(|at| now.since_ms(*at) < TROUBLE_EVERY_MS) {
            return false;
        }
        if troubled.len() >= MAX_TROUBLED {
            troubled.retain(|_, at| now.since_ms(*at) < TROUBLE_EVERY_MS);
            if troubled.len() >= MAX_TROUBLED {
                return false;
            }
        }
        troubled.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(1));
    const DEVICE: DeviceId = DeviceId(Uuid::from_u128(2));

    #[tokio::test]
    async fn the_newest_connection_wins_and_the_older_can_not_take_it_out() {
        let hub = Hub::default();
        let older = hub.enter(TENANT, DEVICE, UnixMs(5));
        let newer = hub.enter(TENANT, DEVICE, UnixMs(3));
        assert!(newer.epoch > older.epoch, "even when the clock goes back");
        assert_eq!(older.take_pending().goodbye, Some("replaced"));
        hub.leave(&older);
        assert!(hub.is_connected(TENANT, DEVICE));
        assert!(hub.disconnect(TENANT, DEVICE, "revoked"));
        assert_eq!(newer.take_pending().goodbye, Some("revoked"));
        hub.leave(&newer);
        assert_eq!(hub.connected(), 0);
        assert!(!hub.disconnect(TENANT, DEVICE, "revoked"));
    }

    #[test]
    fn ten_pushes_are_one_note() {
        let hub = Hub::default();
        let session = hub.enter(TENANT, DEVICE, UnixMs(5));
        for _ in 0..10 {
            hub.push_desired(TENANT, DEVICE);
        }
        hub.push_desired(TenantId(Uuid::from_u128(9)), DEVICE);
        assert_eq!(session.take_pending(), Pending { desired: true, ..Pending::default() });
        assert_eq!(session.take_pending(), Pending::default());
    }

    #[test]
    fn presence_takes_the_later_of_memory_and_database() {
        let hub = Hub::default();
        let at = |ms| Some(UnixMs(ms));
        assert_eq!(hub.presence(TENANT, DEVICE, at(1_000), UnixMs(2_000)), (Reachability::Stale, at(1_000)));
        let session = hub.enter(TENANT, DEVICE, UnixMs(2_000));
        session.seen(UnixMs(3_000));
        assert_eq!(hub.presence(TENANT, DEVICE, at(1_000), UnixMs(3_000)), (Reachability::Online, at(3_000)));
        assert_eq!(session.unflushed(), at(3_000));
        assert_eq!(session.unflushed(), None);
    }

    #[test]
    fn protocol_errors_make_one_event_in_ten_minutes() {
        let hub = Hub::default();
        let tell =
            |device: u128, at| hub.may_tell_trouble((TENANT, DeviceId(Uuid::from_u128(device))), UnixMs(at));
        assert!(tell(1, 0));
        assert!(!tell(1, TROUBLE_EVERY_MS - 1));
        assert!(tell(2, 1));
        assert!(tell(1, TROUBLE_EVERY_MS));
    }
}
