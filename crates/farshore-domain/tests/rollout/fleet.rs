//! A fleet of virtual devices and the driver around `decide`. Every decision is checked against all invariants, for idempotence, and goes through JSON.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::assign::{Inputs, NeedsPermit, Placement, assign};
use farshore_domain::desired::Permit;
use farshore_domain::device::{AppPhase, OFFLINE_AFTER_MS, Reachability};
use farshore_domain::id::{DeviceId, PermitId, ReleaseId, RolloutId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::rollout::{
    Action, Amount, AppReport, DeviceView, FleetView, KnownRelease, Phase, ReleaseRef, Rollout, RolloutSpec,
    WaveSpec, decide, invariants,
};
use farshore_domain::selector::Selector;
use farshore_domain::time::UnixMs;
use uuid::Uuid;

pub(crate) const TICK_MS: i64 = 1_000;
/// How long a new release is on trial on a device.
const TRIAL_MS: i64 = 4_000;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn device_id(number: u32) -> DeviceId {
    DeviceId(Uuid::from_u128(0xD000_0000 + u128::from(number)))
}

pub(crate) fn release(number: u32) -> KnownRelease {
    KnownRelease {
        uid: ReleaseId(Uuid::from_u128(0xE000_0000 + u128::from(number))),
        version: format!("1.{number}").parse().unwrap(),
    }
}

pub(crate) fn rollout_id(number: u32) -> RolloutId {
    RolloutId(Uuid::from_u128(0xF000_0000 + u128::from(number)))
}

/// Waves without soak, everything short, and at full speed: slow start has its own tests.
pub(crate) fn spec(waves: Vec<WaveSpec>) -> RolloutSpec {
    RolloutSpec {
        waves,
        max_unavailable: Some(Amount::Percent(100)),
        permit_seconds: 20,
        device_timeout_seconds: 60,
        gate_timeout_seconds: 600,
        slow_start: false,
        ..RolloutSpec::new(name("web"), name("prod"), ReleaseRef::Uid(release(1).uid))
    }
}

pub(crate) fn one_wave() -> Vec<WaveSpec> {
    vec![WaveSpec::percent(100).soak(0)]
}

/// How a device takes the new release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Good,
    /// Does not get healthy and goes back by itself.
    Bad,
    /// Never gets done.
    Stuck,
    /// Does not even stage it.
    Refuses,
    /// Commits, and fails its checks afterwards.
    GoesBad,
    /// Never says that it has staged.
    Terse,
}

#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) nature: Nature,
    pub(crate) online: bool,
    silent_since: UnixMs,
    /// What it has been told, as far as it has heard.
    told: Option<(ReleaseId, Option<Permit>)>,
    pub(crate) app: AppReport,
    previous: Option<ReleaseId>,
    trial_until: Option<UnixMs>,
    given_up: Option<ReleaseId>,
    /// Every release it has ever activated.
    pub(crate) ran: Vec<ReleaseId>,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) now: UnixMs,
    pub(crate) rollout: Rollout,
    pub(crate) view: FleetView,
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    pub(crate) pointer: Option<ReleaseId>,
    outside: BTreeMap<DeviceId, DeviceView>,
    old_reports: BTreeMap<DeviceId, AppReport>,
    driver_permits: BTreeMap<DeviceId, (ReleaseId, Permit)>,
    permits: u64,
    pub(crate) log: Vec<Action>,
    pub(crate) most_live: usize,
    /// The codes of everything that it ever waited for.
    pub(crate) waited_for: BTreeSet<String>,
    /// Whether a live permit was ever held by a device out of reach.
    pub(crate) permit_out_of_reach: bool,
    /// Check each decision for idempotence and through JSON. Off where thousands of devices would make that slow.
    pub(crate) strict: bool,
}

