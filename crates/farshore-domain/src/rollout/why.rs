//! Why a rollout is where it is, and what it waits for.

use serde::{Deserialize, Serialize};

use crate::object::Reason;
use crate::time::UnixMs;
use crate::word_enum;

word_enum! {
    /// Who has to act.
    Owner {
        /// The rollout decides by itself when the time has come.
        Engine = "engine",
        Device = "device",
        /// A person.
        Operator = "operator",
    }
}

/// One thing that the rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    pub reason: Reason,
    pub owner: Owner,
    /// When it stops waiting, whatever happens.
    pub until: UnixMs,
}
