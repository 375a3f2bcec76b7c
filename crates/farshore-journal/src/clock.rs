//! The only place where this crate reads clocks.

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Unix time in nanoseconds. May be wrong: a device without a battery boots in 1970.
    pub(crate) wall_ns: i64,
    /// Nanoseconds since boot, sleep included.
    pub(crate) mono_ns: i64,
}

pub(crate) fn now() -> Now {
    #[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
    let wall = std::time::SystemTime::now();
    let wall = wall.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let mono = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Now {
        wall_ns: i64::try_from(wall).unwrap_or(i64::MAX),
        mono_ns: mono.tv_sec.saturating_mul(1_000_000_000).saturating_add(mono.tv_nsec),
    }
}

/// A wall clock before this (1 January 2025) has not been set.
pub(crate) const PLAUSIBLE_NS: i64 = 1_735_689_600_000_000_000;

/// Changes with each boot of the device; zeroes where the kernel does not tell.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}
