//! Seeded randomness of eight bytes a device.

/// A generator after Steele, Lea and Flood's `SplitMix64` ("Fast splittable pseudorandom number generators", OOPSLA 2014): the
/// same seed gives the same numbers in every version. Not for secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// Dice for one purpose: `words` tell apart what one seed is used for.
    #[must_use]
    pub fn new(seed: u64, words: &[u64]) -> Self {
        let mut dice = Self(seed);
        for word in words {
            dice.0 = dice.draw() ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        dice
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from 0 to 1, without 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly from `low` to `high`, both included; `low` when `high` is not above it.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).saturating_add(1);
        low.saturating_add(self.draw() % span.max(1))
    }

    /// As [`Dice::between`], as signed milliseconds.
    pub(crate) fn ms(&mut self, (low, high): (u32, u32)) -> i64 {
        i64::try_from(self.between(low.into(), high.into())).unwrap_or(i64::MAX)
    }

    /// About normal, mean 0 and deviation 1: the sum of twelve even draws.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        // First outputs of the reference implementation for seed 1234567.
        let mut dice = Dice(1_234_567);
        assert_eq!(dice.draw(), 6_457_827_717_110_365_317);
        assert_eq!(dice.draw(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn purposes_do_not_share_numbers_and_ranges_hold() {
        assert_ne!(Dice::new(1, &[1, 2]).draw(), Dice::new(1, &[2, 1]).draw());
        let mut dice = Dice::new(7, &[]);
        let drawn: Vec<u64> = (0..1_000).map(|_| dice.between(3, 5)).collect();
        assert!(drawn.iter().all(|n| (3..=5).contains(n)) && [3, 4, 5].iter().all(|n| drawn.contains(n)));
        assert_eq!(dice.between(9, 2), 9);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&dice.unit())));
    }
}
