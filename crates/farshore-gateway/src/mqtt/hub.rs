//! Who wants to be told of what: topic filters of connected clients. What the gateway itself publishes (a rule that switches an output) is delivered
//! at QoS 0; messages of clients are readings, and go to nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::ingest::lock;

/// Filters of one client.
const MAX_OF_CLIENT: usize = 64;
/// Filters of all clients.
const MAX_FILTERS: usize = 10_000;
const MAX_FILTER_BYTES: usize = 256;
/// Messages that wait for one client; beyond that they are dropped, and counted.
const MAX_WAITING: usize = 256;

/// A message to be delivered.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) topic: Arc<str>,
    pub(super) payload: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct Hub {
    clients: Mutex<Vec<Client>>,
    ids: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Client {
    id: u64,
    filters: Vec<String>,
    inbox: mpsc::Sender<Message>,
}

/// The messages for one connection; its filters go with it, unless somebody takes them along.
#[derive(Debug)]
pub(super) struct Inbox {
    hub: Arc<Hub>,
    id: u64,
    messages: mpsc::Receiver<Message>,
}

/// What became of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subscribed {
    Granted,
    NoFilter,
    TooMany,
}

impl Hub {
    pub(super) fn open(self: &Arc<Self>) -> Inbox {
        let (inbox, messages) = mpsc::channel(MAX_WAITING);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        lock(&self.clients).push(Client { id, filters: Vec::new(), inbox });
        Inbox { hub: Arc::clone(self), id, messages }
    }

