//! The supervisor of one app: its parent, the keeper of its output, the one who restarts it.
//!
//! A process of its own, so that neither the end of `run` nor the end of the runner touches the app. It holds a lock as long as it lives:
//! there is never a second one. The runner finds it again by its socket.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_domain::reconcile::Running;
use farshore_domain::release::kind::Kind;
use farshore_domain::release::slot::Slot;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::folder::AppFolder;
use super::runtime::{self, Runtime};
use super::spec::{Process, ShimReply, ShimRequest, ShimStatus, Spec, signal_group};
use super::{cgroup, socket, wire};
use crate::{clock, file};

/// After running this long, an app's restarts are forgotten.
const HEALTHY_MS: i64 = 10 * 60 * 1000;

/// A supervisor that finds no room for its files ends with this.
pub(crate) const NO_ROOM_EXIT: u8 = 28;
/// An app that ended on a full disk is tried again after this long, at least.
const ROOM_AGAIN_MS: u64 = 5_000;

/// Why a supervisor could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("{what} failed")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("another supervisor of this app is there")]
    Doubled,
    #[error("the specification is damaged")]
    Damaged,
}

impl ShimError {
    /// The exit code of the supervisor's process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if file::found_no_room(self) { NO_ROOM_EXIT } else { 1 }
    }
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> ShimError {
    move |source| ShimError::Io { what, source }
}

/// Takes the lock that says that a supervisor of the app lives; `None` when one does.
pub(crate) fn take_lock(path: &Path) -> std::io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Kills what is left of an instance whose supervisor is gone: its control groups and its process group.
pub(crate) async fn kill_leftovers(process: Option<Process>, boot: &str, cgroups: &[PathBuf]) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut left = cgroup::kill_all(cgroups);
        if let Some(process) = process.filter(|process| boot == clock::boot_id() && process.is_alive()) {
            left = true;
            signal_group(Some(process.pid), rustix::process::Signal::KILL);
        }
        if !left {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        sleep_until(Instant::now() + Duration::from_millis(20)).await;
    }
}

/// Runs the app of a folder, in one of its slots, until it is told to stop.
///
/// # Errors
/// When it can't begin; once it supervises, it goes on until it is stopped.
pub async fn supervise(folder: &Path, slot: Slot) -> Result<(), ShimError> {
    let folder = AppFolder::at(folder.to_path_buf(), slot);
    // Out of the runner's session and process group.
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(io("leaving the session")(error.into())),
    }
    let _lock = take_lock(&folder.lock()).map_err(io("locking"))?.ok_or(ShimError::Doubled)?;
    let bytes =
        file::read_capped(&folder.spec(), 64 * 1024 * 1024).map_err(io("reading the specification"))?;
    let spec: Spec =
        serde_json::from_slice(&bytes.ok_or(ShimError::Damaged)?).map_err(|_| ShimError::Damaged)?;
    let listener = socket::listen(&folder.socket()).map_err(io("listening"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io("watching for signals"))?;
    let status = ShimStatus {
        running: Running {
            manifest: spec.manifest,
            release: spec.release,
            version: spec.version.clone(),
            instance: spec.instance,
            config: spec.config,
            up: false,
            restarts: 0,
            last_exit: None,
            slot: spec.run.as_ref().and_then(|run| run.slots.as_ref()).map(|_| slot),
            isolation: spec
                .run
                .as_ref()
                .is_some_and(|run| run.kind == Kind::Process)
                .then(|| spec.isolation.clone()),
        },
        process: None,
        no_room: false,
        supervisor: Process::of(rustix::process::getpid().as_raw_nonzero().get()),
        boot: clock::boot_id(),
    };
    let mut runtime = runtime::of(&folder, &spec);
    let mut shim = Shim { folder, spec, listener, status };
    let waiting = loop {
        match shim.run_once(runtime.as_mut(), &mut terminate).await? {
            Next::Again => {}
            Next::Stop(waiting) => break waiting,
        }
    };
    shim.status.running.up = false;
    shim.status.process = None;
    shim.keep_status();
    if let Some(mut stream) = waiting
        && let Err(error) = wire::write(&mut stream, &ShimReply::Stopped).await
    {
        tracing::debug!(%error, "nobody waited for the end");
    }
    Ok(())
}

enum Next {
    Again,
    /// Stopped, because of this connection or a signal.
    Stop(Option<UnixStream>),
}

struct Shim {
    folder: AppFolder,
    spec: Spec,
    listener: UnixListener,
    status: ShimStatus,
}

/// How something went that was waited for while the supervisor could be told to stop.
enum Beside<T> {
    Done(T),
    Stop(Option<UnixStream>),
}

impl Shim {
    /// Also lies in a file: so that a runner which finds no supervisor knows what may be left of the app.
    fn keep_status(&self) {
        let written = serde_json::to_vec(&self.status)
            .map_err(std::io::Error::other)
            .and_then(|bytes| file::write_atomically(&self.folder.status(), &bytes, 0o600));
        if let Err(error) = written {
            tracing::warn!(%error, "the status can't be written");
        }
    }

