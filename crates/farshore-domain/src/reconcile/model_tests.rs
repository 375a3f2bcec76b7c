//! A model of a device under the reconciler: releases of every kind, a runner that fails and vanishes, an agent that dies
//! between persisting and acting, reboots, permits that expire.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::desired::DesiredRelease;
use crate::digest::Digest;
use crate::id::{PermitId, ReleaseId};
use crate::name::Name;
use crate::time::UnixMs;
use crate::version::Version;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Good,
    NeverHealthy,
    CrashLoop,
    SickInSoak,
    WontStart,
    BadBytes,
    Unsigned,
}

const NATURES: [Nature; 8] = [
    Nature::Good,
    Nature::NeverHealthy,
    Nature::CrashLoop,
    Nature::Good,
    Nature::SickInSoak,
    Nature::WontStart,
    Nature::BadBytes,
    Nature::Unsigned,
];

fn manifest_of(index: usize) -> Digest {
    Digest::of(&[u8::try_from(index).unwrap()])
}

fn index_of(manifest: Digest) -> usize {
    (0..NATURES.len()).find(|index| manifest_of(*index) == manifest).unwrap()
}

/// The last release is always good and above every floor, so that the world can be asked to converge.
fn version_of(index: usize) -> Version {
    format!("1.{index}").parse().unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    Advance(i64),
    Desire {
        release: usize,
        permit_ms: Option<i64>,
        resume: bool,
    },
    Drop,
    KillAgent {
        before_acting: bool,
    },
    Runner {
        up: bool,
    },
    Reboot,
    KillApp,
    /// The disk fills or has room again; whether the runner can see it before it is asked to start something.
    Disk {
        full: bool,
        seen: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (0..20_000_i64).prop_map(Op::Advance),
        4 => (0..NATURES.len(), proptest::option::weighted(0.8, 0..60_000_i64), any::<bool>())
            .prop_map(|(release, permit_ms, resume)| Op::Desire { release, permit_ms, resume }),
        1 => Just(Op::Drop),
        2 => any::<bool>().prop_map(|before_acting| Op::KillAgent { before_acting }),
        1 => any::<bool>().prop_map(|up| Op::Runner { up }),
        1 => Just(Op::Reboot),
        1 => Just(Op::KillApp),
        2 => any::<(bool, bool)>().prop_map(|(full, seen)| Op::Disk { full, seen }),
    ];
    proptest::collection::vec(op, 1..60)
}

struct World {
    name: Name,
    now: i64,
    state: DeviceState,
    offer: Option<(usize, Option<LivePermit>, u64)>,
    desired_known: bool,
    runner_up: bool,
    full: bool,
    full_is_seen: bool,
    staged: BTreeSet<Digest>,
    running: Option<(Running, i64)>,
    outcomes: Vec<Outcome>,
    permits: u128,
    resumed: u64,
    /// What the model remembers to judge with.
    committed: Option<Digest>,
    activated: BTreeSet<Digest>,
    given_up: BTreeMap<Digest, u64>,
    floor: Option<Version>,
}

impl World {
    fn new() -> Self {
        Self {
            name: Name::new("web").unwrap(),
            now: 1_000,
            state: DeviceState::default(),
            offer: None,
            desired_known: false,
            runner_up: true,
            full: false,
            full_is_seen: false,
            staged: BTreeSet::new(),
            running: None,
            outcomes: Vec::new(),
            permits: 0,
            resumed: 0,
            committed: None,
            activated: BTreeSet::new(),
            given_up: BTreeMap::new(),
            floor: None,
        }
    }

    fn checks(&self) -> Checks {
        let Some((running, since)) = &self.running else { return Checks::Unknown };
        let age = self.now - since;
        match NATURES[index_of(running.manifest)] {
            _ if !running.up => Checks::Unknown,
            Nature::NeverHealthy if age > 3_000 => Checks::Failed { message: "503".into() },
            Nature::NeverHealthy => Checks::Wavering { message: "503".into() },
            Nature::SickInSoak if age > 4_000 => Checks::Failed { message: "sick".into() },
            _ if age < 500 => Checks::Unknown,
            _ => Checks::Good,
        }
    }

