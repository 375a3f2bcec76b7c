//! The test inside a wave: is this release as good as is acceptable, or as bad as the threshold? It halts as soon as the reports suffice to say.
//!
//! **The test.** Wald's sequential probability ratio test (A. Wald, *Sequential Tests of Statistical Hypotheses*, Annals of Mathematical
//! Statistics 16, 1945). With `p0` the acceptable rate of failures and `p1` the threshold, each failure adds `ln(p1 / p0)` to the evidence, and
//! each success adds `ln((1 - p1) / (1 - p0))`, which is negative. The evidence depends on the two counts only, never on the order of the reports,
//! so that nothing else has to be stored. At or above the *halt line* the wave halts.
//!
//! **Devices in flight count as successes** when the evidence is held against the line. Failures are often reported sooner than successes, which
//! have to soak; counting only what has arrived would halt good releases. Taken this way, a crossing means that the whole sequence of devices, in
//! the order in which they were started, crosses the line, and the errors below hold however late the reports are.
//!
//! **Errors over the whole rollout.** A test that is simply kept running halts a good release sooner or later. So there is one test a wave, and the
//! allowed error `a` (`falseHaltPercent`) is spent across the waves: the first wave with a test may spend `a / 2`, the next `a / 6`, the k-th
//! `a / (k (k + 1))`, and the last wave whatever is left, `a / k`. The sum is `a` for any number of waves. Early waves get more, because what they
//! find touches fewer devices.
//!
//! **The halt line of a wave** is the lowest one, in steps of a thousandth, at which a release at `p0` is halted with at most the wave's share, by the test
//! or by the arithmetic at the wave's end. That probability is computed exactly, by counting through all `(reports, failures)`, up to [`HORIZON`]
//! reports; what may still come after these is bounded by Ville's inequality: under `p0` the likelihood ratio is a martingale, so from a point with ratio `r`
//! it ever reaches `e^line` with a probability of at most `r / e^line` (J. Ville, *Étude critique de la notion de collectif*, 1939).
//!
//! **Small waves.** Where the arithmetic alone errs more often than the wave's share, no test can keep the promise. Such a wave has no test and spends
//! nothing; `onSmallWave` says what a halt in it means, and [`super::characteristic`] shows its real error.

use serde::{Deserialize, Serialize};

use super::spec::RolloutSpec;

/// Reports of a wave that are counted through exactly when its line is drawn.
pub const HORIZON: u32 = 512;
/// Rates of exactly 0 and 1 have no logarithm.
const TINY: f64 = 1e-9;
const STEPS_PER_UNIT: f64 = 1_000.0;

/// What one report says: the two rates, and what a failure and a success add to the evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// `p0`, 0 to 1.
    pub acceptable: f64,
    /// `p1`, 0 to 1.
    pub threshold: f64,
    /// What a failure adds, positive.
    pub failure: f64,
    /// What a success takes away, positive.
    pub success: f64,
}

impl Rates {
    /// Of two percentages, `acceptable` below `threshold`; none otherwise (there is nothing to tell apart).
    #[must_use]
    pub fn new(acceptable: u8, threshold: u8) -> Option<Self> {
        if acceptable >= threshold || threshold > 100 {
            return None;
        }
        let p0 = (f64::from(acceptable) / 100.0).max(TINY);
        let p1 = (f64::from(threshold) / 100.0).min(1.0 - TINY);
        Some(Self {
            acceptable: p0,
            threshold: p1,
            failure: (p1 / p0).ln(),
            success: ((1.0 - p0) / (1.0 - p1)).ln(),
        })
    }

    /// Those of a specification.
    #[must_use]
    pub fn of(spec: &RolloutSpec) -> Option<Self> {
        Self::new(spec.acceptable_percent(), spec.failure_threshold)
    }

    /// The logarithm of the likelihood ratio: above 0 the reports look more like the threshold, below more like the acceptable rate.
    #[must_use]
    pub fn evidence(&self, succeeded: u32, failed: u32) -> f64 {
        f64::from(failed) * self.failure - f64::from(succeeded) * self.success
    }

