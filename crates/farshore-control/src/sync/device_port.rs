//! `POST /api/device/sync` and `PUT /api/device/batches/{stream}/{epoch}/{sequence}` on the device port.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, header};
use farshore_api::sync::{
    BatchTaken, ForcedSync, GatewayReport, IngestPublicKey, StreamMark, SyncAnswer, SyncRequest,
};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::operation::State as OperationState;
use farshore_domain::time::UnixMs;
use farshore_series::DecodeError;
use farshore_store::sync::{NewBatch, Taken};
use farshore_trust::sealed::{Batch, MAX_BATCH_BYTES, SealError};
use http_body_util::{BodyExt as _, Limited};

use super::body::{Broken, Pace};
use super::keys;
use super::read::{ReadBatch, read};
use crate::app::App;
use crate::claims::DevicePeer;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Query};
use crate::route::{Access, Route, route};

/// For the body of a refused batch to be read and forgotten.
const PASS_OVER: Duration = Duration::from_secs(10);
const MAX_STREAMS: usize = 64;
const MAX_NAME: usize = 64;
const MAX_ERROR: usize = 500;
const MAX_FORCED: usize = 32;
const CLASSES: [&str; 4] = ["alert", "document", "telemetry", "log"];

/// The noun's part of the device port's OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(ask, put))]
pub struct SyncPortDocs;

/// The noun's rows on the device port.
#[must_use]
pub fn device_port_routes() -> Vec<Route> {
    vec![
        route(Method::POST, "/api/device/sync", Access::Gateway, ask),
        route(Method::PUT, "/api/device/batches/{stream}/{epoch}/{sequence}", Access::Gateway, put)
            .unhurried(),
    ]
}

fn hex_u64(field: &str, text: &str) -> ApiResult<u64> {
    let number = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    number.ok_or_else(|| ApiError::field(field, "is a number of 16 hex digits"))
}

/// A stream's name as the journal allows it.
fn is_stream(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .split('/')
            .all(|part| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()))
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/'))
}

/// A gateway says how it stands, and is told what has arrived of its journal and which key to seal for.
#[utoipa::path(post, path = "/api/device/sync", tag = "device-port", request_body = SyncRequest,
    responses((status = 200, body = SyncAnswer), (status = "4XX", body = Problem)))]
async fn ask(
    State(app): State<App>,
    peer: DevicePeer,
    Body(request): Body<SyncRequest>,
) -> ApiResult<Json<SyncAnswer>> {
    let epoch = hex_u64("epoch", &request.epoch)?;
    let now = now();
    let report = serde_json::to_value(fit(request.report)).map_err(ApiError::internal)?;
    let device = (peer.device, &peer.name);
    let config = match &request.config {
        Some(seen) => match app.pipelines().given(&peer.db, device, seen, now).await {
            Ok(config) => Some(config),
            // What the gateway has stays: readings do not wait for pipelines.
            Err(error) => {
                tracing::error!(device = %peer.name, ?error, "the config of a gateway can't be read");
                None
            }
        },
        None => None,
    };
    peer.db.write_gateway_report(peer.device, epoch, &report, now).await?;
    for forced in request.forced.into_iter().take(MAX_FORCED) {
        ended(&app, &peer, forced, now).await?;
    }
    let force_sync = peer.db.next_force_sync(peer.device, now).await?;
    let key = keys::current(&app, &peer.db, now).await?;
    let streams = peer.db.sync_marks(peer.device, epoch).await?;
    Ok(Json(SyncAnswer {
        ingest_key: IngestPublicKey { id: hex::encode(key.id()), public_key: hex::encode(key.as_bytes()) },
        streams: streams
            .into_iter()
            .map(|row| StreamMark {
                floor: row.received.floor(),
                above: row.received.above().iter().map(|(from, to)| [*from, *to]).collect(),
                stream: row.stream,
            })
            .collect(),
        server_time: now,
        force_sync,
        config,
    }))
}

/// A sync that somebody asked for is over.
async fn ended(app: &App, peer: &DevicePeer, forced: ForcedSync, now: UnixMs) -> ApiResult<()> {
    let ForcedSync { operation, points_sent, points_pending, error } = forced;
    let counts = format!("{points_sent} points went, {points_pending} wait");
    let (state, message) = match error {
        None => (OperationState::Succeeded, counts),
        Some(error) => (OperationState::Failed, format!("{}; {counts}", text(error, MAX_ERROR))),
    };
    if peer.db.end_force_sync(peer.device, operation, state, &message, now).await? {
        app.hub().outputs().ended((peer.db.tenant(), operation));
        app.hub().changed(peer.db.tenant(), peer.device);
        app.events_written();
    }
    Ok(())
}

