//! The decision: `(rollout, view, now) -> (next rollout, actions)`.

use serde::Serialize;
use serde_json::json;

use super::judge::{self, Tally};
use super::member::{Member, Progress, Told};
use super::observe;
use super::spec::OnFailure;
use super::state::{PauseReason, Phase, Rollout, Verdict, WaveState, count, in_order};
use super::view::FleetView;
use crate::device::AppPhase;
use crate::id::{DeviceId, PermitId, ReleaseId};
use crate::name::Name;
use crate::object::Reason;
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

/// How long a device of a running wave is given to stage before it gets its permit anyway: a permit should not be spent on a download.
pub const STAGING_GRACE_MS: i64 = 15 * SECOND_MS;
/// At most this many failed devices are named among the reasons.
const NAMED_FAILURES: usize = 5;
/// Who decides here.
const ENGINE: &str = "engine";

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
    let mut step = Step { next: rollout.clone(), view, now, permits, actions: Vec::new() };
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
        _ => {}
    }
    if step.next.phase == Phase::RollingBack {
        step.go_back();
    }
    if !step.next.phase.is_final() {
        step.tell();
    }
    Decision { next: step.next, actions: step.actions }
}

struct Step<'a> {
    next: Rollout,
    view: &'a FleetView,
    now: UnixMs,
    permits: &'a mut dyn FnMut() -> PermitId,
    actions: Vec<Action>,
}

