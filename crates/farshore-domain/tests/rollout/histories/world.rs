//! The world around the engine: devices, a control plane that knows only what it hears, a driver that calls the engine only when something was
//! heard or a deadline has come, and an oracle that watches all of it.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::assign::{Inputs, NeedsPermit, Pin, Placement, assign};
use farshore_domain::desired::{Generation, Permit};
use farshore_domain::device::reachability;
use farshore_domain::id::{DeviceId, PermitId, ReleaseId};
use farshore_domain::label::Labels;
use farshore_domain::rollout::{
    Action, AppReport, DeviceView, FleetView, KnownRelease, Phase, Rollout, RolloutSpec, WaveState, decide,
    invariants,
};
use farshore_domain::selector::Selector;
use farshore_domain::time::{SECOND_MS, UnixMs};
use uuid::Uuid;

use super::coverage::Seen;
use super::device::{Desired, Device};
use super::generator::{Lie, Seed};
use super::oracle::Oracle;
use super::tamper::Tamper;
use crate::fleet::{device_id, name, release, rollout_id};

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) rule: &'static str,
    pub(super) what: String,
}

pub(super) type Checked = Result<(), Fault>;

pub(super) fn must(good: bool, rule: &'static str, what: impl FnOnce() -> String) -> Checked {
    if good { Ok(()) } else { Err(Fault { rule, what: what() }) }
}

/// A Monday morning.
const BEGIN: UnixMs = UnixMs(1_789_974_000_000);
const HEARTBEAT_MS: i64 = 15_000;
/// More moments than this, or than one each heartbeat: somebody keeps asking to be called again.
const MOST_MOMENTS: i64 = 2_000;

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: UnixMs,
    pub(super) spec: RolloutSpec,
    pub(super) rollouts: Vec<Rollout>,
    pub(super) view: FleetView,
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) pointer: Option<ReleaseId>,
    pub(super) lies: BTreeMap<DeviceId, Lie>,
    pub(super) busy: BTreeMap<DeviceId, UnixMs>,
    pub(super) pinned: BTreeSet<DeviceId>,
    /// Nobody has lied, no clock was wrong, nothing arrived out of order.
    pub(super) honest: bool,
    /// Somebody repaired a device.
    pub(super) repaired: bool,
    pub(super) seen: Seen,
    pub(super) oracle: Oracle,
    pub(super) outside: BTreeMap<DeviceId, DeviceView>,
    pub(super) reports: BTreeMap<DeviceId, Vec<AppReport>>,
    written: BTreeMap<DeviceId, Desired>,
    /// What each was told before, and when it was told otherwise.
    pub(super) earlier: BTreeMap<DeviceId, (Desired, UnixMs)>,
    driver_permits: BTreeMap<DeviceId, (ReleaseId, Permit)>,
    /// Permits of others that may still take a device down: the release they are for, and until when.
    others: BTreeMap<DeviceId, Vec<(ReleaseId, UnixMs)>>,
    /// How many permits in a row the driver has issued to a device for one release.
    pub(super) driver_tries: BTreeMap<DeviceId, (Option<ReleaseId>, u32)>,
    permits: u64,
    wake: Option<UnixMs>,
    pub(super) dirty: bool,
    pub(super) rewrite: BTreeSet<DeviceId>,
    /// Devices that have not heard yet that somebody resumed the app on them.
    resumes: BTreeSet<DeviceId>,
    tamper: Option<Tamper>,
    told: bool,
}

impl World {
    pub(super) fn new(spec: &RolloutSpec, tamper: Option<Tamper>, told: bool) -> Self {
        let now = BEGIN;
        Self {
            now,
            spec: spec.clone(),
            rollouts: Vec::new(),
            view: FleetView::default(),
            devices: BTreeMap::new(),
            pointer: Some(release(0).uid),
            lies: BTreeMap::new(),
            busy: BTreeMap::new(),
            pinned: BTreeSet::new(),
            honest: true,
            repaired: false,
            seen: Seen::default(),
            oracle: Oracle::new(spec, release(1).uid),
            outside: BTreeMap::new(),
            reports: BTreeMap::new(),
            written: BTreeMap::new(),
            earlier: BTreeMap::new(),
            driver_permits: BTreeMap::new(),
            others: BTreeMap::new(),
            driver_tries: BTreeMap::new(),
            permits: 0,
            wake: None,
            dirty: false,
            rewrite: BTreeSet::new(),
            resumes: BTreeSet::new(),
            tamper,
            told,
        }
    }

