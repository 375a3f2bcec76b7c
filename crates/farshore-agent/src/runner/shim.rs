//! The supervisor of one app: its parent, the keeper of its output, the one who restarts it.
//!
//! A process of its own, so that neither the end of `run` nor the end of the runner touches the app. It holds a lock as long as it lives:
//! there is never a second one. The runner finds it again by its socket.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use farshore_domain::reconcile::Running;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::folder::AppFolder;
use super::logs::RotatedLog;
use super::spec::{Process, ShimReply, ShimRequest, ShimStatus, Spec, signal_group};
use super::{cgroup, orphans, socket, wire};
use crate::{clock, file};

/// After running this long, an app's restarts are forgotten.
const HEALTHY_MS: i64 = 10 * 60 * 1000;

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
            signal_group(Some(process.pid), Signal::KILL);
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

/// Runs the app of a folder until it is told to stop.
///
/// # Errors
/// When it can't begin; once it supervises, it goes on until it is stopped.
pub async fn supervise(folder: &Path) -> Result<(), ShimError> {
    let folder = AppFolder::at(folder.to_path_buf());
    // Out of the runner's session and process group.
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(io("leaving the session")(error.into())),
    }
    // What the app starts and leaves behind becomes a child of this process, wherever it put itself: it can be ended, and is reaped.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| io("adopting what the app leaves behind")(error.into()))?;
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
        },
        process: None,
        boot: clock::boot_id(),
    };
    let children = signal(SignalKind::child()).map_err(io("watching for signals"))?;
    let mut shim = Shim { folder, spec, listener, status, children };
    let waiting = loop {
        match shim.run_once(&mut terminate).await? {
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
    /// A child ended: the app, which is waited for, or something it left behind.
    children: tokio::signal::unix::Signal,
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

    fn start(&self) -> std::io::Result<Child> {
        // Stays this program even when its file was replaced by a newer one.
        Command::new("/proc/self/exe")
            .arg("app-exec")
            .arg(self.folder.spec())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    fn log(&self, name: &str) -> RotatedLog {
        RotatedLog::new(self.folder.logs().join(name), self.spec.log_bytes, self.spec.log_files)
    }

    async fn run_once(&mut self, terminate: &mut tokio::signal::unix::Signal) -> Result<Next, ShimError> {
        let began = clock::mono();
        let mut child = match self.start() {
            Ok(child) => child,
            Err(error) => {
                self.status.running.last_exit = Some(format!("it could not be started: {error}"));
                return self.pause(terminate, began).await;
            }
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        self.status.process = pid.and_then(Process::of);
        self.status.running.up = true;
        self.keep_status();
        let out = child.stdout.take().map(|pipe| tokio::spawn(keep(pipe, self.log("stdout.log"))));
        let err = child.stderr.take().map(|pipe| tokio::spawn(keep(pipe, self.log("stderr.log"))));
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break Some(ended.map_err(io("waiting for the app"))?),
                _ = self.children.recv() => orphans::reap(pid),
                accepted = self.listener.accept() => {
                    let (mut stream, _) = accepted.map_err(io("accepting"))?;
                    if self.answer(&mut stream).await {
                        self.stop(&mut child, pid).await?;
                        self.clean(pid).await;
                        return Ok(Next::Stop(Some(stream)));
                    }
                }
                _ = terminate.recv() => {
                    self.stop(&mut child, pid).await?;
                    self.clean(pid).await;
                    return Ok(Next::Stop(None));
                }
            }
        };
        if let Some(ended) = ended {
            self.status.running.last_exit = Some(describe(ended));
        }
        // Children of the app must not live on beside the next instance; then its output ends, too.
        self.clean(pid).await;
        for mut reader in [out, err].into_iter().flatten() {
            if timeout(Duration::from_secs(2), &mut reader).await.is_err() {
                tracing::debug!("somebody outside still holds the app's output");
                reader.abort();
            }
        }
        self.pause(terminate, began).await
    }

    /// Waits before the next start, answering meanwhile.
    async fn pause(
        &mut self,
        terminate: &mut tokio::signal::unix::Signal,
        began: farshore_domain::reconcile::MonoMs,
    ) -> Result<Next, ShimError> {
        if clock::mono().since_ms(began) >= HEALTHY_MS {
            self.status.running.restarts = 0;
        }
        let tries = self.status.running.restarts.min(24);
        let grown = u64::from(self.spec.backoff_factor.max(1)).saturating_pow(tries);
        let backoff = self.spec.backoff_ms.max(1).saturating_mul(grown).min(self.spec.max_backoff_ms.max(1));
        self.status.running.up = false;
        self.status.process = None;
        self.keep_status();
        let until = Instant::now() + Duration::from_millis(backoff);
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                accepted = self.listener.accept() => {
                    let (mut stream, _) = accepted.map_err(io("accepting"))?;
                    if self.answer(&mut stream).await {
                        return Ok(Next::Stop(Some(stream)));
                    }
                }
                _ = terminate.recv() => return Ok(Next::Stop(None)),
            }
        }
        self.status.running.restarts = self.status.running.restarts.saturating_add(1);
        Ok(Next::Again)
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

    /// Asks the app to end, and makes it end.
    async fn stop(&self, child: &mut Child, pid: Option<i32>) -> Result<(), ShimError> {
        signal_group(pid, Signal::TERM);
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw)
            && rustix::process::getpgid(Some(pid)).is_ok_and(|group| group != pid)
        {
            // It was only just started and does not lead its group yet.
            child.start_kill().map_err(io("killing the app"))?;
        }
        if timeout(Duration::from_millis(self.spec.stop_timeout_ms), child.wait()).await.is_err() {
            signal_group(pid, Signal::KILL);
            child.kill().await.map_err(io("killing the app"))?;
        }
        Ok(())
    }

    /// Kills what the app's process left behind: in its group, in its control groups, and what has left both.
    async fn clean(&self, pid: Option<i32>) {
        // The leader is gone, but its number is not given away as long as the group has members.
        signal_group(pid, Signal::KILL);
        let grouped = kill_leftovers(None, "", &self.spec.cgroups).await;
        if !orphans::kill().await || !grouped {
            tracing::warn!("processes of the app can't be killed");
        }
    }
}

fn describe(ended: ExitStatus) -> String {
    match (ended.code(), ended.signal()) {
        (Some(127), _) => "exited with 127 (it may not be executable)".to_owned(),
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

async fn keep(mut from: impl AsyncRead + Unpin, mut log: RotatedLog) {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => log.write(buffer.get(..count).unwrap_or_default()),
            Err(error) => {
                tracing::debug!(%error, "the app's output can't be read");
                break;
            }
        }
    }
}
