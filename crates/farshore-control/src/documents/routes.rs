//! `/api/devices/{id}/documents…` and `/api/devices/{id}/twin`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use farshore_api::document::{Document, DocumentRevision, DocumentSync, Twin, TwinHalf};
use farshore_api::{List, Problem};
use farshore_domain::access::Permission;
use farshore_domain::document::twin::outstanding;
use farshore_domain::document::{DESIRED, REPORTED, TWIN, check_collection, patch};
use farshore_domain::id::DeviceId;
use farshore_store::documents::{DocumentRow, ListedRow};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::edit::{self, Target, names};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, if_match, limit, versioned};
use crate::route::{Access, Db, Route, route};

/// A document as it is shown; `cursor` is how far its device has come.
pub(super) fn view(device: DeviceId, row: DocumentRow, cursor: u64) -> Document {
    let bytes = row.held.value.as_ref().and_then(|value| serde_json::to_string(value).ok());
    Document {
        device,
        collection: row.collection,
        name: row.name,
        revision: row.held.revision,
        bytes: bytes.map_or(0, |text| text.len() as u64),
        author: row.author,
        created_at: row.created_at,
        changed_at: row.changed_at,
        delivered: row.sequence <= cursor,
        value: row.held.value,
        times: row.held.stamps.0,
    }
}

fn listed(device: DeviceId, row: ListedRow, cursor: u64) -> Document {
    Document {
        device,
        collection: row.collection,
        name: row.name,
        revision: row.revision,
        bytes: row.bytes,
        author: row.author,
        created_at: row.created_at,
        changed_at: row.changed_at,
        delivered: row.sequence <= cursor,
        value: None,
        times: BTreeMap::new(),
    }
}

fn shown(device: DeviceId, row: DocumentRow, cursor: u64) -> Response {
    let version = row.held.revision.cast_signed();
    versioned(version, &view(device, row, cursor))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this collection.
    collection: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    continue_from: Option<String>,
}

/// Lists the documents of a device, without their values.
#[utoipa::path(get, path = "/api/devices/{id}/documents", tag = "documents", params(("id" = String, Path), ListQuery),
    responses((status = 200, body = List<Document>), (status = "4XX", body = Problem)))]
async fn list(
    Db(db): Db,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<List<Document>>> {
    let device = db.device_id(&id).await?;
    if let Some(collection) = &query.collection {
        check_collection(collection).map_err(|error| ApiError::field("collection", error.to_string()))?;
    }
    let page = Page { limit: query.limit, continue_from: query.continue_from };
    let wrong = || ApiError::field("continue", "is what the page before said");
    let after =
        page.continue_from.as_deref().map(|text| text.split_once('/').ok_or_else(wrong)).transpose()?;
    let rows = db.documents(device, query.collection.as_deref(), after, page.limit()?).await?;
    let mut tx = db.read().await?;
    let cursor = db.document_head(&mut tx, device).await?.map_or(0, |head| head.cursor);
    page.of(rows, |row| format!("{}/{}", row.collection, row.name), |row| listed(device, row, cursor))
}

/// Shows a document.
#[utoipa::path(get, path = "/api/devices/{id}/documents/{collection}/{name}", tag = "documents",
    params(("id" = String, Path), ("collection" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = Document), (status = "4XX", body = Problem)))]
async fn get(
    Db(db): Db,
    Path((id, collection, name)): Path<(String, String, String)>,
) -> ApiResult<Response> {
    let device = db.device_id(&id).await?;
    names(&collection, &name)?;
    let mut tx = db.read().await?;
    let mut found = db.documents_named(&mut tx, device, &[(&collection, &name)]).await?;
    let row = found.remove(&(collection.clone(), name.clone())).filter(|row| row.held.value.is_some());
    let row = row.ok_or_else(|| ApiError::not_found("document", &format!("{collection}/{name}")))?;
    let cursor = db.document_head(&mut tx, device).await?.map_or(0, |head| head.cursor);
    Ok(shown(device, row, cursor))
}

type Names = Path<(String, String, String)>;

