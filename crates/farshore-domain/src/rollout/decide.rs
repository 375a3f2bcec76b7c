//! The decision: `(rollout, view, now) -> (next rollout, actions)`.

use serde::Serialize;
use serde_json::json;

use super::hours::Hours;
use super::judge;
use super::member::{Member, Progress, Told};
use super::observe;
use super::spec::PromotionMode;
use super::state::{Phase, Rollout, in_order};
use super::view::FleetView;
use crate::id::{DeviceId, PermitId, ReleaseId};
use crate::name::Name;
use crate::object::Reason;
use crate::schedule::Purpose;
use crate::time::{SECOND_MS, UnixMs};

/// What the driver carries out, in one transaction with storing the next state.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// What this device should have has changed: write its assignments again ([`crate::assign::assign`]). `release` is what the
    /// rollout gives it; none removes the app, or leaves the decision to a pin or the channel.
    Assign { device: DeviceId, release: Option<ReleaseId>, forward: bool },
    /// The device may activate `release` until `expires_at`. Without a release the app is removed.
    Permit {
        device: DeviceId,
        release: Option<ReleaseId>,
        permit: PermitId,
        expires_at: UnixMs,
        /// False for a permit to go back.
        forward: bool,
    },
    /// Take the permit out of the device's desired state.
    RevokePermit { device: DeviceId, permit: PermitId },
    /// The channel points to this release from now on.
    MovePointer { channel: Name, app: Name, release: ReleaseId },
    /// Make a rollout of the same release in this channel: as a draft, or started. The rollout's own channel has had it for its soak.
    Promote { channel: Name, mode: PromotionMode },
    /// Let the device try this release again: count its `resumed` for the rollout's app up, as an operator's resume of the device does. What it then
    /// reports brings it back into the rollout.
    Resume { device: DeviceId },
    /// For the event table.
    Event { kind: &'static str, message: String, detail: serde_json::Value },
    /// Nothing more will come: write the assignments of all members again, and forget the timer.
    Done { phase: Phase },
}

/// The next state and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub next: Rollout,
    pub actions: Vec<Action>,
}

/// Who decides here.
pub(super) const ENGINE: &str = "engine";

/// What to do next. `permits` makes new permit ids; it is asked once for each permit that is issued.
///
/// Pure and idempotent: the same inputs give the same decision, and deciding again on the next state with the same view and time
/// gives no actions. O(n log n) in the number of devices.
#[must_use]
pub fn decide(
    rollout: &Rollout,
    view: &FleetView,
    now: UnixMs,
    permits: &mut dyn FnMut() -> PermitId,
) -> Decision {
    decide_on(rollout.clone(), view, now, permits)
}

/// [`decide`] for a caller that does not need the state before any more: virtual fleets, which decide thousands of times.
#[must_use]
pub fn decide_on(
    rollout: Rollout,
    view: &FleetView,
    now: UnixMs,
    permits: &mut dyn FnMut() -> PermitId,
) -> Decision {
    let mut rollout = rollout;
    rollout.see_policies(view);
    let hours = Hours::of(&rollout.spec, now);
    let mut step = Step { next: rollout, view, now, permits, hours, actions: Vec::new() };
    match step.next.phase {
        Phase::Pending => step.give_up_waiting(step.next.created_at),
        Phase::Running => {
            step.run();
            // What a pause has taken back is settled now, not at the next call.
            if step.next.phase == Phase::Paused {
                step.observe();
            }
        }
        Phase::Paused => {
            step.join_late();
            step.observe();
            step.give_up_waiting(step.next.phase_since);
        }
        Phase::Succeeded => step.promote(),
        _ => {}
    }
    if step.next.phase == Phase::RollingBack {
        step.go_back();
        if step.next.phase == Phase::Paused {
            step.join_late();
            step.observe();
        }
    }
    if !step.next.phase.is_final() {
        step.tell();
        step.hold_gate();
    }
    step.next.next_opening = step.opening();
    Decision { next: step.next, actions: step.actions }
}

pub(super) struct Step<'a> {
    pub(super) next: Rollout,
    pub(super) view: &'a FleetView,
    pub(super) now: UnixMs,
    pub(super) permits: &'a mut dyn FnMut() -> PermitId,
    pub(super) hours: Hours<'a>,
    pub(super) actions: Vec<Action>,
}

