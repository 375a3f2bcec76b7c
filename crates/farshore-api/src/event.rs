//! Events: what changed, numbered per tenant.

use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One event. `sequence` orders the events of a tenant and is the SSE `id:`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub uid: Uuid,
    pub sequence: i64,
    pub at: UnixMs,
    /// `device.claimed`, `rollout.halted`, `release.rolled-back`, …
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: Subject,
    /// Who did it: `user:<email>`, `token:<name>`, `device:<name>`, `driver:<name>`.
    pub actor: String,
    /// A sentence for people.
    pub message: String,
    pub payload: serde_json::Value,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// `Device`, `Rollout`, `Release`, …
    pub kind: String,
    pub uid: Uuid,
    pub name: String,
}
