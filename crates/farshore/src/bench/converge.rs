//! A virtual fleet behind a real control plane takes a release: from the start of the rollout until its last device has committed it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::figures::Figures;
use super::fleet::MAX_DEVICES;
use super::plane::Plane;
use super::process::{self, Cores};
use super::release::{Releases, ended};
use super::worker::Workers;

/// A rollout that takes longer than this is stuck.
const BOUND: Duration = Duration::from_secs(1_800);

/// Devices that are claimed, have a release, and get the next one in waves of 1, 5, 25 and 100 %.
pub(super) async fn measure(figures: &mut Figures, devices: u32) -> Result<()> {
    if devices > MAX_DEVICES {
        bail!("at most {MAX_DEVICES} devices: a process holds fewer than 20,000 sockets on many machines");
    }
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let mut plane = Plane::start(folder.path()).await?;
    let token = plane.claim_token("bench", devices).await?;
    let mut workers = Workers::default();
    workers.start(folder.path(), 0, devices, Some(&token), 5_000)?;
    let patience = Duration::from_secs(120 + u64::from(devices) / 20);
    workers.until_online(devices, patience).await.context("claiming the fleet")?;
    // Virtual machines check what is signed and fetch nothing: any file does for a program.
    let program = folder.path().join("program");
    std::fs::write(&program, b"#!/bin/sh\n").context("no program")?;
    let mut releases = Releases::new(&plane, &program, 8_080).await?;
    let first = roll_out(&plane, &mut releases, "1.0").await?;
    releases.waves = json!([1, 5, 25, 100].map(|percent| json!({"percent": percent, "soakSeconds": 1})));
    let cores = Cores::begin(plane.process()?)?;
    let second = roll_out(&plane, &mut releases, "1.1").await?;
    let suffix = if devices == 10_000 { "10k".to_owned() } else { devices.to_string() };
    figures.put_seconds(&format!("converge_{suffix}_seconds"), second);
    figures.put_seconds(&format!("converge_{suffix}_one_wave_seconds"), first);
    figures.put(&format!("converge_{suffix}_server_cpu_cores"), cores.end()?);
    figures
        .put(&format!("converge_{suffix}_server_rss_peak_bytes"), process::peak_rss_bytes(plane.process()?)?);
    workers.stop().await?;
    plane.stop().await
}

async fn roll_out(plane: &Plane, releases: &mut Releases, version: &str) -> Result<Duration> {
    let begin = Instant::now();
    let name = releases.begin(plane, version, &[]).await?;
    let phase = ended(plane, &name, BOUND).await?;
    if phase != "succeeded" {
        bail!("the rollout of {version} {phase}");
    }
    eprintln!("{version} is everywhere after {:.0} s", begin.elapsed().as_secs_f64());
    Ok(begin.elapsed())
}
