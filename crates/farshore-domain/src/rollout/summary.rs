//! What the page and the command line show of a rollout, from the stored state alone.

use serde::{Deserialize, Serialize};

use super::state::{KnownRelease, Pause, Phase, WaveState};
use crate::id::{DeviceId, RolloutId};
use crate::name::Name;
use crate::object::Reason;
use crate::time::UnixMs;
use crate::word_enum;

word_enum! {
    /// Where a device stands, in the words that people count by.
    Bucket {
        Waiting = "waiting",
        /// In flight.
        Updating = "updating",
        Ok = "ok",
        Failed = "failed",
        /// Neither success nor failure.
        Unreachable = "unreachable",
        /// Going back, or waiting for its turn to.
        RollingBack = "rolling-back",
        RolledBack = "rolled-back",
        /// Pinned, cordoned, held or gone: left out of the judgement.
        Excluded = "excluded",
    }
}

/// Devices by [`Bucket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub waiting: u32,
    pub updating: u32,
    pub ok: u32,
    pub failed: u32,
    pub unreachable: u32,
    pub rolling_back: u32,
    pub rolled_back: u32,
    pub excluded: u32,
}

/// One wave. `from` and `to` are cumulative percentages of the population at start, rounded up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct WaveSummary {
    /// From 1.
    pub number: u32,
    /// Devices judged with this wave, stragglers of earlier waves and late joiners included.
    pub size: u32,
    pub from_percent: u32,
    pub to_percent: u32,
    pub soak_seconds: u32,
    pub state: WaveState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    /// When its gate opened or it halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixMs>,
    /// When its soak ends, while it soaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<UnixMs>,
    /// Failed and all reports that were judged; frozen when the gate opened or the wave halted.
    pub failed: u32,
    pub reported: u32,
    /// `failed / reported`, 0 to 1; none without reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<f64>,
    pub counts: Counts,
}

/// One device of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceSummary {
    pub device: DeviceId,
    /// From 1.
    pub wave: u32,
    pub late: bool,
    pub bucket: Bucket,
    pub since: UnixMs,
    /// Why it failed or is left out; also for a device that has gone back since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit_expires_at: Option<UnixMs>,
}

/// A rollout for a list or a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RolloutSummary {
    pub uid: RolloutId,
    pub name: Name,
    pub app: Name,
    pub channel: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<KnownRelease>,
    pub to: KnownRelease,
    pub phase: Phase,
    pub phase_since: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    pub created_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<RolloutId>,
    /// At start; late joiners come on top.
    pub population: u32,
    /// The number of the wave that runs, from 1; 0 before the start.
    pub wave: u32,
    pub waves: Vec<WaveSummary>,
    pub counts: Counts,
    /// Of the wave that runs or halted, 0 to 1; none without reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_ratio: Option<f64>,
    /// 0 to 1.
    pub threshold: f64,
    pub in_flight: u32,
    pub budget: u32,
    pub reasons: Vec<Reason>,
    /// When the rollout decides by itself next, at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<UnixMs>,
}
