//! `/api/operations`, and the verbs of one device that make one.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farshore_api::operation::{Ask, CancelOperation, Operation, OutputPiece};
use farshore_api::{ErrorCode, List, Problem};
use farshore_domain::access::Permission;
use farshore_domain::device::Lifecycle;
use farshore_domain::operation::{Kind, MAX_REASON, State as OperationState};
use farshore_store::devices::LifecycleStep;
use farshore_store::operations::OperationFilter;
use farshore_store::{StoreError, TenantDb};
use serde::Deserialize;
use uuid::Uuid;

use super::ask::{self, Fleet};
use super::{bulk, output, view};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::events::stream::{Reader, respond};
use crate::extract::{Body, Page, Query, check_text};
use crate::route::{Access, Caller, Db, Route, route};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only operations of the device with this name or uid.
    device: Option<String>,
    /// `exec`, `logs`, `drain`, …
    kind: Option<String>,
    /// `queued`, `delivered`, `running`, `succeeded`, `failed`, `expired`, `cancelled`, `unsupported`; `open` for the first three.
    state: Option<String>,
    /// Only operations of this request to many devices.
    request: Option<Uuid>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

/// Lists operations, newest first.
#[utoipa::path(get, path = "/api/operations", tag = "operations", params(ListQuery),
    responses((status = 200, body = List<Operation>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(query): Query<ListQuery>) -> ApiResult<Json<List<Operation>>> {
    let device = match &query.device {
        Some(id) => Some(db.device_id(id).await?),
        None => None,
    };
    let kind = query.kind.as_deref().map(Kind::from_word);
    if kind == Some(Kind::Unknown) {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        return Err(ApiError::field("kind", format!("is one of {}", known.join(", "))));
    }
    let open = query.state.as_deref() == Some("open");
    let state = query.state.as_deref().filter(|_| !open).map(OperationState::from_word);
    if state == Some(OperationState::Unknown) {
        let known: Vec<&str> = OperationState::ALL.iter().map(|state| state.word()).collect();
        return Err(ApiError::field("state", format!("is open or one of {}", known.join(", "))));
    }
    let page = Page { limit: query.limit, continue_from: query.continue_from };
    let limit = page.limit()?;
    let before = page.continue_from.as_deref().map(crate::extract::cursor_uuid).transpose()?;
    let filter = OperationFilter { device, kind, state, open, request: query.request };
    let rows = db.operations(&filter, before, limit).await?;
    page.of(rows, |row| row.uid.to_string(), view)
}

fn uid(id: &str) -> ApiResult<Uuid> {
    // What is no uid names nothing.
    Ok(id.parse().map_err(|_| StoreError::NotFound("operation"))?)
}

/// Shows an operation.
#[utoipa::path(get, path = "/api/operations/{id}", tag = "operations", params(("id" = String, Path)),
    responses((status = 200, body = Operation), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Json<Operation>> {
    Ok(Json(view(db.operation(uid(&id)?).await?)))
}

/// What an operation has produced, as plain bytes. With `Accept: text/event-stream` as a stream while it runs: `event: output` with pieces in
/// base64 ([`OutputPiece`]), then `event: end` with the operation.
#[utoipa::path(get, path = "/api/operations/{id}/output", tag = "operations", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/plain", body = String), (status = "4XX", body = Problem)))]
async fn read_output(
    State(app): State<App>,
    Db(db): Db,
    Caller(principal): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let row = db.operation(uid(&id)?).await?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|kind| kind.trim().starts_with("text/event-stream")) {
        return Ok(respond(output::stream(Reader::new(&app, &principal, &headers)?, db, row.uid)));
    }
    let bytes = if row.state.is_final() {
        db.operation_output(row.uid.0).await?
    } else {
        app.hub().outputs().after((db.tenant(), row.uid), 0)
    };
    // Never shown as a page: it is whatever a device said.
    let kind = (header::CONTENT_TYPE, "text/plain; charset=utf-8");
    Ok(([kind, (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], bytes).into_response())
}

/// Gives an operation up. One that nobody has begun ends at once; a running command is ended by its device as soon as it hears of it.
#[utoipa::path(post, path = "/api/operations/{id}:cancel", tag = "operations", params(("id" = String, Path)), request_body = CancelOperation,
    responses((status = 200, body = Operation), (status = "4XX", body = Problem)))]
async fn cancel(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<CancelOperation>,
) -> ApiResult<Json<Operation>> {
    check_text("reason", &body.reason, MAX_REASON)?;
    let row = db.cancel_operation(uid(&id)?, &body.reason, now()).await?;
    app.hub().push_operations(db.tenant(), row.device);
    if row.state.is_final() {
        app.hub().outputs().ended((db.tenant(), row.uid));
    }
    app.fleet().reported(db.tenant(), row.device);
    app.hub().changed(db.tenant(), row.device);
    app.events_written();
    Ok(Json(view(row)))
}

