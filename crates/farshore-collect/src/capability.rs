//! What can be measured on this machine, and from where.

use std::fmt;

use crate::metric::Metric;

/// Whether one metric can be measured here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The metric.
    pub metric: Metric,
    /// Its source, or why there is none.
    pub availability: Availability,
}

/// Where a metric comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// The source that is read, such as `/proc/net/snmp` or `psi`.
    Source(String),
    /// No value can be had, for this reason.
    Unavailable(String),
}

impl Availability {
    /// Whether there is a source.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Source(_))
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => f.write_str(source),
            Self::Unavailable(reason) => write!(f, "unavailable: {reason}"),
        }
    }
}
