//! What a forecast says of plans whose course is known.

use farshore_domain::forecast::{Options, simulate};
use farshore_domain::rollout::Amount;

use crate::fleet::{NOW, fleet, past, rollout, spec};

fn quiet() -> Options {
    Options { noise_percent: 0.0, runs: Some(10), ..Options::default() }
}

#[test]
fn ten_devices_at_once_take_one_install_and_the_soak() {
    let view = fleet(10, 0);
    let mut plan = spec(&[100], 60);
    plan.max_unavailable = Amount::Percent(100);
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