    /// Says what happens, when somebody wants to read it.
    pub(super) fn tell_of(&self, what: &dyn std::fmt::Debug) {
        if self.told {
            let ms = self.now.since_ms(BEGIN);
            println!("{:>8}.{:03} {what:?}", ms / SECOND_MS, ms.rem_euclid(SECOND_MS));
        }
    }

    pub(super) fn rollout(&self) -> &Rollout {
        self.rollouts.last().unwrap()
    }

    pub(super) fn pick(&self, number: u8) -> Option<DeviceId> {
        u32::from(number).checked_rem(u32::try_from(self.devices.len()).unwrap()).map(device_id)
    }

    pub(super) fn join(&mut self, seed: &Seed) {
        let number = u32::try_from(self.devices.len()).unwrap();
        let id = device_id(number);
        let runs = seed.runs.then(|| release(0).uid);
        let device = Device::new(id, seed.nature, runs, self.now);
        let mut known = DeviceView::new(id, name(&format!("kiosk-{number}")));
        known.last_seen = Some(self.now);
        known.labels = labels(seed.site, seed.model);
        known.app = device.app.clone();
        self.view.insert(known);
        self.devices.insert(id, device);
        self.rewrite.insert(id);
        self.dirty = true;
    }

    /// A rollout to release 1.`number` begins, and takes over from the one that runs.
    pub(super) fn begin(&mut self, number: u32) -> Checked {
        let mut spec = serde_json::to_value(&self.spec).unwrap();
        spec["release"] = serde_json::to_value(release(number).uid).unwrap();
        self.oracle = Oracle::new(&serde_json::from_value(spec.clone()).unwrap(), release(number).uid);
        if let Some(tamper) = &self.tamper {
            (tamper.spec)(&mut spec);
        }
        let spec = serde_json::from_value(spec).unwrap();
        let from = self.pointed();
        let id = rollout_id(number);
        let made = Rollout::new(
            id,
            name(&format!("web-{number}")),
            spec,
            from.clone(),
            release(number),
            "ada",
            self.now,
        )
        .map_err(|error| Fault { rule: "a generated spec is valid", what: error.to_string() })?;
        if let Some(running) = self.rollouts.last_mut()
            && !running.phase().is_final()
        {
            let now = self.now;
            let actions = running
                .supersede(id, made.name(), "ada", now)
                .map_err(|error| Fault { rule: "a rollout can be superseded", what: error.to_string() })?;
            for held in running.held_permits(now) {
                let other = (running.to().uid, held.expires_at);
                self.others.entry(held.device).or_default().push(other);
            }
            self.seen.superseded = true;
            self.carry_out(&actions)?;
        }
        self.rollouts.push(made);
        self.refresh();
        let view = self.view.clone();
        self.verb(|rollout, now| rollout.start(from, &view, "ada", None, now).ok())?;
        let rollout = self.rollouts.last().unwrap();
        if rollout.phase() == Phase::Pending {
            Ok(())
        } else {
            self.oracle.begun(rollout, &self.view, self.now)
        }
    }

    /// What the channel points to.
    fn pointed(&self) -> Option<KnownRelease> {
        let pointer = self.pointer?;
        (0..9).map(release).find(|known| known.uid == pointer)
    }

    /// An operator's verb, if it is possible now.
    pub(super) fn verb(&mut self, verb: impl FnOnce(&mut Rollout, UnixMs) -> Option<Vec<Action>>) -> Checked {
        let now = self.now;
        let Some(rollout) = self.rollouts.last_mut() else { return Ok(()) };
        let before = rollout.clone();
        match verb(rollout, now) {
            Some(actions) => {
                let after = rollout.clone();
                self.oracle.said(&before, &after, &actions, &self.view, now)?;
                self.carry_out(&actions)?;
                self.dirty = true;
                Ok(())
            }
            None => must(*rollout == before, "a refused verb changes nothing", || format!("{before:?}")),
        }
    }

