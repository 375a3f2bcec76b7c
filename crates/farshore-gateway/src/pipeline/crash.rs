//! The model: whatever dies when, what the journal and the cloud have in the end is what an engine makes that never died.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farshore_journal::{AtRest, Config, Journal, PointBatch, SeriesKey, StreamName, Value, points_of};
use farshore_trust::sealed::{Batch, IngestKey};
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::runner::{GIVE_UP_AFTER, Runner, Settings};
use super::source::Source;
use super::{Context, Definition, Engine, Now, Output, Recovery};
use crate::mqtt::Hub;

const S: i64 = 1_000_000_000;
const PIPELINES: &str = r#"
pipelines:
  - name: windows
    from: {streams: ["data/in*"]}
    steps:
      - dedup: {within: 1h}
      - window: {tumbling: 10s, lateness: 5s, aggregates: [count, sum]}
      - emit: {stream: data/out}
  - name: rules
    from: {streams: ["data/in*"]}
    steps:
      - rule: {name: hot, raise: "value > 80", clear: "value < 20", for: 20s}
"#;

/// What is in the end where, and how often.
type Found = BTreeMap<(String, SeriesKey, i64, u64), u32>;

#[derive(Clone, Debug)]
enum Step {
    /// Points of two series: stream, series, time in seconds, value.
    Append(Vec<(u8, u8, i64, u8)>),
    /// The segments are closed and, as far as they may be, sealed and delivered.
    Deliver,
    /// The process dies, so many places later at the latest.
    Die(i64),
    /// It ends in order, and begins again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let point = (0..2_u8, 0..3_u8, 0..40_i64, 0..100_u8);
    prop_oneof![
        6 => prop::collection::vec(point, 1..12).prop_map(Step::Append),
        2 => Just(Step::Deliver),
        2 => (0..12_i64).prop_map(Step::Die),
        1 => Just(Step::Restart),
    ]
}

fn key(series: u8) -> SeriesKey {
    SeriesKey::new("m", "v", [("n", format!("{series}").as_str())]).expect("a key")
}

struct Site {
    folder: tempfile::TempDir,
    cloud: IngestKey,
    definition: Definition,
    running: Option<(Journal, Arc<Runner>)>,
    delivered: Found,
    give_up_after: Duration,
}

impl Site {
    fn new() -> Self {
        let definition = Definition::parse(PIPELINES).expect("good");
        let folder = tempfile::tempdir().expect("a folder");
        let mut site = Self {
            folder,
            cloud: IngestKey::generate().expect("a key"),
            definition,
            running: None,
            delivered: Found::new(),
            give_up_after: GIVE_UP_AFTER,
        };
        site.begin();
        site
    }

    fn begin(&mut self) {
        let folder = self.folder.path();
        let recovery = Recovery::read(folder, &self.definition.outputs(), true).expect("readable");
        assert_eq!(recovery.fresh_because, None);
        let settings = Settings {
            folder: folder.to_owned(),
            source: Source::none(),
            processor: None,
            max_series: 1000,
            give_up_after: self.give_up_after,
        };
        let runner = Arc::new(Runner::new(settings, Some(&self.definition)));
        let config = Config { ingest_key: Some(self.cloud.public()), ..Config::default() };
        let follower = Arc::clone(&runner);
        let journal = Journal::open_followed(folder, config, follower).expect("a journal");
        let (calls, _) = mpsc::channel(1);
        runner.start(journal.clone(), Arc::new(Hub::default()), calls, recovery).expect("a thread");
        self.running = Some((journal, runner));
    }

    fn running(&self) -> &(Journal, Arc<Runner>) {
        self.running.as_ref().expect("running")
    }

    /// The process goes: what was on its way into the journal is there, what was not kept is not.
    fn end(&mut self, in_order: bool) {
        let (journal, runner) = self.running.take().expect("running");
        if !in_order {
            // At the next place, whatever it is.
            runner.dies_at.store(0, Ordering::Relaxed);
        }
        runner.close();
        journal.close();
    }

    fn deliver(&mut self) {
        let (journal, _) = self.running().clone();
        journal.seal_all().expect("sealed");
        while let Some(outgoing) = journal.next_batch(u64::MAX).expect("readable") {
            let contents =
                Batch::read(&outgoing.bytes).expect("a batch").open(&self.cloud).expect("it opens");
            let points = points_of(&contents).expect("points");
            count(&mut self.delivered, &outgoing.stream, &points);
            journal.acknowledge(&outgoing.stream, outgoing.sequence).expect("acknowledged");
        }
    }

    fn found(mut self) -> Found {
        self.end(true);
        let rest = AtRest::open(self.folder.path()).expect("a journal");
        let mut found = self.delivered;
        for part in rest.parts().expect("parts") {
            let contents = rest.contents(&part).expect("readable").expect("there");
            assert!(contents.faults.iter().all(|fault| !fault.loss), "{:?}", contents.faults);
            count(&mut found, &part.stream, &contents.points);
        }
        found
    }
}

