//! What a person does to a rollout: one row of the table below for each verb.

use axum::extract::{Path, State};
use axum::http::Method;
use axum::response::Response;
use farshore_api::rollout::{Rollout as RolloutObject, RolloutAction};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::access::Permission;
use farshore_domain::object::Metadata;
use farshore_domain::rollout::{Action, Rollout, TransitionError};
use farshore_domain::time::UnixMs;
use farshore_store::{StoreError, TenantDb};

use super::show::{engine, not_now, show_whole};
use super::{make, step};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, versioned};
use crate::fleet::snapshot::Snapshot;
use crate::route::{Access, Db, Route, route};

const MAX_COMMENT: usize = 4096;

/// One use of a verb.
struct Call<'a> {
    app: &'a App,
    db: &'a TenantDb,
    snapshot: &'a Snapshot,
    rollout: &'a mut Rollout,
    /// Who.
    by: &'a str,
    /// Why.
    comment: Option<&'a str>,
    /// With `abort`: go back first.
    rollback: bool,
    now: UnixMs,
}

type Refused = TransitionError;

macro_rules! verbs {
    ($($(#[doc = $doc:literal])+ $name:ident, $word:literal, $permission:ident, $run:expr;)*) => {
        $(
            mod $name {
                use super::*;

                $(#[doc = $doc])+
                #[utoipa::path(post, path = concat!("/api/rollouts/{id}:", $word), tag = "rollouts", params(("id" = String, Path)),
                    request_body = RolloutAction, responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
                pub(super) async fn run(
                    State(app): State<App>,
                    Db(db): Db,
                    Path(id): Path<String>,
                    Body(action): Body<RolloutAction>,
                ) -> ApiResult<Response> {
                    change(&app, &db, &id, &action, $run).await
                }
            }
        )*

        /// The verbs' part of the OpenAPI document.
        #[derive(Debug, utoipa::OpenApi)]
        #[openapi(paths($($name::run),*))]
        pub struct VerbDocs;

        /// The verbs' rows.
        pub(super) fn rows() -> Vec<Route> {
            vec![$(
                route(Method::POST, concat!("/api/rollouts/{id}/~", $word), Access::Needs(Permission::$permission), $name::run),
            )*]
        }
    };
}

verbs! {
    /// Starts a rollout that was only made.
    start, "start", RolloutWrite, |c| make::begin(c.app, c.db, c.snapshot, c.rollout, c.comment, c.now);
    /// Starts nothing more until it is resumed.
    pause, "pause", RolloutWrite, |c| refused(c.rollout.pause(c.by, c.comment, c.now));
    /// Goes on after a pause.
    resume, "resume", RolloutWrite, |c| refused(c.rollout.resume(c.by, c.comment, c.now));
    /// Ends a rollout; with `rollback` the devices that have the new release go back.
    abort, "abort", RolloutWrite, |c| refused(c.rollout.abort(c.by, c.comment, c.rollback, c.now));
    /// Ends a rollout: every device that was touched gets the old release back, and the new one is held back.
    rollback, "rollback", RolloutWrite, |c| refused(c.rollout.rollback(c.by, c.comment, c.now));
    /// Lets the gate open that waits for it. A gate for two people needs this from two different ones.
    approve, "approve", RolloutApprove, |c| refused(c.rollout.approve(c.by, c.comment, c.now));
    /// Says at a gate that the release is not good: the rollout ends, and its release is held back.
    reject, "reject", RolloutApprove, |c| refused(c.rollout.reject(c.by, c.comment, c.now));
    /// Goes on without waiting for the rest of the wave that runs.
    skip_wave, "skip-wave", RolloutWrite, |c| refused(c.rollout.skip_wave(c.by, c.comment, c.now));
    /// Lets the devices that failed try again, each through its gate with a new permit.
    retry_failed, "retry-failed", RolloutWrite, |c| refused(c.rollout.retry_failed(c.by, c.comment, c.now));
}

fn refused(result: Result<Vec<Action>, Refused>) -> ApiResult<Vec<Action>> {
    result.map_err(not_now)
}

/// Why somebody does something; none when nothing was said.
pub(super) fn comment(action: &RolloutAction) -> ApiResult<Option<&str>> {
    if action.comment.len() > MAX_COMMENT {
        return Err(ApiError::field("comment", format!("has at most {MAX_COMMENT} bytes")));
    }
    Ok(Some(action.comment.as_str()).filter(|text| !text.is_empty()))
}

/// Changes a rollout by one of its verbs; tried again when the driver changed it at the same moment.
async fn change(
    app: &App,
    db: &TenantDb,
    id: &str,
    action: &RolloutAction,
    verb: fn(Call<'_>) -> ApiResult<Vec<Action>>,
) -> ApiResult<Response> {
    let comment = comment(action)?;
    let mut last = None;
    for _ in 0..5 {
        let now = now();
        let mut read = db.read().await?;
        let row = db.rollout_in(&mut read, id).await?;
        let snapshot = Snapshot::load(db, &mut read, now).await?;
        drop(read);
        let read_rollout = engine(&row)?;
        let mut rollout = read_rollout.clone();
        let call = Call {
            app,
            db,
            snapshot: &snapshot,
            rollout: &mut rollout,
            by: &db.actor().0,
            comment,
            rollback: action.rollback,
            now,
        };
        let actions = verb(call)?;
        let change = step::Change {
            before: &read_rollout,
            next: &rollout,
            read_at: row.metadata.resource_version,
            actions: &actions,
        };
        let mut tx = db.begin().await?;
        match step::store(db, &mut tx, &change, now).await {
            Err(StoreError::Conflict(why)) => {
                last = Some(StoreError::Conflict(why));
                continue;
            }
            other => other?,
        };
        tx.commit().await?;
        app.fleet().changed(db.tenant());
        app.events_written();
        let metadata = Metadata { resource_version: row.metadata.resource_version + 1, ..row.metadata };
        let version = metadata.resource_version;
        return Ok(versioned(version, &show_whole(app, db, metadata, &rollout).await?));
    }
    Err(last.map_or_else(
        || ApiError::new(ErrorCode::Conflict, "The rollout kept changing. Try again."),
        ApiError::from,
    ))
}
