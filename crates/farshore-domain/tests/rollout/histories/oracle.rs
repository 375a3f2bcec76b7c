//! What must be true whatever the engine believes. The oracle reads only what was asked for (the specification), what devices said (the view),
//! what the engine did (its actions and what it tells people), and what devices really did. It never reads a member's state.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::desired::Permit;
use farshore_domain::device::{AppPhase, Lifecycle, Reachability};
use farshore_domain::id::{DeviceId, PermitId, ReleaseId};
use farshore_domain::rollout::{
    Action, Decision, DeviceView, FleetView, Member, PauseReason, Phase, Rollout, RolloutSpec, Wave,
    WaveState,
};
use farshore_domain::time::{SECOND_MS, UnixMs};

use super::asked::Asked;
use super::device::Activation;
use super::world::{Checked, must};

/// A permit as it was issued.
#[derive(Clone, Copy, Debug)]
struct Issued {
    device: DeviceId,
    release: Option<ReleaseId>,
    expires_at: UnixMs,
    by_driver: bool,
}

/// The permit that a device holds as far as anyone knows.
#[derive(Clone, Copy, Debug)]
struct Hold {
    permit: PermitId,
    forward: bool,
    /// When the first of a row of permits was issued.
    since: UnixMs,
    expires_at: UnixMs,
    revoked: bool,
    /// Not in place of one that ran out.
    fresh: bool,
    /// Its outcome was heard.
    settled: bool,
    /// It ran out, and nothing says that the device is in the middle of it.
    lapsed: bool,
}

/// A failure that the engine has told of.
#[derive(Clone, Copy, Debug)]
struct Failed {
    resumed: u64,
    may_recover: bool,
    acknowledged: bool,
}

#[derive(Debug)]
pub(super) struct Oracle {
    asked: Asked,
    to: ReleaseId,
    from: Option<ReleaseId>,
    /// The wave that each device was shown in at the start; late joiners have the last.
    own_wave: BTreeMap<DeviceId, u32>,
    waves: u32,
    /// How many gates have opened.
    passed: u32,
    waived: bool,
    /// The wave that runs is left behind without its reports.
    skipped: bool,
    /// Who has approved the wave that runs.
    approvals: BTreeSet<String>,
    issued: BTreeMap<PermitId, Issued>,
    holds: BTreeMap<DeviceId, Hold>,
    failed: BTreeMap<DeviceId, Failed>,
    /// When each first said that it has the new release for good.
    committed: BTreeMap<DeviceId, UnixMs>,
    touched: BTreeSet<DeviceId>,
    /// Out of reach, and not back since.
    away: BTreeSet<DeviceId>,
    went_back_at: Option<UnixMs>,
    /// Since when each can be told and judged: when it was seen first, was in reach again, or let go by what had kept it out.
    came: BTreeMap<DeviceId, UnixMs>,
    wave_began: UnixMs,
    /// When everybody of the wave that runs had an outcome, whoever came while it ran excepted.
    had_reports: Option<UnixMs>,
}

impl Oracle {
    pub(super) fn new(spec: &RolloutSpec, to: ReleaseId) -> Self {
        Self {
            asked: Asked::new(spec),
            to,
            from: None,
            own_wave: BTreeMap::new(),
            waves: 0,
            passed: 0,
            waived: false,
            skipped: false,
            approvals: BTreeSet::new(),
            issued: BTreeMap::new(),
            holds: BTreeMap::new(),
            failed: BTreeMap::new(),
            committed: BTreeMap::new(),
            touched: BTreeSet::new(),
            away: BTreeSet::new(),
            went_back_at: None,
            came: BTreeMap::new(),
            wave_began: UnixMs(0),
            had_reports: None,
        }
    }

