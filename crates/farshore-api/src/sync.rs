//! The sync of gateways: what they ask and send on the device port, and what people see of it.

use farshore_domain::id::{DeviceId, OperationId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::pipeline::{ConfigSeen, DeviceConfig, ProcessingReport};

/// `POST /api/device/sync`: a gateway says how it stands and asks what has arrived. Members of later versions are passed over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// The life of the journal: 16 hex digits.
    pub epoch: String,
    #[serde(default)]
    pub report: GatewayReport,
    /// Says that the gateway takes its config from here. Without it, none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigSeen>,
    /// How syncs went that were asked for with `forceSync`. Said until it was heard.
    #[serde(default)]
    pub forced: Vec<ForcedSync>,
}

/// How a sync went that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForcedSync {
    pub operation: OperationId,
    pub points_sent: u64,
    /// Points that wait, behind it.
    pub points_pending: u64,
    /// Why not everything went; absent when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a gateway says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayReport {
    /// Points that wait.
    pub backlog_points: u64,
    /// Bytes of the journal on disk.
    pub backlog_bytes: u64,
    /// Time of the oldest point that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unsent_at: Option<UnixMs>,
    /// Until nothing waits, at the present pace; absent while nobody can say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
    /// Points that were taken and discarded or damaged since the gateway started.
    pub lost_points: u64,
    /// Batches that were refused for good and lie in the gateway's quarantine, since it started.
    pub refused_batches: u64,
    /// What went wrong the last time something did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Up to 64 streams.
    pub streams: Vec<StreamReport>,
    /// How its pipelines stand; absent where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processing: Option<ProcessingReport>,
}

/// A stream of a gateway's journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamReport {
    pub name: String,
    /// `alert`, `document`, `telemetry` or `log`.
    pub class: String,
    pub backlog_points: u64,
    pub backlog_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_unsent_at: Option<UnixMs>,
}

/// What has arrived, and which key to seal for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncAnswer {
    pub ingest_key: IngestPublicKey,
    /// The streams of this epoch of which anything has arrived.
    pub streams: Vec<StreamMark>,
    pub server_time: UnixMs,
    /// Somebody wants everything sent now: the operation that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_sync: Option<OperationId>,
    /// What is this device's, for a gateway that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<DeviceConfig>,
}

/// The public half of a tenant's ingest key: X25519, hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestPublicKey {
    /// The first eight bytes of the key.
    pub id: String,
    pub public_key: String,
}

/// Which batches of a stream have arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamMark {
    pub stream: String,
    /// Everything below has arrived or is settled.
    pub floor: u64,
    /// Ranges above it, both ends included.
    pub above: Vec<[u64; 2]>,
}

/// `PUT /api/device/batches/{stream}/{epoch}/{sequence}`: the batch is stored, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchTaken {
    /// `false`: it was there already.
    pub stored: bool,
}

/// A gateway in `GET /api/sync`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySync {
    pub device: DeviceId,
    pub device_name: Name,
    pub location: String,
    pub epoch: String,
    /// When it said the following of itself.
    pub reported_at: UnixMs,
    pub report: GatewayReport,
    /// Points that arrived, ever.
    pub received_points: u64,
    pub received_batches: u64,
    /// Bytes as they came over the wire.
    pub received_bytes: u64,
    /// Batches that can never be read.
    pub refused_batches: u64,
    /// When the last batch arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_batch_at: Option<UnixMs>,
    /// Time of the newest point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_at: Option<UnixMs>,
    /// Points that the gateway told as lost.
    pub lost_points: u64,
    pub losses: Vec<SyncLoss>,
    pub streams: Vec<StreamSync>,
}

/// Losses of one stream for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncLoss {
    pub stream: String,
    /// `drop-oldest`, `drop-newest`, `thinned`, `expired`, `corrupt`, `corrupt-batch`, `torn-tail` or `refused`.
    pub reason: String,
    /// How often.
    pub times: u64,
    pub points: u64,
    /// The points' times.
    pub from: UnixMs,
    pub to: UnixMs,
    pub last_at: UnixMs,
}

/// What has arrived of one stream, all lives of the journal together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamSync {
    pub stream: String,
    pub class: String,
    pub points: u64,
    pub batches: u64,
    pub bytes: u64,
    pub refused_batches: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_at: Option<UnixMs>,
    pub last_at: UnixMs,
}

/// A tenant's ingest key, without its secret half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngestKey {
    pub id: String,
    pub public_key: String,
    /// Whether batches are sealed for it now; older ones go on opening what was.
    pub current: bool,
    pub created_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<UnixMs>,
}
