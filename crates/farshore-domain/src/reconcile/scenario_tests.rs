//! Single scenarios, told step by step.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::*;
use crate::desired::DesiredRelease;
use crate::device::{AppPhase, Conformance, Health};
use crate::digest::Digest;
use crate::id::{PermitId, ReleaseId};
use crate::incident::{ActionKind, IncidentCause};
use crate::name::Name;
use crate::object::Reason;
use crate::release::isolation::{Isolation, Namespace};
use crate::time::UnixMs;

struct Device {
    state: DeviceState,
    inputs: Inputs,
    now: i64,
}

fn web() -> Name {
    Name::new("web").unwrap()
}

fn manifest(version: &str) -> Digest {
    Digest::of(version.as_bytes())
}

fn offer(version: &str, permit_until: Option<i64>) -> Offer {
    Offer {
        app: web(),
        release: DesiredRelease {
            uid: ReleaseId(Uuid::from_u128(u128::from(version.as_bytes()[2]))),
            version: version.parse().unwrap(),
            manifest: manifest(version),
        },
        manifest: Offered::Verified(Terms {
            floor: None,
            soak_ms: 10_000,
            start_timeout_ms: 60_000,
            max_restarts: 3,
            backoff_ms: 500,
            max_backoff_ms: 60_000,
        }),
        permit: permit_until
            .map(|until| LivePermit { uid: PermitId(Uuid::from_u128(7)), until: MonoMs(until) }),
        resumed: 0,
        config: Digest::of(b"config"),
        needs: Vec::new(),
        beside: false,
    }
}

impl Device {
    fn new() -> Self {
        let inputs = Inputs { observed: Some(BTreeMap::new()), ..Inputs::default() };
        Self { state: DeviceState::default(), inputs, now: 0 }
    }

    fn desire(&mut self, offer: Offer) {
        self.inputs.desired = Some(vec![offer]);
    }

    fn observe(&mut self, staged: &[&str], running: Option<(&str, u64, u32)>) {
        let running = running.map(|(version, instance, restarts)| Running {
            manifest: manifest(version),
            release: ReleaseId(Uuid::nil()),
            version: version.parse().unwrap(),
            instance,
            config: Digest::of(b"config"),
            up: true,
            restarts,
            last_exit: None,
            slot: None,
            isolation: None,
        });
        let staged: BTreeSet<Digest> = staged.iter().map(|version| manifest(version)).collect();
        self.inputs.observed =
            Some(BTreeMap::from([(web(), Observed { staged, running, ..Observed::default() })]));
    }

    fn full(&mut self, full: bool) {
        for observed in self.inputs.observed.iter_mut().flat_map(BTreeMap::values_mut) {
            observed.full = full;
        }
    }

    /// What keeps it full is what the release on trial has written.
    fn filled(&mut self) {
        self.full(true);
        for observed in self.inputs.observed.iter_mut().flat_map(BTreeMap::values_mut) {
            observed.filled = true;
        }
    }

    fn checks(&mut self, checks: Checks) {
        self.inputs.checks.insert(web(), checks);
    }

    fn at(&mut self, now: i64) -> Vec<Action> {
        self.now = now;
        let moment = Now { mono: MonoMs(now), wall: UnixMs(now) };
        let (state, actions) = decide(std::mem::take(&mut self.state), &self.inputs, moment);
        self.state = state;
        self.inputs.outcomes.clear();
        actions.into_iter().filter(|action| !matches!(action, Action::Emit(_))).collect()
    }

    fn app(&self) -> AppView {
        view(&self.state, &self.inputs, UnixMs(0)).apps.remove(0)
    }

    fn instance(&self) -> u64 {
        self.state.apps[&web()].instance
    }

    /// Version 1.0 committed and running.
    fn settled() -> Self {
        let mut device = Self::new();
        device.desire(offer("1.0", Some(1_000)));
        device.observe(&["1.0"], None);
        assert!(matches!(device.at(0)[..], [Action::Start { .. }]));
        device.observe(&["1.0"], Some(("1.0", device.instance(), 0)));
        device.checks(Checks::Good);
        device.at(1_000);
        assert!(matches!(device.at(11_000)[..], [Action::Commit { .. }]));
        assert_eq!(
            (device.app().phase, device.app().conformance),
            (AppPhase::Running, Conformance::Conforming)
        );
        device
    }
}

