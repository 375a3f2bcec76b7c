//! How waves are judged, one scenario a test: slow start, the test inside a wave, small waves, gates and what people decide.

use farshore_domain::rollout::{
    Action, Amount, Approval, OnFailure, OnInconclusive, OnSmallWave, PauseReason, Phase, Progress,
    Promotion, PromotionMode, Reading, RolloutSpec, Signals, TransitionError, Tripwire, WaveSpec, WaveState,
};

use crate::fleet::{Fleet, Nature, name, one_wave, release, spec};
use Nature::{Bad, GoesBad, Good, Refuses};

fn touched(fleet: &Fleet) -> usize {
    fleet.devices.values().filter(|device| device.ran.contains(&release(1).uid)).count()
}

fn running(fleet: &Fleet, number: u32) -> usize {
    fleet.devices.values().filter(|device| device.app.active == Some(release(number).uid)).count()
}

fn happened(fleet: &Fleet, what: &str) -> usize {
    fleet.rollout.history().iter().filter(|entry| entry.what == what).count()
}

fn waits(fleet: &Fleet) -> Vec<String> {
    let list = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    list.into_iter().map(|waiting| waiting.reason.code).collect()
}

fn halves() -> Vec<WaveSpec> {
    vec![WaveSpec::percent(50).soak(0), WaveSpec::percent(100).soak(0)]
}

/// The first devices in the rollout's order get this nature.
fn spoil(fleet: &mut Fleet, count: usize, nature: Nature) {
    for id in fleet.order().into_iter().take(count) {
        fleet.devices.get_mut(&id).unwrap().nature = nature;
    }
}

#[test]
fn slow_start_takes_one_device_then_two_then_four() {
    let spec = RolloutSpec { slow_start: true, ..spec(one_wave()) };
    let mut fleet = Fleet::new(spec, &[Good; 30]);
    fleet.start();
    let mut seen = vec![0];
    for _ in 0..60 {
        fleet.tick(1_000);
        let now = fleet.rollout.in_flight();
        if now > 0 && seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    assert_eq!(seen[..5], [0, 1, 2, 4, 8]);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 30);
}

#[test]
fn slow_start_says_what_it_waits_for() {
    let spec = RolloutSpec { slow_start: true, ..spec(one_wave()) };
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() == 1);
    assert_eq!(waits(&fleet), ["Updating", "SlowStart"]);
    assert_eq!(fleet.rollout.summary(fleet.now).allowed_now, 1);
}

#[test]
fn a_bad_release_is_halted_inside_a_large_wave_by_the_test_after_a_few_devices() {
    let mut fleet = Fleet::new(RolloutSpec { slow_start: true, ..spec(one_wave()) }, &[Bad; 100]);
    fleet.start();
    fleet.until_phase(Phase::Failed);
    assert_eq!(touched(&fleet), 3, "arithmetic alone would need thirty");
    let halted = &fleet.rollout.reasons()[1].message;
    assert!(halted.contains("looks like 30 % rather than 5 %"), "{halted}");
    let evidence = fleet.rollout.summary(fleet.now).waves[0].evidence.unwrap();
    assert!(evidence.halt_at > 3.0 && evidence.halt_at < 4.61 && evidence.pass_at < -2.0, "{evidence:?}");
}

#[test]
fn failures_that_are_reported_before_the_successes_halt_nothing_yet() {
    // Fifty in flight at once, three fail before anybody has committed: that is 6 % of those who were started.
    let mut fleet = Fleet::new(spec(one_wave()), &[Good; 50]);
    fleet.start();
    spoil(&mut fleet, 3, Refuses);
    fleet.until(60, |fleet| fleet.rollout.members().filter(|(_, m)| m.failure().is_some()).count() == 3);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 47);
}

#[test]
fn a_small_wave_that_halts_pauses_when_asked_to() {
    let mut spec = spec(vec![WaveSpec::count(1).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.on_small_wave = OnSmallWave::Pause;
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    spoil(&mut fleet, 1, Bad);
    fleet.until_phase(Phase::Paused);
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::SmallWave));
    assert!(fleet.rollout.reasons()[0].message.contains("can't tell noise"), "{:?}", fleet.rollout.reasons());
    fleet.verb(|rollout, now| rollout.resume("ada", Some("one broken disk"), now).unwrap());
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 9);
}