    /// The plan as it was shown at the start: cumulative, everybody in exactly one wave.
    pub(super) fn begun(&mut self, rollout: &Rollout, view: &FleetView, now: UnixMs) -> Checked {
        self.wave_began = now;
        self.from = rollout.from().map(|from| from.uid);
        self.waves = u32::try_from(rollout.waves().len()).unwrap();
        let eligible: BTreeSet<_> = view.eligible().collect();
        let members: BTreeSet<_> = rollout.members().map(|(device, _)| device).collect();
        must(eligible == members, "the population is who may take part", || {
            format!("{eligible:?} / {members:?}")
        })?;
        for (device, member) in rollout.members() {
            self.own_wave.insert(device, member.wave());
        }
        for (index, reach) in self.asked.reaches(eligible.len()).into_iter().enumerate() {
            let within = self.own_wave.values().filter(|wave| **wave as usize <= index).count();
            must(reach.is_none_or(|reach| reach == within), "waves are cumulative", || {
                format!("wave {index} and those before it have {within} devices, asked for {reach:?}")
            })?;
        }
        Ok(())
    }

    /// The assignment driver's own permit.
    pub(super) fn driver_permits(&mut self, device: DeviceId, release: ReleaseId, permit: &Permit) {
        let issued =
            Issued { device, release: Some(release), expires_at: permit.expires_at, by_driver: true };
        self.issued.insert(permit.uid, issued);
    }

    /// An operator's verb was carried out.
    pub(super) fn said(
        &mut self,
        before: &Rollout,
        after: &Rollout,
        actions: &[Action],
        view: &FleetView,
        now: UnixMs,
    ) -> Checked {
        let resumed = before.phase() == Phase::Paused && after.phase() == Phase::Running;
        match before.pause_state().map(|pause| pause.why).filter(|_| resumed) {
            Some(PauseReason::Failures | PauseReason::SmallWave | PauseReason::Tripwire) => {
                self.went_back_at = None;
                // Who was called stuck and got done while a wave went back is failed no more.
                let has_failed =
                    |device: DeviceId| after.member(device).is_some_and(|m| m.failure().is_some());
                self.failed.retain(|device, _| has_failed(*device));
                // Who could not go back with its wave stays failed, and nothing else was said of it.
                for (device, failure) in after.members().filter_map(|(id, m)| Some((id, m.failure()?))) {
                    let known = Failed { resumed: failure.resumed, may_recover: true, acknowledged: true };
                    self.failed.entry(device).or_insert(known);
                }
                self.failed.values_mut().for_each(|failed| failed.acknowledged = true);
            }
            Some(PauseReason::Inconclusive) => self.waived = true,
            _ => {}
        }
        for action in actions {
            self.watch(action, after, view, now)?;
        }
        self.nothing_is_left_usable(after, now)
    }

