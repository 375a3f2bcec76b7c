//! `agent`: one real agent (`run` and `runner`) with one app, idle.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::figures::Figures;
use super::plane::Plane;
use super::process::{self, Cores};
use super::{helper, release};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// For how long it is left alone
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// The agent that is measured
    #[arg(long, env = "FARSHORE_AGENT_BIN")]
    agent: PathBuf,
    /// The folder with the program edge-web-service
    #[arg(long, env = "FARSHORE_BIN_DIR")]
    programs: PathBuf,
}

fn command(agent: &Path, role: &str) -> Command {
    let mut command = Command::new(agent);
    command.arg(role).env_remove("RUST_BACKTRACE").env_remove("FARSHORE_AGENT_BIN");
    command.env_remove("FARSHORE_BIN_DIR").env("FARSHORE_LOG", "warn");
    command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    command
}

/// An agent's two roles, in a folder.
struct Agent {
    run: Child,
    runner: Child,
}

impl Agent {
    fn start(program: &Path, folder: &Path, token: Option<&str>) -> Result<Self> {
        let socket = folder.join("runner.sock");
        for part in ["state", "apps"] {
            std::fs::create_dir_all(folder.join(part)).context("no folder")?;
        }
        let mut runner = command(program, "runner");
        runner.arg("--unprivileged").arg("--socket").arg(&socket);
        runner.arg("--apps-dir").arg(folder.join("apps")).args(["--cgroup", ""]);
        let mut run = command(program, "run");
        run.arg("--state-dir").arg(folder.join("state")).arg("--runner-socket").arg(&socket);
        if let Some(token) = token {
            run.env("FARSHORE_TOKEN", token);
        }
        let runner = runner.spawn().context("the runner can't be started")?;
        Ok(Self { run: run.spawn().context("the agent can't be started")?, runner })
    }

    fn pids(&self) -> Result<(u32, u32)> {
        Ok((self.run.id().context("the agent ended")?, self.runner.id().context("the runner ended")?))
    }

    async fn stop(mut self) -> Result<()> {
        for child in [&mut self.run, &mut self.runner] {
            child.kill().await.context("an agent can't be ended")?;
        }
        Ok(())
    }
}

/// Processes of the app: its supervisor, and the program itself. They live outside the agent and are ended by hand.
fn of_the_app(folder: &Path) -> Result<Vec<(rustix::process::Pid, String)>> {
    let mut found = Vec::new();
    let prefix = folder.display().to_string();
    for entry in std::fs::read_dir("/proc").context("no /proc")? {
        let entry = entry.context("no /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Some end while they are looked at.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let supervises = line.contains(" shim ") && line.contains(&prefix);
        if (supervises || exe.starts_with(folder))
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            found.push((pid, line));
        }
    }
    Ok(found)
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let home = folder.path().join("agent");
    let mut plane = Plane::start(&folder.path().join("plane")).await?;
    let token = plane.claim_token("bench", 1).await?;
    let agent = Agent::start(&arguments.agent, &home, Some(&token))?;
    let online = async |plane: &Plane| {
        helper::until(
            "the agent online",
            Duration::from_secs(60),
            async || plane.devices("reachability=online").await,
            |count| *count > 0,
        )
        .await
    };
    online(&plane).await?;
    let port = TcpListener::bind("127.0.0.1:0").context("no port")?.local_addr()?.port();
    release::roll_out(&plane, &arguments.programs.join("edge-web-service"), port).await?;

    // Started again, as after a boot: what the claim and the download used is not what an idle agent has.
    agent.stop().await?;
    helper::until(
        "the control plane noticed",
        Duration::from_secs(30),
        async || plane.devices("reachability=online").await,
        |count| *count == 0,
    )
    .await?;
    let begin = Instant::now();
    let agent = Agent::start(&arguments.agent, &home, None)?;
    online(&plane).await?;
    let started = begin.elapsed();
    let (run, runner) = agent.pids()?;
    sleep(Duration::from_secs(20)).await;
    let (run_cores, runner_cores) = (Cores::begin(run)?, Cores::begin(runner)?);
    sleep(Duration::from_secs(arguments.seconds)).await;
    let (run_cpu, runner_cpu) = (run_cores.end()?, runner_cores.end()?);
    let (run_rss, runner_rss) = (process::rss_bytes(run)?, process::rss_bytes(runner)?);
    let mut shim_rss = 0;
    for (pid, line) in of_the_app(&home)? {
        if line.contains(" shim ") {
            shim_rss += process::rss_bytes(u32::try_from(pid.as_raw_nonzero().get())?)?;
        }
    }
    let mut figures = Figures::default();
    figures.put("idle_seconds", arguments.seconds);
    figures.put("agent_rss_bytes", run_rss);
    figures.put("agent_rss_peak_bytes", process::peak_rss_bytes(run)?);
    figures.put("runner_rss_bytes", runner_rss);
    figures.put("shim_rss_bytes", shim_rss);
    figures.put("all_rss_bytes", run_rss + runner_rss + shim_rss);
    figures.put_ms("agent_cpu_percent", run_cpu * 100.0);
    figures.put_ms("runner_cpu_percent", runner_cpu * 100.0);
    let binary = std::fs::metadata(&arguments.agent).context("no agent program")?;
    figures.put("agent_binary_bytes", binary.len());
    figures.put_ms("agent_start_ms", started.as_secs_f64() * 1_000.0);
    agent.stop().await?;
    for (pid, _) in of_the_app(&home)? {
        // Gone already is as good.
        _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    plane.stop().await?;
    Ok(figures)
}
