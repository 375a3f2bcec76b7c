//! From what devices report to where each of them stands. The outcome that was reported comes first, reachability second, time last.

use super::member::{Exclusion, Failure, FailureKind, Member, Progress, penalty_ms};
use super::spec::OfflinePolicy;
use super::state::Rollout;
use super::view::{DeviceView, FleetView};
use crate::device::{AppPhase, Lifecycle};
use crate::id::{DeviceId, ReleaseId};
use crate::time::{SECOND_MS, UnixMs};

/// What is the same for all members in one step.
struct Terms {
    from: Option<ReleaseId>,
    to: ReleaseId,
    current: u32,
    device_timeout_ms: i64,
    now: UnixMs,
}

impl Terms {
    fn of(rollout: &Rollout, now: UnixMs) -> Self {
        Self {
            from: rollout.from.as_ref().map(|from| from.uid),
            to: rollout.to.uid,
            current: rollout.current,
            device_timeout_ms: i64::from(rollout.spec.device_timeout_seconds) * SECOND_MS,
            now,
        }
    }

    /// Whether the device's time is over and it was heard since: silence alone, or a clock that jumped, is no failure.
    fn is_over(&self, since: UnixMs, device: &DeviceView) -> bool {
        let end = since.plus_ms(self.device_timeout_ms);
        self.now >= end && device.last_seen.max(device.app.reported_at).is_some_and(|heard| heard >= end)
    }
}

/// Reads the view into the members of a rollout that goes forward or is paused. Returns the devices that failed now.
pub(super) fn forward(rollout: &mut Rollout, view: &FleetView, now: UnixMs) -> Vec<DeviceId> {
    let terms = Terms::of(rollout, now);
    let mut failed = Vec::new();
    let mut news = false;
    for (id, member) in &mut rollout.members {
        let before = std::mem::discriminant(&member.progress);
        step_forward(member, view.get(*id), &terms);
        if std::mem::discriminant(&member.progress) != before {
            match member.progress {
                Progress::Failed { .. } => {
                    failed.push(*id);
                    news |= member.wave == terms.current;
                }
                Progress::Updated { .. } => news |= member.wave == terms.current,
                _ => {}
            }
        }
    }
    skip(rollout, now);
    if news && let Some(wave) = rollout.current_mut() {
        wave.news_at = Some(now);
    }
    failed
}

/// Leaves out for good who was away for too long.
fn skip(rollout: &mut Rollout, now: UnixMs) {
    if rollout.spec.offline.policy != OfflinePolicy::Skip {
        return;
    }
    let over = |member: &Member| rollout.skips_at(member).is_some_and(|end| end <= now);
    let devices: Vec<_> =
        rollout.members.iter().filter(|(_, member)| over(member)).map(|(id, _)| *id).collect();
    for device in devices {
        if let Some(member) = rollout.members.get_mut(&device) {
            member.progress = Progress::Excluded { since: now, why: Exclusion::Skipped };
        }
    }
}

/// Reads the view into the members of a rollout that goes back.
/// Returns the devices that failed now.
pub(super) fn back(rollout: &mut Rollout, view: &FleetView, now: UnixMs) -> Vec<DeviceId> {
    let terms = Terms::of(rollout, now);
    let alone = rollout.wave_back;
    let mut failed = Vec::new();
    for (id, member) in &mut rollout.members {
        let before = member.failures;
        if alone.is_none_or(|wave| member.wave == wave) {
            step_back(member, view.get(*id), &terms);
        } else {
            step_forward(member, view.get(*id), &terms);
        }
        if member.failures > before {
            failed.push(*id);
        }
    }
    failed
}

/// Members that their wave left behind are judged with the wave that runs now.
pub(super) fn carry(rollout: &mut Rollout) {
    let current = rollout.current;
    for member in rollout.members.values_mut() {
        carry_one(member, current);
    }
}

fn carry_one(member: &mut Member, current: u32) {
    let undecided = matches!(
        member.progress,
        Progress::Waiting { .. } | Progress::Updating { .. } | Progress::Unreachable { .. }
    );
    if undecided && member.wave < current {
        member.wave = current;
    }
}

/// Whether a device that was taken from the rollout in the middle of the new release is still at it. It hears of no permit to go back, and
/// its place is nobody else's until it has reported or its time is over.
fn is_at_it(device: &DeviceView, member: &Member, since: UnixMs, terms: &Terms) -> bool {
    device.is_trying(terms.to)
        && exclusion(device, member, terms.to).is_some()
        && terms.now < since.plus_ms(terms.device_timeout_ms)
}

/// Why a device is not the rollout's to change now.
fn exclusion(device: &DeviceView, member: &Member, to: ReleaseId) -> Option<Exclusion> {
    if device.lifecycle != Lifecycle::Claimed {
        return Some(Exclusion::Cordoned);
    }
    if device.pinned {
        return Some(Exclusion::Pinned);
    }
    if device.is_unable(to) {
        return Some(Exclusion::Incapable);
    }
    let failed_before = device.app.failed_release == Some(to) && device.app.active != Some(to);
    (failed_before && !member.touched).then_some(Exclusion::Held)
}

