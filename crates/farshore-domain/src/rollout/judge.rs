//! A wave's arithmetic. Only what devices reported counts; missing data is neither success nor failure.

use super::member::{Member, Progress};
use super::state::{Rollout, Wave};
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
    /// Reachable, or about to be known as away, and not done: the gate waits for these.
    pub open: u32,
    pub unreachable: u32,
    pub excluded: u32,
    pub last_success: Option<UnixMs>,
}

impl Tally {
    fn add(&mut self, member: &Member) {
        self.members += 1;
        match member.progress {
            Progress::Updated { at } => {
                self.succeeded += 1;
                self.last_success = self.last_success.max(Some(at));
            }
            Progress::Failed { .. } => {
                if member.failure.as_ref().is_some_and(|failure| failure.acknowledged) {
                    self.acknowledged += 1;
                } else {
                    self.failed += 1;
                }
            }
            Progress::Unreachable { .. } => self.unreachable += 1,
            Progress::Excluded { .. } => self.excluded += 1,
            Progress::Waiting { .. }
            | Progress::Updating { .. }
            | Progress::RollbackDue { .. }
            | Progress::RollingBack { .. }
            | Progress::RolledBack { .. }
            | Progress::RollbackFailed { .. } => self.open += 1,
        }
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
        reaches(self.failed, self.judged() + self.open + self.unreachable, threshold)
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

fn reaches(failed: u32, of: u32, threshold: u8) -> bool {
    failed > 0 && u64::from(failed) * 100 >= u64::from(of) * u64::from(threshold)
}

/// One tally a wave, in one pass over the members.
#[must_use]
pub fn tallies(rollout: &Rollout) -> Vec<Tally> {
    let mut tallies = vec![Tally::default(); rollout.waves.len()];
    for member in rollout.members.values() {
        if let Some(tally) = tallies.get_mut(member.wave as usize) {
            tally.add(member);
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
    fn without_enough_reports_there_is_no_evidence() {
        assert!(!tally(0, 0, 0, 5).has_evidence(None));
        assert!(tally(1, 0, 0, 5).has_evidence(None));
        assert!(!tally(1, 0, 0, 5).has_evidence(Some(3)));
        assert!(tally(2, 0, 0, 0).has_evidence(Some(3)), "a smaller wave has no more to give");
    }
}
