//! `/api/events`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use farshore_api::event::Event;
use farshore_api::{List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_store::events::EventFilter;
use serde::Deserialize;

use super::stream;
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::Query;
use crate::route::{Access, Caller, Db, Route, route};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;
/// Longest word in a filter.
const MAX_WORD: usize = 253;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only events with a higher number, oldest first.
    after: Option<i64>,
    /// Only events with a lower number, newest first.
    before: Option<i64>,
    /// Only events of this type, such as `device.offline`.
    kind: Option<String>,
    /// Only events about this kind of object, such as `Device`.
    subject_kind: Option<String>,
    /// Only events about the object with this uid or name.
    subject: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// The `continue` of the page before.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    continue_from: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct StreamQuery {
    /// Only events of this type.
    kind: Option<String>,
    /// Only events about this kind of object.
    subject_kind: Option<String>,
    /// Only events about the object with this uid or name.
    subject: Option<String>,
}

fn filter(
    kind: Option<String>,
    subject_kind: Option<String>,
    subject: Option<String>,
) -> Result<EventFilter, ApiError> {
    for (field, value) in [("kind", &kind), ("subjectKind", &subject_kind), ("subject", &subject)] {
        if value.as_ref().is_some_and(|value| value.len() > MAX_WORD || value.contains('\0')) {
            return Err(ApiError::field(field, format!("has at most {MAX_WORD} characters")));
        }
    }
    Ok(EventFilter { kind, subject_kind, subject })
}

/// Lists events: newest first, or after a number, oldest first.
#[utoipa::path(get, path = "/api/events", tag = "events", params(ListQuery),
    responses((status = 200, body = List<Event>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(query): Query<ListQuery>) -> ApiResult<Json<List<Event>>> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::field("limit", format!("is a number from 1 to {MAX_LIMIT}")));
    }
    if query.after.is_some() && query.before.is_some() {
        return Err(ApiError::field("before", "can't be used together with after"));
    }
    let cursor = match query.continue_from.as_deref() {
        None => None,
        Some(text) => Some(
            text.parse::<i64>()
                .map_err(|_| ApiError::field("continue", "is not from a page of this list"))?,
        ),
    };
    let filter = filter(query.kind, query.subject_kind, query.subject)?;
    // One more than asked for tells whether there is a next page.
    let mut rows = match query.after {
        Some(after) => db.events_after(cursor.unwrap_or(after), &filter, limit + 1).await?,
        None => db.events_before(cursor.or(query.before), &filter, limit + 1).await?,
    };
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let continue_from = if more { rows.last().map(|row| row.sequence.to_string()) } else { None };
    let items = rows.into_iter().map(super::view).collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

/// Follows events over SSE: `id:` is the number, `event:` the type, `data:` the event. `Last-Event-ID` resumes; `event: reset` says that the gap is too
/// large and the reader should read the list anew. `event: device-changed` (without an id) says that a device's state changed.
#[utoipa::path(get, path = "/api/events/stream", tag = "events", params(StreamQuery, ("Last-Event-ID" = Option<i64>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem)))]
async fn follow(
    State(app): State<App>,
    Db(db): Db,
    Caller(principal): Caller,
    headers: HeaderMap,
    Query(query): Query<StreamQuery>,
) -> ApiResult<Response> {
    let filter = filter(query.kind, query.subject_kind, query.subject)?;
    let resume = stream::last_event_id(&headers)?;
    let reader = stream::Reader::new(&app, &principal, &headers)?;
    Ok(stream::respond(stream::events(reader, db, filter, resume)))
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, follow))]
pub struct EventDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::EventRead);
    vec![
        route(Method::GET, "/api/events", read, list),
        route(Method::GET, "/api/events/stream", read, follow),
    ]
}
