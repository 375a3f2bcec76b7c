//! The messages. Written by hand, so that building needs no `protoc`; a `.proto` would say the same.

/// From the device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentFrame {
    /// Made by the sender, unique per channel; an answer carries the same one.
    #[prost(string, tag = "1")]
    pub request_id: String,
    /// W3C trace context; empty when there is none.
    #[prost(string, tag = "2")]
    pub traceparent: String,
    #[prost(oneof = "agent_frame::Body", tags = "10, 11, 12, 13, 14, 15, 16, 17, 30, 31")]
    pub body: Option<agent_frame::Body>,
}

pub mod agent_frame {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        #[prost(message, tag = "10")]
        Hello(super::Hello),
        #[prost(message, tag = "11")]
        Heartbeat(super::Heartbeat),
        #[prost(message, tag = "12")]
        Status(super::StatusReport),
        #[prost(message, tag = "13")]
        Metrics(super::MetricBatch),
        #[prost(message, tag = "14")]
        Events(super::EventBatch),
        #[prost(message, tag = "15")]
        OperationUpdate(super::OperationUpdate),
        #[prost(message, tag = "16")]
        Refused(super::DesiredRefused),
        /// Only to a control plane whose `welcome` names `incidents/v1`.
        #[prost(message, tag = "17")]
        Incidents(super::IncidentBatch),
        /// Only to a control plane whose `welcome` names `operations/v2`, as the next one; others get `OperationUpdate`.
        #[prost(message, tag = "30")]
        Operations(super::OperationBatch),
        #[prost(message, tag = "31")]
        OperationOutput(super::OperationOutput),
    }
}

/// From the control plane.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerFrame {
    #[prost(string, tag = "1")]
    pub request_id: String,
    #[prost(string, tag = "2")]
    pub traceparent: String,
    #[prost(oneof = "server_frame::Body", tags = "10, 11, 12, 13, 14, 15, 16, 30")]
    pub body: Option<server_frame::Body>,
}

pub mod server_frame {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        #[prost(message, tag = "10")]
        Welcome(super::Welcome),
        #[prost(message, tag = "11")]
        Desired(super::SignedDesired),
        #[prost(message, tag = "12")]
        Live(super::LiveRequest),
        #[prost(message, tag = "13")]
        Operation(super::Operation),
        /// Everything up to this batch of this stream is stored and may be forgotten.
        #[prost(message, tag = "14")]
        Acknowledged(super::Acknowledged),
        /// The control plane is closing this channel; come back after a while.
        #[prost(message, tag = "15")]
        Goodbye(super::Goodbye),
        #[prost(message, tag = "16")]
        TrustedKeys(super::TrustedKeys),
        /// Only to an agent whose `hello` names `operations/v2`.
        #[prost(message, tag = "30")]
        OperationCancel(super::OperationCancel),
    }
}

/// The first frame on a channel.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol_version: u32,
    #[prost(string, tag = "2")]
    pub agent_version: String,
    /// What this agent can do: `process`, `cgroup-v2`, `psi`, `manifest/v1`, `desired/v1`, …
    #[prost(string, repeated, tag = "3")]
    pub capabilities: Vec<String>,
    /// `farshore_domain::device::Hardware` in JSON.
    #[prost(string, tag = "4")]
    pub hardware_json: String,
    /// The desired state that was accepted last; 0, 0 for none.
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
    #[prost(uint64, tag = "6")]
    pub generation: u64,
    /// Changes with each boot of the device.
    #[prost(string, tag = "7")]
    pub boot_id: String,
    /// The version of the trusted key set the device holds; 0 for none.
    #[prost(uint64, tag = "8")]
    pub trusted_keys_version: u64,
    #[prost(int64, tag = "9")]
    pub device_time_ms: i64,
}

/// Answers `hello`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub protocol_version: u32,
    #[prost(string, tag = "2")]
    pub server_version: String,
    #[prost(string, repeated, tag = "3")]
    pub capabilities: Vec<String>,
    #[prost(uint32, tag = "4")]
    pub heartbeat_seconds: u32,
    #[prost(int64, tag = "5")]
    pub server_time_ms: i64,
    /// The last batch of each stream that is stored; sending goes on after it.
    #[prost(message, repeated, tag = "6")]
    pub acknowledged: Vec<Acknowledged>,
    /// How often metrics are sampled into batches when nobody looks, and how many seconds a batch covers.
    #[prost(uint32, tag = "7")]
    pub sample_seconds: u32,
    #[prost(uint32, tag = "8")]
    pub batch_seconds: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Heartbeat {
    #[prost(int64, tag = "1")]
    pub device_time_ms: i64,
}

