//! Policies: rules that devices obey, and what one device obeys.

use farshore_domain::name::Name;
use farshore_domain::policy::{Effective, PolicySpec};
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Object;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// How many devices its selector matches.
    pub devices: u64,
}

pub type Policy = Object<PolicySpec, PolicyStatus>;

/// What a policy said once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyVersion {
    pub version: i64,
    pub at: UnixMs,
    /// Who made it.
    pub actor: String,
    pub spec: PolicySpec,
}

/// What one device obeys, and where each value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevicePolicy {
    pub device: Name,
    /// Whether its agent understands policies. One that does not goes on with its own defaults.
    pub understood: bool,
    pub effective: Effective,
}
