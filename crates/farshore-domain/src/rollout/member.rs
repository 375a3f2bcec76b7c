//! One device of a rollout's population, and where it stands.

use serde::{Deserialize, Serialize};

use crate::id::PermitId;
use crate::time::{SECOND_MS, UnixMs};
use crate::word_enum;

word_enum! {
    /// Why a member is left out of the judgement for now.
    Exclusion {
        /// A pin decides on this app.
        Pinned = "pinned",
        /// Cordoned, draining, drained or decommissioned: it gets nothing new.
        Cordoned = "cordoned",
        /// It went back by itself before this rollout reached it, and nobody has resumed it.
        Held = "held",
        /// It has not said that it can keep two instances of an app, as the release needs.
        Incapable = "incapable",
        /// No longer in the channel, or no longer placed.
        Left = "left",
        /// It was away for too long (`offline: skip`), and takes what the channel says when it returns.
        Skipped = "skipped",
    }
}

impl Exclusion {
    /// For people.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::Pinned => "a pin decides on this app there",
            Self::Cordoned => "it is cordoned, drained or decommissioned and gets nothing new",
            Self::Held => "it went back from this release before and is held until somebody resumes it",
            Self::Incapable => "its agent can't keep two instances of an app, which this release needs",
            Self::Left => "it is no longer in the channel, or the app is no longer placed there",
            Self::Skipped => "it was away for too long and takes the release when it returns",
            Self::Unknown => "for a reason that this version does not know",
        }
    }
}

word_enum! {
    /// How a device failed.
    FailureKind {
        /// It said so.
        Reported = "reported",
        /// It refuses or does not support the release. It was not disturbed.
        Refused = "refused",
        /// Reachable, and not done in its time.
        Stuck = "stuck",
        /// Committed, and failing later.
        WentBad = "went-bad",
    }
}

/// What a device's failure was. Kept when the device has gone back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub at: UnixMs,
    pub kind: FailureKind,
    /// In the device's words, or ours.
    pub reason: String,
    /// How often somebody had resumed the app on the device until then; a higher number later means that it may try again.
    #[serde(default)]
    pub resumed: u64,
    /// Somebody resumed the rollout after it: it halts nothing any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub acknowledged: bool,
    /// Somebody said that it may be tried again at once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forgiven: bool,
}

impl Failure {
    pub(super) const fn new(at: UnixMs, kind: FailureKind, reason: String, resumed: u64) -> Self {
        Self { at, kind, reason, resumed, acknowledged: false, forgiven: false }
    }
}

/// How long a device that failed for the second time waits before it is tried a third time; doubled with each failure.
const PENALTY_MS: i64 = 60 * SECOND_MS;
const LONGEST_PENALTY_MS: i64 = 3_600 * SECOND_MS;

