//! Each invariant can fail: a sound state is broken in one place, through its JSON, and the right one notices.

use farshore_domain::device::Lifecycle;
use farshore_domain::rollout::invariants as must;
use farshore_domain::rollout::{Amount, Decision, GroupBudget, Phase, Rollout, WaveSpec};
use serde_json::{Value, json};

use crate::fleet::{Fleet, Nature, device_id, spec};

/// Ten devices, three of the first wave's five in flight.
fn in_flight() -> Fleet {
    let mut spec = spec(vec![WaveSpec::percent(50).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.max_unavailable = Some(Amount::Count(3));
    let mut fleet = Fleet::new(spec, &[Nature::Good; 10]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 3);
    fleet
}

fn broken(rollout: &Rollout, change: impl FnOnce(&mut Value)) -> Rollout {
    let mut value: Value = serde_json::from_str(&rollout.to_json().unwrap()).unwrap();
    change(&mut value);
    Rollout::from_json(&value.to_string()).unwrap()
}

/// The name of the invariant that a step to the changed state breaks.
fn found(change: impl FnOnce(&mut Value)) -> &'static str {
    let fleet = in_flight();
    let decision = Decision { next: broken(&fleet.rollout, change), actions: Vec::new() };
    must::check(&fleet.rollout, &decision, &fleet.view, fleet.now).unwrap_err().invariant
}

fn flying(value: &Value) -> String {
    let members = value["members"].as_object().unwrap();
    members.iter().find(|(_, member)| member["progress"]["state"] == "updating").unwrap().0.clone()
}

#[test]
fn more_permits_than_the_budget_are_noticed() {
    assert_eq!(
        found(|value| value["spec"]["maxUnavailable"] = 2.into()),
        "live_permits_are_within_the_budget"
    );
}

#[test]
fn something_started_while_another_takes_the_budget_is_noticed() {
    let mut fleet = in_flight();
    let before = fleet.rollout.clone();
    let actions = fleet.log.clone();
    let decision = Decision { next: before.clone(), actions };
    must::check(&before, &decision, &fleet.view, fleet.now).unwrap();
    let idle =
        (0..10).map(device_id).find(|id| !before.member(*id).unwrap().progress().is_in_flight()).unwrap();
    fleet.view.get_mut(idle).unwrap().busy_until = Some(fleet.now.plus_ms(1));
    let noticed = must::check(&before, &decision, &fleet.view, fleet.now).unwrap_err();
    assert_eq!(noticed.invariant, "nothing_is_started_above_the_budget");
}

#[test]
fn a_permit_outside_its_wave_or_phase_is_noticed() {
    let outside = found(|value| {
        let device = flying(value);
        value["members"][device]["wave"] = 1.into();
    });
    assert_eq!(outside, "permits_stay_in_their_wave");
    let paused = found(|value| {
        value["phase"] = "paused".into();
        value["pause"] = json!({"at": 0, "by": "ada", "why": "operator"});
    });
    assert_eq!(paused, "permits_fit_the_phase");
}

#[test]
fn changed_waves_ranks_and_lost_members_are_noticed() {
    assert_eq!(found(|value| value["waves"][1]["upto"] = 9.into()), "membership_is_sound");
    assert_eq!(found(|value| value["waves"][0]["upto"] = 6.into()), "membership_is_stable");
    let late = found(|value| {
        let device = flying(value);
        value["members"][device]["late"] = true.into();
    });
    assert_eq!(late, "membership_is_sound");
}

#[test]
fn an_end_with_live_permits_and_a_state_without_a_reason_are_noticed() {
    let fleet = in_flight();
    let ended = broken(&fleet.rollout, |value| value["phase"] = "succeeded".into());
    assert_eq!(ended.phase(), Phase::Succeeded);
    assert_eq!(
        must::final_is_final(&fleet.rollout, &ended, fleet.now).unwrap_err().invariant,
        "final_is_final"
    );
    assert!(must::final_is_final(&ended, &fleet.rollout, fleet.now).is_err(), "an end that is undone");
    assert_eq!(found(|value| value["reasons"] = json!([])), "every_phase_has_a_reason");
}

/// Ten devices in three stores, one of each store in flight, and the decision that started them.
fn one_of_each_store() -> (Fleet, Decision) {
    let mut spec = spec(vec![WaveSpec::percent(100).soak(0)]);
    spec.group_by = vec![GroupBudget {
        label: "location".to_owned(),
        max_unavailable: Some(Amount::Count(1)),
        min_available: None,
    }];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 10]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 3);
    let decision = Decision { next: fleet.rollout.clone(), actions: fleet.log.clone() };
    (fleet, decision)
}

#[test]
fn a_group_below_its_budget_is_noticed_whatever_keeps_its_devices_down() {
    let (mut fleet, decision) = one_of_each_store();
    let found = |fleet: &Fleet| {
        must::check(&fleet.rollout, &decision, &fleet.view, fleet.now).map_err(|broken| broken.invariant)
    };
    assert_eq!(found(&fleet), Ok(()));
    let bad = Err("no_group_is_taken_below_its_budget");
    fleet.view.group_load.insert(("location".to_owned(), "store-1".to_owned()), 1);
    assert_eq!(found(&fleet), bad, "a device outside the view");
    fleet.view.group_load.clear();
    let idle = |fleet: &Fleet| {
        (0..10)
            .map(device_id)
            .find(|id| !fleet.rollout.member(*id).unwrap().progress().is_in_flight())
            .unwrap()
    };
    let device = idle(&fleet);
    fleet.view.get_mut(device).unwrap().lifecycle = Lifecycle::Drained;
    assert_eq!(found(&fleet), bad, "a drained device");
    fleet.view.get_mut(device).unwrap().lifecycle = Lifecycle::Claimed;
    assert_eq!(found(&fleet), Ok(()));
    let next = broken(&fleet.rollout, |value| {
        value["spec"]["groupBy"] = json!([{"label": "location", "minAvailable": 4}]);
    });
    let decision = Decision { next, actions: fleet.log.clone() };
    let noticed = must::check(&fleet.rollout, &decision, &fleet.view, fleet.now).unwrap_err();
    assert_eq!(
        noticed.invariant, "no_group_is_taken_below_its_budget",
        "three of four up where four were promised"
    );
}

#[test]
fn a_permit_outside_its_window_or_beyond_its_end_is_noticed() {
    let (fleet, decision) = one_of_each_store();
    let found = |cron: &str, seconds: u32, zone: &str| {
        let next = broken(&fleet.rollout, |value| {
            value["spec"]["windows"] = json!([
                {"kind": "maintenance", "cron": cron, "durationSeconds": seconds, "timeZone": zone}
            ]);
        });
        let decision = Decision { next, actions: decision.actions.clone() };
        must::check(&fleet.rollout, &decision, &fleet.view, fleet.now).map_err(|broken| broken.invariant)
    };
    // It is some minutes after midnight in UTC.
    let bad = Err("permits_stay_in_their_windows");
    assert_eq!(found("0 0 * * *", 3_600, "UTC"), Ok(()));
    assert_eq!(found("0 0 * * *", 3_600, "Asia/Tokyo"), bad);
    assert_eq!(found("0 2 * * *", 3_600, "UTC"), bad);
    let seconds = u32::try_from(fleet.now.0 / 1_000).unwrap() + 2;
    assert_eq!(found("0 0 * * *", seconds, "UTC"), bad, "the window ends before the permits do");
}
