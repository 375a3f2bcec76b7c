//! One reading of a host.

use std::path::PathBuf;

use crate::metric::Metric;

/// What was measured at one moment. Metrics without a value are absent.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSample {
    /// Unix milliseconds, as given to [`sample`](crate::Collector::sample).
    pub at_ms: i64,
    /// Space on each watched filesystem, in the order of the configured paths; one that several paths share
    /// appears once.
    pub disks: Vec<DiskUsage>,
    /// Pressure on processors, where the kernel has PSI.
    pub cpu_pressure: Option<Pressure>,
    /// Pressure on memory, where the kernel has PSI.
    pub memory_pressure: Option<Pressure>,
    /// Pressure on disks, where the kernel has PSI.
    pub io_pressure: Option<Pressure>,
    /// Number of processors that are online.
    pub cpu_count: Option<u32>,
    values: [Option<f64>; Metric::COUNT],
}

impl HostSample {
    pub(crate) fn new(at_ms: i64) -> Self {
        Self {
            at_ms,
            disks: Vec::new(),
            cpu_pressure: None,
            memory_pressure: None,
            io_pressure: None,
            cpu_count: None,
            values: [None; Metric::COUNT],
        }
    }

    /// Takes the value if it is one: finite, and rounded to the metric's decimals.
    pub(crate) fn set(&mut self, metric: Metric, value: Option<f64>) {
        if let Some(slot) = self.values.get_mut(metric as usize) {
            *slot = value.and_then(|value| metric.round(value));
        }
    }

    /// The value of one metric, in the metric's unit.
    #[must_use]
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.get(metric as usize).copied().flatten()
    }

    /// The metrics that have a value.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, f64)> + '_ {
        Metric::ALL.iter().filter_map(|metric| Some((*metric, self.get(*metric)?)))
    }
}

/// Space on one filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// The configured path.
    pub path: PathBuf,
    /// Size in bytes.
    pub total_bytes: u64,
    /// Bytes in use, those reserved for the superuser not counted.
    pub used_bytes: u64,
    /// Bytes that an unprivileged process may still write.
    pub available_bytes: u64,
}

/// Pressure stall information of one resource (Linux `Documentation/accounting/psi.rst`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    /// Time in which at least one task waited.
    pub some: PressureLine,
    /// Time in which all tasks waited. Kernels before 5.13 do not have it for processors.
    pub full: Option<PressureLine>,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PressureLine {
    /// The kernel's own average over the last ten seconds, 0 to 1.
    pub avg10: f64,
    /// Share of the time since the sample before, 0 to 1; `None` in the first sample.
    pub interval: Option<f64>,
}

impl PressureLine {
    /// Share of the time since the sample before; where that is not known, the ten-second average.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.interval.unwrap_or(self.avg10)
    }
}
