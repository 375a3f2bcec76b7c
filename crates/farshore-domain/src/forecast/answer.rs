//! What a forecast says. Times are seconds from the moment of the forecast.

use serde::{Deserialize, Serialize};

use super::history::Basis;
use crate::id::DeviceId;
use crate::name::Name;
use crate::rollout::characteristic::{OperatingPoint, RealError};
use crate::time::UnixMs;

/// How a rollout would go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// The moment that seconds are counted from.
    pub at: UnixMs,
    /// Devices of the rollout.
    pub devices: u32,
    /// The same seed gives the same forecast.
    pub seed: u64,
    /// Virtual rollouts that were played; fewer for larger fleets.
    pub runs: u32,
    /// Reports were gathered on a grid of this width, so that times are right to about this much.
    pub quantum_seconds: f64,
    /// What was taken for granted, in sentences.
    pub assumptions: Vec<String>,
    pub basis: Basis,
    pub waves: Vec<WaveForecast>,
    /// Until it has succeeded, in the middle and at the ninetieth percentile of the runs that did. None when no run did.
    pub finish_p50_seconds: Option<u32>,
    pub finish_p90_seconds: Option<u32>,
    /// The share of the runs that succeeded, 0 to 1.
    pub finishes: f64,
    /// How the other runs ended.
    pub endings: Vec<Ending>,
    /// What stood in the way in the first run.
    pub blocked: Vec<Blocked>,
    /// The most devices that were down at once: of the fleet (`label` is empty), and of each group.
    pub peak_down: Vec<PeakDown>,
    /// The plan with a release that fails, exactly; for devices that fail independently and all report.
    pub operating_characteristic: Vec<OperatingPoint>,
    /// By time; the API gives a page of it.
    pub assignments: Vec<Turn>,
}

/// One wave, in percentiles over the runs that reached it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct WaveForecast {
    /// From 1.
    pub wave: u32,
    /// Devices that it takes beyond those of earlier waves.
    pub devices: u32,
    /// Seconds from now; none when no run came that far.
    pub starts_p50: Option<u32>,
    pub starts_p90: Option<u32>,
    /// When its gate opens.
    pub ends_p50: Option<u32>,
    pub ends_p90: Option<u32>,
    /// What a wave of this size gets wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real_error: Option<RealError>,
}

/// An end without success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// In a few words, such as `halted`.
    pub how: String,
    /// The share of the runs, 0 to 1.
    pub share: f64,
}

/// A rule or window that made the rollout wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// One CamelCase word for programs.
    pub code: String,
    /// A sentence for people.
    pub why: String,
    /// The most devices that waited for it at once; 0 when the whole rollout did.
    pub devices: u32,
    pub first_at: UnixMs,
    /// How long it was in the way, in all.
    pub seconds: u32,
}

/// How many devices of a group were down at once, at most over all runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PeakDown {
    /// The label's value; `fleet` for all devices.
    pub group: String,
    /// The label's key; empty for all devices.
    pub label: String,
    pub devices: u32,
    /// How many devices the group has.
    pub of: u32,
}

/// A device's turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Turn {
    pub device: DeviceId,
    pub name: Name,
    /// From 1.
    pub wave: u32,
    /// When it has the release, in the middle of the runs; none when it gets it in fewer than half of them.
    pub about_seconds: Option<u32>,
}
