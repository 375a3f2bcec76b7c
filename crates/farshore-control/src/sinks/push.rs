//! Hands points over by HTTP: to a webhook, signed, or to an OTLP receiver. Streams go beside each other, each in its order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_api::sink::{SinkKind, SinkSpec};
use farshore_domain::id::DeviceId;
use farshore_domain::time::{HOUR_MS, MINUTE_MS, SECOND_MS, UnixMs};
use farshore_series::{Columns, decode_columns};
use farshore_store::sinks::{Handed, SinkCursor};
use farshore_store::sync::GatewayRow;
use farshore_store::{StoreError, StoreResult, TenantDb};
use reqwest::StatusCode;
use tokio::task::JoinSet;

use super::driver::Job;
use super::otlp;
use super::points::{self, MOST_POINTS, Run, Source};
use crate::alerts::webhook;
use crate::app::App;
use crate::clock::now;

/// Streams of one sink that are handed over at the same time.
const AT_ONCE: usize = 8;
/// So many requests for one stream, then the others have their turn.
const TURN: usize = 20;
/// Batches of a stream that go together while they are small.
const TOGETHER: u32 = 64;
const TOGETHER_BYTES: i64 = 256 * 1024;
/// What they have unpacked.
const UNPACKED_BYTES: usize = 4 * 1024 * 1024;
/// A sink works so long, then the others have their turn.
const JOB: Duration = Duration::from_secs(20);
/// A batch that the receiver says it will never take is tried so often before it is passed over.
const REFUSED: i64 = 3;
/// The same for one at which the receiver fails, while it answers.
const BROKEN: i64 = 20;
const MOST_PAUSE_MS: i64 = 5 * MINUTE_MS;
/// Of an answer so much is read.
const ANSWER_BYTES: usize = 64 * 1024;

/// What came of a request.
#[derive(Debug)]
enum Answer {
    Taken,
    /// So much of it was taken that it must not come again.
    Partly(String),
    /// Nobody takes anything there now.
    Away {
        why: String,
        after_ms: Option<i64>,
    },
    /// This will never be taken.
    Refused(String),
    /// The receiver fails at it.
    Broken(String),
}

/// Half of a cap that doubles with each failure, and a random part of the other half.
pub(super) fn pause_ms(attempts: i64) -> i64 {
    let doubled = SECOND_MS << attempts.clamp(0, 20).min(12);
    let cap = doubled.min(MOST_PAUSE_MS);
    cap / 2 + rand::random_range(0..=cap / 2)
}

/// How a turn ended.
enum Ended {
    Done,
    More,
    Away { why: String, after_ms: Option<i64> },
}

/// Hands over what waits. Says whether there is more.
pub(super) async fn push(
    job: &Arc<Job>,
    gateways: &BTreeMap<DeviceId, GatewayRow>,
    mut waiting: Vec<SinkCursor>,
) -> StoreResult<bool> {
    let db = job.db();
    let due = now();
    waiting.retain(|cursor| cursor.next_at <= due);
    // The one that is furthest behind is taken first.
    waiting.reverse();
    let mut running: JoinSet<StoreResult<Ended>> = JoinSet::new();
    let (mut more, mut away) = (false, None);
    let begun = Instant::now();
    loop {
        while away.is_none() && running.len() < AT_ONCE && !waiting.is_empty() {
            if begun.elapsed() >= JOB {
                more = true;
                break;
            }
            // Somebody who switched it off, or gave it another receiver, means it now.
            if !job.is_current().await? {
                (more, waiting) = (true, Vec::new());
                break;
            }
            let Some(cursor) = waiting.pop() else { break };
            let Some(gateway) = gateways.get(&cursor.device).cloned() else { continue };
            let job = Arc::clone(job);
            running.spawn(async move { stream(&job, &gateway, cursor).await });
        }
        let Some(done) = running.join_next().await else { break };
        match done.map_err(|error| StoreError::Corrupt(error.to_string()))?? {
            Ended::Done => {}
            Ended::More => more = true,
            Ended::Away { why, after_ms } => away = away.or(Some((why, after_ms))),
        }
    }
    if let Some((why, after_ms)) = away {
        let attempts = db.sink_state(job.uid).await?.map_or(0, |state| state.attempts);
        let pause = pause_ms(attempts).max(after_ms.unwrap_or(0).min(HOUR_MS));
        db.sink_failed(&job.lease, job.named(), None, now().plus_ms(pause), &why, now()).await?;
        return Ok(false);
    }
    Ok(more)
}

