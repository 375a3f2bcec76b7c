//! The evidence of an incident as one archive.
//!
//! What is in it is gathered first, each part capped; then it is packed beside the runtime and sent as it is packed.

use std::collections::BTreeMap;
use std::io::Write;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::Response;
use bytes::Bytes;
use farshore_domain::desired::DesiredState;
use farshore_domain::digest::Digest;
use farshore_domain::rollout::Rollout;
use farshore_domain::time::{MINUTE_MS, UnixMs};
use farshore_protocol::IncidentEvidence;
use farshore_series::Block;
use farshore_store::TenantDb;
use farshore_store::incidents::IncidentRow;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{post_mortem, view};
use crate::app::App;
use crate::channel::report::KERNEL_EVENTS;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::rollouts::why;
use crate::route::Db;

/// The archive reaches so far back before the incident, and so far on after its end.
const BEFORE_MS: i64 = 10 * MINUTE_MS;
const AFTER_MS: i64 = 5 * MINUTE_MS;
/// An incident that goes on for long is cut here.
const LONGEST_MS: i64 = 6 * 60 * MINUTE_MS;
const MAX_BLOCKS: u32 = 2_000;
const MAX_ROWS: usize = 20_000;
const MAX_EVENTS: u32 = 2_000;
/// At most this many bytes in one file of the archive.
const MAX_FILE: usize = 8 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// The kinds of events that tell of the kernel.
fn of_kernel(kind: &str) -> bool {
    KERNEL_EVENTS.contains(&kind) || kind.starts_with("host.")
}

/// A file of the archive.
type File = (String, Vec<u8>);

fn pretty(value: &impl serde::Serialize) -> ApiResult<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(ApiError::internal)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Packs and sends it.
pub(super) async fn answer(app: &App, db: &TenantDb, row: IncidentRow) -> ApiResult<Response> {
    let name = row.name.clone();
    let files = gather(app, db, row).await?;
    let (sender, mut chunks) = mpsc::channel::<Bytes>(8);
    let folder = name.to_string();
    let at = now();
    let packing = tokio::task::spawn_blocking(move || pack(&folder, files, at, ChunkWriter::new(sender)));
    let body = async_stream::stream! {
        while let Some(chunk) = chunks.recv().await {
            yield Ok(chunk);
        }
        match packing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "an archive of evidence was not finished");
                yield Err(error);
            }
            Err(error) => yield Err(std::io::Error::other(error)),
        }
    };
    Response::builder()
        .header(header::CONTENT_TYPE, "application/gzip")
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.tar.gz\""))
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from_stream(body))
        .map_err(ApiError::internal)
}

