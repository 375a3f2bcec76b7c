//! Permits: who may change now, within the budget, on the way forward and on the way back.

use super::decide::{Action, ENGINE, Step};
use super::member::{Member, Progress};
use super::observe;
use super::state::{Phase, count};
use crate::device::AppPhase;
use crate::time::{SECOND_MS, UnixMs};

/// How long a device of a running wave is given to stage before it gets its permit anyway: a permit should not be spent on a download.
pub(super) const STAGING_GRACE_MS: i64 = 15 * SECOND_MS;

impl Step<'_> {
    /// How many more devices may be taken down: the budget less those in flight and those that something else keeps down.
    pub(super) fn free_places(&self) -> u32 {
        self.next.budget().saturating_sub(self.taken_places())
    }

    fn taken_places(&self) -> u32 {
        let now = self.now;
        let elsewhere = self.next.members.iter().filter(|(device, member)| {
            !member.progress.is_in_flight() && self.view.get(**device).is_some_and(|d| d.is_busy(now))
        });
        self.next.in_flight().saturating_add(count(elsewhere))
    }

    /// Permits for the wave that runs, as long as no more than `limit` devices are in flight.
    pub(super) fn permit_forward(&mut self, limit: u32) {
        let now = self.now;
        self.renew(true);
        let current = self.next.current;
        let begun = self.next.waves.get(current as usize).and_then(|wave| wave.started_at);
        let mut ready = Vec::new();
        for (device, member) in &self.next.members {
            let Progress::Waiting { since } = member.progress else { continue };
            let Some(known) = self.view.get(*device) else { continue };
            if member.wave != current || !known.is_online() || known.is_busy(now) || !member.may_try(now) {
                continue;
            }
            let staged = known.app.phase == AppPhase::Staged;
            let waited = now.since_ms(begun.unwrap_or(since).max(since)) >= STAGING_GRACE_MS;
            if staged || (waited && known.app.phase != AppPhase::Downloading) {
                ready.push((!staged, member.rank, *device));
            }
        }
        ready.sort_unstable();
        let places = self.free_places().min(limit.saturating_sub(self.next.in_flight())) as usize;
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
    pub(super) fn go_back(&mut self) {
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
        if let Some(wave) = self.next.wave_back
            && self.next.ends_as.is_none()
        {
            self.end_wave_back(wave);
            return;
        }
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
}
