//! A clock that never reads less than a floor.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use farshore_domain::time::UnixMs;
use rustls_pki_types::UnixTime;

/// The greater of the caller's clock and a floor: a device whose clock starts in 1970 judges certificates by the last
/// time it had good reason to believe in. Clones share the floor.
#[derive(Clone)]
pub struct FlooredClock {
    source: Arc<dyn Fn() -> UnixMs + Send + Sync>,
    floor: Arc<AtomicI64>,
}

impl FlooredClock {
    /// A clock over `source`, which is read at each use, never below `floor`.
    pub fn new(source: impl Fn() -> UnixMs + Send + Sync + 'static, floor: UnixMs) -> Self {
        Self { source: Arc::new(source), floor: Arc::new(AtomicI64::new(floor.0)) }
    }

    /// The greater of the source and the floor.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        UnixMs((self.source)().0.max(self.floor.load(Ordering::Acquire)))
    }

    /// The floor, for persisting it.
    #[must_use]
    pub fn floor(&self) -> UnixMs {
        UnixMs(self.floor.load(Ordering::Acquire))
    }

    /// Raises the floor to `to`; never lowers it.
    pub fn raise_floor(&self, to: UnixMs) {
        self.floor.fetch_max(to.0, Ordering::AcqRel);
    }
}

impl fmt::Debug for FlooredClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlooredClock").field("floor", &self.floor()).finish_non_exhaustive()
    }
}

impl rustls::time_provider::TimeProvider for FlooredClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(to_unix_time(self.now()))
    }
}

pub(crate) fn to_unix_time(time: UnixMs) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(time.0).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_reads_the_floor_and_the_floor_only_rises() {
        let clock = FlooredClock::new(|| UnixMs(5), UnixMs(1_000));
        assert_eq!(clock.now(), UnixMs(1_000));
        clock.raise_floor(UnixMs(900));
        assert_eq!(clock.floor(), UnixMs(1_000));
        let shared = clock.clone();
        shared.raise_floor(UnixMs(2_000));
        assert_eq!(clock.now(), UnixMs(2_000));
        assert_eq!(FlooredClock::new(|| UnixMs(5), UnixMs(1)).now(), UnixMs(5));
    }
}
