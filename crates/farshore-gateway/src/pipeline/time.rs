//! Lengths of time as they are written: `500ms`, `10s`, `1h30m`.

use serde::Deserialize;

const MAX_NS: i64 = 366 * 86_400 * 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span {
    pub(crate) ns: i64,
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{:?} is no length of time: write 500ms, 10s, 5m, 1h30m or 1d, at most 366 days",
                text.chars().take(40).collect::<String>()
            )
        };
        let mut total = 0_i64;
        let mut rest = text.as_str();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, after) = rest.split_at(digits);
            let number: i64 = number.parse().map_err(|_| wrong())?;
            let units = [
                ("ms", 1_000_000),
                ("s", 1_000_000_000),
                ("m", 60_000_000_000),
                ("h", 3_600_000_000_000),
                ("d", 86_400_000_000_000),
            ];
            let (after, ns) = units
                .iter()
                .find_map(|(unit, ns)| after.strip_prefix(unit).map(|after| (after, *ns)))
                .ok_or_else(wrong)?;
            total = total.saturating_add(number.saturating_mul(ns));
            rest = after;
        }
        if total > MAX_NS { Err(wrong()) } else { Ok(Self { ns: total }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, ns) in [
            ("500ms", Some(500_000_000)),
            ("10s", Some(10_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("0s", Some(0)),
            ("1d", Some(86_400_000_000_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("367d", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(Span::try_from(text.to_owned()).ok().map(|span| span.ns), ns, "{text}");
        }
    }
}
