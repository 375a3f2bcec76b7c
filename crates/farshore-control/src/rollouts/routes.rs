//! `/api/rollouts`: make, look, start, pause, resume, abort, supersede.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_api::rollout::{
    ActiveOps, Rollout as RolloutObject, RolloutAction, RolloutDevice, RolloutStatus,
};
use farshore_api::{ErrorCode, List, ListMetadata, NewObject, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::RolloutId;
use farshore_domain::name::Name;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_domain::rollout::{
    Action, Bucket, KnownRelease, ReleaseRef, Rollout, RolloutSpec, SpecErrors, TransitionError, Waiting,
};
use farshore_domain::time::UnixMs;
use farshore_store::db::Tx;
use farshore_store::rollouts::RolloutRow;
use farshore_store::{StoreError, TenantDb};
use serde::Deserialize;
use uuid::Uuid;

use super::step;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Query, versioned};
use crate::fleet::check_envelope;
use crate::fleet::snapshot::Snapshot;
use crate::route::{Access, Db, Route, route};

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, create, get, supersede, start, pause, resume, abort, devices, active_ops))]
pub struct RolloutDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::RolloutRead);
    let write = Access::Needs(Permission::RolloutWrite);
    vec![
        route(Method::GET, "/api/rollouts", read, list),
        route(Method::POST, "/api/rollouts", write, create),
        route(Method::GET, "/api/rollouts/{id}", read, get),
        route(Method::PUT, "/api/rollouts/{id}", write, supersede),
        route(Method::POST, "/api/rollouts/{id}/~start", write, start),
        route(Method::POST, "/api/rollouts/{id}/~pause", write, pause),
        route(Method::POST, "/api/rollouts/{id}/~resume", write, resume),
        route(Method::POST, "/api/rollouts/{id}/~abort", write, abort),
        route(Method::GET, "/api/rollouts/{id}/devices", read, devices),
        route(Method::GET, "/api/active-ops", read, active_ops),
    ]
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Start {
    /// `false`: only make it; `POST …:start` starts it.
    start: Option<bool>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DevicePage {
    /// Only devices that stand there: `waiting`, `updating`, `ok`, `failed`, `unreachable`, `rolling-back`, `rolled-back`, `excluded`.
    bucket: Option<Bucket>,
    limit: Option<u32>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

fn engine(row: &RolloutRow) -> ApiResult<Rollout> {
    serde_json::from_value(row.state.clone()).map_err(|error| {
        ApiError::internal(StoreError::Corrupt(format!("rollout {}: {error}", row.metadata.name)))
    })
}

fn show(metadata: Metadata, rollout: &Rollout, with_history: bool) -> RolloutObject {
    show_waiting(metadata, rollout, with_history, Vec::new())
}

fn show_waiting(
    metadata: Metadata,
    rollout: &Rollout,
    with_history: bool,
    waiting: Vec<Waiting>,
) -> RolloutObject {
    RolloutObject {
        api_version: API_VERSION.to_owned(),
        kind: "Rollout".to_owned(),
        metadata,
        spec: rollout.spec().clone(),
        status: RolloutStatus {
            summary: rollout.summary(now()),
            waiting,
            history: if with_history { rollout.history().to_vec() } else { Vec::new() },
        },
    }
}

fn show_row(row: RolloutRow, with_history: bool) -> ApiResult<RolloutObject> {
    let rollout = engine(&row)?;
    Ok(show(row.metadata, &rollout, with_history))
}

/// Lists rollouts, newest first.
#[utoipa::path(get, path = "/api/rollouts", tag = "rollouts", operation_id = "list_rollouts", params(Page),
    responses((status = 200, body = List<RolloutObject>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<RolloutObject>>> {
    let limit = crate::extract::limit(page.limit)?;
    let before = page.continue_from.as_deref().map(crate::extract::cursor_uuid).transpose()?;
    let rows = db.rollouts(before, limit).await?;
    let full = rows.len() == limit as usize;
    let continue_from = rows.last().filter(|_| full).map(|row| row.metadata.uid.to_string());
    let items = rows.into_iter().map(|row| show_row(row, false)).collect::<ApiResult<_>>()?;
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

/// Shows one rollout with its history.
#[utoipa::path(get, path = "/api/rollouts/{id}", tag = "rollouts", operation_id = "get_rollout", params(("id" = String, Path)),
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn get(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let row = db.rollout(&id).await?;
    let rollout = engine(&row)?;
    let now = now();
    let waiting = if rollout.phase().is_final() {
        Vec::new()
    } else {
        let mut read = db.read().await?;
        let snapshot = Snapshot::load(&db, &mut read, now).await?;
        let presence = |device, stored| app.hub().presence(db.tenant(), device, stored, now);
        rollout.waiting_for(&snapshot.view(&rollout, &presence, now), now)
    };
    Ok(versioned(row.metadata.resource_version, &show_waiting(row.metadata, &rollout, true, waiting)))
}

fn spec_errors(errors: SpecErrors) -> ApiError {
    let mut fields = errors.0.into_iter();
    let first = fields.next().map_or_else(
        || ApiError::field("spec", "is not valid"),
        |error| ApiError::field(format!("spec.{}", error.field), error.message),
    );
    fields.fold(first, |all, error| all.and_field(format!("spec.{}", error.field), error.message))
}

fn not_now(error: TransitionError) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("{error}."))
}

/// Resolves `spec.release` and checks that it is a release of `spec.app`.
fn resolve(snapshot: &Snapshot, spec: &RolloutSpec) -> ApiResult<KnownRelease> {
    let found = match &spec.release {
        ReleaseRef::Uid(uid) => snapshot.known(*uid).filter(|_| snapshot.app_of(*uid) == Some(&spec.app)),
        ReleaseRef::Version { app, version } => {
            if *app != spec.app {
                return Err(ApiError::field(
                    "spec.release",
                    format!("is a release of {app}, not of {}", spec.app),
                ));
            }
            snapshot.release_of(app, version)
        }
    };
    found.ok_or_else(|| {
        ApiError::field(
            "spec.release",
            format!("there is no such release of {}; see `farshore get releases`", spec.app),
        )
    })
}

/// What a new rollout is made of, apart from what it supersedes.
struct Making<'a> {
    app: &'a App,
    db: &'a TenantDb,
    new: NewObject<RolloutSpec>,
    start: bool,
    now: UnixMs,
}

impl Making<'_> {
    /// Makes the rollout, in the same transaction in which the one it takes over from is superseded.
    async fn make(self, supersedes: Option<RolloutRow>) -> ApiResult<Response> {
        let Self { app, db, new, start, now } = self;
        check_envelope(&new, "Rollout")?;
        new.spec.validate().map_err(spec_errors)?;
        let mut read = db.read().await?;
        let mut snapshot = Snapshot::load(db, &mut read, now).await?;
        drop(read);
        let to = resolve(&snapshot, &new.spec)?;
        refuse_second(&snapshot, &new.spec, supersedes.as_ref())?;
        let from = snapshot.pointer(&new.spec.channel, &new.spec.app);
        let id = RolloutId(Uuid::now_v7());
        let by = db.actor().0.clone();
        let name = new.metadata.name.clone();
        let mut rollout = Rollout::new(id, name.clone(), new.spec.clone(), from.clone(), to, &by, now)
            .map_err(spec_errors)?;
        let mut tx = db.begin().await?;
        if let Some(old) = supersedes {
            let mut superseded = engine(&old)?;
            let actions = superseded.supersede(id, &name, &by, now).map_err(not_now)?;
            step::save(db, &mut tx, &superseded, old.metadata.resource_version).await?;
            step::carry_out(db, &mut tx, &superseded, &actions, now).await?;
            snapshot.rollouts.retain(|read| read.rollout.id() != superseded.id());
        }
        let metadata = Metadata {
            uid: id.0,
            name,
            labels: new.metadata.labels,
            resource_version: 1,
            managed_by: new.metadata.managed_by.unwrap_or_else(|| "api".to_owned()),
            created_at: now,
        };
        let created = step::event(
            db,
            id,
            rollout.name(),
            "RolloutCreated",
            "created",
            &serde_json::json!({ "by": by }),
            now,
        );
        let mut actions = Vec::new();
        if start {
            actions = begin(app, db, &snapshot, &mut rollout, from, None, now)?;
        }
        let row = RolloutRow {
            metadata: metadata.clone(),
            app: new.spec.app.clone(),
            channel: new.spec.channel.clone(),
            phase: rollout.phase().word().to_owned(),
            spec: serde_json::to_value(&new.spec).map_err(ApiError::internal)?,
            state: step::state(&rollout)?,
        };
        db.insert_rollout(&mut tx, &row).await?;
        db.append_event(&mut tx, &created).await?;
        step::carry_out(db, &mut tx, &rollout, &actions, now).await?;
        tx.commit().await?;
        app.fleet().changed(db.tenant());
        app.events_written();
        Ok((StatusCode::CREATED, versioned(1, &show(metadata, &rollout, true))).into_response())
    }
}

/// One rollout at a time moves an app of a channel.
fn refuse_second(snapshot: &Snapshot, spec: &RolloutSpec, supersedes: Option<&RolloutRow>) -> ApiResult<()> {
    let other = snapshot.rollouts.iter().map(|read| &read.rollout).find(|rollout| {
        !rollout.phase().is_final()
            && rollout.spec().app == spec.app
            && rollout.spec().channel == spec.channel
            && supersedes.is_none_or(|old| old.id() != rollout.id())
    });
    match other {
        None => Ok(()),
        Some(other) => Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "Rollout {} moves {} in {} and is {}. Wait for it, abort it, or supersede it with PUT /api/rollouts/{}.",
                other.name(),
                spec.app,
                spec.channel,
                other.phase(),
                other.name()
            ),
        )),
    }
}

