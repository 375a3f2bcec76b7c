//! What an operator asks for, and what is refused before it starts.

mod amount;
mod judging;
mod placing;
mod release;
mod validate;
mod wave;

use serde::{Deserialize, Serialize};

pub use self::amount::{Amount, AmountError};
pub use self::judging::{
    Approval, OnFailure, OnInconclusive, OnSmallWave, Promotion, PromotionMode, Tripwire,
};
pub use self::placing::{GroupBudget, Growth, GrowthKind, Limit, MAX_GROUPS, Offline, OfflinePolicy};
pub use self::release::{ReleaseRef, ReleaseRefError};
pub use self::wave::WaveSpec;
use crate::name::Name;
use crate::release::slot::Activation;
use crate::schedule::{Blackout, Energy, WindowSpec};

/// At most this many waves in one rollout.
pub const MAX_WAVES: usize = 32;
/// At most this many tripwires in one rollout.
pub const MAX_TRIPWIRES: usize = 16;
/// At most this many rollouts that one depends on.
pub const MAX_DEPENDENCIES: usize = 16;
const DEFAULT_ACCEPTABLE: u8 = 5;
const DAY_SECONDS: u32 = 24 * 3600;

/// Moves one channel of one app to a release, in waves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutSpec {
    pub app: Name,
    pub channel: Name,
    /// Where to: the release's uid, or `app@version`.
    pub release: ReleaseRef,
    /// Cumulative; the last one reaches 100 percent.
    #[serde(default = "default_waves")]
    pub waves: Vec<WaveSpec>,
    /// Waves by rule, instead of `waves`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// The first waves take devices in turn from each combination of the values of these labels.
    #[serde(default = "placing::default_strata", skip_serializing_if = "placing::are_default_strata")]
    pub stratify_by: Vec<String>,
    /// Percent of a wave's reporting devices; at this share of failures the rollout halts.
    #[serde(default = "default_threshold")]
    pub failure_threshold: u8,
    /// Percent of failures that a good release may have (noise). The test inside a wave tells this from `failureThreshold`. When left out 5,
    /// or half of a threshold of 5 and less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptable_failure_rate: Option<u8>,
    /// Percent: how often, over the whole rollout, a release at the acceptable rate may be halted by mistake.
    #[serde(default = "default_false_halt")]
    pub false_halt_percent: u8,
    /// Percent: how often a release at the threshold may be taken for a good one by the test.
    #[serde(default = "default_missed")]
    pub missed_percent: u8,
    /// Devices in flight inside a wave grow with the evidence: 1, 2, 4, … up to the budget.
    #[serde(default = "yes")]
    pub slow_start: bool,
    /// What a halt means in a wave that is too small for `falseHaltPercent`.
    #[serde(default)]
    pub on_small_wave: OnSmallWave,
    /// A gate opens only when at least this many devices of the wave have reported (a smaller wave: all of it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_reports: Option<u32>,
    /// How many devices may be in flight at once, counting permits that unreachable devices hold: a number, or a
    /// percentage of the population, rounded down, at least one. 25 % when neither this nor `minAvailable` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Amount>,
    /// Instead of `maxUnavailable`: how many devices must stay up; a percentage is rounded up. Devices that can't be reached are not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<Amount>,
    /// A budget for each value of a label, shared with everything else that keeps devices of the group down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<GroupBudget>,
    /// What a gate does about members that can't be reached.
    #[serde(default, skip_serializing_if = "Offline::is_default")]
    pub offline: Offline,
    /// Devices change only inside maintenance windows, and begin to download only inside download windows, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowSpec>,
    /// Dates on which no device changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blackouts: Vec<Blackout>,
    /// Whether devices change only in cheap hours (windows of kind `energy`).
    #[serde(default, skip_serializing_if = "Energy::is_any")]
    pub energy: Energy,
    /// How a device goes from the old release to the new one. Left out: `blue-green` where the release has slots, else `replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What happens when a gate had too little evidence until its deadline.
    #[serde(default)]
    pub on_inconclusive: OnInconclusive,
    /// Who opens the gates between the waves (of a single wave: its gate). A wave's own `approval` goes first.
    #[serde(default)]
    pub approval: Approval,
    /// A condition (CEL) that must be true before a gate opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Conditions that halt at once when they become true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tripwires: Vec<Tripwire>,
    /// Rollouts, by name, that must have succeeded before this one changes any device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Name>,
    /// The channel that the release is offered to when this rollout has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
    /// How long a permit may be used.
    #[serde(default = "default_permit")]
    pub permit_seconds: u32,
    /// How long a device with a permit may take. After that it has failed if it is reachable, and is `unreachable` if it isn't.
    #[serde(default = "default_device_timeout")]
    pub device_timeout_seconds: u32,
    /// How long a gate waits without any news before it is inconclusive (see `onInconclusive`).
    #[serde(default = "default_gate_timeout")]
    pub gate_timeout_seconds: u32,
    /// How long a rollout waits for a person (not started, or paused) before it is aborted and devices keep what they have.
    #[serde(default = "default_operator_timeout")]
    pub operator_timeout_seconds: u32,
}