    /// Waits for something, answering meanwhile.
    async fn beside<T>(
        &self,
        work: impl Future<Output = T>,
        terminate: &mut Signal,
    ) -> Result<Beside<T>, ShimError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(Beside::Done(done)),
                accepted = self.listener.accept() => {
                    let (mut stream, _) = accepted.map_err(io("accepting"))?;
                    if self.answer(&mut stream).await {
                        return Ok(Beside::Stop(Some(stream)));
                    }
                }
                _ = terminate.recv() => return Ok(Beside::Stop(None)),
            }
        }
    }

    async fn run_once(
        &mut self,
        runtime: &mut dyn Runtime,
        terminate: &mut Signal,
    ) -> Result<Next, ShimError> {
        let began = clock::mono();
        match self.instance(runtime, terminate).await? {
            Beside::Done(ended) => {
                self.status.no_room |= !file::has_room(self.folder.root());
                let full = if self.status.no_room { "; the disk is full" } else { "" };
                self.status.running.last_exit = Some(format!("{ended}{full}"));
                // Children of the app must not live on beside the next instance.
                self.clear(runtime).await;
                self.pause(terminate, began).await
            }
            Beside::Stop(stream) => {
                if let Err(error) = runtime.stop(stream.is_some()).await {
                    tracing::warn!(error = %crate::chain(&error), "the app does not stop as it should");
                }
                self.clear(runtime).await;
                Ok(Next::Stop(stream))
            }
        }
    }

    /// One instance, from its beginning to its end, and how it ended.
    async fn instance(
        &mut self,
        runtime: &mut dyn Runtime,
        terminate: &mut Signal,
    ) -> Result<Beside<String>, ShimError> {
        self.status.no_room = false;
        match runtime.begin().await {
            Ok(process) => self.status.process = process,
            Err(error) => return Ok(Beside::Done(self.failed(&error))),
        }
        if let Some(ready) = runtime.ready() {
            self.keep_status();
            let limit = Duration::from_millis(self.spec.start_timeout_ms);
            match self.beside(timeout(limit, ready), terminate).await? {
                Beside::Done(Ok(Ok(()))) => {}
                Beside::Done(Ok(Err(error))) => return Ok(Beside::Done(self.failed(&error))),
                Beside::Done(Err(_)) => {
                    let late = format!("it was not ready within {} s", limit.as_secs());
                    return Ok(Beside::Done(late));
                }
                Beside::Stop(stream) => return Ok(Beside::Stop(stream)),
            }
        }
        self.status.running.up = true;
        self.keep_status();
        Ok(match self.beside(runtime.ended(), terminate).await? {
            Beside::Done(Ok(how)) => Beside::Done(how),
            Beside::Done(Err(error)) => Beside::Done(self.failed(&error)),
            Beside::Stop(stream) => Beside::Stop(stream),
        })
    }

    fn failed(&mut self, error: &runtime::RuntimeError) -> String {
        self.status.no_room |= file::found_no_room(error);
        crate::chain(error)
    }

    async fn clear(&self, runtime: &mut dyn Runtime) {
        if let Err(error) = runtime.clear().await {
            tracing::warn!(error = %crate::chain(&error), "not everything of the app could be cleared away");
        }
    }

    /// Waits before the next start, answering meanwhile.
    async fn pause(
        &mut self,
        terminate: &mut Signal,
        began: farshore_domain::reconcile::MonoMs,
    ) -> Result<Next, ShimError> {
        if clock::mono().since_ms(began) >= HEALTHY_MS {
            self.status.running.restarts = 0;
        }
        let tries = self.status.running.restarts.min(24);
        let grown = u64::from(self.spec.backoff_factor.max(1)).saturating_pow(tries);
        let backoff = self.spec.backoff_ms.max(1).saturating_mul(grown).min(self.spec.max_backoff_ms.max(1));
        // The want of room is not the app's failure, and passes without growing pauses.
        let backoff = if self.status.no_room { backoff.max(ROOM_AGAIN_MS) } else { backoff };
        self.status.running.up = false;
        self.status.process = None;
        self.keep_status();
        if self.has_lost_its_groups() {
            return Ok(Next::Stop(None));
        }
        let until = Instant::now() + Duration::from_millis(backoff);
        if let Beside::Stop(stream) = self.beside(sleep_until(until), terminate).await? {
            return Ok(Next::Stop(stream));
        }
        if self.has_lost_its_groups() {
            return Ok(Next::Stop(None));
        }
        if !self.status.no_room {
            self.status.running.restarts = self.status.running.restarts.saturating_add(1);
        }
        Ok(Next::Again)
    }

    /// Whoever keeps the control groups of all apps was stopped, and the app with it. It can't be started from here any more, since its groups have to be made
    /// anew, and is not to be until they are: that is for the runner.
    fn has_lost_its_groups(&self) -> bool {
        self.spec.cgroups.iter().any(|group| !group.exists())
    }

    /// Answers one request; true when it asks to stop. The socket lies in a folder of mode 0700.
    async fn answer(&self, stream: &mut UnixStream) -> bool {
        match timeout(Duration::from_secs(1), wire::read::<ShimRequest>(stream)).await {
            Ok(Ok(Some(ShimRequest::Stop))) => return true,
            Ok(Ok(Some(ShimRequest::Status))) => {
                let reply = ShimReply::Status(Box::new(self.status.clone()));
                match timeout(Duration::from_secs(1), wire::write(stream, &reply)).await {
                    Ok(Ok(())) => {}
                    _ => tracing::debug!("the status was not taken"),
                }
            }
            _ => tracing::debug!("a request that can't be read"),
        }
        false
    }
}
