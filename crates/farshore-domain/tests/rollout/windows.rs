//! Windows, blackouts and cheap hours in the engine. The fleet's clock begins at 1970-01-01 00:16:40 UTC, a Thursday.

use std::sync::Arc;

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::policy::{Bound, DeviceHours, PolicySpec, effective};
use farshore_domain::rollout::{Action, Amount, Bucket, Phase, Progress, RolloutSpec, WaveSpec};
use farshore_domain::schedule::{Blackout, Energy, WindowKind, WindowSpec};
use farshore_domain::time::{HOUR_MS, MINUTE_MS, UnixMs};

use crate::fleet::{Fleet, Nature, device_id, one_wave, release, spec};

fn window(kind: WindowKind, cron: &str, minutes: u32) -> WindowSpec {
    WindowSpec { kind, cron: cron.to_owned(), duration_seconds: minutes * 60, time_zone: None }
}

fn permits(fleet: &Fleet) -> Vec<(UnixMs, bool)> {
    let permit = |action: &Action| match action {
        Action::Permit { expires_at, forward, .. } => Some((*expires_at, *forward)),
        _ => None,
    };
    fleet.log.iter().filter_map(permit).collect()
}

fn hour(hour: i64) -> UnixMs {
    UnixMs(hour * HOUR_MS)
}

/// With permits that outlive ticks of a minute.
fn slow(waves: Vec<WaveSpec>) -> RolloutSpec {
    RolloutSpec { permit_seconds: 180, device_timeout_seconds: 900, gate_timeout_seconds: 900, ..spec(waves) }
}

/// Ticks of a minute until this moment.
fn minutes_until(fleet: &mut Fleet, moment: UnixMs) {
    while fleet.now < moment {
        fleet.tick(MINUTE_MS.min(moment.since_ms(fleet.now)));
    }
}

#[test]
fn nothing_changes_before_the_window_and_the_gate_does_not_lose_patience() {
    let mut spec = slow(one_wave());
    spec.windows = vec![window(WindowKind::Maintenance, "0 2 * * *", 60)];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 4]);
    fleet.start();
    assert_eq!(
        fleet.rollout.deadline(fleet.now).unwrap().min(hour(2)),
        fleet.rollout.deadline(fleet.now).unwrap()
    );
    // The gate's time limit is fifteen minutes; the window opens in a hundred and three.
    minutes_until(&mut fleet, UnixMs(hour(2).0 - 1));
    assert_eq!((fleet.rollout.phase(), permits(&fleet).len()), (Phase::Running, 0));
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    assert!(waits.iter().any(|w| w.reason.code == "MaintenanceWindow" && w.until == hour(2)), "{waits:?}");
    fleet.tick(1);
    assert_eq!(permits(&fleet).len(), 4);
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn a_permit_ends_with_its_window_and_the_next_one_comes_with_the_next_window() {
    let mut spec = slow(one_wave());
    spec.permit_seconds = 600;
    spec.device_timeout_seconds = 3600;
    spec.gate_timeout_seconds = 3600;
    spec.windows = vec![window(WindowKind::Maintenance, "0 * * * *", 5)];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 2]);
    fleet.start();
    minutes_until(&mut fleet, hour(1));
    fleet.set_online(device_id(0), false);
    minutes_until(&mut fleet, UnixMs(hour(1).0 + 4 * MINUTE_MS));
    assert!(
        permits(&fleet).iter().all(|(end, _)| *end == UnixMs(hour(1).0 + 5 * MINUTE_MS)),
        "{:?}",
        permits(&fleet)
    );
    fleet.set_online(device_id(0), true);
    // It comes back after the window: its permit is over, and it waits for the next.
    fleet.until_phase(Phase::Succeeded);
    assert!(fleet.now >= hour(1));
}

