//! Sinks: where the readings of gateways go on to, each with a durable place in every stream.

use farshore_domain::selector::Selector;
use farshore_domain::time::UnixMs;
use farshore_domain::word_enum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Object;

word_enum! {
    /// How readings are handed over.
    SinkKind {
        /// A signed POST with the points of one stream.
        Webhook = "webhook",
        /// OTLP metrics over HTTP, as JSON.
        Otlp = "otlp",
        /// Parquet files in the folder of the control plane, by hour.
        Parquet = "parquet",
    }
}

word_enum! {
    /// Where a new sink begins.
    SinkStart {
        /// With what arrives after it was made.
        Now = "now",
        /// With the oldest points that are kept.
        Earliest = "earliest",
    }
}

word_enum! {
    /// How a sink stands.
    SinkState {
        Disabled = "disabled",
        /// Everything that arrived was handed over, or is about to be.
        Running = "running",
        /// The last attempt failed; it is tried again at `nextAt`.
        Failing = "failing",
    }
}

const fn yes() -> bool {
    true
}

const fn now() -> SinkStart {
    SinkStart::Now
}

/// What goes where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkSpec {
    #[serde(rename = "type")]
    pub kind: SinkKind,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Names of streams, `*` at the end for all that begin so; `data/*` when empty.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Only these measurements; empty: all.
    #[serde(default)]
    pub measurements: Vec<String>,
    /// Only gateways whose labels match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Where it begins when it is made; later it has no effect.
    #[serde(default = "now")]
    pub start: SinkStart,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SinkWebhook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<SinkOtlp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parquet: Option<SinkParquet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkWebhook {
    /// `https://…`, or `http://…`. Redirects are not followed.
    pub url: String,
    /// `whsec_` and 24 to 64 bytes in base64. Write only; left out on creation one is made and shown once, left out later it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkOtlp {
    /// `https://collector.example.com:4318/v1/metrics`; without a path, `/v1/metrics` is added.
    pub url: String,
    /// What is sent as `Authorization`, such as `Bearer …`. Write only; left out later it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
}

const fn an_hour() -> u32 {
    3_600
}

const fn some_days() -> u32 {
    400
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SinkParquet {
    /// Files are written this often, at multiples of it; 1 to 86,400.
    #[serde(default = "an_hour")]
    pub every_seconds: u32,
    /// Files are deleted so many days after the day that their points are of; 1 to 3,650.
    #[serde(default = "some_days")]
    pub keep_days: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SinkStatus {
    pub state: SinkState,
    /// A secret is kept, encrypted.
    pub secret_set: bool,
    /// Shown once, when it was made by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Batches that arrived and were not handed over yet.
    pub waiting_batches: u64,
    pub delivered_batches: u64,
    pub delivered_points: u64,
    /// Batches that the receiver refuses, passed over so that others are not held up. Each is told as an event.
    pub skipped_batches: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivered_at: Option<UnixMs>,
    /// Failures in a row.
    pub attempts: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<UnixMs>,
    /// Where Parquet files lie, below the control plane's data folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

pub type Sink = Object<SinkSpec, SinkStatus>;
