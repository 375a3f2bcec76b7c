//! What each app uses, as measurements in a stream of its own: `app/<name>` with `cpu` (cores), `mem_used` (bytes), `processes`, `io_read` and
//! `io_write` (bytes a second).

use std::collections::BTreeMap;

use farshore_domain::name::Name;
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::UnixMs;
use farshore_protocol::{self as wire, agent_frame};
use farshore_series::{BlockBuilder, encode};

use super::{Agent, AgentError, HOST};
use crate::executor::Executor;
use crate::eyes::AppTally;
use crate::journal::Journal;

/// Apps' measurements are sealed with every so manieth batch of the host's: blocks of few rows cost more than what is in them.
const BATCHES: u32 = 5;

/// The streams of measurements among all streams.
pub(super) fn is_metrics(stream: &str) -> bool {
    stream == HOST || stream.strip_prefix("app/").is_some_and(|name| Name::new(name).is_ok())
}

/// What apps use between two looks. One for each rhythm, because rates are taken over the time since the last.
#[derive(Debug, Default)]
pub(super) struct Usage {
    before: BTreeMap<Name, (MonoMs, AppTally)>,
}

type Values = Vec<(&'static str, f64)>;

impl Usage {
    /// What was counted at `at`; nothing new since the last look is nothing.
    pub(super) fn sample(&mut self, at: MonoMs, apps: BTreeMap<Name, AppTally>) -> Vec<(Name, Values)> {
        let mut sampled = Vec::new();
        self.before.retain(|app, _| apps.contains_key(app));
        for (app, tally) in apps {
            let before = self.before.get(&app).copied();
            if before.is_some_and(|(since, _)| since >= at) {
                continue;
            }
            let values = values(before, at, tally);
            self.before.insert(app.clone(), (at, tally));
            if !values.is_empty() {
                sampled.push((app, values));
            }
        }
        sampled
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes and microseconds of a process are below 2^52")]
fn values(before: Option<(MonoMs, AppTally)>, at: MonoMs, now: AppTally) -> Values {
    // A counter that went back began anew with the app.
    let rate = |of: fn(&AppTally) -> Option<u64>| {
        let (since, before) = before?;
        let more = of(&now)?.checked_sub(of(&before)?)?;
        Some(more as f64 * 1_000.0 / at.since_ms(since) as f64)
    };
    [
        ("cpu", rate(|tally| tally.cpu_us).map(|micros| micros / 1_000_000.0)),
        ("mem_used", now.memory_bytes.map(|bytes| bytes as f64)),
        ("processes", now.processes.map(f64::from)),
        ("io_read", rate(|tally| tally.read_bytes)),
        ("io_write", rate(|tally| tally.written_bytes)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// What is gathered of apps until it is sealed.
#[derive(Debug)]
pub(super) struct Gathered {
    usage: Usage,
    samples: BTreeMap<Name, BlockBuilder>,
    batches: u32,
}

impl Default for Gathered {
    fn default() -> Self {
        // The first batch is sealed at once: whoever has just started a device looks at it.
        Self { usage: Usage::default(), samples: BTreeMap::new(), batches: BATCHES - 1 }
    }
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// Gathers a sample of each app.
    pub(super) fn measure_apps(&mut self, wall: UnixMs) -> Result<(), AgentError> {
        let Some((at, tally)) = self.eyes.tally() else { return Ok(()) };
        for (app, values) in self.apps_usage.usage.sample(at, tally.apps) {
            let samples = self.apps_usage.samples.entry(app.clone()).or_default();
            if samples.push(wall.0, values.iter().copied()).is_ok() {
                continue;
            }
            // The block is full.
            self.apps_usage.batches = BATCHES;
            self.seal_apps()?;
            if let Err(error) = self.apps_usage.samples.entry(app).or_default().push(wall.0, values) {
                tracing::error!(%error, "an app's sample fits into no block");
            }
        }
        Ok(())
    }

    /// Puts the gathered samples into batches of the apps' streams, every few times.
    pub(super) fn seal_apps(&mut self) -> Result<(), AgentError> {
        self.apps_usage.batches += 1;
        if self.apps_usage.batches < BATCHES {
            return Ok(());
        }
        self.apps_usage.batches = 0;
        let mut batches = Vec::new();
        for (app, samples) in std::mem::take(&mut self.apps_usage.samples) {
            match encode(&samples.finish()) {
                Ok(block) => batches.push((format!("app/{app}"), block)),
                Err(error) => {
                    tracing::error!(error = %crate::chain(&error), %app, "samples can't be encoded and are dropped");
                }
            }
        }
        if batches.is_empty() {
            return Ok(());
        }
        self.metric_streams.extend(batches.iter().map(|(stream, _)| stream.clone()));
        self.keep(Vec::new(), batches)
    }

    /// Shows what apps use now to whoever looks.
    pub(super) fn show_apps(&mut self, wall: UnixMs) {
        let Some((at, tally)) = self.eyes.tally() else { return };
        let Some(live) = &mut self.live else { return };
        for (app, values) in live.usage.sample(at, tally.apps) {
            let mut one = BlockBuilder::new();
            let encoded = one.push(wall.0, values).map_err(|error| error.to_string());
            match encoded.and_then(|()| encode(&one.finish()).map_err(|error| error.to_string())) {
                // Not kept: a live sample that can't be sent now is of no use later.
                Ok(block) => drop(self.send(agent_frame::Body::Metrics(wire::MetricBatch {
                    stream: format!("app/{app}"),
                    sequence: 0,
                    block,
                }))),
                Err(error) => tracing::warn!(%error, "an app's sample can't be encoded"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(cpu_us: u64, read: u64) -> BTreeMap<Name, AppTally> {
        let of = AppTally {
            cpu_us: Some(cpu_us),
            memory_bytes: Some(4_096),
            processes: Some(2),
            read_bytes: Some(read),
            written_bytes: None,
        };
        BTreeMap::from([(Name::new("web").unwrap(), of)])
    }

    fn take(usage: &mut Usage, at: i64, apps: BTreeMap<Name, AppTally>) -> Values {
        usage.sample(MonoMs(at), apps).pop().map(|(_, values)| values).unwrap_or_default()
    }

    #[test]
    fn levels_are_there_at_once_and_rates_with_the_second_look() {
        let mut usage = Usage::default();
        assert_eq!(
            take(&mut usage, 1_000, tally(5_000_000, 100)),
            [("mem_used", 4_096.0), ("processes", 2.0)]
        );
        assert_eq!(take(&mut usage, 1_000, tally(5_000_000, 100)), [], "nothing new was counted");
        assert_eq!(
            take(&mut usage, 3_000, tally(6_000_000, 2_100)),
            [("cpu", 0.5), ("mem_used", 4_096.0), ("processes", 2.0), ("io_read", 1_000.0)]
        );
    }

    #[test]
    fn counters_that_begin_anew_give_no_rate() {
        let mut usage = Usage::default();
        take(&mut usage, 1_000, tally(5_000_000, 100));
        let names: Vec<_> = take(&mut usage, 2_000, tally(10, 0)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["mem_used", "processes"]);
        usage.sample(MonoMs(3_000), BTreeMap::new());
        let back = take(&mut usage, 4_000, tally(20, 0));
        assert_eq!(back.len(), 2, "what happened while it was away is not known: {back:?}");
    }

    #[test]
    fn streams_of_measurements_are_told_from_others() {
        assert!(is_metrics("host") && is_metrics("app/web"));
        assert!(
            !is_metrics("events")
                && !is_metrics("app/")
                && !is_metrics("app/a/b")
                && !is_metrics("incidents")
        );
    }
}
