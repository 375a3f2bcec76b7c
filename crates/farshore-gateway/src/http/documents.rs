//! Documents and the twin for the apps on this device: `/documents…`, `/twin…`, `/changes`.

use std::time::Duration;

use farshore_domain::document::twin::outstanding;
use farshore_domain::document::{DESIRED, MAX_BYTES, REPORTED, Stamps, TWIN};
use http::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::body::Unread;
use super::{Server, routes};
use crate::documents::{DocumentsError, LocalDocument};
use crate::gateway::Shared;

/// For a body to arrive.
const BODY: Duration = Duration::from_secs(10);
/// Longest that a request waits for a change.
const MAX_WAIT_SECONDS: u64 = 60;
/// Most documents in an answer; of their values there is about 1 MiB.
const MAX_ITEMS: usize = 500;

pub(super) fn is_for_documents(path: &str) -> bool {
    let root = path.split('/').nth(1).unwrap_or_default();
    matches!(root, "documents" | "twin" | "changes")
}

pub(super) async fn answer(
    server: &Server,
    method: &Method,
    path: &str,
    query: &[(String, String)],
    request: Request<Incoming>,
) -> Answer {
    let shared = &server.shared;
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let answered = match (parts.as_slice(), method) {
        (["changes"], &Method::GET) => changes(shared, query).await,
        (["documents"], &Method::GET) => list(shared, None, query).await,
        (["documents", collection], &Method::GET) => list(shared, Some(collection), query).await,
        (["twin"], &Method::GET) => twin(shared).await,
        (["twin"], &Method::PATCH) => one(server, method, TWIN, REPORTED, request).await,
        (["twin", half], _) => one(server, method, TWIN, half, request).await,
        (["documents", collection, name], _) => one(server, method, collection, name, request).await,
        (["twin"], _) => Err(answer::method_not_allowed("GET, HEAD, PATCH")),
        (["documents" | "changes"] | ["documents", _], _) => Err(answer::method_not_allowed("GET, HEAD")),
        _ => Err(answer::failure(StatusCode::NOT_FOUND, "not found", "there is nothing at this address")),
    };
    answered.unwrap_or_else(|refused| refused)
}

type Answered = Result<Answer, Answer>;

fn refused(error: &DocumentsError) -> Answer {
    let status = match error {
        DocumentsError::Invalid(_) => StatusCode::BAD_REQUEST,
        DocumentsError::NotFound => StatusCode::NOT_FOUND,
        DocumentsError::Version { .. } => StatusCode::PRECONDITION_FAILED,
        DocumentsError::ReadOnly => StatusCode::FORBIDDEN,
        DocumentsError::TooMany(_) => StatusCode::CONFLICT,
        DocumentsError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
        DocumentsError::Store(_) | DocumentsError::Damaged(_) | DocumentsError::Stopped(_) => {
            tracing::error!(%error, source = ?std::error::Error::source(error), "a document was not read or written");
            return answer::later(StatusCode::SERVICE_UNAVAILABLE, error.code(), &error.to_string(), 5);
        }
    };
    answer::failure(status, error.code(), &error.to_string())
}

fn parameter<'q>(query: &'q [(String, String)], name: &str) -> Option<&'q str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Or what is wrong with it.
fn number(query: &[(String, String)], name: &str, most: u64) -> Result<Option<u64>, String> {
    let wrong = || format!("{name} is a whole number from 0 to {most}");
    match parameter(query, name).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(number)) if number <= most => Ok(Some(number)),
        Some(_) => Err(wrong()),
    }
}

async fn list(shared: &Shared, collection: Option<&str>, query: &[(String, String)]) -> Answered {
    let after = parameter(query, "after").unwrap_or_default();
    let after = after.split_once('/').unwrap_or_default();
    let found = shared.documents.list(collection, after, MAX_ITEMS).await.map_err(|error| refused(&error))?;
    let next = found.last().filter(|_| found.len() == MAX_ITEMS);
    let next = next.map(|last| format!("{}/{}", last.collection, last.name));
    let status = shared.documents.status().await.map_err(|error| refused(&error))?;
    let said =
        json!({"items": found, "after": next, "version": shared.documents.version(), "status": status});
    Ok(answer::json(StatusCode::OK, &said))
}

