//! `Range: bytes=…` (RFC 9110, section 14), one range at a time.

/// What a `Range` header asks of `size` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything: no header, or one that may be ignored.
    All,
    /// From the first to the last byte, both included.
    Part { first: u64, last: u64 },
    /// Nothing that is there.
    Unsatisfiable,
}

/// Reads the header. What is no single byte range is ignored, as the specification allows.
#[must_use]
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else { return Wanted::All };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::All };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, true) => Wanted::All,
        (true, false) => match number(last) {
            Some(0) => Wanted::Unsatisfiable,
            Some(_) if size == 0 => Wanted::Unsatisfiable,
            Some(count) => Wanted::Part { first: size.saturating_sub(count), last: size - 1 },
            None => Wanted::All,
        },
        (false, open) => {
            let Some(first) = number(first) else { return Wanted::All };
            let last = if open { Some(u64::MAX) } else { number(last) };
            match last {
                None => Wanted::All,
                Some(last) if last < first => Wanted::All,
                Some(_) if first >= size => Wanted::Unsatisfiable,
                Some(last) => Wanted::Part { first, last: last.min(size - 1) },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        let check = |header: &str, expect| assert_eq!(wanted(Some(header), 10), expect, "{header}");
        check("bytes=0-", Wanted::Part { first: 0, last: 9 });
        check("bytes=3-5", Wanted::Part { first: 3, last: 5 });
        check("bytes=3-99999999999999999", Wanted::Part { first: 3, last: 9 });
        check("bytes=-4", Wanted::Part { first: 6, last: 9 });
        check("bytes=-400", Wanted::Part { first: 0, last: 9 });
        check("bytes=10-", Wanted::Unsatisfiable);
        check("bytes=-0", Wanted::Unsatisfiable);
        for ignored in ["bytes=5-3", "bytes=a-b", "items=0-1", "bytes=", "bytes=-", "bytes=0-1,3-4"] {
            check(ignored, Wanted::All);
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }
}
