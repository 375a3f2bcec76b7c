//! The messages of containerd's API that are used, by hand: containerd promises that these fields keep their numbers, and so nothing has to be generated.
//! Names and numbers as in containerd's `api/services/*/v1` and `api/types`.

use std::collections::HashMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Descriptor {
    #[prost(string, tag = "1")]
    pub(super) media_type: String,
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Mount {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) source: String,
    #[prost(string, tag = "3")]
    pub(super) target: String,
    #[prost(string, repeated, tag = "4")]
    pub(super) options: Vec<String>,
}

/// `content.v1.Content/Write`. Actions: 0 stat, 1 write, 2 commit.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WriteContent {
    #[prost(int32, tag = "1")]
    pub(super) action: i32,
    #[prost(string, tag = "2")]
    pub(super) reference: String,
    #[prost(int64, tag = "3")]
    pub(super) total: i64,
    #[prost(string, tag = "4")]
    pub(super) expected: String,
    #[prost(int64, tag = "5")]
    pub(super) offset: i64,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) data: Vec<u8>,
    #[prost(map = "string, string", tag = "7")]
    pub(super) labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WrittenContent {
    #[prost(int64, tag = "4")]
    pub(super) offset: i64,
}

/// `content.v1.Content/Delete`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteContent {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
}

/// `content.v1.Content/Abort`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AbortContent {
    #[prost(string, tag = "1")]
    pub(super) reference: String,
}

/// `snapshots.v1.Snapshots/Prepare`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PrepareSnapshot {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(string, tag = "3")]
    pub(super) parent: String,
    #[prost(map = "string, string", tag = "4")]
    pub(super) labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Mounts {
    #[prost(message, repeated, tag = "1")]
    pub(super) mounts: Vec<Mount>,
}

/// `snapshots.v1.Snapshots/Commit`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CommitSnapshot {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, tag = "3")]
    pub(super) key: String,
    #[prost(map = "string, string", tag = "4")]
    pub(super) labels: HashMap<String, String>,
}

/// `snapshots.v1.Snapshots/Remove` and `Stat`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SnapshotKey {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
}

/// `snapshots.v1.Snapshots/List`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListSnapshots {
    #[prost(string, tag = "1")]
    pub(super) snapshotter: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Snapshots {
    #[prost(message, repeated, tag = "1")]
    pub(super) info: Vec<SnapshotInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SnapshotInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) parent: String,
}

/// `diff.v1.Diff/Apply`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ApplyDiff {
    #[prost(message, optional, tag = "1")]
    pub(super) diff: Option<Descriptor>,
    #[prost(message, repeated, tag = "2")]
    pub(super) mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AppliedDiff {
    #[prost(message, optional, tag = "1")]
    pub(super) applied: Option<Descriptor>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Runtime {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(map = "string, string", tag = "2")]
    pub(super) labels: HashMap<String, String>,
    #[prost(message, optional, tag = "4")]
    pub(super) runtime: Option<Runtime>,
    #[prost(message, optional, tag = "5")]
    pub(super) spec: Option<Any>,
    #[prost(string, tag = "6")]
    pub(super) snapshotter: String,
    #[prost(string, tag = "7")]
    pub(super) snapshot_key: String,
}

/// `containers.v1.Containers/Create`, and its answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OneContainer {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<Container>,
}

/// `containers.v1.Containers/Delete`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerId {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

/// `tasks.v1.Tasks/Create`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateTask {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) rootfs: Vec<Mount>,
    #[prost(string, tag = "4")]
    pub(super) stdin: String,
    #[prost(string, tag = "5")]
    pub(super) stdout: String,
    #[prost(string, tag = "6")]
    pub(super) stderr: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreatedTask {
    #[prost(uint32, tag = "2")]
    pub(super) pid: u32,
}

/// `tasks.v1.Tasks/Start`, `Wait` and `DeleteProcess`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TaskProcess {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Waited {
    #[prost(uint32, tag = "1")]
    pub(super) exit_status: u32,
}

/// `tasks.v1.Tasks/Kill`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KillTask {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "2")]
    pub(super) exec_id: String,
    #[prost(uint32, tag = "3")]
    pub(super) signal: u32,
    #[prost(bool, tag = "4")]
    pub(super) all: bool,
}

/// `tasks.v1.Tasks/Exec`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExecTask {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "2")]
    pub(super) stdin: String,
    #[prost(string, tag = "3")]
    pub(super) stdout: String,
    #[prost(string, tag = "4")]
    pub(super) stderr: String,
    #[prost(message, optional, tag = "6")]
    pub(super) spec: Option<Any>,
    #[prost(string, tag = "7")]
    pub(super) exec_id: String,
}
