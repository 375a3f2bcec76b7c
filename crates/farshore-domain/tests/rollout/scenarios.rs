//! One scenario a test.

use farshore_domain::device::Lifecycle;
use farshore_domain::release::slot::Activation;
use farshore_domain::rollout::{
    Action, Amount, Bucket, Exclusion, FailureKind, FleetView, OnFailure, PauseReason, Phase, Progress,
    TransitionError, WaveSpec, WaveState,
};

use crate::fleet::{Fleet, Nature, name, one_wave, release, rollout_id, spec};
use Nature::{Bad, GoesBad, Good, Refuses, Stuck, Terse};

fn fleet_of(bad: usize, of: usize, nature: Nature) -> Vec<Nature> {
    (0..of).map(|index| if index < bad { nature } else { Good }).collect()
}

fn running(fleet: &Fleet, number: u32) -> usize {
    fleet.devices.values().filter(|device| device.app.active == Some(release(number).uid)).count()
}

fn codes(fleet: &Fleet) -> Vec<&str> {
    fleet.rollout.reasons().iter().map(|reason| reason.code.as_str()).collect()
}

#[test]
fn ten_good_devices_get_the_release_wave_by_wave_and_the_pointer_moves() {
    let waves =
        vec![WaveSpec::count(1).soak(10), WaveSpec::percent(50).soak(10), WaveSpec::percent(100).soak(0)];
    let mut fleet = Fleet::new(spec(waves), &[Good; 10]);
    fleet.start();
    fleet.until_phase(Phase::Succeeded);
    assert_eq!((running(&fleet, 1), fleet.pointer), (10, Some(release(1).uid)));
    assert!(fleet.now.0 >= 1_000_000 + 20_000, "two soaks of ten seconds were kept");
    let reached: Vec<_> = fleet.rollout.waves().iter().map(|wave| (wave.upto(), wave.state())).collect();
    assert_eq!(reached, [(1, WaveState::Passed), (5, WaveState::Passed), (10, WaveState::Passed)]);
    let done = fleet.log.iter().filter(|action| matches!(action, Action::Done { .. })).count();
    assert_eq!(done, 1);
}

#[test]
fn three_of_ten_fail_and_the_fleet_is_rolled_back() {
    let mut fleet = Fleet::new(spec(one_wave()), &fleet_of(3, 10, Bad));
    fleet.start();
    fleet.until_phase(Phase::Failed);
    assert_eq!((running(&fleet, 0), fleet.pointer), (10, Some(release(0).uid)));
    assert_eq!(fleet.rollout.summary(fleet.now).counts.rolled_back, 10);
    let why = codes(&fleet);
    assert_eq!(why, ["RolloutRolledBack", "WaveHalted", "DeviceFailed", "DeviceFailed", "DeviceFailed"]);
    let halted = &fleet.rollout.reasons()[1].message;
    assert!(halted.contains("3 of") && halted.contains("30 %"), "{halted}");
    assert!(fleet.rollout.reasons()[2].message.contains("web: 503"));
}

#[test]
fn two_of_ten_fail_and_the_rollout_goes_on() {
    let mut fleet = Fleet::new(spec(one_wave()), &fleet_of(2, 10, Bad));
    fleet.start();
    fleet.until_phase(Phase::Succeeded);
    assert_eq!((running(&fleet, 1), running(&fleet, 0)), (8, 2));
    assert!((fleet.rollout.summary(fleet.now).failure_ratio.unwrap() - 0.2).abs() < 1e-9);
}

#[test]
fn a_wave_halts_inside_when_the_rest_can_not_save_it() {
    let mut spec = spec(one_wave());
    spec.max_unavailable = Some(Amount::Count(3));
    let mut fleet = Fleet::new(spec, &[Bad; 10]);
    fleet.start();
    fleet.until_phase(Phase::Failed);
    let touched = fleet.devices.values().filter(|device| device.ran.contains(&release(1).uid)).count();
    assert_eq!(touched, 3, "the other seven never ran it");
    assert_eq!(fleet.rollout.waves()[0].verdict().map(|verdict| verdict.failed), Some(3));
}

