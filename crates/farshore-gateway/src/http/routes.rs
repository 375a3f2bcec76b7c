//! What can be asked.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_domain::digest::{Digest, Digester};
use farshore_journal::{JournalError, Producer, StreamName};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::answer::{self, Answer, Refusal};
use super::body::{Room, Unread};
use super::idempotency::{JSON, Key, MAX_KEY_BYTES, PROTOBUF, Said};
use super::{Server, auth, page};
use crate::decode::body::{BodyError, Encoding, most_unpacked, unpack};
use crate::decode::{Outcome, Precision, otlp};
use crate::gateway::Shared;
use crate::ingest::Form;
use crate::limits::MAX_BODY_BYTES;
use crate::point::PointError;
use crate::status::SyncResult;

/// For a body to arrive.
const BODY: Duration = Duration::from_secs(30);
/// How long somebody waits for what came of a sync.
const SYNC: Duration = Duration::from_secs(60);
/// Bodies of this size are read on another thread, so that other clients don't wait.
const LARGE: usize = 256 * 1024;

/// How a producer's protocol answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Influx,
    Json,
    Otlp { json: bool },
}

pub(super) async fn answer(server: &Arc<Server>, from: Producer, request: Request<Incoming>) -> Answer {
    let query: Vec<(String, String)> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .take(32)
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
    // What is asked for without its body is the same; hyper leaves that out.
    let method = match request.method() {
        &Method::HEAD => Method::GET,
        method => method.clone(),
    };
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let shared = &server.shared;
    // What supervisors ask, without a secret of anybody in it.
    match (&method, path.as_str()) {
        (&Method::GET, "/health") => return answer::json(StatusCode::OK, &shared.health()),
        (&Method::GET, "/ready") => return ready(shared).await,
        (&Method::GET, "/metrics") => {
            return answer::body(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                shared.metrics(),
            );
        }
        (&Method::GET, "/ping") => return answer::empty(StatusCode::NO_CONTENT),
        _ => {}
    }
    if !auth::own_origin(request.headers()) {
        return answer::other_origin();
    }
    if !auth::allowed(&shared.config.credentials, request.headers(), &query) {
        return answer::unauthorized();
    }
    if super::documents::is_for_documents(&path) {
        return super::documents::answer(server, &method, &path, &query, request).await;
    }
    let of = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let (dialect, form, stream) = match (&method, path.as_str()) {
        (&Method::GET, "") => return page::page(shared),
        (&Method::GET, "/api/status") => return answer::json(StatusCode::OK, &shared.status()),
        (&Method::POST, "/api/sync") => return sync_now(shared).await,
        (&Method::POST, "/api/v2/write" | "/write") => {
            let precision = match of("precision").unwrap_or_default().parse::<Precision>() {
                Ok(precision) => precision,
                Err(error) => return answer::invalid(&error.to_string()),
            };
            (Dialect::Influx, Form::Lines(precision), of("bucket").or(of("db")))
        }
        (&Method::POST, "/api/data" | "/api/v1/data") => (Dialect::Json, Form::Json, of("stream")),
        (&Method::POST, "/v1/metrics") => {
            let json = match content_type(request.headers()) {
                "application/x-protobuf" => false,
                "application/json" => true,
                _ => {
                    let message = "content-type is application/x-protobuf or application/json";
                    return answer::failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid", message);
                }
            };
            let form = if json { Form::OtlpJson } else { Form::OtlpProtobuf };
            (Dialect::Otlp { json }, form, Some("otlp"))
        }
        (_, "/health" | "/ready" | "/metrics" | "/ping" | "" | "/api/status") => {
            return answer::method_not_allowed("GET, HEAD");
        }
        (_, "/api/v2/write" | "/write" | "/api/data" | "/api/v1/data" | "/v1/metrics" | "/api/sync") => {
            return answer::method_not_allowed("POST");
        }
        _ => return answer::failure(StatusCode::NOT_FOUND, "not found", "there is nothing at this address"),
    };
    let stream = match stream_name(stream) {
        Ok(stream) => stream,
        Err(message) => return answer::failure(StatusCode::NOT_FOUND, "not found", &message),
    };
    take(server, request, Readings { from, dialect, form, stream }).await
}

/// `data/NAME`; a name of InfluxDB (`db/retention`, capital letters) is made to fit.
fn stream_name(name: Option<&str>) -> Result<StreamName, String> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
    let name = format!("data/{}", name.to_ascii_lowercase().replace(' ', "-"));
    name.parse().map_err(|error: farshore_journal::StreamNameError| error.to_string())
}

fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// Whether readings are taken now: the journal can be written, and everything listens that should.
async fn ready(shared: &Arc<Shared>) -> Answer {
    let journal = shared.can_write().await;
    let listeners = shared.listening.states();
    let ready = journal.is_ok() && listeners.values().all(|up| *up);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let said = serde_json::json!({
        "ready": ready,
        "device_id": shared.config.device_id,
        "journal": journal.err().unwrap_or_else(|| "writable".to_owned()),
        "listeners": listeners,
    });
    answer::json(status, &said)
}

