//! From a body to durable points: the one way in, whatever the protocol.

mod collect;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_journal::{Append, Journal, JournalError, PointBatch, Producer, SeriesKey, StreamName};

use self::collect::{Collector, KnownSeries};
use crate::clock;
use crate::counters::Counters;
use crate::decode::{Outcome, Precision, json, line, otlp};
use crate::pipeline::Runner;
use crate::point::{Point, PointError};

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
    /// Nothing when there was no point to keep.
    pub(crate) append: Option<Append>,
    points: usize,
}

#[derive(Debug)]
pub(crate) struct Ingest {
    journal: Journal,
    pub(crate) counters: Arc<Counters>,
    /// Where points are processed, too.
    processing: Option<Arc<Runner>>,
    max_series: usize,
    known: Mutex<HashMap<StreamName, Arc<KnownSeries>>>,
    latest: Mutex<BTreeMap<SeriesKey, (i64, farshore_journal::Value)>>,
}

/// The newest value of a series, for the page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latest {
    pub(crate) at_ns: i64,
    pub(crate) value: String,
}

impl Ingest {
    pub(crate) fn new(
        journal: Journal,
        counters: Arc<Counters>,
        max_series: usize,
        processing: Option<Arc<Runner>>,
    ) -> Self {
        Self { journal, counters, processing, max_series, known: Mutex::default(), latest: Mutex::default() }
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
        let (batch, outcome) = self.collect(stream, |sink| match form {
            Form::Json => Ok(json::decode(body, sink)),
            Form::Lines(precision) => Ok(line::decode(body, precision, sink)),
            Form::OtlpProtobuf => otlp::decode_protobuf(body, sink),
            Form::OtlpJson => otlp::decode_json(body, sink),
        })?;
        Ok(self.hand_over(from, stream, batch, outcome))
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
        let (batch, outcome) = self.collect(stream, |sink| {
            sink(point)?;
            Ok(Outcome { accepted: 1, ..Outcome::default() })
        })?;
        Ok(self.hand_over(from, stream, batch, outcome))
    }

    fn collect(
        &self,
        stream: &StreamName,
        decode: impl FnOnce(&mut crate::decode::Sink<'_>) -> Result<Outcome, PointError>,
    ) -> Result<(PointBatch, Outcome), PointError> {
        let known = Arc::clone(lock(&self.known).entry(stream.clone()).or_default());
        let mut collector = Collector::new(clock::wall_ns(), &known, self.max_series);
        let result = decode(&mut |point| collector.take(point));
        // Those that had been taken when there was too much go with the others.
        let (result, rejected) = match (result, collector.too_much()) {
            (Ok(outcome), Some(error)) => (Err(error.clone()), outcome.accepted + outcome.rejected),
            (Ok(outcome), None) => {
                let rejected = outcome.rejected;
                (Ok(outcome), rejected)
            }
            (Err(error), _) => (Err(error), 1),
        };
        self.counters.rejected.add(rejected);
        if result.is_err() {
            collector.give_up();
        }
        Ok((collector.batch, result?))
    }

    fn hand_over(
        &self,
        from: Option<Producer>,
        stream: &StreamName,
        batch: PointBatch,
        outcome: Outcome,
    ) -> Taken {
        if batch.is_empty() {
            return Taken { outcome, append: None, points: 0 };
        }
        let points = batch.len();
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
        Taken { outcome, append: Some(append), points }
    }

    /// Waits until the points are durable.
    ///
    /// # Errors
    /// When they aren't; their producer must keep them.
    pub(crate) async fn durable(&self, taken: Taken) -> Result<Outcome, JournalError> {
        if let Some(append) = taken.append {
            append.await?;
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
    use crate::limits::{MAX_BODY_SERIES, MAX_VALUES};

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
    async fn a_point_is_taken_whole_or_not_at_all() {
        let (_folder, journal, ingest) = ingest(2);
        let stream = "data/default".parse().expect("a name");
        for _ in 0..2 {
            let body = b"m a=1,b=2,c=3\nm a=1,b=2,c=3\nm a=1";
            let taken = ingest.body(None, &stream, Form::Lines(Precision::Seconds), body).expect("lines");
            let outcome = ingest.durable(taken).await.expect("durable");
            assert_eq!((outcome.accepted, outcome.rejected), (1, 2), "there is room for two series");
        }
        assert_eq!(journal.stats().pending_points(), 2);
        // What was refused took no place.
        let body = b"m b=1\nm c=1";
        let taken = ingest.body(None, &stream, Form::Lines(Precision::Seconds), body).expect("lines");
        assert_eq!(ingest.durable(taken).await.expect("durable").accepted, 1);
        assert_eq!(journal.stats().pending_points(), 3);
    }

    #[tokio::test]
    async fn of_a_body_with_too_much_in_it_nothing_is_taken() {
        let (_folder, journal, ingest) = ingest(MAX_BODY_SERIES + 1);
        let stream = "data/default".parse().expect("a name");
        let many = "a f=t\n".repeat(MAX_VALUES + 1);
        let series: String = (0..=MAX_BODY_SERIES).map(|n| format!("a,n={n} f=t\n")).collect();
        // Each field names the line's tags again.
        let tags: String = (0..15).map(|n| format!(",{n}={}", "x".repeat(250))).collect();
        let fields: Vec<String> = (0..256).map(|n| format!("f{n}=t")).collect();
        let names: String = (0..10).map(|n| format!("a,n={n}{tags} {}\n", fields.join(","))).collect();
        assert!(names.len() < 64 * 1024);
        for body in [many, series, names] {
            let taken = ingest.body(None, &stream, Form::Lines(Precision::Seconds), body.as_bytes());
            assert!(matches!(taken, Err(PointError::TooMuch { .. })), "{taken:?}");
        }
        // Nor has any series got a place.
        let body = b"a,n=new f=t\nb f=t";
        let taken = ingest.body(None, &stream, Form::Lines(Precision::Seconds), body).expect("lines");
        assert_eq!((taken.outcome.accepted, taken.outcome.rejected), (2, 0));
        ingest.durable(taken).await.expect("durable");
        let all = MAX_VALUES + 1 + MAX_BODY_SERIES + 1 + 10;
        assert_eq!(ingest.counters.rejected.get(), all as u64);
        assert_eq!(journal.stats().pending_points(), 2);
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
