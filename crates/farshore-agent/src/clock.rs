//! The only place where this crate reads clocks.
//!
//! A development build can be told to live faster (`FARSHORE_CLOCK_HURRY`), so that tests of real processes see a month pass; a release build has no such thing.

use std::fs;
use std::time::Duration;

use farshore_domain::reconcile::{MonoMs, Now};
use farshore_domain::time::UnixMs;

/// The wall clock. May be wrong: a device without a battery boots in 1970.
#[must_use]
pub fn wall() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "the edge, where the clock is read")]
    let now = std::time::SystemTime::now();
    let ms = now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    UnixMs(i64::try_from(ms).unwrap_or(i64::MAX)).plus_ms(hurry::ahead_ms(boottime_ms()))
}

fn boottime_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}

/// Milliseconds since boot, sleep included.
#[must_use]
pub fn mono() -> MonoMs {
    let machine = boottime_ms();
    MonoMs(machine.saturating_add(hurry::ahead_ms(machine)))
}

/// How long to sleep until so many milliseconds have passed on these clocks.
#[must_use]
pub fn pause(ms: u64) -> Duration {
    hurry::pause(ms, boottime_ms())
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

#[cfg(not(debug_assertions))]
mod hurry {
    pub(super) fn ahead_ms(_: i64) -> i64 {
        0
    }

    pub(super) fn pause(ms: u64, _: i64) -> std::time::Duration {
        std::time::Duration::from_millis(ms)
    }
}

#[cfg(debug_assertions)]
mod hurry {
    use std::sync::OnceLock;
    use std::time::Duration;

    /// `<from>:<factor>:<most>`: from this millisecond since boot on, clocks run so many times as fast, until they are so many milliseconds
    /// ahead. All processes that are told the same see the same time, whenever they begin.
    const HURRY: &str = "FARSHORE_CLOCK_HURRY";

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Hurry {
        from: i64,
        factor: i64,
        most: i64,
    }

    impl Hurry {
        pub(super) fn parse(text: &str) -> Option<Self> {
            let mut words = text.split(':').map(|word| word.parse().ok());
            let (from, factor, most) = (words.next()??, words.next()??, words.next()??);
            (factor >= 1 && most >= 0 && words.next().is_none()).then_some(Self { from, factor, most })
        }

        pub(super) fn ahead_ms(&self, machine: i64) -> i64 {
            machine.saturating_sub(self.from).max(0).saturating_mul(self.factor - 1).min(self.most)
        }

        pub(super) fn pause(&self, ms: u64, machine: i64) -> Duration {
            let hurries = (1..self.most).contains(&self.ahead_ms(machine.saturating_add(1)));
            let factor = if hurries { self.factor.unsigned_abs() } else { 1 };
            Duration::from_micros(ms.saturating_mul(1_000) / factor)
        }
    }

    fn hurry() -> Option<&'static Hurry> {
        static TOLD: OnceLock<Option<Hurry>> = OnceLock::new();
        TOLD.get_or_init(|| std::env::var(HURRY).ok().and_then(|text| Hurry::parse(&text))).as_ref()
    }

    pub(super) fn ahead_ms(machine: i64) -> i64 {
        hurry().map_or(0, |hurry| hurry.ahead_ms(machine))
    }

    pub(super) fn pause(ms: u64, machine: i64) -> Duration {
        hurry().map_or(Duration::from_millis(ms), |hurry| hurry.pause(ms, machine))
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::time::Duration;

    use super::hurry::Hurry;

    #[test]
    fn a_clock_that_hurries_goes_faster_for_a_while_and_never_back() {
        let hurry = Hurry::parse("1000:10:900").unwrap();
        let ahead = [0, 1_000, 1_010, 1_100, 5_000].map(|machine| hurry.ahead_ms(machine));
        assert_eq!(ahead, [0, 0, 90, 900, 900]);
        assert_eq!(hurry.pause(500, 1_010), Duration::from_millis(50));
        assert_eq!(hurry.pause(500, 5_000), Duration::from_millis(500), "it has caught up");
        assert_eq!(hurry.pause(500, 0), Duration::from_millis(500), "it has not begun");
        for nonsense in ["", "1:2", "1:0:5", "1:2:3:4", "a:2:3"] {
            assert_eq!(Hurry::parse(nonsense), None, "{nonsense:?}");
        }
    }
}
