//! `drain`: a gateway that was cut off sends what waits over a slow link, while readings go on coming.
//!
//! The two-decimal set and the double set of the gateway's bench, each on a fresh gateway: a hundred series, sampled together every 10 s.
//! `bytes_per_point_wire` counts every byte that went up the link, with TLS and HTTP around the batches.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval};

use super::figures::Figures;
use super::plane::Plane;
use super::process;
use super::slow_link::SlowLink;
use crate::clock;

const SERIES: usize = 100;
const SAMPLE_MS: u64 = 10_000;
/// More bytes than what comes before the first batch.
const HANDSHAKE: u64 = 8 * 1024;
/// Points of one request.
const BATCH: u64 = 10_000;
/// Nothing takes longer, or it is stuck.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the link carries, in Mbit/s
    #[arg(long, default_value_t = 10.0)]
    mbit: f64,
    /// Points of the two-decimal set that wait; of the double set, a sixth of it
    #[arg(long, default_value_t = 30_000_000)]
    points: u64,
    /// The agent that is measured
    #[arg(long, env = "FARSHORE_AGENT_BIN")]
    agent: PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> Result<Figures> {
    let folder = tempfile::Builder::new().prefix("farshore-bench-").tempdir().context("no folder")?;
    let mut plane = Plane::start(&folder.path().join("plane")).await?;
    let mut figures = Figures::default();
    let decimal = one(&arguments, &plane, folder.path(), "decimal", arguments.points, true).await?;
    let double = one(&arguments, &plane, folder.path(), "double", arguments.points / 6, false).await?;
    figures.put("drain_link_ratio", three_digits(decimal.link_ratio));
    figures.put("drain_link_ratio_double", three_digits(double.link_ratio));
    figures.put("drain_points_per_second", decimal.points_per_second.round());
    figures.put("drain_seconds", three_digits(decimal.seconds));
    figures.put("drain_live_points_per_second", three_digits(decimal.live_rate));
    figures.put("bytes_per_point_wire", three_digits(decimal.bytes_per_point));
    figures.put("bytes_per_double_wire", three_digits(double.bytes_per_point));
    figures.put("drain_rss_bytes", decimal.rss);
    plane.stop().await?;
    Ok(figures)
}