    fn inputs(&mut self) -> Inputs {
        let desired = self.desired_known.then(|| {
            self.offer
                .iter()
                .map(|(index, permit, resumed)| Offer {
                    app: self.name.clone(),
                    release: DesiredRelease {
                        uid: ReleaseId(Uuid::from_u128(*index as u128 + 1)),
                        version: version_of(*index),
                        manifest: manifest_of(*index),
                    },
                    manifest: if NATURES[*index] == Nature::Unsigned {
                        Offered::Refused {
                            code: "BadSignature".into(),
                            message: "no trusted key signed it".into(),
                        }
                    } else {
                        Offered::Verified(Terms {
                            floor: index.is_multiple_of(3).then(|| version_of(*index)),
                            soak_ms: 10_000,
                            start_timeout_ms: 15_000,
                            max_restarts: 2,
                            backoff_ms: 500,
                            max_backoff_ms: 8_000,
                        })
                    },
                    permit: *permit,
                    resumed: *resumed,
                    config: Digest::of(b"config"),
                    needs: Vec::new(),
                    beside: false,
                })
                .collect()
        });
        let observed = self.runner_up.then(|| {
            let observed = Observed {
                staged: self.staged.clone(),
                running: self.running.as_ref().map(|(r, _)| r.clone()),
                full: self.full && self.full_is_seen,
                ..Observed::default()
            };
            BTreeMap::from([(self.name.clone(), observed)])
        });
        Inputs {
            desired,
            observed,
            checks: BTreeMap::from([(self.name.clone(), self.checks())]),
            outcomes: std::mem::take(&mut self.outcomes),
            ..Inputs::default()
        }
    }

    /// One decision; its actions are carried out unless the agent dies first.
    fn tick(&mut self, act: bool) {
        let inputs = self.inputs();
        let now = Now { mono: MonoMs(self.now), wall: UnixMs(self.now) };
        let (state, actions) = decide(self.state.clone(), &inputs, now);
        if self.full && self.full_is_seen {
            self.check_waits(&state, &actions);
        }
        let _ = view(&state, &inputs, UnixMs(0));
        self.state = state;
        self.check_state();
        for action in actions {
            self.check_action(&action);
            if act && self.runner_up {
                self.carry_out(action);
            }
        }
    }

    /// With a full disk no release is given up, and nothing is stopped for another one.
    fn check_waits(&self, after: &DeviceState, actions: &[Action]) {
        let (Some(before), Some(after)) = (self.state.apps.get(&self.name), after.apps.get(&self.name))
        else {
            return;
        };
        if !self.runner_up || self.offer.is_none() {
            return;
        }
        assert!(
            after.given_up.iter().all(|manifest| before.given_up.contains(manifest)),
            "a full disk is held against no release"
        );
        if after.active.is_some() {
            let stops = actions.iter().any(|action| matches!(action, Action::Stop { .. }));
            let up = self.running.as_ref().is_some_and(|(running, _)| running.up);
            assert!(!(stops && up), "what runs is kept while nothing could be started: {after:?}");
        }
    }

    fn check_state(&mut self) {
        let Some(app) = self.state.apps.get(&self.name) else { return };
        if let Some(failed) = &app.failed {
            self.given_up.entry(failed.manifest).or_insert(self.resumed);
        }
        if app.trial.is_some() && self.committed.is_some() {
            let previous = app.previous.as_ref().map(|previous| previous.manifest);
            assert_eq!(
                previous, self.committed,
                "the last good release is kept until the new one is committed"
            );
        }
    }

