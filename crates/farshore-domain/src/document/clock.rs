//! A hybrid logical clock: wall time that never goes back, with a counter for edits in the same millisecond.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::UnixMs;

/// How far ahead of the hub's clock a device's time may be; beyond that it counts as the hub's.
pub const MAX_SKEW_MS: i64 = 60_000;

/// When an edit was made. Written `milliseconds.count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hlc {
    pub ms: i64,
    pub count: u32,
}

impl Hlc {
    /// The time of an edit made now, after everything that `self` has seen.
    #[must_use]
    pub fn next(self, now: UnixMs) -> Self {
        if now.0 > self.ms {
            return Self { ms: now.0, count: 0 };
        }
        match self.count.checked_add(1) {
            Some(count) => Self { ms: self.ms, count },
            None => Self { ms: self.ms.saturating_add(1), count: 0 },
        }
    }

    /// A time from a device, no further ahead than allowed.
    #[must_use]
    pub const fn bounded(self, now: UnixMs) -> Self {
        if self.ms > now.0.saturating_add(MAX_SKEW_MS) { Self { ms: now.0, count: 0 } } else { self }
    }

    /// A device's clock after it has heard the hub's: not behind it, and no further ahead than allowed.
    #[must_use]
    pub fn observe(self, hub: Self) -> Self {
        if self.ms > hub.ms.saturating_add(MAX_SKEW_MS) { hub } else { self.max(hub) }
    }
}

impl fmt::Display for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms, self.count)
    }
}

impl From<Hlc> for String {
    fn from(at: Hlc) -> Self {
        at.to_string()
    }
}

impl FromStr for Hlc {
    type Err = super::DocumentError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('.').and_then(|(ms, count)| {
            let ms: i64 = ms.parse().ok().filter(|ms| *ms >= 0)?;
            Some(Self { ms, count: count.parse().ok()? })
        });
        parsed.ok_or_else(|| super::DocumentError::new("a time is written milliseconds.count"))
    }
}

impl TryFrom<String> for Hlc {
    type Error = super::DocumentError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_and_the_future_is_bounded() {
        let first = Hlc::default().next(UnixMs(1_000));
        let second = first.next(UnixMs(900));
        assert!(second > first && second.ms == 1_000);
        assert_eq!(second.next(UnixMs(1_001)), Hlc { ms: 1_001, count: 0 });
        let year = Hlc { ms: 31_536_000_000, count: 7 };
        assert_eq!(year.bounded(UnixMs(1_000)), Hlc { ms: 1_000, count: 0 });
        assert_eq!(second.bounded(UnixMs(0)), second);
        assert_eq!(year.observe(first), first);
        assert_eq!(first.observe(second), second);
        let full = Hlc { ms: 5, count: u32::MAX };
        assert!(full.next(UnixMs(1)) > full);
    }

    #[test]
    fn text() {
        let at = Hlc { ms: 12, count: 3 };
        assert_eq!(at.to_string().parse::<Hlc>().unwrap(), at);
        for wrong in ["", "12", "-1.0", "1.-1", "1.4294967296", "a.b"] {
            assert!(wrong.parse::<Hlc>().is_err(), "{wrong}");
        }
    }
}