#[test]
fn a_bad_canary_stops_at_the_canary() {
    let waves = vec![WaveSpec::percent(5).soak(5), WaveSpec::percent(100).soak(0)];
    let mut fleet = Fleet::new(spec(waves), &[Bad; 40]);
    fleet.start();
    fleet.until_phase(Phase::Failed);
    let touched = fleet.devices.values().filter(|device| !device.ran.is_empty()).count();
    assert!(touched <= 2, "{touched} of 40 ran it");
}

#[test]
fn on_failure_pause_waits_for_a_person_and_resume_acknowledges_the_failures() {
    let mut spec = spec(one_wave());
    spec.on_failure = OnFailure::Pause;
    let mut fleet = Fleet::new(spec, &fleet_of(4, 10, Bad));
    fleet.start();
    fleet.until_phase(Phase::Paused);
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::Failures));
    fleet.ticks(60);
    assert_eq!(fleet.rollout.phase(), Phase::Paused);
    fleet.verb(|rollout, now| rollout.resume("ada", Some("known hardware fault"), now).unwrap());
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 6);
}

#[test]
fn never_more_devices_are_in_flight_than_the_budget_allows() {
    let mut spec = spec(one_wave());
    spec.max_unavailable = Some(Amount::Percent(25));
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(fleet.most_live, 2);
}

#[test]
fn a_device_that_goes_offline_with_a_permit_takes_its_place_until_the_expiry() {
    let mut spec = spec(one_wave());
    spec.max_unavailable = Some(Amount::Count(1));
    spec.permit_seconds = 400;
    spec.device_timeout_seconds = 500;
    let mut fleet = Fleet::new(spec, &[Good; 3]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 1);
    let (id, expires_at) = fleet
        .rollout
        .members()
        .find_map(|(id, member)| Some((id, member.live_permit(fleet.now)?.1)))
        .unwrap();
    fleet.set_online(id, false);
    while fleet.now.plus_ms(1_000) < expires_at {
        fleet.tick(1_000);
        assert!(matches!(fleet.rollout.member(id).unwrap().progress(), Progress::Updating { .. }));
        assert_eq!(fleet.rollout.in_flight(), 1, "nobody else gets the place");
    }
    fleet.tick(1_000);
    assert!(matches!(fleet.rollout.member(id).unwrap().progress(), Progress::Unreachable { .. }));
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 2);
}

#[test]
fn the_gate_opens_without_the_unreachable_and_they_take_the_release_with_a_later_wave() {
    let waves = vec![WaveSpec::percent(50).soak(0), WaveSpec::percent(100).soak(400)];
    let mut fleet = Fleet::new(spec(waves), &[Good; 10]);
    fleet.start();
    let away = fleet.order()[0];
    fleet.set_online(away, false);
    fleet.until(600, |fleet| fleet.rollout.current_wave() == 1);
    assert_eq!(fleet.rollout.member(away).unwrap().wave(), 1);
    assert_eq!(fleet.rollout.waves()[0].verdict().map(|verdict| verdict.succeeded), Some(4));
    fleet.ticks(30);
    fleet.set_online(away, true);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 10);
}

#[test]
fn a_wave_that_nobody_can_report_from_is_inconclusive_and_pauses_and_resume_goes_on_without_it() {
    let waves = vec![WaveSpec::count(2).soak(0), WaveSpec::percent(100).soak(0)];
    let mut fleet = Fleet::new(spec(waves), &[Good; 10]);
    fleet.start();
    for id in fleet.order().into_iter().take(2) {
        fleet.set_online(id, false);
    }
    fleet.until_phase(Phase::Paused);
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::Inconclusive));
    assert_eq!(codes(&fleet), ["GateInconclusive"]);
    assert_eq!(running(&fleet, 1), 0);
    fleet.verb(|rollout, now| rollout.resume("ada", None, now).unwrap());
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 8);
}

