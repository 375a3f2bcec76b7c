//! Desired state: everything one device should have and obey, signed by the control plane's online key.
//!
//! It can only *refer* to signed manifests; it can't carry anything that is executed. What is signed are the exact bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Value;
use crate::digest::Digest;
use crate::id::{DeviceId, PermitId, ReleaseId, RolloutId, TenantId};
use crate::name::Name;
use crate::policy::DesiredPolicy;
use crate::release::slot::Activation;
use crate::time::UnixMs;
use crate::version::Version;

/// The `schema` of the desired state this version understands.
pub const DESIRED_SCHEMA: &str = "farshore.dev/desired/v1";
/// At most this many bytes in one desired state.
pub const MAX_DESIRED_BYTES: usize = 1024 * 1024;

/// What one device should have. `(epoch, generation)` only grows; a device refuses anything older.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DesiredState {
    /// [`DESIRED_SCHEMA`].
    pub schema: String,
    pub tenant: TenantId,
    pub tenant_name: Name,
    pub device: DeviceId,
    pub epoch: u64,
    pub generation: u64,
    pub issued_at: UnixMs,
    pub apps: Vec<DesiredApp>,
    /// Sent only to an agent that names [`crate::policy::POLICY_CAPABILITY`]: an older one refuses fields it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<DesiredPolicy>,
    /// The device is drained: apps are stopped and nothing is begun, and everything stays where it lies. Sent only to an agent that names
    /// [`crate::operation::DRAIN_CAPABILITY`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

/// The order of desired states: a restored database raises the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Generation {
    pub epoch: u64,
    pub generation: u64,
}

/// One app on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredApp {
    pub app: Name,
    pub release: DesiredRelease,
    /// Because of what this release is assigned.
    pub because: Because,
    pub config: BTreeMap<String, Value>,
    /// May this release be activated? Without one it is only staged. An app that runs this release already needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit: Option<Permit>,
    /// Counts the times somebody resumed this app after it was held; a higher number than the device has seen lifts the hold.
    #[serde(default)]
    pub resumed: u64,
    /// Apps of this device that are started before it, and stopped after it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<Name>,
    /// How to go to this release, where a rollout says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
}

/// A reference to a signed manifest, by the digest of its exact bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DesiredRelease {
    pub uid: ReleaseId,
    pub version: Version,
    pub manifest: Digest,
}

/// Precedence: pin > rollout > channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", tag = "source")]
pub enum Because {
    Channel {
        channel: Name,
    },
    Pin {
        pin: Name,
    },
    /// `forward` is false for a device that still gets, or gets back, the old release.
    Rollout {
        rollout: RolloutId,
        name: Name,
        wave: u32,
        forward: bool,
    },
    #[serde(other)]
    Unknown,
}

/// The right to activate, with an expiry on the control plane's clock. The device also counts from when it got it, so that a wrong clock can't stretch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Permit {
    pub uid: PermitId,
    pub expires_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
}

/// Why a desired state is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    #[error("a desired state has at most {MAX_DESIRED_BYTES} bytes")]
    TooLarge,
    #[error("this agent does not understand the desired state: {0}")]
    Unsupported(String),
    #[error("the desired state is for another device")]
    WrongDevice,
    #[error("the desired state {offered:?} is older than {accepted:?}, which was accepted before")]
    Older { offered: Generation, accepted: Generation },
}

impl DesiredState {
    /// Reads the exact bytes whose signature has been checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, DesiredError> {
        if bytes.len() > MAX_DESIRED_BYTES {
            return Err(DesiredError::TooLarge);
        }
        let state: Self =
            serde_json::from_slice(bytes).map_err(|e| DesiredError::Unsupported(e.to_string()))?;
        if state.schema != DESIRED_SCHEMA {
            return Err(DesiredError::Unsupported(format!("schema {:?}", state.schema)));
        }
        Ok(state)
    }

    /// Where this state stands in the order.
    #[must_use]
    pub const fn at(&self) -> Generation {
        Generation { epoch: self.epoch, generation: self.generation }
    }

    /// Whether this device takes it: its own, and not older than what it accepted before. The same once more is fine.
    pub fn check_for(
        &self,
        tenant: TenantId,
        device: DeviceId,
        accepted: Generation,
    ) -> Result<(), DesiredError> {
        if self.tenant != tenant || self.device != device {
            return Err(DesiredError::WrongDevice);
        }
        if self.at() < accepted {
            return Err(DesiredError::Older { offered: self.at(), accepted });
        }
        Ok(())
    }
}
