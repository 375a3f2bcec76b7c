//! The journal against a plain list, on a disk that fails, through many histories.
//!
//! What must hold at the end of each: what was acknowledged has arrived once, or is named by a loss; nothing arrives twice;
//! losses name as many points as are missing.

mod bounds;
mod files;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_series::{PointBatch, Value, decode_columns};
use farshore_trust::sealed::{Batch, DeviceKey};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::files::{Seen, SimFiles};
use crate::clock::Now;
use crate::config::{Backfill, Bounds, Class, Config, Overflow, StreamConfig};
use crate::core::{Core, Keys, LOSSES, Outgoing, Rows};
use crate::stream::StreamName;

const STREAMS: [&str; 4] = ["keep", "bounded", "newest", "alarms"];

fn config(random: &mut SmallRng) -> Config {
    let bounded = |overflow| StreamConfig {
        bounds: Bounds { bytes: 3_000, points: 60, age: Duration::MAX },
        overflow,
        ..StreamConfig::of(Class::Telemetry)
    };
    let name = |text: &str| -> StreamName { text.parse().unwrap() };
    Config {
        streams: vec![
            (name("keep"), StreamConfig { overflow: Overflow::Reject, ..StreamConfig::of(Class::Telemetry) }),
            (name("bounded"), bounded(Overflow::DropOldest)),
            (name("newest"), bounded(Overflow::DropNewest)),
            (name("alarms"), StreamConfig::of(Class::Alert)),
        ],
        segment_bytes: 700,
        max_bytes: 200_000,
        alert_reserve_bytes: 20_000,
        zstd_level: 1,
        backfill: if random.random_bool(0.5) { Backfill::Oldest } else { Backfill::Newest },
        ..Config::default()
    }
}

/// The other side: each batch once, by (stream, number).
#[derive(Debug, Default)]
struct Server {
    seen: BTreeMap<String, BTreeSet<u64>>,
    /// How often each value arrived, by stream.
    arrived: BTreeMap<String, BTreeMap<i64, u32>>,
    /// Points that losses name, by stream and reason.
    lost: BTreeMap<(String, String), i64>,
    /// Streams of which more was lost than can be counted.
    uncounted: BTreeSet<String>,
    duplicates: u64,
    /// Points that arrived in batches whose acknowledgement was lost: the device cannot know, and may name them lost.
    doubtful: BTreeMap<String, i64>,
}

impl Server {
    fn receive(&mut self, outgoing: &Outgoing, device: &DeviceKey) {
        let stream = outgoing.stream.as_str().to_owned();
        if !self.seen.entry(stream.clone()).or_default().insert(outgoing.sequence) {
            self.duplicates += 1;
            return;
        }
        let batch = Batch::read(&outgoing.bytes).unwrap();
        assert_eq!((batch.header().sequence, batch.header().epoch), (outgoing.sequence, outgoing.epoch));
        let columns = decode_columns(&batch.open_on_device(device).unwrap()).unwrap();
        assert_eq!(columns.len(), batch.header().points as usize);
        for (key, _, value) in columns.points() {
            let Value::Integer(value) = value else { panic!("only integers were sent") };
            if stream == LOSSES {
                if key.field() == "points" {
                    let of = (key.tag("stream").unwrap().to_owned(), key.tag("reason").unwrap().to_owned());
                    *self.lost.entry(of).or_default() += value;
                }
                if key.field() == "unknown_bytes" {
                    assert!(value > 0);
                    self.uncounted.insert(key.tag("stream").unwrap().to_owned());
                }
            } else {
                *self.arrived.entry(stream.clone()).or_default().entry(value).or_default() += 1;
            }
        }
    }
}

struct History {
    random: SmallRng,
    files: SimFiles,
    config: Config,
    core: Option<Core>,
    now: Now,
    next_value: i64,
    acknowledged: BTreeMap<&'static str, BTreeSet<i64>>,
    uncertain: BTreeMap<&'static str, BTreeSet<i64>>,
    server: Server,
    rotted: bool,
}

#[derive(Debug, Default)]
struct Coverage {
    seen: Seen,
    appends: u64,
    refused: u64,
    batches: u64,
    duplicates: u64,
    losses: BTreeMap<String, i64>,
    uncounted: u64,
}