    /// How many successes outweigh one failure.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.failure / self.success
    }
}

/// The test of one wave, as it is stored with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaveTest {
    /// In thousandths of the evidence's unit. None: the wave is too small for a test, and arithmetic alone decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    halt_line: Option<u32>,
    /// The wave's share of the allowed false halts, in millionths.
    share: u32,
}

impl WaveTest {
    /// The evidence at which the wave halts; none when it is too small for a test.
    #[must_use]
    pub fn halt_line(&self) -> Option<f64> {
        self.halt_line.map(|line| f64::from(line) / STEPS_PER_UNIT)
    }

    /// The wave's share of the allowed false halts, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        f64::from(self.share) / 1e6
    }

    /// The evidence at which the wave is good enough: a release at the threshold ever gets there with at most the wave's part of `missedPercent`
    /// (Ville's inequality again, under `p1`). It opens no gate by itself; the wave is still judged at its end.
    #[must_use]
    pub fn clear_line(&self, spec: &RolloutSpec) -> f64 {
        let part = self.share() * 100.0 / f64::from(spec.false_halt_percent.max(1));
        (part * f64::from(spec.missed_percent) / 100.0).max(TINY).ln()
    }

    /// Whether arithmetic over `judged` devices halts a release at the acceptable rate more often than the wave's share.
    #[must_use]
    pub fn is_small(&self, spec: &RolloutSpec, judged: u32) -> bool {
        Rates::of(spec).is_none_or(|rates| {
            binomial_tail(judged, failures_to_halt(judged, spec.failure_threshold), rates.acceptable)
                > self.share()
        })
    }
}

/// The failures at which a wave of `size` devices is at or above `threshold` percent; at least one.
#[must_use]
pub fn failures_to_halt(size: u32, threshold: u8) -> u32 {
    let needed = (u64::from(size) * u64::from(threshold)).div_ceil(100).max(1);
    u32::try_from(needed).unwrap_or(u32::MAX)
}

/// One test for each wave of these sizes, the allowed false halts spent across them.
#[must_use]
pub fn plan(spec: &RolloutSpec, sizes: &[u32]) -> Vec<WaveTest> {
    let Some(rates) = Rates::of(spec) else {
        return vec![WaveTest { halt_line: None, share: 0 }; sizes.len()];
    };
    let allowed = f64::from(spec.false_halt_percent) / 100.0;
    let mut tests = Vec::with_capacity(sizes.len());
    let (mut number, mut reached) = (1.0_f64, 0_u32);
    for (index, size) in sizes.iter().enumerate() {
        reached = reached.saturating_add(*size);
        let last = index + 1 == sizes.len();
        let share = if last { allowed / number } else { allowed / (number * (number + 1.0)) };
        let halt_line =
            halt_line(&rates, *size, reached, failures_to_halt(*size, spec.failure_threshold), share);
        if halt_line.is_some() {
            number += 1.0;
        }
        tests.push(WaveTest { halt_line, share: rounded(share * 1e6) });
    }
    tests
}

/// The lowest line that keeps the share, in thousandths; none when arithmetic alone breaks it. `reached` is how many devices can be judged with
/// this wave at most: its own, and the stragglers of all before.
fn halt_line(rates: &Rates, size: u32, reached: u32, needed: u32, share: f64) -> Option<u32> {
    let exact = size <= HORIZON;
    let arithmetic = binomial_tail(size, needed, rates.acceptable);
    if size == 0 || arithmetic > share {
        return None;
    }
    let error = |line: u32| {
        let line = f64::from(line) / STEPS_PER_UNIT;
        let (crossed, ended) = errors(rates, line, size, reached, needed);
        crossed + if exact { ended } else { arithmetic }
    };
    // From below: a line at which the error is too high. From above: e^-line alone is at most the share less the arithmetic.
    let (mut low, mut high) =
        (0, rounded(((share - arithmetic).max(TINY * TINY)).recip().ln() * STEPS_PER_UNIT) + 1);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if error(middle) <= share { high = middle } else { low = middle }
    }
    Some(high)
}

