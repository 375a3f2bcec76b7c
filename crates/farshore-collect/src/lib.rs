//! Host and kernel telemetry from /proc, /sys and PSI.
//!
//! A [`Collector`] keeps the counters of its last reading and yields one [`HostSample`] per call. Each
//! [`Metric`] is there or not on its own: a kernel without PSI, a container without /proc/diskstats or a board
//! without a thermal zone give fewer values, never wrong ones, and [`Collector::capabilities`] says why.
//!
//! - Time is an argument. Rates are taken over the monotonic clock, so that a step of the wall clock changes
//!   nothing but the timestamp.
//! - A counter that goes backwards (wrap, reset, a driver loaded anew) or a rate beyond what hardware does drops
//!   that value from that sample. An interface or disk that is new counts from its second reading on.
//! - Everything read is capped at [`MAX_FILE_BYTES`] and parsed without panic.
//! - Roots are injectable ([`Roots`]), so the same code reads captured trees in tests.
//!
//! Values are rounded to the decimals of their metric ([`Metric::decimals`]), which is finer than the kernel
//! measures and lets the block codec store them as small integers.
//!
//! To add a metric: a row in `metric.rs`, a parser in `source/`, its reading in `collector.rs`, and a line in
//! the fixture test.

mod capability;
mod collector;
mod facts;
mod file;
pub mod kernel;
mod metric;
mod previous;
mod sample;
mod source;
mod usage;

pub use capability::{Availability, Capability};
pub use collector::{Collector, CollectorConfig};
pub use facts::HostFacts;
pub use file::{MAX_FILE_BYTES, ReadError, Roots};
pub use metric::{Metric, Unit};
pub use sample::{DiskUsage, HostSample, Pressure, PressureLine};
pub use usage::{AppUsage, UsageError, process_tree};
