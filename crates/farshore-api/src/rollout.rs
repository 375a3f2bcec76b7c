//! Rollouts.

use farshore_domain::name::Name;
use farshore_domain::rollout::{DeviceSummary, HistoryEntry, RolloutSpec, RolloutSummary, Waiting};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Object;

/// How a rollout goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    pub summary: RolloutSummary,
    /// What it waits for, who has to act, and until when; empty in lists.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// What happened, oldest first; empty in lists.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
}

pub type Rollout = Object<RolloutSpec, RolloutStatus>;

/// One device of a rollout, with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutDevice {
    pub name: Name,
    pub location: String,
    #[serde(flatten)]
    pub summary: DeviceSummary,
}

/// Body of `POST /api/rollouts/{id}:start`, `:pause`, `:resume` and `:abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RolloutAction {
    pub comment: String,
    /// With `:abort`: take the devices that have the new release back to the old one.
    pub rollback: bool,
}

/// `GET /api/active-ops`: what is going on right now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveOps {
    pub rollouts: Vec<Rollout>,
}
