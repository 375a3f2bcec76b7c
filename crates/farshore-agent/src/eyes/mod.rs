//! What the kernel tells of the device, and how it gets from there to `run`.
//!
//! ```text
//!   eyes-loader (a moment, privileged)  loads eBPF, hands descriptors over, ends
//!        │ descriptors
//!   runner (privileged, small)          reads the ring buffer, knows whose process it was, bounds storms
//!        │ a connection to the runner's socket, on which `run` asked to watch
//!   run (no privileges)                 keeps what matters, shows the rest to whoever looks
//! ```
//!
//! The programs are in the kernel only while `run` watches. Where they are refused or forbidden, the process connector and /proc tell
//! less, and each signal says who tells it ([`Source`]). docs/decisions/0018-eyes-in-the-kernel.md has the reasons and what they cost.

mod keep;
mod loader;
mod usage;
mod watch;
mod who;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};

pub use keep::sources;
pub(crate) use keep::{Eyes, keep_watching};
pub(crate) use loader::Loader;
pub use loader::{LoaderError, load_and_hand_over};
pub(crate) use watch::Watch;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Look {
    /// eBPF may be used.
    pub ebpf: bool,
    /// Tell of programs that are executed.
    pub exec: bool,
    /// Tell of connections that are begun.
    pub connect: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { ebpf: true, exec: false, connect: false }
    }
}

/// Who tells a signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// `ebpf`, `netlink`, `proc`, or `none`.
    pub by: String,
    /// Where that is read; and where it is not eBPF, why not.
    pub reason: String,
}

/// By the signal's name.
pub type Sources = BTreeMap<String, Source>;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// A name of [`Kind`](farshore_collect::kernel::Kind).
    pub kind: String,
    pub at: UnixMs,
    pub pid: i32,
    pub parent: i32,
    pub comm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    /// It is the app's own process, not one that it started.
    #[serde(default)]
    pub main: bool,
    /// More than one where it stands for several that came too fast to be told one by one.
    pub times: u64,
    #[serde(default)]
    pub together: bool,
}

/// What was counted so far. Numbers grow as long as the watch lasts, and begin anew with the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Events of each kind.
    pub seen: BTreeMap<String, u64>,
    /// TCP segments that were sent again, by destination.
    pub destinations: Vec<(SocketAddr, u64)>,
    /// Disk requests: by the power of two of their microseconds, the sum of microseconds, and their number.
    pub latency: Option<(Vec<u64>, u64, u64)>,
    /// What each app uses.
    pub apps: BTreeMap<Name, AppTally>,
}

/// What an app used so far, and holds now. What is not known is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppTally {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written_bytes: Option<u64>,
}

/// One frame of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "sees", rename_all = "kebab-case")]
pub enum Glance {
    /// Who tells what; the first frame.
    Sources {
        sources: Sources,
    },
    Sights {
        sights: Vec<Sight>,
    },
    Tally {
        tally: Tally,
    },
}
