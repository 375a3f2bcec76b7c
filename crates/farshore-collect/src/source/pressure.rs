//! /proc/pressure/* (Linux `Documentation/accounting/psi.rst`).

use crate::sample::{Pressure, PressureLine};

/// One pressure file as it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RawPressure {
    some: RawLine,
    full: Option<RawLine>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct RawLine {
    /// Percent.
    avg10: f64,
    total_us: u64,
}

impl RawPressure {
    pub(crate) fn has_full(&self) -> bool {
        self.full.is_some()
    }
}

pub(crate) fn parse_pressure(text: &str) -> Option<RawPressure> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let field = |name: &str| {
            line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let avg10: f64 = field("avg10")?.parse().ok()?;
        let total_us = field("total")?.parse().ok()?;
        (0.0..=100.0).contains(&avg10).then_some(RawLine { avg10, total_us })
    };
    Some(RawPressure { some: line("some")?, full: line("full") })
}

/// Stalls beyond the time that passed come from the moment between reading the clock and the file, which on a
/// machine under pressure is not short. Up to this factor they count as all of the time.
const SLACK: f64 = 2.0;

/// The pressure now, with the share of the interval where there was a reading before.
pub(crate) fn pressure_between(before: Option<(&RawPressure, f64)>, now: &RawPressure) -> Pressure {
    let line = |before: Option<(RawLine, f64)>, now: RawLine| {
        let interval = before.and_then(|(before, seconds)| {
            let stalled = now.total_us.checked_sub(before.total_us)? as f64 / 1e6;
            let ratio = stalled / seconds;
            (0.0..=SLACK).contains(&ratio).then(|| ratio.min(1.0))
        });
        PressureLine { avg10: now.avg10 / 100.0, interval }
    };
    Pressure {
        some: line(before.map(|(raw, seconds)| (raw.some, seconds)), now.some),
        full: now.full.map(|full| line(before.and_then(|(raw, seconds)| Some((raw.full?, seconds))), full)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(some_us: u64) -> RawPressure {
        parse_pressure(&format!("some avg10=12.50 avg60=4.33 avg300=3.09 total={some_us}\n")).unwrap()
    }

    #[test]
    fn the_share_of_the_interval_is_taken_from_the_totals() {
        let before = raw(1_000_000);
        let ratio = |now, seconds| pressure_between(Some((&before, seconds)), &raw(now)).some.interval;
        assert_eq!(ratio(3_500_000, 10.0), Some(0.25));
        assert_eq!(ratio(1_000_000, 10.0), Some(0.0));
        assert_eq!(ratio(2_100_000, 1.0), Some(1.0));
        assert_eq!(ratio(900_000, 1.0), None, "a counter that went back");
        assert_eq!(ratio(u64::MAX, 1.0), None, "more than time allows");
        assert_eq!(pressure_between(None, &before).some.ratio(), 0.125);
        assert_eq!(pressure_between(None, &before).full, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "some",
            "some avg10=1.0",
            "some avg10=nan total=1",
            "some avg10=101 total=1",
            "somewhat avg10=1 total=1",
        ] {
            assert_eq!(parse_pressure(text), None, "{text:?}");
        }
    }
}
