//! Numbers from a seed: the same seed gives the same run, on every machine and in every order of events.

/// A small generator (SplitMix64). Not for secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random(u64);

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for one thing, so that what it draws does not depend on what others draw.
    #[must_use]
    pub fn of(seed: u64, thing: u128, purpose: u64) -> Self {
        let mut random = Self(seed ^ purpose.wrapping_mul(STEP));
        let [high, low] = halves(thing);
        let first = random.next();
        let mut random = Self(first ^ high);
        let second = random.next();
        Self(second ^ low)
    }

    #[expect(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Evenly between 0 and 1, without 1.
    pub fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let bits = (self.next() >> 11) as f64;
        bits / 9_007_199_254_740_992.0
    }

    /// One of `count` places; 0 when there are none.
    pub fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        if count == 0 {
            return 0;
        }
        let wide = u128::from(self.next()) * u128::from(count);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// A waiting time with this mean, without memory. Milliseconds, at least 1.
    pub fn wait_ms(&mut self, mean_ms: f64) -> i64 {
        whole_ms(-mean_ms * (1.0 - self.unit()).ln())
    }

    /// A normal deviate: mean 0, deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// At least one millisecond, at most a century.
#[must_use]
pub(super) fn whole_ms(ms: f64) -> i64 {
    const CENTURY_MS: f64 = 3.2e12;
    #[expect(clippy::cast_possible_truncation, reason = "bounded on both sides")]
    let whole = ms.clamp(1.0, CENTURY_MS) as i64;
    whole
}

fn halves(thing: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = thing.to_be_bytes();
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_things_are_independent() {
        let draw = |seed, thing| {
            let mut random = Random::of(seed, thing, 1);
            [random.next(), random.next()]
        };
        assert_eq!(draw(1, 7), draw(1, 7));
        assert_ne!(draw(1, 7), draw(2, 7));
        assert_ne!(draw(1, 7), draw(1, 8));
        assert_eq!(Random::new(0).next(), 0xE220_A839_7B1D_CDAF, "the generator's published first value");
    }

    #[test]
    fn draws_are_spread_as_they_should_be() {
        let mut random = Random::new(3);
        let n = 20_000;
        let mean = (0..n).map(|_| random.unit()).sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        let waits: i64 = (0..n).map(|_| random.wait_ms(1_000.0)).sum();
        assert!((waits / i64::from(n) - 1_000).abs() < 40, "{waits}");
        let mut seen = [0_u32; 5];
        for _ in 0..n {
            seen[random.below(5)] += 1;
        }
        assert!(seen.iter().all(|count| (3_600..4_400).contains(count)), "{seen:?}");
        let normal: f64 = (0..n).map(|_| random.normal()).map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!((normal - 1.0).abs() < 0.06, "{normal}");
        assert_eq!(random.below(0), 0);
    }
}
