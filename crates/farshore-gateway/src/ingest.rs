//! From a body to durable points: the one way in, whatever the protocol.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_journal::{Append, Journal, JournalError, PointBatch, Producer, SeriesKey, StreamName};

use crate::clock;
use crate::counters::Counters;
use crate::decode::{Outcome, Precision, json, line, otlp};
use crate::pipeline::Runner;
use crate::point::{Point, PointError, Value};
use crate::ready::Taking;

/// Series whose latest values are kept for the page.
const MAX_LATEST: usize = 200;
/// Points of a batch that are looked at for the page.
const LATEST_OF_BATCH: usize = 64;

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Lines(Precision),
    OtlpProtobuf,
    OtlpJson,
}

/// Points on their way to the disk.
#[derive(Debug)]
#[must_use = "nothing is acknowledged before it is durable"]
pub(crate) struct Taken {
    pub(crate) outcome: Outcome,
    stream: StreamName,
    /// Nothing when there was no point to keep.
    pub(crate) append: Option<Append>,
    points: usize,
}

#[derive(Debug)]
pub(crate) struct Ingest {
    journal: Journal,
    pub(crate) counters: Arc<Counters>,
    pub(crate) taking: Taking,
    /// Where points are processed, too.
    processing: Option<Arc<Runner>>,
    max_series: usize,
    known: Mutex<HashMap<StreamName, Arc<KnownSeries>>>,
    latest: Mutex<BTreeMap<SeriesKey, (i64, farshore_journal::Value)>>,
}

/// The series of a stream. Locked for a moment for each series of a body, never while one is read.
type KnownSeries = Mutex<HashSet<SeriesKey>>;

/// The newest value of a series, for the page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latest {
    pub(crate) at_ns: i64,
    pub(crate) value: String,
}

/// Gathers the points of one body.
struct Collector<'k> {
    batch: PointBatch,
    now_ns: i64,
    known: &'k KnownSeries,
    max_series: usize,
    newest: Option<farshore_journal::SeriesId>,
    refused: HashSet<farshore_journal::SeriesId>,
    points: usize,
}

impl Collector<'_> {
    fn take(&mut self, point: &Point<'_>) -> Result<(), PointError> {
        let at_ns = point.time_ns.unwrap_or(self.now_ns);
        for (field, value) in &point.fields {
            let tags = point.tags.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
            let series =
                self.batch.series(&point.measurement, field, tags).map_err(|error| refused(&error))?;
            // Ids are given in order: a new one is larger than all before.
            if self.newest.is_none_or(|newest| series > newest) {
                self.newest = Some(series);
                if let Some(key) = self.batch.key(series) {
                    let mut known = lock(self.known);
                    if !known.contains(key) {
                        if known.len() >= self.max_series {
                            self.refused.insert(series);
                        } else {
                            known.insert(key.clone());
                        }
                    }
                }
            }
            if !self.refused.is_empty() && self.refused.contains(&series) {
                return Err(PointError::TooMany { what: "series in the stream", max: self.max_series });
            }
            let value = match value {
                Value::Float(number) => farshore_journal::Value::Float(*number),
                Value::Integer(number) => farshore_journal::Value::Integer(*number),
                Value::Bool(flag) => farshore_journal::Value::Boolean(*flag),
                Value::Text(text) => farshore_journal::Value::Text(text.clone().into_owned()),
                Value::Json(text) => farshore_journal::Value::Json(text.clone().into_owned()),
            };
            self.batch.push(series, at_ns, value).map_err(|error| refused(&error))?;
            self.points += 1;
        }
        Ok(())
    }
}

fn refused(error: &farshore_journal::PointError) -> PointError {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    PointError::Refused(text)
}

impl Ingest {
    pub(crate) fn new(
        journal: Journal,
        counters: Arc<Counters>,
        max_series: usize,
        processing: Option<Arc<Runner>>,
    ) -> Self {
        Self {
            journal,
            counters,
            taking: Taking::default(),
            processing,
            max_series,
            known: Mutex::default(),
            latest: Mutex::default(),
        }
    }

    /// Reads a body and hands its points to the journal. Points that can't be read are left out and told.
    ///
    /// # Errors
    /// When the body as a whole can't be read: nothing of it is taken.
    pub(crate) fn body(
        &self,
        from: Option<Producer>,
        stream: &StreamName,
        form: Form,
        body: &[u8],
    ) -> Result<Taken, PointError> {
        let (batch, outcome, points) = self.collect(stream, |sink| match form {
            Form::Json => Ok(json::decode(body, sink)),
            Form::Lines(precision) => Ok(line::decode(body, precision, sink)),
            Form::OtlpProtobuf => otlp::decode_protobuf(body, sink),
            Form::OtlpJson => otlp::decode_json(body, sink),
        })?;
        Ok(self.hand_over(from, stream, batch, outcome, points))
    }

    /// Hands one point to the journal.
    ///
    /// # Errors
    /// When it isn't one.
    pub(crate) fn point(
        &self,
        from: Option<Producer>,
        stream: &StreamName,
        point: &mut Point<'_>,
    ) -> Result<Taken, PointError> {
        point.finish()?;
        let (batch, outcome, points) = self.collect(stream, |sink| {
            sink(point)?;
            Ok(Outcome { accepted: 1, ..Outcome::default() })
        })?;
        Ok(self.hand_over(from, stream, batch, outcome, points))
    }