/// Sends what waits, now. 503 with the reason when the control plane could not be reached; 202 when it goes on after so long.
async fn sync_now(shared: &Arc<Shared>) -> Answer {
    match tokio::time::timeout(SYNC, shared.force_sync()).await {
        Ok(result) if result.success => answer::json(StatusCode::OK, &result),
        Ok(result) => answer::json(StatusCode::SERVICE_UNAVAILABLE, &result),
        Err(_) => {
            let points_pending = shared.journal.stats().pending_points();
            let error = Some("it is still sending; /api/status says how it goes".to_owned());
            let result = SyncResult { success: false, points_sent: 0, points_pending, error };
            answer::json(StatusCode::ACCEPTED, &result)
        }
    }
}

/// A body as it was sent.
struct Body {
    bytes: Bytes,
    encoding: Encoding,
    /// Where it lies.
    room: Room,
}

/// Who sends what to where.
struct Readings {
    /// The connection.
    from: Producer,
    dialect: Dialect,
    form: Form,
    stream: StreamName,
}

pub(super) fn no_room() -> Refusal {
    let message = "too many large bodies at once";
    Refusal { again: Some(1), ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", message) }
}

async fn take(server: &Arc<Server>, request: Request<Incoming>, readings: Readings) -> Answer {
    let dialect = readings.dialect;
    let begun = Instant::now();
    let (head, incoming) = request.into_parts();
    let encoding = head.headers.get(CONTENT_ENCODING).map_or("", |value| value.to_str().unwrap_or("?"));
    let encoding = match Encoding::parse(encoding) {
        Ok(encoding) => encoding,
        Err(error) => return refused(dialect, StatusCode::UNSUPPORTED_MEDIA_TYPE, &error.to_string()),
    };
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_BODY_BYTES) {
        let error = BodyError::TooLarge { bytes: length.unwrap_or_default() };
        return refused(dialect, StatusCode::PAYLOAD_TOO_LARGE, &error.to_string());
    }
    let mut room = server.rooms.arriving();
    let body = match room.read(incoming, MAX_BODY_BYTES, BODY).await {
        Ok(body) => body,
        Err(Unread::TooLarge) => {
            let error = BodyError::TooLarge { bytes: MAX_BODY_BYTES + 1 };
            return refused(dialect, StatusCode::PAYLOAD_TOO_LARGE, &error.to_string());
        }
        Err(Unread::NoRoom) => return told(dialect, &no_room()),
        Err(Unread::BrokeOff(error)) => {
            return refused(dialect, StatusCode::BAD_REQUEST, &format!("the body broke off: {error}"));
        }
        Err(Unread::Late) => return refused(dialect, StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    let body = Body { bytes: body, encoding, room };
    let key = head.headers.get("idempotency-key").map(|key| key.to_str().unwrap_or_default());
    let Some(key) = key else {
        return take_body(server, readings, body, begun).await;
    };
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let message = format!("an Idempotency-Key has 1 to {MAX_KEY_BYTES} characters");
        return refused(dialect, StatusCode::BAD_REQUEST, &message);
    }
    let key = format!("{} {key}", readings.stream);
    match server.shared.recent.claim(&key, whole(&head, &body.bytes)) {
        Key::New => {}
        Key::Other => {
            let message = "the Idempotency-Key was used for another request";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return told(dialect, &Refusal::new(status, "unprocessable entity", message));
        }
        Key::UnderWay => {
            let message = "the same request is still under way";
            let refusal = Refusal::new(StatusCode::CONFLICT, "conflict", message);
            return told(dialect, &Refusal { again: Some(1), ..refusal });
        }
        Key::Again(said) => {
            server.shared.counters.duplicates_http.add(1);
            return match said.content_type {
                Some(content_type) => answer::body(said.status, content_type, said.body),
                None => answer::empty(said.status),
            };
        }
    }
    // On its own: a client that goes away must find, when it comes again, what became of its points.
    let server = Arc::clone(server);
    let kept = tokio::spawn(async move {
        let claimed = Claimed { shared: &server.shared, key: &key };
        let answer = take_body(&server, readings, body, begun).await;
        let (head, body) = answer.into_parts();
        // A full body is there at once.
        let bytes = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(never) => match never {},
        };
        let content_type = match head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes()) {
            Some(value) if value == PROTOBUF.as_bytes() => Some(PROTOBUF),
            Some(_) => Some(JSON),
            None => None,
        };
        // 4xx with a part that was taken is an answer for good as well; what is to come again must be free to.
        if head.status.is_success() || head.status == StatusCode::BAD_REQUEST {
            let said = Said { status: head.status, content_type, body: bytes.clone() };
            server.shared.recent.keep(claimed.key, &said).await;
        }
        drop(claimed);
        Answer::from_parts(head, bytes.into())
    });
    match kept.await {
        Ok(answer) => answer,
        Err(error) => refused(dialect, StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// What tells a request from others: everything that says what its body means.
fn whole(head: &http::request::Parts, body: &[u8]) -> Digest {
    let mut digester = Digester::default();
    let header = |name| head.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let address = head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str).as_bytes();
    for part in [head.method.as_str().as_bytes(), address, header(CONTENT_ENCODING), header(CONTENT_TYPE)] {
        // None of them holds a line's end.
        digester.update(part);
        digester.update(b"\n");
    }
    digester.update(body);
    digester.finish()
}

/// A key that is given free when its request came to nothing, whatever the reason.
struct Claimed<'s> {
    shared: &'s Shared,
    key: &'s str,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.shared.recent.free(self.key);
    }
}

