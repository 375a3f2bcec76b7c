//! A journal by hand: damaged, checked, mended, taken out and put back.

use std::fs;
use std::path::{Path, PathBuf};

use farshore_gateway::by_hand::{ByHandError, Form, check, export, import, inspect};
use farshore_journal::{AtRest, Config, Journal, JournalError, PointBatch, StreamName, Value};

fn name(text: &str) -> StreamName {
    text.parse().expect("a name")
}

fn numbers(first: i64, count: i64) -> PointBatch {
    let mut batch = PointBatch::new();
    let series = batch.series("temp", "value", [("room", "a"), ("floor", "2")]).expect("a series");
    for number in first..first + count {
        let at_ns = 1_760_000_000_000_000_000 + number * 1_000_000_000;
        batch.push(series, at_ns, Value::Integer(number)).expect("room");
    }
    batch
}

fn every_kind() -> PointBatch {
    let mut batch = PointBatch::new();
    let values = [
        Value::Float(0.1 + 0.2),
        Value::Float(-0.0),
        Value::Float(5e-324),
        Value::Float(f64::from_bits(0x7ff8_0000_0000_0001)),
        Value::Float(f64::NEG_INFINITY),
        Value::Integer(i64::MIN),
        Value::Boolean(true),
        Value::Text("grün \"und\" \u{1f600}\n".into()),
        Value::Json("{\"a\": [1, 2.50]}".into()),
    ];
    for (at, value) in (1_760_000_000_000_000_000..).zip(values) {
        let series = batch.series("kinds", "", []).expect("a series");
        batch.push(series, at, value).expect("room");
    }
    batch
}

/// `data/a`: a batch of 300 points, and a segment of two frames with 50 each. `data/b`: a segment with every kind of value.
fn journal() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal");
    let journal = Journal::open(&path, Config::default()).expect("a journal");
    for first in [0, 100, 200] {
        journal.append(&name("data/a"), &numbers(first, 100)).wait().expect("durable");
    }
    journal.seal_all().expect("sealed");
    for first in [300, 350] {
        journal.append(&name("data/a"), &numbers(first, 50)).wait().expect("durable");
    }
    journal.append(&name("data/b"), &every_kind()).wait().expect("durable");
    journal.close();
    (folder, path)
}

fn file(journal: &Path, stream: &str, ending: &str) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(journal.join("streams").join(stream))
        .expect("a stream")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .filter(|path| fs::metadata(path).expect("metadata").len() > 200)
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn flip(path: &Path, places: &[usize]) {
    let mut bytes = fs::read(path).expect("read");
    for at in places {
        bytes[*at] ^= 0x10;
    }
    fs::write(path, bytes).expect("written");
}

/// Every point, as text that shows every bit, sorted.
fn points(journal: &Path) -> Vec<String> {
    let rest = AtRest::open(journal).expect("a journal");
    let mut points = Vec::new();
    for part in rest.parts().expect("parts") {
        let contents = rest.contents(&part).expect("read").expect("there");
        for (key, at_ns, value) in contents.points.points() {
            let bits = if let Value::Float(number) = value { number.to_bits() } else { 0 };
            points.push(format!("{} {key} {at_ns} {value:?} {bits:x}", part.stream));
        }
    }
    points.sort();
    points
}

#[test]
fn inspect_says_what_is_there_also_while_it_is_in_use() {
    let (_folder, path) = journal();
    let _in_use = Journal::open(&path, Config::default()).expect("a journal");
    let inspection = inspect(&path).expect("a journal");
    let stream = &inspection.streams["data/a"];
    assert_eq!((stream.batches, stream.points), (1, 400));
    assert_eq!(stream.earliest_ns, Some(1_760_000_000_000_000_000));
    assert_eq!(stream.latest_ns, Some(1_760_000_399_000_000_000));
    assert_eq!(inspection.streams["data/b"].points, 9);
    let text = inspection.text();
    assert!(text.contains("data/a: 400 points in ") && text.contains("2025-10-09T08:53:20Z"), "{text}");
    let nothing = tempfile::tempdir().expect("a folder");
    let error = inspect(nothing.path()).expect_err("no journal");
    assert!(matches!(error, ByHandError::Journal(JournalError::NoJournal { .. })), "{error}");
}

