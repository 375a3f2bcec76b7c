//! Figures of a journal.

use std::collections::BTreeMap;

use crate::config::Class;
use crate::stream::StreamName;

/// Why points were lost. Each loss is counted; none is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LossReason {
    /// Bounds were reached; the oldest went.
    DropOldest = 0,
    /// Bounds were reached; the newest were not kept.
    DropNewest = 1,
    /// Bounds were reached; points were replaced by summaries.
    Thinned = 2,
    /// Older than the stream keeps.
    Expired = 3,
    /// The medium gave other bytes than were written.
    Corrupt = 4,
    /// A segment ended within a write, as after a power cut; those points may never have been acknowledged.
    TornTail = 5,
    /// The control plane will never take the batch.
    Refused = 6,
    /// A sealed batch was not what had been written.
    CorruptBatch = 7,
}

impl LossReason {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Thinned => "thinned",
            Self::Expired => "expired",
            Self::Corrupt => "corrupt",
            Self::TornTail => "torn-tail",
            Self::Refused => "refused",
            Self::CorruptBatch => "corrupt-batch",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        [
            Self::DropOldest,
            Self::DropNewest,
            Self::Thinned,
            Self::Expired,
            Self::Corrupt,
            Self::TornTail,
            Self::Refused,
            Self::CorruptBatch,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == name)
    }

    /// Whether a whole batch or segment goes for this reason.
    pub(crate) fn whole_unit(self) -> bool {
        matches!(self, Self::DropOldest | Self::Expired)
    }
}

/// Figures of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStats {
    /// Its class.
    pub class: Class,
    /// Points that were acknowledged since the journal was opened.
    pub appended: u64,
    /// Points that wait for delivery.
    pub pending_points: u64,
    /// Bytes on disk.
    pub pending_bytes: u64,
    /// Batches and segments on disk.
    pub pending_batches: u64,
    /// Time of the oldest point that waits, Unix nanoseconds.
    pub oldest_ns: Option<i64>,
    /// The sequence that the open segment has or will have.
    pub next_sequence: u64,
    /// Points lost since the journal was opened, by reason.
    pub lost: BTreeMap<LossReason, u64>,
    /// Bytes that held further points, nobody knows how many: neither end of what was damaged is left.
    pub lost_bytes: u64,
}

/// Figures of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Its streams.
    pub streams: BTreeMap<StreamName, StreamStats>,
    /// Bytes on disk, all streams together.
    pub bytes: u64,
    /// Syncs since it was opened.
    pub syncs: u64,
    /// Points whose time was too far ahead and was set to the clock's, since it was opened.
    pub future_times: u64,
    /// Points whose times were set right because the clock had been wrong, since it was opened.
    pub rebased: u64,
    /// The journal's life: another after a new image.
    pub epoch: u64,
}

impl Stats {
    /// Points that wait for delivery, all streams together.
    #[must_use]
    pub fn pending_points(&self) -> u64 {
        self.streams.values().map(|stream| stream.pending_points).sum()
    }

    /// Time of the oldest point that waits, Unix nanoseconds.
    #[must_use]
    pub fn oldest_ns(&self) -> Option<i64> {
        self.streams.values().filter_map(|stream| stream.oldest_ns).min()
    }
}
