//! What each decoder must hold to, whatever it is given: it ends, it does not panic, and what it gives is no more than was sent.
//!
//! `cargo xtask fuzz NAME` looks for input that breaks this; the ordinary tests run the same functions on the corpus and on seeded changes of it.
//! Here are the forms that machines write; [`written`] has those that people write, and what is signed.

mod written;

use farshore_gateway::decode::body::{Encoding, unpack};
use farshore_gateway::decode::{Precision, json, line, otlp};
use farshore_gateway::limits::{MAX_BODY_BYTES, MAX_UNPACKED_BYTES};
use farshore_gateway::mqtt::codec::{Version, decode as decode_mqtt, decode_large};
use farshore_gateway::sync::SyncAnswer;
use farshore_journal::{PointBatch, StreamName};
use farshore_protocol::{AgentFrame, ServerFrame};
use farshore_trust::sealed::{Batch, DeviceKey, IngestKey};
use farshore_trust::token::{ClaimToken, GatewayKey};

/// A decoder under test.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("json_points", json_points),
    ("line_protocol", line_protocol),
    ("mqtt_packets", mqtt_packets),
    ("otlp_json", otlp_json),
    ("otlp_protobuf", otlp_protobuf),
    ("packed_bodies", packed_bodies),
    ("blocks", blocks),
    ("columns", columns),
    ("rows", rows),
    ("segments", segments),
    ("batches", batches),
    ("sync_frames", sync_frames),
    ("channel_frames", channel_frames),
    ("env_file", env_file),
    ("gateway_keys", gateway_keys),
    ("summaries", summaries),
    ("recordings", written::recordings),
    ("pipelines", written::pipelines),
    ("resolvers", written::resolvers),
    ("documents", written::documents),
    ("manifests", written::manifests),
    ("signatures", written::signatures),
    ("schedules", written::schedules),
    ("selectors", written::selectors),
];

/// `POST /api/data`, and MQTT messages that look like it.
pub fn json_points(data: &[u8]) {
    let mut points = 0;
    let outcome = json::decode(data, &mut |point| {
        points += 1;
        assert!(!point.measurement.is_empty() && !point.fields.is_empty());
        Ok(())
    });
    assert_eq!(points, outcome.accepted);
    assert!(outcome.accepted <= data.len() && outcome.told.len() <= data.len() + 1);
}

/// `POST /api/v2/write`.
pub fn line_protocol(data: &[u8]) {
    for precision in [Precision::Nanoseconds, Precision::Seconds] {
        let mut points = 0;
        let outcome = line::decode(data, precision, &mut |_| {
            points += 1;
            Ok(())
        });
        assert_eq!(points, outcome.accepted);
        assert!(outcome.accepted + outcome.rejected <= data.len() + 1);
    }
}

/// What comes over an MQTT connection, in both versions.
pub fn mqtt_packets(data: &[u8]) {
    for version in [Version::V311, Version::V5] {
        let mut rest = data;
        while let Ok(Some((_, length))) = decode_mqtt(rest, version) {
            assert!((1..=rest.len()).contains(&length), "it goes on, and not beyond the end");
            rest = &rest[length..];
        }
    }
    // What is too large is passed over before all of it is there: its length may lie beyond the end.
    if let Ok(Some((_, length))) = decode_large(data) {
        assert!(length > 0, "it goes on");
    }
}

fn otlp(data: &[u8], protobuf: bool) {
    let mut points = 0;
    let mut sink = |_: &farshore_gateway::Point<'_>| {
        points += 1;
        Ok(())
    };
    let result =
        if protobuf { otlp::decode_protobuf(data, &mut sink) } else { otlp::decode_json(data, &mut sink) };
    assert!(points <= data.len(), "{points} points from {} bytes", data.len());
    if let Ok(outcome) = result {
        assert_eq!(points, outcome.accepted);
    }
}

/// OTLP as JSON.
pub fn otlp_json(data: &[u8]) {
    otlp(data, false);
}

/// OTLP as protobuf.
pub fn otlp_protobuf(data: &[u8]) {
    otlp(data, true);
}

/// gzip, deflate and zstd bodies, bombs among them.
pub fn packed_bodies(data: &[u8]) {
    if data.len() > MAX_BODY_BYTES {
        return;
    }
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        if let Ok(plain) = unpack(data, encoding) {
            assert!(plain.len() <= MAX_UNPACKED_BYTES);
        }
    }
}

