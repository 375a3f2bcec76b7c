//! Operations: one imperative request to one device, or to many at once after a look at what it would do.

use farshore_domain::device::Reachability;
use farshore_domain::id::{DeviceId, OperationId};
use farshore_domain::name::Name;
use farshore_domain::operation::{Arguments, Budget, Kind, Refusal, State};
use farshore_domain::selector::Selector;
use farshore_domain::time::UnixMs;
use farshore_domain::word_enum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Object;

/// One imperative request to one device.
pub type Operation = Object<OperationSpec, OperationStatus>;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationSpec {
    pub kind: Kind,
    pub device: DeviceId,
    pub device_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    pub arguments: Arguments,
    /// Why, as whoever asked said it.
    pub reason: String,
    pub requested_by: String,
    /// The request to many devices that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
    pub expires_at: UnixMs,
    /// The device may take this long once it has begun.
    pub time_limit_seconds: u32,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    pub state: State,
    pub message: String,
    /// What it waits for; empty when it waits for nothing.
    pub waits: String,
    /// When this state ends by itself; none when it is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<UnixMs>,
    /// Who wanted it to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Bytes of output that are kept.
    pub output_bytes: u64,
    /// Bytes of output there were; more than are kept when they were too many.
    pub output_total: u64,
}

/// What is asked besides the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ask {
    /// `restart-app`, `logs`, `rollback`: the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    pub arguments: Arguments,
    /// Why. A policy may ask for it. At most 500 characters.
    pub reason: String,
    /// A device that does not take it in this time does not get it: 10 to 2592000, a day when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u32>,
    /// How many may be disturbed at once.
    pub budget: Budget,
}

word_enum! {
    /// What may be asked of many devices at once.
    FleetVerb {
        RestartApp = "restart-app",
        Logs = "logs",
        Diagnostics = "diagnostics",
        Inventory = "inventory",
        Exec = "exec",
        Rollback = "rollback",
        Drain = "drain",
        Reboot = "reboot",
        /// Their gateways send what waits, now.
        ForceSync = "force-sync",
        Cordon = "cordon",
        Uncordon = "uncordon",
        SetChannel = "set-channel",
    }
}

impl FleetVerb {
    /// The operation that it makes; none for what the control plane does itself.
    #[must_use]
    pub fn operation(self) -> Option<Kind> {
        match Kind::from_word(self.word()) {
            Kind::Unknown => None,
            kind => Some(kind),
        }
    }
}

/// A request to many devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperateDevices {
    pub verb: FleetVerb,
    /// Devices whose labels match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Devices by name or uid, besides those that match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    #[serde(default)]
    pub ask: Ask,
    /// `set-channel`: the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Name>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// The `preview` of the answer to the same request with `dryRun`. What was shown there is done, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
}

/// What a request to many devices does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatePlan {
    pub verb: FleetVerb,
    pub dry_run: bool,
    /// Send it with the same request, without `dryRun`.
    pub preview: String,
    pub total: u32,
    pub accepted: u32,
    pub refused: u32,
    /// How many are under way at once, and what is kept up meanwhile.
    pub pace: String,
    /// The first 1,000, by name.
    pub devices: Vec<PlannedDevice>,
    /// Of operations that were made: filter `/api/operations` by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Uuid>,
}

/// One device of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedDevice {
    pub uid: DeviceId,
    pub name: Name,
    pub reachability: Reachability,
    /// What it would do.
    pub does: String,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// The operation that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
}

/// Why an operation is no longer wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CancelOperation {
    pub reason: String,
}

/// A piece of output, as `event: output` of a stream tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputPiece {
    pub offset: u64,
    /// Base64.
    pub bytes: String,
}
