//! Gates and halts: what a wave's reports lead to.

use super::decide::{Action, ENGINE, Step};
use super::judge::{self, Tally};
use super::observe;
use super::spec::OnFailure;
use super::state::{PauseReason, Phase, Verdict, WaveState};
use crate::object::Reason;
use crate::time::SECOND_MS;

/// At most this many failed devices are named among the reasons.
const NAMED_FAILURES: usize = 5;

impl Step<'_> {
    /// Halts when a wave has too many failures: the one that runs, or one that went bad after its gate.
    pub(super) fn halt(&mut self, tallies: &[Tally]) -> bool {
        let threshold = self.next.spec.failure_threshold;
        let min_reports = self.next.spec.min_reports;
        let current = self.next.current as usize;
        let bad = tallies.iter().enumerate().take(current + 1).find(|(index, tally)| {
            let over = *index < current || (tally.open == 0 && tally.has_evidence(min_reports));
            tally.cannot_pass(threshold) || (over && tally.fails(threshold))
        });
        let Some((index, tally)) = bad else { return false };
        let number = index + 1;
        let early = if index == current && tally.open > 0 { ", before the wave was over" } else { "" };
        let later = if index < current { " after its gate had opened" } else { "" };
        let message = format!(
            "wave {number} halted{later}: {} of {} devices that reported failed{early} (threshold {threshold} %)",
            tally.failed,
            tally.judged()
        );
        if let Some(wave) = self.next.waves.get_mut(index) {
            wave.state = WaveState::Halted;
            wave.verdict = Some(Verdict { at: self.now, succeeded: tally.succeeded, failed: tally.failed });
        }
        let wave = u32::try_from(index).unwrap_or(u32::MAX);
        let mut reasons = vec![Reason::new("WaveHalted", message.clone(), self.now)];
        reasons.extend(self.failures_of(wave));
        self.next.reasons = reasons;
        let now = self.now;
        let event = self.next.note("WaveHalted", ENGINE, message, None, now);
        self.actions.push(event);
        let actions =
            if self.next.spec.on_failure != OnFailure::Pause && !self.next.has_nothing_to_go_back_to() {
                let message = "every device that was touched gets the old release back".to_owned();
                let event = self.next.note("RollbackStarted", ENGINE, message, None, now);
                self.actions.push(event);
                self.next.go_back(Phase::Failed, now)
            } else {
                let message = "paused: nothing more is started until somebody decides".to_owned();
                self.next.hold(PauseReason::Failures, ENGINE, message, None, now)
            };
        self.actions.extend(actions);
        true
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
        failures.sort_by_key(|(failure, rank, _)| (failure.at, *rank));
        failures
            .into_iter()
            .take(NAMED_FAILURES)
            .map(|(failure, _, device)| {
                let text = format!("{}: {}", self.name_of(device), failure.reason);
                Reason::new("DeviceFailed", text, failure.at)
            })
            .collect()
    }

    /// Moves the running wave on. Returns whether its gate opened and another wave has begun.
    pub(super) fn advance(&mut self, tallies: &[Tally]) -> bool {
        let now = self.now;
        let Some(tally) = tallies.get(self.next.current as usize) else { return false };
        let min_reports = self.next.spec.min_reports;
        let gate_timeout_ms = i64::from(self.next.spec.gate_timeout_seconds) * SECOND_MS;
        let Some(wave) = self.next.current_mut() else { return false };
        let enough = tally.members == 0 || wave.waived || tally.has_evidence(min_reports);
        if tally.open > 0 || !enough {
            if wave.state == WaveState::Soaking {
                wave.state = WaveState::Running;
                wave.news_at = Some(now);
            }
            let quiet_since = wave.news_at.unwrap_or(now);
            if now.since_ms(quiet_since) >= gate_timeout_ms {
                self.be_inconclusive(tally);
            } else {
                self.permit_forward();
            }
            return false;
        }
        if judge::soak_end(wave, tally).is_some_and(|end| now < end) {
            wave.state = WaveState::Soaking;
            return false;
        }
        wave.state = WaveState::Passed;
        wave.verdict = Some(Verdict { at: now, succeeded: tally.succeeded, failed: tally.failed });
        let number = self.next.current + 1;
        let last = number as usize >= self.next.waves.len();
        let missing = match tally.unreachable {
            0 => String::new(),
            missing if last => format!("; {missing} unreachable devices get the release when they return"),
            missing => format!("; {missing} unreachable devices are judged with a later wave"),
        };
        let message = format!(
            "wave {number} passed: {} devices committed, {} failed{missing}",
            tally.succeeded,
            tally.failed + tally.acknowledged
        );
        let event = self.next.note("WavePassed", ENGINE, message, None, now);
        self.actions.push(event);
        if last {
            self.succeed(tally.unreachable);
            return false;
        }
        self.next.current = number;
        self.next.begin_wave(now);
        observe::carry(&mut self.next);
        true
    }

    fn succeed(&mut self, unreachable: u32) {
        let spec = &self.next.spec;
        self.actions.push(Action::MovePointer {
            channel: spec.channel.clone(),
            app: spec.app.clone(),
            release: self.next.to.uid,
        });
        let mut message =
            format!("{} {} is current in channel {}", spec.app, self.next.to.version, spec.channel);
        if unreachable > 0 {
            message = format!("{message}; {unreachable} devices have not been reached yet");
        }
        self.next.reasons.clear();
        let actions = self.next.finish(Phase::Succeeded, "RolloutSucceeded", ENGINE, message, None, self.now);
        self.actions.extend(actions);
    }

    pub(super) fn be_inconclusive(&mut self, tally: &Tally) {
        let number = self.next.current + 1;
        let message = format!(
            "wave {number} is inconclusive: no news for {} s; {} devices reported, {} have not, {} are unreachable, {} are left out",
            self.next.spec.gate_timeout_seconds,
            tally.judged() + tally.acknowledged,
            tally.open,
            tally.unreachable,
            tally.excluded
        );
        self.next.reasons = vec![Reason::new("GateInconclusive", message.clone(), self.now)];
        let actions = self.next.hold(PauseReason::Inconclusive, ENGINE, message, None, self.now);
        self.actions.extend(actions);
    }
}
