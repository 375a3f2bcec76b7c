//! Rollouts.

use farshore_domain::name::Name;
use farshore_domain::rollout::{
    DeviceSummary, GroupStand, HistoryEntry, RolloutSpec, RolloutSummary, Waiting, WaveSummary,
};
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ListMetadata, Object};

/// How a rollout goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    pub summary: RolloutSummary,
    /// What it waits for, who has to act, and until when; empty in lists.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// How the budget of each group (`groupBy`) stands, those that keep most devices waiting first, at most 100; empty in lists and at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStand>,
    /// What happened, oldest first; empty in lists.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
    /// The release that this rollout brings is held back in its app and channel; `:release-hold` ends that. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
}

/// A release failed, was rolled back or was rejected in a channel: no rollout brings it there again until somebody releases the hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    pub since: UnixMs,
    /// The rollout that went wrong.
    pub rollout: Name,
    pub reason: String,
}

pub type Rollout = Object<RolloutSpec, RolloutStatus>;

/// One device of a rollout, with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutDevice {
    pub name: Name,
    pub location: String,
    /// Its label `model`; empty without one.
    pub model: String,
    #[serde(flatten)]
    pub summary: DeviceSummary,
}

/// `GET /api/rollouts/{id}/plan`: which device is in which wave. Before the start: as it would be if it started now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutPlan {
    /// Whether the membership is fixed.
    pub started: bool,
    pub population: u32,
    pub waves: Vec<WaveSummary>,
    /// One page of the devices, in the order in which the rollout takes them.
    pub items: Vec<RolloutDevice>,
    pub metadata: ListMetadata,
}

/// Body of the verbs: `POST /api/rollouts/{id}:start`, `:pause`, `:abort`, …
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RolloutAction {
    pub comment: String,
    /// With `:abort`: take the devices that have the new release back to the old one.
    pub rollback: bool,
}