impl History {
    fn device_key(&self) -> DeviceKey {
        let folder = KEY_FOLDER.with(|folder| folder.path().join("device.key"));
        DeviceKey::open_or_create(&folder).unwrap()
    }

    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let config = config(&mut random);
        Self {
            files: SimFiles::new(seed ^ 0x5eed),
            random,
            config,
            core: None,
            now: Now { wall_ns: 1_764_000_000_000_000_000, mono_ns: 1_000_000_000 },
            next_value: 0,
            acknowledged: BTreeMap::new(),
            uncertain: BTreeMap::new(),
            server: Server::default(),
            rotted: false,
        }
    }

    /// Opens the journal, through as many power cuts as come.
    fn open(&mut self) {
        while self.core.is_none() {
            if self.files.disk().dead {
                self.files.restart();
            }
            let keys = Keys::new(self.device_key(), None).unwrap();
            match Core::open(Arc::new(self.files.clone()), self.config.clone(), keys, [1; 16], self.now) {
                Ok(core) => self.core = Some(core),
                Err(error) => assert!(
                    self.files.disk().dead
                        || self.files.disk().capacity < u64::MAX
                        || self.files.disk().sync_fails > 0,
                    "{error:?}"
                ),
            }
            if self.core.is_none() && !self.files.disk().dead {
                // Nothing but room or luck was missing.
                self.heal();
            }
        }
    }

    fn heal(&mut self) {
        let mut disk = self.files.disk();
        disk.capacity = u64::MAX;
        disk.sync_fails = 0;
        disk.fuse = None;
    }

    fn crash_if_dead(&mut self) {
        if self.files.disk().dead {
            self.core = None;
            self.open();
        }
    }

    fn append(&mut self, coverage: &mut Coverage) {
        let mut group = Vec::new();
        let mut sent: Vec<(&'static str, Vec<i64>)> = Vec::new();
        // Now and then more at once than a stream with bounds keeps.
        let crowd =
            self.random.random_bool(0.05).then(|| STREAMS[self.random.random_range(0..STREAMS.len())]);
        let appends = if crowd.is_some() { 10..30 } else { 1..4 };
        for _ in 0..self.random.random_range(appends) {
            let stream = crowd.unwrap_or_else(|| STREAMS[self.random.random_range(0..STREAMS.len())]);
            let mut batch = PointBatch::new();
            let mut values = Vec::new();
            for _ in 0..self.random.random_range(1..8) {
                let series = batch.series("m", ["a", "b"][self.random.random_range(0..2)], []).unwrap();
                batch
                    .push(series, self.now.wall_ns + self.next_value, Value::Integer(self.next_value))
                    .unwrap();
                values.push(self.next_value);
                self.next_value += 1;
            }
            group.push(Rows::of(stream.parse().unwrap(), &batch).unwrap());
            sent.push((stream, values));
        }
        let answers = self.core.as_mut().unwrap().commit(self.now, &group);
        for ((stream, values), answer) in sent.into_iter().zip(answers) {
            coverage.appends += 1;
            let into = if answer.is_ok() {
                &mut self.acknowledged
            } else {
                coverage.refused += 1;
                &mut self.uncertain
            };
            into.entry(stream).or_default().extend(values);
        }
    }

    fn seal(&mut self) {
        let core = self.core.as_mut().unwrap();
        core.maintain(self.now);
        if let Some(job) = core.seal_job(&HashSet::new())
            && let Ok(made) = job.run(self.now)
        {
            // An error leaves the segment where it is; the next attempt takes it up.
            let _ = core.finish_seal(self.now, &job, made);
        }
    }

    fn send(&mut self, coverage: &mut Coverage) {
        let device = self.device_key();
        let core = self.core.as_mut().unwrap();
        let Ok(Some(outgoing)) = core.next_batch(self.now, u64::MAX) else { return };
        coverage.batches += 1;
        match self.random.random_range(0..4) {
            // It never arrives.
            0 => core.release(&outgoing.stream, outgoing.sequence),
            // It arrives, and the acknowledgement does not.
            1 => {
                self.server.receive(&outgoing, &device);
                let points = i64::from(outgoing.points);
                *self.server.doubtful.entry(outgoing.stream.as_str().to_owned()).or_default() += points;
                core.release(&outgoing.stream, outgoing.sequence);
            }
            _ => {
                self.server.receive(&outgoing, &device);
                if core.acknowledge(self.now, &outgoing.stream, outgoing.sequence).is_err() {
                    let points = i64::from(outgoing.points);
                    *self.server.doubtful.entry(outgoing.stream.as_str().to_owned()).or_default() += points;
                }
            }
        }
    }

    fn reconnect(&mut self) {
        let core = self.core.as_mut().unwrap();
        core.release_all();
        for (stream, seen) in &self.server.seen {
            let seen: Vec<(u64, u64)> = seen.iter().map(|number| (*number, *number)).collect();
            let mark = core.peer_mark(self.now, &stream.parse().unwrap(), 0, &seen);
            assert!(!matches!(mark, Ok(crate::core::PeerMark::Ahead)), "a number was used twice in {stream}");
        }
    }

    fn step(&mut self, coverage: &mut Coverage) {
        self.now.mono_ns += 1_000_000_000;
        // Clocks jump.
        self.now.wall_ns += if self.random.random_bool(0.02) { -3_600_000_000_000 } else { 1_000_000_000 };
        match self.random.random_range(0..100) {
            0..45 => self.append(coverage),
            45..65 => self.seal(),
            65..80 => self.send(coverage),
            80..84 => self.reconnect(),
            84..90 => {
                let fuse = self.random.random_range(0..12);
                self.files.disk().fuse = Some(fuse);
            }
            90..92 => {
                self.files.disk().dead = true;
            }
            92..94 => {
                let room = self.random.random_range(0..2_000);
                let mut disk = self.files.disk();
                disk.capacity = if disk.capacity == u64::MAX { disk.used_now() + room } else { u64::MAX };
            }
            94..96 => {
                let mut disk = self.files.disk();
                disk.sync_fails = if disk.sync_fails == 0 { 4 } else { 0 };
            }
            96..97 => {
                self.files.disk().dead = true;
                self.crash_if_dead();
                let losses = format!("streams/{}", LOSSES.replace('/', "+"));
                let of = |name: &str| name.starts_with("streams/") && !name.starts_with(&losses);
                // One bit, or both marks of a frame: then its points can't even be counted.
                self.rotted |= if self.random.random_bool(0.3) {
                    self.files.rot_both(of, crate::frame::marks)
                } else {
                    self.files.rot(of)
                };
                self.files.disk().dead = true;
            }
            _ => self.heal(),
        }
        self.crash_if_dead();
    }

    /// The disk is well again and the link is up: everything arrives.
    fn finish(&mut self) {
        self.heal();
        self.core = None;
        self.open();
        let device = self.device_key();
        let core = self.core.as_mut().unwrap();
        for _ in 0..1_000 {
            core.maintain(self.now);
            core.close_segments();
            let mut sealed = false;
            while let Some(job) = core.seal_job(&HashSet::new()) {
                let made = job.run(self.now).unwrap();
                core.finish_seal(self.now, &job, made).unwrap();
                sealed = true;
            }
            let Some(outgoing) = core.next_batch(self.now, u64::MAX).unwrap() else {
                // A damaged batch that was set aside has left a loss to be told.
                if sealed || core.stats().pending_points() > 0 {
                    continue;
                }
                break;
            };
            self.server.receive(&outgoing, &device);
            core.acknowledge(self.now, &outgoing.stream, outgoing.sequence).unwrap();
        }
        assert_eq!(core.stats().pending_points(), 0, "something is stuck");
    }

    fn check(&self) {
        let empty = BTreeMap::new();
        let none = BTreeSet::new();
        for stream in STREAMS {
            let arrived = self.server.arrived.get(stream).unwrap_or(&empty);
            let acknowledged = self.acknowledged.get(stream).unwrap_or(&none);
            let uncertain = self.uncertain.get(stream).unwrap_or(&none);
            for (value, times) in arrived {
                assert_eq!(*times, 1, "{stream}: {value} has arrived {times} times");
                assert!(
                    acknowledged.contains(value) || uncertain.contains(value),
                    "{stream}: {value} was never sent"
                );
            }
            let missing = acknowledged.iter().filter(|value| !arrived.contains_key(value)).count() as i64;
            let unsure = uncertain.iter().filter(|value| !arrived.contains_key(value)).count() as i64;
            let doubtful = self.server.doubtful.get(stream).copied().unwrap_or(0);
            let lost = |torn: bool| -> i64 {
                let of = |((name, reason), points): (&(String, String), &i64)| {
                    (name == stream && (torn || reason != "torn-tail")).then_some(*points)
                };
                self.server.lost.iter().filter_map(of).sum()
            };
            // The end of a segment may be lost to rot; otherwise what is torn was never acknowledged.
            let named = lost(self.rotted);
            let uncounted = self.rotted && self.server.uncounted.contains(stream);
            assert!(
                missing <= named || uncounted,
                "{stream}: {missing} acknowledged points are missing, losses name {named}"
            );
            assert!(
                lost(false) <= missing + unsure + doubtful,
                "{stream}: losses name {} points, {missing}, perhaps {unsure} and {doubtful} are missing",
                lost(false)
            );
        }
        if !self.rotted {
            let fitting = |name: &str, reason: &str| match name {
                _ if reason == "torn-tail" => true,
                "bounded" => reason == "drop-oldest",
                "newest" => reason == "drop-newest",
                _ => false,
            };
            let others: Vec<_> =
                self.server.lost.keys().filter(|(name, reason)| !fitting(name, reason)).collect();
            assert!(
                others.is_empty(),
                "lost on a disk that keeps what it has, against the stream's settings: {others:?}"
            );
        }
    }
}