#[test]
fn a_release_is_staged_and_waits_for_its_permit() {
    let mut device = Device::new();
    device.desire(offer("1.0", None));
    assert!(matches!(device.at(0)[..], [Action::Stage { .. }]));
    assert_eq!(device.app().phase, AppPhase::Downloading);
    device.observe(&["1.0"], None);
    assert_eq!(device.at(1), []);
    assert_eq!(device.app().phase, AppPhase::Staged);
    assert_eq!(device.app().reasons[0].code, "WaitingForPermit");
    // Already over when it is looked at.
    device.desire(offer("1.0", Some(5)));
    assert_eq!(device.at(6), []);
}

#[test]
fn a_switch_that_was_only_intended_is_taken_back_when_its_permit_ends() {
    let mut device = Device::settled();
    let before = device.instance();
    device.desire(offer("1.1", Some(20_000)));
    device.observe(&["1.0", "1.1"], Some(("1.0", before, 0)));
    assert_eq!(device.at(19_000), [Action::Stop { app: web() }]);
    // The agent died before it stopped anything, and comes back after the permit's end.
    assert_eq!(device.at(21_000), []);
    assert_eq!((device.app().phase, device.instance()), (AppPhase::Staged, before));
    assert!(device.app().committed);
}

#[test]
fn a_new_release_that_fails_in_its_soak_time_goes_back_and_is_held_until_resumed() {
    let mut device = Device::settled();
    device.desire(offer("1.1", Some(90_000)));
    device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
    assert_eq!(device.at(20_000), [Action::Stop { app: web() }]);
    device.observe(&["1.0", "1.1"], None);
    assert!(
        matches!(&device.at(20_100)[..], [Action::Start { release, .. }] if release.version.as_str() == "1.1")
    );
    device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
    device.at(21_000);
    assert_eq!(device.app().phase, AppPhase::Soaking);
    device.checks(Checks::Failed { message: "web: 503".into() });
    assert_eq!(device.at(25_000), [Action::Stop { app: web() }]);
    assert_eq!(device.app().phase, AppPhase::RollingBack);
    device.observe(&["1.0", "1.1"], None);
    device.checks(Checks::Unknown);
    assert!(
        matches!(&device.at(25_100)[..], [Action::Start { release, .. }] if release.version.as_str() == "1.0")
    );
    device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
    device.checks(Checks::Good);
    assert_eq!(device.at(26_000), []);
    let app = device.app();
    assert_eq!(
        (app.phase, app.conformance, app.health),
        (AppPhase::Held, Conformance::Held, Health::Healthy)
    );
    assert_eq!(app.failed, Some(offer("1.1", None).release.uid));
    assert_eq!(app.reasons[0].code, "HealthCheckFailed");
    assert_eq!(device.at(80_000), [], "held, whatever the permit says");
    let mut resumed = offer("1.1", Some(90_000));
    resumed.resumed = 1;
    device.desire(resumed);
    assert_eq!(device.at(81_000), [Action::Stop { app: web() }]);
}

#[test]
fn a_full_disk_keeps_what_runs_and_the_new_release_waits_for_room() {
    let mut device = Device::settled();
    let before = device.instance();
    device.desire(offer("1.1", Some(90_000)));
    device.observe(&["1.0", "1.1"], Some(("1.0", before, 0)));
    device.full(true);
    assert_eq!(device.at(20_000), [], "what runs is not stopped for what could not be started");
    let app = device.app();
    assert_eq!((app.phase, app.health), (AppPhase::Staged, Health::Healthy));
    assert_eq!(app.reasons[0].code, "WaitingForRoom");
    assert_eq!(app.reasons[0].message, "version 1.1 is ready and waits for room on the disk");
    device.full(false);
    assert_eq!(device.at(21_000), [Action::Stop { app: web() }]);
}

#[test]
fn a_start_without_room_is_tried_again_and_never_counts_against_the_release() {
    let mut device = Device::settled();
    device.desire(offer("1.1", Some(30_000)));
    device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
    assert_eq!(device.at(20_000), [Action::Stop { app: web() }]);
    device.observe(&["1.0", "1.1"], None);
    // It filled between the look and the start; a quota, say, that nobody sees beforehand.
    let mut now = 20_100;
    for _ in 0..20 {
        assert!(
            matches!(&device.at(now)[..], [Action::Start { release, .. }] if release.version.as_str() == "1.1")
        );
        let (app, instance) = (web(), device.instance());
        device.inputs.outcomes.push(Outcome::NoRoom { app, instance, message: "no space left".into() });
        assert_eq!(device.at(now + 100), []);
        let app = device.app();
        assert_eq!((app.phase, app.restarts, app.failed), (AppPhase::Starting, 0, None));
        assert_eq!(app.reasons[0].code, "WaitingForRoom");
        assert!(app.reasons[0].message.ends_with("no space left"), "{:?}", app.reasons);
        assert_eq!(device.at(now + 9_000), [], "not at once");
        now += 10_200;
        // The control plane gives a new permit as long as the device says that it waits.
        device.desire(offer("1.1", Some(now + 15_000)));
    }
    assert!(matches!(device.at(now)[..], [Action::Start { .. }]));
    device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
    device.at(now + 1_000);
    assert!(matches!(device.at(now + 11_000)[..], [Action::Commit { .. }]));
    assert_eq!(device.app().reasons, []);
}