    /// The engine has decided.
    pub(super) fn decided(
        &mut self,
        before: &Rollout,
        decision: &Decision,
        view: &FleetView,
        now: UnixMs,
    ) -> Checked {
        self.listen(before, view, now);
        for action in &decision.actions {
            self.watch(action, &decision.next, view, now)?;
        }
        if decision.next.phase() == Phase::Running && self.had_reports.is_none() {
            let there =
                |device: &DeviceId| self.came.get(device).is_some_and(|came| *came <= self.wave_began);
            let all = !self.unreported(self.passed, view, now).any(|device| there(&device));
            self.had_reports = all.then_some(now);
        }
        // To let a device go back that is in the middle of the new release disturbs nothing more.
        let tries = |device: DeviceId| {
            view.get(device).is_some_and(|known| {
                known.app.active == Some(self.to)
                    && !known.app.committed
                    && known.app.phase != AppPhase::Failing
            })
        };
        let fresh: Vec<_> = decision
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Permit { device, forward, .. } if *forward || !tries(*device) => Some(*device),
                _ => None,
            })
            .collect();
        if !fresh.is_empty() {
            self.budgets_hold(&fresh, view, now)?;
            self.starts_slowly(decision)?;
        }
        self.halts_when_it_must(&decision.next)?;
        self.failures_are_told(before, &decision.next, view)?;
        self.nothing_is_left_usable(&decision.next, now)
    }

    /// What devices say.
    fn listen(&mut self, before: &Rollout, view: &FleetView, now: UnixMs) {
        let last = self.waves.saturating_sub(1);
        if matches!(before.phase(), Phase::Running | Phase::Paused) {
            for device in view.eligible() {
                self.own_wave.entry(device).or_insert(last);
            }
        }
        for known in view.iter() {
            let (id, app) = (known.id, &known.app);
            if known.is_online() {
                self.away.remove(&id);
            } else if is_away(known, now) {
                self.away.insert(id);
            }
            if app.active == Some(self.to) {
                self.touched.insert(id);
            }
            if self.can_report(known, now) {
                self.came.entry(id).or_insert(now);
            } else {
                self.came.remove(&id);
            }
            let forward = matches!(before.phase(), Phase::Running | Phase::Paused);
            if let Some(failed) = self.failed.get(&id).copied().filter(|_| forward) {
                let clean = app.active != Some(self.to) && !self.went_back(known) && !self.refuses(known);
                let late = failed.may_recover && known.has_committed(self.to);
                if late || (app.resumed > failed.resumed && clean) {
                    self.failed.remove(&id);
                    self.committed.remove(&id);
                }
            }
            if known.has_committed(self.to) {
                self.committed.entry(id).or_insert(now);
            }
            let outcome = match self.holds.get(&id) {
                Some(hold) if hold.forward => {
                    known.has_committed(self.to)
                        || self.went_back(known)
                        || self.refuses(known)
                        || (app.active == Some(self.to) && app.phase == AppPhase::Failing)
                }
                Some(_) => self.is_back(known),
                None => false,
            };
            let moving = app.active == Some(self.to) && !app.committed && eligible(known);
            let lapsed = self.holds.get(&id).is_some_and(|hold| {
                hold.expires_at <= now && (is_away(known, now) || !moving || !hold.forward)
            });
            if let Some(hold) = self.holds.get_mut(&id) {
                hold.settled |= outcome;
                hold.lapsed |= lapsed;
            }
        }
        self.came.retain(|id, _| view.get(*id).is_some());
        for (id, hold) in &mut self.holds {
            hold.lapsed |= view.get(*id).is_none() && hold.expires_at <= now;
        }
    }

    /// Whether the device is the rollout's to judge, as far as anyone knows.
    fn can_report(&self, known: &DeviceView, now: UnixMs) -> bool {
        let held = self.went_back(known) && !self.touched.contains(&known.id);
        eligible(known) && !held && !is_away(known, now) && !self.away.contains(&known.id)
    }

    /// Who could report and has not, of a wave and those before it.
    fn unreported<'a>(
        &'a self,
        wave: u32,
        view: &'a FleetView,
        now: UnixMs,
    ) -> impl Iterator<Item = DeviceId> + 'a {
        self.own_wave
            .iter()
            .filter(move |(device, own)| {
                **own <= wave
                    && !self.failed.contains_key(device)
                    && !self.committed.contains_key(device)
                    && view.get(**device).is_some_and(|known| self.can_report(known, now))
            })
            .map(|(device, _)| *device)
    }

    fn went_back(&self, known: &DeviceView) -> bool {
        known.app.failed_release == Some(self.to) && known.app.active != Some(self.to)
    }

    fn refuses(&self, known: &DeviceView) -> bool {
        known.app.refused_release == Some(self.to) && known.app.active != Some(self.to)
    }

    fn is_back(&self, known: &DeviceView) -> bool {
        let app = &known.app;
        match self.from {
            None => app.active.is_none(),
            from => app.active == from || app.refused_release == from || app.failed_release == from,
        }
    }

    /// One thing that the engine does.
    fn watch(&mut self, action: &Action, after: &Rollout, view: &FleetView, now: UnixMs) -> Checked {
        match action {
            Action::Permit { device, release, permit, expires_at, forward } => {
                self.may_permit(*device, *release, *forward, after, view, now)?;
                let longest = now.plus_ms(self.asked.permit_ms);
                must(*expires_at > now && *expires_at <= longest, "a permit expires in its time", || {
                    format!("{device}: {expires_at:?} at {now:?}, at most {longest:?}")
                })?;
                let issued =
                    Issued { device: *device, release: *release, expires_at: *expires_at, by_driver: false };
                let again = self.issued.insert(*permit, issued);
                must(again.is_none(), "a permit is issued once", || format!("{permit}"))?;
                let renews = self.holds.get(device).filter(|hold| hold.forward == *forward && !hold.revoked);
                let since = renews.map_or(now, |hold| hold.since);
                let hold = Hold {
                    permit: *permit,
                    forward: *forward,
                    since,
                    expires_at: *expires_at,
                    revoked: false,
                    fresh: renews.is_none(),
                    settled: false,
                    lapsed: false,
                };
                self.holds.insert(*device, hold);
                self.touched.insert(*device);
            }
            Action::RevokePermit { device, permit } => {
                if let Some(hold) = self.holds.get_mut(device).filter(|hold| hold.permit == *permit) {
                    hold.revoked = true;
                }
            }
            Action::MovePointer { release, .. } => {
                must(
                    *release == self.to && self.passed == self.waves,
                    "the pointer moves after the last gate",
                    || format!("{} of {} gates are open", self.passed, self.waves),
                )?;
            }
            Action::Event { kind: "RolloutDeviceFailed", detail, .. } => {
                let device = serde_json::from_value(detail["device"].clone()).unwrap();
                self.may_fail(device, detail["kind"].as_str().unwrap_or_default(), view, now)?;
            }
            Action::Event { kind: "WaveApproved", detail, .. } => {
                let new = self.approvals.insert(detail["by"].as_str().unwrap().to_owned());
                must(new, "nobody approves twice", || format!("{detail}"))?;
            }
            Action::Event { kind: "WaveSkipped", .. } => {
                self.skipped = true;
                self.acknowledge(after);
            }
            Action::Event { kind: "WaveRetried", .. } => self.acknowledge(after),
            Action::Event { kind: "GateInconclusive", .. } => {
                self.skipped |= self.asked.goes_on_without_evidence()
            }
            Action::Event { kind: "WavePassed", .. } => self.may_pass(after, view, now)?,
            Action::Event { kind: "WaveHalted", .. } => self.may_halt(after)?,
            _ => {}
        }
        if after.phase() == Phase::RollingBack {
            self.went_back_at.get_or_insert(now);
        }
        Ok(())
    }

    /// The failures of the wave that runs halt nothing any more.
    /// The failures of the wave that runs count no more; a wave before it may still turn out to have been bad.
    fn acknowledge(&mut self, after: &Rollout) {
        for (device, failed) in &mut self.failed {
            failed.acknowledged |= after.member(*device).is_some_and(|member| member.wave() == self.passed);
        }
    }

    /// 3 and 5: who gets a permit.
    fn may_permit(
        &self,
        device: DeviceId,
        release: Option<ReleaseId>,
        forward: bool,
        after: &Rollout,
        view: &FleetView,
        now: UnixMs,
    ) -> Checked {
        const RULE: &str = "a permit goes to a device whose turn it is";
        let Some(known) = view.get(device) else { return must(false, RULE, || format!("{device} has left")) };
        let why = || format!("{device}, forward: {forward}, phase {}: {known:?}", after.phase());
        must(known.is_online(), "a permit goes to a device that hears it", why)?;
        must(eligible(known), "a pinned or cordoned device gets no permit", why)?;
        let again = self.holds.get(&device).is_some_and(|hold| hold.forward == forward && !hold.settled);
        let free = known.busy_until.is_none_or(|until| until <= now);
        must(free || again, "a device that is down already gets no permit", why)?;
        if !forward {
            must(after.phase() == Phase::RollingBack && release == self.from, RULE, why)?;
            return must(self.touched.contains(&device), "only who was touched goes back", why);
        }
        must(after.phase() == Phase::Running && release == Some(self.to), RULE, why)?;
        let called = after.member(device).is_some_and(Member::was_called_in);
        must(
            called || self.own_wave.get(&device).is_some_and(|wave| *wave <= self.passed),
            "waves in their order",
            || format!("{device} of wave {:?}, {} gates are open", self.own_wave.get(&device), self.passed),
        )?;
        // After a wave went back alone its devices are taken up again in ways that only the engine follows.
        let again = self.failed.contains_key(&device) && !self.asked.goes_back_by_wave();
        must(!again, "a device that failed is not tried again by itself", why)?;
        must(!known.has_committed(self.to), RULE, why)
    }

    /// 5: a failure is something a device said, or something it did not do although it was there.
    fn may_fail(&mut self, device: DeviceId, kind: &str, view: &FleetView, now: UnixMs) -> Checked {
        let since = self.holds.get(&device).map(|hold| hold.since);
        let said = view.get(device).is_some_and(|known| {
            let has_new = known.app.active == Some(self.to);
            let end = since.map(|since| since.plus_ms(self.asked.device_timeout_ms));
            let stuck = kind == "stuck"
                && known.is_online()
                && (has_new || self.touched.contains(&device))
                && end.is_none_or(|end| end <= now && known.last_seen >= Some(end));
            self.went_back(known)
                || self.refuses(known)
                || (has_new && known.app.phase == AppPhase::Failing)
                || stuck
        });
        must(said, "a failure was said", || format!("{device} ({kind}): {:?}", view.get(device)))?;
        let resumed = view.get(device).map_or(0, |known| known.app.resumed);
        let may_recover = matches!(kind, "stuck" | "refused");
        self.failed.insert(device, Failed { resumed, may_recover, acknowledged: false });
        if let Some(hold) = self.holds.get_mut(&device) {
            hold.settled = true;
        }
        Ok(())
    }

    /// A device that held a permit and says that it went back counts as failed in the same decision.
    fn failures_are_told(&self, before: &Rollout, after: &Rollout, view: &FleetView) -> Checked {
        if !matches!(before.phase(), Phase::Running | Phase::Paused)
            || !matches!(after.phase(), Phase::Running | Phase::Paused)
        {
            return Ok(());
        }
        for (device, hold) in &self.holds {
            let silent = view
                .get(*device)
                .filter(|known| hold.forward && self.went_back(known) && !self.failed.contains_key(device));
            must(silent.is_none(), "a failure that was said counts", || format!("{silent:?}"))?;
        }
        Ok(())
    }

    /// 2: what may be down at this moment, when something more was started.
    fn budgets_hold(&self, fresh: &[DeviceId], view: &FleetView, now: UnixMs) -> Checked {
        let down: BTreeSet<_> = self.down(view, now).collect();
        let among = down.iter().filter(|device| self.own_wave.contains_key(device)).count();
        let budget = self.asked.budget(self.own_wave.len());
        must(among <= budget, "the fleet's budget holds", || format!("{among} down of {budget}: {down:?}"))?;
        for group in self.asked.groups() {
            let mut members: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
            for known in view.iter() {
                if let Some(value) = known.labels.get(&group.label) {
                    let (size, taken) = members.entry(value).or_default();
                    *size += 1;
                    *taken += usize::from(down.contains(&known.id));
                }
            }
            // Only groups in which something was started now: labels may move a device that is down into another one.
            let touched = fresh.iter().filter_map(|device| view.get(*device)?.labels.get(&group.label));
            for value in touched {
                let (size, taken) = members[value];
                let most = group.places(size);
                must(taken <= most, "a group's budget holds", || {
                    format!("{}={value}: {taken} down of {size}, at most {most}", group.label)
                })?;
            }
        }
        Ok(())
    }

    /// While no device of the wave has proven the release, one at a time tries it.
    fn starts_slowly(&self, decision: &Decision) -> Checked {
        let wave = |device: &DeviceId| decision.next.member(*device).map(Member::wave);
        let fresh = decision.actions.iter().any(|action| match action {
            Action::Permit { device, permit, forward: true, .. } => {
                self.holds.get(device).is_some_and(|hold| hold.permit == *permit && hold.fresh)
            }
            _ => false,
        });
        let proven = self.committed.keys().any(|device| wave(device) == Some(self.passed));
        let flying = self.holds.values().filter(|hold| hold.forward && !hold.settled && !hold.lapsed).count();
        let good = !self.asked.starts_slowly() || !fresh || proven || flying <= 1;
        must(good, "a wave starts slowly", || format!("{flying} try the release before any has it"))
    }

    /// Every device that may be down on purpose: it holds a permit, is in the middle of it, or is kept down by something else.
    fn down<'a>(&'a self, view: &'a FleetView, now: UnixMs) -> impl Iterator<Item = DeviceId> + 'a {
        let held =
            self.holds.iter().filter(|(_, hold)| !hold.settled && !hold.lapsed).map(|(device, _)| *device);
        let busy = view.iter().filter(move |known| known.busy_until.is_some_and(|until| until > now));
        held.chain(busy.map(|known| known.id))
    }

    /// 3 and 5: whether the next gate may open.
    fn may_pass(&mut self, after: &Rollout, view: &FleetView, now: UnixMs) -> Checked {
        const RULE: &str = "a gate opens on what was reported";
        let index = self.passed;
        let wave = &after.waves()[index as usize];
        let verdict = wave.verdict().unwrap();
        let needed = self.asked.people(index as usize);
        must(self.approvals.len() >= needed, "a gate opens when enough people said so", || {
            format!("wave {index} needs {needed}: {:?}", self.approvals)
        })?;
        self.approvals.clear();
        let had_reports = self.had_reports.take();
        self.wave_began = now;
        if std::mem::take(&mut self.skipped) {
            self.passed += 1;
            self.waived = false;
            return Ok(());
        }
        let called: BTreeSet<_> =
            after.members().filter(|(_, member)| member.was_called_in()).map(|(device, _)| device).collect();
        // Who comes long after the others had reported takes the release with the next wave; but who is at it is waited for.
        let last_call = had_reports.map(|at| at.plus_ms(self.asked.device_timeout_ms));
        let waited_for = |device: &DeviceId| {
            let late = last_call.is_some_and(|at| self.came.get(device).is_some_and(|came| *came > at));
            !late || self.holds.get(device).is_some_and(|hold| hold.forward && !hold.settled && !hold.lapsed)
        };
        let open = self.unreported(index, view, now).find(waited_for);
        must(open.is_none(), "a gate waits for everybody who can report", || {
            format!("wave {index}: {:?}", open.map(|device| view.get(device)))
        })?;
        let counts =
            |device: &&DeviceId| called.contains(device) || self.own_wave.get(device) <= Some(&index);
        let good = self.committed.keys().filter(counts).count();
        must(verdict.succeeded as usize <= good, RULE, || {
            format!("wave {index}: {verdict:?}, but only {good} said that they have the release")
        })?;
        let judged = verdict.succeeded + verdict.failed;
        let over = u64::from(verdict.failed) * 100 >= u64::from(judged) * u64::from(self.asked.threshold);
        must(verdict.failed == 0 || !over, "a gate stays closed above the threshold", || {
            format!("{verdict:?}")
        })?;
        let of_wave = after.members().filter(|(_, member)| member.wave() == index);
        let acknowledged = of_wave
            .filter(|(device, _)| self.failed.get(device).is_some_and(|failed| failed.acknowledged))
            .count();
        let said = judged as usize + acknowledged;
        // A wave whose devices were all called in by an earlier one has nobody left to report.
        let could = after
            .members()
            .filter(|(device, member)| {
                let held = |known: &&DeviceView| !self.went_back(known) || self.touched.contains(device);
                member.wave() == index && view.get(*device).filter(held).is_some_and(eligible)
            })
            .count();
        let most = if called.is_empty() { usize::MAX } else { 1 };
        let needed = self.asked.min_reports.unwrap_or(1).min(could).min(most);
        must(self.waived || said >= needed, "without evidence a gate waits", || {
            format!("wave {index}: {said} of {needed} reports")
        })?;
        let soak = self.asked.soak_ms(index as usize);
        for (device, member) in after.members().filter(|(_, member)| member.wave() == index) {
            // What was set aside for devices that were called in has no soak.
            let counts = called.is_empty() && member.failure().is_none();
            let since = self.committed.get(&device).filter(|_| counts);
            must(
                since.is_none_or(|since| now >= since.plus_ms(soak)),
                "a wave stays good for its soak",
                || format!("{device} of wave {index} since {since:?}, now {now:?}"),
            )?;
        }
        self.passed += 1;
        self.waived = false;
        Ok(())
    }

    /// Whether there is a reason to halt.
    fn may_halt(&self, after: &Rollout) -> Checked {
        let failed = self.failed.values().filter(|failed| !failed.acknowledged).count();
        let halted = after
            .waves()
            .iter()
            .filter(|wave| wave.state() == WaveState::Halted)
            .filter_map(Wave::verdict)
            .max_by_key(|verdict| verdict.at);
        let good = halted.is_some_and(|verdict| {
            let judged = verdict.succeeded + verdict.failed;
            verdict.failed > 0
                && verdict.failed as usize <= failed
                && u64::from(verdict.failed) * 100 >= u64::from(judged) * u64::from(self.asked.halts_above)
        });
        must(good, "a halt has its failures", || format!("{halted:?}, {failed} failures were told"))
    }

    /// A wave that can't end below the threshold has halted.
    fn halts_when_it_must(&self, after: &Rollout) -> Checked {
        if after.phase() != Phase::Running {
            return Ok(());
        }
        for index in 0..=self.passed {
            let members = || after.members().filter(|(_, member)| member.wave() == index);
            let failed = members()
                .filter(|(device, _)| self.failed.get(device).is_some_and(|failed| !failed.acknowledged))
                .count();
            let all = members().count();
            let late = failed > 0 && failed * 100 >= all * usize::from(self.asked.threshold);
            must(!late, "a bad wave halts", || format!("wave {index}: {failed} of {all} failed"))?;
        }
        Ok(())
    }

    /// 3: in a phase in which nothing goes forward no permit to go forward is left, and none at all at the end.
    fn nothing_is_left_usable(&self, after: &Rollout, now: UnixMs) -> Checked {
        if after.phase() == Phase::Running {
            return Ok(());
        }
        for (device, hold) in &self.holds {
            let live = !hold.settled && !hold.revoked && hold.expires_at > now;
            let wrong = live && (hold.forward || after.phase() != Phase::RollingBack);
            must(!wrong, "no permit is left usable", || format!("{device} in {}: {hold:?}", after.phase()))?;
        }
        Ok(())
    }

    /// 3: what a device really did.
    pub(super) fn activated(
        &mut self,
        device: DeviceId,
        what: &Activation,
        slow_ms: i64,
        honest: bool,
    ) -> Checked {
        let Some(issued) = self.issued.get(&what.permit) else { return Ok(()) };
        let in_time = issued.expires_at.plus_ms(slow_ms) > what.at;
        let right = issued.device == device && issued.release == Some(what.release) && in_time;
        must(right, "a device activates only with its live permit", || {
            format!("{device}: {what:?} with {issued:?}")
        })?;
        let taken_back = self.went_back_at.filter(|at| what.release == self.to && what.meant > *at);
        must(taken_back.is_none() || !honest, "what was taken back does not run again", || {
            format!("{device}: {what:?}, taken back at {taken_back:?}")
        })
    }

    /// 2: how many devices really are down at once because of this rollout.
    pub(super) fn tried(&self, permits: impl Iterator<Item = PermitId>, now: UnixMs) -> Checked {
        let live = permits.filter_map(|permit| self.issued.get(&permit));
        let down = live.filter(|issued| !issued.by_driver && issued.expires_at > now).count();
        let budget = self.asked.budget(self.own_wave.len());
        must(down <= budget, "no more devices are down than the budget says", || {
            format!("{down} of {budget}")
        })
    }
}

fn eligible(known: &DeviceView) -> bool {
    known.lifecycle == Lifecycle::Claimed && !known.pinned
}

fn is_away(known: &DeviceView, now: UnixMs) -> bool {
    match known.reachability {
        Reachability::Online => false,
        Reachability::Stale => known.last_seen.is_none_or(|seen| now.since_ms(seen) >= 300 * SECOND_MS),
        Reachability::Offline | Reachability::Unknown => true,
    }
}
