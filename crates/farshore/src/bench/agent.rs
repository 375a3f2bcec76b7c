//! `agent`: one real agent (`run` and `runner`) with one app, idle.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::time::sleep;

use super::device::{Agent, end_apps, processes_of_apps};
use super::figures::Figures;
use super::helper;
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
    let mut shim_rss = 0;
    for found in processes_of_apps(&home)?.iter().filter(|found| found.supervises) {
        shim_rss += process::rss_bytes(found.pid)?;
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
    end_apps(&home).await?;
    plane.stop().await?;
    Ok(figures)
}