#[test]
fn one_report_is_not_enough_when_more_are_asked_for() {
    let mut spec = spec(vec![WaveSpec::count(5).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.min_reports = Some(3);
    let mut fleet = Fleet::new(spec, &[Bad; 10]);
    fleet.start();
    for id in fleet.order().into_iter().take(4) {
        fleet.set_online(id, false);
    }
    fleet.until_phase(Phase::Paused);
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::Inconclusive));
}

#[test]
fn a_device_that_stays_reachable_and_never_gets_done_is_stuck() {
    let mut fleet = Fleet::new(spec(one_wave()), &fleet_of(1, 4, Stuck));
    fleet.start();
    fleet.until_phase(Phase::Succeeded);
    let failure = fleet.rollout.member(crate::fleet::device_id(0)).unwrap().failure().unwrap();
    assert_eq!(failure.kind, FailureKind::Stuck);
    assert!(failure.reason.starts_with("stuck"), "{}", failure.reason);
}

#[test]
fn a_device_that_refuses_counts_as_failed_and_is_never_disturbed() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Refuses; 4]);
    fleet.start();
    fleet.until_phase(Phase::Failed);
    assert!(fleet.devices.values().all(|device| device.ran.is_empty()));
    assert!(fleet.rollout.reasons().iter().any(|reason| reason.message.contains("signature")));
}

#[test]
fn a_release_that_goes_bad_during_the_soak_is_caught() {
    let mut fleet = Fleet::new(spec(vec![WaveSpec::percent(100).soak(60)]), &[GoesBad; 6]);
    fleet.start();
    fleet.until_phase(Phase::Failed);
    assert_eq!(running(&fleet, 0), 6);
}

#[test]
fn a_device_that_says_little_gets_its_permit_after_the_staging_grace() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Terse; 3]);
    fleet.start();
    fleet.until_phase(Phase::Succeeded);
    assert!(fleet.now.0 >= 1_000_000 + 15_000);
}

#[test]
fn a_late_joiner_gets_the_old_release_first_and_the_new_one_in_the_last_wave() {
    let waves = vec![WaveSpec::percent(10).soak(60), WaveSpec::percent(100).soak(0)];
    let mut fleet = Fleet::new(spec(waves), &[Good; 10]);
    fleet.start();
    fleet.ticks(3);
    let late = fleet.join(Good, None);
    fleet.until_phase(Phase::Succeeded);
    let member = fleet.rollout.member(late).unwrap();
    assert!(member.is_late() && member.rank() == 10 && member.wave() == 1);
    assert_eq!(fleet.devices[&late].ran, [release(0).uid, release(1).uid]);
}

#[test]
fn pause_takes_unused_permits_back_and_starts_nothing() {
    let mut spec = spec(one_wave());
    spec.max_unavailable = Some(Amount::Count(2));
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 2);
    fleet.verb(|rollout, now| rollout.pause("ada", Some("lunch"), now).unwrap());
    assert_eq!(fleet.log.iter().filter(|action| matches!(action, Action::RevokePermit { .. })).count(), 2);
    fleet.ticks(60);
    assert_eq!((running(&fleet, 1), fleet.rollout.in_flight()), (0, 0));
    fleet.verb(|rollout, now| rollout.resume("ada", None, now).unwrap());
    fleet.until_phase(Phase::Succeeded);
    let history: Vec<_> = fleet.rollout.history().iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(
        history,
        [
            "RolloutCreated",
            "RolloutStarted",
            "RolloutPaused",
            "RolloutResumed",
            "WavePassed",
            "RolloutSucceeded"
        ]
    );
    assert_eq!(fleet.rollout.history()[2].comment.as_deref(), Some("lunch"));
}

#[test]
fn abort_with_rollback_brings_everybody_back_and_abort_without_keeps_what_devices_have() {
    let waves = vec![WaveSpec::percent(50).soak(500), WaveSpec::percent(100).soak(0)];
    for rollback in [true, false] {
        let mut fleet = Fleet::new(spec(waves.clone()), &[Good; 10]);
        fleet.start();
        fleet.until(100, |fleet| running(fleet, 1) == 5);
        fleet.ticks(10);
        fleet.verb(|rollout, now| rollout.abort("ada", None, rollback, now).unwrap());
        fleet.until_phase(Phase::Aborted);
        fleet.ticks(60);
        assert_eq!(running(&fleet, 1), if rollback { 0 } else { 5 });
    }
}

