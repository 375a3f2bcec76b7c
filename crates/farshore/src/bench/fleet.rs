//! `fleet`: N virtual devices, each with its own certificate, over mTLS.
//!
//! All are claimed first. Then the control plane is started afresh, so that its memory is that of connections and not of
//! claims: a first part connects and memory is read, then the rest connects and it is read again. Then events flow.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::time::sleep;

use super::figures::{Figures, Times};
use super::helper::{self, Helper};
use super::plane::Plane;
use super::process::{self, Cores};
use super::readers::Read;
use super::worker::Workers;

/// One control plane is one process, and that holds fewer than 20,000 sockets here.
pub(super) const MAX_DEVICES: u32 = 18_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Virtual devices
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// Events a second, of all devices together
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Readers of the event stream
    #[arg(long, default_value_t = 20)]
    readers: u32,
    /// For how long events are measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// For how long connections rest before memory is read
    #[arg(long, default_value_t = 35)]
    settle_seconds: u64,
}

/// A bound for whatever takes longer with more devices.
fn patience(devices: u32) -> Duration {
    Duration::from_secs(60 + u64::from(devices) / 20)
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let devices = arguments.devices;
    if devices == 0 || devices > MAX_DEVICES {
        bail!("1 to {MAX_DEVICES} devices: a process holds fewer than 20,000 sockets on many machines");
    }
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let mut figures = Figures::default();
    let mut plane = Plane::start(folder.path()).await?;
    let first = if devices > 1_000 { 1_000 } else { devices.div_ceil(10) };

    let token = plane.claim_token("bench", devices).await?;
    let begin = Instant::now();
    let mut workers = Workers::default();
    workers.start(folder.path(), 0, first, Some(&token), 5_000)?;
    workers.start(folder.path(), first, devices, Some(&token), 5_000)?;
    workers.until_online(devices, patience(devices)).await.context("claiming the fleet")?;
    figures.put_seconds("claim_all_seconds", begin.elapsed());
    workers.stop().await?;

    plane.stop().await?;
    plane.start_again().await?;
    let server = plane.process()?;
    let rest = Duration::from_secs(arguments.settle_seconds);
    sleep(Duration::from_secs(5)).await;
    let empty = process::rss_bytes(server)?;
    let mut workers = Workers::default();
    workers.start(folder.path(), 0, first, None, 5_000)?;
    workers.until_online(first, patience(first)).await.context("connecting the first part")?;
    sleep(rest).await;
    let before = process::rss_bytes(server)?;
    let begin = Instant::now();
    workers.start(folder.path(), first, devices, None, 5_000)?;
    workers.until_online(devices, patience(devices)).await.context("connecting the rest")?;
    let connected = begin.elapsed();
    let cores = Cores::begin(server)?;
    sleep(rest).await;
    let idle = cores.end()?;
    let after = process::rss_bytes(server)?;
    figures.put("devices", devices);
    figures.put_seconds("connect_seconds", connected);
    figures.put("connected_devices_timed", devices - first);
    figures.put("server_rss_empty_bytes", empty);
    figures.put("server_rss_bytes", after);
    figures.put("server_rss_per_device_bytes", after.saturating_sub(empty) / u64::from(devices));
    let slope = (i64::try_from(after)? - i64::try_from(before)?) / i64::from(devices - first).max(1);
    figures.put("server_rss_slope_bytes", slope);
    figures.put("server_idle_cpu_cores", idle);
    figures.put("workers_rss_per_device_bytes", workers.rss_bytes()? / u64::from(devices));

    load(&arguments, &plane, &mut workers, &mut figures).await?;
    figures.put("server_rss_peak_bytes", process::peak_rss_bytes(server)?);
    workers.stop().await?;
    plane.stop().await?;
    Ok(figures)
}

/// Events flow to readers, while somebody looks at lists.
async fn load(
    arguments: &Arguments,
    plane: &Plane,
    workers: &mut Workers,
    figures: &mut Figures,
) -> Result<()> {
    let server = plane.process()?;
    let mut readers = Helper::start(
        "readers",
        &[
            format!("--url={}", plane.api_url()),
            format!("--fingerprint={}", plane.fingerprint()),
            format!("--count={}", arguments.readers),
        ],
        Some(("FARSHORE_BENCH_TOKEN", plane.token())),
    )?;
    let all = arguments.readers;
    helper::until(
        "all readers connected",
        Duration::from_secs(60),
        async || readers.ask::<Read>("look").await,
        |read| read.readers >= all,
    )
    .await?;
    workers.set_rate(arguments.rate / f64::from(arguments.devices)).await?;
    // Devices begin at a random moment within their own interval.
    let interval = f64::from(arguments.devices) / arguments.rate.max(0.001);
    sleep(Duration::from_secs_f64(5.0 + interval.min(60.0))).await;
    readers.ask::<Read>("reset").await?;
    let before = workers.progress().await?;
    let cores = Cores::begin(server)?;
    let begin = Instant::now();
    let mut lists = Times::default();
    while begin.elapsed() < Duration::from_secs(arguments.seconds) {
        let asked = Instant::now();
        let page: Value = plane.get("/api/devices?limit=100").await?;
        lists.add(asked.elapsed());
        if page["items"].as_array().is_none_or(Vec::is_empty) {
            bail!("the list of devices is empty");
        }
        sleep(Duration::from_millis(200)).await;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let used = cores.end()?;
    let after = workers.progress().await?;
    let read: Read = readers.ask("look").await?;
    readers.stop().await?;
    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let per_second = |events: u64| events as f64 / seconds;
    figures.put_ms("events_per_second", per_second(after.acknowledged - before.acknowledged));
    figures.put_ms("events_sent_per_second", per_second(after.sent - before.sent));
    figures.put_ms("sse_events_per_second_each", per_second(read.events) / f64::from(all.max(1)));
    figures.put("sse_readers", read.readers);
    figures.put_ms("sse_ms_p50", read.p50_ms);
    figures.put_ms("sse_ms_p95", read.p95_ms);
    figures.put_ms("sse_ms_p99", read.p99_ms);
    figures.put_ms("sse_ms_max", read.max_ms);
    figures.put("server_cpu_cores", used);
    figures.put_ms("api_devices_list_ms_p50", lists.percentile(50.0));
    figures.put_ms("api_devices_list_ms_p95", lists.percentile(95.0));
    figures.put("devices_online_at_end", after.online);
    Ok(())
}
