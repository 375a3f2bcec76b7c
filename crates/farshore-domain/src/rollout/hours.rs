//! The windows of one decision: each zone is looked up once.

use std::collections::BTreeMap;

use super::decide::Step;
use super::member::{Member, Progress, Told};
use super::spec::RolloutSpec;
use super::state::{Phase, Rollout};
use super::view::{DeviceView, FleetView};
use crate::name::Name;
use crate::policy::DeviceHours;
use crate::schedule::{Calendar, Look, Purpose, Shut, WindowKind, Zone};
use crate::time::{SECOND_MS, UnixMs};

/// What the windows of a rollout say at one moment.
#[derive(Debug)]
pub(super) struct Hours<'a> {
    /// None where the stored windows can't be read: shut, for what can't be checked must not happen.
    calendar: Option<Calendar>,
    now: UnixMs,
    horizon: UnixMs,
    install: BTreeMap<Place<'a>, Seen<'a>>,
    download: BTreeMap<Place<'a>, Seen<'a>>,
}

/// Where a device is and which windows its policies have (their address: devices with the same policies share them).
type Place<'a> = (Option<&'a str>, Option<usize>);
/// What the windows say, and the policy that keeps them shut; none where it is the rollout itself.
type Seen<'a> = (Look, Option<&'a Name>);

impl<'a> Hours<'a> {
    pub(super) fn of(spec: &RolloutSpec, now: UnixMs) -> Self {
        Self {
            calendar: Calendar::new(&spec.windows, &spec.blackouts, spec.energy).ok(),
            now,
            horizon: now.plus_ms(i64::from(spec.permit_seconds) * SECOND_MS),
            install: BTreeMap::new(),
            download: BTreeMap::new(),
        }
    }

    /// Whether the windows of the rollout itself are never shut.
    fn always(&self, purpose: Purpose) -> bool {
        self.calendar.as_ref().is_some_and(|calendar| calendar.is_always_open(purpose))
    }

    pub(super) fn look(&mut self, purpose: Purpose, device: &'a DeviceView) -> Look {
        self.look_with_policy(purpose, device).0
    }

    /// What the rollout's own windows and those of the device's policies say together: open where both are.
    pub(super) fn look_with_policy(&mut self, purpose: Purpose, device: &'a DeviceView) -> Seen<'a> {
        let policy = device.hours.as_deref();
        if policy.is_none() && self.always(purpose) {
            return (Look::Open { until: self.horizon }, None);
        }
        let unreadable = Look::Shut { next: None, by: Shut::Window(WindowKind::Maintenance) };
        let Some(calendar) = &self.calendar else { return (unreadable, None) };
        let zone = device.time_zone.as_deref();
        let place = (zone, policy.map(|policy| std::ptr::from_ref(policy).addr()));
        let (now, horizon) = (self.now, self.horizon);
        let looks = if purpose == Purpose::Install { &mut self.install } else { &mut self.download };
        *looks.entry(place).or_insert_with(|| {
            let mut calendars = vec![calendar];
            match policy.map(DeviceHours::calendar) {
                Some(None) => return (unreadable, None),
                Some(Some(theirs)) => calendars.push(theirs),
                None => {}
            }
            let zone = Zone::of_device(zone);
            let (look, shut_by) = Calendar::look_at_all(&calendars, purpose, &zone, now, horizon);
            let whose = match look {
                Look::Shut { by, .. } if shut_by > 0 => policy.and_then(|policy| policy.whose(by)),
                _ => None,
            };
            (look, whose)
        })
    }

    pub(super) fn is_open(&mut self, purpose: Purpose, device: &'a DeviceView) -> bool {
        matches!(self.look(purpose, device), Look::Open { .. })
    }

    /// When a permit that is issued to this device now expires at the latest; none outside its windows.
    pub(super) fn permit_end(&mut self, device: &'a DeviceView) -> Option<UnixMs> {
        match self.look(Purpose::Install, device) {
            Look::Open { until } => Some(until.min(self.horizon)),
            Look::Shut { .. } => None,
        }
    }
}

/// Whether a device may go back at any hour: what is broken is not left broken until its window opens.
pub(super) fn is_urgent(member: &Member, device: &DeviceView, rollout: &Rollout) -> bool {
    member.failure.is_some() || !device.has_committed(rollout.to.uid)
}

/// What a member waits for that windows could keep from it.
pub(super) fn wants(rollout: &Rollout, member: &Member, device: &DeviceView) -> Option<Purpose> {
    match (rollout.phase, &member.progress) {
        (Phase::Running, Progress::Waiting { .. }) => {
            let staging = member.told != Told::New && device.app.active != Some(rollout.to.uid);
            if staging && !rollout.may_tell_any_time() && member.wave <= rollout.current.saturating_add(1) {
                Some(Purpose::Download)
            } else {
                (member.wave == rollout.current).then_some(Purpose::Install)
            }
        }
        (Phase::RollingBack, Progress::RollbackDue { .. }) => {
            (!is_urgent(member, device, rollout)).then_some(Purpose::Install)
        }
        _ => None,
    }
}

impl Rollout {
    /// Whether downloads begin at any time.
    pub(super) fn may_tell_any_time(&self) -> bool {
        !self.policy_downloads && !self.spec.windows.iter().any(|window| window.kind == WindowKind::Download)
    }

