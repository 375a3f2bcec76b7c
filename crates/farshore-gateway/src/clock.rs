//! The only place where this crate reads clocks.

/// The wall clock in Unix nanoseconds. May be wrong: a device without a battery boots in 1970.
pub(crate) fn wall_ns() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
    let now = std::time::SystemTime::now();
    let ns = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// Nanoseconds since boot, sleep included.
pub(crate) fn mono_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// `2025-10-09T10:30:00Z`.
pub(crate) fn rfc3339(unix_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or_else(|_| String::new(), |time| format!("{time:.0}"))
}
