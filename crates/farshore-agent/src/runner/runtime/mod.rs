//! What runs one instance of an app: one implementation for each kind.
//!
//! The supervisor is the same for all ([`super::shim`]): it keeps one instance going, restarts it with growing pauses, says how it is, holds the lock that
//! says that it lives, and is found again by a runner that comes back. A runtime only knows how an instance of its kind begins, ends and is cleared away.

mod container;
mod files;
mod hook;
mod installer;
mod kubernetes;
mod process;
mod systemd;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use farshore_domain::release::kind::Kind;

use super::folder::AppFolder;
use super::spec::{Process, Spec};

use container::{ComposeRuntime, ContainerRuntime};
pub(crate) use container::{ContainerCommand, inside};
pub use container::{NetworkError, container_network};
use files::FilesRuntime;
use installer::InstallerRuntime;
use kubernetes::KubernetesRuntime;
use process::ProcessRuntime;
use systemd::SystemdRuntime;
pub(crate) use systemd::journal;

/// Why an instance could not be begun, watched or ended.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    /// In words for whoever looks at the device.
    #[error("{0}")]
    Said(String),
}

impl RuntimeError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Something that a runtime is doing.
pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, RuntimeError>> + Send + 'a>>;

/// Runs instances of one app, one after the other.
pub(crate) trait Runtime: Send {
    /// Begins an instance, which is quick; its process, where it has one of its own.
    fn begin(&mut self) -> Work<'_, Option<Process>>;

    /// What has to be waited for until the instance counts as up; `None` when nothing has.
    fn ready(&mut self) -> Option<Work<'_, ()>> {
        None
    }

    /// Waits until the instance has ended by itself, and says how. May be dropped and asked again.
    fn ended(&mut self) -> Work<'_, String>;

    /// Makes the instance end. `asked`: by the runner, not because the device shuts down.
    fn stop(&mut self, asked: bool) -> Work<'_, ()>;

    /// Clears away what an instance has left, also one of an earlier supervisor that was killed. Fine when there is nothing.
    fn clear(&mut self) -> Work<'_, ()>;

    /// Runs a command check where the app is; whether it was good. `None` where that is simply the release's folder.
    fn check<'a>(&'a mut self, _: &'a [String], _: Duration) -> Option<Work<'a, Result<(), String>>> {
        None
    }

    /// Takes back what the app has changed on the device outside of its own folders.
    fn remove(&mut self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Runs a program of the release once, for a limited time.
pub(crate) async fn hook(
    folder: &AppFolder,
    spec: &Spec,
    name: &str,
    limit: Duration,
) -> Result<(), RuntimeError> {
    hook::run(folder, spec, name, b"", limit).await.map(drop)
}

/// The runtime of a specification.
pub(crate) fn of(folder: &AppFolder, spec: &Spec) -> Box<dyn Runtime> {
    let (folder, spec) = (folder.clone(), spec.clone());
    match spec.run.as_ref().map_or(Kind::Process, |run| run.kind) {
        Kind::Files => Box::new(FilesRuntime::new(folder, spec)),
        Kind::Systemd => Box::new(SystemdRuntime::new(folder, spec)),
        Kind::Container => Box::new(ContainerRuntime::new(folder, spec)),
        Kind::Compose => Box::new(ComposeRuntime::new(folder, spec)),
        Kind::Installer => Box::new(InstallerRuntime::new(folder, spec)),
        Kind::Manifest => Box::new(KubernetesRuntime::new(folder, spec)),
        Kind::Process => Box::new(ProcessRuntime::new(folder, spec)),
    }
}
