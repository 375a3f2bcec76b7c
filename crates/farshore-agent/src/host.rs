//! Measurements of this host.

use std::path::Path;

use farshore_collect::{Collector, CollectorConfig};
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::UnixMs;

use crate::agent::Sampler;

/// Samples /proc and PSI.
#[derive(Debug)]
pub struct HostSampler(Collector);

impl HostSampler {
    /// Watches the disk of `state`, too.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self(Collector::new(CollectorConfig::with_state_folder(state)))
    }
}

impl Sampler for HostSampler {
    fn sample(&mut self, at: UnixMs, mono: MonoMs) -> Vec<(&'static str, f64)> {
        let sample = self.0.sample(at.0, mono.0);
        sample.iter().map(|(metric, value)| (metric.name(), value)).collect()
    }
}