fn fail(member: &mut Member, kind: FailureKind, reason: String, device: &DeviceView, now: UnixMs) {
    member.failure = Some(Box::new(Failure::new(now, kind, reason, device.app.resumed)));
    member.failures = member.failures.saturating_add(1);
    member.progress = Progress::Failed { at: now };
}

fn said(device: &DeviceView, otherwise: &str) -> String {
    device.app.reason.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| otherwise.to_owned())
}

fn step_forward(member: &mut Member, device: Option<&DeviceView>, terms: &Terms) {
    let Some(device) = device else {
        leave(member, terms.now);
        return;
    };
    if !read_outcome(member, device, terms) {
        match member.progress {
            Progress::Waiting { .. } | Progress::Unreachable { .. } | Progress::Excluded { .. } => {
                stand(member, device, terms);
            }
            Progress::Updating { .. } => fly(member, device, terms),
            _ => {}
        }
    }
    carry_one(member, terms.current);
}

/// The device is no longer in the channel or placed.
fn leave(member: &mut Member, now: UnixMs) {
    let gone = match member.progress {
        Progress::Waiting { .. } | Progress::Unreachable { .. } | Progress::RollbackDue { .. } => true,
        Progress::Excluded { why, .. } => !matches!(why, Exclusion::Left | Exclusion::Skipped),
        Progress::Updating { expires_at, .. } | Progress::RollingBack { expires_at, .. } => expires_at <= now,
        _ => false,
    };
    if gone {
        member.progress = Progress::Excluded { since: now, why: Exclusion::Left };
    }
}

/// Whether the report decides.
fn read_outcome(member: &mut Member, device: &DeviceView, terms: &Terms) -> bool {
    let app = &device.app;
    let (now, to) = (terms.now, terms.to);
    let has_new = app.active == Some(to);
    let went_back = app.failed_release == Some(to) && !has_new;
    match member.progress {
        Progress::Updated { .. } => {
            if went_back || (has_new && app.phase == AppPhase::Failing) {
                let reason = said(device, "its checks fail after it had committed");
                fail(member, FailureKind::WentBad, reason, device, now);
            }
            true
        }
        Progress::Failed { .. } => {
            let Some(failure) = &member.failure else { return true };
            let late = matches!(failure.kind, FailureKind::Stuck | FailureKind::Refused);
            let resumed =
                app.resumed > failure.resumed && !has_new && !went_back && app.refused_release != Some(to);
            if late && device.has_committed(to) {
                member.failure = None;
                member.touched = true;
                member.progress = Progress::Updated { at: now };
            } else if resumed {
                // Somebody let it try again: through the same gate, with a new permit, and after its penalty.
                let wait = if failure.forgiven { 0 } else { penalty_ms(member.failures) };
                member.not_before = (wait > 0).then(|| now.plus_ms(wait));
                member.failure = None;
                member.came = None;
                member.progress = Progress::Waiting { since: now };
            }
            !resumed
        }
        // Its wave went back alone: it stays so until somebody decides.
        Progress::RollbackDue { .. }
        | Progress::RollingBack { .. }
        | Progress::RolledBack { .. }
        | Progress::RollbackFailed { .. } => true,
        Progress::Excluded { why: Exclusion::Skipped, .. } => false,
        _ if !member.touched && exclusion(device, member, to).is_some() => false,
        _ if device.has_committed(to) => {
            member.touched = true;
            member.progress = Progress::Updated { at: now };
            true
        }
        _ if app.refused_release == Some(to) && !has_new => {
            let reason = said(device, "it refuses or does not support the release");
            fail(member, FailureKind::Refused, reason, device, now);
            true
        }
        _ if (went_back && member.touched) || (has_new && app.phase == AppPhase::Failing) => {
            member.touched = true;
            let reason = said(device, "it did not get healthy and went back by itself");
            fail(member, FailureKind::Reported, reason, device, now);
            true
        }
        _ => false,
    }
}

/// A member that has no permit.
fn stand(member: &mut Member, device: &DeviceView, terms: &Terms) {
    let now = terms.now;
    if matches!(member.progress, Progress::Excluded { why: Exclusion::Skipped, .. }) {
        return;
    }
    if let Some(why) = exclusion(device, member, terms.to) {
        let same = matches!(member.progress, Progress::Excluded { why: before, .. } if before == why);
        if !same {
            member.progress = Progress::Excluded { since: now, why };
        }
    } else if device.is_away(now) {
        if !matches!(member.progress, Progress::Unreachable { .. }) {
            member.progress = Progress::Unreachable { since: now };
        }
    } else if device.app.active == Some(terms.to) {
        // It came back in the middle of it: its place is taken until it reports.
        member.touched = true;
        member.progress = Progress::Updating { permit: None, since: now, expires_at: now, revoked: false };
    } else if matches!(member.progress, Progress::Waiting { .. })
        || (matches!(member.progress, Progress::Unreachable { .. }) && !device.is_online())
    {
    } else {
        member.came = Some(now);
        member.progress = Progress::Waiting { since: now };
    }
}

