//! Who changes when: how waves grow, what must stay up, and what becomes of devices that are away.

use serde::{Deserialize, Serialize};

use super::{Amount, DAY_SECONDS, MAX_WAVES, RolloutSpec, WaveSpec, default_waves};
use crate::label::is_label_key;
use crate::schedule;

/// At most this many budgets of groups, and this many labels to stratify by.
pub const MAX_GROUPS: usize = 8;
/// With more waves, an exponential growth would begin with waves of less than one percent.
const MAX_EXPONENTIAL: u8 = 8;

/// How waves grow that nobody wants to write one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum GrowthKind {
    /// Each wave adds the same share.
    Linear,
    /// Each wave doubles what was reached.
    Exponential,
}

/// Waves by rule, instead of `waves`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Growth {
    pub kind: GrowthKind,
    /// How many waves.
    pub waves: u8,
    /// The soak of each wave.
    #[serde(default = "super::wave::default_soak")]
    pub soak_seconds: u32,
}

impl Growth {
    /// The waves it means, as cumulative percentages, rounded up.
    #[must_use]
    pub fn resolve(&self) -> Vec<WaveSpec> {
        let of = u64::from(self.waves);
        (1..=of)
            .map(|number| {
                let percent = match self.kind {
                    GrowthKind::Linear => (100 * number).div_ceil(of),
                    GrowthKind::Exponential => {
                        let halvings = u32::try_from(of - number).unwrap_or(u32::MAX);
                        100_u64.div_ceil(1_u64.checked_shl(halvings).unwrap_or(u64::MAX).max(1))
                    }
                };
                WaveSpec::percent(u8::try_from(percent).unwrap_or(100)).soak(self.soak_seconds)
            })
            .collect()
    }
}

/// How many may be down at once: at most so many down, or at least so many up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    MaxUnavailable(Amount),
    MinAvailable(Amount),
}

impl Limit {
    /// How many of `size` devices may be taken down at once when all are up.
    #[must_use]
    pub fn places(self, size: u32) -> u32 {
        match self {
            Self::MaxUnavailable(amount) => amount.of(size),
            Self::MinAvailable(amount) => size.saturating_sub(amount.at_least(size)),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MaxUnavailable(amount) => write!(f, "maxUnavailable {amount}"),
            Self::MinAvailable(amount) => write!(f, "minAvailable {amount}"),
        }
    }
}

/// A budget for each value of a label: for each location, each rack, each redundant pair. Exactly one of the two amounts.
/// A device without the label belongs to no group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupBudget {
    #[cfg_attr(feature = "openapi", schema(example = "location"))]
    pub label: String,
    /// At most so many devices of a group are down at once; a percentage is rounded down, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Amount>,
    /// At least so many devices of a group stay up; a percentage is rounded up. Devices that can't be reached are not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<Amount>,
}

impl GroupBudget {
    /// What it asks for.
    #[must_use]
    pub fn limit(&self) -> Limit {
        match self.min_available {
            Some(amount) => Limit::MinAvailable(amount),
            None => Limit::MaxUnavailable(self.max_unavailable.unwrap_or_default()),
        }
    }
}

/// What a gate does about members that can't be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum OfflinePolicy {
    /// The gate waits for them until the deadline, then opens without them.
    Wait,
    /// Who was away for as long as the deadline is left out for good, and takes what the channel says when it returns.
    Skip,
    /// The gate opens without them; they are judged with the wave that runs when they return.
    #[default]
    Defer,
}

/// Members that can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Offline {
    #[serde(default)]
    pub policy: OfflinePolicy,
    /// For `wait` from the beginning of the wave, for `skip` since the device is away in a wave that runs.
    #[serde(default = "default_offline_deadline")]
    pub deadline_seconds: u32,
}

fn default_offline_deadline() -> u32 {
    DAY_SECONDS
}

impl Default for Offline {
    fn default() -> Self {
        Self { policy: OfflinePolicy::default(), deadline_seconds: default_offline_deadline() }
    }
}

impl Offline {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

pub(super) fn default_strata() -> Vec<String> {
    ["model", "location"].map(str::to_owned).to_vec()
}

pub(super) fn are_default_strata(labels: &[String]) -> bool {
    labels == default_strata()
}

impl RolloutSpec {
    /// The budget over the population.
    #[must_use]
    pub fn limit(&self) -> Limit {
        match self.min_available {
            Some(amount) => Limit::MinAvailable(amount),
            None => Limit::MaxUnavailable(self.max_unavailable.unwrap_or_default()),
        }
    }