thread_local! {
    static KEY_FOLDER: tempfile::TempDir = tempfile::tempdir().unwrap();
}

fn live_through(seeds: std::ops::Range<u64>) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut of_this = Coverage::default();
            let mut history = History::new(seed);
            history.open();
            for _ in 0..history.random.random_range(10..60) {
                history.step(&mut of_this);
            }
            history.finish();
            history.check();
            let disk = history.files.disk();
            of_this.seen = disk.seen;
            of_this.duplicates = history.server.duplicates;
            of_this.uncounted = history.server.uncounted.len() as u64;
            for ((_, reason), points) in &history.server.lost {
                *of_this.losses.entry(reason.clone()).or_default() += points;
            }
            of_this
        });
        let Ok(of_this) = result else { panic!("history {seed} went wrong") };
        coverage.appends += of_this.appends;
        coverage.refused += of_this.refused;
        coverage.batches += of_this.batches;
        coverage.duplicates += of_this.duplicates;
        coverage.uncounted += of_this.uncounted;
        coverage.seen.crashes += of_this.seen.crashes;
        coverage.seen.torn += of_this.seen.torn;
        coverage.seen.names_lost += of_this.seen.names_lost;
        coverage.seen.syncs_failed += of_this.seen.syncs_failed;
        coverage.seen.full += of_this.seen.full;
        coverage.seen.flips += of_this.seen.flips;
        coverage.seen.holes += of_this.seen.holes;
        coverage.seen.rooms += of_this.seen.rooms;
        for (reason, points) in of_this.losses {
            *coverage.losses.entry(reason).or_default() += points;
        }
    }
    coverage
}

