//! Artifacts: bytes with a digest, uploaded in pieces.

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /api/artifacts`: announces bytes. Then `PATCH` the upload's address with `Upload-Offset` until all are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewArtifact {
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub name: String,
}

/// Where an upload stands. `offset == size` and `complete` when the digest was right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    pub upload: Uuid,
    pub digest: Digest,
    pub size: u64,
    pub offset: u64,
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    pub digest: Digest,
    pub size: u64,
    pub name: String,
    pub created_at: UnixMs,
    /// Names of the releases that refer to it.
    pub releases: Vec<String>,
}
