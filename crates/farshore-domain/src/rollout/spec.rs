//! What an operator asks for, and what is refused before it starts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ReleaseId;
use crate::name::Name;
use crate::version::Version;

/// At most this many waves in one rollout.
pub const MAX_WAVES: usize = 32;
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
    /// Percent of a wave's reporting devices; at this share of failures the rollout halts.
    #[serde(default = "default_threshold")]
    pub failure_threshold: u8,
    /// A gate opens only when at least this many devices of the wave have reported (a smaller wave: all of it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_reports: Option<u32>,
    /// How many devices may be in flight at once, counting permits that unreachable devices hold: a number, or a
    /// percentage of the population, rounded down, at least one.
    #[serde(default)]
    pub max_unavailable: Amount,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// How long a permit may be used.
    #[serde(default = "default_permit")]
    pub permit_seconds: u32,
    /// How long a device with a permit may take. After that it has failed if it is reachable, and is `unreachable` if it isn't.
    #[serde(default = "default_device_timeout")]
    pub device_timeout_seconds: u32,
    /// How long a gate waits without any news before the rollout pauses as inconclusive.
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
fn default_soak() -> u32 {
    60
}

/// One wave: exactly one of `percent` and `count`, both cumulative and of the population at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WaveSpec {
    /// 1 to 100, rounded up, at least one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// How long the wave must stay good after its last device has committed.
    #[serde(default = "default_soak")]
    pub soak_seconds: u32,
}

impl WaveSpec {
    /// A wave up to `percent` of the population, with the default soak.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self { percent: Some(percent), count: None, soak_seconds: default_soak() }
    }

    /// A wave up to `count` devices, with the default soak.
    #[must_use]
    pub fn count(count: u32) -> Self {
        Self { percent: None, count: Some(count), soak_seconds: default_soak() }
    }

    /// The same wave with another soak.
    #[must_use]
    pub fn soak(mut self, seconds: u32) -> Self {
        self.soak_seconds = seconds;
        self
    }

    /// How many devices of `population` this wave reaches.
    #[must_use]
    pub fn reaches(&self, population: u32) -> u32 {
        let wanted = match (self.percent, self.count) {
            (Some(percent), _) => (u64::from(population) * u64::from(percent)).div_ceil(100),
            (None, Some(count)) => u64::from(count),
            (None, None) => u64::from(population),
        };
        u32::try_from(wanted.max(1)).unwrap_or(u32::MAX).min(population)
    }
}

/// A number, or a percentage written `"25%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AmountText", into = "AmountText")]
pub enum Amount {
    Count(u32),
    Percent(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AmountText {
    Number(u32),
    Text(String),
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Amount {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::Integer))
            .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,3}%$")))
            .description(Some("A number of devices, or a percentage such as \"25%\"."))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Amount {}

/// The text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount is a number such as 3, or a percentage such as \"25%\"")]
pub struct AmountError;

impl Default for Amount {
    fn default() -> Self {
        Self::Percent(25)
    }
}

impl Amount {
    /// How many of `population`: rounded down, at least one.
    #[must_use]
    pub fn of(self, population: u32) -> u32 {
        let count = match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                u32::try_from(u64::from(population) * u64::from(percent) / 100).unwrap_or(u32::MAX)
            }
        };
        count.max(1)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Amount {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match text.strip_suffix('%') {
            Some(number) if digits(number) => number.parse().map(Self::Percent).map_err(|_| AmountError),
            None if digits(text) => text.parse().map(Self::Count).map_err(|_| AmountError),
            _ => Err(AmountError),
        }
    }
}

impl TryFrom<AmountText> for Amount {
    type Error = AmountError;
    fn try_from(text: AmountText) -> Result<Self, AmountError> {
        match text {
            AmountText::Number(count) => Ok(Self::Count(count)),
            AmountText::Text(text) => text.parse(),
        }
    }
}

impl From<Amount> for AmountText {
    fn from(amount: Amount) -> Self {
        match amount {
            Amount::Count(count) => Self::Number(count),
            Amount::Percent(_) => Self::Text(amount.to_string()),
        }
    }
}

/// What happens when a wave halts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Nothing more is started; a person decides.
    Pause,
    /// Every device that was touched gets the old release back, within the same budget.
    #[default]
    Rollback,
}

/// A release as a person names it: its uid, or `app@version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReleaseRef {
    Uid(ReleaseId),
    Version { app: Name, version: Version },
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for ReleaseRef {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("A release by its uid, or as app@version."))
            .examples(["edge-web@1.1"])
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for ReleaseRef {}

/// The text names no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a release is named by its uid, or as app@version, for example edge-web@1.1")]
pub struct ReleaseRefError;

impl fmt::Display for ReleaseRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "{uid}"),
            Self::Version { app, version } => write!(f, "{app}@{version}"),
        }
    }
}

impl FromStr for ReleaseRef {
    type Err = ReleaseRefError;
    fn from_str(text: &str) -> Result<Self, ReleaseRefError> {
        match text.split_once('@') {
            None => text.parse().map(Self::Uid).map_err(|_| ReleaseRefError),
            Some((app, version)) => Ok(Self::Version {
                app: app.parse().map_err(|_| ReleaseRefError)?,
                version: version.parse().map_err(|_| ReleaseRefError)?,
            }),
        }
    }
}

