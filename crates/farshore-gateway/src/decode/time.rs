//! Times as producers write them.

use std::str::FromStr;

/// The unit of a time without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    #[default]
    Nanoseconds,
    Microseconds,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
}

impl Precision {
    const fn nanoseconds(self) -> i64 {
        match self {
            Self::Nanoseconds => 1,
            Self::Microseconds => 1_000,
            Self::Milliseconds => 1_000_000,
            Self::Seconds => 1_000_000_000,
            Self::Minutes => 60_000_000_000,
            Self::Hours => 3_600_000_000_000,
        }
    }

    /// Unix nanoseconds, if they fit.
    #[must_use]
    pub const fn to_ns(self, time: i64) -> Option<i64> {
        time.checked_mul(self.nanoseconds())
    }
}

/// The name is none of `ns`, `us`, `ms`, `s` (InfluxDB 1: also `n`, `u`, `m`, `h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("precision is ns, us, ms or s")]
pub struct UnknownPrecision;

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        Ok(match text {
            "" | "ns" | "n" | "nanosecond" => Self::Nanoseconds,
            "us" | "u" | "µ" | "microsecond" => Self::Microseconds,
            "ms" | "millisecond" => Self::Milliseconds,
            "s" | "second" => Self::Seconds,
            "m" => Self::Minutes,
            "h" => Self::Hours,
            _ => return Err(UnknownPrecision),
        })
    }
}

/// A number of which nobody said the unit: seconds, milliseconds, microseconds or nanoseconds, told apart by size (seconds
/// up to the year 5138, milliseconds from March 1973 on).
pub(super) fn by_magnitude(number: f64) -> Option<i64> {
    let scale: i64 = match number.abs() {
        _ if !number.is_finite() => return None,
        size if size < 1e11 => 1_000_000_000,
        size if size < 1e14 => 1_000_000,
        size if size < 1e17 => 1_000,
        size if size < 9.2e18 => 1,
        _ => return None,
    };
    // Apart, because a double holds both together no finer than 256 ns.
    #[expect(clippy::cast_possible_truncation, reason = "the magnitude was checked")]
    let whole = number.trunc() as i64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a fraction of at most 10^9"
    )]
    let part = (number.fract() * scale as f64).round() as i64;
    whole.checked_mul(scale)?.checked_add(part)
}

/// The same for a whole number, exactly.
pub(super) fn whole_by_magnitude(number: i64) -> Option<i64> {
    match number.unsigned_abs() {
        0..100_000_000_000 => number.checked_mul(1_000_000_000),
        100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000_000),
        100_000_000_000_000..100_000_000_000_000_000 => number.checked_mul(1_000),
        _ => Some(number),
    }
}

/// RFC 3339, or the same without an offset (Python's `isoformat` of a naive time), which is then UTC.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    if text.len() > 64 {
        return None;
    }
    let timestamp = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let naive = text.parse::<jiff::civil::DateTime>().ok()?;
        naive.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })?;
    i64::try_from(timestamp.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart_by_size() {
        let second = 1_760_092_200_000_000_000;
        assert_eq!(whole_by_magnitude(1_760_092_200), Some(second));
        assert_eq!(whole_by_magnitude(1_760_092_200_000), Some(second));
        assert_eq!(whole_by_magnitude(1_760_092_200_000_000), Some(second));
        assert_eq!(whole_by_magnitude(second), Some(second));
        assert_eq!(by_magnitude(1_760_092_200.25), Some(second + 250_000_000));
        assert_eq!(by_magnitude(f64::NAN), None);
        assert_eq!(by_magnitude(1e300), None);
    }

    #[test]
    fn texts_with_and_without_an_offset() {
        let expected = Some(1_760_092_200_500_000_000);
        assert_eq!(parse_rfc3339("2025-10-10T10:30:00.5Z"), expected);
        assert_eq!(parse_rfc3339("2025-10-10T12:30:00.5+02:00"), expected);
        assert_eq!(parse_rfc3339("2025-10-10T10:30:00.500000"), expected);
        assert_eq!(parse_rfc3339("2025-10-10 10:30:00.5"), expected);
        assert_eq!(parse_rfc3339("yesterday"), None);
        assert_eq!(parse_rfc3339("9999-12-31T23:59:59Z"), None);
    }

    #[test]
    fn precisions_that_do_not_fit_are_no_time() {
        assert_eq!(Precision::Seconds.to_ns(i64::MAX), None);
        assert_eq!("ms".parse(), Ok(Precision::Milliseconds));
        assert_eq!("weeks".parse::<Precision>(), Err(UnknownPrecision));
    }
}
