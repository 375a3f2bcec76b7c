//! From a body to durable points: the one way in, whatever the protocol.

mod collect;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use farshore_journal::{
    Append, Journal, JournalError, PointBatch, Producer, Receipt, Sample, SeriesKey, StreamName,
};

use self::collect::{Collector, KnownSeries};
use crate::clock;
use crate::counters::Counters;
use crate::decode::{Outcome, Precision, json, line, otlp};
use crate::pipeline::Runner;
use crate::point::{Point, PointError};
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

/// Points on their way to the disk. Where nobody waits for them any more, since their client went away, they are counted all the same.
#[derive(Debug)]
#[must_use = "nothing is acknowledged before it is durable"]
pub(crate) struct Taken {
    pub(crate) outcome: Outcome,
    /// Nothing when there was no point to keep, or when it is known what became of them.
    append: Option<Append>,
    stream: StreamName,
    entry: Entry,
    books: Arc<Books>,
}

/// What is written down of points when it is known what became of them.
#[derive(Debug, Default)]
struct Entry {
    /// Each field of a reading is one.
    points: usize,
    readings: usize,
    /// Of the points, those whose time was too far ahead.
    future: usize,
    begun: Option<Instant>,
    /// The newest of them, the very newest first.
    newest: Vec<(SeriesKey, i64, farshore_journal::Value)>,
}

#[derive(Debug)]
pub(crate) struct Ingest {
    journal: Journal,
    /// Where points are processed, too.
    processing: Option<Arc<Runner>>,
    max_series: usize,
    pub(crate) taking: Arc<Taking>,
    books: Arc<Books>,
}

#[derive(Debug)]
struct Books {
    counters: Arc<Counters>,
    taking: Arc<Taking>,
    known: Mutex<HashMap<StreamName, Arc<KnownSeries>>>,
    latest: Mutex<BTreeMap<SeriesKey, (i64, farshore_journal::Value)>>,
}

/// The newest value of a series, for the page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Latest {
    pub(crate) at_ns: i64,
    pub(crate) value: String,
}

impl Taken {
    /// Since when the producer waits.
    pub(crate) fn since(mut self, begun: Instant) -> Self {
        self.entry.begun = Some(begun);
        self
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(append) = self.append.take() else { return };
        let (entry, books) = (std::mem::take(&mut self.entry), Arc::clone(&self.books));
        // Without a runtime nobody is left who would ask.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let stream = self.stream.clone();
            drop(runtime.spawn(async move { books.enter(&stream, entry, &append.await) }));
        }
    }
}

impl Books {
    /// Writes down what became of points.
    fn enter(&self, stream: &StreamName, entry: Entry, result: &Result<Receipt, JournalError>) {
        self.taking.answered(clock::mono_ns(), stream, result);
        if let Err(error) = result {
            self.counters.rejected.add(entry.readings);
            if matches!(error, JournalError::TooManyStreams { .. }) {
                // Names of streams that are not made have no end.
                lock(&self.known).remove(stream);
            }
            return;
        }
        self.counters.points.add(entry.points);
        self.counters.future_times.add(entry.future);
        if let Some(begun) = entry.begun {
            self.counters.processing.record(begun.elapsed());
        }
        let mut latest = lock(&self.latest);
        for (key, at_ns, value) in entry.newest {
            let room = latest.len() < MAX_LATEST;
            match latest.get_mut(&key) {
                Some((known_ns, _)) if *known_ns >= at_ns => {}
                Some(known) => *known = (at_ns, value),
                None if room => {
                    latest.insert(key, (at_ns, value));
                }
                None => {}
            }
        }
    }
}

impl Ingest {
    pub(crate) fn new(
        journal: Journal,
        counters: Arc<Counters>,
        max_series: usize,
        processing: Option<Arc<Runner>>,
    ) -> Self {
        let taking = Arc::<Taking>::default();
        let books = Books {
            counters,
            taking: Arc::clone(&taking),
            known: Mutex::default(),
            latest: Mutex::default(),
        };
        Self { journal, processing, max_series, taking, books: Arc::new(books) }
    }

    /// Counts what could not be read.
    pub(crate) fn unreadable(&self, error: PointError) -> PointError {
        self.books.counters.rejected.add(1);
        error
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
        self.collect(from, stream, |sink| match form {
            Form::Json => Ok(json::decode(body, sink)),
            Form::Lines(precision) => Ok(line::decode(body, precision, sink)),
            Form::OtlpProtobuf => otlp::decode_protobuf(body, sink),
            Form::OtlpJson => otlp::decode_json(body, sink),
        })
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
        self.collect(from, stream, |sink| {
            point.finish()?;
            sink(point)?;
            Ok(Outcome { accepted: 1, ..Outcome::default() })
        })
    }