/// Four quarters, so that they run side by side. `FARSHORE_TEST_LONG` has two hundred thousand histories, or as many as it says.
fn quarter(index: u64) {
    let many = match std::env::var("FARSHORE_TEST_LONG") {
        Ok(count) => count.parse().ok().filter(|count| *count >= 1_000).unwrap_or(200_000) / 4,
        Err(_) => 1_000,
    };
    let coverage = live_through(index * many..(index + 1) * many);
    eprintln!("{coverage:#?}");
    // A test that never meets what it is for proves nothing.
    assert!(coverage.seen.crashes > many, "power cuts");
    assert!(coverage.seen.torn > many / 10, "torn writes");
    assert!(coverage.seen.names_lost > many / 10, "lost names");
    assert!(coverage.seen.syncs_failed > many / 10, "failed syncs");
    assert!(coverage.seen.full > many / 10, "full disks");
    assert!(coverage.seen.flips > many / 10, "flipped bits");
    assert!(coverage.seen.holes > many / 10, "later blocks without earlier ones");
    assert!(coverage.seen.rooms > many / 10, "room that was not filled");
    assert!(coverage.duplicates > many / 10, "batches that came twice");
    assert!(coverage.uncounted > many / 100, "losses that can't be counted");
    for reason in ["drop-oldest", "drop-newest", "corrupt", "torn-tail"] {
        assert!(coverage.losses.contains_key(reason), "losses by {reason}");
    }
}

#[test]
fn acknowledged_points_arrive_once_or_are_named_in_histories_1() {
    quarter(0);
}

#[test]
fn acknowledged_points_arrive_once_or_are_named_in_histories_2() {
    quarter(1);
}

#[test]
fn acknowledged_points_arrive_once_or_are_named_in_histories_3() {
    quarter(2);
}

#[test]
fn acknowledged_points_arrive_once_or_are_named_in_histories_4() {
    quarter(3);
}