impl Fleet {
    /// `natures` are the devices, all on release 1.0 and online; the rollout to 1.1 is made, not started.
    pub(crate) fn new(spec: RolloutSpec, natures: &[Nature]) -> Self {
        let now = UnixMs(1_000_000);
        let rollout =
            Rollout::new(rollout_id(1), name("web-1.1"), spec, Some(release(0)), release(1), "ada", now)
                .unwrap();
        let mut fleet = Self {
            now,
            rollout,
            view: FleetView::default(),
            devices: BTreeMap::new(),
            pointer: Some(release(0).uid),
            outside: BTreeMap::new(),
            old_reports: BTreeMap::new(),
            driver_permits: BTreeMap::new(),
            permits: 0,
            log: Vec::new(),
            most_live: 0,
            waited_for: BTreeSet::new(),
            permit_out_of_reach: false,
            strict: true,
        };
        for nature in natures {
            fleet.join(*nature, Some(release(0).uid));
        }
        fleet
    }

    /// Another rollout of the same devices, not started.
    pub(crate) fn remake(&mut self, spec: RolloutSpec) {
        let (from, to) = (Some(release(0)), release(1));
        self.rollout = Rollout::new(rollout_id(1), name("web-1.1"), spec, from, to, "ada", self.now).unwrap();
    }

    /// A new device in the channel.
    pub(crate) fn join(&mut self, nature: Nature, runs: Option<ReleaseId>) -> DeviceId {
        let number = u32::try_from(self.devices.len()).unwrap();
        let id = device_id(number);
        let phase = if runs.is_some() { AppPhase::Running } else { AppPhase::Absent };
        let app = AppReport { active: runs, committed: runs.is_some(), phase, ..AppReport::default() };
        let device = Device {
            nature,
            online: true,
            silent_since: self.now,
            told: None,
            app: app.clone(),
            previous: None,
            trial_until: None,
            given_up: None,
            ran: Vec::new(),
        };
        self.devices.insert(id, device);
        let mut known = DeviceView::new(id, name(&format!("kiosk-{number}")));
        known.last_seen = Some(self.now);
        let place = [("location", format!("store-{}", number % 3)), ("model", format!("m{}", number % 2))];
        known.labels = Labels::try_from(place).unwrap();
        known.app = app;
        self.view.insert(known);
        id
    }

    pub(crate) fn start(&mut self) {
        let from = self.pointer.map(|_| release(0));
        let actions = self.rollout.start(from, &self.view, "ada", None, self.now).unwrap();
        self.carry_out(actions);
        self.decide();
    }