/// Blocks of measurements, as agents send them.
pub fn blocks(data: &[u8]) {
    if let Ok(block) = farshore_series::decode(data) {
        block.check().expect("what is decoded is whole");
    }
}

/// Points in columns: what a batch holds.
pub fn columns(data: &[u8]) {
    if let Ok(columns) = farshore_series::decode_columns(data) {
        assert_eq!(columns.points().count(), columns.len());
    }
}

/// Hourly summaries, and the keys of series in them.
pub fn summaries(data: &[u8]) {
    if let Ok(summaries) = farshore_series::decode_summaries(data) {
        let bytes = farshore_series::encode_summaries(&summaries).expect("what was read can be written");
        let again = farshore_series::decode_summaries(&bytes).expect("what was written can be read");
        assert_eq!(again.len(), summaries.len());
    }
    if let Ok(key) = farshore_series::SeriesKey::from_bytes(data) {
        assert!(key.measurement().len() <= data.len());
    }
}

/// Points in rows: what a segment's frames hold.
pub fn rows(data: &[u8]) {
    let mut batch = PointBatch::new();
    if batch.read_rows(data).is_ok() {
        let mut bytes = Vec::new();
        batch.write_rows(&mut bytes);
        let mut again = PointBatch::new();
        again.read_rows(&bytes).expect("what was read can be written and read again");
        assert_eq!(again.len(), batch.len());
    }
}

/// The frames of a segment, as a crash or a bad disk leaves them. Checksums are made to hold, or nothing would come behind them.
pub fn segments(data: &[u8]) {
    const MARK: usize = 44;
    let look = farshore_journal::look_at_segment(data);
    assert!(look.unknown_bytes <= data.len() as u64);
    let mut bytes = data.to_vec();
    for at in 0..bytes.len().saturating_sub(MARK) {
        let Some(mark) = bytes.get_mut(at..at + MARK).filter(|mark| mark.starts_with(b"FSJ")) else {
            continue;
        };
        let checksum = farshore_series::crc32c(&mark[..MARK - 4]);
        mark[MARK - 4..].copy_from_slice(&checksum.to_le_bytes());
    }
    let look = farshore_journal::look_at_segment(&bytes);
    assert!(look.unknown_bytes <= bytes.len() as u64);
    // A header and a trailer may each speak for points, and no others do.
    assert!(look.points + look.damaged <= (data.len() / MARK) as u64 * u64::from(u32::MAX));
}

/// Sealed batches, as they come in at the control plane.
pub fn batches(data: &[u8]) {
    let Ok(batch) = Batch::read(data) else { return };
    let stream = &batch.header().stream;
    assert!(stream.len() <= data.len());
    // Of another device and another tenant: opens for neither, or to what can be told.
    if let Ok(key) = DeviceKey::generate()
        && let Ok(contents) = batch.open_on_device(&key)
    {
        columns(&contents);
    }
    if let Ok(key) = IngestKey::generate()
        && let Ok(contents) = batch.open(&key)
    {
        columns(&contents);
    }
}

/// What the control plane answers a gateway, beside batches.
pub fn sync_frames(data: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<SyncAnswer>(data) {
        for mark in answer.streams {
            if let Ok(name) = mark.stream.parse::<StreamName>() {
                assert_eq!(name.as_str(), mark.stream);
            }
        }
    }
}

/// Frames of the device channel, in both directions.
pub fn channel_frames(data: &[u8]) {
    if let Ok(frame) = AgentFrame::from_bytes(data) {
        AgentFrame::from_bytes(&frame.to_bytes()).expect("what was read can be written and read again");
    }
    if let Ok(frame) = ServerFrame::from_bytes(data) {
        ServerFrame::from_bytes(&frame.to_bytes()).expect("what was read can be written and read again");
    }
}

/// `.env`, and the variables in it.
pub fn env_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(variables) = farshore_gateway::config::parse_env_file(text) else { return };
    // What names a file would read it; it is not this decoder's.
    let read = |name: &str| variables.get(name).filter(|_| !name.ends_with("_FILE")).cloned();
    if let Err(errors) = farshore_gateway::GatewayConfig::from_variables(&read) {
        assert!(!errors.is_empty());
    }
}

/// Claim tokens and gateway keys.
pub fn gateway_keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<GatewayKey>() {
        assert_eq!(key.to_text().parse::<GatewayKey>().expect("its own text").url(), key.url());
    }
    if let Ok(token) = text.parse::<ClaimToken>() {
        assert_eq!(token.to_text().parse::<ClaimToken>().expect("its own text").url(), token.url());
    }
}