/// Version 1.1 was started at 20.1 s, runs on trial, and was restarted so often.
fn on_trial(restarts: u32) -> Device {
    let mut device = Device::settled();
    device.desire(offer("1.1", Some(90_000)));
    device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
    device.at(20_000);
    device.observe(&["1.0", "1.1"], None);
    device.at(20_100);
    device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), restarts)));
    device
}

#[test]
fn a_release_on_trial_that_fails_on_a_full_disk_is_judged_when_there_is_room() {
    let mut device = on_trial(9);
    device.full(true);
    device.checks(Checks::Failed { message: "web: 503".into() });
    assert_eq!(device.at(21_000), []);
    let state = device.state.clone();
    for now in [22_000, 90_000, 900_000] {
        assert_eq!(device.at(now), []);
        assert_eq!(device.state, state, "nothing that would have to be written on a full disk");
    }
    assert_eq!(device.app().reasons[0].code, "WaitingForRoom");
    device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
    device.checks(Checks::Wavering { message: "web: 503".into() });
    assert_eq!(device.at(901_000), [], "its time to start begins with the room");
    device.checks(Checks::Good);
    device.at(902_000);
    assert!(matches!(device.at(912_000)[..], [Action::Commit { .. }]));
}

/// Version 1.1 runs on trial beside a disk that it has filled; its time to make room began at 22 s.
fn filled() -> Device {
    let mut device = on_trial(0);
    device.checks(Checks::Good);
    device.at(21_000);
    device.filled();
    assert_eq!(device.at(22_000), []);
    let (reason, state) = (device.app().reasons.remove(0), device.state.clone());
    assert_eq!(reason.code, "WaitingForRoom");
    assert!(reason.message.starts_with("version 1.1 has filled the disk"), "{reason:?}");
    assert_eq!(device.at(50_000), [], "healthy or not, it is not committed");
    assert_eq!(device.state, state, "nothing that would have to be written on a full disk");
    device
}

#[test]
fn a_release_on_trial_that_has_filled_the_disk_itself_is_gone_back_from_without_room() {
    let mut device = filled();
    assert_eq!(device.at(82_000), [Action::Stop { app: web() }]);
    let app = device.app();
    assert_eq!(app.failed, Some(offer("1.1", None).release.uid));
    assert!(app.reasons.iter().any(|reason| reason.code == "DiskFilled"), "{:?}", app.reasons);
    // What it has written is still there, and the release before is started all the same.
    device.observe(&["1.0", "1.1"], None);
    device.filled();
    let starts_old = |actions: &[Action]| matches!(actions, [Action::Start { release, .. }] if release.version.as_str() == "1.0");
    assert!(starts_old(&device.at(83_000)));
    let (app, instance) = (web(), device.instance());
    device.inputs.outcomes.push(Outcome::NoRoom { app, instance, message: "no space left".into() });
    assert_eq!(device.at(84_000), [], "not at once");
    assert!(starts_old(&device.at(94_001)), "as long as it takes");
    device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
    device.full(true);
    assert_eq!(device.at(95_000), []);
    assert_eq!((device.app().phase, device.app().conformance), (AppPhase::Held, Conformance::Held));
}

#[test]
fn a_release_on_trial_that_makes_room_again_is_judged_as_any_other() {
    let mut device = filled();
    device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
    device.at(60_000);
    assert!(matches!(device.at(70_000)[..], [Action::Commit { .. }]), "its soak began anew with the room");
}