#[test]
fn a_small_wave_is_tried_on_another_device_before_it_halts() {
    let mut spec = spec(vec![WaveSpec::count(1).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.on_small_wave = OnSmallWave::RetryElsewhere;
    for (bad, end) in [(1, Phase::Succeeded), (2, Phase::Failed)] {
        let mut fleet = Fleet::new(spec.clone(), &[Good; 20]);
        fleet.start();
        spoil(&mut fleet, bad, Bad);
        fleet.until_phase(end);
        assert_eq!(happened(&fleet, "WaveRetried"), 1);
        assert!(fleet.rollout.member(fleet.order()[1]).unwrap().was_called_in());
        assert_eq!(touched(&fleet), if end == Phase::Failed { 2 } else { 20 });
    }
}

#[test]
fn an_inconclusive_gate_does_what_was_asked() {
    for (outcome, end, reached) in
        [(OnInconclusive::Continue, Phase::Succeeded, 8), (OnInconclusive::Rollback, Phase::Failed, 0)]
    {
        let mut spec = spec(vec![WaveSpec::count(2).soak(0), WaveSpec::percent(100).soak(0)]);
        spec.on_inconclusive = outcome;
        let mut fleet = Fleet::new(spec, &[Good; 10]);
        fleet.start();
        for id in fleet.order().into_iter().take(2) {
            fleet.set_online(id, false);
        }
        fleet.until_phase(end);
        assert_eq!((happened(&fleet, "GateInconclusive"), running(&fleet, 1)), (1, reached));
    }
}

#[test]
fn a_gate_for_two_people_opens_for_two_different_ones() {
    let mut spec = spec(halves());
    spec.approval = Approval::TwoPeople;
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    let now = fleet.now;
    assert!(matches!(fleet.rollout.approve("ada", None, now), Err(TransitionError::NotNow { .. })));
    fleet.until(60, |fleet| fleet.rollout.waves()[0].state() == WaveState::AwaitingApproval);
    assert_eq!(waits(&fleet), ["AwaitingApproval"]);
    fleet.verb(|rollout, now| rollout.approve("ada", Some("looks good"), now).unwrap());
    assert_eq!(fleet.rollout.current_wave(), 0);
    let again = fleet.rollout.approve("ada", None, fleet.now).unwrap_err();
    assert!(again.to_string().contains("different"), "{again}");
    fleet.verb(|rollout, now| rollout.approve("grace", None, now).unwrap());
    assert_eq!(fleet.rollout.current_wave(), 1);
    fleet.until_phase(Phase::Succeeded);
    let summary = fleet.rollout.summary(fleet.now);
    assert_eq!((summary.waves[0].approvals_needed, summary.waves[1].approvals_needed), (2, 0));
    assert_eq!(summary.waves[0].approvals[0].comment.as_deref(), Some("looks good"));
    assert_eq!(happened(&fleet, "ApprovalNeeded"), 1);
}

#[test]
fn an_approval_that_nobody_gives_ends_the_rollout() {
    let mut spec = spec(halves());
    spec.approval = Approval::OnePerson;
    spec.operator_timeout_seconds = 100;
    let mut fleet = Fleet::new(spec, &[Good; 4]);
    fleet.start();
    fleet.until_phase(Phase::Aborted);
    assert_eq!(running(&fleet, 1), 2, "devices keep what they have");
    assert_eq!(fleet.rollout.holds_back(), None);
}

#[test]
fn a_rejected_release_goes_back_and_is_held_back() {
    for (on_failure, left) in [(OnFailure::Rollback, 0), (OnFailure::RollbackWave, 0), (OnFailure::Pause, 5)]
    {
        let mut spec = spec(halves());
        spec.approval = Approval::OnePerson;
        spec.on_failure = on_failure;
        let mut fleet = Fleet::new(spec, &[Good; 10]);
        fleet.start();
        fleet.until(60, |fleet| fleet.rollout.waves()[0].state() == WaveState::AwaitingApproval);
        fleet.verb(|rollout, now| rollout.reject("ada", Some("ugly"), now).unwrap());
        fleet.until_phase(Phase::Aborted);
        fleet.ticks(60);
        assert_eq!(running(&fleet, 1), left, "{on_failure:?}");
        assert!(fleet.rollout.holds_back().is_some());
    }
}

#[test]
fn a_failure_while_a_gate_waits_for_people_still_halts() {
    let mut spec = spec(halves());
    spec.approval = Approval::OnePerson;
    let mut fleet = Fleet::new(spec, &[Good; 4]);
    fleet.start();
    fleet.until(60, |fleet| fleet.rollout.waves()[0].state() == WaveState::AwaitingApproval);
    spoil(&mut fleet, 2, GoesBad);
    fleet.until_phase(Phase::Failed);
}

#[test]
fn a_skipped_wave_is_left_behind_and_its_devices_are_judged_with_the_next() {
    let waves = vec![WaveSpec::percent(50).soak(10_000), WaveSpec::percent(100).soak(0)];
    let mut fleet = Fleet::new(spec(waves), &[Good; 4]);
    fleet.start();
    fleet.until(60, |fleet| fleet.rollout.waves()[0].state() == WaveState::Soaking);
    fleet.verb(|rollout, now| rollout.skip_wave("ada", Some("urgent"), now).unwrap());
    assert_eq!(fleet.rollout.current_wave(), 1);
    let error = fleet.rollout.skip_wave("ada", None, fleet.now).unwrap_err();
    assert!(error.to_string().contains("nothing comes after it"), "{error}");
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 4);
}

#[test]
fn skipping_a_wave_does_not_open_a_gate_that_people_have_to() {
    let waves = vec![
        WaveSpec { approval: Some(Approval::OnePerson), ..WaveSpec::percent(50).soak(10_000) },
        WaveSpec::percent(100).soak(0),
    ];
    let mut fleet = Fleet::new(spec(waves), &[Good; 4]);
    fleet.start();
    fleet.ticks(3);
    fleet.verb(|rollout, now| rollout.skip_wave("ada", None, now).unwrap());
    fleet.ticks(30);
    assert_eq!(fleet.rollout.waves()[0].state(), WaveState::AwaitingApproval);
    assert!(fleet.rollout.skip_wave("ada", None, fleet.now).is_err());
    fleet.verb(|rollout, now| rollout.approve("ada", None, now).unwrap());
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn what_failed_is_tried_again_when_somebody_says_so_and_never_in_a_loop() {
    let mut spec = spec(vec![WaveSpec::percent(100).soak(400)]);
    spec.failure_threshold = 90;
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    spoil(&mut fleet, 2, Bad);
    let id = fleet.order()[0];
    let ran = |fleet: &Fleet| fleet.devices[&id].ran.len();
    fleet.until(60, |fleet| fleet.rollout.member(id).unwrap().failure().is_some());
    fleet.ticks(100);
    assert_eq!(ran(&fleet), 1);
    fleet.verb(|rollout, now| rollout.retry_failed("ada", None, now).unwrap());
    fleet.until(60, |fleet| ran(fleet) == 2);
    fleet.until(60, |fleet| matches!(fleet.rollout.member(id).unwrap().progress(), Progress::Failed { .. }));
    // On the device itself it is resumed again and again: each time it has to wait longer.
    fleet.devices.get_mut(&id).unwrap().resume(Bad);
    fleet.until(5, |fleet| matches!(fleet.rollout.member(id).unwrap().progress(), Progress::Waiting { .. }));
    fleet.ticks(55);
    assert_eq!((ran(&fleet), waits(&fleet).contains(&"Penalty".to_owned())), (2, true));
    fleet.until(60, |fleet| ran(fleet) == 3);
    // By hand it is tried at once.
    fleet.until(60, |fleet| matches!(fleet.rollout.member(id).unwrap().progress(), Progress::Failed { .. }));
    fleet.verb(|rollout, now| rollout.retry_failed("ada", None, now).unwrap());
    spoil(&mut fleet, 2, Good);
    fleet.until(20, |fleet| ran(fleet) == 4);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 10);
}

#[test]
fn only_the_wave_that_failed_goes_back_and_then_it_is_paused() {
    let mut spec = spec(halves());
    spec.on_failure = OnFailure::RollbackWave;
    let mut fleet = Fleet::new(spec, &[Good; 20]);
    fleet.start();
    for id in fleet.order().into_iter().skip(10).take(4) {
        fleet.devices.get_mut(&id).unwrap().nature = Bad;
    }
    fleet.until(100, |fleet| fleet.rollout.phase() == Phase::RollingBack);
    fleet.until_phase(Phase::Paused);
    fleet.ticks(20);
    assert_eq!((running(&fleet, 1), running(&fleet, 0)), (10, 10), "the first wave keeps it");
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::Failures));
    fleet.verb(|rollout, now| rollout.resume("ada", None, now).unwrap());
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(running(&fleet, 1), 16, "who failed is not tried again");
}

