//! `/api/document-collections`: what decides conflicts, and what devices may only read.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use farshore_api::document::{DocumentCollection, DocumentCollectionChange};
use farshore_api::{List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_domain::document::rule::{MAX_RULES, check_rules};
use farshore_domain::document::{TWIN, check_collection};
use farshore_store::document_collections::{CollectionRow, CollectionRules};

use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, if_match, versioned};
use crate::route::{Access, Db, Route, route};

/// Decided conflicts are kept no longer than this.
const MAX_CONFLICT_DAYS: u32 = 400;

fn view(row: CollectionRow) -> DocumentCollection {
    DocumentCollection {
        name: row.name,
        rules: row.set.rules,
        read_only: row.set.read_only,
        conflict_days: row.set.conflict_days,
        resource_version: row.resource_version,
        changed_at: row.changed_at,
        changed_by: row.changed_by,
    }
}

/// Lists the collections that have rules. The documents of all others are merged field by field.
#[utoipa::path(get, path = "/api/document-collections", tag = "documents",
    responses((status = 200, body = List<DocumentCollection>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db) -> ApiResult<Json<List<DocumentCollection>>> {
    let mut tx = db.read().await?;
    let items = db.document_collections(&mut tx).await?.into_iter().map(view).collect();
    Ok(Json(List { items, metadata: ListMetadata::default() }))
}

/// Sets the rules of a collection, on all devices. They hold for what is decided from now on.
#[utoipa::path(put, path = "/api/document-collections/{name}", tag = "documents", params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body = DocumentCollectionChange, responses((status = 200, body = DocumentCollection), (status = "4XX", body = Problem)))]
async fn put(
    State(app): State<App>,
    Db(db): Db,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(change): Body<DocumentCollectionChange>,
) -> ApiResult<Response> {
    check_collection(&name).map_err(|error| ApiError::field("name", error.to_string()))?;
    if name == TWIN {
        return Err(ApiError::field(
            "name",
            "a twin has no conflicts: desired is the cloud's, reported the device's",
        ));
    }
    for (index, rule) in change.rules.iter().enumerate().take(MAX_RULES) {
        rule.check().map_err(|error| ApiError::field(format!("rules[{index}]"), error.to_string()))?;
    }
    check_rules(&change.rules).map_err(|error| ApiError::field("rules", error.to_string()))?;
    if change.conflict_days.is_some_and(|days| !(1..=MAX_CONFLICT_DAYS).contains(&days)) {
        return Err(ApiError::field("conflictDays", format!("is 1 to {MAX_CONFLICT_DAYS}")));
    }
    let set = CollectionRules {
        rules: change.rules,
        read_only: change.read_only,
        conflict_days: change.conflict_days,
    };
    let row = db.put_document_collection(&name, &set, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(versioned(row.resource_version, &view(row)))
}

/// Forgets the rules of a collection: its documents are merged field by field again.
#[utoipa::path(delete, path = "/api/document-collections/{name}", tag = "documents", params(("name" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.delete_document_collection(&name, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, put, delete))]
pub struct CollectionDocs;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::DeviceRead), Access::Needs(Permission::FleetWrite));
    vec![
        route(Method::GET, "/api/document-collections", read, list),
        route(Method::PUT, "/api/document-collections/{name}", write, put),
        route(Method::DELETE, "/api/document-collections/{name}", write, delete),
    ]
}