    pub(super) fn has_windows(&self) -> bool {
        !self.spec.windows.is_empty()
            || !self.spec.blackouts.is_empty()
            || !self.spec.energy.is_any()
            || self.policy_hours
    }

    /// Remembers whether the policies of any device say when.
    pub(super) fn see_policies(&mut self, view: &FleetView) {
        let hours = || view.iter().filter_map(|device| device.hours.as_deref());
        let shuts = |hours: &DeviceHours| {
            hours.calendar().is_none_or(|calendar| !calendar.is_always_open(Purpose::Download))
        };
        self.policy_hours = hours().next().is_some();
        self.policy_downloads = hours().any(shuts);
    }
}

impl Step<'_> {
    /// When the next window opens for somebody who waits for one; none when nobody does, or none opens within a year.
    pub(super) fn opening(&mut self) -> Option<UnixMs> {
        if !self.next.has_windows() {
            return None;
        }
        let mut opens = None::<UnixMs>;
        for (device, member) in &self.next.members {
            let Some(known) = self.view.get(*device) else { continue };
            let Some(purpose) = wants(&self.next, member, known) else { continue };
            if let Look::Shut { next, .. } = self.hours.look(purpose, known) {
                opens = opens.into_iter().chain(next).min();
            }
        }
        opens
    }

    /// While windows keep every open member of the wave from changing, the gate's time stands still.
    pub(super) fn hold_gate(&mut self) {
        if self.next.phase != Phase::Running || !self.next.has_windows() {
            return;
        }
        let current = self.next.current;
        let mut opens = None::<UnixMs>;
        for (device, member) in self.next.members.iter().filter(|(_, member)| member.wave == current) {
            if member.progress.is_in_flight() {
                return;
            }
            let Some(known) =
                self.view.get(*device).filter(|known| known.is_online() && !known.is_busy(self.now))
            else {
                continue;
            };
            let Some(purpose) = wants(&self.next, member, known) else { continue };
            match self.hours.look(purpose, known) {
                Look::Open { .. } => return,
                Look::Shut { next, .. } => opens = opens.into_iter().chain(next).min(),
            }
        }
        let now = self.now;
        if let Some(opens) = opens
            && let Some(wave) = self.next.current_mut()
        {
            // Only the time that is shut is added, so that a gate which waits for something else as well still has its deadline.
            let counted = wave.held_until.unwrap_or(now).max(now);
            let news = wave.news_at.unwrap_or(now);
            if opens > counted {
                wave.news_at = Some(news.plus_ms(opens.since_ms(counted)));
                wave.held_until = Some(opens);
            }
        }
    }
}
