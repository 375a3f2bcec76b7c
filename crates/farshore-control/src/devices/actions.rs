//! What may be done to a device: approve, reject, revoke, cordon, uncordon, resume an app. What the device itself has to do is an operation.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use farshore_api::Problem;
use farshore_api::device::{AppAction, Comment, Device};
use farshore_domain::id::DeviceId;
use farshore_store::TenantDb;
use farshore_store::devices::{DeviceRow, LifecycleStep};

use super::view::{Detail, device};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::Db;

const MAX_COMMENT: usize = 2_000;

/// Tells everybody who must know that a device was changed by people.
pub(super) fn announce(app: &App, db: &TenantDb, device: DeviceId) {
    app.events_written();
    app.fleet().reported(db.tenant(), device);
    app.hub().changed(db.tenant(), device);
}

/// Ends what a device without trust still has open.
pub(super) fn cut_off(app: &App, db: &TenantDb, device: DeviceId) {
    app.standings().forget(db.tenant(), device);
    app.hub().disconnect(db.tenant(), device, "revoked");
}

fn show(app: &App, row: DeviceRow) -> Response {
    Json(device(row, Detail::Full, app.hub().heartbeat_ms(), now())).into_response()
}

fn comment(body: Comment) -> ApiResult<String> {
    if body.comment.chars().count() > MAX_COMMENT || body.comment.contains('\0') {
        return Err(ApiError::field("comment", format!("has at most {MAX_COMMENT} characters")));
    }
    Ok(body.comment)
}

/// Lets a device in that waits for an approval.
#[utoipa::path(post, path = "/api/devices/{id}:approve", tag = "devices", params(("id" = String, Path)), request_body = Comment,
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
pub(super) async fn approve(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<Comment>,
) -> ApiResult<Response> {
    let uid = db.device_id(&id).await?;
    db.approve_device(uid, &comment(body)?, now()).await?;
    app.standings().forget(db.tenant(), uid);
    announce(&app, &db, uid);
    Ok(show(&app, db.device(&uid.to_string()).await?))
}

/// Turns a device away that waits for an approval. Its key can't be claimed again.
#[utoipa::path(post, path = "/api/devices/{id}:reject", tag = "devices", params(("id" = String, Path)), request_body = Comment,
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
pub(super) async fn reject(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<Comment>,
) -> ApiResult<Response> {
    let uid = db.device_id(&id).await?;
    db.reject_device(uid, &comment(body)?, now()).await?;
    cut_off(&app, &db, uid);
    announce(&app, &db, uid);
    Ok(show(&app, db.device(&uid.to_string()).await?))
}

/// Revokes a device: its channel is closed at once, and its certificate and key are refused for ever.
#[utoipa::path(post, path = "/api/devices/{id}:revoke", tag = "devices", params(("id" = String, Path)), request_body = Comment,
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
pub(super) async fn revoke(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<Comment>,
) -> ApiResult<Response> {
    let uid = db.device_id(&id).await?;
    db.revoke_device(uid, &comment(body)?, now()).await?;
    cut_off(&app, &db, uid);
    announce(&app, &db, uid);
    Ok(show(&app, db.device(&uid.to_string()).await?))
}

/// Gives a device no new assignments.
#[utoipa::path(post, path = "/api/devices/{id}:cordon", tag = "devices", params(("id" = String, Path)), request_body = Comment,
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
pub(super) async fn cordon(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<Comment>,
) -> ApiResult<Response> {
    step(&app, &db, &id, LifecycleStep::Cordon, body).await
}

/// Gives a cordoned device assignments again.
#[utoipa::path(post, path = "/api/devices/{id}:uncordon", tag = "devices", params(("id" = String, Path)), request_body = Comment,
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
pub(super) async fn uncordon(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<Comment>,
) -> ApiResult<Response> {
    step(&app, &db, &id, LifecycleStep::Uncordon, body).await
}

async fn step(app: &App, db: &TenantDb, id: &str, step: LifecycleStep, body: Comment) -> ApiResult<Response> {
    let row = db.step_device(id, step, &comment(body)?, now()).await?;
    app.standings().forget(db.tenant(), row.id());
    announce(app, db, row.id());
    Ok(show(app, row))
}

/// Lifts the hold on an app after the device went back to an earlier release by itself.
#[utoipa::path(post, path = "/api/devices/{id}:resume", tag = "devices", params(("id" = String, Path)), request_body = AppAction,
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
pub(super) async fn resume(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(body): Body<AppAction>,
) -> ApiResult<Response> {
    let row = db.resume_device_app(&id, &body.app, now()).await?;
    announce(&app, &db, row.id());
    Ok(show(&app, row))
}
