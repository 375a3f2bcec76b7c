//! A model of a device whose app has two slots: releases of every kind, helpers that die anywhere, supervisors that are killed, power cuts.
//!
//! What is held: a slot never gets a second instance; two instances are there only while one of them is on trial; nothing gets the traffic
//! that was not good first; what has the traffic is not stopped as long as nothing was cut; and in the end one instance is left, in the current
//! slot, with the traffic.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::desired::DesiredRelease;
use crate::digest::Digest;
use crate::id::{PermitId, ReleaseId};
use crate::name::Name;
use crate::release::slot::Slot;
use crate::time::UnixMs;
use crate::version::Version;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Good,
    NeverHealthy,
    CrashLoop,
    SickInSoak,
    WontStart,
    /// Its switch hook fails.
    WontSwitch,
}

const NATURES: [Nature; 8] = [
    Nature::Good,
    Nature::NeverHealthy,
    Nature::SickInSoak,
    Nature::Good,
    Nature::CrashLoop,
    Nature::WontStart,
    Nature::WontSwitch,
    Nature::Good,
];
const LAST: usize = 7;

fn manifest_of(index: usize) -> Digest {
    Digest::of(&[u8::try_from(index).unwrap()])
}

fn nature_of(manifest: Digest) -> Nature {
    NATURES[(0..NATURES.len()).find(|index| manifest_of(*index) == manifest).unwrap()]
}

fn version_of(index: usize) -> Version {
    format!("1.{index}").parse().unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    Advance(i64),
    Desire {
        release: usize,
        permit_ms: i64,
        config: u8,
    },
    KillAgent {
        before_acting: bool,
    },
    /// The runner dies after it has made the slot the current one and before the traffic is there.
    CutSwitch,
    Runner {
        up: bool,
    },
    Reboot,
    KillSupervisor {
        current: bool,
    },
    Restart,
    Back,
    Drop,
    Drain {
        stopped: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        10 => (0..20_000_i64).prop_map(Op::Advance),
        6 => (0..NATURES.len(), 0..60_000_i64, 0..2_u8)
            .prop_map(|(release, permit_ms, config)| Op::Desire { release, permit_ms, config }),
        2 => any::<bool>().prop_map(|before_acting| Op::KillAgent { before_acting }),
        2 => Just(Op::CutSwitch),
        1 => any::<bool>().prop_map(|up| Op::Runner { up }),
        1 => Just(Op::Reboot),
        2 => any::<bool>().prop_map(|current| Op::KillSupervisor { current }),
        1 => Just(Op::Restart),
        1 => Just(Op::Back),
        1 => Just(Op::Drop),
        1 => any::<bool>().prop_map(|stopped| Op::Drain { stopped }),
    ];
    proptest::collection::vec(op, 1..60)
}

struct Process {
    running: Running,
    since: i64,
    /// Its checks were good once.
    good: bool,
}

#[derive(Default)]
struct World {
    now: i64,
    state: DeviceState,
    offer: Option<(usize, LivePermit, u64, u8)>,
    runner_down: bool,
    stopped: bool,
    staged: BTreeSet<Digest>,
    slots: BTreeMap<&'static str, Process>,
    /// Instances whose supervisor was killed.
    strays: BTreeMap<&'static str, u64>,
    green: bool,
    told: bool,
    cut_switch: bool,
    outcomes: Vec<Outcome>,
    restart: bool,
    back: bool,
    resumed: u64,
    permits: u128,
    /// Released once, and known to have been good.
    proven: BTreeSet<Digest>,
    switches: u32,
}

impl World {
    fn new() -> Self {
        Self { now: 1_000, ..Self::default() }
    }

    fn web() -> Name {
        Name::new("web").unwrap()
    }

    fn current(&self) -> Slot {
        if self.green { Slot::Green } else { Slot::Blue }
    }

    fn at(&self, slot: Slot) -> Option<&Process> {
        self.slots.get(slot.as_str())
    }

    fn slot_of(&self, instance: u64) -> Option<Slot> {
        let is = |slot: &Slot| self.at(*slot).is_some_and(|process| process.running.instance == instance);
        Slot::BOTH.into_iter().find(is)
    }

    fn app(&self) -> AppState {
        self.state.apps.get(&Self::web()).cloned().unwrap_or_default()
    }

