//! /proc/net/snmp: pairs of lines, names above values (RFC 4022 for their meaning).

/// More than this is no retransmission rate of an edge device but a broken counter.
const MOST_PER_SECOND: f64 = 1e8;

/// TCP segments sent again since boot.
pub(crate) fn parse_retransmits(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let column = names.split_ascii_whitespace().position(|name| name == "RetransSegs")?;
    values.split_ascii_whitespace().nth(column)?.parse().ok()
}

pub(crate) fn retransmits_per_second(before: u64, now: u64, seconds: f64) -> Option<f64> {
    let rate = now.checked_sub(before)? as f64 / seconds;
    (rate <= MOST_PER_SECOND).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_is_found_by_its_name() {
        assert_eq!(parse_retransmits("Ip: A B\nIp: 1 2\nTcp: Other RetransSegs\nTcp: -1 7\n"), Some(7));
        for text in [
            "",
            "Tcp: RetransSegs",
            "Tcp: A\nTcp: 1",
            "Tcp: A RetransSegs\nTcp: 1",
            "Tcp: RetransSegs\nTcp: -1",
        ] {
            assert_eq!(parse_retransmits(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_wrapped_or_absurd_counter_gives_no_rate() {
        assert_eq!(retransmits_per_second(10, 30, 10.0), Some(2.0));
        assert_eq!(retransmits_per_second(10, 9, 10.0), None);
        assert_eq!(retransmits_per_second(0, u64::MAX, 10.0), None);
    }
}
