//! What carries the exchanges: a seam, so that this crate knows nothing of certificates and connections.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::document::exchange as document;
use farshore_journal::Outgoing;
use serde::{Deserialize, Serialize};

/// An exchange on its way.
pub type Exchange<'a, T> = Pin<Box<dyn Future<Output = Result<T, UplinkError>> + Send + 'a>>;

/// The way to a control plane.
pub trait Uplink: Send + Sync + fmt::Debug {
    /// Says how the gateway stands, and asks what has arrived.
    fn ask<'a>(&'a self, request: &'a SyncRequest) -> Exchange<'a, SyncAnswer>;

    /// Sends a batch. `false`: it was there already.
    fn put<'a>(&'a self, batch: &'a Outgoing) -> Exchange<'a, bool>;

    /// Exchanges documents.
    fn documents<'a>(&'a self, _request: &'a document::Request) -> Exchange<'a, document::Answer> {
        Box::pin(async { Err(UplinkError::NoSync) })
    }
}

/// Why an exchange came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// This gateway has nobody to send to. Looked at again from time to time.
    #[error("{0}")]
    Unclaimed(String),
    #[error("the control plane can't be reached: {0}")]
    Unreachable(String),
    /// It asks to come back later.
    #[error("the control plane asks to come back later: {why}")]
    Later { why: String, after: Option<Duration> },
    /// It is of a version that takes no batches. They are kept.
    #[error("this control plane takes no batches yet; readings are kept here")]
    NoSync,
    /// This device is not welcome.
    #[error("the control plane refused this device: {0}")]
    Refused(String),
    /// The batch can never be read.
    #[error("the control plane can never read the batch: {0}")]
    BadBatch(String),
    /// The batch was sealed for a key that the control plane does not have.
    #[error("the control plane does not have the key that the batch was sealed for")]
    OtherKey,
    #[error("the control plane's answer can't be read: {0}")]
    Answer(String),
}

/// What the gateway says with each question.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    pub epoch: String,
    pub report: SyncReport,
    /// Says that this gateway takes its config, and what of it need not be sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigSeen>,
    /// How syncs went that the control plane asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<ForcedSync>,
}

/// How a sync went that the control plane asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForcedSync {
    /// As the control plane named it.
    pub operation: String,
    pub points_sent: u64,
    pub points_pending: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What was given before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSeen {
    /// The digest of the pipelines that were given last, taken or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipelines: Option<Digest>,
}

/// How the gateway stands. Times are Unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncReport {
    pub backlog_points: u64,
    pub backlog_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unsent_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
    pub lost_points: u64,
    pub refused_batches: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    pub streams: Vec<StreamReport>,
    /// Nothing where nothing is processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processing: Option<ProcessingReport>,
}

/// How its pipelines stand. Counts are since the gateway started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessingReport {
    /// `control-plane`, `file`, `aggregates` or `program`; nothing where nothing is processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The config of the control plane that the pipelines are of, and the digest of their text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Newer pipelines that are not taken; those before go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedReport>,
    /// Why what is remembered can't be kept at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    pub points: u64,
    pub backlog: u64,
    pub series: u64,
    pub late: u64,
    pub dropped: u64,
    pub alerts_raised: u64,
    pub alerts_cleared: u64,
    pub messages: u64,
    pub calls: u64,
    pub calls_failed: u64,
    pub written: u64,
    pub lost: u64,
    pub pipelines: Vec<PipelineReport>,
    /// Steps that are not told, because there are too many.
    pub steps_left_out: u64,
}

/// Pipelines that were not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedReport {
    /// Of pipelines that the control plane gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    pub why: String,
}

/// How one pipeline stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineReport {
    pub name: String,
    pub active_alerts: u64,
    pub steps: Vec<StepReport>,
}

/// How one step stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    pub kind: String,
    pub taken: u64,
    pub passed: u64,
    pub late: u64,
    pub dropped: u64,
    pub cut: u64,
    pub raised: u64,
    pub open_windows: u64,
}

/// How one of its streams stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamReport {
    pub name: String,
    pub class: String,
    pub backlog_points: u64,
    pub backlog_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unsent_at: Option<i64>,
}

/// What has arrived, and which key to seal for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncAnswer {
    pub ingest_key: IngestKeyName,
    pub streams: Vec<StreamMark>,
    /// Somebody at the control plane wants everything sent now.
    #[serde(default)]
    pub force_sync: Option<String>,
    /// Nothing from a control plane of a version that gives none: what there is stays.
    #[serde(default)]
    pub config: Option<DeviceConfig>,
}

/// What the control plane says is this device's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceConfig {
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Nothing: there are none for this device.
    #[serde(default)]
    pub pipelines: Option<GivenPipelines>,
}

/// Pipelines for this device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GivenPipelines {
    pub digest: Digest,
    /// The config that they are of.
    pub from: String,
    /// Left out where the device has seen it.
    #[serde(default)]
    pub text: Option<String>,
}

/// The public half of the tenant's ingest key, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngestKeyName {
    pub public_key: String,
}

/// Which batches of a stream have arrived: everything below `floor`, and ranges above, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamMark {
    pub stream: String,
    pub floor: u64,
    pub above: Vec<(u64, u64)>,
}
