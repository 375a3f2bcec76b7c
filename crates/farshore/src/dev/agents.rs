//! Real agents as children: `farshore-agent run` and `runner`, each with its own folder.
//!
//! An agent's apps live outside it on purpose and would go on without it; when everything here ends, their
//! supervisors are asked to end too. Processes are told by a handle (pidfd) whose command line was looked at, so that no other
//! process is ever meant.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};

use crate::dev::folder::Folder;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agents of one `farshore dev`.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    children: Vec<Child>,
    folder: PathBuf,
}

/// Finds a program: as given, beside this one, or in `PATH`.
pub(crate) fn find_program(name: &str, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return fs::canonicalize(path)
            .map_err(|error| Failure::because(format!("can't find {}", path.display()), &error));
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|folder| folder.join(name)));
    let in_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>());
    beside.into_iter().chain(in_path.into_iter().flatten()).find(|path| path.is_file()).ok_or_else(|| {
        Failure::new(Exit::Failed, format!("can't find the program {name}"))
            .why("looked beside farshore and in PATH")
            .next(format!("cargo build -p {name}, or cargo xtask dev"))
    })
}

impl Agents {
    /// Ends what an earlier `farshore dev` in this folder has left behind.
    pub(crate) async fn clean(folder: &Folder) -> Result<Self> {
        let root = folder.join("agents");
        end_all(&root, &["run", "runner", "shim", "app-exec"]).await?;
        Ok(Self { children: Vec::new(), folder: root })
    }

    /// Starts one agent. Its token is passed in the environment, where other users can't read it.
    pub(crate) fn start(
        &mut self,
        folder: &Folder,
        program: &Path,
        name: &str,
        token: Option<&str>,
    ) -> Result<()> {
        let home = self.folder.join(name);
        let what = || format!("can't start agent {name}");
        for part in ["state", "apps"] {
            fs::create_dir_all(home.join(part)).map_err(|error| Failure::because(what(), &error))?;
        }
        let socket = home.join("runner.sock");
        let log = |role: &str| folder.log(&format!("agents/{name}/{role}.log"));
        let mut runner = command(program);
        runner.arg("runner").arg("--unprivileged").arg("--socket").arg(&socket);
        runner.arg("--apps-dir").arg(home.join("apps")).args(["--cgroup", ""]);
        // What a policy allows in a demo fleet must not take this machine down.
        runner.args(["--reboot-command", ""]);
        let mut run = command(program);
        run.arg("run").arg("--state-dir").arg(home.join("state")).arg("--runner-socket").arg(&socket);
        if let Some(token) = token {
            run.env("FARSHORE_TOKEN", token);
        }
        for (mut command, role) in [(runner, "runner"), (run, "run")] {
            let output = log(role)?;
            let errors = output.try_clone().map_err(|error| Failure::because(what(), &error))?;
            command.stdout(output).stderr(errors);
            self.children.push(command.spawn().map_err(|error| Failure::because(what(), &error))?);
        }
        Ok(())
    }

    /// Whether an agent was claimed before.
    pub(crate) fn has_state(&self, name: &str) -> bool {
        fs::read_dir(self.folder.join(name).join("state")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The first child that has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.children.iter_mut().find_map(|child| match child.try_wait() {
            Ok(Some(status)) => Some(format!("a process of an agent ended with {status}")),
            _ => None,
        })
    }

    /// Asks all children to end, waits, and ends their apps.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for child in &self.children {
            if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
                && let Err(error) = rustix::process::kill_process(pid, Signal::TERM)
            {
                tracing::warn!(%error, "an agent could not be asked to end");
            }
        }
        for child in &mut self.children {
            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                child.kill().await.map_err(|error| Failure::because("can't end an agent", &error))?;
            }
        }
        end_all(&self.folder, &["shim", "app-exec"]).await
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        // What is meant for this program is not meant for an agent.
        if name.as_bytes().starts_with(b"FARSHORE_") && name != "FARSHORE_LOG" {
            command.env_remove(name);
        }
    }
    // Not in the terminal's group: Ctrl-C reaches this process, which ends them in order.
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

/// Ends all processes of agents whose folders lie under `root`, in these roles.
async fn end_all(root: &Path, roles: &[&str]) -> Result<()> {
    let failed = |error: std::io::Error| Failure::because("can't look for processes of agents", &error);
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        if let Some(handle) = handle_of(pid, root, roles) {
            left.push(handle);
        }
    }
    for (index, signal) in [Signal::TERM, Signal::KILL].into_iter().enumerate() {
        for handle in &left {
            // Gone already is as good.
            _ = pidfd_send_signal(handle, signal);
        }
        let deadline = Instant::now() + if index == 0 { PATIENCE } else { Duration::from_secs(2) };
        while !left.is_empty() && Instant::now() < deadline {
            left.retain(is_alive);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

fn is_alive(handle: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    // A pidfd is readable once its process has ended.
    !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(count) if count > 0)
}

/// A handle of a process that is an agent's of this folder. The handle comes first: what is looked at then is what it means.
fn handle_of(pid: Pid, root: &Path, roles: &[&str]) -> Option<OwnedFd> {
    let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    is_ours(&line, root, roles).then_some(handle)
}

fn is_ours(line: &[u8], root: &Path, roles: &[&str]) -> bool {
    let mut parts = line.split(|byte| *byte == 0);
    let program = parts.next().unwrap_or_default();
    let role = parts.next().unwrap_or_default();
    let mut prefix = root.as_os_str().as_bytes().to_vec();
    prefix.push(b'/');
    program.ends_with(b"farshore-agent")
        && roles.iter().any(|wanted| wanted.as_bytes() == role)
        && parts.any(|part| part.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_of_this_folder_are_meant() {
        let ours = |line: &str| {
            is_ours(line.replace(' ', "\0").as_bytes(), Path::new("/d/agents"), &["run", "shim"])
        };
        assert!(ours("/x/farshore-agent run --state-dir /d/agents/edge-1/state"));
        assert!(ours("farshore-agent shim /d/agents/edge-1/apps/web"));
        for other in [
            "/x/farshore-agent run --state-dir /e/agents/edge-1/state",
            "/x/farshore-agent run --state-dir /d/agents-old/edge-1",
            "/x/farshore-agent status --state-dir /d/agents/edge-1/state",
            "/usr/bin/less run /d/agents/edge-1/run.log",
            "",
        ] {
            assert!(!ours(other), "{other}");
        }
    }
}
