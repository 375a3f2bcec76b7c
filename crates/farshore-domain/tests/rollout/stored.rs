//! The stored state: a sample of each version stays readable for ever.

use farshore_domain::rollout::{Phase, Rollout};
use serde_json::Value;

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

/// Whether `all` has everything that `part` has; fields may have been added since.
fn keeps(all: &Value, part: &Value) -> bool {
    match (all, part) {
        (Value::Object(all), Value::Object(part)) => {
            part.iter().all(|(key, value)| all.get(key).is_some_and(|other| keeps(other, value)))
        }
        (Value::Array(all), Value::Array(part)) => {
            all.len() == part.len() && all.iter().zip(part).all(|(all, part)| keeps(all, part))
        }
        _ => all == part,
    }
}

#[test]
fn the_state_of_version_1_is_read_and_nothing_of_it_is_lost() {
    let read = Rollout::from_json(V1).unwrap();
    assert_eq!(read.phase(), Phase::Succeeded);
    let written: Value = serde_json::from_str(&read.to_json().unwrap()).unwrap();
    assert!(keeps(&written, &serde_json::from_str(V1).unwrap()), "{written:#}");
    assert_eq!(Rollout::from_json(&written.to_string()).unwrap(), read);
}

#[test]
fn a_state_of_another_version_or_with_unknown_fields_is_refused() {
    let mut value: Value = serde_json::from_str(V1).unwrap();
    value["stateVersion"] = 2.into();
    assert!(Rollout::from_json(&value.to_string()).is_err());
    value["stateVersion"] = 1.into();
    value["mood"] = "good".into();
    assert!(Rollout::from_json(&value.to_string()).is_err());
}
