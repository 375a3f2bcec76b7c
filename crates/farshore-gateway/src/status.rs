//! What the gateway says of itself.

use serde::Serialize;

/// A reading for [`EdgeGateway::send_data`](crate::EdgeGateway::send_data).
#[derive(Clone, Debug, PartialEq)]
pub struct DataPoint {
    pub sensor_id: String,
    pub value: crate::Value<'static>,
    pub unit: Option<String>,
    pub tags: std::collections::BTreeMap<String, String>,
    /// Unix nanoseconds; the gateway's clock when there is none.
    pub timestamp_ns: Option<i64>,
}

impl DataPoint {
    /// A number of a sensor, measured now.
    #[must_use]
    pub fn new(sensor_id: impl Into<String>, value: f64) -> Self {
        Self {
            sensor_id: sensor_id.into(),
            value: crate::Value::Float(value),
            unit: None,
            tags: std::collections::BTreeMap::new(),
            timestamp_ns: None,
        }
    }

    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = Some(unit.into());
        self
    }

    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }
}

/// What waits, and how the exchange with the cloud goes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GatewayStatus {
    pub device_id: String,
    pub device_name: String,
    pub is_online: bool,
    /// Points that wait for the cloud.
    pub pending_sync_count: u64,
    pub pending_bytes: u64,
    /// Seconds.
    pub oldest_unsent_age: Option<f64>,
    /// Seconds until nothing waits, at the present pace; nothing while nobody can say.
    pub drain_estimate: Option<f64>,
    pub last_sync_time: Option<String>,
    pub failed_sync_count: u64,
    /// Batches that the cloud can never read.
    pub refused_batches: u64,
    /// Why there is no exchange, or why the last one came to nothing.
    pub sync_note: Option<String>,
    /// Why readings are refused now; nothing while they are taken.
    pub refusal: Option<String>,
    /// The interface over which sending costs money now: only alerts go.
    pub metered_link: Option<String>,
    /// The site's own broker; nothing where none is set.
    pub broker: Option<BrokerStatus>,
    pub streams: Vec<StreamStatus>,
    /// The newest losses, newest first: those since the start, and those from before of which the control plane was not told at the start.
    pub losses: Vec<crate::losses::Loss>,
    /// How the pipelines stand; nothing where points are only kept.
    pub processing: Option<crate::pipeline::ProcessingStatus>,
}

/// How the connection to the site's own broker stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokerStatus {
    pub address: String,
    pub topics: Vec<String>,
    pub connected: bool,
    /// Why not, when not.
    pub note: Option<String>,
}

/// One stream of the journal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamStatus {
    pub name: String,
    pub class: &'static str,
    /// Whether what is acknowledged survives a power cut.
    pub durable: bool,
    /// `group(MS)`, `strict`, or, of what is not durable, `os` or `memory`.
    pub durability: String,
    /// What gives way at its bounds: `drop-oldest`, `drop-newest`, `reject` or `thin(LENGTH)`.
    pub overflow: String,
    pub max_bytes: Option<u64>,
    pub max_points: Option<u64>,
    pub max_age_s: Option<u64>,
    pub pending_points: u64,
    pub pending_bytes: u64,
    /// Points lost since the start.
    pub lost_points: u64,
    /// The same by reason.
    pub lost: std::collections::BTreeMap<&'static str, u64>,
}

/// Whether the gateway does its work: it takes readings and keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    /// Readings are taken, and something needs looking after.
    Degraded,
    /// Readings are not taken.
    Unhealthy,
}

/// `GET /health`, field by field as the requirements name them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HealthStatus {
    pub status: Health,
    pub device_id: String,
    pub is_online: bool,
    pub pending_sync_count: u64,
    pub last_sync: Option<String>,
    pub uptime_seconds: u64,
    pub local_storage_mb: f64,
    pub cpu_percent: f64,
    pub memory_mb: f64,
}

/// What [`EdgeGateway::force_sync`](crate::EdgeGateway::force_sync) did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncResult {
    pub success: bool,
    pub points_sent: u64,
    pub points_pending: u64,
    /// Why not, when not.
    pub error: Option<String>,
}
