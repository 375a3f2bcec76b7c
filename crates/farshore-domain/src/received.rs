//! Which batches of a stream have arrived: everything below a floor, and ranges above it.
//!
//! A sender may send in any order (the newest first, while a backlog drains from its other end), so one number is not enough. What matters:
//! a batch that is taken is taken once, for ever.

/// Batches that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    floor: u64,
    /// Both ends included; ascending, with gaps between them and before the first.
    above: Vec<(u64, u64)>,
}

/// More gaps than a stream may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has more than {} gaps between its batches", Received::MAX_RANGES)]
pub struct TooManyGaps;

impl Default for Received {
    fn default() -> Self {
        Self { floor: 1, above: Vec::new() }
    }
}

impl Received {
    /// Most ranges above the floor. A sender makes two or three.
    pub const MAX_RANGES: usize = 1_000;

    /// What was stored, put in order.
    #[must_use]
    pub fn new(floor: u64, above: Vec<(u64, u64)>) -> Self {
        let mut received = Self { floor, above: above.into_iter().filter(|(from, to)| from <= to).collect() };
        received.tidy();
        received
    }

    /// Everything below has arrived or is settled.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Ranges above the floor, both ends included.
    #[must_use]
    pub fn above(&self) -> &[(u64, u64)] {
        &self.above
    }

    /// Whether this batch has arrived.
    #[must_use]
    pub fn has(&self, sequence: u64) -> bool {
        sequence < self.floor || self.above.iter().any(|(from, to)| (*from..=*to).contains(&sequence))
    }

    /// Takes a batch; `false`: it was there.
    ///
    /// # Errors
    /// [`TooManyGaps`]; nothing is taken then.
    pub fn take(&mut self, sequence: u64) -> Result<bool, TooManyGaps> {
        if self.has(sequence) {
            return Ok(false);
        }
        let mut next = self.clone();
        next.above.push((sequence, sequence));
        next.tidy();
        if next.above.len() > Self::MAX_RANGES {
            return Err(TooManyGaps);
        }
        *self = next;
        Ok(true)
    }

    /// The sender says that everything below is settled. A floor never goes back.
    pub fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.above.sort_unstable();
        let mut tidy: Vec<(u64, u64)> = Vec::with_capacity(self.above.len());
        for (from, to) in self.above.drain(..) {
            if from <= self.floor {
                self.floor = self.floor.max(to.saturating_add(1));
                continue;
            }
            match tidy.last_mut() {
                Some((_, end)) if from <= end.saturating_add(1) => *end = (*end).max(to),
                _ => tidy.push((from, to)),
            }
        }
        self.above = tidy;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn each_batch_is_taken_once_in_any_order_whatever_the_floor_does(
            steps in prop::collection::vec((1u64..60, prop::option::weighted(0.2, 1u64..60)), 0..200),
        ) {
            let mut received = Received::default();
            let (mut taken, mut floor) = (BTreeSet::new(), 1);
            for (sequence, raise) in steps {
                if let Some(raise) = raise {
                    received.raise_floor(raise);
                    floor = floor.max(raise);
                }
                let fresh = sequence >= floor && taken.insert(sequence);
                prop_assert_eq!(received.take(sequence), Ok(fresh));
                for other in 1..62 {
                    prop_assert_eq!(received.has(other), other < floor || taken.contains(&other), "{}", other);
                }
                prop_assert_eq!(&Received::new(received.floor(), received.above().to_vec()), &received);
                prop_assert!(received.above().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
                prop_assert!(received.above().first().is_none_or(|(from, _)| *from > received.floor()));
            }
        }
    }

    #[test]
    fn a_sender_that_leaves_gaps_everywhere_is_stopped() {
        let mut received = Received::default();
        for n in 1..=Received::MAX_RANGES as u64 {
            assert_eq!(received.take(n * 2), Ok(true));
        }
        assert_eq!(received.take(5_000), Err(TooManyGaps));
        assert!(!received.has(5_000));
        // One that closes a gap is welcome.
        assert_eq!(received.take(3), Ok(true));
        assert_eq!(received.take(u64::MAX), Ok(true));
        assert_eq!(received.take(u64::MAX), Ok(false));
    }
}