async fn take_body(server: &Arc<Server>, readings: Readings, body: Body, begun: Instant) -> Answer {
    let shared = Arc::clone(&server.shared);
    let Readings { from, dialect, form, stream } = readings;
    let Body { bytes, encoding, room } = body;
    let large = encoding != Encoding::Plain || bytes.len() > LARGE;
    let most = most_unpacked(bytes.len(), encoding);
    let read = move || -> Result<_, Unreadable> {
        let plain: Cow<'_, [u8]> = unpack(&bytes, encoding)?;
        let taken = shared.ingest.body(Some(from), &stream, form, &plain)?.since(begun);
        drop(room);
        Ok(taken)
    };
    let mut turn = None;
    let taken = if large {
        turn = server.rooms.turn(most).await;
        match tokio::task::spawn_blocking(move || (read(), turn)).await {
            Ok((taken, of_it)) => {
                turn = of_it;
                taken
            }
            Err(error) => return refused(dialect, StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    } else {
        read()
    };
    // The journal counts what it was given; where points are processed, they are in memory as they were read until they are durable.
    if server.shared.processing.is_none() {
        turn = None;
    }
    let taken = match taken {
        Ok(taken) => taken,
        Err(Unreadable::Body(error @ (BodyError::TooLarge { .. } | BodyError::Bomb { .. }))) => {
            return refused(dialect, StatusCode::PAYLOAD_TOO_LARGE, &error.to_string());
        }
        Err(Unreadable::Point(error @ PointError::TooMuch { .. })) => {
            return refused(dialect, StatusCode::PAYLOAD_TOO_LARGE, &error.to_string());
        }
        Err(Unreadable::Body(error)) => return refused(dialect, StatusCode::BAD_REQUEST, &error.to_string()),
        Err(Unreadable::Point(error)) => {
            return refused(dialect, StatusCode::BAD_REQUEST, &error.to_string());
        }
    };
    let outcome = match server.shared.ingest.durable(taken).await {
        Ok(outcome) => outcome,
        Err(error) => return not_kept(dialect, &error),
    };
    drop(turn);
    done(dialect, &outcome)
}

/// Why a body gives no points.
enum Unreadable {
    Body(BodyError),
    Point(PointError),
}

impl From<BodyError> for Unreadable {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<PointError> for Unreadable {
    fn from(error: PointError) -> Self {
        Self::Point(error)
    }
}

fn not_kept(dialect: Dialect, error: &JournalError) -> Answer {
    tracing::warn!(%error, "points were not taken");
    told(dialect, &answer::journal(error))
}

fn refused(dialect: Dialect, status: StatusCode, message: &str) -> Answer {
    let code = if status == StatusCode::PAYLOAD_TOO_LARGE { "request too large" } else { "invalid" };
    told(dialect, &Refusal::new(status, code, message))
}

/// As the producer's protocol has it.
fn told(dialect: Dialect, refusal: &Refusal) -> Answer {
    match dialect {
        Dialect::Otlp { json } => {
            let content_type = if json { "application/json" } else { "application/x-protobuf" };
            let body = otlp::failure(&refusal.message, json);
            refusal.put(answer::body(refusal.status, content_type, body))
        }
        Dialect::Influx | Dialect::Json => refusal.answer(),
    }
}

/// The points are durable. What was left out is told: as InfluxDB does, by 400 with the lines that were wrong.
fn done(dialect: Dialect, outcome: &Outcome) -> Answer {
    let partial = || {
        let message = format!(
            "partial write: {} taken, {} left out: {}",
            outcome.accepted,
            outcome.rejected,
            outcome.message()
        );
        answer::invalid(&message)
    };
    match dialect {
        Dialect::Influx if outcome.rejected == 0 => answer::empty(StatusCode::NO_CONTENT),
        Dialect::Influx => partial(),
        Dialect::Json => {
            let errors: Vec<String> =
                outcome.told.iter().map(|told| format!("{}: {}", told.place, told.error)).collect();
            let body = serde_json::json!({"accepted": outcome.accepted, "rejected": outcome.rejected, "errors": errors});
            let status = if outcome.rejected == 0 { StatusCode::OK } else { StatusCode::BAD_REQUEST };
            answer::json(status, &body)
        }
        Dialect::Otlp { json } => {
            let content_type = if json { "application/json" } else { "application/x-protobuf" };
            answer::body(StatusCode::OK, content_type, otlp::response(outcome, json))
        }
    }
}
