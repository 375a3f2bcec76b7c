//! `GET /api/active-ops`: what is going on right now.

use farshore_domain::id::{DeviceId, OperationId};
use farshore_domain::operation::State;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::incident::Incident;
use crate::rollout::Rollout;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveOps {
    /// Rollouts that are not over.
    pub rollouts: Vec<Rollout>,
    /// Operations that wait for their device or are being done.
    pub operations: Vec<ActiveOperation>,
    /// Open incidents.
    pub incidents: Vec<Incident>,
}

/// An operation that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveOperation {
    pub uid: OperationId,
    pub device: DeviceId,
    pub device_name: String,
    /// `restart-app`, `logs`, …
    pub kind: String,
    /// Empty when it concerns the whole device.
    pub app: String,
    pub expires_at: UnixMs,
    pub state: State,
    /// What it waits for; empty when it waits for nothing.
    pub waits: String,
    /// When this state ends by itself.
    pub deadline_at: UnixMs,
}
