//! The edge's durable queue.
//!
//! Producers [`append`](Journal::append) points to named **streams**; the future they get is done when the points are
//! durable. One thread writes: it takes whatever has gathered, appends it to the **open segment** of each stream and
//! makes it durable with one `fdatasync` for all (group commit). The API is the same for threads and for tasks of a
//! runtime: [`Append::wait`] blocks, `.await` does not.
//!
//! ```no_run
//! use farshore_journal::{Config, Journal, PointBatch, StreamName, Value};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let journal = Journal::open("/var/lib/farshore/journal", Config::default())?;
//! let stream: StreamName = "data/line-1".parse()?;
//! let mut batch = PointBatch::new();
//! let series = batch.series("temperature", "value", [("room", "12")])?;
//! batch.push(series, 1_700_000_000_000_000_000, Value::Float(21.37))?;
//! journal.append(&stream, &batch).wait()?; // durable from here on
//! # Ok(()) }
//! ```

mod clock;
mod config;
mod core;
mod error;
mod files;
mod follow;
mod frame;
mod gather;
mod journal;
mod key;
#[cfg(test)]
mod model;
mod repair;
mod rest;
mod stats;
mod stream;

pub use crate::core::{Outgoing, PeerMark};
pub use config::{Backfill, Bounds, Class, Config, Durability, Overflow, StreamConfig};
pub use error::JournalError;
pub use farshore_series::{
    KeyError, Kind, Point, PointBatch, PointError, Sample, SeriesId, SeriesKey, Value,
};
pub use follow::Follower;
pub use gather::Producer;
pub use journal::{Append, Journal, Receipt};
pub use key::KEY_CREDENTIAL;
pub use repair::{Repair, new_epoch, repair};
pub use rest::{
    AtRest, Fault, Part, PartContents, PartKind, RecordedLoss, SegmentLook, batch_length, look_at_segment,
    points_of,
};
pub use stats::{LossReason, Stats, StreamStats};
pub use stream::{StreamName, StreamNameError};
