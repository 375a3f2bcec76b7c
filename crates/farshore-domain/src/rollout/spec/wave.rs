//! One wave as it was asked for.

use serde::{Deserialize, Serialize};

use super::judging::Approval;
use crate::selector::Selector;

/// How long a wave must stay good when nothing else is said.
const DEFAULT_SOAK_SECONDS: u32 = 60;

pub(super) fn default_soak() -> u32 {
    DEFAULT_SOAK_SECONDS
}

/// One wave: exactly one of `percent` and `count`, both cumulative and of the population at start, and `selector`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WaveSpec {
    /// 1 to 100, rounded up, at least one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Everybody who matches and is in no earlier wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// How long the wave must stay good after its last device has committed.
    #[serde(default = "default_soak")]
    pub soak_seconds: u32,
    /// Who opens this wave's gate; the rollout's `approval` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// A condition (CEL) for this wave's gate, instead of the rollout's `gate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
}

impl WaveSpec {
    const fn empty() -> Self {
        Self {
            percent: None,
            count: None,
            selector: None,
            soak_seconds: DEFAULT_SOAK_SECONDS,
            approval: None,
            gate: None,
        }
    }

    /// A wave up to `percent` of the population, with the default soak.
    #[must_use]
    pub fn percent(percent: u8) -> Self {
        Self { percent: Some(percent), ..Self::empty() }
    }

    /// A wave up to `count` devices, with the default soak.
    #[must_use]
    pub fn count(count: u32) -> Self {
        Self { count: Some(count), ..Self::empty() }
    }

    /// A wave of everybody who matches, with the default soak.
    #[must_use]
    pub fn selector(selector: Selector) -> Self {
        Self { selector: Some(selector), ..Self::empty() }
    }

    /// The same wave with another soak.
    #[must_use]
    pub fn soak(mut self, seconds: u32) -> Self {
        self.soak_seconds = seconds;
        self
    }

    /// How many devices of `population` this wave and those before it reach; a wave by selector adds whom it selects.
    #[must_use]
    pub fn reaches(&self, population: u32) -> u32 {
        let wanted = match (self.percent, self.count) {
            (Some(percent), _) => (u64::from(population) * u64::from(percent)).div_ceil(100),
            (None, Some(count)) => u64::from(count),
            (None, None) => u64::from(population),
        };
        u32::try_from(wanted.max(1)).unwrap_or(u32::MAX).min(population)
    }
}
