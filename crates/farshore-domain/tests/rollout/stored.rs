//! The stored state: a sample of each version stays readable for ever.

use farshore_domain::rollout::{Phase, Rollout};

use crate::fleet::{Fleet, Nature, one_wave, spec};

const V1: &str = include_str!("state-v1.json");

fn sample() -> Rollout {
    let mut fleet = Fleet::new(spec(one_wave()), &[Nature::Good, Nature::Good, Nature::Good, Nature::Bad]);
    fleet.start();
    fleet.until(60, |fleet| {
        fleet.rollout.phase() == Phase::Failed || fleet.rollout.phase() == Phase::Succeeded
    });
    fleet.rollout
}

#[test]
#[ignore = "writes the sample of a new version"]
fn write_the_sample() {
    std::fs::write("tests/rollout/state-v1.json", sample().to_json().unwrap()).unwrap();
}

#[test]
fn the_state_of_version_1_is_read_and_written_as_it_was() {
    let read = Rollout::from_json(V1).unwrap();
    assert_eq!(read, sample());
    let written: serde_json::Value = serde_json::from_str(&read.to_json().unwrap()).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(V1).unwrap());
}

#[test]
fn a_state_of_another_version_or_with_unknown_fields_is_refused() {
    let mut value: serde_json::Value = serde_json::from_str(V1).unwrap();
    value["stateVersion"] = 2.into();
    assert!(Rollout::from_json(&value.to_string()).is_err());
    value["stateVersion"] = 1.into();
    value["mood"] = "good".into();
    assert!(Rollout::from_json(&value.to_string()).is_err());
}
