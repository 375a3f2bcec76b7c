//! The reading before, and whether a rate can be taken against it.

/// Rates over less than this are mostly the clock's own grain.
const SHORTEST_MS: i64 = 50;

/// The last reading of one source, with the monotonic time at which it was made.
#[derive(Debug)]
pub(crate) struct Previous<T> {
    last: Option<(i64, T)>,
}

impl<T> Default for Previous<T> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<T> Previous<T> {
    /// Compares `now` with the reading before, given together with the seconds between the two. There is none on
    /// the first call, after a clock that went back, and where the last reading is only moments old; in that
    /// case the older reading stays the base.
    pub(crate) fn advance<R>(
        &mut self,
        monotonic_ms: i64,
        now: T,
        compare: impl FnOnce(Option<(&T, f64)>, &T) -> R,
    ) -> R {
        let elapsed = self.last.as_ref().and_then(|(at_ms, _)| monotonic_ms.checked_sub(*at_ms));
        match (&self.last, elapsed) {
            (Some((_, before)), Some(elapsed)) if elapsed >= SHORTEST_MS => {
                let result = compare(Some((before, elapsed as f64 / 1000.0)), &now);
                self.last = Some((monotonic_ms, now));
                result
            }
            (Some(_), Some(0..)) => compare(None, &now),
            _ => {
                let result = compare(None, &now);
                self.last = Some((monotonic_ms, now));
                result
            }
        }
    }

    /// The source could not be read: the next reading is a first one.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_an_earlier_reading_and_time() {
        let mut previous = Previous::default();
        let mut step =
            |at_ms, value: u64| previous.advance(at_ms, value, |before, _| before.map(|(v, s)| (*v, s)));
        assert_eq!(step(1_000, 1), None, "first");
        assert_eq!(step(2_000, 2), Some((1, 1.0)));
        assert_eq!(step(2_010, 3), None, "too soon");
        assert_eq!(
            step(3_000, 4),
            Some((2, 1.0)),
            "the base is the reading before the one that came too soon"
        );
        assert_eq!(step(500, 5), None, "the clock went back");
        assert_eq!(step(1_500, 6), Some((5, 1.0)));
        assert_eq!(step(i64::MIN, 7), None);
        assert_eq!(step(i64::MAX, 8), None, "a leap beyond what can be counted");
    }
}
