//! The only place where this crate reads clocks.

use std::fs;

use farshore_domain::reconcile::{MonoMs, Now};
use farshore_domain::time::UnixMs;

/// The wall clock. May be wrong: a device without a battery boots in 1970.
#[must_use]
pub fn wall() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
    let now = std::time::SystemTime::now();
    let ms = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    UnixMs(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Milliseconds since boot, sleep included.
#[must_use]
pub fn mono() -> MonoMs {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    MonoMs(time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000))
}

/// Both clocks at once.
#[must_use]
pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// Changes with each boot of the device; a fixed text where the kernel does not tell.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
