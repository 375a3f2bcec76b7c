//! A wave's arithmetic. Only what devices reported counts; missing data is neither success nor failure.

use super::member::{Member, Progress};
use super::sequential::{Rates, failures_to_halt};
use super::state::Rollout;
use super::wave::Wave;
use crate::time::{SECOND_MS, UnixMs};

/// The members of one wave, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Everybody, the excluded included.
    pub members: u32,
    pub succeeded: u32,
    /// Failures that nobody has acknowledged.
    pub failed: u32,
    pub acknowledged: u32,
    /// Of the failures those of devices that were never started: they refuse the release.
    pub refused: u32,
    /// Tried again elsewhere: what these reported does not count for their wave any more.
    pub set_aside: u32,
    /// Reachable, or about to be known as away, and not done: the gate waits for these.
    pub open: u32,
    /// Of the open ones those that are changing right now.
    pub in_flight: u32,
    /// Of the open ones those that came into the wave while it ran, and of these the ones that came after its last call: nobody waits for them.
    pub came_later: u32,
    pub too_late: u32,
    pub unreachable: u32,
    pub excluded: u32,
    pub last_success: Option<UnixMs>,
}

impl Tally {
    fn add(&mut self, member: &Member, wave: &Wave) {
        self.members += 1;
        if matches!(member.progress, Progress::Waiting { .. } | Progress::Updating { .. }) {
            self.came_later += u32::from(wave.came_later(member));
            self.too_late += u32::from(wave.is_too_late(member));
        }
        let acknowledged = member.failure.as_ref().is_some_and(|failure| failure.acknowledged);
        match member.progress {
            Progress::Updated { .. } if member.set_aside => self.set_aside += 1,
            Progress::Failed { .. } if member.set_aside && acknowledged => self.set_aside += 1,
            Progress::Updated { at } => {
                self.succeeded += 1;
                self.last_success = self.last_success.max(Some(at));
            }
            Progress::Failed { .. } => {
                if acknowledged {
                    self.acknowledged += 1;
                } else {
                    self.failed += 1;
                    self.refused += u32::from(!member.touched);
                }
            }
            Progress::Unreachable { .. } => self.unreachable += 1,
            Progress::Excluded { .. } => self.excluded += 1,
            Progress::Updating { .. } => {
                self.open += 1;
                self.in_flight += 1;
            }
            Progress::Waiting { .. }
            | Progress::RollbackDue { .. }
            | Progress::RollingBack { .. }
            | Progress::RolledBack { .. }
            | Progress::RollbackFailed { .. } => self.open += 1,
        }
    }

    /// The open ones that the gate waits for.
    #[must_use]
    pub const fn awaited(&self) -> u32 {
        self.open - self.too_late
    }

    /// The reports that are judged.
    #[must_use]
    pub const fn judged(&self) -> u32 {
        self.succeeded + self.failed
    }

    /// `failed / (failed + succeeded)`; none without reports.
    #[must_use]
    pub fn failure_ratio(&self) -> Option<f64> {
        (self.judged() > 0).then(|| f64::from(self.failed) / f64::from(self.judged()))
    }

    /// Whether the wave ends at or above `threshold` percent even if everybody who has not reported succeeds.
    #[must_use]
    pub fn cannot_pass(&self, threshold: u8) -> bool {
        reaches(self.failed, self.could_be_judged(), threshold)
    }

    /// Those that are judged when everybody reports.
    #[must_use]
    pub const fn could_be_judged(&self) -> u32 {
        self.judged() + self.open + self.unreachable
    }

    /// What the reports say against the release: those in flight are taken for successes until they report (see [`super::sequential`]).
    /// Refusals come from the whole wave while it stages, out of the order of the starts: they count with the whole wave taken for good.
    #[must_use]
    pub fn evidence(&self, rates: &Rates) -> f64 {
        let started = rates.evidence(self.succeeded + self.in_flight, self.failed - self.refused);
        if self.refused == 0 {
            return started;
        }
        started.max(rates.evidence(self.succeeded + self.open, self.failed))
    }

    /// Whether the reports so far are at or above `threshold` percent.
    #[must_use]
    pub fn fails(&self, threshold: u8) -> bool {
        reaches(self.failed, self.judged(), threshold)
    }

    /// Whether enough devices have reported to judge by: `min_reports` (one when not given), or the whole of a smaller wave.
    #[must_use]
    pub fn has_evidence(&self, min_reports: Option<u32>) -> bool {
        let could_report = self.judged() + self.acknowledged + self.open + self.unreachable;
        let needed = min_reports.unwrap_or(1).min(could_report).max(1);
        self.judged() + self.acknowledged >= needed
    }
}

/// Whether so many failures of all are at or above `threshold` percent.
pub(super) fn reaches(failed: u32, of: u32, threshold: u8) -> bool {
    failed >= failures_to_halt(of, threshold)
}

