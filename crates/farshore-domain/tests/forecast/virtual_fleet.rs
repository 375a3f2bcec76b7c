//! Ten thousand virtual devices of which a tenth is away at any time: the rollout ends as it should, and the same way each time.

use farshore_domain::forecast::{Failures, Habits, Outcome, Play, World, play};
use farshore_domain::rollout::{Amount, Phase, RolloutSpec};
use farshore_domain::time::HOUR_MS;

use crate::fleet::{NOW, fleet, past, spec, started};

fn plan() -> RolloutSpec {
    RolloutSpec { max_unavailable: Some(Amount::Percent(25)), ..spec(&[1, 5, 25, 100], 60) }
}

/// Ten thousand devices; a tenth is away, for an hour each time.
fn roll_out(failures: &Failures, seeds: &[u64], until_halt: bool) -> Vec<Outcome> {
    let view = fleet(10_000, 10);
    let habits = Habits::new(&past(&view, &[40, 50, 60, 90], 90, 3_600), &view);
    let rollout = started(plan(), &view);
    let mut world = World::new(view, &[], failures);
    let how = |seed: &u64| Play {
        seed: *seed,
        failure_share: failures.share,
        begin: NOW,
        horizon: NOW.plus_ms(72 * HOUR_MS),
        quantum_ms: 25_000,
        most_steps: 2_000,
        until_halt,
    };
    seeds.iter().map(|seed| play(rollout.clone(), &mut world, &habits, &how(seed))).collect()
}

#[test]
fn a_good_release_reaches_ten_thousand_devices_of_which_a_tenth_is_away_and_the_same_way_each_time() {
    let outcomes = roll_out(&Failures::independent(0.01), &[1, 2, 1], false);
    for outcome in &outcomes {
        assert_eq!((outcome.phase, outcome.halted), (Phase::Succeeded, false), "{outcome:?}");
        assert!(outcome.touched >= 9_000, "{outcome:?}");
        assert!(outcome.waves.iter().all(|(start, end)| start < end), "{outcome:?}");
    }
    assert_eq!(outcomes[0], outcomes[2], "one seed, one outcome");
    assert_ne!(outcomes[0], outcomes[1], "another seed, another outcome");
}

#[test]
fn a_bad_release_is_taken_back_from_everyone_who_has_it_and_the_same_way_each_time() {
    let outcomes = roll_out(&Failures::independent(0.5), &[1, 2, 3, 1], false);
    for outcome in &outcomes {
        assert_eq!((outcome.phase, outcome.halted), (Phase::Failed, true), "{outcome:?}");
        assert!(outcome.touched <= 127, "{outcome:?}");
        assert!(outcome.waves[1].0.is_none(), "no second wave: {outcome:?}");
    }
    assert_eq!(outcomes[0], outcomes[3], "one seed, one outcome");
}

#[test]
fn a_release_that_fails_on_one_model_halts_too() {
    let failures = Failures { share: 1.0, only: Some(("model".to_owned(), "m1".to_owned())) };
    for outcome in roll_out(&failures, &[1, 2, 3], true) {
        assert!(outcome.halted && outcome.touched <= 200, "{outcome:?}");
    }
}
