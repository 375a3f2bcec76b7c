//! Halts: when a wave has failed, and what follows.

use super::decide::{Action, ENGINE, Step};
use super::judge::Tally;
use super::member::{Member, Progress};
use super::sequential::Rates;
use super::spec::{OnFailure, OnSmallWave};
use super::state::{PauseReason, Phase, WaveState, count};
use super::wave::Verdict;
use crate::condition;
use crate::id::DeviceId;
use crate::name::Name;
use crate::object::Reason;

/// At most this many failed devices are named among the reasons.
const NAMED_FAILURES: usize = 5;

/// A wave that has failed.
pub(super) struct Halt {
    /// Its index.
    wave: usize,
    tally: Tally,
    why: Why,
}

/// What it failed by.
enum Why {
    /// Everybody has reported.
    Ended,
    /// No success of the others can save it.
    Lost,
    /// The test: the evidence, and the line it has crossed.
    Test(f64, f64),
    Tripwire(Name),
    /// The gate's condition was false until its deadline.
    Gate(String),
}

impl Why {
    fn pauses_for(&self, small: bool) -> PauseReason {
        match self {
            Self::Tripwire(_) => PauseReason::Tripwire,
            _ if small => PauseReason::SmallWave,
            _ => PauseReason::Failures,
        }
    }
}

