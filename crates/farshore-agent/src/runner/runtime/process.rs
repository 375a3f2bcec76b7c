//! A program of the release as a child of the supervisor.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use farshore_domain::release::isolation::Seccomp;
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::exec;
use super::super::folder::AppFolder;
use super::super::isolate;
use super::super::logs::RotatedLog;
use super::super::orphans;
use super::super::shim::kill_leftovers;
use super::super::spec::{Process, Spec, signal_group};
use super::{Runtime, RuntimeError, Work};

/// What a process is killed by whose system call was denied.
const SIGSYS: i32 = libc::SIGSYS;

/// Runs the release's program, restarted by the supervisor.
pub(crate) struct ProcessRuntime {
    folder: AppFolder,
    spec: Spec,
    child: Option<Child>,
    pid: Option<i32>,
    readers: Vec<JoinHandle<()>>,
    /// Where it says that it is ready.
    notify: Option<UnixDatagram>,
    /// A child ended: the app, which is waited for, or something it left behind.
    children: Option<tokio::signal::unix::Signal>,
}

impl ProcessRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        Self { folder, spec, child: None, pid: None, readers: Vec::new(), notify: None, children: None }
    }

    fn start(&mut self) -> std::io::Result<()> {
        if self.children.is_none() {
            // What the app starts and leaves behind becomes a child of this process, wherever it put itself: it can be ended, and is reaped.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
            self.children = Some(signal(SignalKind::child())?);
        }
        if self.spec.notifies {
            self.notify = Some(self.listen()?);
        }
        // Stays this program even when its file was replaced by a newer one.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("app-exec")
            .arg(self.folder.spec())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let has_pid = self.spec.isolation.has_pid();
        let mut child = if has_pid { isolate::spawn_first(&mut command)? } else { command.spawn()? };
        self.pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let out = child.stdout.take().map(|pipe| tokio::spawn(keep(pipe, self.log("stdout.log"))));
        let err = child.stderr.take().map(|pipe| tokio::spawn(keep(pipe, self.log("stderr.log"))));
        self.readers = [out, err].into_iter().flatten().collect();
        self.child = Some(child);
        Ok(())
    }

    /// A socket that only the app's user may write to.
    fn listen(&self) -> std::io::Result<UnixDatagram> {
        let path = self.folder.notify();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        if let Some(user) = self.spec.user {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))?;
        }
        Ok(socket)
    }

    fn log(&self, name: &str) -> RotatedLog {
        RotatedLog::new(self.folder.log(name), self.spec.log_bytes, self.spec.log_files)
    }

    async fn wait(&mut self) -> Result<String, RuntimeError> {
        let Some(child) = &mut self.child else { return Ok("it does not run".to_owned()) };
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break ended.map_err(RuntimeError::io("waiting for the app"))?,
                () = next(&mut self.children) => orphans::reap(self.pid),
            }
        };
        self.child = None;
        Ok(self.describe(ended))
    }

    fn describe(&self, ended: ExitStatus) -> String {
        let isolation = &self.spec.isolation;
        if isolation.is_empty() {
            return describe(ended.code(), ended.signal());
        }
        if let Some(why) = exec::failed(&self.folder.spec()) {
            return format!("it could not be started: {why}");
        }
        // The first process of its namespace says by its code what has ended the app.
        let ended = match ended.code() {
            Some(code @ 129..) if isolation.has_pid() => (None, Some(code - 128)),
            code => (code, ended.signal()),
        };
        let denied = ended.1 == Some(SIGSYS) && isolation.seccomp() != Seccomp::None;
        let why = if denied { " (SIGSYS: a system call that its seccomp profile denies)" } else { "" };
        format!("{}{why}", describe(ended.0, ended.1))
    }
}

async fn next(children: &mut Option<tokio::signal::unix::Signal>) {
    match children {
        Some(children) => drop(children.recv().await),
        None => std::future::pending().await,
    }
}

impl Runtime for ProcessRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async {
            self.start().map_err(RuntimeError::io("it could not be started"))?;
            Ok(self.pid.and_then(Process::of))
        })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        let notify = self.notify.take()?;
        Some(Box::pin(async move {
            let mut buffer = [0; 4096];
            loop {
                tokio::select! {
                    ended = self.wait() => {
                        return Err(RuntimeError::Said(format!("it {} before it was ready", ended?)));
                    }
                    received = notify.recv(&mut buffer) => {
                        let count = received.map_err(RuntimeError::io("hearing whether it is ready"))?;
                        let said = buffer.get(..count).unwrap_or_default();
                        if said.split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                            return Ok(());
                        }
                    }
                }
            }
        }))
    }

    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(self.wait())
    }

    /// Asks the app to end, and makes it end.
    fn stop(&mut self, _: bool) -> Work<'_, ()> {
        Box::pin(async {
            let Some(child) = &mut self.child else { return Ok(()) };
            let killing = || RuntimeError::io("killing the app");
            signal_group(self.pid, Signal::TERM);
            if let Some(pid) = self.pid.and_then(rustix::process::Pid::from_raw)
                && rustix::process::getpgid(Some(pid)).is_ok_and(|group| group != pid)
            {
                // It was only just started and does not lead its group yet.
                child.start_kill().map_err(killing())?;
            }
            let wait = Duration::from_millis(self.spec.stop_timeout_ms);
            if timeout(wait, child.wait()).await.is_err() {
                signal_group(self.pid, Signal::KILL);
                child.kill().await.map_err(killing())?;
            }
            self.child = None;
            Ok(())
        })
    }

    /// Kills what the app's process left behind: in its group, in its control groups, and what has left both.
    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            if self.child.is_some() {
                self.stop(false).await?;
            }
            if let Some(pid) = self.pid.take() {
                // The leader is gone, but its number is not given away as long as the group has members.
                signal_group(Some(pid), Signal::KILL);
                let grouped = kill_leftovers(None, "", &self.spec.cgroups).await;
                if !orphans::kill().await || !grouped {
                    tracing::warn!("processes of the app can't be killed");
                }
            }
            // Now its output ends, too.
            for mut reader in std::mem::take(&mut self.readers) {
                if timeout(Duration::from_secs(2), &mut reader).await.is_err() {
                    tracing::debug!("somebody outside still holds the app's output");
                    reader.abort();
                }
            }
            Ok(())
        })
    }
}

fn describe(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(127), _) => "exited with 127 (it may not be executable)".to_owned(),
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

pub(super) async fn keep(mut from: impl AsyncRead + Unpin, mut log: RotatedLog) {
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
