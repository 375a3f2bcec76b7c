//! Numbered events on their way to those who follow them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_domain::id::TenantId;
use farshore_store::events::{EventFilter, EventRow};
use tokio::sync::broadcast;
use uuid::Uuid;

/// At most this many streams (events and measurements together) for one tenant on one replica.
pub const MAX_STREAMS_PER_TENANT: usize = 256;
/// Batches that wait for a slow reader; one that falls further behind reads from the database again.
const BACKLOG: usize = 256;

/// An event, written out once for all who follow.
#[derive(Debug)]
pub struct Published {
    pub sequence: i64,
    pub kind: String,
    subject_kind: String,
    subject: Uuid,
    subject_name: String,
    /// `farshore_api::event::Event` in JSON.
    pub json: String,
}

impl Published {
    /// Writes an event out.
    pub fn new(row: EventRow) -> Result<Self, serde_json::Error> {
        let event = super::view(row);
        let json = serde_json::to_string(&event)?;
        Ok(Self {
            sequence: event.sequence,
            kind: event.kind,
            subject_kind: event.subject.kind,
            subject: event.subject.uid,
            subject_name: event.subject.name,
            json,
        })
    }

    /// Whether it passes the filter, by the rule that the database goes by.
    #[must_use]
    pub fn passes(&self, filter: &EventFilter) -> bool {
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let subject = filter.subject.as_deref().is_none_or(|wanted| match Uuid::parse_str(wanted) {
            Ok(uid) => uid == self.subject,
            Err(_) => wanted == self.subject_name,
        });
        is(&filter.kind, &self.kind) && is(&filter.subject_kind, &self.subject_kind) && subject
    }
}

/// Events of one tenant, in order.
pub type Batch = Arc<[Published]>;

/// Where streams get numbered events from.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    tenants: Arc<Mutex<HashMap<TenantId, broadcast::Sender<Batch>>>>,
    streams: Arc<Mutex<HashMap<TenantId, usize>>>,
}

/// The right to one stream; given back when dropped.
#[derive(Debug)]
pub struct StreamPlace {
    feed: Feed,
    tenant: TenantId,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Follows a tenant's events from now on.
    #[must_use]
    pub fn follow(&self, tenant: TenantId) -> broadcast::Receiver<Batch> {
        lock(&self.tenants).entry(tenant).or_insert_with(|| broadcast::Sender::new(BACKLOG)).subscribe()
    }

    /// The tenants that somebody follows. Those that nobody follows any more are forgotten.
    #[must_use]
    pub fn followed(&self) -> Vec<TenantId> {
        let mut tenants = lock(&self.tenants);
        tenants.retain(|_, sender| sender.receiver_count() > 0);
        tenants.keys().copied().collect()
    }

    /// Passes numbered events on.
    pub fn publish(&self, tenant: TenantId, events: Vec<EventRow>) {
        let Some(sender) = lock(&self.tenants).get(&tenant).cloned() else { return };
        let batch: Vec<Published> = events
            .into_iter()
            .filter_map(|row| {
                Published::new(row)
                    .inspect_err(|error| tracing::error!(%error, "an event could not be written out"))
                    .ok()
            })
            .collect();
        // Without a receiver there is nobody to tell.
        let _ = sender.send(batch.into());
    }

    /// A place for one more stream of this tenant, if there is one.
    #[must_use]
    pub fn place(&self, tenant: TenantId) -> Option<StreamPlace> {
        let mut streams = lock(&self.streams);
        let taken = streams.entry(tenant).or_default();
        if *taken >= MAX_STREAMS_PER_TENANT {
            return None;
        }
        *taken += 1;
        Some(StreamPlace { feed: self.clone(), tenant })
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        lock(&self.streams).values().sum()
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut streams = lock(&self.feed.streams);
        if let Some(taken) = streams.get_mut(&self.tenant) {
            *taken -= 1;
            if *taken == 0 {
                streams.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_streams_are_given_back() {
        let feed = Feed::default();
        let tenant = TenantId(Uuid::from_u128(1));
        let places: Vec<_> = std::iter::from_fn(|| feed.place(tenant)).collect();
        assert_eq!(places.len(), MAX_STREAMS_PER_TENANT);
        assert!(feed.place(TenantId(Uuid::from_u128(2))).is_some(), "another tenant has its own");
        drop(places);
        assert!(feed.place(tenant).is_some());
        assert_eq!(feed.streams(), 0);
    }
}