#[test]
fn after_a_wave_went_back_everybody_can_go_back() {
    let mut spec = spec(halves());
    spec.on_failure = OnFailure::RollbackWave;
    let mut fleet = Fleet::new(spec, &[Good; 20]);
    fleet.start();
    for id in fleet.order().into_iter().skip(10).take(6) {
        fleet.devices.get_mut(&id).unwrap().nature = Bad;
    }
    fleet.until(100, |fleet| fleet.rollout.phase() == Phase::RollingBack);
    fleet.verb(|rollout, now| rollout.rollback("ada", Some("enough"), now).unwrap());
    fleet.until_phase(Phase::Failed);
    assert_eq!(running(&fleet, 0), 20);
    assert!(fleet.rollout.holds_back().is_some());
}

#[test]
fn it_waits_for_the_rollouts_that_it_depends_on() {
    let mut spec = spec(one_wave());
    spec.depends_on = vec![name("base-2")];
    let mut fleet = Fleet::new(spec.clone(), &[Good; 4]);
    fleet.view.dependencies.insert(name("base-2"), Phase::Running);
    fleet.start();
    fleet.ticks(60);
    assert_eq!((touched(&fleet), waits(&fleet)), (0, vec!["Dependency".to_owned()]));
    fleet.view.dependencies.insert(name("base-2"), Phase::Succeeded);
    fleet.until_phase(Phase::Succeeded);
    let mut fleet = Fleet::new(RolloutSpec { operator_timeout_seconds: 100, ..spec }, &[Good; 4]);
    fleet.view.dependencies.insert(name("base-2"), Phase::Failed);
    fleet.start();
    fleet.until_phase(Phase::Aborted);
    assert_eq!(touched(&fleet), 0);
}

