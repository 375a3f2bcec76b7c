//! What a journal is told when it is opened.

use std::time::Duration;

use farshore_trust::sealed::IngestPublicKey;

use crate::stream::StreamName;

/// How urgent a stream is. Alerts go first, always; the others share the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Goes before everything, and has room of its own when the rest is full.
    Alert = 0,
    /// Documents and their changes.
    Document = 1,
    /// Measurements.
    Telemetry = 2,
    /// Logs.
    Log = 3,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 4] = [Self::Alert, Self::Document, Self::Telemetry, Self::Log];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Document => "document",
            Self::Telemetry => "telemetry",
            Self::Log => "log",
        }
    }
}

/// When the future of an append is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Durable. Appends gather for at most this long, so that one sync serves many; sooner, when nobody is left to wait for.
    Group(Duration),
    /// Durable, without waiting for company.
    Strict,
    /// **Not durable**: handed to the operating system. Survives a crash of the process, not of the device.
    Os,
    /// **Not durable**: taken into memory. Nothing that needs an acknowledgement may go this way.
    Memory,
}

impl Durability {
    /// Whether an acknowledged append survives a power cut.
    #[must_use]
    pub fn is_durable(self) -> bool {
        matches!(self, Self::Group(_) | Self::Strict)
    }
}

impl Default for Durability {
    fn default() -> Self {
        Self::Group(Duration::from_millis(20))
    }
}

/// What happens to a stream that has reached its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The oldest batch goes, and is counted.
    #[default]
    DropOldest,
    /// New points are taken and thrown away, and are counted.
    DropNewest,
    /// Producers get [`JournalError::Full`](crate::JournalError::Full).
    Reject,
    /// The oldest batches keep minimum, maximum, mean and count per window of this length, in place of their points.
    Thin(Duration),
}

/// Which end of a backlog goes first. Either way the other end gets every fourth place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backfill {
    /// In order.
    #[default]
    Oldest,
    /// What is happening now before what happened then.
    Newest,
}

/// The most that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on disk.
    pub bytes: u64,
    /// Points.
    pub points: u64,
    /// Age of the newest point of a batch.
    pub age: Duration,
}

impl Bounds {
    /// No bounds.
    pub const NONE: Self = Self { bytes: u64::MAX, points: u64::MAX, age: Duration::MAX };
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// How urgent it is.
    pub class: Class,
    /// When an append is done.
    pub durability: Durability,
    /// The most that is kept.
    pub bounds: Bounds,
    /// What happens beyond that.
    pub overflow: Overflow,
}

impl StreamConfig {
    /// A stream of this class with the class's defaults.
    #[must_use]
    pub fn of(class: Class) -> Self {
        Self {
            class,
            durability: Durability::default(),
            bounds: Bounds::NONE,
            overflow: if class == Class::Alert { Overflow::Reject } else { Overflow::DropOldest },
        }
    }
}

/// A journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Streams with settings of their own.
    pub streams: Vec<(StreamName, StreamConfig)>,
    /// Settings of a stream that is not named above; it begins with its first append.
    pub default_stream: StreamConfig,
    /// Most streams, so that a producer cannot make folders without end; those that are named in `streams` do not count.
    pub max_streams: usize,
    /// The most bytes on disk, all streams together.
    pub max_bytes: u64,
    /// Of these, what only alerts may use.
    pub alert_reserve_bytes: u64,
    /// Appends that wait to be written, in bytes of memory; beyond that, producers get
    /// [`JournalError::Busy`](crate::JournalError::Busy).
    pub max_waiting_bytes: usize,
    /// A segment of this size is sealed.
    pub segment_bytes: u64,
    /// A segment of this age is sealed while batches are being fetched; thirty times as old, while they are not.
    pub segment_age: Duration,
    /// A segment with so many points is sealed sooner, once it is a second old: batches of about so many points, and no flood of tiny ones.
    pub segment_points: Option<u32>,
    /// The most bytes that lie in the folder of what was set aside; the oldest go first.
    pub quarantine_bytes: u64,
    /// zstd's level for batches, 1 to 22.
    pub zstd_level: i32,
    /// Which end of a backlog goes first.
    pub backfill: Backfill,
    /// The tenant's key for which batches are sealed; without one, only the device can open them.
    pub ingest_key: Option<IngestPublicKey>,
    /// Points further ahead of the clock than this get the clock's time (and are counted): one wrong time must not hide
    /// all that comes after it.
    pub max_ahead: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams: Vec::new(),
            default_stream: StreamConfig::of(Class::Telemetry),
            max_streams: 64,
            max_bytes: 1024 * 1024 * 1024,
            alert_reserve_bytes: 8 * 1024 * 1024,
            max_waiting_bytes: 16 * 1024 * 1024,
            segment_bytes: 2 * 1024 * 1024,
            segment_age: Duration::from_secs(10),
            segment_points: None,
            quarantine_bytes: 64 * 1024 * 1024,
            zstd_level: 3,
            backfill: Backfill::default(),
            ingest_key: None,
            max_ahead: Duration::from_secs(24 * 3600),
        }
    }
}

impl Config {
    /// The settings of a stream.
    #[must_use]
    pub fn stream(&self, name: &StreamName) -> &StreamConfig {
        self.named(name).unwrap_or(&self.default_stream)
    }

    /// Whether a stream has settings of its own.
    pub(crate) fn names(&self, name: &StreamName) -> bool {
        self.named(name).is_some()
    }

    fn named(&self, name: &StreamName) -> Option<&StreamConfig> {
        self.streams.iter().find(|(candidate, _)| candidate == name).map(|(_, config)| config)
    }
}
