//! How a rollout judges, and what follows from it.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// What happens when a wave halts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing more is started; a person decides.
    Pause,
    /// Every device that was touched gets the old release back, within the same budget.
    #[default]
    Rollback,
    /// The devices of the wave that halted get the old release back; then it is paused.
    RollbackWave,
}

/// What happens when a gate had too little evidence for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnInconclusive {
    /// A person decides.
    #[default]
    Pause,
    /// Every device that was touched gets the old release back.
    Rollback,
    /// The gate opens without the evidence; who has not reported is judged with the next wave.
    Continue,
}

/// What a halt by arithmetic means in a wave so small that a good release is halted more often than was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnSmallWave {
    /// It halts, as in any other wave.
    #[default]
    Halt,
    /// It pauses, and a person decides.
    Pause,
    /// The same number of other devices, from the next waves, is tried once; their reports decide.
    RetryElsewhere,
}

/// Who opens a gate whose devices are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// The rollout by itself.
    #[default]
    Automatic,
    OnePerson,
    /// Two different people. Who made the rollout may be one of them.
    TwoPeople,
}

impl Approval {
    /// How many different people have to approve.
    #[must_use]
    pub const fn people(self) -> usize {
        match self {
            Self::Automatic => 0,
            Self::OnePerson => 1,
            Self::TwoPeople => 2,
        }
    }
}

/// A condition that halts the rollout as soon as it is true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tripwire {
    /// What it is called in reasons and events.
    pub name: Name,
    /// A condition (CEL) over what is known of the devices that have the new release.
    pub when: String,
}

/// How the release gets to the next channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PromotionMode {
    /// As a rollout that somebody has to start.
    #[default]
    Draft,
    /// As a rollout that starts by itself.
    Start,
}

/// Where the release goes when the rollout has succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Promotion {
    /// The next channel.
    pub to: Name,
    #[serde(default)]
    pub mode: PromotionMode,
    /// How long the whole channel must have had the release first.
    #[serde(default)]
    pub after_soak_seconds: u32,
}