    fn check_action(&mut self, action: &Action) {
        match action {
            Action::Stage { manifest, .. } => {
                assert_ne!(NATURES[index_of(*manifest)], Nature::Unsigned, "unverified manifest staged");
            }
            Action::Start { release, .. } => {
                assert!(self.running.is_none(), "never two at once");
                assert!(self.staged.contains(&release.manifest), "started what is not staged");
                let live = self.offer.is_some_and(|(index, permit, _)| {
                    manifest_of(index) == release.manifest
                        && permit.is_some_and(|permit| permit.until.0 > self.now)
                });
                assert!(
                    live || self.activated.contains(&release.manifest),
                    "activated without a live permit"
                );
                if let Some(at) = self.given_up.get(&release.manifest) {
                    assert!(self.resumed > *at, "a release that failed is not tried again by itself");
                }
                if let Some(floor) = &self.floor {
                    assert!(release.version >= *floor, "started below the floor");
                }
            }
            Action::Discard { keep, .. } => {
                for kept in
                    [self.committed, self.running.as_ref().map(|(r, _)| r.manifest)].into_iter().flatten()
                {
                    assert!(keep.contains(&kept), "what runs, or is gone back to, is kept");
                }
            }
            Action::Commit { manifest, .. } => {
                self.committed = Some(*manifest);
                let version = version_of(index_of(*manifest));
                if index_of(*manifest).is_multiple_of(3)
                    && self.floor.as_ref().is_none_or(|floor| *floor < version)
                {
                    self.floor = Some(version);
                }
                self.given_up.clear();
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Stage { app, manifest } => {
                if NATURES[index_of(manifest)] == Nature::BadBytes {
                    let (code, message) = ("DigestMismatch".into(), "other bytes".into());
                    self.outcomes.push(Outcome::StageFailed { app, manifest, refused: true, code, message });
                } else {
                    self.staged.insert(manifest);
                    self.outcomes.push(Outcome::Staged { app, manifest });
                }
            }
            Action::Start { app, release, instance, config, .. } => {
                if NATURES[index_of(release.manifest)] == Nature::WontStart {
                    self.outcomes.push(Outcome::StartFailed {
                        app,
                        instance,
                        message: "exec format error".into(),
                    });
                    return;
                }
                if self.full {
                    let message = "No space left on device".into();
                    self.outcomes.push(Outcome::NoRoom { app, instance, message });
                    return;
                }
                self.activated.insert(release.manifest);
                let running = Running {
                    manifest: release.manifest,
                    release: release.release,
                    version: release.version,
                    instance,
                    config,
                    up: true,
                    restarts: 0,
                    last_exit: None,
                    slot: None,
                    isolation: None,
                };
                self.running = Some((running, self.now));
            }
            Action::Stop { .. } => self.running = None,
            Action::Discard { keep, .. } => self.staged.retain(|staged| keep.contains(staged)),
            Action::Remove { .. } => {
                self.running = None;
                self.staged.clear();
                self.committed = None;
                self.activated.clear();
            }
            Action::StopOne { .. } | Action::Switch { .. } => panic!("it has no slots"),
            Action::Commit { .. } | Action::Emit(_) | Action::CutLogs { .. } | Action::Reboot { .. } => {}
        }
    }

    fn advance(&mut self, ms: i64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = (self.now + 1_000).min(end);
            if let Some((running, since)) = &mut self.running
                && NATURES[index_of(running.manifest)] == Nature::CrashLoop
            {
                running.restarts += 1;
                *since = self.now;
            }
            self.tick(true);
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Advance(ms) => self.advance(*ms),
            Op::Desire { release, permit_ms, resume } => {
                self.desired_known = true;
                self.resumed += u64::from(*resume);
                let permit = permit_ms.map(|ms| {
                    self.permits += 1;
                    LivePermit { uid: PermitId(Uuid::from_u128(self.permits)), until: MonoMs(self.now + ms) }
                });
                self.offer = Some((*release, permit, self.resumed));
                self.tick(true);
            }
            Op::Drop => {
                self.offer = None;
                self.tick(true);
            }
            Op::KillAgent { before_acting } => {
                self.tick(!before_acting);
                self.outcomes.clear();
                let stored = serde_json::to_vec(&self.state).unwrap();
                self.state = serde_json::from_slice(&stored).unwrap();
                self.tick(true);
            }
            Op::Runner { up } => self.runner_up = *up,
            Op::Reboot => {
                self.running = None;
                self.outcomes.clear();
                self.now = 10;
                self.state.rebooted();
                if let Some((_, permit, _)) = &mut self.offer {
                    // A clock of another boot says nothing about this permit.
                    *permit = None;
                }
                self.tick(true);
            }
            Op::Disk { full, seen } => (self.full, self.full_is_seen) = (*full, *seen),
            Op::KillApp => {
                if let Some((running, since)) = &mut self.running {
                    running.restarts += 1;
                    *since = self.now;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn nothing_unverified_or_unpermitted_ever_starts_and_good_inputs_always_converge(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.runner_up = true;
        world.full = false;
        // What has happened is noticed first: a person resumes what he sees has failed.
        world.advance(5_000);
        // The newest good release, with a permit that lasts, resumed by a person.
        let good = 3;
        // A floor raised by a later version would rightly forbid it.
        world.floor = None;
        if let Some(app) = world.state.apps.get_mut(&world.name) {
            app.floor = None;
        }
        world.apply(&Op::Desire { release: good, permit_ms: Some(10_000_000), resume: true });
        world.advance(400_000);
        let app = &world.state.apps[&world.name];
        prop_assert_eq!(app.active.as_ref().map(|active| active.manifest), Some(manifest_of(good)), "{:?}", app);
        prop_assert!(app.trial.is_none(), "{:?}", app);
        prop_assert!(world.running.as_ref().is_some_and(|(r, _)| r.manifest == manifest_of(good)));
        prop_assert!(world.staged.len() <= 3);
    }
}