fn count(found: &mut Found, stream: &StreamName, points: &PointBatch) {
    if !matches!(stream.as_str(), "data/out" | "alerts") {
        return;
    }
    for (series, at_ns, value) in points.points() {
        let hash = match value {
            Value::Float(number) => number.to_bits(),
            Value::Boolean(flag) => u64::from(*flag),
            other => other.number().map_or(7, f64::to_bits),
        };
        *found.entry((stream.to_string(), series.clone(), at_ns, hash)).or_default() += 1;
    }
}

/// What an engine makes of the same points that never died.
fn expected(definition: &Definition, appended: &[(StreamName, PointBatch)]) -> Found {
    let mut engine = Engine::new(definition, Context::default(), 1000);
    let mut out = Vec::new();
    for (stream, batch) in appended {
        engine.feed(stream, batch, Now { wall_ns: 0, mono_ns: 0 }, &mut out);
    }
    let mut found = Found::new();
    for output in out {
        let mut batch = PointBatch::new();
        let mut put = |series: &SeriesKey, at_ns: i64, value: Value| {
            let id = batch.series_of(series).expect("a series");
            batch.push(id, at_ns, value).expect("room");
        };
        match output {
            Output::Point { series, at_ns, value, stream } => {
                put(&series, at_ns, value);
                count(&mut found, &stream, &batch);
            }
            Output::Alert(alert) => {
                for (series, value) in alert.points().expect("points") {
                    put(&series, alert.at_ns, value);
                }
                count(&mut found, &"alerts".parse().expect("a name"), &batch);
            }
            Output::Publish { .. } | Output::Webhook { .. } => {}
        }
    }
    found
}

fn trouble(site: &Site) -> Option<String> {
    site.running().1.status().expect("it processes").trouble
}

#[test]
fn what_can_not_be_kept_for_long_holds_up_nothing_and_is_kept_again_as_soon_as_it_can_be() {
    let mut site = Site::new();
    let state = site.folder.path().join("pipeline.state");
    let in_the_way = site.folder.path().join("pipeline.state.new");
    let stream: StreamName = "data/in0".parse().expect("a name");
    let append = |site: &Site, at: i64| {
        let mut batch = PointBatch::new();
        let series = batch.series_of(&key(0)).expect("a series");
        batch.push(series, at * S, Value::Float(1.0)).expect("room");
        site.running().0.append(&stream, &batch).wait().expect("durable");
    };
    append(&site, 0);
    site.deliver();
    std::fs::create_dir(&in_the_way).expect("a folder");
    append(&site, 1);
    assert_eq!(site.running().0.seal_all().expect("no error"), 1);
    assert_eq!(site.running().0.next_batch(u64::MAX).expect("readable"), None, "for a while it waits");
    assert!(state.exists());
    site.end(true);
    site.give_up_after = Duration::ZERO;
    site.begin();
    assert_eq!(site.running().0.seal_all().expect("no error"), 0);
    assert!(site.running().0.next_batch(u64::MAX).expect("readable").is_some());
    assert!(!state.exists(), "no later start goes on from it");
    assert!(trouble(&site).is_some_and(|trouble| trouble.contains("sent without it")));
    std::fs::remove_dir(&in_the_way).expect("removed");
    append(&site, 2);
    assert_eq!(site.running().0.seal_all().expect("no error"), 0);
    let begun = Instant::now();
    while trouble(&site).is_some() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not kept again");
        std::thread::yield_now();
    }
    assert!(state.exists());
    site.end(true);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_counted_twice_and_nothing_is_left_out(steps in prop::collection::vec(step(), 1..24)) {
        let mut site = Site::new();
        let mut appended: Vec<(StreamName, PointBatch)> = Vec::new();
        for step in &steps {
            match step {
                Step::Append(points) => {
                    // Each series has its stream, as the journal keeps the order of a stream.
                    for stream in 0..2_u8 {
                        let name: StreamName = format!("data/in{stream}").parse().expect("a name");
                        let mut batch = PointBatch::new();
                        for (_, series, at, value) in points.iter().filter(|(of, ..)| *of == stream) {
                            let id = batch.series_of(&key(stream * 10 + series)).expect("a series");
                            batch.push(id, at * S, Value::Float(f64::from(*value))).expect("room");
                        }
                        if !batch.is_empty() {
                            site.running().0.append(&name, &batch).wait().expect("durable");
                            appended.push((name, batch));
                        }
                    }
                }
                Step::Deliver => site.deliver(),
                Step::Die(places) => {
                    site.running().1.dies_at.store(*places, Ordering::Relaxed);
                    site.deliver();
                    site.end(false);
                    site.begin();
                }
                Step::Restart => {
                    site.end(true);
                    site.begin();
                }
            }
        }
        let expected = expected(&site.definition, &appended);
        let found = site.found();
        prop_assert_eq!(found, expected);
    }
}