#[test]
fn a_release_on_trial_that_fills_the_disk_again_and_again_is_gone_back_from() {
    let mut device = filled();
    for now in [52_000, 60_000, 68_000, 76_000] {
        device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
        assert_eq!(device.at(now), [], "there is room for a moment");
        device.filled();
        assert_eq!(device.at(now + 4_000), []);
    }
    assert_eq!(device.at(82_000), [Action::Stop { app: web() }]);
    assert!(device.app().reasons.iter().any(|reason| reason.code == "DiskFilled"));
}

#[test]
fn a_release_on_trial_that_has_filled_the_disk_makes_way_for_no_other_that_would_be_on_trial() {
    let mut device = filled();
    device.desire(offer("1.2", Some(900_000)));
    device.observe(&["1.0", "1.1", "1.2"], Some(("1.1", device.instance(), 0)));
    device.filled();
    assert_eq!(device.at(60_000), []);
    assert_eq!(device.at(82_000), [Action::Stop { app: web() }]);
    device.observe(&["1.0", "1.1", "1.2"], None);
    device.filled();
    assert!(
        matches!(&device.at(83_000)[..], [Action::Start { release, .. }] if release.version.as_str() == "1.0")
    );
}

#[test]
fn a_release_on_trial_that_has_filled_the_disk_and_does_not_run_is_gone_back_from_at_once() {
    let mut device = filled();
    device.observe(&["1.0", "1.1"], None);
    device.filled();
    assert!(
        matches!(&device.at(51_000)[..], [Action::Start { release, .. }] if release.version.as_str() == "1.0")
    );
}

#[test]
fn what_was_good_is_started_again_on_a_full_disk_as_well_as_that_goes() {
    let mut device = Device::settled();
    device.observe(&["1.0"], None);
    device.full(true);
    assert!(
        matches!(device.at(20_000)[..], [Action::Start { .. }]),
        "there may be a little that is kept back"
    );
}

#[test]
fn a_committed_release_is_not_restarted_for_failing_checks_while_the_disk_is_full() {
    let mut device = Device::settled();
    device.observe(&["1.0"], Some(("1.0", device.instance(), 0)));
    device.full(true);
    device.checks(Checks::Failed { message: "web: 503".into() });
    for now in [100_000, 200_000, 300_000] {
        assert_eq!(device.at(now), []);
    }
    device.full(false);
    assert_eq!(device.at(301_000), [Action::Stop { app: web() }]);
}

#[test]
fn a_first_release_that_fails_is_stopped_and_held() {
    let mut device = Device::new();
    device.desire(offer("1.0", Some(1_000)));
    device.observe(&["1.0"], None);
    device.at(0);
    device.observe(&["1.0"], Some(("1.0", device.instance(), 4)));
    assert_eq!(device.at(3_000), [Action::Stop { app: web() }]);
    device.observe(&["1.0"], None);
    assert_eq!(device.at(4_000), []);
    let app = device.app();
    assert_eq!(
        (app.phase, app.conformance, app.health),
        (AppPhase::Failing, Conformance::Held, Health::Failing)
    );
    assert_eq!(app.reasons[0].code, "RestartedTooOften");
}

#[test]
fn a_committed_release_with_failing_checks_is_restarted_with_growing_pauses_and_never_rolled_back() {
    let mut device = Device::settled();
    device.checks(Checks::Failed { message: "web: refused".into() });
    let mut restarts = Vec::new();
    for now in (20_000..600_000).step_by(1_000) {
        let actions = device.at(now);
        if actions.iter().any(|action| matches!(action, Action::Stop { .. })) {
            restarts.push(now);
            device.observe(&["1.0"], None);
            assert!(matches!(device.at(now)[..], [] | [Action::Start { .. }]));
            device.observe(&["1.0"], Some(("1.0", device.instance(), 0)));
        }
    }
    assert!((4..12).contains(&restarts.len()), "{restarts:?}");
    assert_eq!(device.app().health, Health::Failing);
    assert_eq!(device.state.apps[&web()].active.as_ref().unwrap().version.as_str(), "1.0");
}

#[test]
fn a_release_below_the_floor_is_refused_and_said() {
    let mut device = Device::settled();
    device.state.apps.get_mut(&web()).unwrap().floor = Some("1.0".parse().unwrap());
    device.desire(offer("0.9", Some(90_000)));
    device.observe(&["1.0", "0.9"], Some(("1.0", device.instance(), 0)));
    assert!(
        !device.at(20_000).iter().any(|action| matches!(action, Action::Stop { .. } | Action::Stage { .. }))
    );
    let app = device.app();
    assert_eq!((app.phase, app.conformance), (AppPhase::Running, Conformance::Diverged));
    assert!(app.reasons.iter().any(|reason| reason.code == "BelowFloor"));
    // The floor outlives the app.
    device.inputs.desired = Some(Vec::new());
    device.observe(&[], None);
    device.at(21_000);
    assert!(device.state.apps[&web()].floor.is_some());
}