impl Step<'_> {
    fn run(&mut self) {
        self.join_late();
        self.observe();
        loop {
            let tallies = judge::tallies(&self.next);
            if self.halt(&tallies) || !self.advance(&tallies) {
                break;
            }
        }
    }

    /// Devices that came into the channel after the start go to the end of the last wave.
    fn join_late(&mut self) {
        let Some(last) = self.next.waves.len().checked_sub(1) else { return };
        let wave = u32::try_from(last).unwrap_or(u32::MAX);
        let new: Vec<DeviceId> =
            self.view.eligible().filter(|device| !self.next.members.contains_key(device)).collect();
        let first = self.next.size();
        for (rank, device) in (first..).zip(in_order(self.next.id, new)) {
            let progress = Progress::Waiting { since: self.now };
            let member =
                Member { rank, wave, late: true, touched: false, told: Told::Old, failure: None, progress };
            self.next.members.insert(device, member);
        }
    }

    fn observe(&mut self) {
        for device in observe::forward(&mut self.next, self.view, self.now) {
            let Some(failure) = self.next.member(device).and_then(Member::failure) else { continue };
            let message = format!("{}: {}", self.name_of(device), failure.reason);
            let detail = json!({"device": device, "kind": failure.kind.word()});
            self.actions.push(Action::Event { kind: "RolloutDeviceFailed", message, detail });
        }
    }

    fn name_of(&self, device: DeviceId) -> String {
        self.view.get(device).map_or_else(|| device.to_string(), |device| device.name.to_string())
    }

    /// Halts when a wave has too many failures: the one that runs, or one that went bad after its gate.
    fn halt(&mut self, tallies: &[Tally]) -> bool {
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
            if self.next.spec.on_failure == OnFailure::Rollback && !self.next.has_nothing_to_go_back_to() {
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
    fn advance(&mut self, tallies: &[Tally]) -> bool {
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

    fn be_inconclusive(&mut self, tally: &Tally) {
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

    /// How many more devices may be taken down: the budget less those in flight and those that something else keeps down.
    fn free_places(&self) -> u32 {
        self.next.budget().saturating_sub(self.taken_places())
    }

    fn taken_places(&self) -> u32 {
        let now = self.now;
        let elsewhere = self.next.members.iter().filter(|(device, member)| {
            !member.progress.is_in_flight() && self.view.get(**device).is_some_and(|d| d.is_busy(now))
        });
        self.next.in_flight().saturating_add(count(elsewhere))
    }

    fn permit_forward(&mut self) {
        let now = self.now;
        self.renew(true);
        let current = self.next.current;
        let begun = self.next.waves.get(current as usize).and_then(|wave| wave.started_at);
        let mut ready = Vec::new();
        for (device, member) in &self.next.members {
            let Progress::Waiting { since } = member.progress else { continue };
            let Some(known) = self.view.get(*device) else { continue };
            if member.wave != current || !known.is_online() || known.is_busy(now) {
                continue;
            }
            let staged = known.app.phase == AppPhase::Staged;
            let waited = now.since_ms(begun.unwrap_or(since).max(since)) >= STAGING_GRACE_MS;
            if staged || (waited && known.app.phase != AppPhase::Downloading) {
                ready.push((!staged, member.rank, *device));
            }
        }
        ready.sort_unstable();
        let places = self.free_places() as usize;
        for (_, _, device) in ready.into_iter().take(places) {
            let permit = (self.permits)();
            let expires_at = self.expiry();
            let Some(member) = self.next.members.get_mut(&device) else { continue };
            member.touched = true;
            member.progress =
                Progress::Updating { permit: Some(permit), since: now, expires_at, revoked: false };
            let release = Some(self.next.to.uid);
            self.actions.push(Action::Permit { device, release, permit, expires_at, forward: true });
        }
    }

    fn expiry(&self) -> UnixMs {
        self.now.plus_ms(i64::from(self.next.spec.permit_seconds) * SECOND_MS)
    }

    /// Reachable devices whose permit ran out before they could use it get another one in the same place, until their time is over.
    fn renew(&mut self, forward: bool) {
        let now = self.now;
        let over_budget = self.taken_places() > self.next.budget();
        let timeout_ms = i64::from(self.next.spec.device_timeout_seconds) * SECOND_MS;
        let expires = self.expiry();
        let target =
            if forward { Some(self.next.to.uid) } else { self.next.from.as_ref().map(|from| from.uid) };
        for (device, member) in &mut self.next.members {
            let (Progress::Updating { since, expires_at, revoked, .. }
            | Progress::RollingBack { since, expires_at, revoked, .. }) = member.progress
            else {
                continue;
            };
            let waits = self.view.get(*device).is_some_and(|d| d.is_online() && d.app.active != target);
            if revoked || expires_at > now || !waits || now.since_ms(since) >= timeout_ms {
                continue;
            }
            if over_budget {
                member.progress = if forward {
                    Progress::Waiting { since: now }
                } else {
                    Progress::RollbackDue { since: now }
                };
                continue;
            }
            let permit = (self.permits)();
            member.progress = if forward {
                Progress::Updating { permit: Some(permit), since, expires_at: expires, revoked: false }
            } else {
                Progress::RollingBack { permit, since, expires_at: expires, revoked: false }
            };
            let (device, expires_at) = (*device, expires);
            self.actions.push(Action::Permit { device, release: target, permit, expires_at, forward });
        }
    }

    /// Brings touched devices back within the budget, and ends when everybody who can be reached is back.
    fn go_back(&mut self) {
        let now = self.now;
        observe::back(&mut self.next, self.view, now);
        self.renew(false);
        let mut due = Vec::new();
        for (device, member) in &self.next.members {
            let Some(known) = self.view.get(*device) else { continue };
            if matches!(member.progress, Progress::RollbackDue { .. })
                && known.is_online()
                && !known.is_busy(now)
            {
                // What is broken goes first: it has the least to lose.
                due.push((member.failure.is_none(), member.rank, *device));
            }
        }
        due.sort_unstable();
        let places = self.free_places() as usize;
        let release = self.next.from.as_ref().map(|from| from.uid);
        for (_, _, device) in due.into_iter().take(places) {
            let permit = (self.permits)();
            let expires_at = self.expiry();
            let Some(member) = self.next.members.get_mut(&device) else { continue };
            member.progress = Progress::RollingBack { permit, since: now, expires_at, revoked: false };
            self.actions.push(Action::Permit { device, release, permit, expires_at, forward: false });
        }
        let under_way = |member: &Member| {
            matches!(member.progress, Progress::RollbackDue { .. }) || member.progress.is_in_flight()
        };
        if !self.next.members.values().any(under_way) {
            self.end_rollback();
        }
    }

    fn end_rollback(&mut self) {
        let touched = |of: fn(&Progress) -> bool| {
            count(self.next.members.values().filter(|member| member.touched && of(&member.progress)))
        };
        let back = touched(|progress| matches!(progress, Progress::RolledBack { .. }));
        let away = touched(|progress| matches!(progress, Progress::Unreachable { .. }));
        let stuck = touched(|progress| matches!(progress, Progress::RollbackFailed { .. }));
        let old = match &self.next.from {
            Some(from) => format!("have {} again", from.version),
            None => "no longer have the app".to_owned(),
        };
        let mut message = format!("rolled back: {back} devices {old}");
        if away > 0 {
            message = format!("{message}; {away} could not be reached and go back when they return");
        }
        if stuck > 0 {
            message = format!("{message}; {stuck} could not go back and need a look");
        }
        let phase = self.next.ends_as.unwrap_or(Phase::Failed);
        let actions = self.next.finish(phase, "RolloutRolledBack", ENGINE, message, None, self.now);
        self.actions.extend(actions);
    }

    /// Nobody decided in time: it ends, and devices keep what they have.
    fn give_up_waiting(&mut self, since: UnixMs) {
        let limit = self.next.spec.operator_timeout_seconds;
        if self.now.since_ms(since) >= i64::from(limit) * SECOND_MS {
            let message = format!("aborted: nobody decided for {limit} s; devices keep what they have");
            let actions = self.next.finish(Phase::Aborted, "RolloutAborted", ENGINE, message, None, self.now);
            self.actions.extend(actions);
        }
    }

    /// Says what has changed in what devices should have.
    fn tell(&mut self) {
        let mut changes = Vec::new();
        for (device, member) in &self.next.members {
            let active = self.view.get(*device).and_then(|device| device.app.active);
            let (told, _) = self.next.tells(member, active);
            if told != member.told {
                changes.push((*device, told));
            }
        }
        for (device, told) in changes {
            if let Some(member) = self.next.members.get_mut(&device) {
                member.told = told;
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