/// A member in flight that has not reported the outcome.
fn fly(member: &mut Member, device: &DeviceView, terms: &Terms) {
    let Progress::Updating { since, expires_at, revoked, .. } = member.progress else { return };
    let now = terms.now;
    let expired = expires_at <= now;
    let moving = device.app.active == Some(terms.to);
    if device.is_away(now) {
        if expired {
            member.progress = Progress::Unreachable { since: now };
            stand(member, device, terms);
        }
        return;
    }
    if !device.is_online() || !(moving || expired) {
        return;
    }
    let excluded = exclusion(device, member, terms.to);
    let downloading = device.app.phase == AppPhase::Downloading;
    // A permit that was renewed late is used in its own time: nobody else may have the place until it is over.
    if expired && terms.is_over(since, device) && (moving || !downloading) {
        if let Some(why) = excluded {
            member.progress = Progress::Excluded { since: now, why };
        } else {
            let seconds = terms.device_timeout_ms / SECOND_MS;
            let reason =
                format!("stuck: reachable, and not done {seconds} s after its permit ({})", device.app.phase);
            fail(member, FailureKind::Stuck, reason, device, now);
        }
    } else if !moving && (revoked || downloading || excluded.is_some()) {
        member.progress = Progress::Waiting { since: now };
        stand(member, device, terms);
    }
}

/// Whether the old release is active again; without an old release, whether the app is gone.
fn has_gone_back(device: &DeviceView, from: Option<ReleaseId>) -> bool {
    let app = &device.app;
    match from {
        None => app.active.is_none(),
        Some(from) => {
            let settled = matches!(
                app.phase,
                AppPhase::Held | AppPhase::RollingBack | AppPhase::Running | AppPhase::Staged
            );
            app.active == Some(from) && (app.committed || settled)
        }
    }
}

fn step_back(member: &mut Member, device: Option<&DeviceView>, terms: &Terms) {
    let Some(device) = device else {
        leave(member, terms.now);
        return;
    };
    let (now, to) = (terms.now, terms.to);
    let has_new = device.app.active == Some(to);
    let online = device.is_online();
    let away = device.is_away(now);
    match member.progress {
        Progress::Waiting { .. } if has_new => due(member, now),
        Progress::Unreachable { .. } if online && (member.touched || has_new) => due(member, now),
        Progress::Unreachable { .. } if online => member.progress = Progress::Waiting { since: now },
        Progress::Excluded { why: Exclusion::Skipped, .. } if !has_new => {}
        Progress::Excluded { .. } if exclusion(device, member, to).is_none() => {
            if member.touched || has_new {
                due(member, now);
            } else {
                member.progress = Progress::Waiting { since: now };
            }
        }
        Progress::Updating { since, expires_at, .. } => {
            let expired = expires_at <= now;
            if device.app.failed_release == Some(to) && !has_new {
                let reason = said(device, "it did not get healthy and went back by itself");
                fail(member, FailureKind::Reported, reason, device, now);
                due(member, now);
            } else if expired && away {
                member.progress = Progress::Unreachable { since: now };
            } else if online && (expired || has_new) && !is_at_it(device, member, since, terms) {
                due(member, now);
            }
        }
        Progress::RollingBack { since, expires_at, .. } => {
            let expired = expires_at <= now;
            let refuses = terms.from.is_some_and(|from| {
                device.app.refused_release == Some(from)
                    || (device.app.failed_release == Some(from) && device.app.active != Some(from))
            });
            if has_gone_back(device, terms.from) {
                member.progress = Progress::RolledBack { at: now };
            } else if refuses {
                let reason = said(device, "it can't run the old release");
                member.progress = Progress::RollbackFailed { at: now, reason };
            } else if let Some(why) = exclusion(device, member, to).filter(|_| expired) {
                // It hears of no permit: what it runs is its own affair until that is over.
                member.progress = Progress::Excluded { since: now, why };
            } else if expired && away {
                member.progress = Progress::Unreachable { since: now };
            } else if expired && terms.is_over(since, device) {
                let seconds = terms.device_timeout_ms / SECOND_MS;
                let reason = format!(
                    "stuck: reachable, and not back {seconds} s after its permit ({})",
                    device.app.phase
                );
                member.progress = Progress::RollbackFailed { at: now, reason };
            }
        }
        _ => {}
    }
    if let Progress::RollbackDue { since } = member.progress {
        if has_gone_back(device, terms.from) {
            member.progress = Progress::RolledBack { at: now };
        } else if let Some(why) = exclusion(device, member, to) {
            if !is_at_it(device, member, since, terms) {
                member.progress = Progress::Excluded { since: now, why };
            }
        } else if away {
            member.progress = Progress::Unreachable { since: now };
        }
    }
}

fn due(member: &mut Member, now: UnixMs) {
    member.touched = true;
    member.progress = Progress::RollbackDue { since: now };
}
