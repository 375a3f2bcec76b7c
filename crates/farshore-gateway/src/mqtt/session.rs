//! What is remembered of a client while it is away: which of its messages were acknowledged, and what it subscribed to.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::large::Room;
use crate::ingest::lock;

/// Sessions that are remembered after their client has gone; beyond that, the one that has been alone for longest goes.
const MAX_SESSIONS: usize = 4_000;
/// Topic filters of clients that are away; a session with more than there is room for is not kept.
const MAX_FILTERS: usize = 10_000;
/// Acknowledged messages that a session remembers.
const REMEMBERED: usize = 256;
/// Of a session that does not end by itself.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The sessions of all clients.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_client: Mutex<HashMap<String, Arc<Session>>>,
    connected: AtomicU64,
    /// Connections that ended.
    ended: AtomicU64,
    hasher: RandomState,
    pub(super) large: Room,
}

/// One client's.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Tells the connection that has it to end.
    pub(super) takeover: Notify,
    /// Held by the connection that has the session.
    pub(super) memory: tokio::sync::Mutex<Memory>,
    /// Whether it outlives its connection.
    kept: AtomicBool,
    /// Of all connections that ended, the number of its last one.
    ended: AtomicU64,
    /// How many filters it keeps for a client that is away.
    filters: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) acknowledged: Acknowledged,
    /// Each with the version of documents up to which it was told.
    pub(super) filters: Vec<(String, u64)>,
    /// Nothing: it was never kept.
    until: Option<Instant>,
}

/// A session in the hands of a connection; what is not kept ends with it.
pub(super) struct Held<'s> {
    sessions: &'s Sessions,
    client: String,
    pub(super) session: Arc<Session>,
}

/// Packet ids of the newest messages that were acknowledged, with the hash of their topic and content.
///
/// A client sends again what it has no acknowledgement for before it sends anything new. So once it has sent something new, what was acknowledged on
/// connections before this one is forgotten: a message that looks the same is another one, such as that of a sensor at rest whose client counts
/// from 1 again.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    known: VecDeque<Known>,
    /// Some of them were acknowledged on connections before this one.
    older: bool,
}

#[derive(Debug)]
struct Known {
    id: u16,
    hash: u64,
    /// Acknowledged on this connection.
    here: bool,
}

impl Acknowledged {
    /// A connection begins.
    pub(super) fn begin(&mut self) {
        for known in &mut self.known {
            known.here = false;
        }
        self.older = !self.known.is_empty();
    }

    /// Something new was sent.
    pub(super) fn got_on(&mut self) {
        if std::mem::take(&mut self.older) {
            self.known.retain(|known| known.here);
        }
    }

    pub(super) fn remember(&mut self, id: u16, hash: u64) {
        self.known.retain(|known| known.id != id);
        while self.known.len() >= REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back(Known { id, hash, here: true });
    }

    pub(super) fn knows(&self, id: u16, hash: u64) -> bool {
        self.known.iter().any(|known| known.id == id && known.hash == hash)
    }
}

impl Sessions {
    pub(crate) fn connections(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    pub(super) fn hash(&self, topic: &str, payload: &[u8]) -> u64 {
        self.hasher.hash_one((topic, payload))
    }

    /// The session of a client.
    pub(super) fn open(&self, client: &str) -> Held<'_> {
        let mut sessions = lock(&self.by_client);
        if !sessions.contains_key(client) && sessions.len() >= MAX_SESSIONS {
            // Of those that no connection has.
            let alone = sessions.iter().filter(|(_, session)| Arc::strong_count(session) == 1);
            let oldest = alone.min_by_key(|(_, session)| session.ended.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(client, _)| client.clone()) {
                sessions.remove(&oldest);
            }
        }
        let session = Arc::clone(sessions.entry(client.to_owned()).or_default());
        Held { sessions: self, client: client.to_owned(), session }
    }

    /// Filters that are kept for clients that are away.
    fn filters(&self) -> usize {
        lock(&self.by_client).values().map(|session| session.filters.load(Ordering::Relaxed)).sum()
    }
}