async fn gather(app: &App, db: &TenantDb, row: IncidentRow) -> ApiResult<Vec<File>> {
    let from = row.started_at.plus_ms(-BEFORE_MS);
    let over = row.ended_at.or(row.resolved_at).unwrap_or_else(now);
    let to = over.max(row.last_at).plus_ms(AFTER_MS).min(row.started_at.plus_ms(LONGEST_MS));
    let parts: Vec<(String, UnixMs, IncidentEvidence)> = db
        .incident_evidence(row.uid)
        .await?
        .into_iter()
        .filter_map(|(part, at, body)| {
            let read = IncidentEvidence::decode(&*body).inspect_err(
                |error| tracing::error!(incident = %row.uid, %error, "stored evidence can't be read"),
            );
            Some((part, at, read.ok()?))
        })
        .collect();
    let device = db.device(&row.device.to_string()).await?;
    let release = match row.release {
        Some(release) => db.release(&release.to_string()).await.ok(),
        None => None,
    };
    let rollout = match row.rollout {
        Some(rollout) => Some(db.rollout(&rollout.to_string()).await?),
        None => None,
    };
    let mut files: Vec<File> = Vec::new();

    let events: Vec<_> = db
        .events_about(row.device.0, from, to, MAX_EVENTS)
        .await?
        .into_iter()
        .map(crate::events::view)
        .collect();
    let mut box_events: BTreeMap<String, Value> = BTreeMap::new();
    for event in parts.iter().flat_map(|(.., evidence)| &evidence.events) {
        let detail: Value = serde_json::from_str(&event.detail_json).unwrap_or(Value::Null);
        box_events.insert(
            event.uid.clone(),
            json!({ "uid": event.uid, "at": event.at_ms, "type": event.kind, "app": event.app, "message": event.message, "detail": detail }),
        );
    }
    let mut black_box: Vec<Value> = box_events.into_values().collect();
    black_box.sort_by_key(|event| event.get("at").and_then(Value::as_i64).unwrap_or(0));
    let kernel: Vec<Value> = events
        .iter()
        .filter(|event| of_kernel(&event.kind))
        .map(serde_json::to_value)
        .collect::<Result<_, _>>()
        .map_err(ApiError::internal)?;
    let kernel_box =
        black_box.iter().filter(|event| event.get("type").and_then(Value::as_str).is_some_and(of_kernel));
    let known: Vec<&str> = kernel.iter().filter_map(|event| event.get("uid")?.as_str()).collect();
    let mut kernel_events: Vec<Value> = kernel_box
        .filter(|event| event.get("uid").and_then(Value::as_str).is_none_or(|uid| !known.contains(&uid)))
        .cloned()
        .collect();
    kernel_events.extend(kernel.iter().cloned());
    files.push(("kernel-events.json".to_owned(), pretty(&kernel_events)?));
    files.push(("events.json".to_owned(), pretty(&events)?));
    files.push(("black-box-events.json".to_owned(), pretty(&black_box)?));

    for (part, _, evidence) in &parts {
        let log = if evidence.log_missing.is_empty() {
            evidence.log.clone()
        } else {
            format!("The log could not be read: {}\n", evidence.log_missing)
        };
        files.push((format!("logs/{part}.log"), log.into_bytes()));
    }
    let stored = db.metric_blocks(&[row.device], "host", from, to, MAX_BLOCKS).await?;
    let blocks = stored
        .iter()
        .map(|block| block.block.as_slice())
        .chain(parts.iter().flat_map(|(.., evidence)| evidence.blocks.iter().map(Vec::as_slice)));
    let (metrics, rows) = csv(blocks, from, to);
    files.push(("metrics.csv".to_owned(), metrics));

    if let Some(release) = &release {
        let shown = json!({ "name": release.metadata.name, "uid": release.metadata.uid, "version": row.version,
            "manifestDigest": release.manifest_digest, "signedBy": release.signed_by, "keyName": release.key_name,
            "manifest": release.manifest });
        files.push(("release.json".to_owned(), pretty(&shown)?));
    }
    let mut rollout_name = None;
    if let Some(rollout) = &rollout {
        let engine: Rollout = serde_json::from_value(rollout.state.clone()).map_err(ApiError::internal)?;
        let shown = json!({ "metadata": rollout.metadata, "spec": rollout.spec, "summary": engine.summary(now()),
            "history": engine.history() });
        files.push(("rollout.json".to_owned(), pretty(&shown)?));
        rollout_name = Some(rollout.metadata.name.to_string());
    }
    let policy = device.desired.as_ref().and_then(|desired| DesiredState::parse(&desired.body).ok()?.policy);
    if let Some(policy) = &policy {
        files.push(("policy.json".to_owned(), pretty(policy)?));
    }
    // The same chains that `farshore explain` shows.
    let state = || State(app.clone());
    let of_device = why::of_device(state(), Db(db.clone()), Path(row.device.to_string())).await?.0;
    let of_rollout = match row.rollout {
        Some(rollout) => Some(why::of_rollout(state(), Db(db.clone()), Path(rollout.to_string())).await?.0),
        None => None,
    };
    let heartbeat = app.hub().heartbeat_ms();
    let shown = crate::devices::view::device(device, crate::devices::view::Detail::Full, heartbeat, now());
    let reasons = json!({
        "note": "the state of the device when this archive was made",
        "device": shown.metadata.name, "health": shown.status.health, "reasons": shown.status.reasons,
        "why": { "device": of_device, "rollout": of_rollout },
        "apps": shown.status.apps.iter().map(|app| json!({ "app": app.app, "phase": app.phase, "health": app.health,
            "because": app.because, "activeVersion": app.active_version, "failedRelease": app.failed_release,
            "reasons": app.reasons })).collect::<Vec<_>>(),
    });
    files.push(("reasons.json".to_owned(), pretty(&reasons)?));
    files.push(("device.json".to_owned(), pretty(&shown)?));

    let about = post_mortem::About {
        incident: &row,
        rollout: rollout_name.as_deref(),
        key: release.as_ref().map(|release| release.key_name.as_str()),
        events: &events,
        samples: rows,
        parts: &parts.iter().map(|(part, at, _)| (part.as_str(), *at)).collect::<Vec<_>>(),
        kernel_events: kernel_events.len(),
        now: now(),
    };
    files.push(("post-mortem.md".to_owned(), post_mortem::write(&about).into_bytes()));
    files.push(("incident.json".to_owned(), pretty(&view(row, Vec::new()))?));
    for (name, bytes) in &mut files {
        if bytes.len() > MAX_FILE {
            tracing::warn!(file = name, bytes = bytes.len(), "a file of evidence is cut short");
            bytes.truncate(MAX_FILE);
        }
    }
    files.sort();
    let sums: String = files
        .iter()
        .map(|(name, bytes)| {
            let digest = Digest::of(bytes).to_string();
            format!("{}  {name}\n", digest.strip_prefix("sha256:").unwrap_or(&digest))
        })
        .collect();
    files.push(("SHA256SUMS".to_owned(), sums.into_bytes()));
    Ok(files)
}

