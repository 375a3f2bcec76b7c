//! Times as people read them.

use farshore_domain::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, UnixMs};

/// A length of time in two units at most: `45s`, `12m`, `3h20m`, `3d4h`, `412d`.
pub(crate) fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let two = |big: i64, b: char, small: i64, s: char| {
        let rest = ms % big / small;
        if rest == 0 || ms / big >= 10 {
            format!("{}{b}", ms / big)
        } else {
            format!("{}{b}{rest}{s}", ms / big)
        }
    };
    match ms {
        _ if ms >= DAY_MS => two(DAY_MS, 'd', HOUR_MS, 'h'),
        _ if ms >= HOUR_MS => two(HOUR_MS, 'h', MINUTE_MS, 'm'),
        _ if ms >= MINUTE_MS => two(MINUTE_MS, 'm', SECOND_MS, 's'),
        _ => format!("{}s", ms / SECOND_MS),
    }
}

/// How long ago `at` was, seen from `now`.
pub(crate) fn age(at: UnixMs, now: UnixMs) -> String {
    span(now.since_ms(at))
}

/// The moment itself, to the second, in UTC (RFC 3339).
pub(crate) fn exact(at: UnixMs) -> String {
    match jiff::Timestamp::from_second(at.0.div_euclid(1000)) {
        Ok(stamp) => stamp.to_string(),
        Err(_) => at.0.to_string(),
    }
}

/// The moment and how long ago it was.
pub(crate) fn both(at: UnixMs, now: UnixMs) -> String {
    if at > now {
        format!("{} (in {})", exact(at), span(at.since_ms(now)))
    } else {
        format!("{} ({} ago)", exact(at), age(at, now))
    }
}

/// Reads `90s`, `15m`, `1h`, `7d`, or a plain number of seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no length of time; write 90s, 15m, 1h or 7d");
    let (number, unit) = match text.char_indices().last().ok_or_else(bad)? {
        (_, digit) if digit.is_ascii_digit() => (text, 1),
        (at, 's') => (text.get(..at).unwrap_or(""), 1),
        (at, 'm') => (text.get(..at).unwrap_or(""), 60),
        (at, 'h') => (text.get(..at).unwrap_or(""), 3600),
        (at, 'd') => (text.get(..at).unwrap_or(""), 24 * 3600),
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let spans: Vec<_> =
            [-5, 0, 45_000, 60_000, 750_000, 12_000_000, 86_400_000, 100_000_000, 35_600_000_000]
                .into_iter()
                .map(span)
                .collect();
        assert_eq!(spans, ["0s", "0s", "45s", "1m", "12m", "3h20m", "1d", "1d3h", "412d"]);
    }

    #[test]
    fn lengths_of_time_are_read_and_nonsense_is_not() {
        assert_eq!(
            ["90", "90s", "15m", "1h", "7d"].map(|t| parse_seconds(t).unwrap()),
            [90, 90, 900, 3600, 604_800]
        );
        for bad in ["", "s", "-1s", "1y", "1.5h", "99999999999999999999", "9999999999999999d", "ü"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_moment_is_written_in_utc() {
        assert_eq!(exact(UnixMs(1_795_219_200_999)), "2026-11-21T00:00:00Z");
        assert_eq!(both(UnixMs(5_000), UnixMs(65_000)), "1970-01-01T00:00:05Z (1m ago)");
    }
}