    fn verdict(process: &Process, now: i64) -> Checks {
        let age = now - process.since;
        match nature_of(process.running.manifest) {
            _ if !process.running.up || age < 500 => Checks::Unknown,
            Nature::NeverHealthy if age > 3_000 => Checks::Failed { message: "503".into() },
            Nature::NeverHealthy => Checks::Wavering { message: "503".into() },
            Nature::SickInSoak if age > 6_000 => Checks::Failed { message: "sick".into() },
            _ => Checks::Good,
        }
    }

    fn observed(&self) -> Observed {
        let of = |slot| self.at(slot).map(|process| process.running.clone());
        let (running, beside) = (of(self.current()), of(self.current().other()));
        let stray = self.strays.get(self.current().other().as_str()).copied();
        Observed {
            staged: self.staged.clone(),
            running,
            beside,
            switching: !self.told,
            stray,
            full: false,
            filled: false,
        }
    }

    fn inputs(&mut self) -> Inputs {
        let offers = self.offer.iter().map(|(index, permit, resumed, config)| Offer {
            app: Self::web(),
            release: DesiredRelease {
                uid: ReleaseId(Uuid::from_u128(*index as u128 + 1)),
                version: version_of(*index),
                manifest: manifest_of(*index),
            },
            manifest: Offered::Verified(Terms {
                floor: None,
                soak_ms: 10_000,
                start_timeout_ms: 15_000,
                max_restarts: 2,
                backoff_ms: 500,
                max_backoff_ms: 8_000,
            }),
            permit: Some(*permit),
            resumed: *resumed,
            config: Digest::of(&[*config]),
            needs: Vec::new(),
            beside: true,
        });
        let observed = self.observed();
        let app = self.app();
        let judged = observed.all().find(|running| app.is_target(running)).map(|running| running.instance);
        let judged = judged.and_then(|instance| self.at(self.slot_of(instance)?));
        let checks = judged.map_or(Checks::Unknown, |process| Self::verdict(process, self.now));
        Inputs {
            desired: Some(offers.collect()),
            observed: (!self.runner_down).then(|| BTreeMap::from([(Self::web(), observed)])),
            checks: BTreeMap::from([(Self::web(), checks)]),
            outcomes: std::mem::take(&mut self.outcomes),
            restart: std::mem::take(&mut self.restart).then(Self::web).into_iter().collect(),
            rollback: std::mem::take(&mut self.back)
                .then(|| (Self::web(), String::new()))
                .into_iter()
                .collect(),
            stopped: self.stopped,
            ..Inputs::default()
        }
    }

    fn tick(&mut self, act: bool) {
        for process in self.slots.values_mut() {
            process.good |= Self::verdict(process, self.now) == Checks::Good;
        }
        let inputs = self.inputs();
        let now = Now { mono: MonoMs(self.now), wall: UnixMs(self.now) };
        let (state, actions) = decide(self.state.clone(), &inputs, now);
        let _ = view(&state, &inputs, UnixMs(0));
        self.state = state;
        let acting = actions.iter().filter(|action| {
            matches!(
                action,
                Action::Start { .. } | Action::Stop { .. } | Action::StopOne { .. } | Action::Switch { .. }
            )
        });
        assert!(acting.count() <= 1, "one thing at a time: {actions:?}");
        for action in actions {
            if act && !self.runner_down {
                self.carry_out(action);
            }
        }
        if self.slots.len() > 1 {
            let app = self.app();
            let wanted = |process: &Process| {
                app.is_target(&process.running) || app.warm.is_some_and(|warm| warm.is(&process.running))
            };
            // One that is neither is on its way out.
            assert!(
                app.trial.is_some() || self.slots.values().filter(|process| wanted(process)).count() <= 1,
                "two that are wanted, and none on trial: {app:?}"
            );
        }
    }