fn default_waves() -> Vec<WaveSpec> {
    [5, 25, 100].into_iter().map(WaveSpec::percent).collect()
}
fn default_threshold() -> u8 {
    30
}
fn default_false_halt() -> u8 {
    1
}
fn default_missed() -> u8 {
    5
}
fn yes() -> bool {
    true
}
fn default_permit() -> u32 {
    300
}
fn default_device_timeout() -> u32 {
    900
}
fn default_gate_timeout() -> u32 {
    3600
}
fn default_operator_timeout() -> u32 {
    7 * DAY_SECONDS
}

/// One thing that is wrong with a specification: which field, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// As in JSON: `waves[1].percent`.
    pub field: String,
    pub message: String,
}

/// Everything that is wrong with a specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct SpecErrors(pub Vec<FieldError>);

impl RolloutSpec {
    /// A rollout of `release` with every default.
    #[must_use]
    pub fn new(app: Name, channel: Name, release: ReleaseRef) -> Self {
        Self {
            app,
            channel,
            release,
            waves: default_waves(),
            growth: None,
            stratify_by: placing::default_strata(),
            failure_threshold: default_threshold(),
            acceptable_failure_rate: None,
            false_halt_percent: default_false_halt(),
            missed_percent: default_missed(),
            slow_start: true,
            on_small_wave: OnSmallWave::default(),
            min_reports: None,
            max_unavailable: None,
            min_available: None,
            group_by: Vec::new(),
            offline: Offline::default(),
            windows: Vec::new(),
            blackouts: Vec::new(),
            energy: Energy::default(),
            activation: None,
            on_failure: OnFailure::default(),
            on_inconclusive: OnInconclusive::default(),
            approval: Approval::default(),
            gate: None,
            tripwires: Vec::new(),
            depends_on: Vec::new(),
            promotion: None,
            permit_seconds: default_permit(),
            device_timeout_seconds: default_device_timeout(),
            gate_timeout_seconds: default_gate_timeout(),
            operator_timeout_seconds: default_operator_timeout(),
        }
    }

    /// The acceptable rate of failures in percent: as given, else 5, or half of a threshold of 5 and less.
    #[must_use]
    pub fn acceptable_percent(&self) -> u8 {
        let usual = if self.failure_threshold > DEFAULT_ACCEPTABLE {
            DEFAULT_ACCEPTABLE
        } else {
            self.failure_threshold / 2
        };
        self.acceptable_failure_rate.unwrap_or(usual)
    }

    /// Who opens the gate of the wave with this index.
    #[must_use]
    pub fn approval_of(&self, wave: usize) -> Approval {
        let own = self.waves.get(wave).and_then(|wave| wave.approval);
        let between = wave + 1 < self.waves.len() || self.waves.len() == 1;
        own.unwrap_or(if between { self.approval } else { Approval::Automatic })
    }