/// Under the acceptable rate: how likely the evidence ever reaches the line among `reached` reports, and how likely it does not among `size`, which then end at or above
/// the threshold.
fn errors(rates: &Rates, line: f64, size: u32, reached: u32, needed: u32) -> (f64, f64) {
    let p = rates.acceptable;
    let (mut crossed, mut ended) = (0.0, 0.0);
    // The mass at each number of failures, for the runs that have not crossed.
    let mut mass = vec![1.0];
    let steps = reached.min(HORIZON);
    for reports in 1..=steps {
        mass.push(0.0);
        for failed in (1..mass.len()).rev() {
            mass[failed] = mass[failed] * (1.0 - p) + mass[failed - 1] * p;
        }
        mass[0] *= 1.0 - p;
        while let Some(top) = mass.len().checked_sub(1).and_then(|top| u32::try_from(top).ok()) {
            if rates.evidence(reports - top.min(reports), top) < line {
                break;
            }
            crossed += mass.pop().unwrap_or(0.0);
        }
        if reports == size {
            ended = mass.iter().skip(needed as usize).sum();
        }
    }
    if reached > steps {
        // The evidence at the horizon is a function of the failures; the ratio is its exponential.
        let ratio = |failed: usize| {
            let failed = u32::try_from(failed).unwrap_or(u32::MAX);
            (rates.evidence(steps - failed.min(steps), failed) - line).exp()
        };
        crossed += mass.iter().enumerate().map(|(failed, mass)| mass * ratio(failed).min(1.0)).sum::<f64>();
    }
    (crossed, ended)
}

fn rounded(value: f64) -> u32 {
    // The conversion saturates; values here are small and positive.
    value.ceil() as u32
}