    fn carry_out(&mut self, action: Action) {
        let current = self.current();
        match action {
            Action::Stage { app, manifest } => {
                self.staged.insert(manifest);
                self.outcomes.push(Outcome::Staged { app, manifest });
            }
            Action::Start { app, release, instance, config, beside } => {
                let slot = if beside { current.other() } else { current };
                assert!(self.at(slot).is_none(), "never two in a slot");
                assert!(!beside || self.at(current).is_some(), "beside nothing");
                assert!(
                    beside || self.slots.is_empty() || self.proven.contains(&release.manifest),
                    "only what was good is started where the traffic goes while something else runs"
                );
                assert!(self.staged.contains(&release.manifest), "started what is not staged");
                assert_eq!(self.slot_of(instance), None, "a number that is in use");
                // The runner leaves nothing of them beside what is started.
                self.strays.clear();
                if nature_of(release.manifest) == Nature::WontStart {
                    let message = "exec format error".into();
                    self.outcomes.push(Outcome::StartFailed { app, instance, message });
                    return;
                }
                let running = Running {
                    manifest: release.manifest,
                    release: release.release,
                    version: release.version,
                    instance,
                    config,
                    up: true,
                    restarts: 0,
                    last_exit: None,
                    slot: Some(slot),
                    isolation: None,
                };
                self.slots.insert(slot.as_str(), Process { running, since: self.now, good: false });
            }
            Action::Stop { .. } => {
                self.slots.clear();
                self.strays.clear();
            }
            Action::StopOne { instance, .. } => {
                self.strays.retain(|_, stray| *stray != instance);
                let Some(slot) = self.slot_of(instance) else { return };
                assert_ne!(slot, current, "what has the traffic is not stopped");
                assert!(self.told, "the traffic may still go there");
                self.slots.remove(slot.as_str());
            }
            Action::Switch { app, instance } => {
                let Some(slot) = self.slot_of(instance) else { return };
                let process = self.at(slot).expect("it was just found");
                let fresh = !self.proven.contains(&process.running.manifest);
                assert!(
                    !fresh || process.good,
                    "the traffic goes only to what was good: {:?}",
                    process.running
                );
                let fails = nature_of(process.running.manifest) == Nature::WontSwitch;
                let moved = slot != current;
                self.green = slot == Slot::Green;
                self.told &= !moved;
                self.switches += u32::from(moved);
                if std::mem::take(&mut self.cut_switch) {
                    return;
                }
                self.told |= !fails;
                if fails {
                    let message = "the hook says no".into();
                    self.outcomes.push(Outcome::SwitchFailed { app, instance, message });
                }
            }
            Action::Discard { keep, .. } => {
                for process in self.slots.values() {
                    assert!(keep.contains(&process.running.manifest), "what runs is kept");
                }
                self.staged.retain(|staged| keep.contains(staged));
            }
            Action::Remove { .. } => {
                self.slots.clear();
                self.strays.clear();
                self.staged.clear();
                (self.green, self.told) = (false, false);
            }
            Action::Commit { manifest, .. } => {
                assert!(self.told, "nothing is proven without traffic");
                let current = self.at(current).expect("it runs").running.manifest;
                assert_eq!(current, manifest, "what is committed has the traffic");
                self.proven.insert(manifest);
            }
            Action::Emit(_) | Action::CutLogs { .. } | Action::Reboot { .. } => {}
        }
    }

    fn advance(&mut self, ms: i64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + 1_000).min(end);
            for process in self.slots.values_mut() {
                if nature_of(process.running.manifest) == Nature::CrashLoop {
                    process.running.restarts += 1;
                    process.since = self.now;
                }
            }
            self.tick(true);
        }
    }

    fn desire(&mut self, release: usize, permit_ms: i64, config: u8) {
        self.permits += 1;
        let until = MonoMs(self.now + permit_ms);
        let permit = LivePermit { uid: PermitId(Uuid::from_u128(self.permits)), until };
        self.offer = Some((release, permit, self.resumed, config));
        self.tick(true);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Advance(ms) => self.advance(*ms),
            Op::Desire { release, permit_ms, config } => self.desire(*release, *permit_ms, *config),
            Op::KillAgent { before_acting } => {
                self.tick(!before_acting);
                self.outcomes.clear();
                let stored = serde_json::to_vec(&self.state).unwrap();
                self.state = serde_json::from_slice(&stored).unwrap();
                self.tick(true);
            }
            Op::CutSwitch => self.cut_switch = true,
            Op::Runner { up } => self.runner_down = !up,
            Op::Reboot => {
                self.slots.clear();
                self.strays.clear();
                self.outcomes.clear();
                self.now = 10;
                self.state.rebooted();
                if let Some((_, permit, ..)) = &mut self.offer {
                    permit.until = MonoMs(0);
                }
                self.tick(true);
            }
            Op::KillSupervisor { current } => {
                let slot = if *current { self.current() } else { self.current().other() };
                if let Some(process) = self.slots.remove(slot.as_str()) {
                    self.strays.insert(slot.as_str(), process.running.instance);
                }
            }
            Op::Restart => self.restart = true,
            Op::Back => self.back = true,
            Op::Drop => {
                self.offer = None;
                self.tick(true);
            }
            Op::Drain { stopped } => self.stopped = *stopped,
        }
    }

    /// The newest good release with a permit that lasts, resumed by a person, and nothing in its way.
    fn converge(&mut self) {
        (self.runner_down, self.stopped, self.cut_switch) = (false, false, false);
        self.advance(5_000);
        self.resumed += 1;
        self.desire(LAST, 10_000_000, 0);
        self.advance(400_000);
        let app = self.app();
        assert_eq!(app.active.as_ref().map(|active| active.manifest), Some(manifest_of(LAST)), "{app:?}");
        assert!(app.trial.is_none() && app.warm.is_none(), "{app:?}");
        assert_eq!(self.slots.len(), 1, "one instance is left: {app:?}");
        assert!(self.strays.is_empty(), "{:?} {app:?}", self.strays);
        assert!(self.at(self.current()).is_some_and(|process| app.is_target(&process.running)), "{app:?}");
        assert!(self.told, "and has the traffic");
    }
}