fn text(text: String, limit: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(limit).collect()
}

/// A report within its limits: a gateway that says too much of itself still syncs.
fn fit(mut report: GatewayReport) -> GatewayReport {
    report.streams.truncate(MAX_STREAMS);
    report.streams.retain(|stream| is_stream(&stream.name) && CLASSES.contains(&stream.class.as_str()));
    report.last_error = report.last_error.map(|error| text(error, MAX_ERROR));
    report.processing = report.processing.map(crate::pipelines::fit);
    report
}

#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Floor {
    /// Everything of the stream below this number is settled on the gateway.
    #[serde(default)]
    floor: u64,
}

/// Which batch it is, and how long.
struct Named {
    stream: String,
    epoch: u64,
    sequence: u64,
    length: usize,
}

fn named(stream: &str, epoch: &str, sequence: &str, headers: &HeaderMap) -> ApiResult<Named> {
    let stream = stream.replace('+', "/");
    if !is_stream(&stream) {
        return Err(ApiError::field("stream", "is the name of a stream, with + for /"));
    }
    let epoch = hex_u64("epoch", epoch)?;
    let sequence: u64 = sequence
        .parse()
        .ok()
        .filter(|number| (1..=i64::MAX.unsigned_abs()).contains(number))
        .ok_or_else(|| ApiError::field("sequence", "is a number from 1 on"))?;
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| ApiError::field("Content-Length", "says how long the batch is"))?;
    if length > MAX_BATCH_BYTES {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("A batch has at most {MAX_BATCH_BYTES} bytes."),
        ));
    }
    Ok(Named { stream, epoch, sequence, length })
}

/// What is refused is read all the same, in part: otherwise its sender sees a broken connection in place of the answer.
async fn pass_over(body: axum::body::Body) {
    let mut body = Limited::new(body, MAX_BATCH_BYTES);
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whoever is too slow for that has no answer.
    _ = tokio::time::timeout(PASS_OVER, reading).await;
}

/// Takes a sealed batch, as it lies on the gateway's disk. The same batch again is taken for taken and changes nothing. `bad-batch`: it can never be
/// read, set it aside; `other-key`: seal it for the key that `POST /api/device/sync` names; 429 and 503: later.
#[utoipa::path(put, path = "/api/device/batches/{stream}/{epoch}/{sequence}", tag = "device-port",
    params(("stream" = String, Path, description = "its name, with + for /"), ("epoch" = String, Path, description = "16 hex digits"),
        ("sequence" = u64, Path), Floor),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = BatchTaken), (status = 503, body = Problem), (status = "4XX", body = Problem)))]