    fn collect(
        &self,
        stream: &StreamName,
        decode: impl FnOnce(&mut crate::decode::Sink<'_>) -> Result<Outcome, PointError>,
    ) -> Result<(PointBatch, Outcome, usize), PointError> {
        let known = Arc::clone(lock(&self.known).entry(stream.clone()).or_default());
        let mut collector = Collector {
            batch: PointBatch::new(),
            now_ns: clock::wall_ns(),
            known: &known,
            max_series: self.max_series,
            newest: None,
            refused: HashSet::new(),
            points: 0,
        };
        let result = decode(&mut |point| collector.take(point));
        match &result {
            Ok(outcome) => self.counters.rejected.add(outcome.rejected),
            Err(_) => self.counters.rejected.add(1),
        }
        Ok((collector.batch, result?, collector.points))
    }

    fn hand_over(
        &self,
        from: Option<Producer>,
        stream: &StreamName,
        batch: PointBatch,
        outcome: Outcome,
        points: usize,
    ) -> Taken {
        let named = stream.clone();
        if batch.is_empty() {
            return Taken { outcome, stream: named, append: None, points: 0 };
        }
        let batch = Arc::new(batch);
        let append = self.journal.append_shared(from, stream, &batch);
        let mut latest = lock(&self.latest);
        for sample in batch.samples().iter().rev().take(LATEST_OF_BATCH) {
            let Some(key) = batch.key(sample.series) else { continue };
            let room = latest.len() < MAX_LATEST;
            match latest.get_mut(key) {
                Some((at_ns, _)) if *at_ns >= sample.at_ns => {}
                Some(entry) => *entry = (sample.at_ns, short(&sample.value)),
                None if room => {
                    latest.insert(key.clone(), (sample.at_ns, short(&sample.value)));
                }
                None => {}
            }
        }
        drop(latest);
        Taken { outcome, stream: named, append: Some(append), points }
    }

    /// Waits until the points are durable.
    ///
    /// # Errors
    /// When they aren't; their producer must keep them.
    pub(crate) async fn durable(&self, taken: Taken) -> Result<Outcome, JournalError> {
        if let Some(append) = taken.append {
            let answer = append.await;
            self.taking.answered(clock::mono_ns(), &taken.stream, &answer);
            answer?;
        }
        if let Some(processing) = &self.processing {
            processing.room().await;
        }
        self.counters.points.add(taken.points);
        Ok(taken.outcome)
    }

    /// The newest values, by series.
    pub(crate) fn latest(&self) -> BTreeMap<String, Latest> {
        let latest = lock(&self.latest).clone();
        let named = |(key, (at_ns, value)): (SeriesKey, (i64, farshore_journal::Value))| {
            (key.to_string(), Latest { at_ns, value: shown(&value) })
        };
        latest.into_iter().map(named).collect()
    }
}

/// A value, with no more of a text than is shown.
fn short(value: &farshore_journal::Value) -> farshore_journal::Value {
    use farshore_journal::Value;
    match value {
        Value::Text(text) | Value::Json(text) => Value::Text(text.chars().take(80).collect()),
        other => other.clone(),
    }
}

fn shown(value: &farshore_journal::Value) -> String {
    use farshore_journal::Value;
    match value {
        Value::Float(number) => number.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Text(text) | Value::Json(text) => text.clone(),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use farshore_journal::Config;

    use super::*;

    fn ingest(max_series: usize) -> (tempfile::TempDir, Journal, Ingest) {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(folder.path(), Config::default()).expect("a journal");
        let ingest = Ingest::new(journal.clone(), Arc::default(), max_series, None);
        (folder, journal, ingest)
    }

    #[tokio::test]
    async fn good_points_are_durable_and_bad_ones_told() {
        let (_folder, journal, ingest) = ingest(100);
        let stream = "data/default".parse().expect("a name");
        let taken = ingest
            .body(None, &stream, Form::Lines(Precision::Seconds), b"a x=1,y=2 5\nbad\nb x=3 6")
            .expect("lines");
        let outcome = ingest.durable(taken).await.expect("durable");
        assert_eq!((outcome.accepted, outcome.rejected), (2, 1));
        assert_eq!(journal.stats().pending_points(), 3);
        assert_eq!((ingest.counters.points.get(), ingest.counters.rejected.get()), (3, 1));
        assert_eq!(ingest.latest().get("b x").map(|latest| latest.value.as_str()), Some("3"));
    }

    #[tokio::test]
    async fn more_series_than_allowed_are_refused_and_the_known_go_on() {
        let (_folder, journal, ingest) = ingest(2);
        let stream = "data/default".parse().expect("a name");
        let body = b"a,n=1 x=1\na,n=2 x=1\na,n=3 x=1\na,n=3 x=2\na,n=1 x=3";
        for _ in 0..2 {
            let taken = ingest.body(None, &stream, Form::Lines(Precision::Seconds), body).expect("lines");
            let outcome = ingest.durable(taken).await.expect("durable");
            assert_eq!((outcome.accepted, outcome.rejected), (3, 2));
            assert!(outcome.message().contains("more than 2 series"), "{}", outcome.message());
        }
        assert_eq!(journal.stats().pending_points(), 6);
    }

    #[tokio::test]
    async fn a_body_that_is_broken_as_a_whole_leaves_nothing() {
        let (_folder, journal, ingest) = ingest(2);
        let stream = "data/default".parse().expect("a name");
        assert!(ingest.body(None, &stream, Form::OtlpProtobuf, b"\xff").is_err());
        assert!(ingest.body(None, &stream, Form::OtlpJson, b"{").is_err());
        assert_eq!(journal.stats().pending_points(), 0);
    }
}
