//! SSE streams: what is common to all, and the stream of events.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use farshore_api::ErrorCode;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use farshore_store::events::EventFilter;
use farshore_store::{Principal, StoreResult, TenantDb};
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;

use super::feed::{Published, StreamPlace};
use crate::app::App;
use crate::clock::now;
use crate::error::ApiError;

/// A comment is sent this often, so that no proxy thinks the stream is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Whether the session still is good is looked at this often.
const RECHECK: Duration = Duration::from_secs(60);
/// A reader who is further behind than this begins anew.
pub const MAX_REPLAY: i64 = 10_000;
const PAGE: u32 = 500;
/// Devices that changed are told of this often.
const CHANGES_EVERY: Duration = Duration::from_secs(1);

/// Who reads a stream, and for how long that may go on.
#[derive(Debug)]
pub struct Reader {
    app: App,
    tenant: TenantId,
    expires_at: UnixMs,
    headers: HeaderMap,
    /// Held for as long as the stream lives.
    _place: StreamPlace,
}

impl Reader {
    /// Takes a place for one more stream.
    pub fn new(app: &App, principal: &Principal, headers: &HeaderMap) -> Result<Self, ApiError> {
        let tenant = principal.tenant();
        let place = app.hub().feed().place(tenant).ok_or_else(|| {
            ApiError::new(
                ErrorCode::TooManyRequests,
                "Too many streams are open for this tenant. Close some pages, or come back later.",
            )
            .retry_after(30)
        })?;
        let expires_at = principal.expires_at();
        Ok(Self { app: app.clone(), tenant, expires_at, headers: headers.clone(), _place: place })
    }

    #[must_use]
    pub const fn app(&self) -> &App {
        &self.app
    }

    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Returns when the stream must end: the session expired or was revoked, or the control plane stops.
    pub async fn over(&self) {
        loop {
            let left_ms = self.expires_at.since_ms(now()).max(0);
            let wait = RECHECK.min(Duration::from_millis(left_ms.unsigned_abs()));
            tokio::select! {
                () = self.app.shutdown().cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if self.expires_at <= now() {
                return;
            }
            match crate::access::authenticate(&self.app, &Method::GET, &self.headers).await {
                Ok(principal) if principal.tenant() == self.tenant => {}
                Ok(_) => return,
                // When the database does not answer, the next look decides.
                Err(error) if error.problem().code == ErrorCode::Internal => {}
                Err(_) => return,
            }
        }
    }
}

/// Makes the answer of a stream.
pub fn respond(stream: impl Stream<Item = Result<SseEvent, Infallible>> + Send + 'static) -> Response {
    let mut response =
        Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("")).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The number after which a resuming reader goes on.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim();
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(ApiError::field("Last-Event-ID", "is the id of the last event that was read, a number")),
    }
}

fn event(published: &Published) -> SseEvent {
    SseEvent::default().id(published.sequence.to_string()).event(&published.kind).data(&published.json)
}

fn reset(last: i64) -> SseEvent {
    SseEvent::default()
        .id(last.to_string())
        .event("reset")
        .data(serde_json::json!({ "sequence": last }).to_string())
}

/// A page from the database, written out.
async fn page(db: &TenantDb, after: i64, filter: &EventFilter) -> StoreResult<Vec<Published>> {
    let rows = db.events_after(after, filter, PAGE).await?;
    Ok(rows.into_iter().filter_map(|row| Published::new(row).ok()).collect())
}

/// Events that pass the filter: after `resume`, if given, else from now on.
pub fn events(
    reader: Reader,
    db: TenantDb,
    filter: EventFilter,
    resume: Option<i64>,
) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    async_stream::stream! {
        let hub = reader.app().hub();
        // Followed before the database is read: what is numbered in between comes twice, and is told apart by its number.
        let mut feed = hub.feed().follow(reader.tenant());
        let mut changes = hub.changes();
        let mut changed: HashSet<DeviceId> = HashSet::new();
        let mut tell_changes = tokio::time::interval(CHANGES_EVERY);
        tell_changes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let over = reader.over();
        tokio::pin!(over);

        let Ok(span) = db.event_span().await else { return };
        let (mut last, mut behind) = match resume {
            None => (span.last, false),
            Some(id) if id > span.last || id + 1 < span.first || span.last - id > MAX_REPLAY => {
                yield Ok(reset(span.last));
                (span.last, false)
            }
            Some(id) => (id, true),
        };
        // Tells the reader at once that the stream stands.
        yield Ok(SseEvent::default().comment("open"));
        loop {
            while behind {
                let Ok(events) = page(&db, last, &filter).await else { return };
                behind = events.len() == PAGE as usize;
                for one in events {
                    last = one.sequence;
                    yield Ok(event(&one));
                }
            }
            tokio::select! {
                () = &mut over => return,
                batch = feed.recv() => match batch {
                    Ok(batch) => {
                        for one in batch.iter().filter(|one| one.sequence > last && one.passes(&filter)) {
                            yield Ok(event(one));
                        }
                        last = batch.last().map_or(last, |one| one.sequence.max(last));
                    }
                    Err(RecvError::Lagged(_)) => behind = true,
                    Err(RecvError::Closed) => return,
                },
                change = changes.recv() => match change {
                    Ok(change) if change.tenant == reader.tenant() => {
                        changed.insert(change.device);
                    }
                    // Changes carry no number: what a slow reader missed, its next look at the list shows.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = tell_changes.tick(), if !changed.is_empty() => {
                    for device in changed.drain() {
                        let name = hub.name(reader.tenant(), device);
                        let data = serde_json::json!({ "uid": device, "name": name }).to_string();
                        yield Ok(SseEvent::default().event("device-changed").data(data));
                    }
                }
            }
        }
    }
}
