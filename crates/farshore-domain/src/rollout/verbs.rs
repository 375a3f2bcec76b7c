//! What a person may do to a rollout. Each verb returns the actions to carry out with it; call [`super::decide`] afterwards.

use serde_json::json;

use super::decide::Action;
use super::member::{FailureKind, Member, Progress};
use super::plan::PlanError;
use super::sequential;
use super::state::{KnownRelease, Pause, PauseReason, Phase, Rollout, WaveState};
use super::view::FleetView;
use super::wave::Wave;
use crate::id::RolloutId;
use crate::name::Name;
use crate::object::Reason;
use crate::time::UnixMs;

/// A verb that is not possible now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    #[error("a rollout that is {phase} can't {verb}; {hint}")]
    NotNow { verb: &'static str, phase: Phase, hint: &'static str },
    #[error(
        "there is no old release to go back to: the channel pointed to the new release already; abort and keep what devices have"
    )]
    NothingToGoBackTo,
    #[error("it can't start: {0}")]
    Plan(#[from] PlanError),
    #[error("{by} has approved already; this gate needs a second, different person")]
    SamePerson { by: String },
    #[error("no device of this rollout has failed and can be tried again")]
    NothingFailed,
}

impl Rollout {
    pub(super) fn refuse(&self, verb: &'static str, hint: &'static str) -> TransitionError {
        TransitionError::NotNow { verb, phase: self.phase, hint }
    }

