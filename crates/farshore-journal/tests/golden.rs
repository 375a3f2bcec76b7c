//! Journals and batches of earlier versions open for ever. What lies under `tests/golden/` is never written again.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use farshore_journal::{AtRest, Config, Journal, PointBatch, StreamName, Value, points_of};
use farshore_trust::sealed::{Batch, IngestKey};

const INGEST_KEY: [u8; 32] = [7; 32];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn stream(name: &str) -> StreamName {
    name.parse().unwrap()
}

fn every_kind() -> PointBatch {
    let mut batch = PointBatch::new();
    let values = [
        ("float", Value::Float(21.37)),
        ("float", Value::Float(f64::from_bits(0x7ff8_0000_0000_0001))),
        ("float", Value::Float(-0.0)),
        ("integer", Value::Integer(i64::MIN)),
        ("flag", Value::Boolean(true)),
        ("text", Value::Text("grün".into())),
        ("json", Value::Json("{\"a\": [1, 2.50]}".into())),
    ];
    for (at_ns, (field, value)) in (1_764_000_000_000_000_000..).step_by(1_000_000).zip(values) {
        let series = batch.series("kinds", field, [("room", "12"), ("floor", "2")]).unwrap();
        batch.push(series, at_ns, value).unwrap();
    }
    batch
}

fn shown(points: &PointBatch) -> Vec<String> {
    let mut shown: Vec<String> = points
        .points()
        .map(|(key, at_ns, value)| {
            let bits = if let Value::Float(number) = value { number.to_bits() } else { 0 };
            format!("{key} {at_ns} {value:?} {bits:x}")
        })
        .collect();
    shown.sort();
    shown
}

/// The files, with the key as only its owner may read it: git does not keep that.
fn copy() -> tempfile::TempDir {
    fn copy_into(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_into(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), &to).unwrap();
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy_into(&golden(), folder.path());
    folder
}

#[test]
fn a_journal_of_version_1_opens_with_every_bit() {
    let folder = copy();
    let rest = AtRest::open(folder.path()).unwrap();
    let parts = rest.parts().unwrap();
    let names: Vec<(&str, u64)> = parts.iter().map(|part| (part.stream.as_str(), part.sequence)).collect();
    assert_eq!(names, [("data/golden", 1), ("data/golden", 2)]);
    for part in &parts {
        let contents = rest.contents(part).unwrap().unwrap();
        assert_eq!(contents.faults, [], "{}", part.file);
        let mut expected = every_kind();
        if part.sequence == 2 {
            // Two frames of a segment.
            expected.extend(&every_kind()).unwrap();
        }
        assert_eq!(shown(&contents.points), shown(&expected), "{}", part.file);
    }
    assert_eq!(rest.epoch().unwrap(), Some(epoch()));
    drop(rest);
    let journal = Journal::open(folder.path(), Config::default()).unwrap();
    assert_eq!(journal.stats().pending_points(), 21);
    assert_eq!(journal.append(&stream("data/golden"), &every_kind()).wait().unwrap().sequence, 3);
    journal.seal_all().unwrap();
    let mut delivered = 0;
    while let Some(outgoing) = journal.next_batch(u64::MAX).unwrap() {
        delivered += outgoing.points;
        journal.acknowledge(&outgoing.stream, outgoing.sequence).unwrap();
    }
    assert_eq!(delivered, 28);
}

fn epoch() -> u64 {
    u64::from_str_radix(fs::read_to_string(golden().join("epoch")).unwrap().trim(), 16).unwrap()
}

#[test]
fn a_batch_of_version_1_opens_for_the_tenant_and_says_what_it_is() {
    let folder = golden().join("streams/data+golden");
    let path = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "batch"))
        .unwrap();
    let bytes = fs::read(path).unwrap();
    assert!(bytes.starts_with(b"FSB1"));
    assert_eq!(farshore_journal::batch_length(&bytes).unwrap(), Some(bytes.len()));
    let batch = Batch::read(&bytes).unwrap();
    let header = batch.header();
    assert_eq!((header.class, header.thinned, header.epoch), (2, false, epoch()));
    assert_eq!((header.stream.as_str(), header.sequence, header.points), ("data/golden", 1, 7));
    assert_eq!(header.earliest_ns, 1_764_000_000_000_000_000);
    assert_eq!(header.latest_ns, 1_764_000_000_006_000_000);
    let contents = batch.open(&IngestKey::from_bytes(INGEST_KEY)).unwrap();
    assert_eq!(shown(&points_of(&contents).unwrap()), shown(&every_kind()));
}

/// Writes the files of a new version. Only for a new version: existing files must never change.
/// `cargo test -p farshore-journal --test golden -- --ignored write_golden`
#[test]
#[ignore = "writes files of the repository"]
fn write_golden() {
    assert!(!golden().exists(), "golden files are never written again");
    let ingest_key = Some(IngestKey::from_bytes(INGEST_KEY).public());
    let journal = Journal::open(golden(), Config { ingest_key, ..Config::default() }).unwrap();
    journal.append(&stream("data/golden"), &every_kind()).wait().unwrap();
    journal.seal_all().unwrap();
    journal.append(&stream("data/golden"), &every_kind()).wait().unwrap();
    journal.append(&stream("data/golden"), &every_kind()).wait().unwrap();
    journal.close();
    fs::remove_file(golden().join("lock")).unwrap();
}
