//! The envelope of every object: one shape in API, YAML and command line.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::label::Labels;
use crate::name::Name;
use crate::time::UnixMs;

/// The `apiVersion` of every object.
pub const API_VERSION: &str = "farshore.dev/v1";

/// What every object carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub uid: Uuid,
    pub name: Name,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Grows with each change; the value of `ETag` and `If-Match`.
    pub resource_version: i64,
    /// Who keeps this object: `api`, `git`, `dev`, …
    pub managed_by: String,
    pub created_at: UnixMs,
}

/// One aspect of an object's state, with the reason (Kubernetes' condition).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    /// One CamelCase word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    pub last_transition_at: UnixMs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// One link of a chain of reasons: the answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// One CamelCase word for programs, such as `HealthCheckFailed`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    pub since: UnixMs,
}

impl Reason {
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>, since: UnixMs) -> Self {
        Self { code: code.to_owned(), message: message.into(), since }
    }
}
