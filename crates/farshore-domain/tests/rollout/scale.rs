//! Ten thousand devices.

use std::time::Instant;

use farshore_domain::rollout::{Amount, Phase, WaveSpec};

use crate::fleet::{Fleet, Nature, spec};

#[test]
fn ten_thousand_devices_are_decided_in_a_time_that_a_driver_can_afford() {
    let waves = [1, 10, 100].map(|percent| WaveSpec::percent(percent).soak(0)).to_vec();
    let mut spec = spec(waves);
    spec.max_unavailable = Some(Amount::Percent(10));
    let mut fleet = Fleet::new(spec, &vec![Nature::Good; 10_000]);
    fleet.strict = false;
    fleet.start();
    fleet.until(10, |fleet| fleet.rollout.in_flight() > 0);
    let began = Instant::now();
    let rounds = 5;
    for _ in 0..rounds {
        fleet.only_decide();
    }
    let each = began.elapsed() / rounds;
    let bytes = fleet.rollout.to_json().unwrap().len();
    println!("decide over 10,000 devices: {each:?} each; the state has {bytes} bytes");
    assert!(each.as_millis() < 1_000, "{each:?} even unoptimised and on a busy machine");
    fleet.until_phase(Phase::Succeeded);
    assert!(fleet.most_live <= 1_000);
}
