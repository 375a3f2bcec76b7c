//! What can go wrong, as producers see it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_series::{DecodeError, EncodeError, PointError};
use farshore_trust::sealed::SealError;

use crate::stream::StreamName;

/// Why something did not work. After an error, nothing of the append is durable, or may be counted on.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The stream has reached its bounds and is set to reject.
    #[error("stream {stream} is full; old points go as they are delivered")]
    Full {
        /// The stream.
        stream: StreamName,
    },
    /// The disk, or the journal's share of it, is full.
    #[error("the disk is full; free some space, nothing that was acknowledged is lost")]
    DiskFull,
    /// More is waiting to be written than memory is set aside for. Try again shortly.
    #[error("the journal is busy: the disk does not keep up; try again shortly")]
    Busy,
    /// The disk failed.
    #[error("the journal could not {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// Something could not be encrypted or decrypted, or a key not be had.
    #[error("the journal could not seal or open")]
    Seal(#[source] Arc<SealError>),
    /// Points could not be put in columns.
    #[error("a batch could not be encoded")]
    Encode(#[source] Arc<EncodeError>),
    /// A batch holds no points that can be read.
    #[error("a batch could not be decoded")]
    Decode(#[source] Arc<DecodeError>),
    /// The journal is closing or closed.
    #[error("the journal is closed")]
    Closed,
    /// Another process has it open.
    #[error("the journal in {} is in use by another process", path.display())]
    InUse {
        /// Its folder.
        path: PathBuf,
    },
    /// The device's key is missing, without which its batches cannot be opened.
    #[error("the device's key {} is missing; put it back, without it nothing here can be opened", path.display())]
    NoKey {
        /// Where it should be.
        path: PathBuf,
    },
    /// The device's key is not the one with which the journal was written.
    #[error("the device's key {} is not the one that this journal was written with; nothing was changed", path.display())]
    OtherKey {
        /// Where the key is.
        path: PathBuf,
    },
    /// The folder holds none.
    #[error("there is no journal in {}", path.display())]
    NoJournal {
        /// The folder.
        path: PathBuf,
    },
    /// A point does not fit.
    #[error("a point does not fit")]
    Point(#[from] PointError),
    /// There are as many streams as are allowed.
    #[error("there are {max} streams already; stream {stream} is not made")]
    TooManyStreams {
        /// The stream that was asked for.
        stream: StreamName,
        /// How many are allowed.
        max: usize,
    },
    /// One append is more than its stream may keep.
    #[error(
        "one append has {points} points and {bytes} bytes; stream {stream} keeps at most {max_points} points and {max_bytes} bytes"
    )]
    BeyondBounds {
        /// The stream.
        stream: StreamName,
        /// Its points.
        points: u64,
        /// Its bytes.
        bytes: u64,
        /// The most points.
        max_points: u64,
        /// The most bytes.
        max_bytes: u64,
    },
    /// One append is larger than a segment.
    #[error("one append has {bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The most.
        max: usize,
    },
}

impl JournalError {
    pub(crate) fn seal(source: SealError) -> Self {
        Self::Seal(Arc::new(source))
    }

    pub(crate) fn encode(source: EncodeError) -> Self {
        Self::Encode(Arc::new(source))
    }

    pub(crate) fn io(operation: &'static str, source: io::Error) -> Self {
        if is_full(&source) { Self::DiskFull } else { Self::Io { operation, source: Arc::new(source) } }
    }

    /// When to try again, where that helps: what an HTTP server puts into `Retry-After`.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy => Some(Duration::from_secs(1)),
            Self::Full { .. } | Self::DiskFull | Self::Io { .. } | Self::Seal(_) | Self::Encode(_) => {
                Some(Duration::from_secs(30))
            }
            Self::Closed => Some(Duration::from_secs(5)),
            Self::InUse { .. }
            | Self::NoJournal { .. }
            | Self::NoKey { .. }
            | Self::OtherKey { .. }
            | Self::Decode(_)
            | Self::Point(_)
            | Self::TooManyStreams { .. }
            | Self::BeyondBounds { .. }
            | Self::TooLarge { .. } => None,
        }
    }
}

/// Whether the device has no room left (`ENOSPC`, `EDQUOT`).
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
