//! How a rollout would go.

use farshore_domain::forecast::Forecast;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /api/rollouts/{id}:simulate`; everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SimulateRequest {
    /// The same seed gives the same forecast while the fleet stays the same. 1 when left out.
    pub seed: Option<u32>,
    /// Virtual rollouts, 1 to 200; when left out, as many as take about a second.
    pub runs: Option<u32>,
    /// How many devices of `assignments` to skip.
    pub offset: Option<u32>,
    /// At most this many devices in `assignments`; 100 when left out, 1,000 at most.
    pub limit: Option<u32>,
}

/// The answer of `POST /api/rollouts/{id}:simulate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutForecast {
    /// `assignments` is the page that was asked for.
    #[serde(flatten)]
    pub forecast: Forecast,
    /// Devices in all.
    pub assignments_total: u32,
    pub took_ms: u64,
}