#[test]
fn what_runs_is_adopted_when_the_state_was_lost() {
    let mut device = Device::new();
    device.observe(&["1.0"], Some(("1.0", 9, 0)));
    device.checks(Checks::Good);
    assert_eq!(device.at(0), [], "without a desired state everything stays");
    device.desire(offer("1.0", None));
    assert_eq!(device.at(1), []);
    assert_eq!((device.app().phase, device.instance()), (AppPhase::Running, 9));
}

#[test]
fn without_a_runner_nothing_is_held_against_a_release() {
    let mut device = Device::new();
    device.desire(offer("1.0", Some(1_000)));
    device.observe(&["1.0"], None);
    device.at(0);
    device.inputs.observed = None;
    assert_eq!(device.at(3_600_000), []);
    assert_eq!(device.app().failed, None);
}

#[test]
fn a_changed_config_restarts_what_runs() {
    let mut device = Device::settled();
    let before = device.instance();
    let mut changed = offer("1.0", None);
    changed.config = Digest::of(b"other");
    device.desire(changed);
    assert_eq!(device.at(20_000), [Action::Stop { app: web() }]);
    assert_eq!(device.instance(), before + 1);
}

/// Lets checks fail until an app does something else than being restarted. Returns how often it was restarted.
fn fail_until_it_changes(device: &mut Device, version: &str, from: i64) -> (usize, i64) {
    device.checks(Checks::Failed { message: "web: refused".into() });
    let mut restarts = 0;
    for now in (from..from + 3_600_000).step_by(1_000) {
        let stopped = device.at(now).iter().any(|action| matches!(action, Action::Stop { .. }));
        let active = device.state.apps[&web()].active.clone();
        if active.is_none_or(|active| active.version.as_str() != version) {
            return (restarts, now);
        }
        if stopped {
            restarts += 1;
            device.observe(&["1.0", "1.1", "0.9"], None);
            device.at(now);
            device.observe(&["1.0", "1.1", "0.9"], Some((version, device.instance(), 0)));
        }
    }
    panic!("nothing changed after {restarts} restarts");
}

/// Version 1.1 committed, 1.0 before it.
fn with_a_release_before() -> Device {
    let mut device = Device::settled();
    device.desire(offer("1.1", Some(90_000)));
    device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
    assert_eq!(device.at(20_000), [Action::Stop { app: web() }]);
    device.observe(&["1.0", "1.1"], None);
    assert!(matches!(device.at(20_100)[..], [Action::Start { .. }]));
    device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
    device.checks(Checks::Good);
    device.at(20_200);
    assert!(matches!(device.at(31_000)[..], [Action::Commit { .. }]));
    device.desire(offer("1.1", None));
    device
}

#[test]
fn a_policy_leads_down_the_ladder_step_by_step_and_a_resume_leads_up_again() {
    let mut device = with_a_release_before();
    device.inputs.policy.rollback.after_restarts = Some(3);
    device.inputs.policy.restart.max_restarts = Some(4);
    device.inputs.policy.restart.window_seconds = Some(3_600);
    let Offered::Verified(terms) = offer("0.9", None).manifest else { unreachable!() };
    let safe = Installed {
        release: ReleaseId(Uuid::from_u128(9)),
        version: "0.9".parse().unwrap(),
        manifest: manifest("0.9"),
        terms,
    };
    device.inputs.policy.safe.insert(web(), safe);
    // The safe-mode release is fetched while all is well.
    assert_eq!(device.at(32_000), [Action::Stage { app: web(), manifest: manifest("0.9") }]);
    device.observe(&["1.0", "1.1", "0.9"], Some(("1.1", device.instance(), 0)));
    assert_eq!(device.at(33_000), [], "and is not discarded");

    let (restarts, now) = fail_until_it_changes(&mut device, "1.1", 40_000);
    assert_eq!(restarts, 3);
    let app = device.app();
    assert_eq!(app.active.as_ref().unwrap().1.as_str(), "1.0");
    assert_eq!((app.phase, app.conformance), (AppPhase::RollingBack, Conformance::Held));
    assert_eq!(app.reasons[0].code, "HealthCheckFailed");

    device.observe(&["1.0", "1.1", "0.9"], None);
    device.at(now + 1_000);
    device.observe(&["1.0", "1.1", "0.9"], Some(("1.0", device.instance(), 0)));
    let (restarts, now) = fail_until_it_changes(&mut device, "1.0", now + 2_000);
    assert_eq!(restarts, 3, "a new release has a new budget");
    assert_eq!(device.app().active.unwrap().1.as_str(), "0.9");

    device.observe(&["1.0", "1.1", "0.9"], None);
    device.at(now + 1_000);
    device.observe(&["1.0", "1.1", "0.9"], Some(("0.9", device.instance(), 0)));
    let (restarts, now) = fail_until_it_changes(&mut device, "0.9", now + 2_000);
    assert_eq!(restarts, 5, "nothing is left, so the whole budget is used");
    let app = device.app();
    assert_eq!((app.active, app.phase, app.health), (None, AppPhase::Failing, Health::Failing));

    // Held until somebody resumes it; then what is desired is tried again.
    // What was given up on the way and is not desired is deleted.
    device.observe(&["1.1", "0.9"], None);
    assert_eq!(device.at(now + 3_600_000), []);
    let mut resumed = offer("1.1", Some(now + 4_000_000));
    resumed.resumed = 1;
    device.desire(resumed);
    assert!(matches!(device.at(now + 3_601_000)[..], [Action::Start { .. }]));
}

