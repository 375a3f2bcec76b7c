//! What bounds, age and a wrong clock do to points, one step at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use farshore_series::{MAX_BATCH_SERIES, MAX_POINTS, PointBatch, Value};
use farshore_trust::sealed::{Batch, DeviceKey};

use super::files::SimFiles;
use crate::clock::Now;
use crate::config::{Bounds, Class, Config, Overflow, StreamConfig};
use crate::core::{Core, Keys, LOSSES, Rows};
use crate::error::JournalError;
use crate::files::Files as _;
use crate::rest::points_of;

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_764_000_000 * SECOND;
const HOUR: i64 = 3_600 * SECOND;

struct Device {
    key: tempfile::TempDir,
    files: SimFiles,
    config: Config,
    core: Core,
    now: Now,
}

/// A point as it was delivered: stream, series, time, value.
type Delivered = (String, String, i64, f64);

impl Device {
    fn new(stream: StreamConfig) -> Self {
        let config = Config { default_stream: stream, segment_bytes: 100_000, ..Config::default() };
        let (key, files) = (tempfile::tempdir().unwrap(), SimFiles::new(7));
        let now = Now { wall_ns: START, mono_ns: 50 * SECOND };
        let core = Self::open(&key, &files, &config, now);
        Self { key, files, config, core, now }
    }

    fn open(key: &tempfile::TempDir, files: &SimFiles, config: &Config, now: Now) -> Core {
        let keys = Keys::new(Self::device_key(key), None).unwrap();
        Core::open(Arc::new(files.clone()), config.clone(), keys, [1; 16], now).unwrap()
    }

    fn device_key(folder: &tempfile::TempDir) -> DeviceKey {
        DeviceKey::open_or_create(&folder.path().join("device.key")).unwrap()
    }

    fn reopen(&mut self) {
        self.core = Self::open(&self.key, &self.files, &self.config, self.now);
    }

    fn pass(&mut self, ns: i64) {
        self.now.wall_ns += ns;
        self.now.mono_ns += ns;
        self.core.maintain(self.now);
    }

    fn append(&mut self, points: &[(i64, f64)]) -> Result<u64, JournalError> {
        self.append_to("s", points)
    }

    fn append_to(&mut self, stream: &str, points: &[(i64, f64)]) -> Result<u64, JournalError> {
        let rows = rows(stream, points);
        self.core.commit(self.now, &[rows]).remove(0)
    }

    fn settle(&mut self) {
        while let Some(job) = self.core.seal_job(&HashSet::new()) {
            let made = job.run(self.now).unwrap();
            self.core.finish_seal(self.now, &job, made).unwrap();
        }
        while self.core.rebase_next(self.now).unwrap() {}
    }

    /// Everything that waits, delivered.
    fn deliver(&mut self) -> Vec<Delivered> {
        let mut delivered = Vec::new();
        loop {
            self.core.close_segments();
            self.settle();
            let Some(outgoing) = self.core.next_batch(self.now, u64::MAX).unwrap() else { break };
            let contents =
                Batch::read(&outgoing.bytes).unwrap().open_on_device(&Self::device_key(&self.key)).unwrap();
            for (key, at_ns, value) in points_of(&contents).unwrap().points() {
                let series = format!("{key}");
                delivered.push((outgoing.stream.to_string(), series, at_ns, value.number().unwrap()));
            }
            self.core.acknowledge(self.now, &outgoing.stream, outgoing.sequence).unwrap();
        }
        delivered
    }

    /// Points of the stream that wait; losses are points of another.
    fn pending(&self) -> u64 {
        self.core.stats().streams[&"s".parse().unwrap()].pending_points
    }

    fn lost(&self, reason: &str) -> u64 {
        let stats = self.core.stats();
        let of = |stream: &crate::stats::StreamStats| -> u64 {
            stream.lost.iter().filter(|(r, _)| r.as_str() == reason).map(|(_, points)| *points).sum()
        };
        stats.streams.values().map(of).sum()
    }
}

