//! What a plan really promises: how often it halts a release that fails at a given rate, and how many devices have run it until then.
//!
//! Computed exactly, by counting through all `(reports, failures)` of each wave with the same rules that judge it: the test's line
//! ([`super::sequential`]), arithmetic as soon as the wave can no longer end below the threshold, `onSmallWave: retry-elsewhere`, and slow start for how
//! many are in flight when the last report comes. States less likely than 1e-14 are dropped.
//!
//! What it takes for granted: devices fail independently of each other, all of them report, one by one in the order in which they were started. A wave
//! of more than [`MAX_EXACT`] devices is counted through for its first [`MAX_EXACT`] reports; the rest is judged by arithmetic alone.

use serde::{Deserialize, Serialize};

use super::judge::slow_start_limit;
use super::sequential::{self, Rates, WaveTest, binomial_tail, failures_to_halt};
use super::spec::{OnSmallWave, RolloutSpec};

/// Reports of one wave that are counted through.
pub const MAX_EXACT: u32 = 20_000;
const NEGLIGIBLE: f64 = 1e-14;
/// The failure rates, in percent, at which a plan is shown.
pub const SHOWN_RATES: [u8; 4] = [1, 5, 10, 30];

/// The plan's errors in one wave, given that it is reached. Both 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RealError {
    /// How likely a release at the acceptable rate of failures is halted here.
    pub false_halt: f64,
    /// How likely a release that fails at the threshold gets through.
    pub missed: f64,
    /// Arithmetic alone breaks the wave's share of the promise; `onSmallWave` says what a halt means.
    pub small: bool,
}

/// The plan at one rate of failures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OperatingPoint {
    /// 0 to 1.
    pub failure_rate: f64,
    /// How likely the rollout halts, 0 to 1.
    pub halt_probability: f64,
    /// Devices that have had the new release when it halts or ends: in the middle of all cases, and in all but one of twenty.
    pub devices_touched_p50: u32,
    pub devices_touched_p95: u32,
}

/// A plan's whole characteristic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Characteristic {
    pub waves: Vec<RealError>,
    /// Over the whole rollout, 0 to 1.
    pub false_halt: f64,
    pub missed: f64,
    pub points: Vec<OperatingPoint>,
}

/// The characteristic of a plan with waves of these sizes, and at most `budget` devices in flight.
#[must_use]
pub fn characteristic(spec: &RolloutSpec, sizes: &[u32], budget: u32) -> Characteristic {
    let tests = sequential::plan(spec, sizes);
    let plan = Plan { spec, rates: Rates::of(spec), sizes, tests: &tests, budget: budget.max(1) };
    let acceptable = f64::from(spec.acceptable_percent()) / 100.0;
    let good = plan.at(acceptable);
    let bad = plan.at(f64::from(spec.failure_threshold) / 100.0);
    let waves = good
        .iter()
        .zip(&bad)
        .zip(tests.iter().zip(sizes))
        .map(|((good, bad), (test, size))| RealError {
            false_halt: good.halts,
            missed: 1.0 - bad.halts,
            small: test.is_small(spec, *size),
        })
        .collect();
    let passes = |waves: &[Wave]| waves.iter().map(|wave| 1.0 - wave.halts).product::<f64>();
    let points = SHOWN_RATES.iter().map(|rate| plan.point(f64::from(*rate) / 100.0)).collect();
    Characteristic { waves, false_halt: 1.0 - passes(&good), missed: passes(&bad), points }
}

struct Plan<'a> {
    spec: &'a RolloutSpec,
    rates: Option<Rates>,
    sizes: &'a [u32],
    tests: &'a [WaveTest],
    budget: u32,
}

/// One wave at one rate.
struct Wave {
    halts: f64,
    /// How likely it halts with exactly as many of its devices touched, as pairs in no order.
    touched: Vec<(u32, f64)>,
}

