//! What happens inside the kernel: processes that end, the OOM killer, segments sent again, disks that are slow.
//!
//! Two sources tell of single events. eBPF programs (`bpf/eyes.bpf.c`, checked in compiled) see all of it; where they can't be loaded, the
//! kernel's process connector still tells of processes that end. [`load()`] puts the programs into the kernel and costs some 20 MB for a
//! moment, so that it is done in a process of its own, which hands descriptors on ([`hand_over`], [`receive`]) and ends; whoever holds the
//! descriptors ([`Eyes`]) keeps the programs attached and reads. [`Storm`] bounds what becomes of thousands of events a second.
//!
//! Nothing here knows who wants to see it, and nothing is `unsafe`: the memory shared with the kernel is behind aya's ring buffer.

mod attach;
mod connector;
mod counts;
mod event;
mod eyes;
mod handover;
mod proc;
mod storm;

pub use attach::{LoadError, Loaded, Wants, load};
pub use connector::{Connector, parse_connector};
pub use counts::{Counts, Destination, Latency};
pub use event::{Ended, Event, Kind};
pub use eyes::{Eyes, EyesError};
pub use handover::{HandoverError, Report, hand_over, receive};
pub use proc::{Counters, ProcCounters};
pub use storm::{Storm, Told};