#[test]
fn a_device_that_was_away_during_the_rollback_goes_back_when_it_returns_and_never_runs_the_bad_release_again()
{
    let mut fleet = Fleet::new(spec(vec![WaveSpec::percent(100).soak(500)]), &fleet_of(3, 10, GoesBad));
    fleet.start();
    fleet.until(100, |fleet| running(fleet, 1) == 7 || fleet.rollout.phase() == Phase::RollingBack);
    let away = crate::fleet::device_id(9);
    fleet.set_online(away, false);
    fleet.until_phase(Phase::Failed);
    fleet.set_online(away, true);
    fleet.ticks(30);
    assert_eq!(running(&fleet, 0), 10);
    assert!(fleet.devices[&away].ran.len() <= 2);
}

#[test]
fn a_first_rollout_that_fails_removes_the_app() {
    let mut fleet = Fleet::new(spec(vec![WaveSpec::percent(100).soak(30)]), &[]);
    for nature in [GoesBad, GoesBad, Good, Good] {
        fleet.join(nature, None);
    }
    fleet.pointer = None;
    fleet.start();
    fleet.until_phase(Phase::Failed);
    fleet.ticks(3);
    assert!(fleet.devices.values().all(|device| device.app.active.is_none()));
}

#[test]
fn a_newer_rollout_supersedes_and_leaves_no_usable_permit() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Good; 5]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() > 0);
    fleet.verb(|rollout, now| rollout.supersede(rollout_id(2), &name("web-1.2"), "ada", now).unwrap());
    assert_eq!(fleet.rollout.phase(), Phase::Superseded);
    assert_eq!(
        fleet.rollout.held_permits(fleet.now).count(),
        5,
        "shown to the next rollout until they expire"
    );
    assert!(fleet.rollout.held_permits(fleet.now).all(|held| held.revoked));
}

#[test]
fn pinned_and_cordoned_devices_are_left_out_and_said() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Good; 6]);
    fleet.start();
    let order = fleet.order();
    fleet.view.get_mut(order[0]).unwrap().pinned = true;
    fleet.view.get_mut(order[1]).unwrap().lifecycle = Lifecycle::Cordoned;
    fleet.until_phase(Phase::Succeeded);
    let why = |index: usize| fleet.rollout.member(order[index]).unwrap().progress().clone();
    assert!(matches!(why(0), Progress::Excluded { why: Exclusion::Pinned, .. }));
    assert!(matches!(why(1), Progress::Excluded { why: Exclusion::Cordoned, .. }));
    assert_eq!(fleet.rollout.devices().filter(|device| device.bucket == Bucket::Excluded).count(), 2);
}

#[test]
fn devices_that_can_not_run_an_app_twice_are_left_out_and_named_and_come_in_with_a_newer_agent() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Good; 4]);
    fleet.rollout = fleet.rollout.clone().with_slots(true);
    assert_eq!(fleet.rollout.activation(), Activation::BlueGreen);
    fleet.start();
    let old = fleet.order()[3];
    fleet.view.get_mut(old).unwrap().incapable = true;
    let named = |fleet: &Fleet| {
        let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
        waits
            .into_iter()
            .find(|waiting| waiting.reason.code == "Incapable")
            .map(|waiting| waiting.reason.message)
    };
    let told = named(&fleet).unwrap();
    assert!(told.starts_with("1 device can't"), "{told}");
    fleet.until(20, |fleet| {
        matches!(
            fleet.rollout.member(old).unwrap().progress(),
            Progress::Excluded { why: Exclusion::Incapable, .. }
        )
    });
    assert!(named(&fleet).is_some());
    fleet.view.get_mut(old).unwrap().incapable = false;
    fleet.until_phase(Phase::Succeeded);
    assert!(matches!(fleet.rollout.member(old).unwrap().progress(), Progress::Updated { .. }));
    assert_eq!(named(&fleet), None);
}