/// Writes a document as a whole. It goes to the device with its next exchange.
#[utoipa::path(put, path = "/api/devices/{id}/documents/{collection}/{name}", tag = "documents",
    params(("id" = String, Path), ("collection" = String, Path), ("name" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content = Object, description = "the document: a JSON object"),
    responses((status = 200, body = Document), (status = "4XX", body = Problem)))]
async fn put(
    State(app): State<App>,
    Db(db): Db,
    Path((id, collection, name)): Names,
    headers: HeaderMap,
    Body(value): Body<Value>,
) -> ApiResult<Response> {
    let device = db.device_id(&id).await?;
    let target = Target { device, collection: &collection, name: &name, cause: "edit" };
    let row = edit::edit(&app, &db, target, if_match(&headers)?, now(), |_| Ok(Some(value))).await?;
    Ok(shown(device, row, 0))
}

/// Changes a document by a JSON Merge Patch (RFC 7396): members that are `null` are deleted, the others set. One that is not there is made.
#[utoipa::path(patch, path = "/api/devices/{id}/documents/{collection}/{name}", tag = "documents",
    params(("id" = String, Path), ("collection" = String, Path), ("name" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content = Object, description = "a JSON Merge Patch"),
    responses((status = 200, body = Document), (status = "4XX", body = Problem)))]
async fn change(
    State(app): State<App>,
    Db(db): Db,
    Path((id, collection, name)): Names,
    headers: HeaderMap,
    Body(change): Body<Value>,
) -> ApiResult<Response> {
    let device = db.device_id(&id).await?;
    let target = Target { device, collection: &collection, name: &name, cause: "edit" };
    let row = edit::edit(&app, &db, target, if_match(&headers)?, now(), |current| patched(current, &change));
    Ok(shown(device, row.await?, 0))
}

fn patched(current: Option<&Value>, change: &Value) -> ApiResult<Option<Value>> {
    if !change.is_object() {
        return Err(ApiError::field("body", "is a JSON Merge Patch: an object"));
    }
    let empty = Value::Object(Map::new());
    Ok(Some(patch::apply(current.unwrap_or(&empty), change)))
}

/// Deletes a document, on the device too.
#[utoipa::path(delete, path = "/api/devices/{id}/documents/{collection}/{name}", tag = "documents",
    params(("id" = String, Path), ("collection" = String, Path), ("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path((id, collection, name)): Names,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    let device = db.device_id(&id).await?;
    let target = Target { device, collection: &collection, name: &name, cause: "edit" };
    edit::edit(&app, &db, target, if_match(&headers)?, now(), |_| Ok(None)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// At most this many; 100 when left out, 1,000 at most. 50 revisions are kept.
    limit: Option<u32>,
    /// Revisions before this one.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    continue_from: Option<u64>,
}

/// Lists the kept revisions of a document, the newest first, with what each changed. The last 50 are kept, for 30 days.
#[utoipa::path(get, path = "/api/devices/{id}/documents/{collection}/{name}/history", tag = "documents",
    params(("id" = String, Path), ("collection" = String, Path), ("name" = String, Path), HistoryQuery),
    responses((status = 200, body = List<DocumentRevision>), (status = "4XX", body = Problem)))]
async fn history(
    Db(db): Db,
    Path((id, collection, name)): Names,
    Query(query): Query<HistoryQuery>,
) -> ApiResult<Json<List<DocumentRevision>>> {
    let device = db.device_id(&id).await?;
    names(&collection, &name)?;
    let size = limit(query.limit)?;
    // One more, so that the last one's changes can be told.
    let mut rows = db.document_history(device, (&collection, &name), query.continue_from, size + 1).await?;
    let before: Vec<Option<Value>> = rows.iter().skip(1).map(|row| row.value.clone()).collect();
    let more = rows.len() > size as usize;
    rows.truncate(size as usize);
    let continue_from = rows.last().filter(|_| more).map(|row| row.revision.to_string());
    let items = rows
        .into_iter()
        .enumerate()
        .map(|(index, row)| DocumentRevision {
            revision: row.revision,
            at: row.at,
            author: row.author,
            cause: row.cause,
            changes: match (before.get(index), &row.value) {
                (Some(Some(before)), Some(value)) => Some(patch::diff(before, value)),
                _ => None,
            },
            value: row.value,
        })
        .collect();
    Ok(Json(List { items, metadata: farshore_api::ListMetadata { continue_from, total: None } }))
}