impl Held<'_> {
    /// Whether there is something to go on with; else the session begins anew. It is kept for so many seconds after the connection.
    pub(super) fn resume(&self, memory: &mut Memory, clean: bool, seconds: u32) -> bool {
        let there = !clean && memory.until.is_some_and(|until| Instant::now() < until);
        if !there {
            *memory = Memory::default();
        }
        memory.acknowledged.begin();
        self.session.filters.store(0, Ordering::Relaxed);
        self.keep(memory, seconds);
        there
    }

    fn keep(&self, memory: &mut Memory, seconds: u32) {
        let lifetime = match seconds {
            u32::MAX => FOR_EVER,
            seconds => Duration::from_secs(u64::from(seconds)),
        };
        memory.until = (seconds > 0).then(|| Instant::now() + lifetime);
        self.session.kept.store(seconds > 0, Ordering::Relaxed);
    }

    /// The connection ends; the session goes on for so many seconds.
    pub(super) fn leave(&self, memory: &mut Memory, filters: Vec<(String, u64)>, seconds: u32) {
        let room = filters.is_empty() || self.sessions.filters() + filters.len() <= MAX_FILTERS;
        memory.filters = filters;
        self.keep(memory, if room { seconds } else { 0 });
        if memory.until.is_some() {
            self.session.filters.store(memory.filters.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let ended = self.sessions.ended.fetch_add(1, Ordering::Relaxed) + 1;
        self.session.ended.store(ended, Ordering::Relaxed);
        let mut sessions = lock(&self.sessions.by_client);
        // Its own, the map's, and those of connections that wait for it.
        let alone = Arc::strong_count(&self.session) == 2;
        let same = sessions.get(&self.client).is_some_and(|session| Arc::ptr_eq(session, &self.session));
        if alone && same && !self.session.kept.load(Ordering::Relaxed) {
            sessions.remove(&self.client);
        }
    }
}

/// Counts a connection for as long as it lives.
pub(super) struct Connected<'s>(&'s AtomicU64);

impl<'s> Connected<'s> {
    pub(super) fn new(sessions: &'s Sessions) -> Self {
        sessions.connected.fetch_add(1, Ordering::Relaxed);
        Self(&sessions.connected)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_remembers_the_newest_messages() {
        let mut acknowledged = Acknowledged::default();
        acknowledged.remember(1, 10);
        assert!(acknowledged.knows(1, 10) && !acknowledged.knows(1, 11) && !acknowledged.knows(2, 10));
        acknowledged.remember(1, 11);
        assert!(acknowledged.knows(1, 11) && !acknowledged.knows(1, 10));
        for id in 2..=u16::try_from(REMEMBERED + 1).expect("small") {
            acknowledged.remember(id, 0);
        }
        assert!(!acknowledged.knows(1, 11));
    }

    #[test]
    fn what_older_connections_had_is_known_until_something_new_is_sent() {
        let mut acknowledged = Acknowledged::default();
        acknowledged.remember(1, 10);
        acknowledged.remember(2, 20);
        // Only a part comes again before the connection breaks.
        acknowledged.begin();
        assert!(acknowledged.knows(1, 10));
        acknowledged.remember(1, 10);
        acknowledged.begin();
        assert!(acknowledged.knows(1, 10) && acknowledged.knows(2, 20));
        acknowledged.remember(2, 20);
        acknowledged.got_on();
        assert!(!acknowledged.knows(1, 10) && acknowledged.knows(2, 20));
    }

    async fn connect(sessions: &Sessions, client: &str, seconds: u32) -> bool {
        let held = sessions.open(client);
        let mut memory = held.session.memory.lock().await;
        let there = held.resume(&mut memory, false, seconds);
        held.leave(&mut memory, vec![("a".to_owned(), 0)], seconds);
        there
    }

    #[tokio::test]
    async fn sessions_that_are_not_kept_push_nobody_out_and_the_oldest_goes_first() {
        let sessions = Sessions::default();
        assert!(!connect(&sessions, "first", u32::MAX).await);
        assert!(!connect(&sessions, "second", u32::MAX).await);
        for number in 0..MAX_SESSIONS {
            connect(&sessions, &number.to_string(), 0).await;
        }
        assert_eq!(lock(&sessions.by_client).len(), 2);
        assert!(connect(&sessions, "first", u32::MAX).await);
        for number in 0..MAX_SESSIONS - 1 {
            connect(&sessions, &number.to_string(), 60).await;
        }
        assert!(connect(&sessions, "first", u32::MAX).await);
        assert!(!connect(&sessions, "second", u32::MAX).await);
    }

    #[tokio::test]
    async fn filters_of_clients_that_are_away_are_bounded() {
        let sessions = Sessions::default();
        let filters: Vec<_> = (0..64).map(|n| (n.to_string(), 0)).collect();
        for client in 0..200 {
            let held = sessions.open(&client.to_string());
            let mut memory = held.session.memory.lock().await;
            held.resume(&mut memory, false, u32::MAX);
            held.leave(&mut memory, filters.clone(), u32::MAX);
        }
        assert_eq!(lock(&sessions.by_client).len(), MAX_FILTERS / 64);
    }
}
