//! `claim`: fresh devices one after another, then many at once; from the claim until the list of devices shows them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use farshore_domain::device::Hardware;
use farshore_domain::label::Labels;
use tokio::task::JoinSet;

use super::figures::{Figures, Times};
use super::helper;
use super::plane::Plane;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Devices one after another
    #[arg(long, default_value_t = 200)]
    devices: u32,
    /// Devices at once, after that
    #[arg(long, default_value_t = 50)]
    at_once: u32,
}

fn hardware(number: u32) -> Hardware {
    Hardware {
        hostname: format!("bench-claim-{number:05}"),
        os: "linux".to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        ..Hardware::default()
    }
}

async fn listed(plane: &Plane, hostname: &str) -> Result<()> {
    let query = format!("q={hostname}");
    helper::until(
        "a claimed device listed",
        Duration::from_secs(60),
        async || plane.devices(&query).await,
        |count| *count > 0,
    )
    .await
    .map(|_| ())
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let mut plane = Plane::start(folder.path()).await?;
    let all = arguments.devices + arguments.at_once;
    let token = plane.claim_token("bench", all).await?;
    let labels = Labels::default();
    let mut times = Times::default();
    for number in 0..arguments.devices {
        let hardware = hardware(number);
        let begin = Instant::now();
        farshore_sim::claim(&token, &hardware, &labels, None).await.context("a claim failed")?;
        listed(&plane, &hardware.hostname).await?;
        times.add(begin.elapsed());
    }
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    for number in arguments.devices..all {
        let (token, labels) = (token.clone(), labels.clone());
        tasks.spawn(async move {
            farshore_sim::claim(&token, &hardware(number), &labels, None).await.map(|_| ())
        });
    }
    while let Some(claimed) = tasks.join_next().await {
        claimed.context("a claim broke")?.context("a claim failed")?;
    }
    let claimed = begin.elapsed();
    helper::until(
        "all claimed devices listed",
        Duration::from_secs(60),
        async || plane.devices("").await,
        |count| *count >= u64::from(all),
    )
    .await?;
    let all_listed = begin.elapsed();
    let mut figures = Figures::default();
    figures.put("devices", all);
    figures.put_ms("claim_to_listed_ms_p50", times.percentile(50.0));
    figures.put_ms("claim_to_listed_ms_p95", times.percentile(95.0));
    figures.put_ms("claim_to_listed_ms_max", times.percentile(100.0));
    figures.put_ms("claims_per_second", f64::from(arguments.at_once) / claimed.as_secs_f64());
    figures.put_seconds("at_once_all_listed_seconds", all_listed);
    plane.stop().await?;
    Ok(figures)
}
