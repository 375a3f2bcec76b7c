//! Gates: what a wave's reports lead to when it has not failed.

use super::decide::{Action, ENGINE, Step};
use super::judge::{self, Tally};
use super::observe;
use super::spec::{OnFailure, OnInconclusive};
use super::state::{PauseReason, Phase, WaveState};
use super::wave::Verdict;
use crate::condition;
use crate::object::Reason;
use crate::time::SECOND_MS;

impl Step<'_> {
    /// Moves the running wave on. Returns whether its gate opened and another wave has begun.
    pub(super) fn advance(&mut self, tallies: &[Tally]) -> bool {
        let now = self.now;
        let current = self.next.current as usize;
        let Some(tally) = tallies.get(current).copied() else { return false };
        let min_reports = self.next.spec.min_reports;
        let gate_timeout_ms = i64::from(self.next.spec.gate_timeout_seconds) * SECOND_MS;
        let device_timeout_ms = i64::from(self.next.spec.device_timeout_seconds) * SECOND_MS;
        let limit = self.next.in_flight_limit(tallies);
        let Some(wave) = self.next.current_mut() else { return false };
        if !wave.skipped {
            let enough = tally.members == 0 || wave.waived || tally.has_evidence(min_reports);
            if wave.last_call.is_none() && enough && tally.open == tally.came_later {
                wave.last_call = Some(now.plus_ms(device_timeout_ms));
            }
            if tally.awaited() > 0 || !enough {
                let was = std::mem::replace(&mut wave.state, WaveState::Running);
                if was != WaveState::Running {
                    wave.news_at = Some(now);
                    wave.at_gate_since = None;
                }
                let quiet_since = wave.news_at.unwrap_or(now);
                if was == WaveState::AwaitingApproval {
                    let message = "devices came back to the wave and have to report first";
                    self.next.reasons = vec![Reason::new("Running", message, now)];
                }
                if now.since_ms(quiet_since) < gate_timeout_ms {
                    self.permit_forward(limit);
                    return false;
                }
                let seconds = self.next.spec.gate_timeout_seconds;
                if !self.be_inconclusive(&tally, &format!("no news for {seconds} s")) {
                    return false;
                }
            } else if judge::soak_end(wave, &tally).is_some_and(|end| now < end) {
                wave.state = WaveState::Soaking;
                wave.at_gate_since = None;
                return false;
            } else if !self.meets_condition(&tally, gate_timeout_ms) {
                return false;
            }
        }
        if !self.is_approved() {
            return false;
        }
        self.pass(&tally)
    }

    /// Whether the gate's condition lets the wave through. What is not true is waited for, up to the gate's deadline.
    fn meets_condition(&mut self, tally: &Tally, timeout_ms: i64) -> bool {
        let now = self.now;
        let Some(text) = self.next.spec.gate_of(self.next.current as usize) else { return true };
        let (verdict, text) = (self.next.evaluate(self.view, text), text.to_owned());
        let Some(wave) = self.next.current_mut() else { return false };
        let unknown = match verdict {
            condition::Verdict::True => return true,
            condition::Verdict::Unknown(_) if wave.waived => return true,
            condition::Verdict::Unknown(why) => Some(why),
            condition::Verdict::False => None,
        };
        if wave.state != WaveState::AtGate {
            wave.state = WaveState::AtGate;
            wave.at_gate_since = Some(now);
        }
        if now.since_ms(wave.at_gate_since.unwrap_or(now)) < timeout_ms {
            return false;
        }
        if let Some(why) = unknown {
            return self.be_inconclusive(tally, &format!("its condition can't be judged: {why}"));
        }
        self.halt_at_gate(*tally, text);
        false
    }

    /// Whether enough people have opened the gate. Nobody in time: the rollout ends, and devices keep what they have.
    fn is_approved(&mut self) -> bool {
        let now = self.now;
        let number = self.next.current + 1;
        let needed = self.next.spec.approval_of(self.next.current as usize).people();
        let Some(wave) = self.next.current_mut() else { return false };
        let given = wave.approvals.len();
        if given >= needed {
            return true;
        }
        if wave.state != WaveState::AwaitingApproval {
            wave.state = WaveState::AwaitingApproval;
            wave.at_gate_since = Some(now);
            let missing = needed - given;
            let people = if missing == 1 { "one person" } else { "two different people" };
            let message = format!("wave {number} is good and waits for {people} to approve it");
            self.next.reasons = vec![Reason::new("AwaitingApproval", message.clone(), now)];
            let event = self.next.note("ApprovalNeeded", ENGINE, message, None, now);
            self.actions.push(event);
            return false;
        }
        let since = wave.at_gate_since.unwrap_or(now);
        self.give_up_waiting(since);
        false
    }

    /// Opens the gate. Returns whether another wave has begun.
    fn pass(&mut self, tally: &Tally) -> bool {
        let now = self.now;
        let number = self.next.current + 1;
        let last = number as usize >= self.next.waves.len();
        let Some(wave) = self.next.current_mut() else { return false };
        let how = if wave.skipped { "was left behind" } else { "passed" };
        wave.state = WaveState::Passed;
        wave.at_gate_since = None;
        wave.verdict =
            Some(Verdict { at: now, succeeded: tally.succeeded, failed: tally.failed, small: false });
        let missing = match tally.unreachable {
            0 => String::new(),
            missing if last => format!("; {missing} unreachable devices get the release when they return"),
            missing => format!("; {missing} unreachable devices are judged with a later wave"),
        };
        let message = format!(
            "wave {number} {how}: {} devices committed, {} failed{missing}",
            tally.succeeded,
            tally.failed + tally.acknowledged
        );
        self.next.reasons = vec![Reason::new("WavePassed", message.clone(), now)];
        let event = self.next.note("WavePassed", ENGINE, message, None, now);
        self.actions.push(event);
        if last {
            self.succeed(tally.unreachable + tally.open);
            return false;
        }
        self.next.current = number;
        self.next.begin_wave(now);
        observe::carry(&mut self.next);
        true
    }

    fn succeed(&mut self, missing: u32) {
        let spec = &self.next.spec;
        self.actions.push(Action::MovePointer {
            channel: spec.channel.clone(),
            app: spec.app.clone(),
            release: self.next.to.uid,
        });
        let mut message =
            format!("{} {} is current in channel {}", spec.app, self.next.to.version, spec.channel);
        if missing > 0 {
            message = format!("{message}; {missing} devices have not been reached yet");
        }
        self.next.reasons.clear();
        let actions = self.next.finish(Phase::Succeeded, "RolloutSucceeded", ENGINE, message, None, self.now);
        self.actions.extend(actions);
    }

    /// The gate's deadline has come without enough evidence. Returns whether it goes on without.
    pub(super) fn be_inconclusive(&mut self, tally: &Tally, why: &str) -> bool {
        let now = self.now;
        let number = self.next.current + 1;
        let message = format!(
            "wave {number} is inconclusive: {why}; {} devices reported, {} have not, {} are unreachable, {} are left out",
            tally.judged() + tally.acknowledged,
            tally.open,
            tally.unreachable,
            tally.excluded
        );
        self.next.reasons = vec![Reason::new("GateInconclusive", message.clone(), now)];
        let outcome = self.next.spec.on_inconclusive;
        match outcome {
            OnInconclusive::Continue => {
                let event = self.next.note("GateInconclusive", ENGINE, message, None, now);
                self.actions.push(event);
                if let Some(wave) = self.next.current_mut() {
                    wave.skipped = true;
                }
                true
            }
            OnInconclusive::Rollback => {
                if let Some(wave) = self.next.current_mut() {
                    wave.state = WaveState::Halted;
                    wave.verdict = Some(Verdict {
                        at: now,
                        succeeded: tally.succeeded,
                        failed: tally.failed,
                        small: false,
                    });
                }
                let event = self.next.note("GateInconclusive", ENGINE, message, None, now);
                self.actions.push(event);
                self.follow(OnFailure::Rollback, self.next.current, PauseReason::Inconclusive);
                false
            }
            OnInconclusive::Pause => {
                let actions = self.next.hold(PauseReason::Inconclusive, ENGINE, message, None, now);
                self.actions.extend(actions);
                false
            }
        }
    }
}
