//! The rollout engine: moves one channel of one app from one release to another, in waves, each behind a gate, inside a budget.
//!
//! [`decide`] is a pure function: `(rollout, view of the fleet, now) -> (next rollout, actions)`. The driver stores the next state and carries the
//! actions out in one transaction, then calls again whenever something is reported or [`Rollout::deadline`] has come. Calling it twice with
//! the same view and time changes nothing the second time.
//!
//! - A device is told the new release one wave ahead, so that it can stage; it activates only with a permit.
//! - Only what devices *reported* is judged. Unreachable devices are neither successes nor failures: the gate opens without them, and
//!   they take the release later, judged with the wave that is current then.
//! - A wave halts as soon as it can no longer end below the threshold, and at its end by plain arithmetic.
//! - A permit occupies a place of the budget until the device has reported, or the permit has expired while the device is away.
//! - Every state that is not final has a deadline ([`Rollout::deadline`]) and says what it waits for ([`Rollout::waiting_for`]).
//!
//! Layout: [`spec`] is what was asked for, [`state`] and [`member`] what is stored, with the operator's verbs in [`verbs`]; [`view`] is what is known of the devices;
//! [`observe`] reads reports into device states, [`judge`] does a wave's arithmetic, `gate` opens and halts, `permits` hands out places of the budget, [`mod@decide`] puts them together; [`why`] explains, [`summary`]
//! condenses, [`invariants`] are what tests, virtual fleets and production checks share.

mod approve;
pub mod characteristic;
mod context;
pub mod decide;
mod gate;
mod groups;
mod halt;
mod hours;
pub mod invariants;
pub mod judge;
mod ledger;
pub mod member;
mod observe;
mod offline;
pub mod openings;
mod permits;
mod places;
mod plan;
mod roster;
pub mod sequential;
pub mod spec;
pub mod state;
pub mod summary;
mod telling;
pub mod verbs;
pub mod view;
mod wave;
mod welch;
pub mod why;

pub use context::vocabulary;
pub use decide::{Action, Decision, decide, decide_on};
pub use groups::{GroupStand, MAX_GROUPS_SHOWN};
pub use member::{Exclusion, Failure, FailureKind, Member, Progress};
pub use plan::{Plan, PlanError};
pub use spec::{
    Amount, Approval, FieldError, GroupBudget, Growth, GrowthKind, Limit, MAX_WAVES, Offline, OfflinePolicy,
    OnFailure, OnInconclusive, OnSmallWave, Promotion, PromotionMode, ReleaseRef, RolloutSpec, SpecErrors,
    Tripwire, WaveSpec,
};
pub use state::{
    HeldPermit, HistoryEntry, KnownRelease, LoadError, Pause, PauseReason, Phase, Rollout, RolloutAssignment,
    SaveError, WaveState,
};
pub use summary::{Bucket, Counts, DeviceSummary, Evidence, RolloutSummary, WaveSummary};
pub use verbs::TransitionError;
pub use view::{AppReport, DeviceView, FleetView, Reading, Signals};
pub use wave::{Approved, Verdict, Wave};
pub use why::{Owner, Waiting};