#[test]
fn steps_are_told_with_their_cause() {
    let mut device = with_a_release_before();
    device.inputs.policy.rollback.after_restarts = Some(1);
    device.checks(Checks::Breached { message: "condition hot".into() });
    let mut steps = Vec::new();
    for now in [40_000, 41_000] {
        let moment = Now { mono: MonoMs(now), wall: UnixMs(now) };
        let (state, actions) = decide(std::mem::take(&mut device.state), &device.inputs, moment);
        device.state = state;
        steps.extend(actions.into_iter().filter_map(|action| match action {
            Action::Emit(event) => event.healing.map(|healing| (event.kind, healing.cause, healing.step)),
            _ => None,
        }));
        device.observe(&["1.0", "1.1"], Some(("1.1", device.instance(), 0)));
    }
    assert_eq!(
        steps,
        [
            ("health.failed", IncidentCause::PolicyBreach, ActionKind::AutoRestart),
            ("release.rolled-back", IncidentCause::PolicyBreach, ActionKind::Rollback),
        ]
    );
}

#[test]
fn the_ladder_never_leads_below_the_floor_and_a_reboot_does_not_forgive() {
    let mut device = with_a_release_before();
    device.inputs.policy.rollback.after_restarts = Some(2);
    device.inputs.policy.restart.max_restarts = Some(2);
    device.state.apps.get_mut(&web()).unwrap().floor = Some("1.1".parse().unwrap());
    device.state.apps.get_mut(&web()).unwrap().restarts = vec![MonoMs(39_000); 2];
    device.state.rebooted();
    let (restarts, _) = fail_until_it_changes(&mut device, "1.1", 40_000);
    assert_eq!(restarts, 1);
    assert_eq!(device.app().active, None, "1.0 is below the floor");
}

#[test]
fn outside_its_windows_a_device_neither_fetches_nor_activates_and_says_until_when() {
    use crate::schedule::{Shut, WindowKind};
    let closed = |kind| Some(Closed { by: Shut::Window(kind), next: Some(UnixMs(7_200_000)) });
    let mut device = Device::new();
    device.desire(offer("1.1", Some(1_000_000)));
    device.inputs.hours.download = closed(WindowKind::Download);
    device.inputs.hours.install = closed(WindowKind::Maintenance);
    assert_eq!(device.at(0), []);
    let reason = device.app().reasons.remove(0);
    assert!(reason.code == "DownloadWindow" && reason.message.contains("1970-01-01T02:00:00Z"), "{reason:?}");
    device.inputs.hours.download = None;
    assert!(matches!(device.at(1)[..], [Action::Stage { .. }]));
    device.observe(&["1.1"], None);
    // The permit is live, and the window is shut.
    assert_eq!(device.at(2), []);
    assert_eq!(
        (device.app().phase, device.app().reasons[0].code.as_str()),
        (AppPhase::Staged, "MaintenanceWindow")
    );
    device.inputs.hours.install = None;
    assert!(matches!(device.at(3)[..], [Action::Start { .. }]));
}