fn stream(bounds: Bounds, overflow: Overflow) -> StreamConfig {
    StreamConfig { bounds, overflow, ..StreamConfig::of(Class::Telemetry) }
}

fn rows(stream: &str, points: &[(i64, f64)]) -> Rows {
    let mut batch = PointBatch::new();
    let series = batch.series("m", "v", []).unwrap();
    for (at_ns, value) in points {
        batch.push(series, *at_ns, Value::Float(*value)).unwrap();
    }
    Rows::of(stream.parse().unwrap(), &batch).unwrap()
}

/// So many seconds from the first on.
fn seconds(first: i64, count: i64) -> Vec<(i64, f64)> {
    (first..first + count).map(second).collect()
}

fn second(number: i64) -> (i64, f64) {
    (START + number * SECOND, number as f64)
}

#[test]
fn thinning_keeps_what_a_window_was_like_and_counts_the_rest() {
    let bounds = Bounds { points: 1_000, ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::Thin(Duration::from_secs(60))));
    for batch in 0..60 {
        let points: Vec<(i64, f64)> = (batch * 50..(batch + 1) * 50).map(second).collect();
        device.append(&points).unwrap();
        device.pass(SECOND);
        assert!(device.pending() <= 1_000, "the bound holds");
    }
    let thinned = device.lost("thinned");
    assert_eq!(device.lost("drop-oldest"), 0, "3,000 points in summaries and the newest fit");
    let delivered = device.deliver();
    let of = |series: &str| -> Vec<(i64, f64)> {
        let points = delivered.iter().filter(|(stream, name, ..)| stream == "s" && name == series);
        points.map(|(_, _, at_ns, value)| (*at_ns, *value)).collect()
    };
    let (own, counts) = (of("m v"), of("m v.count"));
    let (least, most) = (of("m v.min"), of("m v.max"));
    let all = own.len() + counts.len() + least.len() + most.len();
    assert_eq!(all as u64 + thinned, 3_000, "what is missing is counted exactly");
    assert!(!counts.is_empty() && counts.len() == least.len() && counts.len() == most.len());
    // Each window: mean between minimum and maximum, and as many points as lie between.
    let counted: f64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(counted as usize + own.len() - counts.len(), 3_000, "no point is in two summaries");
    for ((at_ns, count), ((_, low), (_, high))) in counts.iter().zip(least.iter().zip(&most)) {
        assert_eq!(high - low + 1.0, *count, "each second had one point");
        let mean = own.iter().find(|(at, _)| at == at_ns).unwrap().1;
        assert_eq!(mean, (low + high) / 2.0);
        assert!(*count <= 60.0);
    }
    // The newest are as they were sent.
    assert_eq!(own.iter().max_by_key(|(at_ns, _)| *at_ns), Some(&second(2_999)));
}

#[test]
fn what_can_not_be_thinned_any_further_goes_oldest_first() {
    let bounds = Bounds { points: 200, ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::Thin(Duration::from_secs(10))));
    for batch in 0..100 {
        device.append(&(batch * 50..(batch + 1) * 50).map(second).collect::<Vec<_>>()).unwrap();
    }
    assert!(device.pending() <= 200);
    assert!(device.lost("drop-oldest") > 0 && device.lost("thinned") > 0);
    let (gone, thinned) = (device.lost("drop-oldest"), device.lost("thinned"));
    let delivered = device.deliver().into_iter().filter(|(stream, ..)| stream == "s").count() as u64;
    assert_eq!(delivered + gone + thinned, 5_000);
}

#[test]
fn what_a_block_of_zeros_takes_from_the_end_of_a_segment_is_named() {
    let mut device = Device::new(stream(Bounds::NONE, Overflow::Reject));
    let segments = |device: &Device| device.files.list("streams/s").unwrap();
    for number in 0..3 {
        device.append(&[second(number)]).unwrap();
    }
    let [(_, whole)] = segments(&device)[..] else { panic!("one segment") };
    for number in 3..5 {
        device.append(&[second(number)]).unwrap();
    }
    device.files.blank(|name| name.starts_with("streams/s/"), whole);
    let delivered = device.deliver();
    let of_stream: Vec<i64> =
        delivered.iter().filter(|(stream, ..)| stream == "s").map(|(_, _, at_ns, _)| *at_ns).collect();
    assert_eq!(of_stream, [0, 1, 2].map(|number| second(number).0));
    assert_eq!(device.lost("corrupt"), 2);
    assert_eq!(device.files.list("quarantine").unwrap().len(), 1, "it is set aside to be looked at");
}

