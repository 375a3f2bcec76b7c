//! The decision: `(rollout, view, now) -> (next rollout, actions)`.

use serde::Serialize;

use super::state::{Phase, Rollout};
use crate::id::{DeviceId, PermitId, ReleaseId};
use crate::name::Name;
use crate::time::UnixMs;

/// What the driver carries out, in one transaction with storing the next state.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// What this device should have has changed: write its assignments again ([`crate::assign::assign`]). `release` is what the
    /// rollout gives it; none removes the app, or leaves the decision to a pin or the channel.
    Assign { device: DeviceId, release: Option<ReleaseId>, forward: bool },
    /// The device may activate `release` until `expires_at`. Without a release the app is removed.
    Permit {
        device: DeviceId,
        release: Option<ReleaseId>,
        permit: PermitId,
        expires_at: UnixMs,
        /// False for a permit to go back.
        forward: bool,
    },
    /// Take the permit out of the device's desired state.
    RevokePermit { device: DeviceId, permit: PermitId },
    /// The channel points to this release from now on.
    MovePointer { channel: Name, app: Name, release: ReleaseId },
    /// For the event table.
    Event { kind: &'static str, message: String, detail: serde_json::Value },
    /// Nothing more will come: write the assignments of all members again, and forget the timer.
    Done { phase: Phase },
}

/// The next state and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub next: Rollout,
    pub actions: Vec<Action>,
}