#[test]
fn a_sound_journal_is_sound_and_nothing_is_changed() {
    let (_folder, path) = journal();
    let before = points(&path);
    let checked = check(&path, false).expect("checked");
    assert!(checked.is_sound() && checked.mended.is_empty(), "{}", checked.text());
    assert_eq!(checked.points, 409);
    let checked = check(&path, true).expect("checked");
    assert!(checked.is_sound() && checked.mended.is_empty(), "{}", checked.text());
    assert_eq!(points(&path), before);
}

#[test]
fn damage_is_found_set_aside_and_put_on_record() {
    let (_folder, path) = journal();
    let batch = file(&path, "data+a", ".batch");
    flip(&batch, &[fs::metadata(&batch).expect("metadata").len() as usize / 2]);
    let segment = file(&path, "data+a", ".open");
    // The payload of the first frame: behind the segment's head (100 bytes) and the frame's header (44).
    flip(&segment, &[160]);
    fs::write(path.join("streams/data+a/0000000000000009.new"), b"half").expect("written");
    fs::write(path.join("streams/data+a/readme"), b"?").expect("written");
    let checked = check(&path, false).expect("checked");
    assert!(!checked.is_sound());
    let lost: u64 = checked.damaged.iter().map(|fault| fault.points).sum();
    assert_eq!((checked.damaged.len(), lost, checked.told.len()), (2, 350, 2), "{}", checked.text());
    assert_eq!(checked.points, 59);

    let in_use = Journal::open(&path, Config::default()).expect("a journal");
    let error = check(&path, true).expect_err("in use");
    assert!(matches!(error, ByHandError::Journal(JournalError::InUse { .. })), "{error}");
    drop(in_use);

    let checked = check(&path, true).expect("checked");
    assert!(checked.is_sound(), "{}", checked.text());
    assert_eq!(checked.mended.iter().map(|fault| fault.points).sum::<u64>(), 350);
    let inspection = inspect(&path).expect("a journal");
    assert_eq!(inspection.quarantine.len(), 2);
    let losses: Vec<(&str, i64)> =
        inspection.losses.iter().map(|loss| (loss.reason.as_str(), loss.fields["points"])).collect();
    assert_eq!(losses.len(), 2);
    assert!(losses.contains(&("corrupt-batch", 300)) && losses.contains(&("corrupt", 50)), "{losses:?}");
    assert!(
        inspection.text().contains("lost (corrupt-batch): 300 points of data/a"),
        "{}",
        inspection.text()
    );
    // What was not damaged is still there, and the journal works.
    let journal = Journal::open(&path, Config::default()).expect("a journal");
    let stats = journal.stats();
    assert_eq!(stats.streams[&name("data/a")].pending_points, 50);
    assert!(journal.append(&name("data/a"), &numbers(0, 1)).wait().expect("durable").sequence > 2);
}

#[test]
fn a_last_frame_without_header_and_trailer_is_counted_in_bytes() {
    let (_folder, path) = journal();
    let segment = file(&path, "data+a", ".open");
    let length = fs::metadata(&segment).expect("metadata").len() as usize;
    let frame = (length - 100) / 2;
    // Both frames have the same length but for a byte or two; places within header and trailer.
    flip(&segment, &[100 + frame + 12, length - 20]);
    let checked = check(&path, true).expect("checked");
    assert!(checked.is_sound(), "{}", checked.text());
    let fault = &checked.mended[0];
    assert!(fault.points == 0 && fault.unknown_bytes > 100, "{}", checked.text());
    let inspection = inspect(&path).expect("a journal");
    let loss = &inspection.losses[0];
    assert_eq!((loss.stream.as_str(), loss.fields["points"]), ("data/a", 0));
    assert!(loss.fields["unknown_bytes"] > 100);
    // Taken no sooner than what is left of the segment, and no later than now.
    assert_eq!(loss.fields["earliest_ns"], 1_760_000_300_000_000_000);
    assert!(loss.fields["latest_ns"] > loss.fields["earliest_ns"]);
    assert_eq!(inspection.streams["data/a"].points, 350);
}

