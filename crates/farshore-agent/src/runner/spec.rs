//! What the supervisor of an app is told, and what it tells. Both lie in the app's `state` folder as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farshore_domain::digest::Digest;
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::reconcile::Running;
use farshore_domain::release::isolation::Isolation;
use farshore_domain::release::{Limits, Run};
use farshore_domain::version::Version;
use serde::{Deserialize, Serialize};

use super::allowed::Allowed;
use super::users::Identity;

/// Everything needed to run one instance of an app, again and again. Written by the runner from a verified manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) app: Name,
    pub(crate) manifest: Digest,
    pub(crate) release: ReleaseId,
    pub(crate) version: Version,
    pub(crate) instance: u64,
    pub(crate) config: Digest,
    /// The release's folder.
    pub(crate) folder: PathBuf,
    /// The program, relative to the folder, and its arguments.
    pub(crate) command: Vec<String>,
    /// The whole environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Commands of the checks that run one, by name.
    pub(crate) checks: BTreeMap<Name, Check>,
    pub(crate) user: Option<Identity>,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) stop_timeout_ms: u64,
    pub(crate) backoff_ms: u64,
    pub(crate) max_backoff_ms: u64,
    #[serde(default = "twice")]
    pub(crate) backoff_factor: u32,
    pub(crate) log_bytes: u64,
    pub(crate) log_files: u32,
    /// What the manifest says; an older runner did not write it, and started processes only.
    #[serde(default)]
    pub(crate) run: Option<Run>,
    /// The manifest's limits within those of the device's policy.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// What it is kept apart from: the manifest's own and what the policy demands.
    #[serde(default)]
    pub(crate) isolation: Isolation,
    /// What the device said when it was started.
    #[serde(default)]
    pub(crate) allowed: Allowed,
    /// Programs of the release that its runtime runs, by what they are for.
    #[serde(default)]
    pub(crate) hooks: BTreeMap<String, Vec<String>>,
    /// Whether the program says itself that it is ready.
    #[serde(default)]
    pub(crate) notifies: bool,
    #[serde(default = "a_minute")]
    pub(crate) start_timeout_ms: u64,
}

fn a_minute() -> u64 {
    60_000
}

fn twice() -> u32 {
    2
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) command: Vec<String>,
    pub(crate) timeout_ms: u64,
}

/// A process that can't be mistaken for another one that got the same number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot.
    pub(crate) started: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command, in parentheses, may itself hold spaces and parentheses.
        let (_, after) = stat.rsplit_once(')')?;
        let mut fields = after.split_whitespace();
        let state = fields.next()?;
        // state is field 3, so field 22 is the 19th after it.
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid, started })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// Sends a signal to a process group; that it is gone already is fine.
pub(crate) fn signal_group(pid: Option<i32>, signal: rustix::process::Signal) {
    let Some(group) = pid.and_then(rustix::process::Pid::from_raw) else { return };
    if let Err(error) = rustix::process::kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::debug!(group = group.as_raw_nonzero().get(), %error, "the group can't be signalled");
    }
}

/// What the supervisor tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimStatus {
    pub(crate) running: Running,
    /// The app's process while it is up; it leads its own session and process group.
    pub(crate) process: Option<Process>,
    /// It ended, or could not begin, while the disk was full.
    #[serde(default)]
    pub(crate) no_room: bool,
    /// The supervisor itself, which is the parent of the app's process.
    #[serde(default)]
    pub(crate) supervisor: Option<Process>,
    pub(crate) boot: String,
}

/// What the supervisor is asked.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShimRequest {
    Status,
    /// Stop the app and end.
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShimReply {
    Status(Box<ShimStatus>),
    Stopped,
}