    /// Hands a message of processing to everybody who subscribed to its topic. Topics that begin with a dollar are the gateway's own.
    pub(crate) fn publish(&self, topic: &str, payload: &[u8]) {
        if topic.starts_with('$') {
            tracing::debug!(topic, "a rule may not publish to this topic");
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.tell(topic, payload);
    }

    fn tell(&self, topic: &str, payload: &[u8]) {
        self.tell_those(topic, payload, |_| true);
    }

    /// Hands a message to one connection, if it subscribed to its topic.
    pub(super) fn tell_one(&self, connection: u64, topic: &str, payload: &[u8]) {
        self.tell_those(topic, payload, |id| id == connection);
    }

    fn tell_those(&self, topic: &str, payload: &[u8], wanted: impl Fn(u64) -> bool) {
        let clients = lock(&self.clients);
        let mut message: Option<Message> = None;
        let subscribed = |client: &&Client| client.filters.iter().any(|filter| matches(filter, topic));
        for client in clients.iter().filter(|client| wanted(client.id)).filter(subscribed) {
            let message = message.get_or_insert_with(|| Message {
                topic: topic.into(),
                payload: Bytes::copy_from_slice(payload),
            });
            let counter = match client.inbox.try_send(message.clone()) {
                Ok(()) => &self.delivered,
                Err(_) => &self.dropped,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Messages that a connection delivered by itself.
    pub(super) fn delivered(&self, messages: u64) {
        self.delivered.fetch_add(messages, Ordering::Relaxed);
    }

    /// Messages that were handed to clients, and those that a client did not read in time.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.delivered.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

impl Inbox {
    /// Which connection it is of.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn subscribe(&self, filter: &str) -> Subscribed {
        if !is_filter(filter) {
            return Subscribed::NoFilter;
        }
        let mut clients = lock(&self.hub.clients);
        let all: usize = clients.iter().map(|client| client.filters.len()).sum();
        let Some(client) = clients.iter_mut().find(|client| client.id == self.id) else {
            return Subscribed::TooMany;
        };
        if client.filters.iter().any(|known| known == filter) {
            return Subscribed::Granted;
        }
        if client.filters.len() >= MAX_OF_CLIENT || all >= MAX_FILTERS {
            return Subscribed::TooMany;
        }
        client.filters.push(filter.to_owned());
        Subscribed::Granted
    }

    /// What was subscribed to.
    pub(super) fn filters(&self) -> Vec<String> {
        let clients = lock(&self.hub.clients);
        clients
            .iter()
            .find(|client| client.id == self.id)
            .map(|client| client.filters.clone())
            .unwrap_or_default()
    }

    /// Whether there was one.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        let mut clients = lock(&self.hub.clients);
        let Some(client) = clients.iter_mut().find(|client| client.id == self.id) else { return false };
        let before = client.filters.len();
        client.filters.retain(|known| known != filter);
        client.filters.len() < before
    }

    /// The next message. Nothing is lost when this is given up.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    pub(super) fn next_now(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        lock(&self.hub.clients).retain(|client| client.id != self.id);
    }
}

/// A text without wildcards in odd places. Shared subscriptions are none.
fn is_filter(filter: &str) -> bool {
    let parts = || filter.split('/');
    !filter.is_empty()
        && filter.len() <= MAX_FILTER_BYTES
        && !filter.starts_with("$share/")
        && parts().all(|part| !part.contains(['+', '#']) || part.len() == 1)
        && parts().rev().skip(1).all(|part| part != "#")
}

pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let mut parts = topic.split('/');
    for (index, part) in filter.split('/').enumerate() {
        // What begins with a dollar is not for everybody.
        let special = index == 0 && topic.starts_with('$');
        match part {
            "#" => return !special,
            "+" if special => return false,
            "+" => {
                if parts.next().is_none() {
                    return false;
                }
            }
            part => match parts.next() {
                Some(other) if other == part => {}
                _ => return false,
            },
        }
        // `a/#` is also for `a`.
        if parts.clone().next().is_none() && filter.split('/').nth(index + 1) == Some("#") {
            return true;
        }
    }
    parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_topics() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a/b/c", true),
            ("+", "a", true),
            ("#", "a/b/c", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "ab", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("/a", "/a", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
        for (filter, good) in [
            ("a/#", true),
            ("a#", false),
            ("#/a", false),
            ("a+/b", false),
            ("", false),
            ("$share/g/a", false),
        ] {
            assert_eq!(is_filter(filter), good, "{filter}");
        }
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody() {
        let hub = Arc::new(Hub::default());
        let (mut one, mut other) = (hub.open(), hub.open());
        assert_eq!(one.subscribe("a/#"), Subscribed::Granted);
        assert_eq!(other.subscribe("b"), Subscribed::Granted);
        for _ in 0..MAX_WAITING + 5 {
            hub.publish("a/x", b"1");
        }
        assert_eq!(hub.counts(), (MAX_WAITING as u64, 5));
        assert_eq!(one.next_now().map(|message| message.topic.to_string()).as_deref(), Some("a/x"));
        assert!(one.unsubscribe("a/#") && !one.unsubscribe("a/#"));
        hub.publish("a/x", b"1");
        assert_eq!(hub.counts(), (MAX_WAITING as u64, 5));
        // For one of two that subscribed.
        assert_eq!(one.subscribe("told"), Subscribed::Granted);
        assert_eq!(other.subscribe("told"), Subscribed::Granted);
        while one.next_now().is_some() {}
        hub.tell_one(other.id(), "told", b"1");
        assert!(one.next_now().is_none());
        assert_eq!(other.next_now().map(|message| message.topic.to_string()).as_deref(), Some("told"));
        hub.tell_one(other.id(), "else", b"1");
        assert!(other.next_now().is_none());
        assert!(one.unsubscribe("told") && other.unsubscribe("told"));
        assert_eq!(one.subscribe("$documents/#"), Subscribed::Granted);
        hub.publish("$documents/a/b", b"1");
        assert_eq!(hub.counts(), (MAX_WAITING as u64 + 1, 6));
        assert!(one.unsubscribe("$documents/#"));
        for n in 0..MAX_OF_CLIENT {
            assert_eq!(one.subscribe(&n.to_string()), Subscribed::Granted);
        }
        assert_eq!(one.subscribe("more"), Subscribed::TooMany);
        drop((one, other));
        assert!(lock(&hub.clients).is_empty());
    }
}
