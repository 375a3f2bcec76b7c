//! `/api/document-conflicts`: what both sides had changed, and the choice where somebody has to make it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Method;
use farshore_api::document::{Choice, ConflictChoice, Document, DocumentConflict};
use farshore_api::{ErrorCode, List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_domain::document::{check_names, path};
use farshore_domain::time::UnixMs;
use farshore_store::document_conflicts::{ConflictFilter, ConflictRow};
use farshore_store::{StoreError, TenantDb};
use serde::Deserialize;
use uuid::Uuid;

use super::edit::{self, Target};
use super::routes::view as document;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, cursor_uuid};
use crate::route::{Access, Db, Route, route};

fn view(row: ConflictRow) -> DocumentConflict {
    let conflict = row.conflict;
    DocumentConflict {
        uid: row.uid,
        device: row.device,
        device_name: row.device_name,
        collection: row.collection,
        name: row.name,
        path: conflict.path,
        rule: conflict.rule,
        winner: conflict.winner,
        note: conflict.note,
        base: conflict.base,
        edge: conflict.edge,
        cloud: conflict.cloud,
        edge_at: conflict.edge_stamp.map(|stamp| UnixMs(stamp.at.ms)),
        cloud_at: conflict.cloud_stamp.as_ref().map(|stamp| UnixMs(stamp.at.ms)),
        cloud_by: conflict.cloud_stamp.map(|stamp| stamp.by),
        revision: row.revision,
        at: row.at,
        open: row.open,
        settled_at: row.settled_at,
        settled_by: row.settled_by,
        chosen: row.chosen,
    }
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of the device with this name or uid.
    device: Option<String>,
    /// `open` or `settled`.
    state: Option<String>,
    /// With `name`: only of this document.
    collection: Option<String>,
    name: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

/// Lists conflicts, the newest first. They are kept for 30 days after they were decided, open ones for 400.
#[utoipa::path(get, path = "/api/document-conflicts", tag = "documents", params(ListQuery),
    responses((status = 200, body = List<DocumentConflict>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(query): Query<ListQuery>) -> ApiResult<Json<List<DocumentConflict>>> {
    let device = match &query.device {
        Some(id) => Some(db.device_id(id).await?),
        None => None,
    };
    let open = match query.state.as_deref() {
        None => None,
        Some("open") => Some(true),
        Some("settled") => Some(false),
        Some(_) => return Err(ApiError::field("state", "is open or settled")),
    };
    let document = match (query.collection, query.name) {
        (Some(collection), Some(name)) => {
            check_names(&collection, &name).map_err(|error| ApiError::field("name", error.to_string()))?;
            Some((collection, name))
        }
        (None, None) => None,
        _ => return Err(ApiError::field("name", "and collection belong together")),
    };
    let page = Page { limit: query.limit, continue_from: query.continue_from };
    let before = page.continue_from.as_deref().map(cursor_uuid).transpose()?;
    let filter = ConflictFilter { device, open, document, before };
    let (rows, more) = db.conflicts(&filter, page.limit()?).await?;
    let continue_from = rows.last().filter(|_| more).map(|row| row.uid.to_string());
    let items = rows.into_iter().map(view).collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

fn uid(id: &str) -> ApiResult<Uuid> {
    // What is no uid names nothing.
    Ok(id.parse().map_err(|_| StoreError::NotFound("conflict"))?)
}

/// Shows a conflict.
#[utoipa::path(get, path = "/api/document-conflicts/{id}", tag = "documents", params(("id" = String, Path)),
    responses((status = 200, body = DocumentConflict), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Json<DocumentConflict>> {
    let mut tx = db.read().await?;
    Ok(Json(view(db.conflict(&mut tx, uid(&id)?).await?)))
}

/// Decides an open conflict: the place gets the value that is chosen, in a new revision that goes to the device.
#[utoipa::path(post, path = "/api/document-conflicts/{id}:resolve", tag = "documents", params(("id" = String, Path)), request_body = ConflictChoice,
    responses((status = 200, body = Document), (status = "4XX", body = Problem)))]
async fn resolve(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(choice): Body<ConflictChoice>,
) -> ApiResult<Json<Document>> {
    choose(&app, &db, uid(&id)?, choice, true).await
}

/// Brings a value back that lost in a conflict which was decided: a new revision that goes to the device.
#[utoipa::path(post, path = "/api/document-conflicts/{id}:restore", tag = "documents", params(("id" = String, Path)), request_body = ConflictChoice,
    responses((status = 200, body = Document), (status = "4XX", body = Problem)))]
async fn restore(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(choice): Body<ConflictChoice>,
) -> ApiResult<Json<Document>> {
    choose(&app, &db, uid(&id)?, choice, false).await
}

async fn choose(
    app: &App,
    db: &TenantDb,
    uid: Uuid,
    choice: ConflictChoice,
    open: bool,
) -> ApiResult<Json<Document>> {
    if (choice.choose == Choice::Value) != choice.value.is_some() {
        return Err(ApiError::field("value", "is given with choose: value, and only then"));
    }
    let now = now();
    let mut tx = db.begin().await?;
    let row = db.conflict(&mut tx, uid).await?;
    let device = row.device;
    // Locked before it is looked at again: two people may choose at once.
    db.lock_documents(&mut tx, device).await?;
    let row = db.conflict(&mut tx, row.uid).await?;
    if row.open != open {
        let text = if open {
            "It is decided already; :restore brings a value back."
        } else {
            "It is open; :resolve decides it."
        };
        return Err(ApiError::new(ErrorCode::Conflict, text));
    }
    let value = match choice.choose {
        Choice::Edge => row.conflict.edge,
        Choice::Cloud => row.conflict.cloud,
        Choice::Base => row.conflict.base,
        Choice::Value => choice.value,
    };
    let cause = if open { "resolve" } else { "restore" };
    let target = Target { device, collection: &row.collection, name: &row.name, cause };
    let place = row.conflict.path;
    let changed = edit::edit_in(db, &mut tx, target, None, now, |current| {
        if value.is_none() && path::get(current, &place).is_none() {
            // As it is already.
            return Ok(current.cloned());
        }
        Ok(path::set(current, &place, value))
    })
    .await;
    let (written, changed) = changed?;
    db.settle_conflict(&mut tx, uid, choice.choose.as_str(), now).await?;
    let head = db.document_head(&mut tx, device).await?;
    tx.commit().await?;
    if changed {
        edit::told(app, db, device);
    }
    Ok(Json(document(device, written, head.map_or(0, |head| head.cursor))))
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, get, resolve, restore))]
pub struct ConflictDocs;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::DeviceRead), Access::Needs(Permission::DeviceWrite));
    vec![
        route(Method::GET, "/api/document-conflicts", read, list),
        route(Method::GET, "/api/document-conflicts/{id}", read, get),
        route(Method::POST, "/api/document-conflicts/{id}/~resolve", write, resolve),
        route(Method::POST, "/api/document-conflicts/{id}/~restore", write, restore),
    ]
}