/// Slow start: how many devices of a wave may be in flight after these `(successes, failures)` in the wave, and those `past` of all waves before it.
///
/// One, and one more for each success, so that clean batches double it: 1, 2, 4, … A failure takes away as many as it outweighs in the test's evidence
/// ([`Rates::weight`], about six with the defaults), never below one: the limit follows the evidence for the release, and noise slows it
/// down without stopping it. Each wave begins with one device. From there it grows faster the more devices of earlier waves have proven
/// the release: by one more for each [`PROVEN_BY`] of them.
#[must_use]
pub fn slow_start_limit(rates: &Rates, counted: (u32, u32), past: (u32, u32)) -> u32 {
    let proof = |(succeeded, failed): (u32, u32)| {
        (f64::from(succeeded) - rates.weight() * f64::from(failed)).max(0.0)
    };
    let growth = 1.0 + (proof(past) / PROVEN_BY).floor();
    // The conversion saturates.
    (1.0 + (proof(counted) * growth).floor()) as u32
}

/// How many devices of earlier waves speed slow start up by one.
pub const PROVEN_BY: f64 = 8.0;

impl Rollout {
    /// How many devices of the wave that runs may be in flight at once: the budget, or less while evidence is scarce (`slowStart`).
    #[must_use]
    pub fn in_flight_limit(&self, tallies: &[Tally]) -> u32 {
        let budget = self.budget();
        let current = self.current as usize;
        let (Some(rates), Some(tally), true) =
            (Rates::of(&self.spec), tallies.get(current), self.spec.slow_start)
        else {
            return budget;
        };
        let past = tallies
            .iter()
            .take(current)
            .fold((0, 0), |(succeeded, failed), tally| (succeeded + tally.succeeded, failed + tally.failed));
        slow_start_limit(&rates, (tally.succeeded, tally.failed), past).min(budget)
    }
}

/// One tally a wave, in one pass over the members.
#[must_use]
pub fn tallies(rollout: &Rollout) -> Vec<Tally> {
    let mut tallies = vec![Tally::default(); rollout.waves.len()];
    for member in rollout.members.values() {
        let index = member.wave as usize;
        if let (Some(tally), Some(wave)) = (tallies.get_mut(index), rollout.waves.get(index)) {
            tally.add(member, wave);
        }
    }
    tallies
}

/// When the soak of a wave ends whose devices have all reported.
#[must_use]
pub fn soak_end(wave: &Wave, tally: &Tally) -> Option<UnixMs> {
    tally.last_success.map(|at| at.plus_ms(i64::from(wave.soak_seconds) * SECOND_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(succeeded: u32, failed: u32, open: u32, unreachable: u32) -> Tally {
        Tally {
            members: succeeded + failed + open + unreachable,
            succeeded,
            failed,
            open,
            unreachable,
            ..Tally::default()
        }
    }

    #[test]
    fn three_of_ten_halt_at_thirty_percent_and_two_of_ten_do_not() {
        assert!(tally(7, 3, 0, 0).fails(30));
        assert!(!tally(8, 2, 0, 0).fails(30));
        assert!(!tally(0, 0, 10, 0).fails(1));
    }

    #[test]
    fn inside_a_wave_it_halts_when_no_success_of_the_others_can_save_it() {
        assert!(tally(0, 3, 7, 0).cannot_pass(30));
        assert!(!tally(0, 2, 8, 0).cannot_pass(30), "two failures first are not the end");
        assert!(!tally(0, 3, 0, 8).cannot_pass(30), "the unreachable may still succeed");
    }

    #[test]
    fn slow_start_doubles_with_each_clean_batch_and_falls_back_to_one_on_failures() {
        let rates = Rates::new(5, 30).unwrap();
        let limit = |succeeded, failed| slow_start_limit(&rates, (succeeded, failed), (0, 0));
        assert_eq!([limit(0, 0), limit(1, 0), limit(3, 0), limit(7, 0), limit(15, 0)], [1, 2, 4, 8, 16]);
        assert_eq!([limit(0, 1), limit(3, 1), limit(5, 1), limit(6, 1)], [1, 1, 1, 1]);
        assert!(limit(95, 5) > 60, "noise of 5 % slows it down a little: {}", limit(95, 5));
        assert_eq!(limit(70, 30), 1, "at the threshold it creeps");
    }

    #[test]
    fn later_waves_begin_with_one_device_and_grow_faster() {
        let rates = Rates::new(5, 30).unwrap();
        let limit = |succeeded| slow_start_limit(&rates, (succeeded, 0), (100, 0));
        assert_eq!([limit(0), limit(1), limit(14)], [1, 14, 183]);
        assert_eq!(slow_start_limit(&rates, (1, 0), (100, 30)), 2, "what went badly before proves nothing");
    }

    #[test]
    fn those_in_flight_are_taken_for_successes_until_they_report() {
        let rates = Rates::new(5, 30).unwrap();
        let early = Tally { in_flight: 20, ..tally(0, 3, 20, 0) };
        assert!(early.evidence(&rates) < 0.0 && tally(0, 3, 20, 0).evidence(&rates) > 5.0);
    }

    #[test]
    fn without_enough_reports_there_is_no_evidence() {
        assert!(!tally(0, 0, 0, 5).has_evidence(None));
        assert!(tally(1, 0, 0, 5).has_evidence(None));
        assert!(!tally(1, 0, 0, 5).has_evidence(Some(3)));
        assert!(tally(2, 0, 0, 0).has_evidence(Some(3)), "a smaller wave has no more to give");
    }
}
