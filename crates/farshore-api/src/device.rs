//! Devices.

use std::collections::BTreeMap;

use farshore_domain::connectivity::Connectivity;
use farshore_domain::desired::{Because, DesiredRelease, Generation};
use farshore_domain::device::{AppPhase, Conformance, Hardware, Health, Lifecycle, Reachability, Sense};
use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Object;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceSpec {
    pub channel: Name,
    #[serde(default)]
    pub location: String,
    /// `agent`.
    #[serde(default = "agent")]
    pub driver: String,
}

fn agent() -> String {
    "agent".to_owned()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    pub reachability: Reachability,
    pub health: Health,
    pub conformance: Conformance,
    pub lifecycle: Lifecycle,
    /// Why it is in these states.
    pub reasons: Vec<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<UnixMs>,
    pub agent_version: String,
    pub capabilities: Vec<String>,
    /// Who tells which signal of the kernel (`process_exit`, `oom_kill`, `tcp_retransmit`, `io_latency`, `exec`, `connect`) and of stalls (`pressure`); empty for a device
    /// that does not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub senses: BTreeMap<String, Sense>,
    pub hardware: Hardware,
    /// What the device accepted last, and what it should have.
    pub accepted: Generation,
    pub desired: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<UnixMs>,
    pub apps: Vec<DeviceApp>,
    /// Latest measurements by name (`cpu`, `mem_used`, …); empty when none came yet.
    pub latest: BTreeMap<String, f64>,
    /// The last hour's CPU use (0 to 1), oldest first, for a sparkline; only in lists that ask with `?sparkline=cpu`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sparkline: Vec<Option<f64>>,
}

/// One app on the device: what it should have, what it has, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceApp {
    pub app: Name,
    pub phase: AppPhase,
    pub health: Health,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<DesiredRelease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Because>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_release: Option<Uuid>,
    pub active_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_release: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_release: Option<Uuid>,
    pub committed: bool,
    pub restarts: u32,
    pub reasons: Vec<Reason>,
    /// What the running instance is kept apart from; `{}`: from nothing. Left out where nobody knows: other kinds of app, agents of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<farshore_domain::release::isolation::Isolation>,
    /// The config the app gets, each value with its provenance.
    pub config: BTreeMap<String, farshore_domain::config::Value>,
    /// What it used when that was last told; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<AppUsage>,
}

/// What an app uses, over all its processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppUsage {
    pub at: UnixMs,
    /// `cpu` in cores, `mem_used` in bytes, `processes`, `io_read` and `io_write` in bytes a second; what is not known is left out.
    pub values: BTreeMap<String, f64>,
}

pub type Device = Object<DeviceSpec, DeviceStatus>;

/// How a device stood to its control plane; `GET /api/devices/{id}/connectivity`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceConnectivity {
    /// How it stands now; `silent` while nothing is heard of it, `unknown` when it never said.
    pub state: Connectivity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// What is in the way, in the device's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The time that `spans` are about.
    pub from: UnixMs,
    pub to: UnixMs,
    /// The share of the known time in which it was online, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online_share: Option<f64>,
    /// How often it was not online.
    pub outages: u32,
    /// Oldest first, without overlaps; time that nobody knows about is left out.
    pub spans: Vec<ConnectivitySpan>,
    /// There was more than is looked at; the oldest is left out.
    pub truncated: bool,
}

/// A stretch of time in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectivitySpan {
    pub from: UnixMs,
    pub to: UnixMs,
    pub state: Connectivity,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How many devices are in each state; `GET /api/devices/summary`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceSummary {
    pub total: u64,
    pub reachability: BTreeMap<String, u64>,
    pub health: BTreeMap<String, u64>,
    pub conformance: BTreeMap<String, u64>,
    pub lifecycle: BTreeMap<String, u64>,
    pub by_location: Vec<LocationSummary>,
    pub channels: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocationSummary {
    pub location: String,
    pub total: u64,
    pub online: u64,
    pub unhealthy: u64,
}

/// `GET /api/devices/{id}/metrics?from=&to=&metrics=cpu,mem_used`: columns over one time axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Measurements {
    pub stream: String,
    /// Unix milliseconds.
    pub at: Vec<i64>,
    /// One column for each metric, as long as `at`; `null` where there is no sample.
    pub columns: BTreeMap<String, Vec<Option<f64>>>,
}

/// One sample in `GET /api/devices/{id}/metrics/stream` (SSE, event `sample`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    pub stream: String,
    pub at: i64,
    pub values: BTreeMap<String, f64>,
}

/// Body of `POST /api/devices/{id}:resume` and `:restart-app`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppAction {
    pub app: Name,
}

/// Body of actions that want a reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Comment {
    pub comment: String,
}
