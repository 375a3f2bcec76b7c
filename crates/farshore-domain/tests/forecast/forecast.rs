//! What a forecast says of plans whose course is known.

use farshore_domain::forecast::{Failures, Habits, Options, Play, World, play, simulate};
use farshore_domain::rollout::Amount;
use farshore_domain::rollout::characteristic::characteristic;
use farshore_domain::time::HOUR_MS;

use crate::fleet::{NOW, fleet, past, rollout, spec, started};

fn quiet() -> Options {
    Options { noise_percent: 0.0, runs: Some(10), ..Options::default() }
}

#[test]
fn ten_devices_at_once_take_one_install_and_the_soak() {
    let view = fleet(10, 0);
    let mut plan = spec(&[100], 60);
    plan.max_unavailable = Some(Amount::Percent(100));
    plan.slow_start = false;
    let forecast = simulate(&rollout(plan), &view, &past(&view, &[100], 100, 60), &quiet(), NOW).unwrap();
    assert!((forecast.finishes - 1.0).abs() < f64::EPSILON, "{forecast:?}");
    let end = forecast.finish_p50_seconds.unwrap();
    assert!((150..=260).contains(&end), "{end}: the slowest of ten took 110 s, and 60 s soak");
    assert_eq!(forecast.assignments.len(), 10);
    assert_eq!(forecast.peak_down[0].of, 10);
}

#[test]
fn the_same_question_has_the_same_answer_and_another_seed_another() {
    let view = fleet(300, 10);
    let history = past(&view, &[30, 60, 120], 90, 1_800);
    let ask = |seed| {
        let options = Options { seed, runs: Some(5), ..Options::default() };
        simulate(&rollout(spec(&[5, 25, 100], 60)), &view, &history, &options, NOW).unwrap()
    };
    assert_eq!(ask(1), ask(1));
    assert_ne!(ask(1), ask(2));
}

#[test]
fn slow_start_takes_longer_because_few_go_first() {
    let view = fleet(10, 0);
    let ask = |slow_start| {
        let mut plan = spec(&[100], 60);
        plan.max_unavailable = Some(Amount::Percent(100));
        plan.slow_start = slow_start;
        let forecast = simulate(&rollout(plan), &view, &past(&view, &[100], 100, 60), &quiet(), NOW).unwrap();
        forecast.finish_p50_seconds.unwrap()
    };
    assert!(ask(true) > ask(false) + 100, "{} and {}", ask(true), ask(false));
}

#[test]
fn a_window_that_is_shut_stands_in_the_way_until_it_opens() {
    let view = fleet(20, 0);
    let mut plan = spec(&[100], 0);
    // NOW is 22:13 in UTC; the window opens at three.
    plan.windows = vec![
        serde_json::from_value(serde_json::json!({
            "kind": "maintenance", "cron": "0 3 * * *", "durationSeconds": 7_200
        }))
        .unwrap(),
    ];
    let forecast = simulate(&rollout(plan), &view, &past(&view, &[60], 100, 60), &quiet(), NOW).unwrap();
    let opens = (24 + 3) * 3_600 - (22 * 3_600 + 13 * 60 + 20);
    let end = forecast.finish_p50_seconds.unwrap();
    assert!((opens..opens + 2_000).contains(&end), "{end}, opens after {opens}");
    let shut = forecast.blocked.iter().find(|block| block.code == "MaintenanceWindow").unwrap();
    assert!(shut.devices == 20 && shut.first_at <= NOW.plus_ms(60_000), "{shut:?}");
}

#[test]
fn a_budget_of_a_location_bounds_what_is_down_there() {
    let view = fleet(200, 0);
    let mut plan = spec(&[100], 0);
    plan.max_unavailable = Some(Amount::Percent(100));
    plan.slow_start = false;
    plan.group_by =
        vec![serde_json::from_value(serde_json::json!({"label": "location", "maxUnavailable": 2})).unwrap()];
    let forecast = simulate(&rollout(plan), &view, &past(&view, &[60], 100, 60), &quiet(), NOW).unwrap();
    let stores: Vec<_> = forecast.peak_down.iter().filter(|peak| peak.label == "location").collect();
    assert_eq!(stores.len(), 10);
    assert!(stores.iter().all(|store| store.devices == 2 && store.of == 20), "{stores:?}");
}

#[test]
fn what_a_plan_promises_is_what_virtual_rollouts_do() {
    let view = fleet(100, 0);
    let history = past(&view, &[30, 60, 90], 100, 60);
    let habits = Habits::new(&history, &view);
    let plan = spec(&[5, 25, 100], 10);
    let sizes = [5, 20, 75];
    let begun = started(plan, &view);
    let promised = characteristic(begun.spec(), &sizes, begun.budget());
    let mut world = World::new(view, &[], &Failures::independent(1.0));
    for point in promised.points {
        let runs = 150;
        let halts = (0..runs).filter(|seed| {
            let how = Play {
                seed: *seed,
                failure_share: point.failure_rate,
                begin: NOW,
                horizon: NOW.plus_ms(24 * HOUR_MS),
                quantum_ms: 5_000,
                most_steps: 5_000,
                until_halt: true,
            };
            play(begun.clone(), &mut world, &habits, &how).halted
        });
        let seen = f64::from(u32::try_from(halts.count()).unwrap()) / 150.0;
        let promise = point.halt_probability;
        // Four deviations of the count, and a little for reports that come together.
        let slack = 4.0 * (promise * (1.0 - promise) / 150.0).sqrt() + 0.03;
        assert!((seen - promise).abs() <= slack, "{point:?}: {seen} of the virtual ones");
    }
}
