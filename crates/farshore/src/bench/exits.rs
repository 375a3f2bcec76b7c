//! Processes that end under an agent that somebody looks at: how soon the page knows, and what a storm of them costs.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep_until, timeout};

use super::figures::{Figures, Times};
use super::plane::{Plane, http_client};
use super::process::{self, Cores};

/// How many ends are timed, and how far apart. Of processes that belong to no app two are told one by one each second; others of this
/// machine take their part, and what is told together later counts as missed.
const TIMED: u32 = 50;
const APART: Duration = Duration::from_millis(600);
/// The storm: so many ends in each step of 20 ms, for so long.
const STORM_STEP: Duration = Duration::from_millis(20);
const STORM_PER_STEP: u32 = 20;
const STORM: Duration = Duration::from_secs(10);
/// What has not arrived by then does not arrive.
const BOUND: Duration = Duration::from_secs(10);

/// The part of an event that is looked at.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    payload: Payload,
}

#[derive(Deserialize)]
struct Payload {
    pid: Option<u32>,
}

/// Times ends of processes until they are in the stream that a device's page reads, then lets a thousand end in each second.
pub(super) async fn measure(figures: &mut Figures, plane: &Plane, (run, runner): (u32, u32)) -> Result<()> {
    let list = plane.get("/api/devices?limit=1").await?;
    let device = list["items"][0]["metadata"]["uid"].as_str().context("no device")?.to_owned();
    let request = http_client(plane.fingerprint().parse().context("no fingerprint")?)?
        .get(format!("{}/api/devices/{device}/metrics/stream", plane.api_url()))
        .bearer_auth(plane.token())
        .header("accept", "text/event-stream");
    let (tell, mut told) = mpsc::unbounded_channel();
    let (live, mut is_live) = mpsc::channel(1);
    let reader = tokio::spawn(read(request, tell, live));
    // The first sample says that the device knows that somebody looks.
    timeout(BOUND, is_live.recv()).await.context("no live sample came")?;

    let mut ended = BTreeMap::new();
    let mut next = tokio::time::Instant::now();
    for _ in 0..TIMED {
        next += APART;
        sleep_until(next).await;
        let pid = end_one()?;
        ended.insert(pid, Instant::now());
    }
    let mut times = Times::default();
    let until = tokio::time::Instant::now() + BOUND;
    while !ended.is_empty() {
        let Ok(Some((pid, at))) = tokio::time::timeout_at(until, told.recv()).await else { break };
        if let Some(since) = ended.remove(&pid) {
            times.add(at.saturating_duration_since(since));
        }
    }
    figures.put("exits_missed", ended.len());
    figures.put_ms("exit_to_page_ms_p50", times.percentile(50.0));
    figures.put_ms("exit_to_page_ms_p95", times.percentile(95.0));

    let (run_cores, runner_cores) = (Cores::begin(run)?, Cores::begin(runner)?);
    let begin = Instant::now();
    let count = storm().await?;
    let rate = f64::from(count) / begin.elapsed().as_secs_f64();
    figures.put("storm_exits_per_second", rate.round());
    figures.put_ms("agent_cpu_percent_storm", run_cores.end()? * 100.0);
    figures.put_ms("runner_cpu_percent_storm", runner_cores.end()? * 100.0);
    figures.put("agent_rss_bytes_storm", process::rss_bytes(run)?);
    if plane.devices("reachability=online").await? != 1 {
        bail!("the storm blew the agent away");
    }
    if reader.is_finished() {
        reader.await.context("the reader broke")??;
    } else {
        reader.abort();
    }
    Ok(())
}

/// A process that ends at once; its end is known when this returns.
fn end_one() -> Result<u32> {
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().context("no program `true`")?;
    let pid = child.id();
    child.wait().context("a process can't be waited for")?;
    Ok(pid)
}

/// How many ended.
async fn storm() -> Result<u32> {
    let mut ticks = interval(STORM_STEP);
    let end = Instant::now() + STORM;
    let mut count = 0;
    while Instant::now() < end {
        ticks.tick().await;
        let step = || (0..STORM_PER_STEP).try_for_each(|_| end_one().map(drop));
        tokio::task::spawn_blocking(step).await.context("the storm broke")??;
        count += STORM_PER_STEP;
    }
    Ok(count)
}

/// Reads the stream; each end of a process with when it arrived.
async fn read(
    request: reqwest::RequestBuilder,
    tell: mpsc::UnboundedSender<(u32, Instant)>,
    live: mpsc::Sender<()>,
) -> Result<()> {
    let mut response = request.send().await?.error_for_status()?;
    let mut rest: Vec<u8> = Vec::new();
    let mut event = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let now = Instant::now();
        rest.extend_from_slice(&piece);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        for line in rest.get(..end).unwrap_or_default().split(|byte| *byte == b'\n') {
            if let Some(name) = line.strip_prefix(b"event:") {
                event = name.trim_ascii().to_vec();
                // Full: it was said before.
                _ = (event == b"sample").then(|| live.try_send(()));
            }
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            if event != b"event" {
                continue;
            }
            let said: Told = serde_json::from_slice(data).context("an event that can't be read")?;
            if let (Some(pid), "process_exit") = (said.payload.pid, said.kind.as_str()) {
                tell.send((pid, now)).context("nobody listens")?;
            }
        }
        rest.drain(..=end);
    }
    bail!("the stream ended")
}