/// The wait after so many failures, when nobody has lifted it.
pub(super) fn penalty_ms(failures: u32) -> i64 {
    match failures.checked_sub(2) {
        None => 0,
        Some(more) => PENALTY_MS.saturating_mul(1 << more.min(16)).min(LONGEST_PENALTY_MS),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
pub(super) fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Where one device stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Progress {
    /// For its wave, or for a place in the budget.
    Waiting {
        since: UnixMs,
    },
    /// In flight: holds a permit, or activated with one and has not reported the outcome.
    Updating {
        /// None when it came back in the middle of an activation whose permit is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        permit: Option<PermitId>,
        since: UnixMs,
        expires_at: UnixMs,
        /// Taken back; the device may not know yet, so that its place stays taken until the expiry.
        #[serde(default, skip_serializing_if = "is_false")]
        revoked: bool,
    },
    Updated {
        at: UnixMs,
    },
    /// See [`Member::failure`].
    Failed {
        at: UnixMs,
    },
    Unreachable {
        since: UnixMs,
    },
    Excluded {
        since: UnixMs,
        why: Exclusion,
    },
    /// Must get the old release back; waits for a place in the budget.
    RollbackDue {
        since: UnixMs,
    },
    RollingBack {
        permit: PermitId,
        since: UnixMs,
        expires_at: UnixMs,
        #[serde(default, skip_serializing_if = "is_false")]
        revoked: bool,
    },
    RolledBack {
        at: UnixMs,
    },
    /// Could not go back, or not in its time.
    RollbackFailed {
        at: UnixMs,
        reason: String,
    },
}

impl Progress {
    /// Whether it takes one place of the budget.
    #[must_use]
    pub const fn is_in_flight(&self) -> bool {
        matches!(self, Self::Updating { .. } | Self::RollingBack { .. })
    }

    /// Whether a rollout that goes forward tells it to have the new release, whatever it runs.
    pub(super) const fn keeps_the_new(&self) -> bool {
        matches!(self, Self::Updating { .. } | Self::Updated { .. } | Self::Failed { .. })
    }

    /// Since when it is in this state.
    #[must_use]
    pub const fn since(&self) -> UnixMs {
        match self {
            Self::Waiting { since }
            | Self::Updating { since, .. }
            | Self::Unreachable { since }
            | Self::Excluded { since, .. }
            | Self::RollbackDue { since }
            | Self::RollingBack { since, .. } => *since,
            Self::Updated { at }
            | Self::Failed { at }
            | Self::RolledBack { at }
            | Self::RollbackFailed { at, .. } => *at,
        }
    }
}

/// What the device was last told to have, so that it is told only when that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Told {
    #[default]
    Old,
    New,
    /// Something else decides: a pin, the channel.
    Released,
}

impl Told {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
    fn is_old(&self) -> bool {
        *self == Self::Old
    }
}

/// One device of the population.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its place in the order of the population, from 0. Never changes.
    pub(super) rank: u32,
    /// The wave it is judged with: its own, or a later one when that wave passed without it.
    pub(super) wave: u32,
    /// Joined after the start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) late: bool,
    /// Ever had a permit or the new release: a rollback has to look after it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) touched: bool,
    /// How often it has failed in this rollout.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) failures: u32,
    /// Failed more than once: no new permit before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<UnixMs>,
    /// It reported, and other devices were tried instead: what it reported does not count for its wave any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) set_aside: bool,
    /// When it last came (back) into the rollout: in reach again, let go by whatever had kept it out, or new in the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) came: Option<UnixMs>,
    /// Tried in place of others, with an earlier wave than its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) called_in: bool,
    #[serde(default, skip_serializing_if = "Told::is_old")]
    pub(super) told: Told,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<Box<Failure>>,
    pub(super) progress: Progress,
}

impl Member {
    /// A device that has done nothing yet.
    pub(super) const fn new(rank: u32, wave: u32, late: bool, now: UnixMs) -> Self {
        Self {
            rank,
            wave,
            late,
            touched: false,
            failures: 0,
            not_before: None,
            set_aside: false,
            came: None,
            called_in: false,
            told: Told::Old,
            failure: None,
            progress: Progress::Waiting { since: now },
        }
    }

    #[must_use]
    pub const fn rank(&self) -> u32 {
        self.rank
    }

    /// The index of the wave it is judged with.
    #[must_use]
    pub const fn wave(&self) -> u32 {
        self.wave
    }

    #[must_use]
    pub const fn is_late(&self) -> bool {
        self.late
    }

    #[must_use]
    pub const fn was_touched(&self) -> bool {
        self.touched
    }

    /// Whether it may get a permit now: a device that failed more than once waits, each time longer.
    #[must_use]
    pub fn may_try(&self, now: UnixMs) -> bool {
        self.not_before.is_none_or(|moment| moment <= now)
    }

    /// Whether it was tried in place of others, before its own wave.
    #[must_use]
    pub const fn was_called_in(&self) -> bool {
        self.called_in
    }

    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_deref()
    }

    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Its permit, if it may still be used: not expired, not revoked.
    #[must_use]
    pub fn live_permit(&self, now: UnixMs) -> Option<(PermitId, UnixMs)> {
        match self.progress {
            Progress::Updating { permit: Some(permit), expires_at, revoked: false, .. }
            | Progress::RollingBack { permit, expires_at, revoked: false, .. }
                if expires_at > now =>
            {
                Some((permit, expires_at))
            }
            _ => None,
        }
    }
}
