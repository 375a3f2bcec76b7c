//! Permits: who may change now, within the budgets and inside the windows, on the way forward and on the way back.

use super::decide::{Action, ENGINE, Step};
use super::hours::is_urgent;
use super::ledger::{self, Ledger};
use super::member::{Member, Progress, Told};
use super::observe;
use super::state::{Phase, count};
use super::view::DeviceView;
use crate::device::AppPhase;
use crate::id::DeviceId;
use crate::schedule::{Look, Purpose};
use crate::time::{SECOND_MS, UnixMs};

/// How long a device of a running wave is given to stage before it gets its permit anyway: a permit should not be spent on a download.
pub(super) const STAGING_GRACE_MS: i64 = 15 * SECOND_MS;

impl<'a> Step<'a> {
    /// Issues permits to members of the wave that runs, so that at most `limit` are in flight.
    pub(super) fn permit_forward(&mut self, limit: u32) {
        let now = self.now;
        let mut ledger = Ledger::of(&self.next, self.view, now);
        self.renew(true, &mut ledger);
        if ledger.is_full() || ledger.in_flight() >= limit {
            return;
        }
        let mut ready = self.ready();
        ready.sort_unstable();
        for (_, _, device) in ready {
            if ledger.in_flight() >= limit {
                break;
            }
            let Some(known) = self.view.get(device).filter(|known| ledger.admits(known, now)) else {
                continue;
            };
            let Some(expires_at) = self.hours.permit_end(known) else { continue };
            let permit = (self.permits)();
            let Some(member) = self.next.members.get_mut(&device) else { continue };
            member.touched = true;
            member.progress =
                Progress::Updating { permit: Some(permit), since: now, expires_at, revoked: false };
            ledger.take(known, now);
            let release = Some(self.next.to.uid);
            self.actions.push(Action::Permit { device, release, permit, expires_at, forward: true });
        }
    }

    /// Members of the wave that runs who could use a permit now: those that have staged first, then by rank.
    fn ready(&self) -> Vec<(bool, u32, DeviceId)> {
        let now = self.now;
        let current = self.next.current;
        let Some(wave) = self.next.waves.get(current as usize) else { return Vec::new() };
        let begun = wave.started_at;
        let any_time = self.next.may_tell_any_time();
        let mut ready = Vec::new();
        for (device, member) in &self.next.members {
            let Progress::Waiting { since } = member.progress else { continue };
            if member.wave != current || wave.is_too_late(member) {
                continue;
            }
            let Some(known) = self.view.get(*device) else { continue };
            if !known.is_online() || known.is_busy(now) || !member.may_try(now) {
                continue;
            }
            let staged = known.app.phase == AppPhase::Staged;
            let told = any_time || member.told == Told::New;
            let waited = now.since_ms(begun.unwrap_or(since).max(since)) >= STAGING_GRACE_MS;
            if told && (staged || (waited && known.app.phase != AppPhase::Downloading)) {
                ready.push((!staged, member.rank, *device));
            }
        }
        ready
    }

    /// When a permit for this member expires if it is issued now; none when its windows are shut. What is broken goes back at any hour.
    fn expiry(&mut self, member: &Member, known: &'a DeviceView, forward: bool) -> Option<UnixMs> {
        if !forward && is_urgent(member, known, &self.next) {
            return Some(self.now.plus_ms(i64::from(self.next.spec.permit_seconds) * SECOND_MS));
        }
        self.hours.permit_end(known)
    }

