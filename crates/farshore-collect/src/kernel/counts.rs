//! What is counted rather than told one by one. All numbers grow; whoever wants rates takes differences.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::event::Kind;

/// Buckets of the latency histogram: bucket `n` holds requests that took less than 2^(n+1) microseconds.
pub(super) const BUCKETS: usize = 30;

/// Where TCP segments were sent again to, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The other end.
    pub peer: SocketAddr,
    /// Segments so far.
    pub segments: u64,
}

/// Disk requests by how long they took.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latency {
    /// Number of requests in each power of two of microseconds.
    pub buckets: Vec<u64>,
    /// All their microseconds.
    pub sum_us: u64,
    /// How many there were.
    pub count: u64,
}

impl Latency {
    /// The mean since `before` in milliseconds; `None` where nothing was completed, or the counters began anew.
    #[must_use]
    pub fn mean_ms(&self, before: &Self) -> Option<f64> {
        let count = self.count.checked_sub(before.count)?;
        let sum = self.sum_us.checked_sub(before.sum_us)?;
        (count > 0).then(|| sum as f64 / count as f64 / 1000.0)
    }

    /// The upper end, in milliseconds, of the bucket in which that share of the requests since `before` had ended: exact to a factor of two.
    #[must_use]
    pub fn quantile_ms(&self, before: &Self, share: f64) -> Option<f64> {
        let mut slots = Vec::with_capacity(self.buckets.len());
        for (index, now) in self.buckets.iter().enumerate() {
            slots.push(now.checked_sub(before.buckets.get(index).copied().unwrap_or(0))?);
        }
        let total: u64 = slots.iter().sum();
        if total == 0 {
            return None;
        }
        let needed = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, slot) in slots.iter().enumerate() {
            seen += slot;
            if seen >= needed {
                return Some(2f64.powi(i32::try_from(index).ok()? + 1) / 1000.0);
            }
        }
        None
    }
}

/// Everything that is counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events of each kind that were seen; a kind without a source has no number.
    pub seen: BTreeMap<Kind, u64>,
    /// Of those, how many were not told one by one because there were too many.
    pub unsent: BTreeMap<Kind, u64>,
    /// Where segments were sent again, most first; the kernel forgets the least used.
    pub destinations: Vec<Destination>,
    /// How long disks took.
    pub latency: Option<Latency>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_means_are_of_what_came_since() {
        let latency = |buckets: [u64; 4], sum_us, count| Latency { buckets: buckets.to_vec(), sum_us, count };
        let before = latency([5, 0, 0, 0], 5, 5);
        let now = latency([5, 98, 0, 2], 5 + 98 * 3 + 2 * 15, 105);
        assert_eq!(now.quantile_ms(&before, 0.5), Some(0.004));
        assert_eq!(now.quantile_ms(&before, 0.99), Some(0.016));
        assert!((now.mean_ms(&before).unwrap() - 0.003_24).abs() < 1e-12);
        assert_eq!(now.quantile_ms(&now, 0.5), None, "nothing new");
        assert_eq!(before.quantile_ms(&now, 0.5), None, "loaded anew");
        assert_eq!(before.mean_ms(&now), None);
    }
}
