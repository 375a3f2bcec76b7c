//! The device: talks to the control plane, decides, runs apps, heals them.
//!
//! Two roles, each its own process. `run` has no privileges: it is claimed ([`claim`]), holds the channel, fetches artifacts, and lets the
//! reconciler of `farshore-domain` decide ([`Agent`]). The [`runner`] carries out what it can verify itself. A virtual fleet runs [`Agent`]
//! with an [`Executor`] of its own, such as [`MemoryExecutor`], and a [`MemoryJournal`].

mod agent;
pub mod claim;
pub mod clock;
mod download;
mod executor;
pub mod eyes;
mod file;
mod hardware;
mod host;
mod http;
mod identity;
mod journal;
mod link;
mod memory_executor;
mod oci;
mod pressure;
mod proxy;
mod registry;
mod reserve;
pub mod roles;
pub mod runner;
mod status;
mod uplink;

pub use agent::{Agent, AgentError, AgentSettings, Sampler, keep_key_sets};
pub use download::{DownloadError, Downloads};
pub use executor::{Executor, ExecutorError, ProbeAnswer, RunnerExecutor, StageRequest, StartRequest};
pub use hardware::hardware;
pub use host::HostSampler;
pub use http::{Endpoint, HttpError};
pub use identity::{Credentials, Identity, IdentityFileError, Registration, device_key};
pub use journal::{Batch, Change, EVENTS, Journal, JournalError, MemoryJournal, SqliteJournal};
pub use memory_executor::{Behaviour, MemoryExecutor};
pub use proxy::{Proxy, ProxyError, use_proxy};
pub use registry::{Registries, RegistryError};
pub use status::{AppStatus, STATUS_FILE, Status, StatusError};
pub use uplink::DeviceUplink;

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