    /// The rollout goes through its stored form.
    pub(super) fn reload(&mut self) -> Checked {
        let rollout = self.rollouts.last_mut().unwrap();
        let stored = rollout.to_json().unwrap();
        let read = Rollout::from_json(&stored).unwrap();
        must(read == *rollout, "the state survives being stored", || stored)?;
        *rollout = read;
        self.dirty = true;
        Ok(())
    }

    fn carry_out(&mut self, actions: &[Action]) -> Checked {
        for action in actions {
            self.tell_of(action);
            self.seen.action(action);
            match action {
                Action::Assign { device, .. }
                | Action::Permit { device, .. }
                | Action::RevokePermit { device, .. } => {
                    self.rewrite.insert(*device);
                }
                Action::MovePointer { release, .. } => {
                    self.pointer = Some(*release);
                    self.rewrite.extend(self.devices.keys());
                }
                Action::Resume { device } => {
                    self.resumes.insert(*device);
                }
                Action::Done { .. } => self.rewrite.extend(self.devices.keys()),
                _ => {}
            }
        }
        self.wake = self.rollouts.last().and_then(|rollout| rollout.deadline(self.now));
        Ok(())
    }

    /// One decision, with every check.
    fn decide(&mut self) -> Checked {
        self.refresh();
        let now = self.now;
        let Some(before) = self.rollouts.last() else { return Ok(()) };
        let tampered = self.tamper.as_ref().map(|tamper| {
            let mut view = self.view.clone();
            (tamper.view)(&mut view, now);
            view
        });
        let mut permits = self.permits;
        let mut make = || {
            permits += 1;
            PermitId(Uuid::from_u128(u128::from(permits)))
        };
        let mut decision = decide(before, tampered.as_ref().unwrap_or(&self.view), now, &mut make);
        match &self.tamper {
            Some(tamper) => (tamper.decision)(&mut decision, before, now),
            None => invariants::check(before, &decision, &self.view, now)
                .map_err(|broken| Fault { rule: broken.invariant, what: broken.what })?,
        }
        self.permits = permits;
        self.oracle.decided(before, &decision, &self.view, now)?;
        self.seen.decided(&decision, &self.view, now);
        if let Some(rollout) = self.rollouts.last_mut() {
            *rollout = decision.next;
        }
        self.carry_out(&decision.actions)
    }

    /// What the control plane knows without being told.
    fn refresh(&mut self) {
        let now = self.now;
        let ids: Vec<_> = self.view.iter().map(|known| known.id).collect();
        for id in ids {
            let busy = self.is_busy_until(id);
            let pinned = self.pinned.contains(&id);
            let (Some(known), Some(device)) = (self.view.get_mut(id), self.devices.get_mut(&id)) else {
                continue;
            };
            if device.online {
                device.last_heard = now;
            }
            known.last_seen = Some(device.last_heard);
            known.reachability = reachability(device.online, known.last_seen, HEARTBEAT_MS, now);
            known.busy_until = busy;
            known.pinned = pinned;
        }
    }

    /// Until when something else than the rollout keeps it down.
    fn is_busy_until(&self, id: DeviceId) -> Option<UnixMs> {
        let others = self.others.get(&id).into_iter().flatten().map(|(_, until)| *until);
        others.chain(self.busy.get(&id).copied()).filter(|until| *until > self.now).max()
    }