#[test]
fn each_device_follows_the_clock_of_its_zone() {
    let mut spec = slow(one_wave());
    spec.windows = vec![window(WindowKind::Maintenance, "0 2 * * *", 30)];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 2]);
    // In January 1970 it was 02:00 in Moscow at 23:00 UTC, and in UTC at 02:00.
    fleet.view.get_mut(device_id(1)).unwrap().time_zone = Some("Europe/Moscow".to_owned());
    fleet.start();
    minutes_until(&mut fleet, hour(3));
    let moved = |fleet: &Fleet, number| {
        matches!(fleet.rollout.member(device_id(number)).unwrap().progress(), Progress::Updated { .. })
    };
    assert!(moved(&fleet, 0) && !moved(&fleet, 1));
    assert_eq!(fleet.rollout.phase(), Phase::Running, "the other one is waited for");
    minutes_until(&mut fleet, UnixMs(hour(23).0 - 1));
    assert!(!moved(&fleet, 1));
    fleet.until_phase(Phase::Succeeded);
    assert!(fleet.now >= hour(23) && fleet.now < hour(24));
}

#[test]
fn blackouts_and_energy_hours_shut_and_say_so() {
    let mut spec = slow(one_wave());
    spec.blackouts = vec![Blackout {
        from: "1970-01-01".parse().unwrap(),
        to: "1970-01-01".parse().unwrap(),
        time_zone: None,
    }];
    spec.windows = vec![window(WindowKind::Energy, "0 3 * * *", 60)];
    spec.energy = Energy::OffHours;
    let mut fleet = Fleet::new(spec, &[Nature::Good; 2]);
    fleet.start();
    minutes_until(&mut fleet, UnixMs(hour(3).0 + MINUTE_MS));
    let said = |fleet: &Fleet| {
        fleet
            .rollout
            .waiting_for(&fleet.view, fleet.now)
            .into_iter()
            .map(|w| (w.reason.code, w.until))
            .collect::<Vec<_>>()
    };
    assert!(said(&fleet).contains(&("Blackout".to_owned(), hour(27))), "{:?}", said(&fleet));
    minutes_until(&mut fleet, UnixMs(hour(25).0));
    assert!(said(&fleet).contains(&("EnergyWindow".to_owned(), hour(27))), "{:?}", said(&fleet));
    minutes_until(&mut fleet, UnixMs(hour(27).0 - 1));
    assert!(permits(&fleet).is_empty());
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn downloads_begin_only_inside_download_windows_and_installs_need_one_that_has_begun() {
    let mut spec = slow(vec![WaveSpec::percent(50).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.windows = vec![window(WindowKind::Download, "0 1 * * *", 10)];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 4]);
    fleet.start();
    let told = |fleet: &Fleet| {
        let new = release(1).uid;
        (0..4)
            .filter(|n| {
                fleet.rollout.assignment(device_id(*n), None).is_some_and(|a| a.release.unwrap().uid == new)
            })
            .count()
    };
    minutes_until(&mut fleet, UnixMs(hour(1).0 - 1));
    assert_eq!((told(&fleet), permits(&fleet).len(), fleet.rollout.phase()), (0, 0, Phase::Running));
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    assert!(waits.iter().any(|w| w.reason.code == "DownloadWindow" && w.until == hour(1)), "{waits:?}");
    fleet.tick(1);
    fleet.until_phase(Phase::Succeeded);
    assert!(
        fleet.now < UnixMs(hour(1).0 + 10 * MINUTE_MS),
        "what was staged in the window is installed at any hour"
    );
}

#[test]
fn what_is_broken_goes_back_at_once_and_what_works_waits_for_its_window() {
    let mut spec = slow(vec![WaveSpec::percent(100).soak(3600)]);
    spec.windows = vec![window(WindowKind::Maintenance, "0 2 * * *", 10)];
    spec.max_unavailable = Some(Amount::Percent(100));
    spec.failure_threshold = 20;
    let mut natures = [Nature::Good; 4];
    natures[3] = Nature::GoesBad;
    let mut fleet = Fleet::new(spec, &natures);
    fleet.start();
    // The failure is told before the window ends, so what works could go back inside it; hold it busy until then.
    minutes_until(&mut fleet, UnixMs(hour(2).0));
    for number in 0..3 {
        fleet.view.get_mut(device_id(number)).unwrap().busy_until = None;
    }
    fleet.until(60, |fleet| {
        (0..3).all(|n| fleet.view.get(device_id(n)).unwrap().has_committed(release(1).uid))
    });
    for number in 0..3 {
        fleet.view.get_mut(device_id(number)).unwrap().busy_until = Some(UnixMs(hour(2).0 + 11 * MINUTE_MS));
    }
    fleet.until(60, |fleet| fleet.rollout.phase() == Phase::RollingBack);
    fleet.until(60, |fleet| {
        matches!(fleet.rollout.member(device_id(3)).unwrap().progress(), Progress::RolledBack { .. })
    });
    minutes_until(&mut fleet, UnixMs(hour(4).0));
    let back = permits(&fleet).iter().filter(|(_, forward)| !forward).count();
    assert_eq!(
        (back, fleet.rollout.phase()),
        (1, Phase::RollingBack),
        "the others wait for tomorrow's window"
    );
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    assert!(waits.iter().any(|w| w.reason.code == "MaintenanceWindow" && w.until == hour(26)), "{waits:?}");
    fleet.until(40, |fleet| fleet.now > hour(4));
    while fleet.now < hour(26) {
        fleet.tick(10 * MINUTE_MS);
    }
    fleet.until_phase(Phase::Failed);
    assert!(fleet.rollout.devices().all(|device| device.bucket == Bucket::RolledBack));
}

/// The windows of a policy with this name, as the engine sees them.
fn policy_hours(name: &str, schedule: serde_json::Value) -> Option<Arc<DeviceHours>> {
    let spec: PolicySpec =
        serde_json::from_value(serde_json::json!({"rules": {"schedule": schedule}})).unwrap();
    spec.check().unwrap();
    let name = Name::new(name).unwrap();
    let bound = Bound { name: &name, version: 1, spec: &spec };
    DeviceHours::of(&effective([bound], &Labels::default()).unwrap()).map(Arc::new)
}

#[test]
fn the_stricter_of_the_rollouts_windows_and_the_policys_counts_and_why_names_the_policy() {
    let mut spec = slow(one_wave());
    // From 02:00 to 04:00 by the rollout, from 03:00 to 05:00 by the policy of one of the two.
    spec.windows = vec![window(WindowKind::Maintenance, "0 2 * * *", 120)];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 2]);
    fleet.view.get_mut(device_id(1)).unwrap().hours = policy_hours(
        "night",
        serde_json::json!({"windows": [{"kind": "maintenance", "cron": "0 3 * * *", "durationSeconds": 7200}]}),
    );
    fleet.start();
    minutes_until(&mut fleet, UnixMs(hour(1).0));
    assert!(permits(&fleet).is_empty());
    minutes_until(&mut fleet, UnixMs(hour(2).0 + MINUTE_MS));
    assert_eq!(permits(&fleet).len(), 1, "the rollout's own window is enough where no policy says more");
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    let wait = waits.iter().find(|w| w.reason.code == "MaintenanceWindow").expect("it waits for a window");
    assert!(wait.reason.message.contains("of policy night") && wait.until == hour(3), "{wait:?}");
    minutes_until(&mut fleet, UnixMs(hour(3).0 - 1));
    assert_eq!(permits(&fleet).len(), 1);
    fleet.until_phase(Phase::Succeeded);
    assert!(fleet.now >= hour(3));
    let (end, _) = permits(&fleet)[1];
    assert!(end <= hour(4), "the rollout's window ends first");
}

