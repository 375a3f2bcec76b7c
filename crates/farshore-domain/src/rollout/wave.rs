//! One wave as it runs.

use serde::{Deserialize, Serialize};

use super::member::{Member, Progress, is_false};
use super::sequential::WaveTest;
use super::state::WaveState;
use crate::name::Name;
use crate::time::UnixMs;

/// What a wave's devices reported when its gate opened or it halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub at: UnixMs,
    pub succeeded: u32,
    pub failed: u32,
    /// It halted by counting, in a wave too small for the promised error: noise alone may do that to a good release.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub small: bool,
}

/// Somebody said that a gate may open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Approved {
    pub at: UnixMs,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// One wave as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    /// Members whose rank is below this, and not in an earlier wave, are in it. Late joiners come on top in the last wave.
    pub(super) upto: u32,
    pub(super) soak_seconds: u32,
    pub(super) state: WaveState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<UnixMs>,
    /// When it last learned something: the gate's time limit counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) news_at: Option<UnixMs>,
    /// Until then the gate's time stands still, because windows are shut; that time has been added to `news_at` already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_until: Option<UnixMs>,
    /// Until when it waits for devices that come (back): the time limit of one device after everybody had reported who was there when it began, and
    /// enough of them. Who comes later takes the release with the next wave; otherwise a trickle of returning devices would keep the gate shut for
    /// as long as it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_call: Option<UnixMs>,
    /// Somebody decided to go on without the missing reports.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) waived: bool,
    /// Somebody decided to go on without waiting for the rest of this wave.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) skipped: bool,
    /// Other devices were tried instead of those that failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) retried: bool,
    /// None in rollouts that an earlier version started: arithmetic alone decides there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) test: Option<WaveTest>,
    /// Since when the gate's condition or its approval is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at_gate_since: Option<UnixMs>,
    /// Who has approved, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) approvals: Vec<Approved>,
    /// Tripwires that were true and that somebody has resumed from: they halt this wave no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tripped: Vec<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<Verdict>,
}

impl Wave {
    /// A wave that waits for those before it.
    pub(super) const fn new(upto: u32, soak_seconds: u32) -> Self {
        Self {
            upto,
            soak_seconds,
            state: WaveState::Waiting,
            started_at: None,
            news_at: None,
            held_until: None,
            last_call: None,
            waived: false,
            skipped: false,
            retried: false,
            test: None,
            at_gate_since: None,
            approvals: Vec::new(),
            tripped: Vec::new(),
            verdict: None,
        }
    }

    /// Whether this member came into the wave while it ran.
    pub(super) fn came_later(&self, member: &Member) -> bool {
        self.started_at.is_some_and(|begun| member.came.is_some_and(|came| came > begun))
    }

    /// Whether this member came after the wave's last call, and waits for the next one.
    pub(super) fn is_too_late(&self, member: &Member) -> bool {
        let late = self.last_call.is_some_and(|end| member.came.is_some_and(|came| came > end));
        late && matches!(member.progress, Progress::Waiting { .. })
    }

    /// Its test; none in rollouts that an earlier version started.
    #[must_use]
    pub const fn test(&self) -> Option<&WaveTest> {
        self.test.as_ref()
    }

    /// Who has approved so far.
    #[must_use]
    pub fn approvals(&self) -> &[Approved] {
        &self.approvals
    }

    /// How many of the population at start this wave and those before it reach.
    #[must_use]
    pub const fn upto(&self) -> u32 {
        self.upto
    }

    #[must_use]
    pub const fn state(&self) -> WaveState {
        self.state
    }

    #[must_use]
    pub const fn started_at(&self) -> Option<UnixMs> {
        self.started_at
    }

    #[must_use]
    pub const fn soak_seconds(&self) -> u32 {
        self.soak_seconds
    }

    #[must_use]
    pub const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }
}
