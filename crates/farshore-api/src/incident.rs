//! Incidents: what went wrong on a device, what it did about it, what people said.

use farshore_domain::id::{DeviceId, ReleaseId, RolloutId};
use farshore_domain::incident::{ActionTaken, IncidentCause};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Object;

pub use farshore_domain::incident::IncidentState;

/// What it is about; never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentSpec {
    pub device: DeviceId,
    pub device_name: Name,
    pub location: String,
    /// Left out when it concerns the whole device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    pub cause: IncidentCause,
    /// The release that ran when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The rollout it fell into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_name: Option<String>,
    /// By the device's clock.
    pub started_at: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentStatus {
    pub state: IncidentState,
    /// The first sign, in words.
    pub message: String,
    /// How many signs joined it.
    pub signs: i64,
    pub last_at: UnixMs,
    /// What the device did by itself, oldest first.
    pub actions: Vec<ActionTaken>,
    /// Since when the device says that it is well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<UnixMs>,
    /// `device:<name>` or who said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_by: Option<String>,
    /// What people did and said, oldest first.
    #[serde(default)]
    pub notes: Vec<IncidentNote>,
    /// The black boxes that came from the device; empty in lists.
    #[serde(default)]
    pub evidence: Vec<EvidencePart>,
}

pub type Incident = Object<IncidentSpec, IncidentStatus>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentNote {
    pub at: UnixMs,
    pub by: String,
    /// `acknowledged`, `resolved`, `reopened`.
    pub did: String,
    pub comment: String,
}

/// One black box: `opening` when it began, `given-up` when the device stopped trying.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidencePart {
    pub part: String,
    pub taken_at: UnixMs,
    pub bytes: u64,
}

/// Body of `POST /api/incidents/{id}:acknowledge` and `:resolve`, and of an alert's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IncidentAction {
    pub comment: String,
}