fn three_digits(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

struct Drained {
    link_ratio: f64,
    points_per_second: f64,
    seconds: f64,
    live_rate: f64,
    bytes_per_point: f64,
    rss: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
async fn one(
    arguments: &Arguments,
    plane: &Plane,
    folder: &Path,
    name: &str,
    points: u64,
    round: bool,
) -> Result<Drained> {
    let device: SocketAddr = plane.device_address()?;
    let bits = arguments.mbit * 1e6;
    let link = SlowLink::to(device, bits).await?;
    let key = json!({"metadata": {"name": name}, "spec": {"device": name}});
    let key = plane.post("/api/gateway-keys", &key).await?;
    let key = key["status"]["key"].as_str().context("no gateway key")?.to_owned();
    let gateway = Gateway::start(&arguments.agent, &folder.join(name), &key, link.address).await?;
    let mut set = Set::new(points, round);
    for _ in 0..points / BATCH {
        gateway.write(set.body(BATCH, None)).await?;
    }
    let waiting = gateway.waiting().await?;
    if waiting < points {
        bail!("{waiting} of {points} points wait");
    }
    link.mend();
    // Somebody asks for it, instead of waiting for the next attempt.
    let mut asked = gateway.force_sync(&arguments.agent, &key, link.address)?;
    let begin_bytes = link.up.bytes();
    let (mut begin, mut live) = (None, 0_u64);
    let asked_at = Instant::now();
    let mut turn = interval(Duration::from_millis(100));
    turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
    // Until a tenth is left: the newest points of both are in segments that are not closed yet.
    let left = loop {
        turn.tick().await;
        // The handshake, and the question where the other side is, come before.
        if begin.is_none() && link.up.bytes() > begin_bytes + HANDSHAKE {
            begin = Some(Instant::now());
        }
        gateway.write(set.body(SERIES as u64, Some(clock::now().0))).await?;
        live += SERIES as u64;
        let left = gateway.waiting().await?;
        if left <= points / 10 {
            break left;
        }
        if asked_at.elapsed() > PATIENCE {
            bail!("after {} s {left} points still wait", PATIENCE.as_secs());
        }
    };
    let begin = begin.context("nothing went over the link")?;
    let seconds = begin.elapsed().as_secs_f64();
    let bytes = (link.up.bytes() - begin_bytes) as f64;
    let sent = (points + live - left) as f64;
    let rss = process::rss_bytes(gateway.child.id().context("the gateway ended")?)?;
    asked.kill().await.context("the request can't be ended")?;
    gateway.stop().await?;
    Ok(Drained {
        link_ratio: bytes * 8.0 / bits / seconds,
        points_per_second: sent / seconds,
        seconds,
        live_rate: live as f64 / asked_at.elapsed().as_secs_f64(),
        bytes_per_point: bytes / sent,
        rss,
    })
}

struct Gateway {
    child: Child,
    http: String,
    client: reqwest::Client,
    folder: PathBuf,
}

fn command(agent: &Path, folder: &Path, key: &str, link: SocketAddr) -> Command {
    let mut command = Command::new(agent);
    command
        .arg("gateway")
        .env_clear()
        .env("LOCAL_DB_PATH", folder.join("journal"))
        .env("GATEWAY_HTTP_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_MQTT_LISTEN", "off")
        .env("CLOUD_API_KEY", key)
        .env("CLOUD_API_URL", format!("https://{link}/api/v1"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

impl Gateway {
    async fn start(agent: &Path, folder: &Path, key: &str, link: SocketAddr) -> Result<Self> {
        std::fs::create_dir_all(folder).context("no folder")?;
        let mut child = command(agent, folder, key, link)
            .stdout(Stdio::piped())
            .spawn()
            .context("the gateway can't be started")?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut ready).await?;
        let ready = ready.strip_prefix("ready ").context("the gateway did not start")?;
        let ready: serde_json::Value = serde_json::from_str(ready).context("the gateway did not start")?;
        let http = format!("http://{}", ready["http"].as_str().context("no address")?);
        Ok(Self { child, http, client: reqwest::Client::new(), folder: folder.to_owned() })
    }

    fn force_sync(&self, agent: &Path, key: &str, link: SocketAddr) -> Result<Child> {
        let mut command = command(agent, &self.folder, key, link);
        command.arg("--force-sync").stdout(Stdio::null()).spawn().context("the gateway can't be asked")
    }

    async fn write(&self, lines: String) -> Result<()> {
        let url = format!("{}/api/v2/write?precision=ms", self.http);
        let answer = self.client.post(url).body(lines).send().await.context("no answer of the gateway")?;
        answer.error_for_status().map(|_| ()).context("the gateway took not all")
    }

    async fn waiting(&self) -> Result<u64> {
        let answer = self.client.get(format!("{}/metrics", self.http)).send().await?.text().await?;
        let line = answer.lines().find_map(|line| line.strip_prefix("edge_gateway_queue_size "));
        Ok(line.context("no queue size")?.trim().parse()?)
    }

    async fn stop(mut self) -> Result<()> {
        self.child.kill().await.context("the gateway can't be ended")
    }
}

/// The two-decimal set, or the same unrounded: random walks (σ 0.02) with noise (σ 0.02), sampled together every 10 s give or take 10 ms.
struct Set {
    walks: Vec<f64>,
    dice: u64,
    sample: u64,
    begin_ms: u64,
    round: bool,
}

impl Set {
    /// So many points until now.
    fn new(points: u64, round: bool) -> Self {
        let samples = points / SERIES as u64;
        let begin_ms = u64::try_from(clock::now().0).unwrap_or_default() - samples * SAMPLE_MS;
        Self { walks: vec![20.0; SERIES], dice: 1, sample: 0, begin_ms, round }
    }

    fn below_one(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let unit = (self.dice >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    /// Normal, σ 0.02 (Box and Muller, 1958).
    fn noise(&mut self) -> f64 {
        let (radius, angle) = (1.0 - self.below_one(), self.below_one());
        0.02 * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// The next points as line protocol, at their own times or all at one.
    fn body(&mut self, points: u64, at_ms: Option<i64>) -> String {
        let mut body = String::new();
        for _ in 0..points / SERIES as u64 {
            let jitter = (self.below_one() * 20.0) as u64;
            let own = self.begin_ms + self.sample * SAMPLE_MS + jitter;
            let at = at_ms.and_then(|at| u64::try_from(at).ok()).unwrap_or(own);
            self.sample += 1;
            for sensor in 0..SERIES {
                let (step, noise) = (self.noise(), self.noise());
                let Some(walk) = self.walks.get_mut(sensor) else { continue };
                *walk += step;
                let value = *walk + noise;
                let written = if self.round {
                    writeln!(body, "temp,sensor=s{sensor} value={value:.2} {at}")
                } else {
                    writeln!(body, "temp,sensor=s{sensor} value={value} {at}")
                };
                debug_assert!(written.is_ok());
            }
        }
        body
    }
}
