//! Releases and the keys they are signed with.

use farshore_domain::digest::Digest;
use farshore_domain::release::Manifest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{NoStatus, Object};

/// `POST /api/releases`: a manifest's exact bytes and the signature file over them, both in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewRelease {
    pub manifest: String,
    /// Detached base64 of `cosign sign-blob`, or a Sigstore bundle v0.3.
    pub signature: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseSpec {
    pub manifest: Manifest,
    /// Of the manifest's exact bytes.
    pub manifest_digest: Digest,
    /// Id of the key that signed it: SHA-256 of its SPKI, in hex.
    pub signed_by: String,
    pub key_name: String,
    /// The exact bytes and the signature, in base64, for checking again elsewhere.
    pub signed_manifest: NewRelease,
}

pub type Release = Object<ReleaseSpec, NoStatus>;

/// `GET /api/trusted-keys`: the tenant's current set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustedKeys {
    /// 0 when there is none yet.
    pub version: u64,
    pub keys: Vec<TrustedKey>,
    /// All sets, oldest first.
    pub sets: Vec<crate::claim::SignedKeySet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustedKey {
    pub name: String,
    pub key_id: String,
    pub pem: String,
}