#[test]
fn bounds_let_go_little_at_a_time() {
    let bounds = Bounds { points: 1_000, ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::DropOldest));
    for number in 0..1_001 {
        device.append(&[second(number)]).unwrap();
    }
    let lost = device.lost("drop-oldest");
    assert!((1..=125).contains(&lost), "an eighth goes, not all: {lost}");
    let delivered = device.deliver();
    let left = delivered.iter().filter(|(stream, ..)| stream == "s").count() as u64;
    assert_eq!(left + lost, 1_001);
}

#[test]
fn a_group_of_appends_that_fit_costs_no_point_that_is_new() {
    let bounds = Bounds { points: 1_000, ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::DropOldest));
    let group: Vec<Rows> = (0..30).map(|number| rows("s", &seconds(number * 100, 100))).collect();
    let answers = device.core.commit(device.now, &group);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(1..))), "{answers:?}");
    assert_eq!(device.lost("drop-newest"), 0);
    let pending = device.pending();
    assert!((876..=1_000).contains(&pending), "the bound is used: {pending}");
    assert_eq!(pending + device.lost("drop-oldest"), 3_000);
    let delivered = device.deliver();
    let newest = delivered.iter().filter(|(stream, ..)| stream == "s").map(|(_, _, at_ns, _)| *at_ns).max();
    assert_eq!(newest, Some(second(2_999).0));
}

#[test]
fn a_group_is_refused_only_as_far_as_it_does_not_fit() {
    let bounds = Bounds { points: 1_000, ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::Reject));
    let group: Vec<Rows> = (0..30).map(|number| rows("s", &seconds(number * 100, 100))).collect();
    let answers = device.core.commit(device.now, &group);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    assert_eq!(device.pending(), 1_000);
}

#[test]
fn an_append_for_which_there_is_no_room_at_all_is_refused_and_nothing_goes_for_it() {
    let bounds = Bounds { points: 1_000, ..Bounds::NONE };
    for overflow in [Overflow::DropOldest, Overflow::Reject, Overflow::Thin(Duration::from_secs(60))] {
        let mut device = Device::new(stream(bounds, overflow));
        device.append(&seconds(0, 1_000)).unwrap();
        let answer = device.append(&seconds(1_000, 1_001));
        assert!(matches!(answer, Err(JournalError::BeyondBounds { points: 1_001, .. })), "{answer:?}");
        assert_eq!(device.pending(), 1_000);
    }
    let mut device = Device::new(stream(bounds, Overflow::DropNewest));
    device.append(&seconds(0, 1_001)).unwrap();
    assert_eq!((device.pending(), device.lost("drop-newest")), (0, 1_001), "as it is set, and said");
    // The same for all streams together.
    let mut device = Device::new(stream(Bounds::NONE, Overflow::DropOldest));
    device.config.max_bytes = device.config.alert_reserve_bytes + 20_000;
    device.reopen();
    device.append(&seconds(0, 1_000)).unwrap();
    assert!(matches!(device.append(&seconds(1_000, 2_000)), Err(JournalError::BeyondBounds { .. })));
    assert_eq!((device.pending(), device.lost("drop-oldest")), (1_000, 0));
}

