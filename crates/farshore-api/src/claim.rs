//! Claim tokens, claim rules, and what a device says and gets when it is claimed (on the device port).

use farshore_domain::claim::ClaimRule as ClaimRuleSpec;
use farshore_domain::device::Hardware;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{NoStatus, Object};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimTokenSpec {
    /// Labels that a device claimed with this token gets.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The channel it gets; `prod` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Name>,
    #[serde(default)]
    pub location: String,
    /// Lifetime from creation, in seconds; at most 30 days.
    #[serde(default = "one_hour")]
    pub lifetime_seconds: u64,
    /// How many devices may be claimed with it.
    #[serde(default = "one")]
    pub uses: u32,
}

fn one_hour() -> u64 {
    3600
}
fn one() -> u32 {
    1
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTokenStatus {
    pub used: u32,
    pub expires_at: UnixMs,
    pub revoked: bool,
    /// The token for the device, with address and CA fingerprint inside; only in the answer to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The command to type on the device; only in the answer to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The line to paste on a device that has no agent yet; only in the answer to the creation, and when the control plane has packages of
    /// the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<String>,
}

pub type ClaimToken = Object<ClaimTokenSpec, ClaimTokenStatus>;
pub type ClaimRule = Object<ClaimRuleSpec, NoStatus>;

/// `POST /api/devices/claim` on the device port.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRequest {
    /// The secret part of the claim token.
    pub token: String,
    /// A PKCS#10 request in PEM, signed with the device's own key.
    pub csr: String,
    #[serde(default)]
    pub hardware: Hardware,
    /// Labels the device gives itself; those of the token win.
    #[serde(default)]
    pub labels: Labels,
}

impl std::fmt::Debug for ClaimRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimRequest").field("hardware", &self.hardware).finish_non_exhaustive()
    }
}

/// 200: claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claimed {
    pub tenant: Uuid,
    pub tenant_name: Name,
    pub device: Uuid,
    pub name: Name,
    /// Leaf and intermediate, PEM.
    pub certificate: String,
    pub roots: Vec<String>,
    pub trust_domain: String,
    /// The tenant's trusted key sets, oldest first.
    pub trusted_keys: Vec<SignedKeySet>,
    pub server_time: UnixMs,
}

/// 202: held until a person approves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimPending {
    /// `pending`.
    pub state: String,
    pub retry_after_ms: u64,
}

/// `POST /api/devices/renew` on the device port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewRequest {
    pub csr: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Renewed {
    pub certificate: String,
    pub roots: Vec<String>,
    pub trust_domain: String,
    pub server_time: UnixMs,
}

/// A trusted key set: exact bytes and signature, both in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedKeySet {
    pub document: String,
    pub signature: String,
}
