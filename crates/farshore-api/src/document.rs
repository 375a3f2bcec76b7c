//! Documents that a device and the cloud may both change, twins, and the log of conflicts.

use std::collections::BTreeMap;

use farshore_domain::document::merge::Winner;
use farshore_domain::document::twin::Outstanding;
use farshore_domain::document::{Rule, Stamp};
use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// A document of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    pub device: DeviceId,
    pub collection: String,
    pub name: String,
    /// Grows with each change; the `ETag`, and what `If-Match` names.
    pub revision: u64,
    /// A JSON object. Lists of documents leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// Bytes as JSON.
    pub bytes: u64,
    /// Who changed it last: `device`, `user:…`, `token:…`.
    pub author: String,
    pub created_at: UnixMs,
    pub changed_at: UnixMs,
    /// Whether the device has said that it has this revision.
    pub delivered: bool,
    /// The last write of each leaf, by JSON Pointer. Lists leave it out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub times: BTreeMap<String, Stamp>,
}

/// One revision of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentRevision {
    pub revision: u64,
    pub at: UnixMs,
    pub author: String,
    /// `edit`: in the cloud. `sync`: from the device. `merge`: both put together. `resolve`, `restore`: out of a conflict.
    pub cause: String,
    /// Missing: the document was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// What it changed of the revision before, as a JSON Merge Patch; missing where that is not kept, or one of them is a deletion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub changes: Option<Value>,
}

/// What decides conflicts in the documents of a collection, on all devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentCollection {
    pub name: String,
    pub rules: Vec<Rule>,
    /// Devices may read these documents and not change them.
    pub read_only: bool,
    /// For how many days conflicts are kept that were decided; 30 when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_days: Option<u32>,
    /// What `If-Match` names.
    pub resource_version: i64,
    pub changed_at: UnixMs,
    pub changed_by: String,
}

/// Rules for a collection. Without one for the whole document (the empty path) that is `merge`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DocumentCollectionChange {
    #[serde(default)]
    pub rules: Vec<Rule>,
    #[serde(default)]
    pub read_only: bool,
    /// For how many days conflicts are kept that were decided, 1 to 400; 30 when left out. Open ones wait for 400 days in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict_days: Option<u32>,
}

/// A place that a device and the cloud had both changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentConflict {
    pub uid: Uuid,
    pub device: DeviceId,
    pub device_name: String,
    pub collection: String,
    pub name: String,
    /// A JSON Pointer; empty: the whole document.
    pub path: String,
    /// What decided.
    pub rule: Rule,
    /// Whose value stayed.
    pub winner: Winner,
    /// Why a resolver did not decide, or that the revision it was made on is not kept any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub base: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub edge: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub cloud: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_at: Option<UnixMs>,
    /// Who wrote the cloud's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_by: Option<String>,
    /// The document's revision after it.
    pub revision: u64,
    pub at: UnixMs,
    /// Somebody has to choose.
    pub open: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_by: Option<String>,
    /// What somebody chose: `edge`, `cloud`, `base` or `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
}

/// Which value a place gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    Edge,
    Cloud,
    Base,
    /// Another one: `value`.
    Value,
}

impl Choice {
    /// As it is kept.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Cloud => "cloud",
            Self::Base => "base",
            Self::Value => "value",
        }
    }
}

/// Decides an open conflict, or brings a value back that lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConflictChoice {
    pub choose: Choice,
    /// With `choose: value` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
}

/// Half of a twin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TwinHalf {
    /// 0: never written.
    pub version: u64,
    #[schema(value_type = Object)]
    pub value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<UnixMs>,
    /// The last write of each leaf, by JSON Pointer.
    pub times: BTreeMap<String, Stamp>,
}

/// What is desired of a device, and what it reports of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Twin {
    pub device: DeviceId,
    /// The cloud's; its version is the `ETag`.
    pub desired: TwinHalf,
    /// The device's.
    pub reported: TwinHalf,
    /// What is desired and not reported.
    pub pending: Vec<Outstanding>,
    /// Whether the device has said that it has this version of `desired`.
    pub delivered: bool,
    pub sync: DocumentSync,
}

/// How the exchange of documents with a device stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentSync {
    /// When the device asked the last time; missing: it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synced_at: Option<UnixMs>,
    /// Documents that were changed on the device and had not arrived then.
    pub pending: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_since: Option<UnixMs>,
    /// Conflicts that wait for somebody.
    pub open_conflicts: u64,
}