    /// Reachable devices whose permit ran out before they could use it get another one in the same place, until their time is over.
    fn renew(&mut self, forward: bool, ledger: &mut Ledger<'_>) {
        let now = self.now;
        let timeout_ms = i64::from(self.next.spec.device_timeout_seconds) * SECOND_MS;
        let target =
            if forward { Some(self.next.to.uid) } else { self.next.from.as_ref().map(|from| from.uid) };
        let mut expired = Vec::new();
        for (device, member) in &self.next.members {
            let (Progress::Updating { since, expires_at, revoked, .. }
            | Progress::RollingBack { since, expires_at, revoked, .. }) = member.progress
            else {
                continue;
            };
            if !revoked && expires_at <= now && now.since_ms(since) < timeout_ms {
                expired.push((*device, since));
            }
        }
        for (device, since) in expired {
            let waits = self.view.get(device).filter(|d| d.is_online() && d.app.active != target);
            let (Some(known), Some(member)) = (waits, self.next.members.get(&device).cloned()) else {
                continue;
            };
            // Who goes back in the middle of the new release keeps its place and its time, or it would begin anew for ever.
            let tries = !forward && known.is_trying(self.next.to.uid);
            let expires_at =
                self.expiry(&member, known, forward).filter(|_| tries || !ledger.is_over(known, now));
            let progress = match expires_at {
                None => {
                    if tries {
                        ledger.wait_in_place(known);
                    } else {
                        ledger.give_back(known, now);
                    }
                    if forward {
                        Progress::Waiting { since: now }
                    } else {
                        Progress::RollbackDue { since: now }
                    }
                }
                Some(expires_at) => {
                    let permit = (self.permits)();
                    self.actions.push(Action::Permit {
                        device,
                        release: target,
                        permit,
                        expires_at,
                        forward,
                    });
                    if forward {
                        Progress::Updating { permit: Some(permit), since, expires_at, revoked: false }
                    } else {
                        Progress::RollingBack { permit, since, expires_at, revoked: false }
                    }
                }
            };
            if let Some(member) = self.next.members.get_mut(&device) {
                member.progress = progress;
            }
        }
    }

    /// Brings touched devices back within the budgets, and ends when everybody who can be reached is back.
    pub(super) fn go_back(&mut self) {
        let now = self.now;
        let failed = observe::back(&mut self.next, self.view, now);
        self.tell_of_failures(failed);
        let mut ledger = Ledger::of(&self.next, self.view, now);
        self.give_up_on_the_blocked(&ledger);
        self.renew(false, &mut ledger);
        let mut due = Vec::new();
        for (device, member) in &self.next.members {
            if !matches!(member.progress, Progress::RollbackDue { .. }) {
                continue;
            }
            let may = |known: &&DeviceView| known.is_online() && !known.is_busy(now) && known.may_change();
            let Some(known) = self.view.get(*device).filter(may) else { continue };
            // Who is down already goes first, then what is broken: it has the least to lose.
            let tries = ledger::tries(&self.next, member, known);
            due.push((!tries, member.failure.is_none(), member.rank, *device));
        }
        due.sort_unstable();
        let release = self.next.from.as_ref().map(|from| from.uid);
        for (settled, _, _, device) in due {
            if settled && ledger.is_full() {
                break;
            }
            let admits = |known: &&DeviceView| ledger.admits_back(known, !settled, now);
            let Some(known) = self.view.get(device).filter(admits) else { continue };
            let Some(member) = self.next.members.get(&device).cloned() else { continue };
            let Some(expires_at) = self.expiry(&member, known, false) else { continue };
            let permit = (self.permits)();
            let Some(member) = self.next.members.get_mut(&device) else { continue };
            member.progress = Progress::RollingBack { permit, since: now, expires_at, revoked: false };
            ledger.take_back(known, !settled, now);
            self.actions.push(Action::Permit { device, release, permit, expires_at, forward: false });
        }
        let under_way = |member: &Member| {
            matches!(member.progress, Progress::RollbackDue { .. }) || member.progress.is_in_flight()
        };
        if !self.next.members.values().any(under_way) {
            self.end_rollback();
        }
    }

    /// When nothing has moved for the operator's time limit, whoever no budget and no window lets go back is given up: somebody has to look.
    fn give_up_on_the_blocked(&mut self, ledger: &Ledger<'_>) {
        let now = self.now;
        let limit_ms = i64::from(self.next.spec.operator_timeout_seconds) * SECOND_MS;
        if ledger.in_flight() > 0 {
            return;
        }
        let mut given_up = Vec::new();
        for (device, member) in &self.next.members {
            let Progress::RollbackDue { since } = member.progress else { continue };
            let Some(known) = self.view.get(*device).filter(|_| now.since_ms(since) >= limit_ms) else {
                continue;
            };
            let look = self.hours.look(Purpose::Install, known);
            if ledger::tries(&self.next, member, known) {
                continue;
            }
            if let Some(blocked) = ledger.blocks(known, now) {
                given_up.push((*device, format!("{blocked} has had no place for it to go back")));
            } else if matches!(look, Look::Shut { next: None, .. }) && !is_urgent(member, known, &self.next) {
                given_up.push((*device, "no window opens for it to go back within a year".to_owned()));
            }
        }
        for (device, reason) in given_up {
            if let Some(member) = self.next.members.get_mut(&device) {
                member.progress = Progress::RollbackFailed { at: now, reason };
            }
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