    fn collect(
        &self,
        from: Option<Producer>,
        stream: &StreamName,
        decode: impl FnOnce(&mut crate::decode::Sink<'_>) -> Result<Outcome, PointError>,
    ) -> Result<Taken, PointError> {
        let known = Arc::clone(lock(&self.books.known).entry(stream.clone()).or_default());
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
        self.books.counters.rejected.add(rejected);
        match result {
            Ok(outcome) => Ok(self.hand_over(from, stream, collector.finish()?, outcome)),
            Err(error) => {
                collector.give_up();
                Err(error)
            }
        }
    }

    fn hand_over(
        &self,
        from: Option<Producer>,
        stream: &StreamName,
        (batch, future): (PointBatch, usize),
        outcome: Outcome,
    ) -> Taken {
        let books = Arc::clone(&self.books);
        if batch.is_empty() {
            return Taken { outcome, append: None, stream: stream.clone(), entry: Entry::default(), books };
        }
        let newest = batch.samples().iter().rev().take(LATEST_OF_BATCH);
        let named = |sample: &Sample| {
            batch.key(sample.series).map(|key| (key.clone(), sample.at_ns, short(&sample.value)))
        };
        let newest = newest.filter_map(named).collect();
        let (points, readings) = (batch.len(), outcome.accepted);
        let entry = Entry { points, readings, future, begun: None, newest };
        let append = self.journal.append_shared(from, stream, &Arc::new(batch));
        Taken { outcome, append: Some(append), stream: stream.clone(), entry, books }
    }

    /// Waits until the points are durable.
    ///
    /// # Errors
    /// When they aren't; their producer must keep them.
    pub(crate) async fn durable(&self, mut taken: Taken) -> Result<Outcome, JournalError> {
        if let Some(append) = &mut taken.append {
            let result = append.await;
            taken.append = None;
            self.books.enter(&taken.stream, std::mem::take(&mut taken.entry), &result);
            result?;
        }
        if let Some(processing) = &self.processing {
            processing.room().await;
        }
        Ok(std::mem::take(&mut taken.outcome))
    }

    /// The newest values, by series.
    pub(crate) fn latest(&self) -> BTreeMap<String, Latest> {
        let latest = lock(&self.books.latest).clone();
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
    use futures_util::FutureExt as _;

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
        assert_eq!((ingest.books.counters.points.get(), ingest.books.counters.rejected.get()), (3, 1));
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
    async fn series_without_a_place_are_not_written_by_name_either() {
        let (_folder, journal, ingest) = ingest(1);
        let stream = "data/default".parse().expect("a name");
        let body: String = (0..10_000).map(|n| format!("a,n={n} x=1\n")).collect();
        let taken =
            ingest.body(None, &stream, Form::Lines(Precision::Seconds), body.as_bytes()).expect("lines");
        ingest.durable(taken).await.expect("durable");
        let stats = journal.stats();
        assert!(stats.pending_points() == 1 && stats.bytes < 10_000, "{stats:?}");
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
        assert_eq!(ingest.books.counters.rejected.get(), all as u64);
        assert_eq!(journal.stats().pending_points(), 2);
    }

    #[tokio::test]
    async fn what_is_durable_is_counted_once_whoever_went_away() {
        let (_folder, journal, ingest) = ingest(100);
        let stream = "data/default".parse().expect("a name");
        let counters = Arc::clone(&ingest.books.counters);
        for _ in 0..20 {
            let body = || ingest.body(None, &stream, Form::Lines(Precision::Seconds), b"a x=1,y=2");
            // Before anybody waited for it, while somebody did, and as it should be.
            drop(body().expect("lines"));
            let _ = ingest.durable(body().expect("lines")).now_or_never();
            ingest.durable(body().expect("lines").since(Instant::now())).await.expect("durable");
        }
        let all = async {
            while counters.points.get() < 120 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), all).await.expect("all are counted");
        assert_eq!((counters.points.get(), journal.stats().pending_points()), (120, 120));
        assert_eq!(counters.rejected.get(), 0);
    }

    #[tokio::test]
    async fn what_the_journal_refuses_is_counted_and_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { max_streams: 1, ..Config::default() };
        let journal = Journal::open(folder.path(), config).expect("a journal");
        let ingest = Ingest::new(journal, Arc::default(), 100, None);
        let take = |stream: &str| {
            let stream = stream.parse().expect("a name");
            ingest.body(None, &stream, Form::Lines(Precision::Seconds), b"a x=1,y=2\nb x=1").expect("lines")
        };
        ingest.durable(take("data/one")).await.expect("durable");
        assert!(ingest.durable(take("data/two")).await.is_err());
        drop(take("data/three"));
        let all = async {
            while ingest.books.counters.rejected.get() < 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), all).await.expect("all are counted");
        assert_eq!(ingest.books.counters.points.get(), 3);
        assert_eq!(ingest.latest().len(), 3);
        assert_eq!(lock(&ingest.books.known).len(), 1, "streams that are not made are forgotten");
    }

    #[tokio::test]
    async fn a_time_far_ahead_does_not_hide_what_comes_after_it() {
        let (_folder, _journal, ingest) = ingest(100);
        let stream = "data/default".parse().expect("a name");
        for body in [&b"a x=1,y=1 9223372036854775807\nb x=1"[..], b"a x=2"] {
            let taken = ingest.body(None, &stream, Form::Lines(Precision::Nanoseconds), body).expect("lines");
            ingest.durable(taken).await.expect("durable");
        }
        assert_eq!(ingest.latest().get("a x").map(|latest| latest.value.as_str()), Some("2"));
        assert_eq!(ingest.books.counters.future_times.get(), 2);
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