impl Step<'_> {
    /// A wave with too many failures: the one that runs, or one that went bad after its gate; or a tripwire.
    pub(super) fn find_halt(&self, tallies: &[Tally]) -> Option<Halt> {
        let spec = &self.next.spec;
        let threshold = spec.failure_threshold;
        let current = self.next.current as usize;
        let rates = Rates::of(spec);
        let failed = self.next.waves.iter().zip(tallies).enumerate().take(current + 1).find_map(
            |(index, (wave, tally))| {
                // Who goes on without the missing reports is judged by those that are there.
                let enough = wave.waived || tally.has_evidence(spec.min_reports);
                let over = index < current || (tally.awaited() == 0 && enough);
                let line = wave.test.and_then(|test| test.halt_line());
                let why = if over && tally.fails(threshold) {
                    Why::Ended
                } else if tally.cannot_pass(threshold) {
                    Why::Lost
                } else if let Some((line, rates)) = line.zip(rates)
                    && tally.failed > 0
                    && tally.evidence(&rates) >= line
                {
                    Why::Test(tally.evidence(&rates), line)
                } else {
                    return None;
                };
                Some(Halt { wave: index, tally: *tally, why })
            },
        );
        failed.or_else(|| self.tripped(*tallies.get(current)?))
    }

    fn tripped(&self, tally: Tally) -> Option<Halt> {
        let wave = self.next.waves.get(self.next.current as usize)?;
        let wire = self.next.spec.tripwires.iter().find(|wire| {
            !wave.tripped.contains(&wire.name)
                && self.next.evaluate(self.view, &wire.when) == condition::Verdict::True
        })?;
        Some(Halt { wave: self.next.current as usize, tally, why: Why::Tripwire(wire.name.clone()) })
    }

    /// The gate's condition was false for too long.
    pub(super) fn halt_at_gate(&mut self, tally: Tally, reason: String) {
        let halt = Halt { wave: self.next.current as usize, tally, why: Why::Gate(reason) };
        self.halt(halt);
    }

    /// Whether arithmetic halts a good release in this wave more often than was promised.
    fn is_small(&self, halt: &Halt) -> bool {
        let judged = match halt.why {
            Why::Ended => halt.tally.judged(),
            Why::Lost => halt.tally.could_be_judged(),
            _ => return false,
        };
        let test = self.next.waves.get(halt.wave).and_then(|wave| wave.test);
        test.is_some_and(|test| test.is_small(&self.next.spec, judged))
    }

    /// `onSmallWave: retry-elsewhere`: sets what was reported aside, and calls as many other devices in. Returns whether it did.
    pub(super) fn try_elsewhere(&mut self, halt: &Halt) -> bool {
        let now = self.now;
        let wave_index = self.next.current;
        let retry = self.next.spec.on_small_wave == OnSmallWave::RetryElsewhere
            && halt.wave == wave_index as usize
            && self.is_small(halt)
            && self.next.waves.get(halt.wave).is_some_and(|wave| !wave.retried);
        if !retry {
            return false;
        }
        let mut others: Vec<_> = self
            .next
            .members
            .iter()
            .filter(|(device, member)| {
                let ready =
                    self.view.get(**device).is_some_and(|known| known.is_online() && !known.is_busy(now));
                member.wave > wave_index && matches!(member.progress, Progress::Waiting { .. }) && ready
            })
            .map(|(device, member)| (member.wave, member.rank, *device))
            .collect();
        others.sort_unstable();
        others.truncate(halt.tally.judged() as usize);
        if others.is_empty() {
            return false;
        }
        for member in self.next.members.values_mut().filter(|member| member.wave == wave_index) {
            if matches!(member.progress, Progress::Updated { .. } | Progress::Failed { .. }) {
                member.set_aside = true;
                if let Some(failure) = &mut member.failure {
                    failure.acknowledged = true;
                }
            }
        }
        for (.., device) in &others {
            if let Some(member) = self.next.members.get_mut(device) {
                member.wave = wave_index;
                member.called_in = true;
                member.came = None;
            }
        }
        if let Some(wave) = self.next.current_mut() {
            wave.retried = true;
            wave.state = WaveState::Running;
            wave.news_at = Some(now);
        }
        let message = format!(
            "wave {}: {} of {} devices failed, too few to tell noise from a bad release; {} other devices are tried",
            wave_index + 1,
            halt.tally.failed,
            halt.tally.judged(),
            others.len()
        );
        let event = self.next.note("WaveRetried", ENGINE, message, None, now);
        self.actions.push(event);
        true
    }

    fn describe(&self, halt: &Halt, small: bool) -> String {
        let (index, tally) = (halt.wave, &halt.tally);
        let current = self.next.current as usize;
        let threshold = self.next.spec.failure_threshold;
        let number = index + 1;
        let later = if index < current { " after its gate had opened" } else { "" };
        let early = if index == current && tally.open > 0 { ", before the wave was over" } else { "" };
        let counted = format!("{} of {} devices that reported failed{early}", tally.failed, tally.judged());
        let small = if small { "; so small a wave can't tell noise from a bad release" } else { "" };
        match &halt.why {
            Why::Ended | Why::Lost => {
                format!("wave {number} halted{later}: {counted} (threshold {threshold} %){small}")
            }
            Why::Test(evidence, line) => format!(
                "wave {number} halted{later}: {counted}; that looks like {threshold} % rather than {} % (evidence {evidence:.2}, line {line:.2})",
                self.next.spec.acceptable_percent(),
            ),
            Why::Tripwire(name) => format!("wave {number} halted: tripwire {name} is true; {counted}"),
            Why::Gate(reason) => {
                format!("wave {number} halted: its gate's condition stayed false ({reason}); {counted}")
            }
        }
    }

    pub(super) fn halt(&mut self, halt: Halt) {
        let now = self.now;
        let small = self.is_small(&halt);
        let message = self.describe(&halt, small);
        if let Some(wave) = self.next.waves.get_mut(halt.wave) {
            wave.state = WaveState::Halted;
            wave.verdict =
                Some(Verdict { at: now, succeeded: halt.tally.succeeded, failed: halt.tally.failed, small });
            if let Why::Tripwire(name) = &halt.why {
                wave.tripped.push(name.clone());
            }
        }
        let wave = u32::try_from(halt.wave).unwrap_or(u32::MAX);
        let mut reasons = vec![Reason::new("WaveHalted", message.clone(), now)];
        reasons.extend(self.failures_of(wave));
        self.next.reasons = reasons;
        let event = self.next.note("WaveHalted", ENGINE, message, None, now);
        self.actions.push(event);
        let on_failure = if small && self.next.spec.on_small_wave == OnSmallWave::Pause {
            OnFailure::Pause
        } else {
            self.next.spec.on_failure
        };
        let small = small && self.next.spec.on_small_wave == OnSmallWave::Pause;
        self.follow(on_failure, wave, halt.why.pauses_for(small));
    }

    /// What happens after a halt of a wave.
    pub(super) fn follow(&mut self, on_failure: OnFailure, wave: u32, why: PauseReason) {
        let now = self.now;
        let actions = match on_failure {
            _ if self.next.has_nothing_to_go_back_to() => self.wait_for_somebody(why),
            OnFailure::Pause => self.wait_for_somebody(why),
            OnFailure::Rollback => {
                let message = "every device that was touched gets the old release back".to_owned();
                let event = self.next.note("RollbackStarted", ENGINE, message, None, now);
                self.actions.push(event);
                self.next.go_back(Phase::Failed, now)
            }
            OnFailure::RollbackWave => {
                let message = format!("the devices of wave {} get the old release back", wave + 1);
                let event = self.next.note("RollbackStarted", ENGINE, message, None, now);
                self.actions.push(event);
                self.next.go_back_alone(wave, now)
            }
        };
        self.actions.extend(actions);
    }

    fn wait_for_somebody(&mut self, why: PauseReason) -> Vec<Action> {
        let message = "paused: nothing more is started until somebody decides".to_owned();
        self.next.hold(why, ENGINE, message, None, self.now)
    }

    /// The wave that went back alone is back: a person decides what comes next.
    pub(super) fn end_wave_back(&mut self, wave: u32) {
        let of_wave = |of: fn(&Progress) -> bool| {
            count(
                self.next
                    .members
                    .values()
                    .filter(|member: &&Member| member.wave == wave && member.touched && of(&member.progress)),
            )
        };
        let back = of_wave(|progress| matches!(progress, Progress::RolledBack { .. }));
        let not = of_wave(|progress| {
            matches!(progress, Progress::RollbackFailed { .. } | Progress::Unreachable { .. })
        });
        let mut message = format!("paused: {back} devices of wave {} have gone back", wave + 1);
        if not > 0 {
            message = format!("{message}; {not} could not, or could not be reached");
        }
        let actions = self.next.hold(PauseReason::Failures, ENGINE, message, None, self.now);
        self.actions.extend(actions);
    }

    fn failures_of(&self, wave: u32) -> Vec<Reason> {
        let mut failures: Vec<_> = self
            .next
            .members
            .iter()
            .filter(|(_, member)| member.wave == wave)
            .filter_map(|(device, member)| Some((member.failure.as_ref()?, member.rank, *device)))
            .filter(|(failure, ..)| !failure.acknowledged)
            .collect();
        failures.sort_by_key(|(failure, rank, _): &(_, u32, DeviceId)| (failure.at, *rank));
        failures
            .into_iter()
            .take(NAMED_FAILURES)
            .map(|(failure, _, device)| {
                let text = format!("{}: {}", self.name_of(device), failure.reason);
                Reason::new("DeviceFailed", text, failure.at)
            })
            .collect()
    }
}
