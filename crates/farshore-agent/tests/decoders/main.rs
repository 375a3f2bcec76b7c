//! Broken input for every decoder that reads foreign bytes: the corpus of `fuzz/`, and seeded changes of it, through the very functions that `cargo xtask fuzz`
//! runs. Bounded: a few seconds each; `FARSHORE_TEST_LONG=1` changes twenty times as often.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

#[expect(unreachable_pub, reason = "in fuzz/ it is a module of a library")]
#[path = "../../../../fuzz/src/targets/mod.rs"]
mod targets;

use std::path::Path;
use std::time::{Duration, Instant};

use farshore_journal::{PointBatch, Value};

use targets::TARGETS;

/// Changes of each corpus.
const ROUNDS: usize = 3_000;
/// A single input takes no longer, on a busy machine without optimisations.
const PATIENCE: Duration = Duration::from_secs(10);
/// The process never takes more, whatever it reads.
const MAX_RESIDENT_KB: u64 = 400 * 1024;

/// Small, seeded, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end.max(1)
    }

    /// One to four changes: a byte set, a piece taken out, doubled, or put in from another input; the end cut off.
    fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let (from, length) = (self.below(input.len() + 1), self.below(24));
            let to = (from + length).min(input.len());
            match self.below(6) {
                0 if from < input.len() => input[from] = u8::try_from(self.below(256)).expect("a byte"),
                1 if from < input.len() => input[from] ^= 1 << self.below(8),
                2 => drop(input.drain(from..to)),
                3 => {
                    let piece = input[from..to].to_vec();
                    input.splice(from..from, piece.repeat(1 + self.below(20)));
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let at = self.below(other.len() + 1);
                    input.splice(from..to, other[at..(at + length).min(other.len())].iter().copied());
                }
                _ => input.truncate(from),
            }
        }
        input
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    // In the same order everywhere: the changes are the same, too.
    files.sort();
    let mut corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("a file")).collect();
    if name == "rows" {
        corpus.push(good_rows());
    }
    assert!(corpus.len() > 1, "{name} has no corpus");
    corpus
}

fn good_rows() -> Vec<u8> {
    let mut batch = PointBatch::new();
    let series = batch.series("temp", "value", [("room", "12")]).expect("a series");
    let text = batch.series("state", "", []).expect("a series");
    for at in 0..20 {
        batch.push(series, at * 1_000, Value::Float(21.5)).expect("a point");
        batch.push(text, -at, Value::Text("open".to_owned())).expect("a point");
    }
    let mut rows = Vec::new();
    batch.write_rows(&mut rows);
    rows
}

/// The most memory that this process ever had.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn holds(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let long = std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1");
    let corpus = corpus(name);
    let slow = name == "packed_bodies";
    let rounds = ROUNDS * if long { 20 } else { 1 } / if slow { 20 } else { 1 };
    let mut random = Random(7);
    let changed = (0..rounds).map(|_| random.change(&corpus));
    let mut worst = Duration::ZERO;
    for input in corpus.iter().cloned().chain(changed) {
        let begun = Instant::now();
        let kept = input.clone();
        let ended = std::panic::catch_unwind(move || target(&input));
        assert!(
            ended.is_ok(),
            "{name} can't bear {:?}",
            String::from_utf8_lossy(&kept[..kept.len().min(2_000)])
        );
        worst = worst.max(begun.elapsed());
    }
    assert!(worst < PATIENCE, "{name}: one input took {worst:?}");
    let peak = peak_kb();
    eprintln!(
        "{name}: {rounds} changes of {} inputs, the slowest took {worst:?}, peak {peak} kB",
        corpus.len()
    );
    assert!(peak < MAX_RESIDENT_KB, "{name} took {peak} kB");
}

/// A test for each target, so that each is a process of its own, with a peak of its own.
macro_rules! each {
    ($($name:ident),* $(,)?) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            holds(stringify!($name));
        })*
    };
}

each!(
    json_points,
    line_protocol,
    mqtt_packets,
    otlp_json,
    otlp_protobuf,
    packed_bodies,
    blocks,
    columns,
    rows,
    segments,
    batches,
    sync_frames,
    channel_frames,
    env_file,
    gateway_keys,
    summaries,
    recordings,
    pipelines,
    resolvers,
    documents,
    manifests,
    signatures,
    schedules,
    selectors,
);

#[test]
fn every_target_is_tested_and_has_a_program() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} has no program");
        let program = std::fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs")));
        assert!(program.expect("a program").contains(&format!("farshore_fuzz::run(\"{name}\", data)")));
    }
}
