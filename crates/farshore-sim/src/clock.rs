//! The only place where this crate reads clocks.

use farshore_domain::reconcile::{MonoMs, Now};
use farshore_domain::time::UnixMs;
use farshore_trust::clock::FlooredClock;

/// The wall clock.
pub(crate) fn wall() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
    let now = std::time::SystemTime::now();
    let ms = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    UnixMs(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Milliseconds since boot, sleep included.
pub(crate) fn mono() -> MonoMs {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    MonoMs(time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000))
}

/// Both clocks at once.
pub(crate) fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// The clock by which certificates are judged.
pub(crate) fn for_tls() -> FlooredClock {
    FlooredClock::new(wall, UnixMs(0))
}
