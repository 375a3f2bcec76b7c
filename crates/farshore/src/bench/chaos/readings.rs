//! Readings that go into the agent's gateway while everything breaks: what was acknowledged has to arrive, each once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use farshore_domain::time::DAY_MS;
use serde_json::Value;
use tokio::process::Command;

use super::world::World;
use crate::bench::helper;
use crate::bench::plane::Plane;

/// Where the gateway listens, in the agent's own network.
pub(super) const PORT: u16 = 8086;

/// One body.
#[derive(Clone, Copy, Debug)]
struct Sent {
    readings: u64,
    acknowledged: bool,
}

/// What came of them.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) bodies: usize,
    pub(super) acknowledged: u64,
    /// Readings that were acknowledged and are not there.
    pub(super) lost: u64,
    /// More than was sent, or a part of a body.
    pub(super) doubled: u64,
}

/// All bodies so far.
#[derive(Debug)]
pub(super) struct Readings {
    folder: PathBuf,
    from_ms: i64,
    sent: Vec<Sent>,
}

impl Readings {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).context("no folder")?;
        Ok(Self { folder: folder.to_owned(), from_ms: crate::clock::now().0, sent: Vec::new() })
    }

    /// Begins to send one body with so many readings. Each is taken as a whole, or not at all.
    pub(super) fn send(&mut self, readings: u64) -> Result<Sending> {
        let number = self.sent.len();
        let begin = crate::clock::now().0.saturating_mul(1_000_000);
        let lines: String = (0..readings)
            .map(|n| format!("chaos,body={number} value={n}i {}\n", begin + n.cast_signed()))
            .collect();
        let body = self.folder.join(format!("body-{number}"));
        std::fs::write(&body, lines).context("no body")?;
        self.sent.push(Sent { readings, acknowledged: false });
        let mut command = World::wrap();
        let url = format!("http://127.0.0.1:{PORT}/api/v2/write?bucket=hall&precision=ns");
        command.extend(["curl", "-sS", "--fail", "-m", "5", "--data-binary"].map(str::to_owned));
        command.extend([format!("@{}", body.display()), url]);
        let (program, arguments) = command.split_first().context("no command")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("curl can't be started")?;
        Ok(Sending { number, child })
    }

    /// Waits until a body was answered.
    pub(super) async fn finish(&mut self, mut sending: Sending) -> Result<()> {
        let status = sending.child.wait().await.context("curl can't be waited for")?;
        if let Some(sent) = self.sent.get_mut(sending.number) {
            sent.acknowledged = status.success();
        }
        Ok(())
    }

    /// Counts what arrived.
    pub(super) async fn judge(&self, plane: &Plane) -> Result<Outcome> {
        // A gateway whose clock jumps moves readings of the time before (docs/gateway.md, "A wrong clock"): where they lie is not what is judged.
        let (from, to) = (self.from_ms - 180 * DAY_MS, crate::clock::now().0 + 180 * DAY_MS);
        let path = format!(
            "/api/series?measurement=chaos&from={from}&to={to}&step={DAY_MS}&aggregate=count&by=series"
        );
        let range = plane.get(&path).await?;
        anyhow::ensure!(range["truncated"] == false, "the answer with the readings is not whole");
        let mut arrived: BTreeMap<usize, u64> = BTreeMap::new();
        for line in range["items"].as_array().into_iter().flatten() {
            let number = line["tags"]["body"].as_str().and_then(|text| text.parse().ok());
            let counts = line["values"].as_array().into_iter().flatten().filter_map(Value::as_f64);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
            let count = counts.sum::<f64>() as u64;
            *arrived.entry(number.context("a reading of nobody")?).or_default() += count;
        }
        let mut outcome = Outcome { bodies: self.sent.len(), ..Outcome::default() };
        for (number, sent) in self.sent.iter().enumerate() {
            let count = arrived.get(&number).copied().unwrap_or(0);
            if sent.acknowledged {
                outcome.acknowledged += sent.readings;
                outcome.lost += sent.readings.saturating_sub(count);
            }
            let part = count < sent.readings && count > 0 && !sent.acknowledged;
            outcome.doubled += count.saturating_sub(sent.readings) + if part { count } else { 0 };
        }
        Ok(outcome)
    }
}

/// A body under way.
#[derive(Debug)]
pub(super) struct Sending {
    number: usize,
    child: tokio::process::Child,
}

/// How many readings wait in the gateway; none when it does not answer.
pub(super) async fn waiting() -> Option<u64> {
    let health = ask(&format!("http://127.0.0.1:{PORT}/health")).await?;
    let health: Value = serde_json::from_str(&health).ok()?;
    health["pending_sync_count"].as_u64()
}

/// Waits until nothing waits.
pub(super) async fn drained(bound: std::time::Duration) -> Result<()> {
    helper::until(
        "an empty journal of the gateway",
        bound,
        async || Ok(waiting().await),
        |count| *count == Some(0),
    )
    .await
    .map(drop)
}

/// What answers in the agent's own network.
pub(super) async fn ask(url: &str) -> Option<String> {
    let mut command = World::wrap();
    command.extend(["curl", "-sS", "-m", "2", url].map(str::to_owned));
    let (program, arguments) = command.split_first()?;
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output().await.ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}
