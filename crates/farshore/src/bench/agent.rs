//! `agent`: one real agent (`run` and `runner`) with one app, idle; a gateway beside it; then processes that end; then what one would run instead.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::sleep;

use super::device::{Agent, end_apps, processes_of_apps};
use super::exits;
use super::figures::Figures;
use super::helper;
use super::peers;
use super::plane::Plane;
use super::process::{self, Cores};
use super::release::Releases;

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
    let mut releases = Releases::new(&plane, &arguments.programs.join("edge-web-service"), port).await?;
    let phase = releases.roll_out(&plane, "1.0", &[]).await?;
    if phase != "succeeded" {
        bail!("the app did not get onto the agent: the rollout {phase}");
    }

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
    let (mut shim_rss, mut all_pss) = (0, process::pss_bytes(run)? + process::pss_bytes(runner)?);
    for found in processes_of_apps(&home)?.iter().filter(|found| found.supervises) {
        shim_rss += process::rss_bytes(found.pid)?;
        all_pss += process::pss_bytes(found.pid)?;
    }
    let mut figures = Figures::default();
    figures.put("idle_seconds", arguments.seconds);
    figures.put("agent_rss_bytes", run_rss);
    figures.put("agent_rss_peak_bytes", process::peak_rss_bytes(run)?);
    figures.put("runner_rss_bytes", runner_rss);
    figures.put("shim_rss_bytes", shim_rss);
    figures.put("all_rss_bytes", run_rss + runner_rss + shim_rss);
    figures.put("all_pss_bytes", all_pss);
    figures.put("gateway_rss_bytes", gateway_rss(&arguments.agent, &folder.path().join("gateway")).await?);
    figures.put_ms("agent_cpu_percent", run_cpu * 100.0);
    figures.put_ms("runner_cpu_percent", runner_cpu * 100.0);
    let binary = std::fs::metadata(&arguments.agent).context("no agent program")?;
    figures.put("agent_binary_bytes", binary.len());
    figures.put_ms("agent_start_ms", started.as_secs_f64() * 1_000.0);
    exits::measure(&mut figures, &plane, (run, runner)).await?;
    agent.stop().await?;
    end_apps(&home).await?;
    plane.stop().await?;
    peers::measure(&mut figures, folder.path(), arguments.seconds).await?;
    Ok(figures)
}

/// What an idle gateway has resident, by itself.
async fn gateway_rss(agent: &Path, folder: &Path) -> Result<u64> {
    std::fs::create_dir_all(folder).context("no folder")?;
    let mut gateway = Command::new(agent)
        .arg("gateway")
        .env_clear()
        .env("LOCAL_DB_PATH", folder.join("journal"))
        .env("GATEWAY_HTTP_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_MQTT_LISTEN", "127.0.0.1:0")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("the gateway can't be started")?;
    let pid = gateway.id().context("the gateway ended")?;
    let mut ready = String::new();
    BufReader::new(gateway.stdout.take().context("no output")?).read_line(&mut ready).await?;
    if !ready.starts_with("ready ") {
        bail!("the gateway did not start");
    }
    sleep(Duration::from_secs(5)).await;
    let bytes = process::rss_bytes(pid);
    gateway.kill().await.context("the gateway can't be ended")?;
    bytes
}