    /// The members in the rollout's order.
    pub(crate) fn order(&self) -> Vec<DeviceId> {
        let mut order: Vec<_> = self.rollout.members().map(|(id, member)| (member.rank(), id)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn set_online(&mut self, id: DeviceId, online: bool) {
        let now = self.now;
        if let Some(device) = self.devices.get_mut(&id) {
            device.online = online;
            device.silent_since = now;
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in &actions {
            if let Action::MovePointer { release, .. } = action {
                self.pointer = Some(*release);
            }
            if let Action::Resume { device } = action
                && let Some(device) = self.devices.get_mut(device)
            {
                device.resume(device.nature);
            }
        }
        self.log.extend(actions);
    }

    pub(crate) fn verb(&mut self, verb: impl FnOnce(&mut Rollout, UnixMs) -> Vec<Action>) {
        let actions = verb(&mut self.rollout, self.now);
        self.carry_out(actions);
        self.decide();
    }

    /// One decision that is not carried out.
    pub(crate) fn only_decide(&self) {
        let mut make = || PermitId(Uuid::from_u128(1));
        std::hint::black_box(decide(&self.rollout, &self.view, self.now, &mut make));
    }

    /// One decision, with every check.
    pub(crate) fn decide(&mut self) {
        let mut permits = self.permits;
        let mut make = || {
            permits += 1;
            PermitId(Uuid::from_u128(u128::from(permits)))
        };
        let decision = decide(&self.rollout, &self.view, self.now, &mut make);
        invariants::check(&self.rollout, &decision, &self.view, self.now)
            .unwrap_or_else(|broken| panic!("{broken}\nbefore: {:#?}\nafter: {decision:#?}", self.rollout));
        if self.strict {
            let mut same = self.permits;
            let mut make_same = || {
                same += 1;
                PermitId(Uuid::from_u128(u128::from(same)))
            };
            assert_eq!(
                decide(&self.rollout, &self.view, self.now, &mut make_same),
                decision,
                "deterministic"
            );
            let again = decide(&decision.next, &self.view, self.now, &mut make);
            assert_eq!(again.actions, [], "deciding twice does nothing the second time");
            assert_eq!(again.next, decision.next, "deciding twice changes nothing the second time");
            let json = decision.next.to_json().unwrap();
            assert_eq!(Rollout::from_json(&json).unwrap(), decision.next, "the state survives JSON");
        }
        self.permits = permits;
        if self.strict {
            let waits = decision.next.waiting_for(&self.view, self.now);
            self.waited_for.extend(waits.into_iter().map(|waiting| waiting.reason.code));
        }
        self.rollout = decision.next;
        self.carry_out(decision.actions);
        let live = self.rollout.members().filter(|(_, m)| m.live_permit(self.now).is_some()).count();
        self.most_live = self.most_live.max(live);
        self.permit_out_of_reach |= self.rollout.members().any(|(id, member)| {
            member.live_permit(self.now).is_some()
                && self.devices.get(&id).is_some_and(|device| !device.online)
        });
    }

    /// Time passes: devices hear what they should have, act, and report; then the rollout decides.
    pub(crate) fn tick(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
        let ids: Vec<_> = self.devices.keys().copied().collect();
        for id in ids {
            self.tell(id);
            if let Some(device) = self.devices.get_mut(&id) {
                device.act(self.now);
            }
            self.report(id);
        }
        self.decide();
    }

    pub(crate) fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            self.tick(TICK_MS);
        }
    }

    /// Ticks until `done`, at most `limit` times.
    pub(crate) fn until(&mut self, limit: u32, done: impl Fn(&Self) -> bool) {
        for _ in 0..limit {
            if done(self) {
                return;
            }
            self.tick(TICK_MS);
        }
        let waits = self.rollout.waiting_for(&self.view, self.now);
        panic!("not reached in {limit} ticks; {} waits for {waits:#?}", self.rollout.phase());
    }

    pub(crate) fn until_phase(&mut self, phase: Phase) {
        self.until(3_000, |fleet| fleet.rollout.phase() == phase);
    }

    /// The device leaves the channel.
    pub(crate) fn away(&mut self, id: DeviceId) {
        if let Some(known) = self.view.remove(id) {
            self.outside.insert(id, known);
        }
    }

    /// A device that left is in the channel again.
    pub(crate) fn come_back(&mut self, id: DeviceId) {
        if let Some(known) = self.outside.remove(&id) {
            self.view.insert(known);
        }
    }

    /// The report before the last one arrives once more, late.
    pub(crate) fn repeat_report(&mut self, id: DeviceId) {
        if let (Some(known), Some(old)) = (self.view.get_mut(id), self.old_reports.get(&id)) {
            known.app = old.clone();
        }
    }

    /// What the assignment driver does for one device.
    fn tell(&mut self, id: DeviceId) {
        let placements = [Placement { name: name("all"), app: name("web"), selector: Selector::default() }];
        let pointers: BTreeMap<_, _> =
            self.pointer.map(|release| (name("web"), release)).into_iter().collect();
        let (Some(known), Some(device)) = (self.view.get_mut(id), self.devices.get_mut(&id)) else { return };
        if !device.online {
            return;
        }
        let reports = BTreeMap::from([(name("web"), known.app.clone())]);
        let permits: BTreeMap<_, _> =
            self.driver_permits.get(&id).map(|permit| (name("web"), *permit)).into_iter().collect();
        let inputs = Inputs {
            device: id,
            labels: &known.labels,
            lifecycle: known.lifecycle,
            channel: &name("prod"),
            reports: &reports,
            placements: &placements,
            pointers: &pointers,
            pins: &[],
            rollouts: &[&self.rollout],
            permits: &permits,
        };
        let assigned = assign(&inputs, self.now);
        device.told = assigned.apps.first().map(|app| (app.release, app.permit));
        let Some(app) = assigned.apps.first() else { return };
        if let Some(need) = app.needs_permit {
            self.permits += 1;
            let uid = PermitId(Uuid::from_u128(u128::from(self.permits)));
            let permit = Permit { uid, expires_at: self.now.plus_ms(20_000), rollout: None };
            self.driver_permits.insert(id, (app.release, permit));
            if need == NeedsPermit::Change {
                known.busy_until = Some(permit.expires_at);
            }
        }
    }

    /// What the control plane hears, or does not hear any more.
    pub(crate) fn report(&mut self, id: DeviceId) {
        let now = self.now;
        let (Some(known), Some(device)) = (self.view.get_mut(id), self.devices.get(&id)) else { return };
        if device.online {
            known.reachability = Reachability::Online;
            known.last_seen = Some(now);
            let report = AppReport { reported_at: Some(now), ..device.app.clone() };
            self.old_reports.insert(id, std::mem::replace(&mut known.app, report));
        } else if now.since_ms(device.silent_since) >= OFFLINE_AFTER_MS {
            known.reachability = Reachability::Offline;
        } else {
            known.reachability = Reachability::Stale;
        }
    }
}

impl Device {
    fn act(&mut self, now: UnixMs) {
        if let Some(until) = self.trial_until {
            if now >= until {
                self.end_trial();
            }
            return;
        }
        let Some((wanted, permit)) = self.told else {
            if self.online {
                self.app = AppReport { failed_release: self.app.failed_release, ..AppReport::default() };
            }
            return;
        };
        let new = release(1).uid;
        if self.app.active == Some(wanted) {
            let bad = self.nature == Nature::GoesBad && wanted == new && self.app.phase == AppPhase::Running;
            self.app.phase = if bad { AppPhase::Failing } else { self.app.phase };
            if self.app.phase != AppPhase::Failing {
                self.app.phase = AppPhase::Running;
            }
            self.app.refused_release = None;
            return;
        }
        if self.given_up == Some(wanted) {
            self.app.phase = if self.app.active.is_some() { AppPhase::Held } else { AppPhase::Failing };
            return;
        }
        if self.nature == Nature::Refuses && wanted == new {
            self.app.refused_release = Some(wanted);
            self.app.reason = Some("the signature is wrong".to_owned());
            return;
        }
        if self.nature != Nature::Terse && self.app.phase != AppPhase::Staged {
            self.app.phase = AppPhase::Staged;
            return;
        }
        let Some(_) = permit.filter(|permit| permit.expires_at > now) else { return };
        self.ran.push(wanted);
        let known_good = self.previous == Some(wanted);
        self.previous = self.app.active.filter(|_| self.app.committed);
        self.app.active = Some(wanted);
        self.app.committed = known_good;
        self.app.phase = if known_good { AppPhase::Running } else { AppPhase::Soaking };
        self.trial_until = (!known_good).then(|| now.plus_ms(TRIAL_MS));
    }

    /// Somebody resumes the app, after something was repaired.
    pub(crate) fn resume(&mut self, nature: Nature) {
        self.nature = nature;
        self.given_up = None;
        self.app.failed_release = None;
        self.app.resumed += 1;
    }

    fn end_trial(&mut self) {
        let new = release(1).uid;
        let is_new = self.app.active == Some(new);
        match self.nature {
            Nature::Stuck if is_new => {
                let told_otherwise =
                    self.told.is_some_and(|(wanted, permit)| wanted != new && permit.is_some());
                if told_otherwise {
                    self.trial_until = None;
                }
            }
            Nature::Bad if is_new => {
                self.trial_until = None;
                self.given_up = Some(new);
                self.app.failed_release = Some(new);
                self.app.reason = Some("web: 503".to_owned());
                self.app.active = self.previous;
                self.app.committed = self.previous.is_some();
                self.app.phase = AppPhase::RollingBack;
            }
            _ => {
                self.trial_until = None;
                self.app.committed = true;
                self.app.phase = AppPhase::Running;
                self.app.failed_release = None;
            }
        }
    }
}