async fn make(app: &App, db: &TenantDb, id: &str, kind: Kind, ask: &Ask) -> ApiResult<Response> {
    ask::check(kind, ask)?;
    let device = db.device_id(id).await?;
    let mut tx = db.read().await?;
    let fleet = Fleet::load(db, &mut tx).await?;
    drop(tx);
    let found = fleet.devices.iter().find(|known| known.id == device);
    let found = found.ok_or_else(|| {
        ApiError::new(ErrorCode::Conflict, "The device has left the fleet and takes no operations.")
    })?;
    if let Err(refusal) = fleet.judge(found, kind, ask)? {
        let code = if refusal.code == "PolicyForbids" { ErrorCode::Forbidden } else { ErrorCode::Conflict };
        return Err(match refusal.code.as_str() {
            "ReasonRequired" => ApiError::field("reason", "is needed: the device's policy asks for it"),
            "BadArguments" => ApiError::field("arguments", refusal.message),
            "NoApp" => ApiError::field("app", refusal.message),
            _ => ApiError::new(code, format!("{}: {}.", found.name, refusal.message)),
        });
    }
    let at = now();
    if kind == Kind::Drain && found.lifecycle == Lifecycle::Claimed {
        db.step_device(&device.to_string(), LifecycleStep::Cordon, &ask.reason, at).await?;
        app.standings().forget(db.tenant(), device);
    }
    let rules = fleet.rules(found)?;
    let mut operation = ask::operation(kind, ask, &rules, None, at);
    // What a policy has only just come to allow waits until its device has been told.
    operation.admitted &= kind == Kind::ForceSync || ask::has_been_told(db, device, &rules).await?;
    let uid = operation.uid;
    let mut tx = db.begin().await?;
    db.create_operations(&mut tx, &[(device, found.name.clone(), operation)], at).await?;
    tx.commit().await?;
    app.hub().push_operations(db.tenant(), device);
    app.fleet().reported(db.tenant(), device);
    app.hub().changed(db.tenant(), device);
    app.events_written();
    let row = db.operation(uid.0).await?;
    Ok((StatusCode::ACCEPTED, Json(view(row))).into_response())
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $path:literal $kind:expr;)*) => {
        $(
            $(#[$doc])*
            #[utoipa::path(post, path = $path, tag = "operations", params(("id" = String, Path)), request_body = Ask,
                responses((status = 202, body = Operation), (status = "4XX", body = Problem)))]
            async fn $name(
                State(app): State<App>,
                Db(db): Db,
                Path(id): Path<String>,
                Body(ask): Body<Ask>,
            ) -> ApiResult<Response> {
                make(&app, &db, &id, $kind, &ask).await
            }
        )*
    };
}

verbs! {
    /// Stops the device's apps and keeps them stopped until it is uncordoned. Cordons it first; begins when the budgets of its groups allow it.
    drain = "/api/devices/{id}:drain" Kind::Drain;
    /// Takes one app back to its earlier release on this device, which holds it there until it is resumed.
    rollback = "/api/devices/{id}:rollback" Kind::Rollback;
    /// Runs a runbook of the device's policy, or a command where the policy allows any; as an unprivileged user, with a time limit.
    exec = "/api/devices/{id}:exec" Kind::Exec;
    /// The end of an app's log; with `followSeconds` also what comes.
    logs = "/api/devices/{id}:logs" Kind::Logs;
    /// How the device is: host, agent, link, disks, what happened last. The output is JSON.
    diagnostics = "/api/devices/{id}:diagnostics" Kind::Diagnostics;
    /// What the device has: hardware, system, packages, apps. The output is JSON.
    inventory = "/api/devices/{id}:inventory" Kind::Inventory;
    /// Reboots the device, where its policy and its agent allow it.
    reboot = "/api/devices/{id}:reboot" Kind::Reboot;
    /// Restarts an app. It is done once, within the time it says or not at all.
    restart_app = "/api/devices/{id}:restart-app" Kind::RestartApp;
    /// The device's gateway sends what waits, now, also over a link that costs. It hears of it with its next exchange; the result says how many points went, or why not.
    force_sync = "/api/devices/{id}:force-sync" Kind::ForceSync;
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(
    paths(
        list,
        get,
        read_output,
        cancel,
        drain,
        rollback,
        exec,
        logs,
        diagnostics,
        inventory,
        reboot,
        restart_app,
        force_sync,
        bulk::operate
    ),
    components(schemas(OutputPiece))
)]
pub struct OperationDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::DeviceRead);
    let operate = Access::Needs(Permission::DeviceOperate);
    vec![
        route(Method::GET, "/api/operations", read, list),
        route(Method::GET, "/api/operations/{id}", read, get),
        // What a device says may hold more than everybody should see.
        route(Method::GET, "/api/operations/{id}/output", operate, read_output),
        route(Method::POST, "/api/operations/{id}/~cancel", operate, cancel),
        route(Method::POST, "/api/devices/{id}/~drain", operate, drain),
        route(Method::POST, "/api/devices/{id}/~rollback", operate, rollback),
        route(Method::POST, "/api/devices/{id}/~exec", operate, exec),
        route(Method::POST, "/api/devices/{id}/~logs", operate, logs),
        route(Method::POST, "/api/devices/{id}/~diagnostics", operate, diagnostics),
        route(Method::POST, "/api/devices/{id}/~inventory", operate, inventory),
        route(Method::POST, "/api/devices/{id}/~reboot", operate, reboot),
        route(Method::POST, "/api/devices/{id}/~restart-app", operate, restart_app),
        route(Method::POST, "/api/devices/{id}/~force-sync", operate, force_sync),
        route(Method::POST, "/api/devices/~operate", operate, bulk::operate),
    ]
}
