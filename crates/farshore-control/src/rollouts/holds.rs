//! Held-back releases: what failed, was rolled back or was rejected in a channel is not brought there again by itself.

use axum::extract::{Path, State};
use axum::response::Response;
use farshore_api::rollout::{HeldBack, Rollout as RolloutObject, RolloutAction};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::rollout::Rollout;
use farshore_store::TenantDb;
use farshore_store::db::Tx;
use farshore_store::holds::Hold;

use super::show::{engine, show_whole};
use super::step;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, versioned};
use crate::route::Db;

/// The hold on the release that a rollout brings, if there is one.
pub(super) async fn held_back(db: &TenantDb, tx: &mut Tx, rollout: &Rollout) -> ApiResult<Option<HeldBack>> {
    let Some(hold) = hold(db, tx, rollout).await? else { return Ok(None) };
    Ok(Some(HeldBack { since: hold.held_at, rollout: hold.rollout_name, reason: hold.reason }))
}

async fn hold(db: &TenantDb, tx: &mut Tx, rollout: &Rollout) -> ApiResult<Option<Hold>> {
    let spec = rollout.spec();
    Ok(db.hold(tx, &spec.app, &spec.channel, rollout.to().uid).await?)
}

/// A rollout of a held-back release is neither made nor started.
pub(super) async fn refuse_held(db: &TenantDb, tx: &mut Tx, rollout: &Rollout) -> ApiResult<()> {
    let Some(hold) = hold(db, tx, rollout).await? else { return Ok(()) };
    Err(ApiError::new(
        ErrorCode::Conflict,
        format!(
            "{} {} is held back in {}: {}. When it may be tried again, say POST /api/rollouts/{}:release-hold.",
            rollout.spec().app,
            rollout.to().version,
            rollout.spec().channel,
            hold.reason,
            hold.rollout_name
        ),
    ))
}

/// Lets the release that this rollout brought be rolled out again in its app and channel.
#[utoipa::path(post, path = "/api/rollouts/{id}:release-hold", tag = "rollouts", params(("id" = String, Path)), request_body = RolloutAction,
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
pub(super) async fn release_hold(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<RolloutAction>,
) -> ApiResult<Response> {
    let comment = super::verbs::comment(&action)?;
    let mut tx = db.begin().await?;
    let row = db.rollout_in(&mut tx, &id).await?;
    let rollout = engine(&row)?;
    let spec = rollout.spec();
    if !db.release_hold(&mut tx, &spec.app, &spec.channel, rollout.to().uid).await? {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("{} {} is not held back in {}.", spec.app, rollout.to().version, spec.channel),
        ));
    }
    let message =
        format!("{} {} may be rolled out in {} again", spec.app, rollout.to().version, spec.channel);
    let detail = serde_json::json!({"by": db.actor().0, "comment": comment});
    let event =
        step::event(&db, rollout.id(), rollout.name(), "RolloutHoldReleased", &message, &detail, now());
    db.append_event(&mut tx, &event).await?;
    tx.commit().await?;
    app.events_written();
    let version = row.metadata.resource_version;
    Ok(versioned(version, &show_whole(&app, &db, row.metadata, &rollout).await?))
}