/// The logarithm of `n!`; Stirling's series above 100, exact to 1e-12.
fn ln_factorial(n: u32) -> f64 {
    let x = f64::from(n);
    if n <= 100 {
        return (2..=n).map(|k| f64::from(k).ln()).sum();
    }
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

/// The probability of at least `at_least` failures among `of` devices that fail independently at `rate`.
#[must_use]
pub fn binomial_tail(of: u32, at_least: u32, rate: f64) -> f64 {
    if at_least == 0 {
        return 1.0;
    }
    if at_least > of || rate <= 0.0 {
        return 0.0;
    }
    if rate >= 1.0 {
        return 1.0;
    }
    let odds = rate / (1.0 - rate);
    let chance = |k: u32| {
        let ways = ln_factorial(of) - ln_factorial(k) - ln_factorial(of - k);
        (ways + f64::from(k) * rate.ln() + f64::from(of - k) * (1.0 - rate).ln()).exp()
    };
    let above = f64::from(at_least) > f64::from(of) * rate;
    let (mut sum, mut term) = (0.0, chance(if above { at_least } else { at_least - 1 }));
    if above {
        for k in at_least..=of {
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
            term *= f64::from(of - k) / f64::from(k + 1) * odds;
        }
        sum
    } else {
        for k in (0..at_least).rev() {
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
            term *= f64::from(k) / f64::from(of - k + 1) / odds;
        }
        (1.0 - sum).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RolloutSpec {
        serde_json::from_value(serde_json::json!({"app": "web", "channel": "prod", "release": "web@1.1"}))
            .unwrap()
    }

    fn lines(sizes: &[u32]) -> Vec<Option<f64>> {
        plan(&spec(), sizes).iter().map(WaveTest::halt_line).collect()
    }

    #[test]
    fn the_evidence_is_walds_ratio_and_does_not_depend_on_the_order() {
        let rates = Rates::new(5, 30).unwrap();
        assert!(
            (rates.failure - 6.0_f64.ln()).abs() < 1e-12
                && (rates.success - (0.95_f64 / 0.7).ln()).abs() < 1e-12
        );
        assert!((rates.evidence(4, 3) - (3.0 * 6.0_f64.ln() - 4.0 * (0.95_f64 / 0.7).ln())).abs() < 1e-12);
        assert!(rates.weight() > 5.0 && rates.weight() < 6.0);
        assert_eq!(Rates::new(30, 30), None);
        for (acceptable, threshold) in [(0, 1), (0, 100), (5, 100), (99, 100)] {
            let rates = Rates::new(acceptable, threshold).unwrap();
            assert!(rates.evidence(10, 10).is_finite() && rates.failure > 0.0 && rates.success > 0.0);
        }
    }

    #[test]
    fn with_nothing_acceptable_the_first_failure_crosses_the_line() {
        let spec = RolloutSpec { failure_threshold: 1, ..spec() };
        let rates = Rates::of(&spec).unwrap();
        let line = plan(&spec, &[1_000])[0].halt_line().unwrap();
        assert!(rates.evidence(999, 1) >= line, "{line}");
    }

    #[test]
    fn the_shares_of_all_waves_together_are_what_is_allowed() {
        for waves in 1..=32 {
            let tests = plan(&spec(), &vec![500; waves]);
            let spent: f64 = tests.iter().map(WaveTest::share).sum();
            assert!(
                tests.iter().all(|test| test.halt_line.is_some()) && (spent - 0.01).abs() < 4e-5,
                "{waves}: {spent}"
            );
        }
    }

    #[test]
    fn small_waves_have_no_test_and_spend_nothing() {
        assert_eq!(lines(&[1, 2, 10]), [None, None, None]);
        let tests = plan(&spec(), &[1, 9, 90]);
        assert!(
            tests[0].is_small(&spec(), 1) && tests[1].is_small(&spec(), 9) && !tests[2].is_small(&spec(), 90)
        );
        assert!((tests[2].share() - 0.01).abs() < 1e-9, "the whole error is left for the wave of 90");
    }

    #[test]
    fn a_line_is_below_villes_bound_and_lower_ones_would_break_the_share() {
        let rates = Rates::new(5, 30).unwrap();
        for (size, reached, share) in
            [(20, 20, 0.005), (100, 100, 0.005), (400, 500, 0.001_67), (7_500, 10_000, 0.002_5)]
        {
            let needed = failures_to_halt(size, 30);
            let line = halt_line(&rates, size, reached, needed, share).unwrap();
            let error = |line: u32| {
                let (crossed, ended) = errors(&rates, f64::from(line) / 1_000.0, size, reached, needed);
                crossed + ended
            };
            assert!(f64::from(line) / 1_000.0 < (1.0 / share).ln(), "{size}: {line}");
            assert!(
                error(line) <= share && error(line - 1) > share * 0.999,
                "{size}: {} {}",
                error(line),
                error(line - 1)
            );
        }
    }

    #[test]
    fn three_failures_in_a_row_halt_a_first_wave_of_a_hundred_and_one_does_not() {
        let rates = Rates::new(5, 30).unwrap();
        let line = lines(&[100, 400, 2_000, 7_500])[0].unwrap();
        assert!(rates.evidence(0, 3) >= line && rates.evidence(0, 1) < line, "{line}");
    }

    #[test]
    fn the_binomial_tail_is_that_of_the_textbooks() {
        for (of, at_least, rate, expected) in [
            (10, 3, 0.05, 0.011_503_6),
            (7, 3, 0.05, 0.003_757_0),
            (2, 1, 0.05, 0.097_5),
            (100, 30, 0.3, 0.537_7),
            (1_000, 300, 0.3, 0.511_9),
            (5, 0, 0.5, 1.0),
            (5, 6, 0.5, 0.0),
        ] {
            let tail = binomial_tail(of, at_least, rate);
            assert!((tail - expected).abs() < 2e-4, "{of} {at_least} {rate}: {tail}");
        }
        let sum: f64 = (2..=101).map(|k| f64::from(k).ln()).sum();
        assert!((ln_factorial(101) - sum).abs() < 1e-9);
    }
}