/// Measurements as a table: a row for each moment, a column for each series. Returns how many rows there are.
fn csv<'a>(blocks: impl Iterator<Item = &'a [u8]>, from: UnixMs, to: UnixMs) -> (Vec<u8>, usize) {
    let mut rows: BTreeMap<i64, BTreeMap<String, f64>> = BTreeMap::new();
    for block in blocks.filter_map(|bytes| farshore_series::decode(bytes).ok()) {
        let Block { at_ms, series, columns, .. } = block;
        for (index, at) in at_ms.iter().enumerate() {
            if *at < from.0 || *at > to.0 || (rows.len() >= MAX_ROWS && !rows.contains_key(at)) {
                continue;
            }
            let row = rows.entry(*at).or_default();
            for (name, column) in series.iter().zip(&columns) {
                if let Some(value) = column.get(index).copied().flatten().filter(|value| value.is_finite()) {
                    row.insert(name.clone(), value);
                }
            }
        }
    }
    let mut names: Vec<String> = rows.values().flat_map(|row| row.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let mut text = String::from("time_ms");
    for name in &names {
        text.push(',');
        // A name is the device's: nothing in it may end the cell or be taken for a formula.
        text.extend(name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-')));
    }
    text.push('\n');
    for (at, row) in &rows {
        text.push_str(&at.to_string());
        for name in &names {
            text.push(',');
            if let Some(value) = row.get(name) {
                text.push_str(&value.to_string());
            }
        }
        text.push('\n');
    }
    (text.into_bytes(), rows.len())
}

fn pack(folder: &str, files: Vec<File>, at: UnixMs, writer: ChunkWriter) -> std::io::Result<()> {
    let gzip = flate2::write::GzEncoder::new(writer, flate2::Compression::default());
    let mut archive = tar::Builder::new(gzip);
    for (name, bytes) in files {
        let mut head = tar::Header::new_gnu();
        head.set_size(bytes.len() as u64);
        head.set_mode(0o644);
        head.set_mtime(u64::try_from(at.0 / 1_000).unwrap_or(0));
        archive.append_data(&mut head, format!("{folder}/{name}"), bytes.as_slice())?;
    }
    let mut writer = archive.into_inner()?.finish()?;
    writer.flush()
}

/// Hands on what is written, a chunk at a time; waits while the reader is slow and fails when it is gone.
struct ChunkWriter {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self { sender, chunk: Vec::with_capacity(CHUNK) }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK)));
        self.sender.blocking_send(chunk).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use farshore_series::{BlockBuilder, encode};

    use super::*;

    #[test]
    fn measurements_become_a_table_without_anything_twice_or_strange() {
        let block = |rows: &[(i64, &str, f64)]| {
            let mut builder = BlockBuilder::new();
            for (at, name, value) in rows {
                builder.push(*at, [(*name, *value)]).unwrap();
            }
            encode(&builder.finish()).unwrap()
        };
        let first = block(&[(10, "cpu", 0.5), (20, "=cmd|x,y", 1.0)]);
        let again = block(&[(10, "cpu", 0.5), (99, "cpu", f64::NAN), (1_000, "cpu", 2.0)]);
        let bad = b"garbage".to_vec();
        let (text, rows) = csv([&first, &again, &bad].into_iter().map(Vec::as_slice), UnixMs(0), UnixMs(100));
        assert_eq!(String::from_utf8(text).unwrap(), "time_ms,cmdxy,cpu\n10,,0.5\n20,1,\n99,,\n");
        assert_eq!(rows, 3);
    }

    #[tokio::test]
    async fn an_archive_is_packed_as_it_is_read_and_given_up_when_nobody_reads() {
        let noise: Vec<u8> =
            (0..2_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let files = vec![("a.txt".to_owned(), b"hello".to_vec()), ("b.bin".to_owned(), noise.clone())];
        let (sender, mut chunks) = mpsc::channel(2);
        let all = files.clone();
        let packing =
            tokio::task::spawn_blocking(move || pack("inc-1", all, UnixMs(0), ChunkWriter::new(sender)));
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            bytes.extend_from_slice(&chunk);
        }
        packing.await.unwrap().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let names: Vec<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [std::path::Path::new("inc-1/a.txt"), std::path::Path::new("inc-1/b.bin")]);

        let (sender, chunks) = mpsc::channel(2);
        drop(chunks);
        let files = vec![("b.bin".to_owned(), noise)];
        let given_up =
            tokio::task::spawn_blocking(move || pack("inc-1", files, UnixMs(0), ChunkWriter::new(sender)));
        assert_eq!(given_up.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }
}