/// One stream's turn.
async fn stream(job: &Job, gateway: &GatewayRow, mut cursor: SinkCursor) -> StoreResult<Ended> {
    let db = job.db();
    let begun = Instant::now();
    for _ in 0..TURN {
        if begun.elapsed() >= JOB {
            break;
        }
        let before = cursor.arrived;
        if let Some(ended) = step(job, &db, gateway, &mut cursor).await? {
            return Ok(ended);
        }
        if cursor.arrived >= cursor.newest {
            return Ok(Ended::Done);
        }
        if cursor.next_at > now() && cursor.arrived == before {
            return Ok(Ended::Done);
        }
    }
    Ok(Ended::More)
}

/// One request, or none when nothing in the next batches is wanted.
async fn step(
    job: &Job,
    db: &TenantDb,
    gateway: &GatewayRow,
    cursor: &mut SinkCursor,
) -> StoreResult<Option<Ended>> {
    // What was refused together is tried one by one, so that only what can't be taken is passed over.
    let limit = if cursor.attempts > 0 || cursor.part > 0 { 1 } else { TOGETHER };
    let blocks = db.sink_blocks(cursor, limit, TOGETHER_BYTES).await?;
    let Some(first) = blocks.first() else {
        // Batches without points, or points that are no longer kept.
        cursor.arrived = cursor.newest;
        cursor.part = 0;
        let handed = Handed { cursors: vec![cursor.clone()], ..Handed::default() };
        db.sink_handed(&job.lease, job.named(), &handed, now()).await?;
        return Ok(Some(Ended::Done));
    };
    let first = first.arrived;
    let turn = job.app.sinks().turn_to_unpack().await;
    let spec = job.spec.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut all: Vec<Columns> = Vec::new();
        let (mut last, mut points, mut bytes) = (0, 0, 0);
        for block in blocks {
            let columns = match decode_columns(&block.block) {
                Ok(columns) => columns,
                Err(error) if all.is_empty() => return Err(error),
                Err(_) => break,
            };
            points += columns.len();
            let more = columns.memory();
            if !all.is_empty() && (points > MOST_POINTS || bytes + more > UNPACKED_BYTES) {
                break;
            }
            bytes += more;
            all.push(columns);
            last = block.arrived;
        }
        let (batches, pieces) = (all.len(), points::pieces(&spec, &all));
        // Together they have to be one piece, or the first goes alone.
        if batches > 1 && pieces.len() > 1 {
            let pieces = points::pieces(&spec, all.get(..1).unwrap_or_default());
            return Ok((first, 1, pieces, bytes));
        }
        Ok((last, batches, pieces, bytes))
    });
    let read = read.await.map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let (last, batches, pieces, bytes) = match read {
        Ok(read) => read,
        Err(error) => {
            let why = format!("the stored batch can't be read: {error}");
            (cursor.arrived, cursor.part, cursor.attempts) = (first, 0, 0);
            db.sink_skipped(&job.lease, job.named(), cursor, &why, now()).await?;
            return Ok(None);
        }
    };
    // Held until the receiver has answered: so long the pieces are in memory.
    let _room = job.app.sinks().room(bytes).await;
    drop(turn);
    let batches = i64::try_from(batches).unwrap_or(i64::MAX);
    let parts = pieces.len();
    let skip = usize::try_from(cursor.part).unwrap_or(0);
    let mut points = 0;
    for (part, piece) in pieces.iter().enumerate().skip(skip) {
        let sent = send(job, gateway, cursor, last, (part, parts), piece).await;
        let (why, most) = match sent {
            Answer::Taken | Answer::Partly(_) => {
                if let Answer::Partly(why) = sent {
                    db.sink_rejected(job.uid, &why, now()).await?;
                }
                points = i64::try_from(piece.iter().map(|run| run.points.len()).sum::<usize>()).unwrap_or(0);
                if part + 1 < parts {
                    cursor.part = i64::try_from(part + 1).unwrap_or(0);
                    let handed = Handed { cursors: vec![cursor.clone()], points, ..Handed::default() };
                    db.sink_handed(&job.lease, job.named(), &handed, now()).await?;
                    points = 0;
                }
                continue;
            }
            Answer::Away { why, after_ms } => return Ok(Some(Ended::Away { why, after_ms })),
            Answer::Refused(why) => (why, REFUSED),
            Answer::Broken(why) => (why, BROKEN),
        };
        cursor.attempts += 1;
        if cursor.attempts >= most && batches == 1 {
            (cursor.arrived, cursor.part, cursor.attempts, cursor.next_at) = (last, 0, 0, UnixMs(0));
            db.sink_skipped(&job.lease, job.named(), cursor, &why, now()).await?;
            return Ok(None);
        }
        cursor.next_at = now().plus_ms(pause_ms(cursor.attempts));
        db.sink_failed(&job.lease, job.named(), Some(cursor), cursor.next_at, &why, now()).await?;
        return Ok(Some(Ended::Done));
    }
    (cursor.arrived, cursor.part, cursor.attempts, cursor.next_at) = (last, 0, 0, UnixMs(0));
    let handed = Handed { cursors: vec![cursor.clone()], batches, points, ..Handed::default() };
    db.sink_handed(&job.lease, job.named(), &handed, now()).await?;
    Ok(None)
}

