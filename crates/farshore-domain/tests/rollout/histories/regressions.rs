//! Histories that once went wrong, shrunk. Each says what was wrong.

use serde_json::{Value, json};

use super::generator::{History, Seed, Step};
use super::live;
use crate::fleet::{Nature, release};
use Nature::{Bad, GoesBad, Good, Refuses, Stuck, Terse};

/// Devices that run the old release, at two locations in turn.
fn fleet(natures: &[Nature]) -> Vec<Seed> {
    let seed = |(number, nature): (usize, &Nature)| Seed {
        nature: *nature,
        site: u8::try_from(number % 2).unwrap(),
        model: 0,
        runs: true,
    };
    natures.iter().enumerate().map(seed).collect()
}

fn lives_well(plan: Value, devices: Vec<Seed>, steps: Vec<Step>) {
    let mut spec = json!({
        "app": "web",
        "channel": "prod",
        "release": release(1).uid,
        "waves": [{"percent": 100, "soakSeconds": 0}],
        "slowStart": false,
        "permitSeconds": 20,
        "deviceTimeoutSeconds": 60,
        "gateTimeoutSeconds": 600,
        "operatorTimeoutSeconds": 3600,
    });
    for (field, value) in plan.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let history = History { spec: serde_json::from_value(spec).unwrap(), devices, steps };
    let fault = live(&history, None, false).err();
    assert_eq!(fault, None);
}

#[test]
fn a_stuck_device_is_pinned_in_flight_and_half_the_site_goes_down() {
    let waves = json!([{"count": 1, "soakSeconds": 5}, {"percent": 40, "soakSeconds": 20}, {"percent": 100, "soakSeconds": 10}]);
    let mut natures = [Good; 10];
    natures[4] = Stuck;
    let steps = vec![Step::Seconds(11), Step::Pin(4, true), Step::Site(0, false), Step::Seconds(300)];
    lives_well(json!({"failureThreshold": 51, "maxUnavailable": 2, "waves": waves}), fleet(&natures), steps);
}

/// A rollback gave the place of a device that was in the middle of the new release to another one.
#[test]
fn a_rollback_begins_while_a_device_tries_the_new_release() {
    let plan = json!({"failureThreshold": 51, "maxUnavailable": 1});
    for seconds in 0..12 {
        let steps = vec![Step::Seconds(seconds), Step::Abort(true)];
        lives_well(plan.clone(), fleet(&[Good; 6]), steps);
    }
}

/// Two devices are stuck in the middle of the new release and the budget is one: both still go back, one after the other.
#[test]
fn more_devices_are_stuck_than_the_budget_has_places() {
    let plan = json!({"failureThreshold": 60, "maxUnavailable": 1});
    lives_well(plan, fleet(&[Stuck; 5]), vec![Step::Seconds(68), Step::Abort(true)]);
}

/// A device on its way back was cordoned, and got one more permit that it never heard of; then it was called stuck.
#[test]
fn a_device_on_its_way_back_is_cordoned() {
    let plan = json!({"failureThreshold": 60, "maxUnavailable": 1});
    let deaf = |number| Step::Deaf(number, 30);
    let steps = vec![
        Step::Seconds(20),
        deaf(0),
        deaf(1),
        deaf(2),
        Step::Abort(true),
        Step::Cordon(0, true),
        Step::Cordon(1, true),
        Step::Cordon(2, true),
        Step::Seconds(60),
    ];
    lives_well(plan, fleet(&[Good; 3]), steps);
}

/// While one wave went back alone, nobody was told of devices that failed meanwhile.
#[test]
fn a_device_fails_while_its_wave_goes_back_alone() {
    let waves = json!([{"count": 1, "soakSeconds": 5}, {"percent": 40, "soakSeconds": 20}, {"percent": 100, "soakSeconds": 10}]);
    let plan =
        json!({"failureThreshold": 5, "maxUnavailable": 2, "onFailure": "rollback-wave", "waves": waves});
    for small in ["retry-elsewhere", "halt"] {
        let mut plan = plan.clone();
        plan["onSmallWave"] = small.into();
        for seconds in 15..30 {
            lives_well(plan.clone(), fleet(&[Good, Good, Good, GoesBad, Bad]), vec![Step::Seconds(seconds)]);
        }
    }
}