#[test]
fn a_segment_takes_no_more_than_a_batch_can_hold() {
    let mut device = Device::new(stream(Bounds::NONE, Overflow::DropOldest));
    device.config.segment_bytes = u64::MAX;
    device.reopen();
    // More points than a batch can hold, in two appends, each of which fits.
    for _ in 0..2 {
        let points = vec![second(0); MAX_POINTS / 2 + 1];
        device.append(&points).unwrap();
    }
    // And more series.
    let mut group = Vec::new();
    for half in 0..2 {
        let mut batch = PointBatch::new();
        for number in 0..=MAX_BATCH_SERIES / 2 {
            let tags = [("half", half.to_string()), ("number", number.to_string())];
            let series =
                batch.series("m", "v", tags.iter().map(|(key, value)| (*key, value.as_str()))).unwrap();
            batch.push(series, second(0).0, Value::Float(0.0)).unwrap();
        }
        group.push(Rows::of("s".parse().unwrap(), &batch).unwrap());
    }
    assert!(device.core.commit(device.now, &group).iter().all(Result::is_ok));
    assert_eq!(device.pending(), (MAX_POINTS + MAX_BATCH_SERIES + 4) as u64);
    device.core.close_segments();
    device.settle();
    assert_eq!(device.lost("corrupt"), 0);
    assert_eq!(device.pending(), (MAX_POINTS + MAX_BATCH_SERIES + 4) as u64);
    assert_eq!(device.files.list("quarantine").unwrap(), []);
}

#[test]
fn names_that_producers_invent_keep_no_stream_out_that_is_known_beforehand() {
    let mut device = Device::new(StreamConfig::of(Class::Telemetry));
    device.config.max_streams = 3;
    device.config.streams = vec![("own".parse().unwrap(), StreamConfig::of(Class::Telemetry))];
    device.reopen();
    for name in ["a", "b", "c"] {
        device.append_to(name, &[second(0)]).unwrap();
    }
    let refused = device.append_to("d", &[second(0)]);
    assert!(matches!(refused, Err(JournalError::TooManyStreams { max: 3, .. })), "{refused:?}");
    device.append_to("own", &[second(0)]).unwrap();
    device.append_to("a", &[second(1)]).unwrap();
    // Nor do those that are known keep producers out.
    device.config.max_streams = 4;
    device.reopen();
    device.append_to("d", &[second(0)]).unwrap();
}

#[test]
fn what_is_too_old_goes_once_the_clock_is_calm_and_is_counted() {
    let bounds = Bounds { age: Duration::from_secs(3_600), ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::DropOldest));
    device.append(&[second(0), second(1)]).unwrap();
    device.pass(301 * SECOND);
    device.append(&[second(301)]).unwrap();
    for _ in 0..50 {
        device.pass(60 * SECOND);
    }
    assert_eq!(device.lost("expired"), 0, "{} s old", (device.now.wall_ns - START) / SECOND);
    for _ in 0..5 {
        device.pass(60 * SECOND);
    }
    assert_eq!(device.pending(), 3, "the newest of the first two is an hour old, not more");
    device.pass(60 * SECOND);
    assert_eq!(device.lost("expired"), 2);
    device.reopen();
    assert_eq!(device.pending(), 1);
    let delivered = device.deliver();
    let points = |stream: &str| delivered.iter().filter(|(name, ..)| name == stream).count();
    assert_eq!((points("s"), points(LOSSES)), (1, 4));
}

#[test]
fn a_clock_that_jumps_costs_no_point_before_it_is_calm() {
    let bounds = Bounds { age: Duration::from_secs(3_600), ..Bounds::NONE };
    let mut device = Device::new(stream(bounds, Overflow::DropOldest));
    device.pass(2 * HOUR);
    let at_ns = device.now.wall_ns;
    device.append(&[(at_ns, 1.0)]).unwrap();
    device.pass(400 * SECOND);
    // A day ahead, for five minutes, and back.
    device.now.wall_ns += 24 * HOUR;
    for _ in 0..5 {
        device.pass(60 * SECOND);
    }
    device.now.wall_ns -= 24 * HOUR;
    for _ in 0..20 {
        device.pass(60 * SECOND);
    }
    assert_eq!(device.lost("expired"), 0);
    assert_eq!(device.pending(), 1);
}

