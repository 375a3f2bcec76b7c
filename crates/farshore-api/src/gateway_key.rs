//! Keys of gateways that have no certificate.

use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Object;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayKeySpec {
    /// The device whose readings it sends; registered with the key when there is none of this name.
    pub device: Name,
    /// Where a device is that is registered with the key.
    #[serde(default)]
    pub location: String,
    /// Lifetime from creation, in seconds; 90 days when left out, at most 400.
    #[serde(default = "ninety_days")]
    pub lifetime_seconds: u64,
}

fn ninety_days() -> u64 {
    90 * 24 * 3600
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayKeyStatus {
    pub expires_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<UnixMs>,
    /// What the gateway gets as `CLOUD_API_KEY`, with address and CA fingerprint inside; only in the answer to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

pub type GatewayKey = Object<GatewayKeySpec, GatewayKeyStatus>;