/// Fixes the population and starts.
fn begin(
    app: &App,
    db: &TenantDb,
    snapshot: &Snapshot,
    rollout: &mut Rollout,
    from: Option<KnownRelease>,
    comment: Option<&str>,
    now: UnixMs,
) -> ApiResult<Vec<Action>> {
    let presence = |device, stored| app.hub().presence(db.tenant(), device, stored, now);
    let population: Vec<_> = snapshot.view(rollout, &presence, now).eligible().collect();
    rollout.start(from, population, &db.actor().0, comment, now).map_err(not_now)
}

/// Makes a rollout and, unless `?start=false`, starts it.
#[utoipa::path(post, path = "/api/rollouts", tag = "rollouts", operation_id = "create_rollout", params(Start), request_body = NewObject<RolloutSpec>,
    responses((status = 201, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn create(
    State(app): State<App>,
    Db(db): Db,
    Query(query): Query<Start>,
    Body(new): Body<NewObject<RolloutSpec>>,
) -> ApiResult<Response> {
    Making { app: &app, db: &db, new, start: query.start.unwrap_or(true), now: now() }.make(None).await
}

/// A running rollout is not edited: this makes a new one, which supersedes it.
#[utoipa::path(put, path = "/api/rollouts/{id}", tag = "rollouts", operation_id = "supersede_rollout", params(("id" = String, Path)), request_body = NewObject<RolloutSpec>,
    responses((status = 201, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn supersede(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(new): Body<NewObject<RolloutSpec>>,
) -> ApiResult<Response> {
    let old = db.rollout(&id).await?;
    if old.metadata.name == new.metadata.name {
        return Err(ApiError::field(
            "metadata.name",
            "names the rollout that is superseded; the new one needs a name of its own",
        ));
    }
    if old.app != new.spec.app || old.channel != new.spec.channel {
        return Err(ApiError::field(
            "spec",
            format!("supersedes a rollout of {} in {}; use the same app and channel", old.app, old.channel),
        ));
    }
    Making { app: &app, db: &db, new, start: true, now: now() }.make(Some(old)).await
}

/// Changes a rollout by one of its verbs; tried again when the driver changed it at the same moment.
async fn change(
    app: &App,
    db: &TenantDb,
    id: &str,
    verb: impl Fn(&mut Rollout, &Snapshot, &str, UnixMs) -> ApiResult<Vec<Action>>,
) -> ApiResult<Response> {
    let mut last = None;
    for _ in 0..5 {
        let now = now();
        let mut read: Tx = db.read().await?;
        let row = db.rollout_in(&mut read, id).await?;
        let snapshot = Snapshot::load(db, &mut read, now).await?;
        drop(read);
        let mut rollout = engine(&row)?;
        let actions = verb(&mut rollout, &snapshot, &db.actor().0, now)?;
        let mut tx = db.begin().await?;
        match step::save(db, &mut tx, &rollout, row.metadata.resource_version).await {
            Err(StoreError::Conflict(why)) => {
                last = Some(StoreError::Conflict(why));
                continue;
            }
            other => other?,
        }
        step::carry_out(db, &mut tx, &rollout, &actions, now).await?;
        tx.commit().await?;
        app.fleet().changed(db.tenant());
        app.events_written();
        let metadata = Metadata { resource_version: row.metadata.resource_version + 1, ..row.metadata };
        return Ok(versioned(metadata.resource_version, &show(metadata, &rollout, true)));
    }
    Err(last.map_or_else(
        || ApiError::new(ErrorCode::Conflict, "The rollout kept changing. Try again."),
        ApiError::from,
    ))
}

fn comment(action: &RolloutAction) -> ApiResult<Option<&str>> {
    if action.comment.len() > 4096 {
        return Err(ApiError::field("comment", "has at most 4096 characters"));
    }
    Ok(Some(action.comment.as_str()).filter(|text| !text.is_empty()))
}

/// Starts a rollout that was only made.
#[utoipa::path(post, path = "/api/rollouts/{id}:start", tag = "rollouts", operation_id = "start_rollout", params(("id" = String, Path)), request_body = RolloutAction,
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn start(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<RolloutAction>,
) -> ApiResult<Response> {
    let said = comment(&action)?;
    change(&app, &db, &id, |rollout, snapshot, _, now| {
        let from = snapshot.pointer(&rollout.spec().channel, &rollout.spec().app);
        begin(&app, &db, snapshot, rollout, from, said, now)
    })
    .await
}

/// Starts nothing more until it is resumed.
#[utoipa::path(post, path = "/api/rollouts/{id}:pause", tag = "rollouts", operation_id = "pause_rollout", params(("id" = String, Path)), request_body = RolloutAction,
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn pause(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<RolloutAction>,
) -> ApiResult<Response> {
    let said = comment(&action)?;
    change(&app, &db, &id, |rollout, _, by, now| rollout.pause(by, said, now).map_err(not_now)).await
}

/// Goes on after a pause.
#[utoipa::path(post, path = "/api/rollouts/{id}:resume", tag = "rollouts", operation_id = "resume_rollout", params(("id" = String, Path)), request_body = RolloutAction,
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn resume(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<RolloutAction>,
) -> ApiResult<Response> {
    let said = comment(&action)?;
    change(&app, &db, &id, |rollout, _, by, now| rollout.resume(by, said, now).map_err(not_now)).await
}

/// Ends a rollout; with `rollback` the devices that have the new release go back.
#[utoipa::path(post, path = "/api/rollouts/{id}:abort", tag = "rollouts", operation_id = "abort_rollout", params(("id" = String, Path)), request_body = RolloutAction,
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn abort(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<RolloutAction>,
) -> ApiResult<Response> {
    let said = comment(&action)?;
    let rollback = action.rollback;
    change(&app, &db, &id, |rollout, _, by, now| rollout.abort(by, said, rollback, now).map_err(not_now))
        .await
}

/// Lists a rollout's devices in the order in which it takes them.
#[utoipa::path(get, path = "/api/rollouts/{id}/devices", tag = "rollouts", operation_id = "list_rollout_devices", params(("id" = String, Path), DevicePage),
    responses((status = 200, body = List<RolloutDevice>), (status = "4XX", body = Problem)))]
async fn devices(
    Db(db): Db,
    Path(id): Path<String>,
    Query(page): Query<DevicePage>,
) -> ApiResult<Json<List<RolloutDevice>>> {
    let limit = crate::extract::limit(page.limit)? as usize;
    let skip: usize = match page.continue_from.as_deref() {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| ApiError::field("continue", "is what the page before said"))?
        }
    };
    let row = db.rollout(&id).await?;
    let rollout = engine(&row)?;
    let all: Vec<_> =
        rollout.devices().filter(|device| page.bucket.is_none_or(|bucket| device.bucket == bucket)).collect();
    let total = all.len();
    let mut read = db.read().await?;
    let names: std::collections::BTreeMap<_, (Name, String)> =
        db.fleet_devices(&mut read).await?.into_iter().map(|d| (d.id, (d.name, d.location))).collect();
    let items: Vec<_> = all
        .into_iter()
        .skip(skip)
        .take(limit)
        .filter_map(|summary| {
            let (name, location) = names.get(&summary.device)?.clone();
            Some(RolloutDevice { name, location, summary })
        })
        .collect();
    let continue_from = (skip + limit < total).then(|| (skip + limit).to_string());
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: Some(total as u64) } }))
}

/// What is going on right now.
#[utoipa::path(get, path = "/api/active-ops", tag = "rollouts", operation_id = "active_ops",
    responses((status = 200, body = ActiveOps), (status = "4XX", body = Problem)))]
async fn active_ops(Db(db): Db) -> ApiResult<Json<ActiveOps>> {
    let mut read = db.read().await?;
    let rows = db.deciding_rollouts(&mut read).await?;
    let mut rollouts = Vec::new();
    for row in rows {
        let object = show_row(row, false)?;
        if !object.status.summary.phase.is_final() {
            rollouts.push(object);
        }
    }
    Ok(Json(ActiveOps { rollouts }))
}