    /// Adds a history entry and returns its event.
    pub(super) fn note(
        &mut self,
        kind: &'static str,
        who: &str,
        message: String,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Action {
        self.remember(kind, who, message.clone(), comment, now);
        Action::Event {
            kind,
            message,
            detail: json!({"by": who, "comment": comment, "phase": self.phase.word()}),
        }
    }

    /// Fixes the population and its waves, and starts. `from` is what the channel points to at this moment; the population are the devices
    /// that [`FleetView::eligible`] names. Refused when a wave would be empty, or a budget leaves nobody to change.
    pub fn start(
        &mut self,
        from: Option<KnownRelease>,
        view: &FleetView,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if self.phase != Phase::Pending {
            return Err(self.refuse("start", "only a new rollout starts; make another one"));
        }
        let plan = self.plan(view)?;
        self.population = u32::try_from(plan.order().len()).unwrap_or(u32::MAX);
        let waves = self.spec.waves.iter().zip(plan.reach());
        self.waves = waves.map(|(spec, reach)| Wave::new(*reach, spec.soak_seconds)).collect();
        self.members = (0_u32..)
            .zip(plan.order())
            .map(|(rank, device)| (*device, Member::new(rank, self.wave_of(rank), false, now)))
            .collect();
        self.from = from;
        self.started_at = Some(now);
        self.current = 0;
        self.enter(Phase::Running, now);
        self.begin_wave(now);
        self.plan_tests();
        let message = format!("started with {} devices in {} waves", self.population, self.waves.len());
        self.reasons = vec![Reason::new("Running", message.clone(), now)];
        Ok(vec![self.note("RolloutStarted", by, message, comment, now)])
    }

    /// Draws the line of each wave's test.
    fn plan_tests(&mut self) {
        let mut sizes = vec![0_u32; self.waves.len()];
        for member in self.members.values() {
            if let Some(size) = sizes.get_mut(member.wave as usize) {
                *size += 1;
            }
        }
        for (wave, test) in self.waves.iter_mut().zip(sequential::plan(&self.spec, &sizes)) {
            wave.test = Some(test);
        }
    }

    /// The index of the wave that a rank belongs to.
    #[must_use]
    pub fn wave_of(&self, rank: u32) -> u32 {
        let index =
            self.waves.iter().position(|wave| rank < wave.upto).unwrap_or(self.waves.len().saturating_sub(1));
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Starts nothing more, and takes back what has not been used.
    pub fn pause(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if self.phase != Phase::Running {
            return Err(self.refuse("pause", "only a running rollout can"));
        }
        let message = format!("paused by {by}");
        Ok(self.hold(PauseReason::Operator, by, message, comment, now))
    }

    pub(super) fn hold(
        &mut self,
        why: PauseReason,
        by: &str,
        message: String,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Vec<Action> {
        self.enter(Phase::Paused, now);
        self.pause = Some(Pause { at: now, by: by.to_owned(), why });
        if why == PauseReason::Operator {
            self.reasons = vec![Reason::new("Paused", message.clone(), now)];
        }
        let mut actions = self.revoke_all(now);
        actions.push(self.note("RolloutPaused", by, message, comment, now));
        actions
    }

    /// Goes on. After a halt this acknowledges the failures so far: they halt nothing any more. After an inconclusive gate it
    /// goes on without the missing reports.
    pub fn resume(
        &mut self,
        by: &str,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        let Some(why) = self.pause.as_ref().filter(|_| self.phase == Phase::Paused).map(|pause| pause.why)
        else {
            return Err(self.refuse("resume", "only a paused rollout can"));
        };
        let mut message = format!("resumed by {by}");
        match why {
            PauseReason::Failures | PauseReason::SmallWave | PauseReason::Tripwire => {
                self.take_up_wave(now);
                let mut acknowledged = 0_u32;
                for failure in self.members.values_mut().filter_map(|member| member.failure.as_mut()) {
                    acknowledged += u32::from(!failure.acknowledged);
                    failure.acknowledged = true;
                }
                message = format!("{message}; {acknowledged} failures acknowledged");
                for wave in &mut self.waves {
                    if wave.state == WaveState::Halted {
                        wave.state = WaveState::Passed;
                    }
                }
                if let Some(wave) = self.current_mut() {
                    wave.state = WaveState::Running;
                    wave.verdict = None;
                }
            }
            PauseReason::Inconclusive => {
                message = format!("{message}; goes on without the missing reports");
                if let Some(wave) = self.current_mut() {
                    wave.waived = true;
                }
            }
            PauseReason::Operator | PauseReason::Unknown => {}
        }
        if let Some(wave) = self.current_mut() {
            wave.news_at = Some(now);
        }
        self.enter(Phase::Running, now);
        self.reasons = vec![Reason::new("Running", message.clone(), now)];
        Ok(vec![self.note("RolloutResumed", by, message, comment, now)])
    }

    /// Ends it. With `rollback` every device that was touched gets the old release back first; without, devices keep what they have
    /// until the channel's pointer moves.
    pub fn abort(
        &mut self,
        by: &str,
        comment: Option<&str>,
        rollback: bool,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if self.phase.is_final() || self.phase == Phase::Unknown {
            return Err(
                self.refuse("be aborted", "it is over; to go back make a rollout to the earlier release")
            );
        }
        let nothing_to_undo = self.phase == Phase::Pending;
        if !rollback || nothing_to_undo {
            let message = format!("aborted by {by}; devices keep what they have");
            return Ok(self.finish(Phase::Aborted, "RolloutAborted", by, message, comment, now));
        }
        if self.phase == Phase::RollingBack && self.wave_back.is_none() {
            return Err(self.refuse("roll back", "it does already"));
        }
        if self.has_nothing_to_go_back_to() {
            return Err(TransitionError::NothingToGoBackTo);
        }
        let message = format!("aborted by {by}; every device that was touched gets the old release back");
        self.reasons = vec![Reason::new("Aborted", message.clone(), now)];
        let mut actions = vec![self.note("RolloutAborted", by, message, comment, now)];
        actions.extend(self.go_back(Phase::Aborted, now));
        Ok(actions)
    }

    /// A newer rollout of the same channel and app takes over. What devices still hold is in [`Rollout::held_permits`].
    pub fn supersede(
        &mut self,
        newer: RolloutId,
        newer_name: &Name,
        by: &str,
        now: UnixMs,
    ) -> Result<Vec<Action>, TransitionError> {
        if self.phase.is_final() || self.phase == Phase::Unknown {
            return Err(self.refuse("be superseded", "it is over"));
        }
        self.superseded_by = Some(newer);
        let message = format!("superseded by rollout {newer_name}");
        Ok(self.finish(Phase::Superseded, "RolloutSuperseded", by, message, None, now))
    }

    /// Whether old and new release are one.
    pub(super) fn has_nothing_to_go_back_to(&self) -> bool {
        self.from.as_ref().is_some_and(|from| from.uid == self.to.uid)
    }

    pub(super) fn current_mut(&mut self) -> Option<&mut Wave> {
        self.waves.get_mut(self.current as usize)
    }

    pub(super) fn begin_wave(&mut self, now: UnixMs) {
        if let Some(wave) = self.current_mut() {
            wave.state = WaveState::Running;
            wave.started_at = Some(now);
            wave.news_at = Some(now);
        }
    }

    /// Enters a final phase: no permit stays usable.
    pub(super) fn finish(
        &mut self,
        phase: Phase,
        kind: &'static str,
        by: &str,
        message: String,
        comment: Option<&str>,
        now: UnixMs,
    ) -> Vec<Action> {
        let mut actions = self.revoke_all(now);
        self.enter(phase, now);
        self.reasons.insert(0, Reason::new(kind, message.clone(), now));
        actions.push(self.note(kind, by, message, comment, now));
        actions.push(Action::Done { phase });
        actions
    }

    /// Starts to bring every touched device back to the old release.
    pub(super) fn go_back(&mut self, ends_as: Phase, now: UnixMs) -> Vec<Action> {
        // When a wave goes back alone, only permits to go back are live, and those stay useful.
        let back_already = self.phase == Phase::RollingBack;
        let actions = if back_already { Vec::new() } else { self.revoke_all(now) };
        self.enter(Phase::RollingBack, now);
        self.ends_as = Some(ends_as);
        self.wave_back = None;
        self.make_due(None, now);
        actions
    }

    /// Starts to bring the devices of one wave back; the others keep what they have.
    pub(super) fn go_back_alone(&mut self, wave: u32, now: UnixMs) -> Vec<Action> {
        let actions = self.revoke_all(now);
        self.enter(Phase::RollingBack, now);
        self.wave_back = Some(wave);
        self.make_due(Some(wave), now);
        actions
    }

    /// Whoever runs the new release, or may, has to go back: everybody, or those of one wave.
    fn make_due(&mut self, only: Option<u32>, now: UnixMs) {
        for member in self.members.values_mut().filter(|member| only.is_none_or(|wave| member.wave == wave)) {
            let due = match member.progress {
                Progress::Updated { .. } => true,
                // What was refused has never been active.
                Progress::Failed { .. } => {
                    member.touched || member.failure.as_ref().is_none_or(|f| f.kind != FailureKind::Refused)
                }
                Progress::Waiting { .. } => member.touched,
                _ => false,
            };
            if due {
                member.touched = true;
                member.progress = Progress::RollbackDue { since: now };
            }
        }
    }

    /// Takes every permit back. A device may not hear of it before the permit expires, so its place stays taken until then.
    pub(super) fn revoke_all(&mut self, now: UnixMs) -> Vec<Action> {
        let mut actions = Vec::new();
        for (device, member) in &mut self.members {
            match &mut member.progress {
                Progress::Updating { permit: Some(permit), revoked, expires_at, .. }
                | Progress::RollingBack { permit, revoked, expires_at, .. }
                    if !*revoked =>
                {
                    *revoked = true;
                    if *expires_at > now {
                        actions.push(Action::RevokePermit { device: *device, permit: *permit });
                    }
                }
                _ => {}
            }
        }
        actions
    }
}