#[test]
fn a_release_is_offered_to_the_next_channel_once_it_has_soaked_and_is_still_good() {
    let mut spec = spec(one_wave());
    spec.promotion =
        Some(Promotion { to: name("next"), mode: PromotionMode::Draft, after_soak_seconds: 100 });
    for (nature, offered) in [(Good, 1), (GoesBad, 0)] {
        let mut fleet = Fleet::new(spec.clone(), &[Good; 4]);
        fleet.start();
        fleet.until_phase(Phase::Succeeded);
        let due = fleet.rollout.promotion_due().unwrap();
        assert_eq!(fleet.rollout.deadline(fleet.now), Some(due));
        spoil(&mut fleet, 2, nature);
        fleet.ticks(99);
        let offers = |fleet: &Fleet| {
            fleet.log.iter().filter(|action| matches!(action, Action::Promote { .. })).count()
        };
        assert_eq!(offers(&fleet), 0);
        fleet.ticks(3);
        assert_eq!((offers(&fleet), fleet.rollout.promotion_due()), (offered, None));
        assert!(fleet.rollout.is_done());
    }
}

#[test]
fn noise_does_not_stop_a_slow_start_within_a_small_budget() {
    let mut spec = spec(halves());
    spec.max_unavailable = Some(Amount::Count(2));
    spec.slow_start = true;
    let mut fleet = Fleet::new(spec, &[Good; 40]);
    fleet.start();
    spoil(&mut fleet, 1, Bad);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!((fleet.most_live, running(&fleet, 1)), (2, 39));
}

/// A fleet with one metric: so much on devices that run the new release, and 0.2 on the others; before it was 0.2 everywhere.
fn measured(fleet: &mut Fleet, with_new: f64) {
    for (number, id) in fleet.order().into_iter().enumerate() {
        let noise = f64::from(u32::try_from(number % 3).unwrap()) / 100.0;
        let Some(known) = fleet.view.get_mut(id) else { continue };
        let has_new = known.app.active == Some(release(1).uid);
        let latest = if has_new { with_new } else { 0.2 } + noise;
        let reading = Reading { latest, baseline: Some(0.2 + noise / 2.0) };
        let signals = Signals { metrics: [("cpu".to_owned(), reading)].into(), ..Signals::default() };
        known.signals = Some(Box::new(signals));
    }
}

