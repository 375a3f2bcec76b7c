//! Who looks at a device. The first viewer makes it send a sample each second, and events that it does not keep; when the last is gone it goes
//! back to batches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_api::device::Sample;
use farshore_api::event::Event;
use farshore_domain::id::{DeviceId, TenantId};
use tokio::sync::broadcast;

/// What a device is asked for: a sample each so many milliseconds.
pub const INTERVAL_MS: u32 = 1_000;
/// For how long it is asked; renewed while somebody looks.
pub const SECONDS: u32 = 60;
/// How often it is renewed.
pub const RENEW_SECONDS: u64 = 20;
/// Glimpses that wait for a slow viewer before the oldest are dropped.
const BACKLOG: usize = 128;

type Key = (TenantId, DeviceId);

/// What a viewer sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Glimpse {
    Sample(Sample),
    /// An event that nobody keeps; its sequence is 0.
    Event(Event),
}

#[derive(Debug)]
struct Topic {
    viewers: usize,
    glimpses: broadcast::Sender<Arc<Glimpse>>,
}

/// Whom somebody looks at.
#[derive(Clone, Debug, Default)]
pub struct Live {
    topics: Arc<Mutex<HashMap<Key, Topic>>>,
}

/// One viewer. Looking ends when this is dropped.
#[derive(Debug)]
pub struct Viewer {
    live: Live,
    key: Key,
    glimpses: broadcast::Receiver<Arc<Glimpse>>,
}

impl Live {
    fn topics(&self) -> MutexGuard<'_, HashMap<Key, Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look.
    #[must_use]
    pub fn look(&self, tenant: TenantId, device: DeviceId) -> Viewer {
        let key = (tenant, device);
        let mut topics = self.topics();
        let topic = topics
            .entry(key)
            .or_insert_with(|| Topic { viewers: 0, glimpses: broadcast::Sender::new(BACKLOG) });
        topic.viewers += 1;
        Viewer { live: self.clone(), key, glimpses: topic.glimpses.subscribe() }
    }

    /// Whether anybody looks at the device.
    #[must_use]
    pub fn is_watched(&self, tenant: TenantId, device: DeviceId) -> bool {
        self.topics().contains_key(&(tenant, device))
    }

    /// Passes on what a device shows to whoever looks.
    pub fn publish(&self, tenant: TenantId, device: DeviceId, glimpse: Glimpse) {
        if let Some(topic) = self.topics().get(&(tenant, device)) {
            // Without a receiver there is nobody to tell.
            let _ = topic.glimpses.send(Arc::new(glimpse));
        }
    }
}

impl Viewer {
    /// The next glimpse; those that came while this viewer was too slow are left out. `None` never comes while the viewer lives.
    pub async fn next(&mut self) -> Option<Arc<Glimpse>> {
        loop {
            match self.glimpses.recv().await {
                Ok(glimpse) => return Some(glimpse),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Viewer {
    /// Whether nobody else looks at the device.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.live.topics().get(&self.key).is_none_or(|topic| topic.viewers <= 1)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut topics = self.live.topics();
        if let Some(topic) = topics.get_mut(&self.key) {
            topic.viewers -= 1;
            if topic.viewers == 0 {
                topics.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sample(at: i64) -> Glimpse {
        Glimpse::Sample(Sample { stream: "host".to_owned(), at, values: BTreeMap::new() })
    }

    #[tokio::test]
    async fn a_slow_viewer_loses_samples_and_blocks_nobody() {
        let live = Live::default();
        let (tenant, device) = (TenantId(uuid::Uuid::from_u128(1)), DeviceId(uuid::Uuid::from_u128(2)));
        live.publish(tenant, device, sample(0));
        let mut viewer = live.look(tenant, device);
        for at in 1..=500 {
            live.publish(tenant, device, sample(at));
        }
        let first = viewer.next().await.unwrap();
        assert_eq!(*first, sample(501 - i64::try_from(BACKLOG).unwrap()));
    }

    #[test]
    fn looking_ends_with_the_last_viewer() {
        let live = Live::default();
        let (tenant, device) = (TenantId(uuid::Uuid::from_u128(1)), DeviceId(uuid::Uuid::from_u128(2)));
        let one = live.look(tenant, device);
        let two = live.look(tenant, device);
        drop(one);
        assert!(live.is_watched(tenant, device));
        drop(two);
        assert!(!live.is_watched(tenant, device));
        assert!(live.topics().is_empty());
    }
}
