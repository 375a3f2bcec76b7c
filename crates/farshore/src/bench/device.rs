//! A real agent as child processes, and the processes of its apps.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// One of an agent's two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Run,
    Runner,
}

/// Where an agent's processes are started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// What starts the program, such as `ip netns exec NAME`; it must become the program, in the same process.
    pub(crate) wrap: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Where they write what they say; beside their state unless told.
    pub(crate) log: Option<PathBuf>,
}

impl Place {
    /// A program to be started there.
    pub(crate) fn command(&self, program: &Path, folder: &Path) -> Result<Command> {
        let mut command = match self.wrap.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env_remove("RUST_BACKTRACE").env_remove("FARSHORE_AGENT_BIN").env_remove("FARSHORE_BIN_DIR");
        command.env("FARSHORE_LOG", "warn").envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
        let log = self.log.clone().unwrap_or_else(|| folder.join("agent.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
        command.stderr(log.context("no log")?);
        Ok(command)
    }
}

/// An agent's two processes, in a folder.
#[derive(Debug)]
pub(crate) struct Agent {
    program: PathBuf,
    folder: PathBuf,
    place: Place,
    run: Child,
    runner: Child,
}

fn spawn(program: &Path, folder: &Path, place: &Place, role: Role, token: Option<&str>) -> Result<Child> {
    let mut command = place.command(program, folder)?;
    let socket = folder.join("runner.sock");
    match role {
        Role::Run => {
            command.arg("run").arg("--state-dir").arg(folder.join("state"));
            command.arg("--runner-socket").arg(socket);
            if let Some(token) = token {
                command.env("FARSHORE_TOKEN", token);
            }
        }
        Role::Runner => {
            command.args(["runner", "--unprivileged", "--cgroup", ""]).arg("--socket").arg(socket);
            command.arg("--apps-dir").arg(folder.join("apps"));
        }
    }
    command.spawn().with_context(|| format!("{} can't be started", program.display()))
}

impl Agent {
    pub(crate) fn start(program: &Path, folder: &Path, token: Option<&str>) -> Result<Self> {
        Self::start_in(Place::default(), program, folder, token)
    }

    /// The same, somewhere else.
    pub(crate) fn start_in(place: Place, program: &Path, folder: &Path, token: Option<&str>) -> Result<Self> {
        for part in ["state", "apps"] {
            std::fs::create_dir_all(folder.join(part)).context("no folder")?;
        }
        let runner = spawn(program, folder, &place, Role::Runner, None)?;
        let run = spawn(program, folder, &place, Role::Run, token)?;
        Ok(Self { program: program.to_owned(), folder: folder.to_owned(), place, run, runner })
    }

    /// The processes `run` and `runner`.
    pub(crate) fn pids(&self) -> Result<(u32, u32)> {
        Ok((self.run.id().context("the agent ended")?, self.runner.id().context("the runner ended")?))
    }

    fn child(&mut self, role: Role) -> &mut Child {
        match role {
            Role::Run => &mut self.run,
            Role::Runner => &mut self.runner,
        }
    }

    /// Kills one of them as a power cut would.
    pub(crate) async fn kill(&mut self, role: Role) -> Result<()> {
        self.child(role).kill().await.context("an agent's process can't be killed")
    }

    /// Starts one again.
    pub(crate) fn start_again(&mut self, role: Role) -> Result<()> {
        *self.child(role) = spawn(&self.program, &self.folder, &self.place, role, None)?;
        Ok(())
    }

    /// Whether one of them has ended by itself.
    pub(crate) fn has_ended(&mut self, role: Role) -> Result<bool> {
        let ended = self.child(role).try_wait().context("an agent's process can't be asked after")?;
        Ok(ended.is_some())
    }

    /// Ends both. The apps go on: see [`end_apps`].
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.kill(Role::Run).await?;
        self.kill(Role::Runner).await
    }
}

/// A process of an app: its supervisor, or the app itself.
#[derive(Clone, Debug)]
pub(crate) struct AppProcess {
    pub(crate) pid: u32,
    pub(crate) supervises: bool,
}

/// The processes of the apps of the agent in `folder`. They live outside the agent.
pub(crate) fn processes_of_apps(folder: &Path) -> Result<Vec<AppProcess>> {
    let mut found = Vec::new();
    let prefix = folder.display().to_string();
    for entry in std::fs::read_dir("/proc").context("no /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Some end while they are looked at.
        let Ok(program) = std::fs::read_link(entry.path().join("exe")) else { continue };
        if program.starts_with(folder) {
            found.push(AppProcess { pid, supervises: false });
            continue;
        }
        if program.file_name().is_none_or(|name| name != "farshore-agent") {
            continue;
        }
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(" shim ") && line.contains(&prefix) {
            found.push(AppProcess { pid, supervises: true });
        }
    }
    Ok(found)
}

/// Ends the apps of the agent in `folder`, supervisors first.
pub(crate) async fn end_apps(folder: &Path) -> Result<()> {
    for _ in 0..50 {
        let mut left = processes_of_apps(folder)?;
        if left.is_empty() {
            return Ok(());
        }
        left.sort_by_key(|process| !process.supervises);
        for process in left {
            if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
                // Gone already is as good.
                _ = kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("apps of an agent do not end")
}