async fn send(
    job: &Job,
    gateway: &GatewayRow,
    cursor: &SinkCursor,
    to: i64,
    part: (usize, usize),
    piece: &[Run],
) -> Answer {
    let source = Source {
        sink: &job.name,
        device: gateway.device.0,
        device_name: gateway.name.as_str(),
        location: &gateway.location,
        stream: &cursor.stream,
    };
    let targets = job.app.settings().alert_targets;
    let id = points::id(job.uid, cursor, to, part.0);
    let broken =
        |error: serde_json::Error| Answer::Refused(format!("the points can't be written as JSON: {error}"));
    let sent = match (job.spec.kind, &job.spec.webhook, &job.spec.otlp) {
        (SinkKind::Webhook, Some(target), _) => {
            let Some(secret) = job.secret.as_deref().and_then(webhook::read_secret) else {
                return Answer::Away { why: "the sink has no secret".to_owned(), after_ms: None };
            };
            let message = points::message(&source, cursor, to, part, piece);
            let body = match serde_json::to_vec(&message) {
                Ok(body) => body,
                Err(error) => return broken(error),
            };
            webhook::post(&job.client, targets, &target.url, &secret, id, body, now()).await
        }
        (SinkKind::Otlp, _, Some(target)) => {
            let Some(request) = otlp::request(&source, piece) else { return Answer::Taken };
            let body = match serde_json::to_vec(&request) {
                Ok(body) => body,
                Err(error) => return broken(error),
            };
            post(&job.app, &job.client, &target.url, job.secret.as_deref(), body).await
        }
        _ => Err("the sink names no receiver".to_owned()),
    };
    match sent {
        Ok(answer) => judge(job.spec.kind, answer).await,
        Err(why) => Answer::Away { why, after_ms: None },
    }
}

async fn post(
    app: &App,
    client: &reqwest::Client,
    url: &str,
    authorization: Option<&str>,
    body: Vec<u8>,
) -> Result<reqwest::Response, String> {
    let url = webhook::check_url(app.settings().alert_targets, &otlp::address(url))
        .map_err(|why| format!("the address {why}"))?;
    let mut request = client.post(url).header("content-type", "application/json").body(body);
    if let Some(authorization) = authorization {
        let mut value = reqwest::header::HeaderValue::from_str(authorization)
            .map_err(|_| "the sink's authorization is no header".to_owned())?;
        value.set_sensitive(true);
        request = request.header("authorization", value);
    }
    request.send().await.map_err(|error| crate::error::chain(&error.without_url()))
}

/// What an answer means. Receivers that are busy, gone or ask for other credentials take anything again later; what is refused itself, never.
async fn judge(kind: SinkKind, answer: reqwest::Response) -> Answer {
    let status = answer.status();
    let retry =
        answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    let why = format!("the receiver answered {status}");
    match status {
        status if status.is_success() => {
            if kind == SinkKind::Otlp
                && let Some((count, why)) = otlp::rejected(&beginning(answer).await)
            {
                return Answer::Partly(format!("the receiver rejected {count} points: {why}"));
            }
            Answer::Taken
        }
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::CONFLICT
        | StatusCode::LENGTH_REQUIRED
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Answer::Refused(why),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Answer::Away { why, after_ms: retry.map(|seconds| seconds.saturating_mul(1_000)) }
        }
        status if status.is_server_error() => Answer::Broken(why),
        _ => Answer::Away { why, after_ms: retry.map(|seconds| seconds.saturating_mul(1_000)) },
    }
}

async fn beginning(mut answer: reqwest::Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            bytes.extend_from_slice(
                chunk.get(..chunk.len().min(ANSWER_BYTES - bytes.len())).unwrap_or_default(),
            );
            if bytes.len() >= ANSWER_BYTES {
                break;
            }
        }
    };
    // It was taken, whatever else is said of it.
    _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    bytes
}

/// Whether a spec names somebody to send to.
pub(super) fn is_pushed(spec: &SinkSpec) -> bool {
    matches!(spec.kind, SinkKind::Webhook | SinkKind::Otlp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_minutes_and_are_never_alike() {
        for attempts in [0, 1, 5, 9, 60] {
            let cap = (SECOND_MS << attempts.min(12)).min(MOST_PAUSE_MS);
            for _ in 0..50 {
                assert!((cap / 2..=cap).contains(&pause_ms(attempts)), "{attempts}");
            }
        }
        assert!((0..40).map(|_| pause_ms(9)).collect::<std::collections::BTreeSet<_>>().len() > 1);
    }
}
