//! Measurements of this host.

use std::path::Path;

use farshore_collect::kernel::{Counts, Kind, Latency};
use farshore_collect::{Collector, CollectorConfig};
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::UnixMs;

use crate::agent::Sampler;
use crate::eyes::{Eyes, Tally};

/// Samples /proc and PSI.
#[derive(Debug)]
pub struct HostSampler {
    collector: Collector,
    eyes: Eyes,
}

impl HostSampler {
    /// Watches the disk of `state`, too.
    #[must_use]
    pub(crate) fn new(state: &Path, eyes: Eyes) -> Self {
        Self { collector: Collector::new(CollectorConfig::with_state_folder(state)), eyes }
    }
}

fn counts(tally: Tally) -> Counts {
    let seen = tally.seen.into_iter().filter_map(|(kind, count)| Some((Kind::from_name(&kind)?, count)));
    let latency = tally.latency.map(|(buckets, sum_us, count)| Latency { buckets, sum_us, count });
    Counts { seen: seen.collect(), latency, ..Counts::default() }
}

impl Sampler for HostSampler {
    fn sample(&mut self, at: UnixMs, mono: MonoMs) -> Vec<(&'static str, f64)> {
        self.collector.hear(self.eyes.tally().map(|(_, tally)| counts(tally)));
        let sample = self.collector.sample(at.0, mono.0);
        sample.iter().map(|(metric, value)| (metric.name(), value)).collect()
    }
}