#[test]
fn the_way_back_and_what_is_broken_wait_for_no_window() {
    let shut = || Some(Closed { by: crate::schedule::Shut::Blackout, next: None });
    for broken in [true, false] {
        let mut device = Device::settled();
        device.inputs.hours.install = shut();
        device.desire(offer("1.1", Some(90_000)));
        device.observe(&["1.0", "1.1"], Some(("1.0", device.instance(), 0)));
        assert_eq!(device.at(20_000), []);
        if broken {
            device.checks(Checks::Failed { message: "it does not answer".into() });
        } else {
            device.inputs.hours.going_back.insert(web());
        }
        assert_eq!(device.at(21_000), [Action::Stop { app: web() }], "broken: {broken}");
    }
}

#[test]
fn it_is_set_up_anew_once_then_the_device_reboots_once_a_day_and_then_it_is_held() {
    let mut device = Device::settled();
    device.inputs.policy.restart.recreate_after = Some(2);
    device.inputs.policy.restart.max_restarts = Some(3);
    device.inputs.policy.rollback.reboot = Some(true);
    let instance = device.instance();
    device.observe(&["1.0"], Some(("1.0", instance, 2)));
    assert_eq!(device.at(20_000), [Action::Stop { app: web() }]);
    assert_eq!(device.instance(), instance + 1);
    device.observe(&["1.0"], None);
    assert!(matches!(device.at(20_100)[..], [Action::Start { .. }]));
    device.observe(&["1.0"], Some(("1.0", device.instance(), 0)));
    assert_eq!(device.at(21_000), []);
    device.observe(&["1.0"], Some(("1.0", device.instance(), 2)));
    assert_eq!(device.at(22_000), [Action::Reboot { app: web() }]);
    device.state.rebooted();
    device.observe(&["1.0"], None);
    assert!(matches!(device.at(100)[..], [Action::Start { .. }]), "it has a new budget");
    device.now = 0;
    device.inputs.policy.restart.recreate_after = None;
    device.observe(&["1.0"], Some(("1.0", device.instance(), 0)));
    assert_eq!(device.at(23_000), []);
    device.observe(&["1.0"], Some(("1.0", device.instance(), 4)));
    // Not a second time on the same day.
    assert_eq!(device.at(24_000), [Action::Stop { app: web() }]);
    assert_eq!(device.app().phase, AppPhase::Failing);
}

#[test]
fn apps_start_after_what_they_need_and_stop_before_it() {
    let (db, need) = (Name::new("db").unwrap(), |device: &mut Device| {
        let mut web = offer("1.0", Some(90_000));
        web.needs = vec![Name::new("db").unwrap()];
        let db = Offer { app: Name::new("db").unwrap(), ..offer("1.0", Some(90_000)) };
        device.inputs.desired = Some(vec![web, db]);
    });
    let mut device = Device::new();
    need(&mut device);
    let staged = BTreeSet::from([manifest("1.0"), manifest("1.1")]);
    let show = |device: &mut Device, running: &[(&Name, &str)]| {
        let observed = [web(), Name::new("db").unwrap()].map(|name| {
            let instance = device.state.apps.get(&name).map_or(1, |app| app.instance);
            let running = running.iter().find(|(app, _)| **app == name).map(|(_, version)| Running {
                manifest: manifest(version),
                release: ReleaseId(Uuid::nil()),
                version: version.parse().unwrap(),
                instance,
                config: Digest::of(b"config"),
                up: true,
                restarts: 0,
                last_exit: None,
                slot: None,
                isolation: None,
            });
            (name, Observed { staged: staged.clone(), running, ..Observed::default() })
        });
        device.inputs.observed = Some(BTreeMap::from(observed));
    };
    let starts = |actions: &[Action]| -> Vec<String> {
        let start = |action: &Action| match action {
            Action::Start { app, .. } => Some(app.to_string()),
            _ => None,
        };
        actions.iter().filter_map(start).collect()
    };
    show(&mut device, &[]);
    assert_eq!(starts(&device.at(0)), ["db"], "web waits");
    let reasons: Vec<_> = view(&device.state, &device.inputs, UnixMs(0))
        .apps
        .into_iter()
        .flat_map(|app| app.reasons)
        .map(|reason| reason.code)
        .collect();
    assert!(reasons.contains(&"WaitingForApp".to_owned()), "{reasons:?}");
    show(&mut device, &[(&db, "1.0")]);
    assert_eq!(starts(&device.at(100)), ["web"]);
    show(&mut device, &[(&db, "1.0"), (&web(), "1.0")]);
    device.inputs.checks = BTreeMap::from([(web(), Checks::Good), (db.clone(), Checks::Good)]);
    device.at(1_000);
    device.at(12_000);
    // A new release of db: web is stopped first, then db, and they come back the other way round.
    need(&mut device);
    if let Some(offers) = &mut device.inputs.desired {
        offers[1] = Offer { app: db.clone(), ..offer("1.1", Some(90_000)) };
    }
    show(&mut device, &[(&db, "1.0"), (&web(), "1.0")]);
    let before = device.state.apps[&db].instance;
    let stops = device.at(20_000);
    assert_eq!(stops, [Action::Stop { app: web() }]);
    if let Some(observed) = &mut device.inputs.observed {
        observed.get_mut(&web()).unwrap().running = None;
    }
    assert!(device.at(20_100).contains(&Action::Stop { app: db.clone() }));
    assert_eq!(device.state.apps[&db].instance, before + 1);
    show(&mut device, &[]);
    assert_eq!(starts(&device.at(20_200)), ["db"]);
    show(&mut device, &[(&db, "1.1")]);
    assert_eq!(starts(&device.at(20_300)), ["web"]);
}