/// Releases one after the other, nothing cut.
fn in_peace() -> impl Strategy<Value = Vec<(usize, i64)>> {
    proptest::collection::vec((0..NATURES.len(), 0..60_000_i64), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_cut_one_slot_has_the_traffic_in_the_end_and_nothing_is_left_beside_it(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.converge();
    }

    #[test]
    fn while_nothing_is_cut_the_traffic_always_has_somewhere_to_go(steps in in_peace()) {
        let mut world = World::new();
        world.desire(0, 1_000_000, 0);
        world.advance(30_000);
        prop_assert!(world.proven.contains(&manifest_of(0)));
        for (release, ms) in steps {
            let app = world.app();
            let before = app.previous.filter(|_| app.warm.is_none()).map(|before| before.manifest);
            if before == Some(manifest_of(release)) {
                // A release that was good and does not run any more is gone back to by a plain start.
                continue;
            }
            world.desire(release, 1_000_000, 0);
            let end = world.now + ms;
            while world.now < end {
                world.advance(1_000);
                let there = world.at(world.current());
                prop_assert!(there.is_some_and(|process| process.running.up), "nothing where the traffic goes");
            }
        }
        prop_assert!(world.switches > 0 || !world.proven.contains(&manifest_of(LAST)));
    }
}

/// A good release, then one of this nature.
fn one_after(index: usize) -> World {
    let mut world = World::new();
    world.desire(0, 1_000_000, 0);
    world.advance(30_000);
    world.desire(index, 1_000_000, 0);
    world
}

#[test]
fn a_good_release_is_checked_beside_the_old_one_which_is_kept_for_its_soak() {
    let mut world = one_after(3);
    world.advance(1_000);
    assert_eq!(
        (world.slots.len(), world.current()),
        (2, Slot::Blue),
        "both run, and the old one has the traffic"
    );
    world.advance(3_000);
    assert_eq!(
        (world.slots.len(), world.current()),
        (2, Slot::Green),
        "the new one has it, the old one is warm"
    );
    let old = world.at(Slot::Blue).map(|process| process.running.instance);
    assert_eq!(world.app().warm.map(|warm| warm.instance), old);
    world.advance(15_000);
    assert_eq!((world.slots.len(), world.current()), (1, Slot::Green));
}

#[test]
fn one_that_never_gets_healthy_is_stopped_and_the_old_one_was_not_touched() {
    for index in [1, 4, 5, 6] {
        let mut world = one_after(index);
        let (old, since) = world.at(Slot::Blue).map(|p| (p.running.clone(), p.since)).unwrap();
        world.advance(120_000);
        let there = world.at(Slot::Blue).unwrap();
        assert_eq!((&there.running, there.since), (&old, since), "the very same process");
        assert_eq!((world.slots.len(), world.current()), (1, Slot::Blue), "{:?}", NATURES[index]);
        assert!(world.app().is_held(manifest_of(index)) && world.told, "{:?}", world.app());
    }
}

#[test]
fn one_that_fails_in_its_soak_gives_the_traffic_back_without_a_start() {
    let mut world = one_after(2);
    let (old, since) = world.at(Slot::Blue).map(|p| (p.running.clone(), p.since)).unwrap();
    world.advance(4_000);
    assert_eq!(world.current(), Slot::Green, "it was good at first");
    world.advance(60_000);
    let there = world.at(Slot::Blue).unwrap();
    assert_eq!((&there.running, there.since), (&old, since), "the very same process");
    assert_eq!((world.slots.len(), world.current(), world.switches), (1, Slot::Blue, 2));
    assert!(world.app().is_held(manifest_of(2)) && world.told, "{:?}", world.app());
}
