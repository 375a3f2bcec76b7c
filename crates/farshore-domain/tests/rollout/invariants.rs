//! Each invariant can fail: a sound state is broken in one place, through its JSON, and the right one notices.

use farshore_domain::rollout::invariants as must;
use farshore_domain::rollout::{Amount, Decision, Phase, Rollout, WaveSpec};
use serde_json::{Value, json};

use crate::fleet::{Fleet, Nature, device_id, spec};

/// Ten devices, three of the first wave's five in flight.
fn in_flight() -> Fleet {
    let mut spec = spec(vec![WaveSpec::percent(50).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.max_unavailable = Amount::Count(3);
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