    /// With the waves that `growth` means written into `waves`, and the budget that applies when none was given. So it is kept.
    #[must_use]
    pub fn resolved(mut self) -> Self {
        if let Some(growth) = self.growth {
            self.waves = growth.resolve();
        }
        if self.min_available.is_none() {
            self.max_unavailable.get_or_insert_default();
        }
        self
    }
}

fn check_amount(errors: &mut Vec<(String, String)>, field: String, limit: Limit) {
    let text = match limit {
        Limit::MaxUnavailable(Amount::Count(0) | Amount::Percent(0)) => {
            "of 0 lets no device change, so the rollout could never progress; write at least 1 or \"1%\""
        }
        Limit::MinAvailable(Amount::Percent(100)) => {
            "of 100% lets no device change, so the rollout could never progress; write at most \"99%\""
        }
        Limit::MinAvailable(Amount::Count(0) | Amount::Percent(0)) => {
            "of 0 protects nothing: every device could go down at once; leave it out, or write maxUnavailable \"100%\""
        }
        Limit::MaxUnavailable(Amount::Percent(101..)) | Limit::MinAvailable(Amount::Percent(101..)) => {
            "is at most \"100%\""
        }
        _ => return,
    };
    errors.push((field, text.to_owned()));
}

/// What can never progress, or can't be meant.
pub(super) fn check_placing(spec: &RolloutSpec) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let field = if spec.min_available.is_some() { "minAvailable" } else { "maxUnavailable" };
    check_amount(&mut errors, field.to_owned(), spec.limit());
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let text = "and maxUnavailable exclude each other: write one of them";
        errors.push(("minAvailable".to_owned(), text.to_owned()));
    }
    check_growth(spec, &mut errors);
    check_labels(spec, &mut errors);
    if !(60..=30 * DAY_SECONDS).contains(&spec.offline.deadline_seconds) {
        errors.push(("offline.deadlineSeconds".to_owned(), format!("is 60 to {}", 30 * DAY_SECONDS)));
    }
    errors.extend(schedule::check(&spec.windows, &spec.blackouts, spec.energy));
    errors
}

fn check_growth(spec: &RolloutSpec, errors: &mut Vec<(String, String)>) {
    let Some(growth) = spec.growth else { return };
    let most = match growth.kind {
        GrowthKind::Linear => u8::try_from(MAX_WAVES).unwrap_or(u8::MAX),
        GrowthKind::Exponential => MAX_EXPONENTIAL,
    };
    if !(1..=most).contains(&growth.waves) {
        errors.push(("growth.waves".to_owned(), format!("is 1 to {most} for this kind of growth")));
    } else if spec.waves != default_waves() && spec.waves != growth.resolve() {
        errors.push(("growth".to_owned(), "and waves exclude each other: write one of them".to_owned()));
    }
    if growth.soak_seconds > 30 * DAY_SECONDS {
        errors.push(("growth.soakSeconds".to_owned(), format!("is at most {}", 30 * DAY_SECONDS)));
    }
}