#[test]
fn without_its_key_a_journal_is_not_repaired() {
    let (_folder, path) = journal();
    fs::rename(path.join("device.key"), path.join("elsewhere")).expect("moved");
    let checked = check(&path, false).expect("checked");
    assert!(!checked.is_sound() && checked.text().contains("device.key"), "{}", checked.text());
    let error = check(&path, true).expect_err("no key");
    assert!(matches!(error, ByHandError::Journal(JournalError::NoKey { .. })), "{error}");
    assert!(!path.join("device.key").exists(), "a new key would open nothing");
    // With another device's key, what is sealed is told and not thrown away.
    drop(farshore_trust::sealed::DeviceKey::open_or_create(&path.join("device.key")).expect("a key"));
    let checked = check(&path, false).expect("checked");
    assert!(checked.told.iter().any(|fault| fault.what.contains("another device")), "{}", checked.text());
}

#[test]
fn what_was_exported_comes_back_with_every_bit_in_a_new_epoch() {
    for form in [Form::Points, Form::Batches] {
        let (folder, path) = journal();
        let out = folder.path().join("export");
        let exported = export(&path, form, &[], &out).expect("exported");
        assert_eq!((exported.points, exported.damaged_points), (409, 0), "{form:?}");
        assert_eq!(exported.bytes, fs::metadata(&out).expect("metadata").len());
        assert!(
            matches!(export(&path, form, &[], &out), Err(ByHandError::File { .. })),
            "it is there already"
        );
        let other = folder.path().join("other");
        let key = path.join("device.key");
        if form == Form::Batches {
            let error = import(&other, &out, None).expect_err("another key");
            assert!(matches!(error, ByHandError::OtherKey { .. }), "{error}");
        }
        let imported = import(&other, &out, Some(&key)).expect("imported");
        assert_eq!((imported.points, imported.left_out), (409, 0));
        assert_eq!(points(&other), points(&path), "{form:?}");
        // Back into the journal itself: new numbers, a new life.
        let before = inspect(&path).expect("a journal").epoch;
        let again = import(&path, &out, None).expect("imported");
        let after = inspect(&path).expect("a journal");
        assert!(after.epoch != before && after.epoch.as_deref() == Some(again.epoch.as_str()));
        assert_eq!(after.streams["data/a"].points, 800);
    }
}

#[test]
fn one_stream_alone_and_losses_stay_where_they_happened() {
    let (folder, path) = journal();
    let batch = file(&path, "data+a", ".batch");
    flip(&batch, &[300]);
    check(&path, true).expect("repaired");
    let out = folder.path().join("points");
    let exported = export(&path, Form::Points, &[name("data/b")], &out).expect("exported");
    assert_eq!(exported.points, 9);
    let all = folder.path().join("all");
    export(&path, Form::Batches, &[], &all).expect("exported");
    let other = folder.path().join("other");
    let imported = import(&other, &all, Some(&path.join("device.key"))).expect("imported");
    assert_eq!((imported.points, imported.left_out), (109, 4));
}

#[test]
fn what_is_no_export_is_refused_with_its_place() {
    let (folder, path) = journal();
    let out = folder.path().join("export");
    export(&path, Form::Batches, &[], &out).expect("exported");
    let whole = fs::read(&out).expect("read");
    let other = folder.path().join("other");
    let refused = |bytes: &[u8], part: &str| {
        fs::write(&out, bytes).expect("written");
        let error = import(&other, &out, Some(&path.join("device.key"))).expect_err("no export");
        assert!(matches!(&error, ByHandError::NoExport { what, .. } if what.contains(part)), "{error}");
    };
    refused(&whole[..whole.len() - 1], "ends early");
    refused(&whole[..10], "batch 1 of it ends early");
    refused(b"FSB1\xff\xff\xff", "impossible length");
    let mut flipped = whole.clone();
    flipped[400] ^= 1;
    refused(&flipped, "checksum");
    refused(b"hello\n", "line 1");
    refused(b"", "it is empty");
    refused(b"\n \n", "it has no point");
    refused(b"\n{\"stream\":\"../x\",\"measurement\":\"m\",\"field\":\"\",\"time_ns\":1,\"kind\":\"float\",\"value\":1}", "line 2");
    refused(b"{\"stream\":\"a\",\"measurement\":\"m\",\"field\":\"\",\"time_ns\":1,\"kind\":\"integer\",\"value\":1.5}", "whole number");
}
