//! `/api/incidents`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Method;
use axum::response::Response;
use farshore_api::incident::{EvidencePart, Incident, IncidentAction, IncidentState};
use farshore_api::{List, Problem};
use farshore_domain::access::Permission;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use farshore_store::TenantDb;
use farshore_store::incidents::{IncidentFilter, IncidentRow, IncidentVerb};
use serde::Deserialize;

use super::{bundle, view};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, check_text, versioned};
use crate::route::{Access, Db, Route, route};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only incidents of the device with this name or uid.
    device: Option<String>,
    /// Only incidents of this app.
    app: Option<String>,
    /// `open` or `resolved`.
    state: Option<IncidentState>,
    /// Only incidents that began then or later, in Unix milliseconds.
    since: Option<i64>,
    /// Only incidents that fell into the rollout with this name or uid.
    rollout: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

async fn page(db: &TenantDb, filter: IncidentFilter, page: Page) -> ApiResult<Json<List<Incident>>> {
    let limit = page.limit()?;
    let before = page.continue_from.as_deref().map(crate::extract::cursor_uuid).transpose()?;
    let rows = db.incidents(&filter, before, limit).await?;
    page.of(rows, |row| row.uid.to_string(), |row| view(row, Vec::new()))
}

/// Lists incidents, newest first.
#[utoipa::path(get, path = "/api/incidents", tag = "incidents", params(ListQuery),
    responses((status = 200, body = List<Incident>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(query): Query<ListQuery>) -> ApiResult<Json<List<Incident>>> {
    let open = match query.state {
        None => None,
        Some(IncidentState::Open) => Some(true),
        Some(IncidentState::Resolved) => Some(false),
        Some(IncidentState::Unknown) => return Err(ApiError::field("state", "is open or resolved")),
    };
    if query.app.as_deref().is_some_and(|app| Name::new(app).is_err()) {
        return Err(ApiError::field("app", "is the name of an app"));
    }
    if query.device.as_ref().is_some_and(|device| device.len() > 253) {
        return Err(ApiError::field("device", "is the name or uid of a device"));
    }
    let rollout = match &query.rollout {
        Some(id) => Some(db.rollout(id).await?.id()),
        None => None,
    };
    let since = query.since.map(UnixMs);
    let filter = IncidentFilter { device: query.device, app: query.app, open, since, rollout };
    page(&db, filter, Page { limit: query.limit, continue_from: query.continue_from }).await
}

/// Lists the incidents that fell into a rollout, newest first.
#[utoipa::path(get, path = "/api/rollouts/{id}/incidents", tag = "incidents", params(("id" = String, Path), Page),
    responses((status = 200, body = List<Incident>), (status = "4XX", body = Problem)))]
async fn of_rollout(
    Db(db): Db,
    Path(id): Path<String>,
    Query(query): Query<Page>,
) -> ApiResult<Json<List<Incident>>> {
    let rollout = Some(db.rollout(&id).await?.id());
    page(&db, IncidentFilter { rollout, ..IncidentFilter::default() }, query).await
}

async fn show(db: &TenantDb, row: IncidentRow) -> ApiResult<Response> {
    let evidence = db.incident_evidence(row.uid).await?;
    let evidence = evidence.into_iter().map(|(part, taken_at, body)| EvidencePart {
        part,
        taken_at,
        bytes: body.len() as u64,
    });
    let version = row.resource_version;
    Ok(versioned(version, &view(row, evidence.collect())))
}

/// Shows one incident.
#[utoipa::path(get, path = "/api/incidents/{id}", tag = "incidents", params(("id" = String, Path)),
    responses((status = 200, body = Incident), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    show(&db, db.incident(&id).await?).await
}

async fn change(
    app: &App,
    db: &TenantDb,
    id: &str,
    verb: IncidentVerb,
    action: &IncidentAction,
) -> ApiResult<Response> {
    check_text("comment", &action.comment, 1_000)?;
    let row = db.change_incident(id, verb, &action.comment, now()).await?;
    app.events_written();
    app.alerts().changed();
    show(db, row).await
}

/// Says that somebody looks after it.
#[utoipa::path(post, path = "/api/incidents/{id}:acknowledge", tag = "incidents", params(("id" = String, Path)),
    request_body = IncidentAction, responses((status = 200, body = Incident), (status = "4XX", body = Problem)))]
async fn acknowledge(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<IncidentAction>,
) -> ApiResult<Response> {
    change(&app, &db, &id, IncidentVerb::Acknowledge, &action).await
}

/// Says that it is over. It opens again when the device tells of more.
#[utoipa::path(post, path = "/api/incidents/{id}:resolve", tag = "incidents", params(("id" = String, Path)),
    request_body = IncidentAction, responses((status = 200, body = Incident), (status = "4XX", body = Problem)))]
async fn resolve(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<IncidentAction>,
) -> ApiResult<Response> {
    change(&app, &db, &id, IncidentVerb::Resolve, &action).await
}

/// The evidence as one archive (`tar.gz`): the black box of the device, release, rollout, reasons, measurements and events from ten minutes
/// before it began, and a post-mortem to be filled in.
#[utoipa::path(get, path = "/api/incidents/{id}/evidence", tag = "incidents", params(("id" = String, Path)),
    responses((status = 200, content_type = "application/gzip", body = Vec<u8>), (status = "4XX", body = Problem)))]
async fn evidence(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    bundle::answer(&app, &db, db.incident(&id).await?).await
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, of_rollout, get, acknowledge, resolve, evidence))]
pub struct IncidentDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::IncidentRead);
    let write = Access::Needs(Permission::IncidentWrite);
    vec![
        route(Method::GET, "/api/incidents", read, list),
        route(Method::GET, "/api/incidents/{id}", read, get),
        route(Method::GET, "/api/incidents/{id}/evidence", read, evidence).unhurried(),
        route(Method::POST, "/api/incidents/{id}/~acknowledge", write, acknowledge),
        route(Method::POST, "/api/incidents/{id}/~resolve", write, resolve),
        route(Method::GET, "/api/rollouts/{id}/incidents", read, of_rollout),
    ]
}
