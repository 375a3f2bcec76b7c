//! Pipelines of gateways: what a device is to run, and how what it runs stands.

use farshore_domain::config::Layer;
use farshore_domain::digest::Digest;
use farshore_domain::id::DeviceId;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a config says to gateways, apart from apps. It belongs to a layer as the config's values do; the nearest layer that holds pipelines wins as a
/// whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewaySettings {
    /// YAML as `farshore-agent pipeline check` takes it, 256 KiB at most. `pipelines: []` is a device without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipelines: Option<String>,
}

/// What a gateway says with each exchange of its config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigSeen {
    /// The digest of the pipelines that were given last, taken or not: their text is not sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipelines: Option<Digest>,
}

/// What a gateway is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceConfig {
    /// The device's labels.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub labels: farshore_domain::label::Labels,
    /// Absent: there are none for this device, and its own file counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipelines: Option<GivenPipelines>,
}

/// Pipelines for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivenPipelines {
    /// Of the text.
    pub digest: Digest,
    /// The config that they are of.
    pub from: Name,
    /// Left out where the gateway has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// How the pipelines of a gateway stand, as it says itself. Counts are since it started; a changed pipeline keeps those of the steps that stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessingReport {
    /// `control-plane`, `file` (of the device), `aggregates` or `program`; absent where nothing is processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The config that what runs is of, and the digest of its text; absent where it is not of the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Newer pipelines that the device does not take; those before go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedPipelines>,
    /// Why what the steps remember can't be kept at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Points that were processed.
    pub points: u64,
    /// Points that wait to be.
    pub backlog: u64,
    /// Series that are known.
    pub series: u64,
    /// Points that came too late to count, in all steps.
    pub late: u64,
    /// Points that were dropped: no room, no value, no plausible time.
    pub dropped: u64,
    pub alerts_raised: u64,
    pub alerts_cleared: u64,
    /// Messages to MQTT.
    pub messages: u64,
    /// Calls of local addresses, and those that failed.
    pub calls: u64,
    pub calls_failed: u64,
    /// Points that pipelines wrote.
    pub written: u64,
    /// Points that pipelines made and the journal did not take.
    pub lost: u64,
    /// Up to 32 pipelines, and 256 steps together.
    pub pipelines: Vec<PipelineReport>,
    /// Steps that are not told, because there are too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub steps_left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Pipelines that a device does not take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusedPipelines {
    /// Of pipelines that the control plane gave; absent where it is the device's own file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    pub why: String,
}

/// How one pipeline stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PipelineReport {
    pub name: String,
    /// Rules that are raised, series by series.
    pub active_alerts: u64,
    pub steps: Vec<StepReport>,
}

/// How one step stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StepReport {
    /// `filter`, `map`, `enrich`, `dedup`, `deadband`, `window`, `rule` or `emit`.
    pub kind: String,
    /// Points that came in.
    pub taken: u64,
    /// Points that went on.
    pub passed: u64,
    /// Points that came too late to count.
    pub late: u64,
    pub dropped: u64,
    /// Windows that had to end before their time.
    pub cut: u64,
    /// Alerts that were raised.
    pub raised: u64,
    pub open_windows: u64,
}

/// `GET /api/devices/{id}/pipelines`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePipelines {
    pub device: DeviceId,
    pub device_name: Name,
    pub state: PipelinesState,
    /// What it is to run; absent where no config holds pipelines for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<WantedPipelines>,
    /// How what it runs stands; absent where it has told nothing of pipelines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<ProcessingReport>,
    /// When its gateway was heard the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<UnixMs>,
}

/// Whether a gateway runs what it is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PipelinesState {
    /// Nothing is wanted of it by config, and it runs nothing.
    None,
    /// Nothing is wanted of it by config; it runs what it has of its own.
    Own,
    /// It has not told that it has what is wanted.
    Pending,
    /// It runs what is wanted.
    Running,
    /// It does not take what is wanted.
    Refused,
    #[serde(other)]
    Unknown,
}

/// What a device is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WantedPipelines {
    /// The config that they are of, and its layer.
    pub config: Name,
    pub layer: Layer,
    pub resource_version: i64,
    pub digest: Digest,
    /// YAML.
    pub text: String,
}

impl DevicePipelines {
    /// Whether what runs is what is wanted.
    #[must_use]
    pub fn state(wanted: Option<Digest>, running: Option<&ProcessingReport>) -> PipelinesState {
        let nothing = ProcessingReport::default();
        let running = running.unwrap_or(&nothing);
        let given = running.source.as_deref() == Some("control-plane");
        match wanted {
            None if given => PipelinesState::Pending,
            None if running.source.is_some() => PipelinesState::Own,
            None => PipelinesState::None,
            Some(_) if given && running.digest == wanted => PipelinesState::Running,
            Some(_) if running.refused.as_ref().is_some_and(|refused| refused.digest == wanted) => {
                PipelinesState::Refused
            }
            Some(_) => PipelinesState::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_whether_what_runs_is_what_is_wanted() {
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let report = |source: &str, digest: Option<Digest>, refused: Option<Digest>| ProcessingReport {
            source: Some(source.to_owned()),
            digest,
            refused: refused.map(|digest| RefusedPipelines { digest: Some(digest), why: String::new() }),
            ..ProcessingReport::default()
        };
        let old_runs = report("control-plane", Some(old), None);
        let old_goes_on = report("control-plane", Some(old), Some(new));
        let own = report("file", None, None);
        for (wanted, running, expected) in [
            (None, None, PipelinesState::None),
            (None, Some(&own), PipelinesState::Own),
            (None, Some(&old_runs), PipelinesState::Pending),
            (Some(old), Some(&old_runs), PipelinesState::Running),
            (Some(new), Some(&old_runs), PipelinesState::Pending),
            (Some(new), Some(&old_goes_on), PipelinesState::Refused),
            (Some(old), Some(&old_goes_on), PipelinesState::Running),
            (Some(new), Some(&own), PipelinesState::Pending),
            (Some(new), None, PipelinesState::Pending),
        ] {
            assert_eq!(DevicePipelines::state(wanted, running), expected, "{wanted:?} {running:?}");
        }
    }
}
