//! Percentiles of any number of values in little memory: counts by logarithmic size (as DDSketch does it; Masson, Rim and Lee, VLDB 2019), so that
//! an answer is within one percent of a value that was there.

use serde::{Deserialize, Serialize};

/// Neighbouring buckets are so far apart.
const GAMMA: f64 = 1.02;
/// Values nearer to zero than this count as zero.
const LEAST: f64 = 1e-9;
/// Buckets of each sign; the smallest values then share one.
const MAX_BUCKETS: usize = 512;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sketch {
    /// Ascending.
    above: Vec<(i32, u64)>,
    /// Of the negative values without their sign, ascending.
    below: Vec<(i32, u64)>,
    zero: u64,
}

impl Sketch {
    pub(super) fn add(&mut self, value: f64) {
        let size = value.abs();
        if size < LEAST {
            self.zero += 1;
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the logarithm of a finite number is small")]
        let bucket = (size.ln() / GAMMA.ln()).ceil() as i32;
        let buckets = if value > 0.0 { &mut self.above } else { &mut self.below };
        match buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(index) => {
                if let Some((_, count)) = buckets.get_mut(index) {
                    *count += 1;
                }
            }
            Err(index) => {
                buckets.insert(index, (bucket, 1));
                if buckets.len() > MAX_BUCKETS {
                    let (_, count) = buckets.remove(0);
                    if let Some((_, next)) = buckets.first_mut() {
                        *next += count;
                    }
                }
            }
        }
    }

    /// Nothing when there is no value.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among counted values"
    )]
    pub(super) fn percentile(&self, percent: f64) -> Option<f64> {
        let count = |buckets: &[(i32, u64)]| buckets.iter().map(|(_, count)| count).sum::<u64>();
        let total = count(&self.above) + count(&self.below) + self.zero;
        let last = total.checked_sub(1)?;
        let mut rank = (percent / 100.0 * last as f64).round() as u64;
        let middle = |bucket: i32| 2.0 * GAMMA.powi(bucket) / (GAMMA + 1.0);
        for (bucket, count) in self.below.iter().rev() {
            if rank < *count {
                return Some(-middle(*bucket));
            }
            rank -= count;
        }
        if rank < self.zero {
            return Some(0.0);
        }
        rank -= self.zero;
        for (bucket, count) in &self.above {
            if rank < *count {
                return Some(middle(*bucket));
            }
            rank -= count;
        }
        self.above.last().map(|(bucket, _)| middle(*bucket))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_says_nothing() {
        assert_eq!(Sketch::default().percentile(50.0), None);
    }

    proptest! {
        #[test]
        fn an_answer_is_within_one_percent_of_the_value_at_its_rank(
            mut values in prop::collection::vec(prop_oneof![Just(0.0), -1e3..1e3_f64, 1e-3..1e6_f64], 1..300),
            percent in 0.0..100.0_f64,
        ) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|value| sketch.add(*value));
            values.sort_by(f64::total_cmp);
            let rank = (percent / 100.0 * (values.len() - 1) as f64).round() as usize;
            let (expected, got) = (values[rank], sketch.percentile(percent).expect("a value"));
            prop_assert!((got - expected).abs() <= expected.abs() * 0.0101 + LEAST, "{got} for {expected}");
        }
    }
}