#[test]
fn a_policys_download_window_and_blackout_hold_a_rollout_that_has_none() {
    let mut fleet = Fleet::new(slow(one_wave()), &[Nature::Good; 2]);
    let hours = policy_hours(
        "freeze",
        serde_json::json!({
            "windows": [{"kind": "download", "cron": "0 1 * * *", "durationSeconds": 3600}],
            "blackouts": [{"from": "1970-01-01", "to": "1970-01-01"}]
        }),
    );
    for number in 0..2 {
        fleet.view.get_mut(device_id(number)).unwrap().hours = hours.clone();
    }
    fleet.start();
    minutes_until(&mut fleet, UnixMs(hour(1).0 - 1));
    let told = |fleet: &Fleet| {
        let to_new = |action: &&Action| matches!(action, Action::Assign { forward: true, .. });
        fleet.log.iter().filter(to_new).count()
    };
    assert_eq!(told(&fleet), 0, "nothing is fetched before the download window");
    minutes_until(&mut fleet, UnixMs(hour(1).0 + MINUTE_MS));
    assert_eq!((told(&fleet), permits(&fleet).len()), (2, 0));
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    let wait = waits.iter().find(|w| w.reason.code == "Blackout").expect("a blackout");
    assert!(wait.reason.message.contains("of policy freeze") && wait.until == hour(24), "{wait:?}");
    minutes_until(&mut fleet, UnixMs(hour(24).0 - 1));
    assert!(permits(&fleet).is_empty());
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn windows_that_never_meet_those_of_policies_are_refused_with_how_many_devices_it_holds_for() {
    let mut spec = slow(one_wave());
    spec.windows = vec![window(WindowKind::Maintenance, "0 10 * * *", 120)];
    let mut fleet = Fleet::new(spec, &[Nature::Good; 5]);
    assert_eq!(fleet.rollout.check_openings(&fleet.view, fleet.now), Ok(()));
    let nightly = |name: &str| {
        policy_hours(
            name,
            serde_json::json!({"windows": [{"kind": "maintenance", "cron": "0 2 * * *", "durationSeconds": 7200}]}),
        )
    };
    for (number, name) in [(1, "night"), (2, "night"), (3, "later")] {
        fleet.view.get_mut(device_id(number)).unwrap().hours = nightly(name);
    }
    // In Tokyo it is ten in the morning when it is one in the night in UTC; the policy follows the device's own clock all the same.
    fleet.view.get_mut(device_id(3)).unwrap().time_zone = Some("Asia/Tokyo".to_owned());
    let error = fleet.rollout.check_openings(&fleet.view, fleet.now).unwrap_err();
    assert_eq!(error.field, "windows");
    for part in ["3 of 5 devices", "policies night, later", "within the next 366 days"] {
        assert!(error.message.contains(part), "{error:?}");
    }
    // A window of one zone meets those of another one's clock.
    let mut own = slow(one_wave());
    own.windows = vec![WindowSpec {
        time_zone: Some("Asia/Tokyo".to_owned()),
        ..window(WindowKind::Maintenance, "0 11 * * *", 120)
    }];
    let mut fleet = Fleet::new(own, &[Nature::Good; 1]);
    fleet.view.get_mut(device_id(0)).unwrap().hours = nightly("night");
    assert_eq!(fleet.rollout.check_openings(&fleet.view, fleet.now), Ok(()));
    fleet.view.get_mut(device_id(0)).unwrap().time_zone = Some("Asia/Tokyo".to_owned());
    assert!(fleet.rollout.check_openings(&fleet.view, fleet.now).is_err());
}

#[test]
fn policies_that_never_open_are_no_fault_of_a_rollout_unless_they_are_those_of_all_devices() {
    let freeze = || {
        let years = [("1969-12-31", "1970-12-30"), ("1970-12-31", "1971-12-30")];
        let blackouts = years.map(|(from, to)| serde_json::json!({"from": from, "to": to}));
        policy_hours("freeze", serde_json::json!({"blackouts": blackouts}))
    };
    let mut fleet = Fleet::new(slow(one_wave()), &[Nature::Good; 2]);
    fleet.view.get_mut(device_id(0)).unwrap().hours = freeze();
    assert_eq!(fleet.rollout.check_openings(&fleet.view, fleet.now), Ok(()));
    fleet.view.get_mut(device_id(1)).unwrap().hours = freeze();
    let error = fleet.rollout.check_openings(&fleet.view, fleet.now).unwrap_err();
    assert!(error.field == "channel" && error.message.contains("policy freeze never opens"), "{error:?}");
    // Its own blackouts alone need no device.
    let mut spec = slow(one_wave());
    spec.blackouts = ["1969-12-31/1970-12-30", "1970-12-31/1971-12-30"]
        .map(|both| both.split_once('/').unwrap())
        .map(|(from, to)| Blackout { from: from.parse().unwrap(), to: to.parse().unwrap(), time_zone: None })
        .to_vec();
    let fleet = Fleet::new(spec, &[Nature::Good; 1]);
    assert_eq!(fleet.rollout.check_openings(&fleet.view, fleet.now).unwrap_err().field, "blackouts");
}