    /// What a device says reaches the control plane.
    fn hear(&mut self, id: DeviceId) {
        let now = self.now;
        let (Some(known), Some(device)) = (self.view.get_mut(id), self.devices.get(&id)) else { return };
        if !device.online || now < device.mute_until {
            return;
        }
        let mut said = device.app.clone();
        if let Some(lie) = self.lies.get(&id) {
            lie.tell(&mut said, self.rollouts.last().map(|rollout| rollout.to().uid));
        }
        said.reported_at = known.app.reported_at;
        if said != known.app {
            said.reported_at = Some(now);
            if self.told {
                let short = |release: Option<ReleaseId>| release.map(|release| release.0.as_u128() % 16);
                let (active, failed, refused) =
                    (short(said.active), short(said.failed_release), short(said.refused_release));
                let (phase, committed) = (said.phase, said.committed);
                println!(
                    "{:>13}{id} is {phase}, has {active:?} ({committed}), failed {failed:?}, refused {refused:?}",
                    ""
                );
            }
            let old = std::mem::replace(&mut known.app, said);
            self.reports.entry(id).or_default().push(old);
            let app = &known.app;
            if let Some(others) = self.others.get_mut(&id) {
                others.retain(|(release, _)| {
                    let of = Some(*release);
                    let has = app.active == of && app.committed;
                    !(has || app.failed_release == of || app.refused_release == of)
                });
            }
            self.dirty = true;
            self.rewrite.insert(id);
        }
    }

    /// What the assignment driver does for one device.
    fn tell(&mut self, id: DeviceId) {
        let placements = [Placement { name: name("all"), app: name("web"), selector: Selector::default() }];
        let pointers: BTreeMap<_, _> =
            self.pointer.map(|release| (name("web"), release)).into_iter().collect();
        let pin = Pin { name: name("keep"), app: name("web"), release: release(0).uid };
        let pins = if self.pinned.contains(&id) { vec![pin] } else { Vec::new() };
        let Some(known) = self.view.get(id) else { return };
        let reports = BTreeMap::from([(name("web"), known.app.clone())]);
        let permits: BTreeMap<_, _> =
            self.driver_permits.get(&id).map(|permit| (name("web"), *permit)).into_iter().collect();
        let newest: Vec<_> = self.rollouts.last().into_iter().collect();
        let inputs = Inputs {
            device: id,
            labels: &known.labels,
            lifecycle: known.lifecycle,
            channel: &name("prod"),
            reports: &reports,
            placements: &placements,
            pointers: &pointers,
            pins: &pins,
            rollouts: &newest,
            permits: &permits,
        };
        let assigned = assign(&inputs, self.now);
        let app = assigned.apps.first();
        let online = known.is_online();
        let (release, permit) = (app.map(|app| app.release), app.and_then(|app| app.permit));
        let needs = app.and_then(|app| app.needs_permit);
        self.write(id, release, permit);
        let tried = self.driver_tries.entry(id).or_insert((release, 0));
        if tried.0 != release {
            *tried = (release, 0);
        }
        // A device that does not take its permits is left alone after some.
        let may = online && tried.1 < 60;
        if let (Some(need), Some(release), true) = (needs, release, may) {
            tried.1 += 1;
            self.permits += 1;
            let uid = PermitId(Uuid::from_u128(u128::from(self.permits)));
            let permit = Permit { uid, expires_at: self.now.plus_ms(20 * SECOND_MS), rollout: None };
            self.driver_permits.insert(id, (release, permit));
            self.oracle.driver_permits(id, release, &permit);
            if need == NeedsPermit::Change {
                self.others.entry(id).or_default().push((release, permit.expires_at));
                self.dirty = true;
            }
            self.rewrite.insert(id);
        }
    }

    fn write(&mut self, id: DeviceId, release: Option<ReleaseId>, permit: Option<Permit>) {
        let old = self.written.get(&id).copied();
        if old.is_none_or(|old| (old.release, old.permit) != (release, permit)) {
            let generation = old.map_or(1, |old| old.at.generation + 1);
            let at = Generation { epoch: 1, generation };
            self.written.insert(id, Desired { at, release, permit });
            if let Some(old) = old {
                self.earlier.insert(id, (old, self.now));
            }
        }
    }