/// A permit that was renewed late was used just before the device's time was over: it was called stuck, and its place was given away.
#[test]
fn a_device_hears_of_its_permit_after_a_long_silence() {
    let times = json!({"maxUnavailable": 1, "permitSeconds": 120, "deviceTimeoutSeconds": 300, "gateTimeoutSeconds": 900});
    for seconds in [290, 299, 310, 327] {
        for number in 0..3 {
            let steps = vec![Step::Deaf(number, seconds), Step::Seconds(seconds + 3)];
            lives_well(times.clone(), fleet(&[Good; 3]), steps);
        }
    }
}

/// A device was cordoned in the middle of the new release while the rollout went back: its place was given to another one.
#[test]
fn a_device_is_cordoned_in_the_middle_of_the_new_release_and_the_rollout_goes_back() {
    let plan = json!({"failureThreshold": 60, "maxUnavailable": 1});
    for number in 0..4 {
        for seconds in 0..16 {
            for order in [true, false] {
                let (cordon, back) = (Step::Cordon(number, true), Step::Rollback);
                let (first, second) = if order { (cordon, back) } else { (back, cordon) };
                let steps = vec![Step::Seconds(seconds), first, second, Step::Seconds(90)];
                lives_well(plan.clone(), fleet(&[Good, Good, Good, Stuck]), steps);
            }
        }
    }
}

/// The oracle took a desired state that arrived late, and was newer than what the device had, for one of after the rollback.
#[test]
fn a_desired_state_of_before_the_rollback_arrives_late() {
    let waves = json!([{"count": 3, "soakSeconds": 0}, {"count": 7, "soakSeconds": 0}, {"percent": 100, "soakSeconds": 0}]);
    let mut devices = fleet(&[Good, Good, Bad, Good, Good]);
    devices.iter_mut().for_each(|seed| seed.runs = false);
    let steps = vec![
        Step::Join(fleet(&[Good])[0]),
        Step::Supersede,
        Step::Supersede,
        Step::Deaf(5, 17),
        Step::Seconds(4),
        Step::Seconds(9),
        Step::OldDesired(5),
    ];
    lives_well(json!({"waves": waves, "failureThreshold": 5, "maxUnavailable": "50%"}), devices, steps);
}

/// The oracle forgot the failures of a wave that had passed when the next one was tried with other devices: a device of the first went bad, and
/// that wave halted rightly.
#[test]
fn a_wave_goes_bad_after_the_next_one_was_tried_elsewhere() {
    let waves = json!([{"count": 3, "soakSeconds": 0}, {"count": 7, "soakSeconds": 0}, {"percent": 100, "soakSeconds": 0}]);
    let plan = json!({
        "waves": waves, "failureThreshold": 34, "onSmallWave": "retry-elsewhere", "maxUnavailable": 1,
        "permitSeconds": 5, "deviceTimeoutSeconds": 40, "gateTimeoutSeconds": 60,
    });
    let mut devices = fleet(&[Terse, Refuses, GoesBad, Bad, Good, Good, Good, Bad]);
    for (number, site) in [0, 1, 2, 1, 0, 0, 0, 0].into_iter().enumerate() {
        devices[number].site = site;
        devices[number].runs = number == 1;
    }
    devices[6].model = 1;
    lives_well(plan, devices, vec![Step::Leave(4), Step::Seconds(19)]);
}

/// Devices that kept returning one after the other kept a gate shut: each was waited for when the others had reported.
#[test]
fn devices_trickle_back_into_a_wave_that_has_its_reports() {
    let waves = json!([{"percent": 50, "soakSeconds": 30}, {"percent": 100, "soakSeconds": 30}]);
    let plan = json!({"waves": waves, "maxUnavailable": 2, "failureThreshold": 60});
    let mut steps: Vec<_> = (1..14).map(|number| Step::Online(number, false)).collect();
    steps.push(Step::Seconds(400));
    for number in 1..14 {
        steps.extend([Step::Online(number, true), Step::Seconds(12)]);
    }
    lives_well(plan.clone(), fleet(&[Good; 14]), steps.clone());
    steps.insert(13, Step::Seconds(310));
    lives_well(plan, fleet(&[Good; 14]), steps);
}
