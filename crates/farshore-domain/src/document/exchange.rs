//! What a device and the hub say to each other: the device's changes and how far it has come; the outcomes and what changed since.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Hlc, Rule};

/// Most changes of one request, and most documents of one answer.
pub const MAX_CHANGES: usize = 500;
/// About so many bytes of documents are in one request or answer, and one document more.
pub const MAX_EXCHANGE_BYTES: usize = 512 * 1024;
/// Longest that the hub holds a request back until something changes.
pub const MAX_WAIT_SECONDS: u32 = 25;

/// From the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = DocumentsRequest))]
pub struct Request {
    /// Which life of the device's store this is: 16 hex digits, new when it was begun anew. Change numbers grow within one.
    pub life: String,
    /// Everything up to here is known; 0 at first.
    pub cursor: u64,
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Documents that are wanted whole, because a patch did not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub want: Vec<DocumentName>,
    /// Documents with changes that have not been acknowledged, these included.
    #[serde(default)]
    pub pending: u64,
    /// Changes that were made since this time are not acknowledged. Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_since: Option<i64>,
    /// The rule that the device's program asks for. It holds where the tenant has set none for a collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<Rule>,
    /// Hold the answer back for so long, unless something changes; 25 at most.
    #[serde(default)]
    pub wait_seconds: u32,
}

/// The name of a document on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DocumentName {
    pub collection: String,
    pub name: String,
}

/// What was changed on the device, against the revision that it was made on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = DocumentChange))]
pub struct Change {
    /// Grows with each change of this life of the store; the same number is the same change.
    pub number: u64,
    pub collection: String,
    pub name: String,
    /// The revision it was made on; 0: there was no document. Missing: no revision that the hub knows, so that whatever differs is a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// A JSON Merge Patch; missing: the document was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub patch: Option<Value>,
    /// When each leaf was changed, by JSON Pointer: `milliseconds.count`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub times: BTreeMap<String, Hlc>,
}

/// From the hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = DocumentsAnswer))]
pub struct Answer {
    /// The cursor of the request.
    pub from: u64,
    /// What became of each change.
    pub answers: Vec<Answered>,
    /// What changed since the cursor, or is wanted whole.
    pub documents: Vec<Delta>,
    /// Where to go on.
    pub cursor: u64,
    /// There is more: ask again at once.
    pub more: bool,
    /// The cursor can't be used: begin at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Reset>,
    /// The hub's clock, not before any edit in this answer.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub clock: Hlc,
    /// Collections that the device may only read.
    #[serde(default)]
    pub read_only: Vec<String>,
}

/// Why a cursor can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Reset {
    /// The device was away for longer than deletions are remembered: documents that don't come again were deleted.
    Forgotten,
    /// The hub knows less than the device: it was restored. The device sends what it has.
    Restored,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ChangeOutcome))]
pub enum Outcome {
    /// The document is as the device has it.
    Accepted,
    /// Put together with what the cloud had changed elsewhere in the document.
    Merged,
    /// Both sides had changed the same; it was decided and noted.
    Conflict,
    /// It, or a later one, was taken before.
    Before,
    /// Not taken now; send it again later.
    Later,
    /// From a later version.
    #[serde(other)]
    Unknown,
}

/// The answer to one change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ChangeAnswer))]
pub struct Answered {
    pub number: u64,
    pub collection: String,
    pub name: String,
    pub outcome: Outcome,
    /// The document's revision now.
    pub revision: u64,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a document is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = DocumentState))]
pub enum State {
    /// What the change made of it.
    AsSent,
    /// A JSON Merge Patch for what the change made of it, or for the revision that is named.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    Patch(Value),
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    Value(Value),
    Deleted,
}

/// A document that changed in the cloud.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = DocumentDelta))]
pub struct Delta {
    pub collection: String,
    pub name: String,
    pub revision: u64,
    /// The revision that a patch is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    pub state: State,
}