impl Step<'_> {
    fn run(&mut self) {
        self.join_late();
        self.observe();
        if !self.may_begin() {
            return;
        }
        self.hold_gate();
        loop {
            let mut tallies = judge::tallies(&self.next);
            self.wait_for_away(&mut tallies);
            match self.find_halt(&tallies) {
                Some(halt) if self.try_elsewhere(&halt) => {}
                Some(halt) => {
                    self.halt(halt);
                    break;
                }
                None if self.advance(&tallies) => {}
                None => break,
            }
        }
    }

    /// Whether everything that it depends on has succeeded. Until then devices may stage, and nothing changes.
    fn may_begin(&mut self) -> bool {
        if self.next.spec.depends_on.is_empty() || self.next.unblocked_at.is_some() {
            return true;
        }
        if !self.next.missing_dependencies(self.view).is_empty() {
            self.give_up_waiting(self.next.started_at.unwrap_or(self.now));
            return false;
        }
        let now = self.now;
        self.next.unblocked_at = Some(now);
        self.next.begin_wave(now);
        let message = "everything that it depends on has succeeded".to_owned();
        self.next.reasons = vec![Reason::new("Running", message.clone(), now)];
        let event = self.next.note("RolloutUnblocked", ENGINE, message, None, now);
        self.actions.push(event);
        true
    }

    /// Offers the release to the next channel when this one has had it for long enough, if its devices are still good.
    fn promote(&mut self) {
        let now = self.now;
        let Some(promotion) = self.next.spec.promotion.clone() else { return };
        if self.next.promotion_due().is_none_or(|due| due > now) {
            return;
        }
        self.next.promoted_at = Some(now);
        let (good, bad) = self.next.still_good(self.view);
        let version = &self.next.to.version;
        if judge::reaches(bad, good + bad, self.next.spec.failure_threshold) {
            let message = format!(
                "{version} is not offered to channel {}: {bad} of {} devices fail by now",
                promotion.to,
                good + bad
            );
            let event = self.next.note("PromotionWithheld", ENGINE, message, None, now);
            self.actions.push(event);
            return;
        }
        let message = format!("{version} is offered to channel {}", promotion.to);
        let event = self.next.note("RolloutPromoted", ENGINE, message, None, now);
        self.actions.push(event);
        self.actions.push(Action::Promote { channel: promotion.to, mode: promotion.mode });
    }

    /// Devices that came into the channel after the start go to the end of the last wave.
    fn join_late(&mut self) {
        let Some(last) = self.next.waves.len().checked_sub(1) else { return };
        let wave = u32::try_from(last).unwrap_or(u32::MAX);
        // Both are in the order of ids: one pass finds who is missing.
        let mut members = self.next.members.keys().copied().peekable();
        let new: Vec<DeviceId> = self
            .view
            .eligible()
            .filter(|device| {
                while members.next_if(|member| member < device).is_some() {}
                members.peek() != Some(device)
            })
            .collect();
        if new.is_empty() {
            return;
        }
        let first = self.next.size();
        for (rank, device) in (first..).zip(in_order(self.next.id, new)) {
            let mut member = Member::new(rank, wave, true, self.now);
            member.came = Some(self.now);
            self.next.members.insert(device, member);
        }
    }

    fn observe(&mut self) {
        let failed = observe::forward(&mut self.next, self.view, self.now);
        self.tell_of_failures(failed);
    }

    pub(super) fn tell_of_failures(&mut self, failed: Vec<DeviceId>) {
        for device in failed {
            let Some(failure) = self.next.member(device).and_then(Member::failure) else { continue };
            let message = format!("{}: {}", self.name_of(device), failure.reason);
            let detail = json!({"device": device, "kind": failure.kind.word()});
            self.actions.push(Action::Event { kind: "RolloutDeviceFailed", message, detail });
        }
    }

    pub(super) fn name_of(&self, device: DeviceId) -> String {
        self.view.get(device).map_or_else(|| device.to_string(), |device| device.name.to_string())
    }

    /// Nobody decided in time: it ends, and devices keep what they have.
    pub(super) fn give_up_waiting(&mut self, since: UnixMs) {
        let limit = self.next.spec.operator_timeout_seconds;
        if self.now.since_ms(since) >= i64::from(limit) * SECOND_MS {
            let message = format!("aborted: nobody decided for {limit} s; devices keep what they have");
            let actions = self.next.finish(Phase::Aborted, "RolloutAborted", ENGINE, message, None, self.now);
            self.actions.extend(actions);
        }
    }

    /// Says what has changed in what devices should have.
    fn tell(&mut self) {
        let any_time = self.next.may_tell_any_time();
        let mut changes = Vec::new();
        let forward = matches!(self.next.phase, Phase::Running | Phase::Paused);
        for (device, member) in &self.next.members {
            // Most members, most of the time: they are told what they were told before, whatever they run.
            if forward && member.told == Told::New && member.progress.keeps_the_new() {
                continue;
            }
            let known = self.view.get(*device);
            let active = known.and_then(|device| device.app.active);
            let may_stage =
                any_time || known.is_some_and(|known| self.hours.is_open(Purpose::Download, known));
            let (told, _) = self.next.tells(member, active, may_stage);
            if told != member.told {
                changes.push((*device, told));
            }
        }
        for (device, told) in changes {
            if let Some(member) = self.next.members.get_mut(&device) {
                member.told = told;
                // The time to stage counts from when it could begin.
                if told == Told::New && !any_time && matches!(member.progress, Progress::Waiting { .. }) {
                    member.progress = Progress::Waiting { since: self.now };
                }
            }
            let (release, forward) = match told {
                Told::Old => (self.next.from.as_ref().map(|from| from.uid), false),
                Told::New => (Some(self.next.to.uid), true),
                Told::Released => (None, false),
            };
            self.actions.push(Action::Assign { device, release, forward });
        }
    }
}