#[test]
fn verbs_that_are_not_possible_now_are_refused_with_a_hint() {
    let mut fleet = Fleet::new(spec(one_wave()), &[Good; 2]);
    let now = fleet.now;
    assert!(matches!(fleet.rollout.pause("ada", None, now), Err(TransitionError::NotNow { .. })));
    assert!(matches!(fleet.rollout.resume("ada", None, now), Err(TransitionError::NotNow { .. })));
    fleet.start();
    assert!(fleet.rollout.start(None, &FleetView::default(), "ada", None, now).is_err());
    fleet.until_phase(Phase::Succeeded);
    let error = fleet.rollout.abort("ada", None, true, now).unwrap_err();
    assert!(error.to_string().contains("succeeded"), "{error}");
    assert!(fleet.rollout.supersede(rollout_id(2), &name("x"), "ada", now).is_err());
}

#[test]
fn what_nobody_starts_or_resumes_ends_by_itself() {
    let mut spec = spec(one_wave());
    spec.operator_timeout_seconds = 100;
    let mut fleet = Fleet::new(spec.clone(), &[Good; 2]);
    fleet.ticks(99);
    assert_eq!(fleet.rollout.phase(), Phase::Pending);
    fleet.ticks(1);
    assert_eq!(fleet.rollout.phase(), Phase::Aborted);
    let mut fleet = Fleet::new(spec, &[Good; 2]);
    fleet.start();
    fleet.verb(|rollout, now| rollout.pause("ada", None, now).unwrap());
    fleet.ticks(100);
    assert_eq!(fleet.rollout.phase(), Phase::Aborted);
}

#[test]
fn an_empty_channel_is_moved_at_once() {
    let mut fleet = Fleet::new(spec(one_wave()), &[]);
    fleet.start();
    assert_eq!((fleet.rollout.phase(), fleet.pointer), (Phase::Succeeded, Some(release(1).uid)));
}

#[test]
fn a_clock_that_jumps_a_day_ahead_makes_no_device_fail() {
    let mut spec = spec(one_wave());
    spec.gate_timeout_seconds = 2 * 24 * 3600;
    let mut fleet = Fleet::new(spec, &[Good; 5]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 5);
    fleet.now = fleet.now.plus_ms(24 * 3_600_000);
    fleet.decide();
    assert_eq!(fleet.rollout.phase(), Phase::Running);
    assert!(fleet.rollout.members().all(|(_, member)| member.failure().is_none()));
}

#[test]
fn each_state_says_what_it_waits_for() {
    let mut fleet = Fleet::new(spec(vec![WaveSpec::percent(100).soak(50)]), &[Good; 4]);
    let waits = |fleet: &Fleet| {
        let list = fleet.rollout.waiting_for(&fleet.view, fleet.now);
        list.into_iter().map(|waiting| waiting.reason.code).collect::<Vec<_>>()
    };
    assert_eq!(waits(&fleet), ["WaitingForStart"]);
    fleet.start();
    assert_eq!(waits(&fleet), ["Staging"]);
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 4);
    assert_eq!(waits(&fleet), ["Updating"]);
    fleet.until(20, |fleet| fleet.rollout.waves()[0].state() == WaveState::Soaking);
    assert_eq!(waits(&fleet), ["Soaking"]);
    fleet.until_phase(Phase::Succeeded);
    assert!(waits(&fleet).is_empty());
}

#[test]
fn a_failed_device_that_somebody_resumes_tries_again_through_the_gate() {
    let mut fleet = Fleet::new(spec(vec![WaveSpec::percent(100).soak(60)]), &fleet_of(1, 5, Bad));
    fleet.start();
    let failed = crate::fleet::device_id(0);
    fleet.until(60, |fleet| fleet.rollout.member(failed).unwrap().failure().is_some());
    fleet.ticks(30);
    assert_eq!(fleet.devices[&failed].ran.len(), 1, "it is not tried again by itself");
    fleet.devices.get_mut(&failed).unwrap().resume(Good);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!((running(&fleet, 1), fleet.devices[&failed].ran.len()), (5, 2));
}
