//! What people decide about a rollout's gates and failures.

use super::decide::Action;
use super::member::{Failure, FailureKind, Progress};
use super::spec::OnFailure;
use super::state::{Phase, Rollout, WaveState};
use super::verbs::TransitionError;
use super::wave::Approved;
use crate::object::Reason;
use crate::time::UnixMs;

impl Rollout {
    fn awaits_approval(&self) -> bool {
        let wave = self.waves.get(self.current as usize);
        self.phase == Phase::Running && wave.is_some_and(|wave| wave.state == WaveState::AwaitingApproval)
    }

    /// Lets the gate of the wave that runs open; a gate for two people needs this from two different ones.
    pub fn approve(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if !self.awaits_approval() {
            return Err(self.refuse("be approved", "nothing of it waits for an approval now"));
        }
        let number = self.current + 1;
        let needed = self.spec.approval_of(self.current as usize).people();
        let Some(wave) = self.current_mut() else {
            return Err(self.refuse("be approved", "it has no wave"));
        };
        if wave.approvals.iter().any(|given| given.by == by) {
            return Err(TransitionError::SamePerson { by: by.to_owned() });
        }
        wave.approvals.push(Approved { at: now, by: by.to_owned(), comment: comment.map(str::to_owned) });
        let given = wave.approvals.len();
        let message = if given < needed {
            format!("wave {number} approved by {by}; one more person has to")
        } else {
            format!("wave {number} approved by {by}")
        };
        self.reasons = vec![Reason::new("Approved", message.clone(), now)];
        Ok(vec![self.note("WaveApproved", by, message, comment, now)])
    }

    /// Says that the release is not good: the rollout ends as aborted. What devices have is what `onFailure` says: everybody goes back, or with `pause`
    /// and `rollback-wave` those of the wave that waits, or nobody, do.
    pub fn reject(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if !self.awaits_approval() {
            return Err(self.refuse("be rejected", "nothing of it waits for an approval now; abort it"));
        }
        let number = self.current + 1;
        self.rejected = true;
        let message = format!("wave {number} rejected by {by}");
        self.reasons = vec![Reason::new("Rejected", message.clone(), now)];
        let mut actions = vec![self.note("WaveRejected", by, message, comment, now)];
        let wave = self.current;
        if let Some(wave) = self.current_mut() {
            wave.state = WaveState::Halted;
        }
        let keep = self.has_nothing_to_go_back_to();
        actions.extend(match self.spec.on_failure {
            OnFailure::Rollback if !keep => self.go_back(Phase::Aborted, now),
            OnFailure::RollbackWave if !keep => {
                let actions = self.go_back_alone(wave, now);
                self.ends_as = Some(Phase::Aborted);
                actions
            }
            _ => {
                let message = "aborted; devices keep what they have".to_owned();
                self.finish(Phase::Aborted, "RolloutAborted", by, message, comment, now)
            }
        });
        Ok(actions)
    }

    /// Goes on without waiting for the rest of the wave that runs: who has not reported is judged with the next wave, and its failures so far halt
    /// nothing any more. An approval that the gate needs is still needed.
    pub fn skip_wave(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if self.phase != Phase::Running {
            return Err(self.refuse("skip a wave", "only a running rollout can; resume it first"));
        }
        if self.current as usize + 1 >= self.waves.len() {
            return Err(self.refuse("skip its last wave", "nothing comes after it; wait for it, or abort"));
        }
        if self.awaits_approval() {
            return Err(self.refuse("skip this wave", "it is over and waits to be approved or rejected"));
        }
        let current = self.current;
        for member in self.members.values_mut().filter(|member| member.wave == current) {
            if let Some(failure) = &mut member.failure {
                failure.acknowledged = true;
            }
        }
        if let Some(wave) = self.current_mut() {
            wave.skipped = true;
        }
        let message = format!("wave {} skipped by {by}", current + 1);
        self.reasons = vec![Reason::new("WaveSkipped", message.clone(), now)];
        Ok(vec![self.note("WaveSkipped", by, message, comment, now)])
    }

    /// Lets the devices that failed try again: each is resumed on the device ([`Action::Resume`]), and comes back through its gate with a new permit when it
    /// says so. Until then it stays failed: nothing is tried again in a loop.
    pub fn retry_failed(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if !matches!(self.phase, Phase::Running | Phase::Paused) {
            return Err(self.refuse("retry", "only a running or paused rollout can"));
        }
        let mut actions = Vec::new();
        for (device, member) in &mut self.members {
            if let (Progress::Failed { .. }, Some(failure)) = (&member.progress, &mut member.failure) {
                failure.forgiven = true;
                actions.push(Action::Resume { device: *device });
            }
        }
        if actions.is_empty() {
            return Err(TransitionError::NothingFailed);
        }
        let message = format!("{} devices that failed may try again, said {by}", actions.len());
        if let Some(wave) = self.current_mut() {
            wave.news_at = Some(now);
        }
        actions.push(self.note("FailedRetried", by, message, comment, now));
        Ok(actions)
    }

    /// Brings every device that was touched back to the old release, and ends as failed.
    pub fn rollback(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        let alone = self.phase == Phase::RollingBack && self.wave_back.is_some();
        if !(matches!(self.phase, Phase::Running | Phase::Paused) || alone) {
            return Err(self.refuse(
                "roll back",
                "only one that is under way can; to go back make a rollout to the earlier release",
            ));
        }
        if self.has_nothing_to_go_back_to() {
            return Err(TransitionError::NothingToGoBackTo);
        }
        let message = format!("rolled back by {by}: every device that was touched gets the old release back");
        self.reasons = vec![Reason::new("RolledBack", message.clone(), now)];
        let mut actions = vec![self.note("RollbackStarted", by, message, comment, now)];
        actions.extend(self.go_back(Phase::Failed, now));
        Ok(actions)
    }

    /// After a wave went back alone and somebody resumed: who failed there stays failed, the others get the release again.
    pub(super) fn take_up_wave(&mut self, now: UnixMs) {
        let Some(wave) = self.wave_back.take() else { return };
        for member in self.members.values_mut().filter(|member| member.wave == wave) {
            match &member.progress {
                Progress::RollbackFailed { at, reason } => {
                    let failure = Box::new(Failure::new(*at, FailureKind::Stuck, reason.clone(), 0));
                    member.progress = Progress::Failed { at: *at };
                    member.failure.get_or_insert(failure);
                }
                Progress::RolledBack { at } if member.failure.is_some() => {
                    member.progress = Progress::Failed { at: *at };
                }
                Progress::RolledBack { .. } | Progress::RollbackDue { .. } => {
                    member.progress = Progress::Waiting { since: now };
                }
                _ => {}
            }
        }
    }

    /// Why this rollout holds its release back in the channel: it failed, is or was rolled back as a whole, or was rejected. Nobody should bring the
    /// release there again before somebody has said so. (While only a wave has gone back, nothing is decided yet.)
    #[must_use]
    pub fn holds_back(&self) -> Option<&Reason> {
        let bad = match self.phase {
            Phase::Failed => true,
            Phase::RollingBack => self.ends_as.is_some(),
            Phase::Aborted => self.rejected || self.ends_as.is_some(),
            _ => false,
        };
        if bad { self.reasons.first() } else { None }
    }
}