fn half(row: Option<&DocumentRow>) -> TwinHalf {
    let empty = || Value::Object(Map::new());
    row.map_or_else(
        || TwinHalf { value: empty(), ..TwinHalf::default() },
        |row| TwinHalf {
            version: row.held.revision,
            value: row.held.value.clone().unwrap_or_else(empty),
            changed_at: Some(row.changed_at),
            times: row.held.stamps.0.clone(),
        },
    )
}

async fn read_twin(db: &farshore_store::TenantDb, device: DeviceId) -> ApiResult<Response> {
    let mut tx = db.read().await?;
    let found = db.documents_named(&mut tx, device, &[(TWIN, DESIRED), (TWIN, REPORTED)]).await?;
    let of = |name: &str| found.get(&(TWIN.to_owned(), name.to_owned()));
    let (desired, reported) = (of(DESIRED), of(REPORTED));
    let head = db.document_head(&mut tx, device).await?;
    let open_conflicts = db.open_conflicts(&mut tx, device).await?;
    let cursor = head.as_ref().map_or(0, |head| head.cursor);
    let pending = desired.map_or_else(Vec::new, |row| {
        let reported = reported.and_then(|row| row.held.value.as_ref());
        outstanding(row.held.value.as_ref(), &row.held.stamps, reported)
    });
    let twin = Twin {
        device,
        pending,
        delivered: desired.is_none_or(|row| row.sequence <= cursor),
        desired: half(desired),
        reported: half(reported),
        sync: DocumentSync {
            synced_at: head.as_ref().and_then(|head| head.synced_at),
            pending: head.as_ref().map_or(0, |head| head.pending),
            pending_since: head.and_then(|head| head.pending_since),
            open_conflicts,
        },
    };
    Ok(versioned(twin.desired.version.cast_signed(), &twin))
}

/// Shows what is desired of a device, what it reports of itself, and what of the first is not in the second.
#[utoipa::path(get, path = "/api/devices/{id}/twin", tag = "documents", params(("id" = String, Path)),
    responses((status = 200, body = Twin), (status = "4XX", body = Problem)))]
async fn twin(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let device = db.device_id(&id).await?;
    read_twin(&db, device).await
}

/// Changes what is desired of a device, by a JSON Merge Patch: members that are `null` are deleted.
#[utoipa::path(patch, path = "/api/devices/{id}/twin", tag = "documents", params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body(content = Object, description = "a JSON Merge Patch for desired"),
    responses((status = 200, body = Twin), (status = "4XX", body = Problem)))]
async fn desire(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(change): Body<Value>,
) -> ApiResult<Response> {
    let device = db.device_id(&id).await?;
    let target = Target { device, collection: TWIN, name: DESIRED, cause: "edit" };
    edit::edit(&app, &db, target, if_match(&headers)?, now(), |current| patched(current, &change)).await?;
    read_twin(&db, device).await
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, get, put, change, delete, history, twin, desire))]
pub struct DocumentDocs;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::DeviceRead), Access::Needs(Permission::DeviceWrite));
    const ONE: &str = "/api/devices/{id}/documents/{collection}/{name}";
    vec![
        route(Method::GET, "/api/devices/{id}/documents", read, list),
        route(Method::GET, ONE, read, get),
        route(Method::PUT, ONE, write, put),
        route(Method::PATCH, ONE, write, change),
        route(Method::DELETE, ONE, write, delete),
        route(Method::GET, "/api/devices/{id}/documents/{collection}/{name}/history", read, history),
        route(Method::GET, "/api/devices/{id}/twin", read, twin),
        route(Method::PATCH, "/api/devices/{id}/twin", write, desire),
    ]
}
