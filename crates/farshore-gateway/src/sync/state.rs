//! What the sender says of itself, to those who ask the gateway.

use std::sync::Mutex;
use std::time::Duration;

use farshore_journal::Stats;

use super::pace::Drain;
use super::uplink::{ProcessingReport, StreamReport, SyncReport};
use crate::ingest::lock;

#[derive(Debug, Default)]
pub(crate) struct SyncState(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    online: bool,
    last_sync_ns: Option<i64>,
    last_error: Option<String>,
    refused_batches: u64,
    costs: Option<String>,
    drain: Drain,
}

/// A look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SyncSeen {
    /// The last exchange went well.
    pub(crate) online: bool,
    /// When an exchange went well, Unix nanoseconds.
    pub(crate) last_sync_ns: Option<i64>,
    /// Why the last one did not.
    pub(crate) last_error: Option<String>,
    pub(crate) refused_batches: u64,
    /// The interface over which sending costs money now.
    pub(crate) costs: Option<String>,
    pub(crate) drain: Option<Duration>,
}

impl SyncState {
    pub(crate) fn seen(&self, pending: u64) -> SyncSeen {
        let inner = lock(&self.0);
        SyncSeen {
            online: inner.online,
            last_sync_ns: inner.last_sync_ns,
            last_error: inner.last_error.clone(),
            refused_batches: inner.refused_batches,
            costs: inner.costs.clone(),
            drain: inner.drain.estimate(pending),
        }
    }

    /// Over which interface sending costs money now. Whether that is new.
    pub(super) fn costs(&self, interface: Option<String>) -> bool {
        let mut inner = lock(&self.0);
        let changed = inner.costs != interface;
        inner.costs = interface;
        changed
    }

    pub(super) fn went_well(&self, wall_ns: i64) {
        let mut inner = lock(&self.0);
        (inner.online, inner.last_sync_ns, inner.last_error) = (true, Some(wall_ns), None);
    }

    pub(super) fn failed(&self, why: String) {
        let mut inner = lock(&self.0);
        (inner.online, inner.last_error) = (false, Some(why));
    }

    /// Sending begins.
    pub(super) fn begins(&self, mono_ns: i64) {
        lock(&self.0).drain.begins(mono_ns);
    }

    /// So many points have arrived, after which nothing may go for as long as `wait`.
    pub(super) fn sent(&self, mono_ns: i64, points: u64, wait: Duration) {
        lock(&self.0).drain.sent(mono_ns, points, wait);
    }

    pub(super) fn refused(&self) {
        lock(&self.0).refused_batches += 1;
    }

    /// What the control plane is told.
    pub(super) fn report(
        &self,
        mono_ns: i64,
        stats: &Stats,
        processing: Option<ProcessingReport>,
    ) -> SyncReport {
        let mut inner = lock(&self.0);
        inner.drain.came(mono_ns, stats.streams.values().map(|stream| stream.appended).sum());
        let ms = |ns: Option<i64>| ns.map(|ns| ns.div_euclid(1_000_000));
        SyncReport {
            backlog_points: stats.pending_points(),
            backlog_bytes: stats.bytes,
            oldest_unsent_at: ms(stats.oldest_ns()),
            drain_seconds: inner.drain.estimate(stats.pending_points()).map(|drain| drain.as_secs()),
            lost_points: stats.streams.values().flat_map(|stream| stream.lost.values()).sum(),
            refused_batches: inner.refused_batches,
            last_error: inner.last_error.clone(),
            streams: stats
                .streams
                .iter()
                .map(|(name, stream)| StreamReport {
                    name: name.to_string(),
                    class: stream.class.as_str().to_owned(),
                    backlog_points: stream.pending_points,
                    backlog_bytes: stream.pending_bytes,
                    oldest_unsent_at: ms(stream.oldest_ns),
                })
                .collect(),
            processing,
        }
    }
}