/// The whole state of the device as the agent sees it; sent when it changes and after each `welcome`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusReport {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// Words of `farshore_domain::device::{Health, Conformance}`.
    #[prost(string, tag = "3")]
    pub health: String,
    #[prost(string, tag = "4")]
    pub conformance: String,
    #[prost(message, repeated, tag = "5")]
    pub reasons: Vec<Reason>,
    #[prost(message, repeated, tag = "6")]
    pub apps: Vec<AppStatus>,
    #[prost(int64, tag = "7")]
    pub device_time_ms: i64,
    /// Who tells which signal of the kernel.
    #[prost(message, repeated, tag = "8")]
    pub senses: Vec<Sense>,
}

/// Where one signal of the kernel comes from on this device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sense {
    /// `process_exit`, `oom_kill`, `tcp_retransmit`, `io_latency`, `exec`, `connect`.
    #[prost(string, tag = "1")]
    pub signal: String,
    /// `ebpf`, `netlink`, `proc`, `none`.
    #[prost(string, tag = "2")]
    pub by: String,
    #[prost(string, tag = "3")]
    pub reason: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Reason {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(int64, tag = "3")]
    pub since_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AppStatus {
    #[prost(string, tag = "1")]
    pub app: String,
    /// A word of `farshore_domain::device::AppPhase`.
    #[prost(string, tag = "2")]
    pub phase: String,
    /// UUIDs of releases; empty for none. `active` is what runs, `staged` lies verified beside it, `previous` is what a rollback would take.
    #[prost(string, tag = "3")]
    pub active_release: String,
    #[prost(string, tag = "4")]
    pub staged_release: String,
    #[prost(string, tag = "5")]
    pub previous_release: String,
    #[prost(string, tag = "6")]
    pub active_version: String,
    #[prost(string, tag = "7")]
    pub health: String,
    #[prost(message, repeated, tag = "8")]
    pub reasons: Vec<Reason>,
    #[prost(uint32, tag = "9")]
    pub restarts: u32,
    /// The release this device tried, and gave up; empty for none.
    #[prost(string, tag = "10")]
    pub failed_release: String,
    /// The permit under which the active release was activated; empty when it needed none.
    #[prost(string, tag = "11")]
    pub permit: String,
    /// The active release has been healthy for its whole soak time.
    #[prost(bool, tag = "12")]
    pub committed: bool,
    /// The desired release could not even be staged (signature, digest, platform, floor, …), and why is in `reasons`.
    #[prost(string, tag = "13")]
    pub refused_release: String,
    #[prost(uint64, tag = "14")]
    pub resumed: u64,
    /// Download progress of the desired release.
    #[prost(uint64, tag = "15")]
    pub bytes_done: u64,
    #[prost(uint64, tag = "16")]
    pub bytes_total: u64,
    /// What the running instance is kept apart from: `farshore_domain::release::isolation::Isolation` as JSON. Empty: nobody knows.
    #[prost(string, tag = "17")]
    pub isolation: String,
}

/// Samples of one stream, as a block of `farshore-series`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricBatch {
    /// `host`, or `app/<name>`.
    #[prost(string, tag = "1")]
    pub stream: String,
    /// Counts up from 1 within a stream of a device; 0 for live samples, which are neither kept nor acknowledged.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub block: Vec<u8>,
}

/// What happened on the device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventBatch {
    /// Counts up from 1 within the device's `events` stream.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(message, repeated, tag = "2")]
    pub events: Vec<DeviceEvent>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceEvent {
    /// UUIDv7 made on the device: the same event sent twice is one event.
    #[prost(string, tag = "1")]
    pub uid: String,
    #[prost(int64, tag = "2")]
    pub at_ms: i64,
    /// `app.started`, `app.exited`, `health.failed`, `release.staged`, `release.activated`, `release.committed`, `release.rolled-back`, `release.refused`, `desired.refused`, `agent.started`, …
    #[prost(string, tag = "3")]
    pub kind: String,
    /// Empty when it concerns the whole device.
    #[prost(string, tag = "4")]
    pub app: String,
    #[prost(string, tag = "5")]
    pub message: String,
    /// A JSON object with the details.
    #[prost(string, tag = "6")]
    pub detail_json: String,
}

