//! Members that can't be reached: wait, skip, defer; and what returns after a rollback.

use farshore_domain::rollout::{Bucket, Exclusion, Offline, OfflinePolicy, Phase, Progress, WaveSpec};

use crate::fleet::{Fleet, Nature, device_id, release, spec};

const MINUTE_MS: i64 = 60_000;

fn fleet(policy: OfflinePolicy, deadline_seconds: u32, natures: &[Nature]) -> Fleet {
    let mut spec = spec(vec![WaveSpec::percent(50).soak(0), WaveSpec::percent(100).soak(0)]);
    spec.offline = Offline { policy, deadline_seconds };
    Fleet::new(spec, natures)
}

/// A fleet of which one device of the first wave is away from the beginning.
fn one_away(policy: OfflinePolicy, deadline_seconds: u32) -> (Fleet, farshore_domain::id::DeviceId) {
    let mut fleet = fleet(policy, deadline_seconds, &[Nature::Good; 6]);
    let plan = fleet.rollout.plan(&fleet.view).unwrap();
    let away = plan.waves().next().unwrap()[0];
    fleet.set_online(away, false);
    fleet.tick(10 * MINUTE_MS);
    fleet.report(away);
    fleet.start();
    (fleet, away)
}

fn bucket(fleet: &Fleet, device: farshore_domain::id::DeviceId) -> Bucket {
    Bucket::of(fleet.rollout.member(device).unwrap().progress())
}

#[test]
fn wait_keeps_the_gate_shut_until_the_deadline_and_says_so() {
    // The deadline is longer than the gate's time limit of ten minutes: waiting is not silence.
    let (mut fleet, away) = one_away(OfflinePolicy::Wait, 3_600);
    let begun = fleet.now;
    fleet.ticks(60);
    for _ in 1..59 {
        fleet.tick(MINUTE_MS);
    }
    assert_eq!((fleet.rollout.phase(), fleet.rollout.current_wave()), (Phase::Running, 0));
    assert_eq!(bucket(&fleet, away), Bucket::Unreachable, "its own bucket");
    let waits = fleet.rollout.waiting_for(&fleet.view, fleet.now);
    let said = waits.iter().find(|w| w.reason.code == "Unreachable").unwrap();
    assert_eq!(said.until, begun.plus_ms(60 * MINUTE_MS));
    fleet.tick(MINUTE_MS);
    assert_eq!(fleet.rollout.current_wave(), 1, "then it opens without it");
    fleet.until_phase(Phase::Succeeded);
}

#[test]
fn wait_opens_the_gate_as_soon_as_the_device_returns() {
    let (mut fleet, away) = one_away(OfflinePolicy::Wait, 3_600);
    fleet.ticks(120);
    assert_eq!(fleet.rollout.current_wave(), 0);
    fleet.set_online(away, true);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(bucket(&fleet, away), Bucket::Ok);
}

#[test]
fn skip_leaves_out_for_good_who_was_away_for_too_long() {
    let (mut fleet, away) = one_away(OfflinePolicy::Skip, 60);
    // Keep the rollout from ending: the second wave waits for its device.
    let last = *fleet.rollout.plan(&fleet.view).unwrap().order().last().unwrap();
    fleet.set_online(last, false);
    fleet.ticks(90);
    let excluded = |fleet: &Fleet| {
        matches!(
            fleet.rollout.member(away).unwrap().progress(),
            Progress::Excluded { why: Exclusion::Skipped, .. }
        )
    };
    assert!(excluded(&fleet));
    fleet.set_online(away, true);
    fleet.ticks(20);
    if !fleet.rollout.phase().is_final() {
        assert!(excluded(&fleet), "also when it is back");
        assert!(fleet.devices[&away].ran.is_empty());
    }
    fleet.set_online(last, true);
    fleet.until_phase(Phase::Succeeded);
    fleet.ticks(60);
    assert_eq!(fleet.devices[&away].app.active, Some(release(1).uid), "the channel tells it in the end");
}

#[test]
fn defer_judges_who_returns_with_the_wave_that_runs_then() {
    let (mut fleet, away) = one_away(OfflinePolicy::Defer, 60);
    fleet.until(200, |fleet| fleet.rollout.current_wave() == 1);
    fleet.set_online(away, true);
    fleet.until_phase(Phase::Succeeded);
    assert_eq!(fleet.rollout.member(away).unwrap().wave(), 1);
}

#[test]
fn who_returns_after_a_rollback_never_runs_the_bad_release() {
    for policy in [OfflinePolicy::Wait, OfflinePolicy::Skip, OfflinePolicy::Defer] {
        let mut fleet = fleet(policy, 60, &[Nature::Bad; 8]);
        fleet.start();
        fleet.tick(1_000);
        fleet.tick(1_000);
        // Two that have staged but have no permit yet lose the network.
        let away: Vec<_> = (0..8)
            .map(device_id)
            .filter(|id| !fleet.rollout.member(*id).unwrap().progress().is_in_flight())
            .take(2)
            .collect();
        assert_eq!(away.len(), 2);
        for id in &away {
            fleet.set_online(*id, false);
        }
        fleet.until_phase(Phase::Failed);
        for id in &away {
            fleet.set_online(*id, true);
        }
        fleet.ticks(300);
        for id in &away {
            let device = &fleet.devices[id];
            assert!(!device.ran.contains(&release(1).uid), "{policy:?}: it ran the bad release");
            assert_eq!(device.app.active, Some(release(0).uid), "{policy:?}: it has the last good one");
        }
    }
}

/// A device comes back every few seconds, and takes longer than that until it has reported: somebody is always at it.
#[test]
fn a_trickle_of_returning_devices_does_not_keep_a_gate_shut() {
    let mut fleet = fleet(OfflinePolicy::Defer, 60, &[Nature::Good; 120]);
    let plan = fleet.rollout.plan(&fleet.view).unwrap();
    let first: Vec<_> = plan.waves().next().unwrap().to_vec();
    let (there, away) = first.split_at(10);
    for id in away {
        fleet.set_online(*id, false);
    }
    fleet.tick(10 * MINUTE_MS);
    fleet.start();
    for id in away {
        fleet.set_online(*id, true);
        fleet.ticks(4);
    }
    assert_eq!(fleet.rollout.current_wave(), 1, "the gate opened in the {} s of the trickle", 4 * away.len());
    let with_the_next = away.iter().filter(|id| fleet.rollout.member(**id).unwrap().wave() == 1).count();
    assert!(with_the_next > 0, "some are judged with the next wave");
    let judged = there.iter().filter(|id| fleet.rollout.member(**id).unwrap().wave() == 0).count();
    assert_eq!(judged, there.len(), "who was there from the beginning is judged with its own");
    fleet.until_phase(Phase::Succeeded);
    fleet.ticks(300);
    assert!(
        first.iter().all(|id| fleet.devices[id].app.active == Some(release(1).uid)),
        "all have it in the end"
    );
}