    /// Devices that can hear what they should have hear it, and do what they do.
    fn devices_act(&mut self) -> Checked {
        let now = self.now;
        let ids: Vec<_> = self.devices.keys().copied().collect();
        for id in ids {
            let Some(device) = self.devices.get_mut(&id) else { continue };
            if device.online
                && now >= device.deaf_until
                && let Some(written) = self.written.get(&id)
                && device.desired != Some(*written)
            {
                device.hear(*written, now, now);
            }
            if device.online && now >= device.deaf_until && self.resumes.remove(&id) {
                device.resume(device.nature);
            }
            device.act(now);
            for activation in std::mem::take(&mut device.fresh) {
                let slow = device.slow_ms;
                self.oracle.activated(id, &activation, slow, self.honest)?;
            }
            if self.honest {
                let tries = self.devices.values().filter_map(Device::tries_with);
                self.oracle.tried(tries, now)?;
            }
            self.hear(id);
        }
        Ok(())
    }

    /// Everything that follows at this moment.
    pub(super) fn settle(&mut self) -> Checked {
        for _ in 0..200 {
            self.devices_act()?;
            if !self.dirty && self.rewrite.is_empty() {
                return Ok(());
            }
            if std::mem::take(&mut self.dirty) {
                self.decide()?;
            }
            for id in std::mem::take(&mut self.rewrite) {
                self.tell(id);
            }
        }
        must(false, "a moment ends", || "something new was decided 200 times at one moment".to_owned())
    }

    /// When anything happens next.
    fn next_moment(&self) -> UnixMs {
        let now = self.now;
        let ears = self.devices.values().flat_map(|device| {
            [Some(device.mute_until), Some(device.deaf_until), device.next_moment()].into_iter().flatten()
        });
        let busy = self.view.iter().filter_map(|known| known.busy_until);
        let driver = self.driver_permits.values().map(|(_, permit)| permit.expires_at);
        let all = ears.chain(busy).chain(driver).chain(self.wake);
        all.filter(|moment| *moment > now).min().unwrap_or(UnixMs(i64::MAX))
    }

    /// Time passes.
    pub(super) fn pass(&mut self, ms: i64) -> Checked {
        let end = self.now.plus_ms(ms);
        self.pass_until(end, |_| false)
    }

    /// Time passes until then, or until this is so.
    pub(super) fn pass_until(&mut self, end: UnixMs, done: impl Fn(&Self) -> bool) -> Checked {
        self.settle()?;
        let most = MOST_MOMENTS + end.since_ms(self.now) / HEARTBEAT_MS;
        let mut moments = 0;
        while self.now < end && !done(self) {
            self.now = self.next_moment().min(end);
            moments += 1;
            must(moments < most, "time passes", || "it asks to be called again and again".to_owned())?;
            let now = self.now;
            let due = self.view.iter().filter_map(|known| known.busy_until).any(|until| until <= now);
            self.dirty |= due || self.wake.is_some_and(|wake| wake <= now);
            let ran_out: Vec<_> = self
                .driver_permits
                .iter()
                .filter(|(_, (_, p))| p.expires_at == now)
                .map(|(id, _)| *id)
                .collect();
            self.rewrite.extend(ran_out);
            self.settle()?;
        }
        Ok(())
    }

    pub(super) fn is_over(&self) -> bool {
        self.rollout().phase().is_final()
    }

    pub(super) fn rests(&self) -> bool {
        self.is_over() || self.rollout().phase() == Phase::Paused || self.awaits_approval()
    }

    pub(super) fn awaits_approval(&self) -> bool {
        let rollout = self.rollout();
        let wave = rollout.waves().get(rollout.current_wave() as usize);
        rollout.phase() == Phase::Running
            && wave.is_some_and(|wave| wave.state() == WaveState::AwaitingApproval)
    }

    pub(super) fn approve(&mut self, person: &str) -> Checked {
        self.verb(|rollout, now| rollout.approve(person, None, now).ok())
    }
}

pub(super) fn labels(site: u8, model: u8) -> Labels {
    let (site, model) = (format!("site-{site}"), format!("m{model}"));
    Labels::try_from([("location", site.as_str()), ("model", model.as_str())]).unwrap()
}