/// What became of incidents on the device, and the evidence that was taken of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IncidentBatch {
    /// Counts up from 1 within the device's `incidents` stream.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// `farshore_domain::incident::Incident` in JSON, each as it is now.
    #[prost(string, repeated, tag = "2")]
    pub incidents_json: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub evidence: Vec<IncidentEvidence>,
}

/// The black box: what the device knew of the last minutes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IncidentEvidence {
    /// UUID of the incident.
    #[prost(string, tag = "1")]
    pub incident: String,
    /// A word of `farshore_domain::incident::Part`.
    #[prost(string, tag = "2")]
    pub part: String,
    #[prost(int64, tag = "3")]
    pub taken_at_ms: i64,
    /// The end of the app's log.
    #[prost(string, tag = "4")]
    pub log: String,
    /// Why there is no log; empty when there is one.
    #[prost(string, tag = "5")]
    pub log_missing: String,
    /// Blocks of `farshore-series` with host measurements, oldest first.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub blocks: Vec<Vec<u8>>,
    /// What happened on the device, oldest first.
    #[prost(message, repeated, tag = "7")]
    pub events: Vec<DeviceEvent>,
}

/// A desired state was not taken, and why.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DesiredRefused {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// A desired state: exact bytes (`farshore_domain::desired::DesiredState` in JSON), the online key's signature and its certificate chain in DER.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignedDesired {
    #[prost(bytes = "vec", tag = "1")]
    pub body: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub chain: Vec<Vec<u8>>,
    /// The manifests the state refers to.
    #[prost(message, repeated, tag = "4")]
    pub manifests: Vec<SignedManifest>,
}

/// A release's manifest, its exact bytes, with the signature file as it was uploaded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SignedManifest {
    #[prost(bytes = "vec", tag = "1")]
    pub manifest: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// The chain of trusted key sets after the version that `hello` named, oldest first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TrustedKeys {
    #[prost(message, repeated, tag = "1")]
    pub sets: Vec<SignedKeySet>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SignedKeySet {
    #[prost(bytes = "vec", tag = "1")]
    pub document: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// Somebody looks: send a sample each `interval_ms` for `seconds`. `seconds` 0 stops it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LiveRequest {
    #[prost(uint32, tag = "1")]
    pub seconds: u32,
    #[prost(uint32, tag = "2")]
    pub interval_ms: u32,
}

/// One imperative request. The same `uid` twice is done once.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Operation {
    #[prost(string, tag = "1")]
    pub uid: String,
    /// A word of `farshore_domain::operation::Kind`.
    #[prost(string, tag = "2")]
    pub kind: String,
    #[prost(string, tag = "3")]
    pub app: String,
    /// `farshore_domain::operation::Arguments` in JSON.
    #[prost(string, tag = "4")]
    pub arguments_json: String,
    #[prost(int64, tag = "5")]
    pub expires_at_ms: i64,
    /// Why somebody asks for it.
    #[prost(string, tag = "6")]
    pub reason: String,
}

/// How an operation goes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperationUpdate {
    #[prost(string, tag = "1")]
    pub uid: String,
    /// A word of `farshore_domain::operation::State`; `delivered` and `cancelled` only in an [`OperationBatch`].
    #[prost(string, tag = "2")]
    pub state: String,
    #[prost(string, tag = "3")]
    pub message: String,
    /// What it produced, at most 1 MiB.
    #[prost(bytes = "vec", tag = "4")]
    pub output: Vec<u8>,
    /// How many bytes it produced in all; more than `output` has when that was capped.
    #[prost(uint64, tag = "5")]
    pub output_total: u64,
    /// How the command ended, where there was one.
    #[prost(int32, optional, tag = "6")]
    pub exit_code: Option<i32>,
    #[prost(int64, tag = "7")]
    pub at_ms: i64,
}

/// How operations go, kept on the device until it is acknowledged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperationBatch {
    /// Counts up from 1 within the device's `operations` stream.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(message, repeated, tag = "2")]
    pub updates: Vec<OperationUpdate>,
}

/// What a running operation has produced so far, for whoever looks. Not kept: the last update carries the whole of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperationOutput {
    #[prost(string, tag = "1")]
    pub uid: String,
    /// Where `bytes` begins.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub bytes: Vec<u8>,
}

/// An operation is no longer wanted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OperationCancel {
    #[prost(string, tag = "1")]
    pub uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Acknowledged {
    #[prost(string, tag = "1")]
    pub stream: String,
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
}

/// Why the channel is closed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Goodbye {
    /// `shedding`, `replaced`, `revoked`, `shutting-down`.
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(uint32, tag = "2")]
    pub retry_after_ms: u32,
}