async fn put(
    State(app): State<App>,
    peer: DevicePeer,
    Path((stream, epoch, sequence)): Path<(String, String, String)>,
    Query(Floor { floor }): Query<Floor>,
    headers: HeaderMap,
    request: Request,
) -> ApiResult<Json<BatchTaken>> {
    let named = named(&stream, &epoch, &sequence, &headers);
    let Named { stream, epoch, sequence, length } = match named {
        Ok(named) => named,
        Err(error) => {
            pass_over(request.into_body()).await;
            return Err(error);
        }
    };
    let tenant = peer.db.tenant();
    let Some(mut held) = app.sync().bodies.begin(tenant, peer.device).await else {
        pass_over(request.into_body()).await;
        let many = "Too many batches of this device are under way. Send this one again later.";
        return Err(ApiError::new(ErrorCode::TooManyRequests, many).retry_after(5));
    };
    let sealed = held.read(request.into_body(), length, Pace::default()).await.map_err(broken)?;
    let sealed_bytes = sealed.len() as u64;
    if sealed.starts_with(b"FSB") && !sealed.starts_with(b"FSB1") {
        return Err(too_new());
    }
    let (class, key) = {
        let batch = match Batch::read(&sealed) {
            Ok(batch) => batch,
            // The gateway checked it before it sent: the bytes changed on the way, or it is none of ours.
            Err(error) => return Err(bad(&app, &peer, epoch, &stream, "log", &error).await),
        };
        let header = batch.header();
        if (header.epoch, header.sequence, header.stream.as_str()) != (epoch, sequence, stream.as_str()) {
            return Err(ApiError::field("sequence", "stream, epoch and sequence are those of the batch"));
        }
        let stream = (stream.as_str(), epoch);
        if peer.db.batch_is_known(peer.device, stream, sequence, floor).await? {
            return Ok(Json(BatchTaken { stored: false }));
        }
        let class = CLASSES.get(usize::from(header.class)).copied().unwrap_or("log");
        (class, header.for_ingest.map(|(id, _)| id))
    };
    let other_key = || {
        ApiError::new(
            ErrorCode::OtherKey,
            "The batch was sealed for a key that this tenant does not have. Seal it for the one that POST /api/device/sync names.",
        )
    };
    let Some(key) = key else { return Err(other_key()) };
    let Some(key) = keys::secret(&app, &peer.db, key).await? else { return Err(other_key()) };
    let name = stream.clone();
    let turn = app.sync().unpacking.turn(tenant).await.map_err(|_| no_room())?;
    let opened = tokio::task::spawn_blocking(move || -> Result<ReadBatch, BadBatch> {
        // Until it is done, also where nobody waits for it any more.
        let _room = (held, turn);
        let contents = Batch::read(&sealed).and_then(|batch| batch.open(&key))?;
        Ok(read(&name, contents)?)
    });
    let read = match opened.await.map_err(ApiError::internal)? {
        Ok(read) => read,
        Err(BadBatch::Contents(DecodeError::UnknownVersion { .. })) => return Err(too_new()),
        Err(error) => return Err(bad(&app, &peer, epoch, &stream, class, &error).await),
    };
    let batch = NewBatch {
        device: peer.device,
        epoch,
        stream: &stream,
        class,
        sequence,
        floor,
        from: read.from,
        to: read.to,
        points: read.points,
        sealed_bytes,
        block: &read.block,
        latest: &read.latest,
        losses: &read.losses,
    };
    match peer.db.take_batch(&batch, now()).await? {
        Taken::Stored => {
            app.sinks().changed();
            Ok(Json(BatchTaken { stored: true }))
        }
        Taken::Before => Ok(Json(BatchTaken { stored: false })),
        Taken::TooManyStreams => Err(ApiError::new(
            ErrorCode::TooManyRequests,
            "This device has too many streams here. Those that nothing came for in over a year are forgotten by and by.",
        )
        .retry_after(300)),
        Taken::TooManyGaps => Err(ApiError::new(
            ErrorCode::TooManyRequests,
            "Too many batches of this stream are missing before this one. Send the oldest first.",
        )
        .retry_after(60)),
    }
}

fn no_room() -> ApiError {
    let full = "Too many batches are under way. Send this one again later.";
    ApiError::new(ErrorCode::Unavailable, full).retry_after(5)
}

fn broken(broken: Broken) -> ApiError {
    match broken {
        Broken::Off => ApiError::new(ErrorCode::Malformed, "The batch broke off. Send it again."),
        Broken::Slow => {
            ApiError::new(ErrorCode::Unavailable, "The batch took too long. Send it again.").retry_after(5)
        }
        Broken::NoRoom => no_room(),
    }
}

/// Why a batch can never be read.
#[derive(Debug, thiserror::Error)]
enum BadBatch {
    #[error("it can't be opened")]
    Seal(#[from] SealError),
    #[error("its contents can't be read")]
    Contents(#[from] DecodeError),
}

/// A gateway of a later version: its batches wait until this control plane is of that version, too.
fn too_new() -> ApiError {
    let detail = "The batch is of a later version than this control plane reads. It is kept on the gateway until the control plane is upgraded.";
    ApiError::new(ErrorCode::Unavailable, detail).retry_after(300)
}

async fn bad(
    app: &App,
    peer: &DevicePeer,
    epoch: u64,
    stream: &str,
    class: &str,
    error: &(dyn std::error::Error + Send + Sync + 'static),
) -> ApiError {
    let why = crate::error::chain(error);
    tracing::warn!(device = %peer.device, stream, why, "a batch was refused for good");
    if let Err(error) = peer.db.count_refused_batch(peer.device, epoch, (stream, class), now()).await {
        return error.into();
    }
    app.metrics().batch_refused();
    ApiError::new(
        ErrorCode::BadBatch,
        format!("This batch can never be read: {why}. Set it aside; sending it again is of no use."),
    )
}