/// What changed after a version, the oldest first; `wait` seconds for the first.
async fn changes(shared: &Shared, query: &[(String, String)]) -> Answered {
    let wrong = |text: String| answer::invalid(&text);
    let after = number(query, "after", i64::MAX.unsigned_abs()).map_err(wrong)?;
    let after = after.unwrap_or_else(|| shared.documents.version());
    let wait = number(query, "wait", MAX_WAIT_SECONDS).map_err(wrong)?;
    let wait = Duration::from_secs(wait.unwrap_or_default());
    let found = shared.documents.changes(after, MAX_ITEMS, wait).await.map_err(|error| refused(&error))?;
    let next = found.last().map_or_else(|| after.min(shared.documents.version()), |last| last.version);
    Ok(answer::json(StatusCode::OK, &json!({"items": found, "after": next})))
}

async fn half(shared: &Shared, name: &str) -> Result<Option<LocalDocument>, Answer> {
    match shared.documents.get(TWIN, name).await {
        Ok(document) => Ok(Some(document)),
        Err(DocumentsError::NotFound) => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

async fn twin(shared: &Shared) -> Answered {
    let (desired, reported) = (half(shared, DESIRED).await?, half(shared, REPORTED).await?);
    let value = |half: &Option<LocalDocument>| {
        half.as_ref().and_then(|half| half.value.clone()).unwrap_or_else(|| Value::Object(Map::new()))
    };
    let version = |half: &Option<LocalDocument>| half.as_ref().map_or(0, |half| half.version);
    let outstanding = outstanding(Some(&value(&desired)), &Stamps::default(), Some(&value(&reported)));
    let delta: Vec<Value> = outstanding
        .into_iter()
        .map(|one| json!({"path": one.path, "desired": one.desired, "reported": one.reported}))
        .collect();
    let said = json!({
        "desired": value(&desired), "desiredVersion": version(&desired),
        "reported": value(&reported), "reportedVersion": version(&reported),
        "reportedPending": reported.as_ref().is_some_and(|half| half.pending),
        "delta": delta,
    });
    Ok(answer::json(StatusCode::OK, &said))
}

/// Or what is wrong with it.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim().trim_start_matches("W/").trim_matches('"');
    if text == "*" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| "If-Match is the version in quotes, as the ETag says")
}

async fn one(
    server: &Server,
    method: &Method,
    collection: &str,
    name: &str,
    request: Request<Incoming>,
) -> Answered {
    let expected = if_match(request.headers()).map_err(answer::invalid)?;
    let documents = &server.shared.documents;
    let done = match *method {
        Method::GET => documents.get(collection, name).await,
        Method::PUT => documents.put(collection, name, Some(body(server, request).await?), expected).await,
        Method::PATCH => documents.patch(collection, name, body(server, request).await?, expected).await,
        Method::DELETE => documents.put(collection, name, None, expected).await,
        _ => return Err(answer::method_not_allowed("GET, HEAD, PUT, PATCH, DELETE")),
    };
    let document = done.map_err(|error| refused(&error))?;
    let Some(value) = &document.value else { return Ok(answer::empty(StatusCode::NO_CONTENT)) };
    let mut answer = answer::json(StatusCode::OK, value);
    let headers = answer.headers_mut();
    if let Ok(version) = HeaderValue::from_str(&format!("\"{}\"", document.version)) {
        headers.insert(ETAG, version);
    }
    headers.insert(
        "x-document-pending",
        HeaderValue::from_static(if document.pending { "true" } else { "false" }),
    );
    Ok(answer)
}

async fn body(server: &Server, request: Request<Incoming>) -> Result<Value, Answer> {
    let too_large = || {
        answer::failure(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request too large",
            &format!("a document has at most {MAX_BYTES} bytes"),
        )
    };
    let mut room = server.rooms.arriving();
    // Spaces don't count.
    let bytes = match room.read(request.into_body(), 2 * MAX_BYTES, BODY).await {
        Ok(bytes) => bytes,
        Err(Unread::TooLarge) => return Err(too_large()),
        Err(Unread::NoRoom) => return Err(routes::no_room().answer()),
        Err(Unread::BrokeOff(error)) => {
            return Err(answer::invalid(&format!("the body broke off: {error}")));
        }
        Err(Unread::Late) => {
            return Err(answer::failure(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long"));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| answer::invalid(&format!("the body is no JSON: {error}")))
}
