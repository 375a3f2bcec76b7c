//! Which release each app of a device gets.

use std::collections::BTreeMap;

use farshore_domain::assign::{Assignments, Inputs, NeedsPermit, Pin, Placement, assign};
use farshore_domain::desired::{Because, Permit};
use farshore_domain::device::{AppPhase, Lifecycle};
use farshore_domain::id::{PermitId, ReleaseId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::rollout::{AppReport, Rollout};
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::fleet::{Fleet, Nature, device_id, name, one_wave, release, spec};

const NOW: UnixMs = UnixMs(1_000_000);

struct Case {
    lifecycle: Lifecycle,
    reports: BTreeMap<Name, AppReport>,
    pointers: BTreeMap<Name, ReleaseId>,
    pins: Vec<Pin>,
    permits: BTreeMap<Name, (ReleaseId, Permit)>,
    placements: Vec<Placement>,
}

impl Case {
    /// A device that runs 1.0, and a channel that points to 1.0.
    fn new() -> Self {
        let report = AppReport {
            active: Some(release(0).uid),
            phase: AppPhase::Running,
            committed: true,
            ..AppReport::default()
        };
        let place = |name_of: &str, selector: &str| Placement {
            name: name(name_of),
            app: name("web"),
            selector: selector.parse().unwrap(),
        };
        Self {
            lifecycle: Lifecycle::Claimed,
            reports: BTreeMap::from([(name("web"), report)]),
            pointers: BTreeMap::from([(name("web"), release(0).uid)]),
            pins: Vec::new(),
            permits: BTreeMap::new(),
            placements: vec![place("all", ""), place("kiosks", "kind=kiosk"), place("tills", "kind=till")],
        }
    }

    fn assign(&self, rollouts: &[&Rollout]) -> Assignments {
        let labels = Labels::try_from([("kind", "kiosk")]).unwrap();
        let inputs = Inputs {
            device: device_id(0),
            labels: &labels,
            lifecycle: self.lifecycle,
            channel: &name("prod"),
            reports: &self.reports,
            placements: &self.placements,
            pointers: &self.pointers,
            pins: &self.pins,
            rollouts,
            permits: &self.permits,
        };
        assign(&inputs, NOW)
    }
}

fn running_rollout() -> Rollout {
    let mut fleet = Fleet::new(spec(one_wave()), &[Nature::Good]);
    fleet.start();
    fleet.rollout
}

#[test]
fn two_placements_of_one_app_give_one_assignment_from_the_channel() {
    let result = Case::new().assign(&[]);
    assert_eq!((result.apps.len(), result.without.len()), (1, 0));
    assert_eq!(result.apps[0].because, Because::Channel { channel: name("prod") });
    assert_eq!((result.apps[0].permit, result.apps[0].needs_permit), (None, None));
}

#[test]
fn a_pin_is_above_a_rollout_and_a_rollout_above_the_channel() {
    let rollout = running_rollout();
    let mut case = Case::new();
    let forward = &case.assign(&[&rollout]).apps[0];
    assert!(matches!(forward.because, Because::Rollout { forward: true, wave: 1, .. }));
    assert_eq!((forward.release, forward.permit, forward.needs_permit), (release(1).uid, None, None));
    case.pins.push(Pin { name: name("keep"), app: name("web"), release: release(2).uid });
    let pinned = &case.assign(&[&rollout]).apps[0];
    assert_eq!(pinned.because, Because::Pin { pin: name("keep") });
    assert_eq!((pinned.release, pinned.needs_permit), (release(2).uid, Some(NeedsPermit::Change)));
}

#[test]
fn a_rollout_of_another_channel_or_app_says_nothing() {
    let mut other = spec(one_wave());
    other.channel = name("canary");
    let mut fleet = Fleet::new(other, &[Nature::Good]);
    fleet.start();
    assert!(matches!(Case::new().assign(&[&fleet.rollout]).apps[0].because, Because::Channel { .. }));
}

#[test]
fn what_is_absent_installs_at_once_and_what_differs_changes_with_a_permit() {
    let mut case = Case::new();
    case.pointers.insert(name("web"), release(1).uid);
    assert_eq!(case.assign(&[]).apps[0].needs_permit, Some(NeedsPermit::Change));
    case.reports.clear();
    assert_eq!(case.assign(&[]).apps[0].needs_permit, Some(NeedsPermit::Install));
    let permit = |expires_at| Permit { uid: PermitId(Uuid::from_u128(1)), expires_at, rollout: None };
    case.permits.insert(name("web"), (release(1).uid, permit(NOW.plus_ms(1))));
    let given = &case.assign(&[]).apps[0];
    assert!(given.permit.is_some() && given.needs_permit.is_none());
    case.permits.insert(name("web"), (release(1).uid, permit(NOW)));
    let expired = &case.assign(&[]).apps[0];
    assert!(expired.permit.is_none() && expired.needs_permit.is_some(), "an expired permit is none");
    case.permits.insert(name("web"), (release(0).uid, permit(NOW.plus_ms(1))));
    assert!(case.assign(&[]).apps[0].permit.is_none(), "a permit is for one release only");
}

#[test]
fn a_held_device_gets_no_permit() {
    let mut case = Case::new();
    case.pointers.insert(name("web"), release(1).uid);
    case.reports.get_mut(&name("web")).unwrap().phase = AppPhase::Held;
    let held = &case.assign(&[]).apps[0];
    assert_eq!((held.needs_permit, held.reasons[0].code.as_str()), (None, "Held"));
}

#[test]
fn a_cordoned_device_keeps_what_it_runs_and_one_that_is_gone_gets_nothing() {
    let rollout = running_rollout();
    let mut case = Case::new();
    case.lifecycle = Lifecycle::Cordoned;
    case.pointers.insert(name("web"), release(1).uid);
    let kept = &case.assign(&[&rollout]).apps[0];
    assert_eq!((kept.release, kept.needs_permit), (release(0).uid, None));
    for lifecycle in [Lifecycle::Pending, Lifecycle::Decommissioned, Lifecycle::Decommissioning] {
        case.lifecycle = lifecycle;
        assert_eq!(case.assign(&[&rollout]), Assignments::default());
    }
}

#[test]
fn a_placed_app_without_a_release_is_said() {
    let mut case = Case::new();
    case.pointers.clear();
    let result = case.assign(&[]);
    assert_eq!((result.apps.len(), result.without[0].1.code.as_str()), (0, "NoRelease"));
}

#[test]
fn an_aborted_rollout_lets_devices_keep_what_they_have_until_the_pointer_moves() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Nature::Good]);
    fleet.start();
    fleet.until(30, |fleet| {
        fleet.rollout.phase().is_final() || fleet.rollout.summary(fleet.now).counts.updating == 1
    });
    fleet.verb(|rollout, now| rollout.abort("ada", None, false, now).unwrap());
    let mut case = Case::new();
    case.reports.get_mut(&name("web")).unwrap().active = Some(release(1).uid);
    assert_eq!(case.assign(&[&fleet.rollout]).apps[0].release, release(1).uid);
    case.pointers.insert(name("web"), release(2).uid);
    assert_eq!(case.assign(&[&fleet.rollout]).apps[0].release, release(2).uid);
}