#[test]
fn points_of_a_clock_that_was_never_set_get_their_times_once() {
    let mut device = Device::new(StreamConfig::of(Class::Telemetry));
    // Booted in 1970.
    device.now = Now { wall_ns: 40 * SECOND, mono_ns: 40 * SECOND };
    device.reopen();
    for number in 0..100 {
        device.pass(SECOND);
        let stamped = device.now.wall_ns;
        device.append(&[(stamped, f64::from(number))]).unwrap();
    }
    // A part is sealed already, and one point came with a time of its own.
    device.core.close_segments();
    device.settle();
    device.append(&[(START - HOUR, -1.0)]).unwrap();
    device.pass(SECOND);
    let ran = device.now.wall_ns;
    device.append(&[(ran, 100.0)]).unwrap();
    let booted_ns = START - device.now.mono_ns;
    device.now.wall_ns = START;
    device.core.maintain(device.now);
    assert_eq!(
        device.core.next_batch(device.now, u64::MAX).unwrap(),
        None,
        "nothing is sent with a wrong time"
    );
    device.settle();
    assert_eq!(device.core.stats().rebased, 101);
    device.pass(SECOND);
    device.settle();
    assert_eq!(device.core.stats().rebased, 101, "once");
    device.append(&[(device.now.wall_ns, 101.0)]).unwrap();
    device.reopen();
    let delivered = device.deliver();
    let mut times: Vec<(i64, f64)> = delivered
        .iter()
        .filter(|(stream, ..)| stream == "s")
        .map(|(_, _, at_ns, value)| (*at_ns, *value))
        .collect();
    times.sort_by(|a, b| a.1.total_cmp(&b.1));
    assert_eq!(times.len(), 103);
    assert_eq!(times[0], (START - HOUR, -1.0), "its own time stays");
    for number in 0..100 {
        let taken_ns = booted_ns + (41 + number) * SECOND;
        assert_eq!(times[1 + number as usize], (taken_ns, number as f64));
    }
    let of = |series: &str| -> Vec<f64> {
        let found = delivered.iter().filter(|(stream, name, ..)| stream == "journal/clock" && name == series);
        found.map(|(.., value)| *value).collect()
    };
    assert_eq!(of("journal_clock points"), [101.0]);
    assert_eq!(of("journal_clock by_ns").len(), 1);
}

#[test]
fn a_segment_that_is_not_sealed_yet_keeps_no_batch_of_another_stream_from_its_right_times() {
    let mut device = Device::new(StreamConfig::of(Class::Telemetry));
    device.now = Now { wall_ns: 40 * SECOND, mono_ns: 40 * SECOND };
    device.reopen();
    device.pass(SECOND);
    let stamped = device.now.wall_ns;
    device.append(&[(stamped, 1.0)]).unwrap();
    device.core.close_segments();
    device.settle();
    device.append_to("t", &[(stamped, 2.0), (stamped, 3.0)]).unwrap();
    device.now.wall_ns = START;
    device.core.maintain(device.now);
    while device.core.rebase_next(device.now).unwrap() {}
    assert_eq!(device.core.stats().rebased, 1);
    let next = device.core.next_batch(device.now, u64::MAX).unwrap().expect("its times are right");
    assert_eq!(next.stream.as_str(), "s");
    device.settle();
    assert_eq!(device.core.stats().rebased, 3);
}

#[test]
fn a_clock_that_was_wrong_for_longer_than_it_jumps_moves_nothing() {
    let mut device = Device::new(StreamConfig::of(Class::Telemetry));
    let stamped = device.now.wall_ns;
    device.append(&[(stamped, 1.0)]).unwrap();
    // Two hours later it turns out that the clock was an hour behind: times with and without it overlap.
    device.pass(2 * HOUR);
    device.now.wall_ns += HOUR;
    device.pass(SECOND);
    device.settle();
    assert_eq!(device.core.stats().rebased, 0);
    // Nor does a small correction.
    device.now.wall_ns += 60 * SECOND;
    device.pass(SECOND);
    device.settle();
    assert_eq!(device.deliver().first().map(|(_, _, at_ns, _)| *at_ns), Some(stamped));
}