impl TryFrom<String> for ReleaseRef {
    type Error = ReleaseRefError;
    fn try_from(text: String) -> Result<Self, ReleaseRefError> {
        text.parse()
    }
}

impl From<ReleaseRef> for String {
    fn from(release: ReleaseRef) -> Self {
        release.to_string()
    }
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
            failure_threshold: default_threshold(),
            min_reports: None,
            max_unavailable: Amount::default(),
            on_failure: OnFailure::default(),
            permit_seconds: default_permit(),
            device_timeout_seconds: default_device_timeout(),
            gate_timeout_seconds: default_gate_timeout(),
            operator_timeout_seconds: default_operator_timeout(),
        }
    }

    /// Refuses what can't be meant, can never progress or could never end. Says everything at once.
    pub fn validate(&self) -> Result<(), SpecErrors> {
        let mut errors = Vec::new();
        let mut refuse = |field: String, message: String| errors.push(FieldError { field, message });
        if let ReleaseRef::Version { app, .. } = &self.release
            && *app != self.app
        {
            refuse(
                "release".into(),
                format!(
                    "is a release of {app}, but the rollout is of {}; write {}@<version>",
                    self.app, self.app
                ),
            );
        }
        for (field, message) in check_waves(&self.waves) {
            refuse(field, message);
        }
        if !(1..=100).contains(&self.failure_threshold) {
            refuse(
                "failureThreshold".into(),
                "is a percentage from 1 to 100; with 1 the first failure halts".into(),
            );
        }
        if self.min_reports == Some(0) {
            refuse("minReports".into(), "is at least 1; leave it out to ask for one report".into());
        }
        match self.max_unavailable {
            Amount::Count(0) | Amount::Percent(0) => refuse(
                "maxUnavailable".into(),
                "of 0 lets no device change, so the rollout could never progress; write at least 1 or \"1%\""
                    .into(),
            ),
            Amount::Percent(percent) if percent > 100 => {
                refuse("maxUnavailable".into(), "is at most \"100%\"".into());
            }
            _ => {}
        }
        if !(1..=DAY_SECONDS).contains(&self.permit_seconds) {
            refuse("permitSeconds".into(), format!("is 1 to {DAY_SECONDS}"));
        }
        if self.device_timeout_seconds < self.permit_seconds || self.device_timeout_seconds > 7 * DAY_SECONDS
        {
            refuse(
                "deviceTimeoutSeconds".into(),
                format!(
                    "is at least permitSeconds ({}) and at most {}",
                    self.permit_seconds,
                    7 * DAY_SECONDS
                ),
            );
        }
        if self.gate_timeout_seconds < self.device_timeout_seconds
            || self.gate_timeout_seconds > 30 * DAY_SECONDS
        {
            refuse(
                "gateTimeoutSeconds".into(),
                format!(
                    "is at least deviceTimeoutSeconds ({}), so that every device can answer first, and at most {}",
                    self.device_timeout_seconds,
                    30 * DAY_SECONDS
                ),
            );
        }
        if !(60..=365 * DAY_SECONDS).contains(&self.operator_timeout_seconds) {
            refuse("operatorTimeoutSeconds".into(), format!("is 60 to {}", 365 * DAY_SECONDS));
        }
        if errors.is_empty() { Ok(()) } else { Err(SpecErrors(errors)) }
    }
}

fn check_waves(waves: &[WaveSpec]) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    if waves.is_empty() || waves.len() > MAX_WAVES {
        errors.push((
            "waves".into(),
            format!("has 1 to {MAX_WAVES} waves; for all at once write one wave of percent 100"),
        ));
    }
    let (mut percent_before, mut count_before) = (0, 0);
    for (index, wave) in waves.iter().enumerate() {
        let at = |field: &str| format!("waves[{index}].{field}");
        match (wave.percent, wave.count) {
            (Some(percent), None) => {
                if !(1..=100).contains(&percent) {
                    errors.push((at("percent"), "is 1 to 100".into()));
                } else if percent <= percent_before {
                    errors.push((
                        at("percent"),
                        format!(
                            "is cumulative: write more than {percent_before}, the percent of an earlier wave"
                        ),
                    ));
                }
                percent_before = percent_before.max(percent);
            }
            (None, Some(count)) => {
                if count == 0 {
                    errors.push((at("count"), "of 0 makes an empty wave; write at least 1".into()));
                } else if count <= count_before {
                    errors.push((
                        at("count"),
                        format!(
                            "is cumulative: write more than {count_before}, the count of an earlier wave"
                        ),
                    ));
                }
                count_before = count_before.max(count);
            }
            _ => errors.push((format!("waves[{index}]"), "has exactly one of percent and count".into())),
        }
        if wave.soak_seconds > 30 * DAY_SECONDS {
            errors.push((at("soakSeconds"), format!("is at most {}", 30 * DAY_SECONDS)));
        }
    }
    if let Some((index, last)) = waves.iter().enumerate().next_back()
        && last.percent != Some(100)
    {
        errors.push((
            format!("waves[{index}].percent"),
            "the last wave must reach every device: write percent 100".into(),
        ));
    }
    errors
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
        assert_eq!(spec.max_unavailable, Amount::Percent(25));
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
