//! `reconnect`: the control plane is killed under N devices and started again. Then the same handshakes without Farshore.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::figures::Figures;
use super::helper::{self, Helper};
use super::plane::Plane;
use super::raw::{Done, Listening};
use super::worker::Workers;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Virtual devices
    #[arg(long, default_value_t = 5_000)]
    devices: u32,
    /// The longest pause of a device before another attempt, in milliseconds
    #[arg(long, default_value_t = 1_000)]
    max_backoff_ms: u32,
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let devices = arguments.devices;
    if devices == 0 || devices > 18_000 {
        bail!("1 to 18000 devices: a process holds fewer than 20,000 sockets on many machines");
    }
    let bound = Duration::from_secs(60 + u64::from(devices) / 20);
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let mut plane = Plane::start(folder.path()).await?;
    let token = plane.claim_token("bench", devices).await?;
    let mut workers = Workers::default();
    workers.start(folder.path(), 0, devices, Some(&token), arguments.max_backoff_ms)?;
    workers.until_online(devices, bound).await.context("claiming the fleet")?;

    plane.kill().await?;
    helper::until(
        "every device noticed",
        Duration::from_secs(90),
        async || workers.progress().await,
        |seen| seen.online == 0,
    )
    .await?;
    let begin = Instant::now();
    plane.start_again().await?;
    let listening = begin.elapsed();
    let before = workers.progress().await?;
    let counted = Instant::now();
    // The last ones are those that were told to come back later: their pause says nothing about handshakes.
    let most = devices - devices / 10;
    let early = workers.until_online(most, bound).await.context("coming back")?;
    let most_back = begin.elapsed();
    let handshakes = early.handshakes() - before.handshakes();
    let handshaking = counted.elapsed();
    let after = workers.until_online(devices, bound).await.context("coming back")?;
    let back = begin.elapsed();
    workers.stop().await?;
    plane.stop().await?;

    let mut server = Helper::start("raw-server", &[format!("--folder={}", folder.path().display())], None)?;
    let listens: Listening = server.hear().await?;
    let mut client = Helper::start(
        "raw-client",
        &[
            format!("--folder={}", folder.path().display()),
            format!("--port={}", listens.port),
            format!("--count={devices}"),
        ],
        None,
    )?;
    let raw: Done = client.hear().await?;
    client.stop().await?;
    server.stop().await?;

    #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
    let ours = handshakes as f64 / handshaking.as_secs_f64();
    let bare = f64::from(devices) / raw.seconds;
    let mut figures = Figures::default();
    figures.put("devices", devices);
    figures.put_seconds("all_back_seconds", back);
    figures.put_seconds("server_start_seconds", listening);
    figures.put_seconds("most_back_seconds", most_back);
    figures.put("handshakes", after.handshakes() - before.handshakes());
    figures.put("shed", after.refusals - before.refusals);
    figures.put_ms("handshakes_per_second", ours);
    figures.put_ms("handshakes_per_second_raw_rustls", bare);
    figures.put_ms("handshakes_ratio", ours / bare);
    figures.put("max_backoff_ms", arguments.max_backoff_ms);
    Ok(figures)
}
