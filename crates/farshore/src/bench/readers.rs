//! Helper: readers of the event stream, each with a connection of its own, as pages have. Measures how old events are when they arrive.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::figures::Times;
use super::helper;
use super::plane::http_client;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    url: String,
    #[arg(long)]
    fingerprint: String,
    #[arg(long, env = "FARSHORE_BENCH_TOKEN", hide_env_values = true)]
    token: String,
    #[arg(long, default_value_t = 20)]
    count: u32,
}

/// What the readers got since they were last asked.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) readers: u32,
    pub(crate) events: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

#[derive(Debug, Default)]
struct Seen {
    readers: u32,
    times: Times,
}

/// The part of an event that is looked at.
#[derive(Deserialize)]
struct Arrived {
    at: i64,
    #[serde(rename = "type")]
    kind: String,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let fingerprint = arguments.fingerprint.parse().context("no fingerprint")?;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..arguments.count {
        // Its own client: one connection for each.
        let request = http_client(fingerprint)?
            .get(format!("{}/api/events/stream", arguments.url))
            .bearer_auth(&arguments.token)
            .header("accept", "text/event-stream");
        readers.spawn(read(request, seen.clone()));
    }
    let mut lines = helper::stdin_lines();
    loop {
        tokio::select! {
            Some(ended) = readers.join_next() => {
                ended.context("a reader broke")?.context("a reader ended")?;
            }
            line = lines.recv() => {
                let Some(line) = line else { return Ok(()) };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let read = Read {
                    readers: seen.readers,
                    events: seen.times.len() as u64,
                    p50_ms: seen.times.percentile(50.0),
                    p95_ms: seen.times.percentile(95.0),
                    p99_ms: seen.times.percentile(99.0),
                    max_ms: seen.times.percentile(100.0),
                };
                if line == "reset" {
                    seen.times.clear();
                }
                drop(seen);
                helper::answer(&read)?;
            }
        }
    }
}

async fn read(request: reqwest::RequestBuilder, seen: Arc<Mutex<Seen>>) -> Result<()> {
    let mut response = request.send().await?.error_for_status()?;
    seen.lock().unwrap_or_else(PoisonError::into_inner).readers += 1;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let now = crate::clock::now();
        rest.extend_from_slice(&piece);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let mut ages = Vec::new();
        for line in rest.get(..end).unwrap_or_default().split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            if let Ok(arrived) = serde_json::from_slice::<Arrived>(data)
                && arrived.kind == "host.event"
            {
                ages.push(now.since_ms(farshore_domain::time::UnixMs(arrived.at)));
            }
        }
        rest.drain(..=end);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for age in ages {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a bench")]
            seen.times.add_ms(age as f64);
        }
    }
    anyhow::bail!("the stream ended")
}