fn until_measured(fleet: &mut Fleet, with_new: f64, limit: u32, done: impl Fn(&Fleet) -> bool) {
    for _ in 0..limit {
        if done(fleet) {
            return;
        }
        measured(fleet, with_new);
        fleet.tick(1_000);
    }
    panic!("not reached; {} {:#?}", fleet.rollout.phase(), fleet.rollout.waiting_for(&fleet.view, fleet.now));
}

#[test]
fn a_gate_opens_when_its_condition_is_true_against_past_and_control() {
    let mut spec = spec(halves());
    spec.gate = Some("failureRatio < 0.1 && change_high(\"cpu\") < 0.1 && devices.reported == 5".to_owned());
    let wave = &mut spec.waves[1];
    wave.gate = Some("rollout.succeeded == 10 && wave == 2".to_owned());
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    assert!(fleet.rollout.needs_signals());
    fleet.start();
    until_measured(&mut fleet, 0.22, 200, |fleet| fleet.rollout.phase() == Phase::Succeeded);
}

#[test]
fn a_condition_without_data_is_inconclusive_and_never_false() {
    let mut spec = spec(halves());
    spec.gate = Some("diff_high(\"cpu\") < 0.1".to_owned());
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    fleet.until(100, |fleet| fleet.rollout.waves()[0].state() == WaveState::AtGate);
    let waiting = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    assert!(waiting[0].reason.message.contains("have sent cpu"), "{waiting:?}");
    fleet.until_phase(Phase::Paused);
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::Inconclusive));
    fleet.verb(|rollout, now| rollout.resume("ada", None, now).unwrap());
    assert_eq!(fleet.rollout.current_wave(), 1, "goes on without");
}

#[test]
fn a_condition_that_stays_false_halts_at_the_gates_deadline() {
    let mut spec = spec(halves());
    spec.gate = Some("diff_high(\"cpu\") < 0.1".to_owned());
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    until_measured(&mut fleet, 0.6, 2_000, |fleet| fleet.rollout.phase() == Phase::Failed);
    assert!(fleet.rollout.reasons()[1].message.contains("stayed false"), "{:?}", fleet.rollout.reasons());
}

#[test]
fn a_tripwire_halts_at_once_and_not_again_after_somebody_resumed() {
    let mut spec = spec(halves());
    spec.on_failure = OnFailure::Pause;
    spec.tripwires =
        vec![Tripwire { name: name("hot"), when: "diff_low(\"cpu\") > 0.2 && wave == 1".to_owned() }];
    let mut fleet = Fleet::new(spec, &[Good; 10]);
    fleet.start();
    until_measured(&mut fleet, 0.6, 100, |fleet| fleet.rollout.phase() == Phase::Paused);
    assert_eq!(fleet.rollout.pause_state().map(|pause| pause.why), Some(PauseReason::Tripwire));
    assert!(fleet.rollout.reasons()[0].message.contains("tripwire hot"), "{:?}", fleet.rollout.reasons());
    fleet.verb(|rollout, now| rollout.resume("ada", None, now).unwrap());
    until_measured(&mut fleet, 0.6, 200, |fleet| fleet.rollout.phase() == Phase::Succeeded);
}

#[test]
fn conditions_that_nobody_could_judge_are_refused_by_field() {
    for (text, hint) in [
        ("metric(\"cpuu\") > 1", "did you mean \"cpu\""),
        ("devices.faild > 1", "devices.failed"),
        ("devices.failed >", "line 1"),
        ("devices.failed", "bool"),
    ] {
        let mut spec = spec(halves());
        spec.gate = Some(text.to_owned());
        spec.tripwires = vec![Tripwire { name: name("hot"), when: text.to_owned() }];
        let errors = spec.validate().unwrap_err();
        let fields: Vec<_> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["gate", "tripwires[0].when"], "{errors}");
        println!("{errors}");
        assert!(errors.to_string().contains(hint) || hint == "bool", "{text}: {errors}");
    }
}
