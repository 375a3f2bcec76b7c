//! Helper: a part of a virtual fleet in a process of its own. And, for the bench, all parts together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use farshore_domain::name::Name;
use farshore_sim::{FleetOptions, Group, VirtualFleet};
use serde::{Deserialize, Serialize};

use super::helper::{self, Helper};
use super::process;

/// At most this many devices in one process: a process holds fewer than 20,000 sockets.
const PER_PROCESS: u32 = 9_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    devices: u32,
    #[arg(long)]
    block: u8,
    /// Needed where devices are to be claimed.
    #[arg(long, env = "FARSHORE_BENCH_CLAIM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[arg(long, default_value_t = 30_000)]
    max_backoff_ms: u32,
}

/// How far a part of the fleet is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) online: u64,
    pub(crate) claims: u64,
    /// Full TLS handshakes that led to a channel, that were answered with a status, and attempts that failed.
    pub(crate) channels: u64,
    pub(crate) refusals: u64,
    pub(crate) failures: u64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
}

impl Progress {
    fn add(&mut self, other: Self) {
        self.online += other.online;
        self.claims += other.claims;
        self.channels += other.channels;
        self.refusals += other.refusals;
        self.failures += other.failures;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
    }

    /// TLS handshakes that were completed.
    pub(crate) fn handshakes(&self) -> u64 {
        self.channels + self.refusals
    }
}

/// The helper's side.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let mut options = FleetOptions::new(arguments.folder);
    options.address_block = arguments.block;
    options.seed = u64::from(arguments.block);
    options.max_backoff_ms = arguments.max_backoff_ms;
    let name = Name::new(format!("bench-{}", arguments.block)).context("no name")?;
    options.groups = vec![Group::new(name, arguments.devices, arguments.token)];
    let fleet = VirtualFleet::start(options).context("the virtual devices did not start")?;
    let stats = fleet.stats();
    let mut lines = helper::stdin_lines();
    while let Some(line) = lines.recv().await {
        if let Some(rate) = line.strip_prefix("rate ") {
            fleet.set_events_per_second(rate.parse().context("no rate")?);
        }
        let (done, failed) = stats.handshakes();
        let (sent, acknowledged) = stats.events();
        let progress = Progress {
            online: stats.online(),
            claims: stats.claims(),
            channels: done,
            // What was refused is among the failures, and had its handshake all the same.
            refusals: stats.refusals(),
            failures: failed.saturating_sub(stats.refusals()),
            sent,
            acknowledged,
        };
        helper::answer(&progress)?;
    }
    fleet.stop().await.context("the virtual devices did not stop in order")
}

/// Processes of virtual devices.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    parts: Vec<Helper>,
}

impl Workers {
    /// Starts the devices `from..to` of a fleet kept under `folder`. With a token they are claimed where they were not before.
    pub(crate) fn start(
        &mut self,
        folder: &Path,
        from: u32,
        to: u32,
        token: Option<&str>,
        max_backoff_ms: u32,
    ) -> Result<()> {
        let mut begin = from;
        while begin < to {
            let count = (to - begin).min(PER_PROCESS);
            // The same part of the fleet is the same folder and the same addresses in each start.
            let block = u8::try_from(100 + begin / 500).context("too many parts of a fleet")?;
            let arguments = [
                format!("--folder={}", folder.join(format!("fleet-{begin}")).display()),
                format!("--devices={count}"),
                format!("--block={block}"),
                format!("--max-backoff-ms={max_backoff_ms}"),
            ];
            let secret = token.map(|token| ("FARSHORE_BENCH_CLAIM_TOKEN", token));
            self.parts.push(Helper::start("worker", &arguments, secret)?);
            begin += count;
        }
        Ok(())
    }

    /// How far all of them are together.
    pub(crate) async fn progress(&mut self) -> Result<Progress> {
        self.tell("progress").await
    }

    /// Makes each device send so many events a second.
    pub(crate) async fn set_rate(&mut self, per_device: f64) -> Result<()> {
        self.tell(&format!("rate {per_device}")).await.map(|_| ())
    }

    async fn tell(&mut self, line: &str) -> Result<Progress> {
        let mut sum = Progress::default();
        for part in &mut self.parts {
            sum.add(part.ask(line).await?);
        }
        Ok(sum)
    }

    /// Waits until so many are online.
    pub(crate) async fn until_online(&mut self, devices: u32, bound: Duration) -> Result<Progress> {
        let what = format!("{devices} devices online");
        helper::until(&what, bound, async || self.progress().await, |seen| seen.online >= devices.into())
            .await
    }

    /// Resident bytes of all of them.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        self.parts.iter().filter_map(Helper::pid).map(process::rss_bytes).sum()
    }

    /// Ends them in order.
    pub(crate) async fn stop(self) -> Result<()> {
        for part in self.parts {
            part.stop().await?;
        }
        Ok(())
    }
}
