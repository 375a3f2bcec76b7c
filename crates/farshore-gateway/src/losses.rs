//! The newest losses with their reasons and times, for the page: read from the journal's own record of them, as that grows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_journal::{AtRest, JournalError, Part, PointBatch, Stats, Value};
use serde::Serialize;
use tokio::sync::watch;

use crate::clock;
use crate::gateway::Shared;
use crate::ingest::lock;

/// So many are kept in memory.
const NEWEST: usize = 50;
/// How often it is looked whether the journal has counted further ones.
const LOOK: Duration = Duration::from_secs(5);
/// The stream in which the journal says what was lost.
const LOSSES: &str = "journal/losses";

/// Points that are no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub stream: String,
    pub reason: String,
    pub points: u64,
    /// Bytes that held further points, nobody knows how many.
    pub unknown_bytes: u64,
    /// When it was noticed, RFC 3339.
    pub noticed: String,
    /// The time of the earliest and the latest of the points.
    pub earliest: String,
    pub latest: String,
    #[serde(skip)]
    noticed_ns: i64,
}

/// What was read of the record.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<Read>);

#[derive(Debug, Default)]
struct Read {
    /// Of parts that are complete.
    before: Vec<Loss>,
    /// The number of the newest part, which may still grow, and what was in it.
    newest_part: u64,
    newest: Vec<Loss>,
}

impl Losses {
    /// The newest ones, newest first.
    pub(crate) fn newest(&self) -> Vec<Loss> {
        let read = lock(&self.0);
        let mut losses: Vec<Loss> = read.newest.iter().chain(&read.before).cloned().collect();
        losses.sort_by_key(|loss| std::cmp::Reverse(loss.noticed_ns));
        losses.truncate(NEWEST);
        losses
    }

    /// Reads what is new in the record. What the control plane was told of has gone from it, and stays here.
    fn look(&self, folder: &Path) -> Result<(), JournalError> {
        let rest = AtRest::open(folder)?;
        let known = lock(&self.0).newest_part;
        let fresh = |part: &Part| part.stream.as_str() == LOSSES && part.sequence >= known;
        for part in rest.parts()?.into_iter().filter(fresh) {
            let Some(contents) = rest.contents(&part)? else { continue };
            let losses = losses_in(&contents.points);
            let mut read = lock(&self.0);
            if part.sequence > read.newest_part {
                let complete = std::mem::take(&mut read.newest);
                read.before.extend(complete);
                read.newest_part = part.sequence;
            }
            // One that was emptied by a crash says nothing new.
            if !losses.is_empty() {
                read.newest = losses;
            }
            let too_many = read.before.len().saturating_sub(NEWEST);
            read.before.drain(..too_many);
        }
        Ok(())
    }
}

/// The fields of one loss.
type Fields<'p> = BTreeMap<&'p str, i64>;

/// Each loss is several points of one time: `points`, `earliest_ns`, `latest_ns` and others.
fn losses_in(points: &PointBatch) -> Vec<Loss> {
    let mut found: BTreeMap<(i64, &str, &str), Vec<Fields<'_>>> = BTreeMap::new();
    for (key, at_ns, value) in points.points() {
        let (Some(stream), Some(reason)) = (key.tag("stream"), key.tag("reason")) else { continue };
        let Value::Integer(value) = value else { continue };
        let same = found.entry((at_ns, stream, reason)).or_default();
        match same.iter_mut().find(|fields| !fields.contains_key(key.field())) {
            Some(fields) => drop(fields.insert(key.field(), *value)),
            None => same.push(BTreeMap::from([(key.field(), *value)])),
        }
    }
    let losses = found.into_iter().flat_map(|((noticed_ns, stream, reason), same)| {
        same.into_iter().map(move |fields| {
            let of = |name: &str| fields.get(name).copied().unwrap_or_default();
            Loss {
                stream: stream.to_owned(),
                reason: reason.to_owned(),
                points: u64::try_from(of("points")).unwrap_or_default(),
                unknown_bytes: u64::try_from(of("unknown_bytes")).unwrap_or_default(),
                noticed: clock::rfc3339(noticed_ns),
                earliest: clock::rfc3339(of("earliest_ns")),
                latest: clock::rfc3339(of("latest_ns")),
                noticed_ns,
            }
        })
    });
    let mut losses: Vec<Loss> = losses.collect();
    let too_many = losses.len().saturating_sub(NEWEST);
    losses.drain(..too_many);
    losses
}

/// What changes with every loss.
fn counted(stats: &Stats) -> u64 {
    let of = |stream: &farshore_journal::StreamStats| stream.lost.values().sum::<u64>() + stream.lost_bytes;
    stats.streams.values().map(of).sum()
}

/// Reads the record at the start, and whenever the journal has counted more.
pub(crate) async fn watch(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut seen = None;
    loop {
        let counted = counted(&shared.journal.stats());
        if seen != Some(counted) {
            let reading = Arc::clone(&shared);
            let read = tokio::task::spawn_blocking(move || reading.losses.look(&reading.config.folder)).await;
            match read {
                Ok(Ok(())) => seen = Some(counted),
                // It is counted all the same; the next look may read it.
                Ok(Err(error)) => tracing::warn!(%error, "the record of losses can't be read"),
                Err(error) => tracing::error!(%error, "reading the record of losses broke off"),
            }
        }
        tokio::select! {
            // Whoever told it is gone: the gateway ends.
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_journal::{Bounds, Class, Config, Journal, Overflow, StreamConfig, StreamName};

    use super::*;

    #[test]
    fn the_newest_losses_are_read_as_they_come_and_outlive_their_delivery() {
        let folder = tempfile::tempdir().expect("a folder");
        let stream: StreamName = "data/a".parse().expect("a name");
        let newest = StreamConfig {
            bounds: Bounds { points: 1, ..Bounds::NONE },
            overflow: Overflow::DropNewest,
            ..StreamConfig::of(Class::Telemetry)
        };
        let config = Config { streams: vec![(stream.clone(), newest)], ..Config::default() };
        let journal = Journal::open(folder.path(), config).expect("a journal");
        let losses = Losses::default();
        let lose = |number: i64| {
            let mut batch = PointBatch::new();
            let series = batch.series("t", "v", []).expect("a series");
            batch.push(series, number * 1_000_000_000, Value::Integer(number)).expect("a point");
            journal.append(&stream, &batch).wait().expect("taken");
        };
        lose(0);
        losses.look(folder.path()).expect("readable");
        assert_eq!(losses.newest(), []);
        for number in 1..=30 {
            lose(number);
        }
        losses.look(folder.path()).expect("readable");
        let first = losses.newest();
        assert_eq!((first.len(), first[0].stream.as_str(), first[0].points), (30, "data/a", 1));
        assert_eq!(
            (first[0].reason.as_str(), first[0].latest.as_str()),
            ("drop-newest", "1970-01-01T00:00:30Z")
        );
        // Told to the control plane: gone from the record.
        journal.seal_all().expect("sealed");
        while let Some(batch) = journal.next_batch(u64::MAX).expect("readable") {
            if batch.stream.as_str() == LOSSES {
                journal.acknowledge(&batch.stream, batch.sequence).expect("removed");
            }
        }
        for number in 31..=60 {
            lose(number);
        }
        losses.look(folder.path()).expect("readable");
        losses.look(folder.path()).expect("readable");
        let after = losses.newest();
        assert_eq!((after.len(), after[0].latest.as_str()), (50, "1970-01-01T00:01:00Z"));
        assert_eq!(after[49].latest, "1970-01-01T00:00:11Z");
    }
}