impl Plan<'_> {
    fn at(&self, rate: f64) -> Vec<Wave> {
        let mut past = 0;
        let mut waves = Vec::with_capacity(self.sizes.len());
        for (size, test) in self.sizes.iter().zip(self.tests) {
            let first = self.wave(*size, test, rate, past);
            let again = self.spec.on_small_wave == OnSmallWave::RetryElsewhere
                && test.halt_line().is_none()
                && waves.len() + 1 < self.sizes.len();
            waves.push(if again {
                // The same number of devices once more, from the next waves.
                let touched =
                    first.touched.iter().map(|(n, chance)| (n + size, chance * first.halts)).collect();
                Wave { halts: first.halts * first.halts, touched }
            } else {
                first
            });
            past += size;
        }
        waves
    }

    fn in_flight(&self, succeeded: u32, failed: u32, past: u32, rate: f64) -> u32 {
        let Some(rates) = self.rates.filter(|_| self.spec.slow_start) else { return self.budget };
        // Earlier waves had about their share of failures.
        let gone = (f64::from(past) * rate).round() as u32;
        slow_start_limit(&rates, (succeeded, failed), (past - gone.min(past), gone)).min(self.budget)
    }

    fn wave(&self, size: u32, test: &WaveTest, rate: f64, past: u32) -> Wave {
        let needed = failures_to_halt(size, self.spec.failure_threshold);
        let line = test.halt_line().zip(self.rates);
        let (mut halts, mut touched) = (0.0, Vec::new());
        // The chance of each number of failures from `first` on, among the runs that have not halted.
        let (mut mass, mut first) = (vec![1.0], 0_u32);
        let steps = size.min(MAX_EXACT);
        for reports in 1..=steps {
            mass.push(0.0);
            for index in (1..mass.len()).rev() {
                mass[index] = mass[index] * (1.0 - rate) + mass[index - 1] * rate;
            }
            mass[0] *= 1.0 - rate;
            let mut halted = 0.0;
            while let Some(top) = mass.len().checked_sub(1) {
                let failed = first + top as u32;
                let crossed =
                    line.is_some_and(|(line, rates)| rates.evidence(reports - failed, failed) >= line);
                if mass[top] > NEGLIGIBLE && (failed >= needed || crossed) {
                    let before = self.in_flight(reports - failed, failed - 1, past, rate);
                    touched.push(((reports - 1).saturating_add(before).min(size), mass[top]));
                    halted += mass[top];
                } else if mass[top] > NEGLIGIBLE && failed < needed && !crossed {
                    break;
                }
                mass.pop();
            }
            halts += halted;
            let empty = mass.iter().take_while(|chance| **chance <= NEGLIGIBLE).count();
            mass.drain(..empty);
            first += empty as u32;
            if mass.is_empty() {
                break;
            }
        }
        if size > steps {
            // Nearly everything has been decided long before; what is left ends by arithmetic.
            let rest: f64 = mass.iter().sum::<f64>() * binomial_tail(size, needed, rate);
            halts += rest;
            touched.push((size, rest));
        }
        Wave { halts: halts.min(1.0), touched }
    }

    fn point(&self, rate: f64) -> OperatingPoint {
        let (mut reached, mut before) = (1.0, 0_u32);
        let mut cases = Vec::new();
        for (wave, size) in self.at(rate).iter().zip(self.sizes) {
            cases
                .extend(wave.touched.iter().map(|(n, chance)| (before.saturating_add(*n), chance * reached)));
            reached *= 1.0 - wave.halts;
            before = before.saturating_add(*size);
        }
        cases.push((before, reached));
        cases.sort_unstable_by_key(|(n, _)| *n);
        let all: f64 = cases.iter().map(|(_, chance)| chance).sum();
        let quantile = |share: f64| {
            let mut sum = 0.0;
            let found = cases.iter().find(|(_, chance)| {
                sum += chance;
                sum >= share * all
            });
            found.map_or(before, |(n, _)| (*n).min(before))
        };
        OperatingPoint {
            failure_rate: rate,
            halt_probability: 1.0 - reached,
            devices_touched_p50: quantile(0.5),
            devices_touched_p95: quantile(0.95),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RolloutSpec {
        serde_json::from_value(serde_json::json!({"app": "web", "channel": "prod", "release": "web@1.1"}))
            .unwrap()
    }

    fn of(sizes: &[u32], change: impl FnOnce(&mut RolloutSpec)) -> Characteristic {
        let mut spec = spec();
        change(&mut spec);
        characteristic(&spec, sizes, sizes.iter().sum::<u32>() / 4)
    }

    const LARGE: [u32; 4] = [100, 400, 2_000, 7_500];

    #[test]
    fn ten_thousand_devices_are_falsely_halted_at_most_once_in_a_hundred_rollouts() {
        for sizes in [&LARGE[..], &[10_000], &[50, 450, 9_500], &[300; 32], &[625; 16], &[20, 80]] {
            let whole = of(sizes, |_| {});
            assert!(whole.waves.iter().all(|wave| !wave.small), "{sizes:?}");
            assert!(whole.false_halt <= 0.01, "{sizes:?}: {}", whole.false_halt);
            assert!(whole.false_halt > 0.005, "the allowed error is used, {sizes:?}: {}", whole.false_halt);
            assert!(whole.points[0].halt_probability < 0.001, "1 % noise, {sizes:?}: {:?}", whole.points[0]);
        }
    }

    #[test]
    fn a_release_that_fails_at_the_threshold_is_found_and_touches_few() {
        let whole = of(&LARGE, |_| {});
        assert!(whole.missed < 1e-6 && whole.points[3].halt_probability > 0.999_999, "{whole:?}");
        assert!(
            whole.points[3].devices_touched_p50 <= 15 && whole.points[3].devices_touched_p95 <= 60,
            "{whole:?}"
        );
    }

    #[test]
    fn the_issues_example_of_one_two_seven_halts_a_good_release_about_fifteen_times_in_a_hundred() {
        let whole = of(&[1, 2, 7], |_| {});
        assert!((whole.false_halt - 0.147).abs() < 0.002, "{}", whole.false_halt);
        assert_eq!(whole.waves.iter().map(|wave| wave.small).collect::<Vec<_>>(), [true, true, false]);
        let again = of(&[1, 2, 7], |spec| spec.on_small_wave = OnSmallWave::RetryElsewhere);
        assert!(again.false_halt < 0.02, "{}", again.false_halt);
    }

    #[test]
    fn the_first_wave_of_one_is_its_own_arithmetic() {
        let whole = of(&[1], |_| {});
        let wave = whole.waves[0];
        assert!((wave.false_halt - 0.05).abs() < 1e-12 && (wave.missed - 0.7).abs() < 1e-12, "{wave:?}");
    }

    #[test]
    fn slow_start_touches_fewer() {
        let slow = of(&LARGE, |_| {}).points[3];
        let fast = of(&LARGE, |spec| spec.slow_start = false).points[3];
        assert!(slow.devices_touched_p50 * 2 < fast.devices_touched_p50, "{slow:?} {fast:?}");
    }

    #[test]
    fn ten_thousand_devices_are_counted_through_quickly() {
        let began = std::time::Instant::now();
        std::hint::black_box(of(&LARGE, |_| {}));
        assert!(began.elapsed().as_secs() < 5, "{:?} even unoptimised", began.elapsed());
    }
}