#[test]
fn what_a_policy_demands_more_is_told_of_an_app_that_runs_and_restarts_nothing() {
    let mut device = Device::settled();
    let demanded = Isolation { pid: Some(Namespace::Private), ..Isolation::default() };
    let show = |device: &mut Device, isolation: Option<Isolation>| {
        device.observe(&["1.0"], Some(("1.0", device.instance(), 0)));
        let observed = device.inputs.observed.as_mut().and_then(|apps| apps.get_mut(&web()));
        if let Some(running) = observed.and_then(|observed| observed.running.as_mut()) {
            running.isolation = isolation;
        }
    };
    let told = |device: &Device| {
        let view = view(&device.state, &device.inputs, UnixMs(0));
        let old = |reasons: &[Reason]| reasons.iter().any(|reason| reason.code == "OldIsolation");
        (old(&view.apps[0].reasons), old(&view.reasons), view.conformance)
    };
    show(&mut device, Some(Isolation::default()));
    assert_eq!(told(&device), (false, false, Conformance::Conforming));
    device.inputs.isolation = demanded.clone();
    assert_eq!(device.at(20_000), []);
    assert_eq!(told(&device), (true, true, Conformance::Conforming));
    // An operation starts it anew, and then it has what is demanded.
    device.inputs.restart = BTreeSet::from([web()]);
    assert_eq!(device.at(21_000), [Action::Stop { app: web() }]);
    device.inputs.restart.clear();
    device.observe(&["1.0"], None);
    assert!(matches!(device.at(22_000)[..], [Action::Start { .. }]));
    show(&mut device, Some(demanded));
    device.at(23_000);
    assert_eq!(told(&device), (false, false, Conformance::Conforming));
    // Nobody says what it has: not a process, or started by a runner of before.
    show(&mut device, None);
    device.at(24_000);
    assert_eq!(told(&device), (false, false, Conformance::Conforming));
}

#[test]
fn a_short_disk_loses_old_releases_first_then_logs_and_never_what_is_gone_back_to() {
    let mut device = Device::settled();
    device.inputs.policy.releases = Some(3);
    for (version, at) in [("1.1", 20_000), ("1.2", 60_000)] {
        let staged = &["1.0", "1.1", "1.2"];
        device.desire(offer(version, Some(900_000)));
        let before = device.state.apps[&web()].active.as_ref().unwrap().version.to_string();
        device.observe(staged, Some((&before, device.instance(), 0)));
        device.at(at);
        device.observe(staged, None);
        device.at(at + 100);
        device.observe(staged, Some((version, device.instance(), 0)));
        device.at(at + 1_000);
        assert!(device.at(at + 12_000).iter().any(|action| matches!(action, Action::Commit { .. })));
    }
    assert_eq!(device.at(80_000), [], "three are kept");
    device.inputs.disk_short = true;
    let mut kept = vec![manifest("1.1"), manifest("1.2")];
    kept.sort();
    assert_eq!(device.at(81_000), [Action::Discard { app: web(), keep: kept }]);
    device.observe(&["1.1", "1.2"], Some(("1.2", device.instance(), 0)));
    assert_eq!(device.at(82_000), [Action::CutLogs { app: web() }]);
    assert_eq!(device.at(83_000), [], "not again at once");
    assert_eq!(device.at(82_000 + 600_000), [Action::CutLogs { app: web() }]);
}