fn check_labels(spec: &RolloutSpec, errors: &mut Vec<(String, String)>) {
    let not_a_key = |key: &str| {
        let shown: String = key.chars().take(64).collect();
        format!("{shown:?} is no label key; write for example location")
    };
    for (field, count) in [("stratifyBy", spec.stratify_by.len()), ("groupBy", spec.group_by.len())] {
        if count > MAX_GROUPS {
            errors.push((field.to_owned(), format!("has at most {MAX_GROUPS} entries")));
        }
    }
    for (index, key) in spec.stratify_by.iter().enumerate() {
        if !is_label_key(key) {
            errors.push((format!("stratifyBy[{index}]"), not_a_key(key)));
        }
    }
    for (index, group) in spec.group_by.iter().enumerate() {
        let at = |field: &str| format!("groupBy[{index}]{field}");
        if !is_label_key(&group.label) {
            errors.push((at(".label"), not_a_key(&group.label)));
        }
        if spec.group_by.iter().take(index).any(|other| other.label == group.label) {
            errors.push((at(".label"), "has a budget already in an earlier entry".to_owned()));
        }
        if group.max_unavailable.is_some() == group.min_available.is_some() {
            errors.push((at(""), "has exactly one of maxUnavailable and minAvailable".to_owned()));
            continue;
        }
        let field = if group.min_available.is_some() { ".minAvailable" } else { ".maxUnavailable" };
        check_amount(errors, at(field), group.limit());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> serde_json::Value {
        serde_json::json!({"app": "edge-web", "channel": "prod", "release": "edge-web@1.1"})
    }

    fn errors(change: impl FnOnce(&mut serde_json::Value)) -> Vec<String> {
        let mut value = spec();
        change(&mut value);
        let spec: RolloutSpec = serde_json::from_value(value).unwrap();
        spec.validate()
            .map_or_else(|errors| errors.0.into_iter().map(|error| error.field).collect(), |()| Vec::new())
    }

    fn percents(kind: GrowthKind, waves: u8) -> Vec<u8> {
        Growth { kind, waves, soak_seconds: 5 }.resolve().iter().filter_map(|wave| wave.percent).collect()
    }

    #[test]
    fn growth_becomes_waves_that_are_valid_for_every_number_that_is_allowed() {
        assert_eq!(percents(GrowthKind::Linear, 4), [25, 50, 75, 100]);
        assert_eq!(percents(GrowthKind::Exponential, 5), [7, 13, 25, 50, 100]);
        assert_eq!(percents(GrowthKind::Exponential, 8), [1, 2, 4, 7, 13, 25, 50, 100]);
        for (kind, word, most) in
            [(GrowthKind::Linear, "linear", 32_u8), (GrowthKind::Exponential, "exponential", 8)]
        {
            for waves in 1..=most {
                let mut value = spec();
                value["growth"] = serde_json::json!({"kind": word, "waves": waves});
                let spec: RolloutSpec = serde_json::from_value(value).unwrap();
                spec.validate().unwrap();
                let spec = spec.resolved();
                assert_eq!(spec.waves.len(), usize::from(waves), "{kind:?}");
                spec.validate().unwrap();
            }
        }
    }

    #[test]
    fn an_old_specification_means_what_it_meant() {
        let old: RolloutSpec = serde_json::from_value(spec()).unwrap();
        assert_eq!(old.stratify_by, ["model", "location"]);
        assert_eq!(old.limit(), Limit::MaxUnavailable(Amount::Percent(25)));
        assert_eq!(old.offline.policy, OfflinePolicy::Defer);
        let written = serde_json::to_value(&old).unwrap();
        for field in
            ["growth", "stratifyBy", "minAvailable", "groupBy", "offline", "windows", "blackouts", "energy"]
        {
            assert!(written.get(field).is_none(), "{field} is written only when somebody said it");
        }
    }

    #[test]
    fn what_lets_no_device_change_is_refused_by_field() {
        use serde_json::json;
        assert_eq!(errors(|v| v["minAvailable"] = json!("100%")), ["minAvailable"]);
        assert_eq!(errors(|v| v["minAvailable"] = json!(0)), ["minAvailable"]);
        assert_eq!(
            errors(|v| {
                v["minAvailable"] = json!(2);
                v["maxUnavailable"] = json!("25%");
            }),
            ["minAvailable"],
            "also when it is the one that applies without"
        );
        assert_eq!(
            errors(|v| v["groupBy"] = json!([{"label": "location", "maxUnavailable": 0}])),
            ["groupBy[0].maxUnavailable"]
        );
        assert_eq!(
            errors(|v| v["groupBy"] = json!([{"label": "location", "minAvailable": "100%"}])),
            ["groupBy[0].minAvailable"]
        );
        assert_eq!(errors(|v| v["groupBy"] = json!([{"label": "location"}])), ["groupBy[0]"]);
        assert_eq!(
            errors(|v| v["groupBy"] = json!([{"label": "not a label", "maxUnavailable": 1}])),
            ["groupBy[0].label"]
        );
        let twice = json!([{"label": "rack", "maxUnavailable": 1}, {"label": "rack", "minAvailable": 1}]);
        assert_eq!(errors(|v| v["groupBy"] = twice), ["groupBy[1].label"]);
        assert_eq!(errors(|v| v["stratifyBy"] = json!(["a b"])), ["stratifyBy[0]"]);
        assert_eq!(
            errors(|v| v["offline"] = json!({"policy": "wait", "deadlineSeconds": 1})),
            ["offline.deadlineSeconds"]
        );
        assert_eq!(errors(|v| v["growth"] = json!({"kind": "exponential", "waves": 9})), ["growth.waves"]);
        assert_eq!(errors(|v| v["energy"] = json!("off-hours")), ["energy"]);
        let bad = json!([{"kind": "maintenance", "cron": "0 2 31 2 *", "durationSeconds": 3600}]);
        assert_eq!(errors(|v| v["windows"] = bad), ["windows[0].cron"]);
        assert_eq!(
            errors(|v| {
                v["growth"] = json!({"kind": "linear", "waves": 2});
                v["waves"] = json!([{"percent": 10}, {"percent": 100}]);
            }),
            ["growth"]
        );
    }

    #[test]
    fn a_wave_by_selector_is_no_percentage_and_selects_something() {
        use serde_json::json;
        assert!(errors(|v| v["waves"] = json!([{"selector": "ring=canary"}, {"percent": 100}])).is_empty());
        assert_eq!(
            errors(|v| v["waves"] = json!([{"selector": "a=b", "count": 1}, {"percent": 100}])),
            ["waves[0]"]
        );
        assert_eq!(
            errors(|v| v["waves"] = json!([{"selector": ""}, {"percent": 100}])),
            ["waves[0].selector"]
        );
        assert_eq!(errors(|v| v["waves"] = json!([{"selector": "a=b"}])), ["waves[0].percent"]);
    }

    #[test]
    fn places_are_what_a_limit_leaves() {
        let max = |amount| Limit::MaxUnavailable(amount);
        let min = |amount| Limit::MinAvailable(amount);
        assert_eq!(max(Amount::Percent(25)).places(2), 1, "never nothing");
        assert_eq!(min(Amount::Percent(50)).places(3), 1, "two of three stay up");
        assert_eq!(min(Amount::Count(1)).places(2), 1);
        assert_eq!(min(Amount::Count(5)).places(2), 0);
    }
}
