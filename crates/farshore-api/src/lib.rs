//! The REST API's types, shared by server and command line.
//!
//! One envelope ([`Object`]) in API, YAML and command line. A file for each noun. The OpenAPI document is made from
//! these types and the routes, and is committed as `openapi.json`.

pub mod access;
pub mod active_ops;
pub mod alert;
pub mod artifact;
pub mod claim;
pub mod device;
pub mod document;
pub mod event;
pub mod fleet;
pub mod forecast;
pub mod gateway_key;
pub mod incident;
pub mod operation;
pub mod pipeline;
pub mod policy;
pub mod problem;
pub mod release;
pub mod rollout;
mod schema;
pub mod series;
pub mod sink;
pub mod sync;
pub mod why;

pub use problem::{ErrorCode, FieldError, Problem};

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An object as the API shows it, and as YAML holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object<S, T> {
    /// `farshore.dev/v1`.
    pub api_version: String,
    pub kind: String,
    pub metadata: Metadata,
    pub spec: S,
    pub status: T,
}

/// An object as it is sent to be created or replaced. `apiVersion` and `kind` may be left out where the address says them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewObject<S> {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub metadata: NewMetadata,
    pub spec: S,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewMetadata {
    pub name: Name,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// A status without content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NoStatus {}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    pub items: Vec<T>,
    pub metadata: ListMetadata,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListMetadata {
    /// Send it as `?continue=` for the next page; absent on the last.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continue_from: Option<String>,
    /// How many match in all, where that is cheap to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}
