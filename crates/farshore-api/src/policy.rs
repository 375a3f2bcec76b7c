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
    /// Whether its agent understands all of this. An older one obeys what it understands, and goes on with its own defaults for the rest; rollouts obey
    /// the windows for it.
    pub understood: bool,
    pub effective: Effective,
}

/// What a policy would change for devices if it were as the request says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPreview {
    /// How many devices the selector matches.
    pub matching: u64,
    /// How many devices would obey something else than now, those that are no longer matched included.
    pub changed: u64,
    /// Each change of a value, and for how many devices; those for the most devices first.
    pub changes: Vec<PolicyChange>,
    /// Devices that would obey something else, by name; at most 200.
    pub devices: Vec<Name>,
}

/// One value that changes in the same way for some devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyChange {
    /// `restart.maxRestarts`.
    pub path: String,
    /// As JSON; left out where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The policy that says the new value; where nobody does, the one that said the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Name>,
    pub devices: u64,
}