    /// The condition of the gate of the wave with this index.
    #[must_use]
    pub fn gate_of(&self, wave: usize) -> Option<&str> {
        self.waves.get(wave).and_then(|wave| wave.gate.as_deref()).or(self.gate.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> serde_json::Value {
        serde_json::json!({"app": "edge-web", "channel": "prod", "release": "edge-web@1.1"})
    }

    fn refused(field: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let mut value = spec();
        change(&mut value);
        let spec: RolloutSpec = serde_json::from_value(value).unwrap();
        let errors = spec.validate().unwrap_err();
        assert!(errors.0.iter().any(|error| error.field == field), "{field}: {errors}");
    }

    #[test]
    fn a_spec_of_three_fields_has_defaults_that_are_valid_and_survive_json() {
        let spec: RolloutSpec = serde_json::from_value(spec()).unwrap();
        spec.validate().unwrap();
        assert_eq!(spec.limit(), Limit::MaxUnavailable(Amount::Percent(25)));
        assert_eq!(spec.clone().resolved().max_unavailable, Some(Amount::Percent(25)));
        let again: RolloutSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_can_never_progress_is_refused_by_field() {
        refused("waves", |v| v["waves"] = serde_json::json!([]));
        refused("waves[0]", |v| v["waves"] = serde_json::json!([{}]));
        refused("waves[0]", |v| v["waves"] = serde_json::json!([{"percent": 100, "count": 1}]));
        refused("waves[0].percent", |v| v["waves"] = serde_json::json!([{"percent": 50}]));
        refused("waves[1].percent", |v| {
            v["waves"] = serde_json::json!([{"percent": 50}, {"percent": 50}, {"percent": 100}]);
        });
        refused("waves[0].count", |v| v["waves"] = serde_json::json!([{"count": 0}, {"percent": 100}]));
        refused("waves[1].count", |v| {
            v["waves"] = serde_json::json!([{"count": 5}, {"count": 2}, {"percent": 100}]);
        });
        refused("failureThreshold", |v| v["failureThreshold"] = 0.into());
        refused("failureThreshold", |v| v["failureThreshold"] = 101.into());
        refused("maxUnavailable", |v| v["maxUnavailable"] = 0.into());
        refused("maxUnavailable", |v| v["maxUnavailable"] = "0%".into());
        refused("maxUnavailable", |v| v["maxUnavailable"] = "101%".into());
        refused("minReports", |v| v["minReports"] = 0.into());
        refused("permitSeconds", |v| v["permitSeconds"] = 0.into());
        refused("deviceTimeoutSeconds", |v| v["deviceTimeoutSeconds"] = 10.into());
        refused("gateTimeoutSeconds", |v| v["gateTimeoutSeconds"] = 10.into());
        refused("operatorTimeoutSeconds", |v| v["operatorTimeoutSeconds"] = 1.into());
        refused("release", |v| v["release"] = "other@1.1".into());
        refused("acceptableFailureRate", |v| v["acceptableFailureRate"] = 30.into());
        refused("acceptableFailureRate", |v| {
            v["acceptableFailureRate"] = 5.into();
            v["failureThreshold"] = 4.into();
        });
        refused("falseHaltPercent", |v| v["falseHaltPercent"] = 0.into());
        refused("missedPercent", |v| v["missedPercent"] = 51.into());
        refused("gate", |v| v["gate"] = " ".into());
        refused("waves[0].gate", |v| v["waves"] = serde_json::json!([{"percent": 100, "gate": ""}]));
        refused("tripwires[0].when", |v| {
            v["tripwires"] = serde_json::json!([{"name": "hot", "when": "x".repeat(2_000)}]);
        });
        refused("tripwires[1].name", |v| {
            v["tripwires"] = serde_json::json!([{"name": "hot", "when": "a"}, {"name": "hot", "when": "b"}]);
        });
        refused("promotion.to", |v| v["promotion"] = serde_json::json!({"to": "prod"}));
    }

    #[test]
    fn the_acceptable_rate_is_below_any_threshold_unless_somebody_says_otherwise() {
        for (threshold, acceptable) in [(30, 5), (6, 5), (5, 2), (1, 0), (100, 5)] {
            let mut value = spec();
            value["failureThreshold"] = threshold.into();
            let spec: RolloutSpec = serde_json::from_value(value).unwrap();
            spec.validate().unwrap();
            assert_eq!(spec.acceptable_percent(), acceptable);
        }
    }

    #[test]
    fn approval_is_for_the_gates_between_waves_and_a_wave_may_say_its_own() {
        let mut value = spec();
        value["approval"] = "two-people".into();
        value["waves"] =
            serde_json::json!([{"percent": 5}, {"percent": 50, "approval": "one-person"}, {"percent": 100}]);
        let many: RolloutSpec = serde_json::from_value(value.clone()).unwrap();
        let asked: Vec<_> = (0..3).map(|wave| many.approval_of(wave).people()).collect();
        assert_eq!(asked, [2, 1, 0]);
        value["waves"] = serde_json::json!([{"percent": 100}]);
        let one: RolloutSpec = serde_json::from_value(value).unwrap();
        assert_eq!(one.approval_of(0), Approval::TwoPeople);
    }

    #[test]
    fn fields_and_amounts_nobody_knows_are_refused() {
        for (field, value) in
            [("speed", "11"), ("maxUnavailable", "x%"), ("maxUnavailable", "+3"), ("release", "1.1")]
        {
            let mut bad = spec();
            bad[field] = value.into();
            assert!(serde_json::from_value::<RolloutSpec>(bad).is_err(), "{field}={value}");
        }
    }

    #[test]
    fn a_percentage_is_rounded_up_for_waves_and_down_for_budgets_and_is_never_nothing() {
        let reach = |percent, population| WaveSpec::percent(percent).reaches(population);
        assert_eq!([reach(5, 10), reach(25, 10), reach(100, 10), reach(1, 1), reach(5, 0)], [1, 3, 10, 1, 0]);
        assert_eq!(WaveSpec::count(50).reaches(10), 10);
        assert_eq!(
            [Amount::Percent(25).of(10), Amount::Percent(25).of(3), Amount::Count(7).of(3)],
            [2, 1, 7]
        );
    }
}
