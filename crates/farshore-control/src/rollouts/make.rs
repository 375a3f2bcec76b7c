//! Making rollouts: new ones, and those that take over from another.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farshore_api::fleet::ChannelSpec;
use farshore_api::rollout::Rollout as RolloutObject;
use farshore_api::{ErrorCode, NewObject, Problem};
use farshore_domain::id::RolloutId;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::release::slot::SLOTS_CAPABILITY;
use farshore_domain::rollout::{Action, KnownRelease, Phase, PlanError, ReleaseRef, Rollout, RolloutSpec};
use farshore_domain::time::UnixMs;
use farshore_store::objects::ObjectKind;
use farshore_store::rollouts::RolloutRow;
use farshore_store::{StoreError, TenantDb};
use serde::Deserialize;
use uuid::Uuid;

use super::holds::refuse_held;
use super::show::{engine, not_now, show_whole, spec_errors, view};
use super::step;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Query, versioned};
use crate::fleet::check_envelope;
use crate::fleet::snapshot::Snapshot;
use crate::route::Db;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Start {
    /// `false`: only make it; `POST …:start` starts it.
    start: Option<bool>,
}

/// Resolves `spec.release` and checks that it is a release of `spec.app`.
pub(crate) fn resolve(snapshot: &Snapshot, spec: &RolloutSpec) -> ApiResult<KnownRelease> {
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
        let manifest = db.release(&to.uid.to_string()).await?.manifest;
        new.spec
            .check_release(&manifest)
            .and_then(|()| new.spec.check_activation(&manifest))
            .map_err(|error| ApiError::field(format!("spec.{}", error.field), error.message))?;
        refuse_second(&snapshot, &new.spec, supersedes.as_ref())?;
        let from = snapshot.pointer(&new.spec.channel, &new.spec.app);
        let id = RolloutId(Uuid::now_v7());
        let by = db.actor().0.clone();
        let name = new.metadata.name.clone();
        let mut rollout =
            Rollout::new(id, name.clone(), new.spec.clone(), from, to, &by, now).map_err(spec_errors)?;
        rollout = rollout.with_slots(manifest.run.slots.is_some());
        could_progress(app, db, &snapshot, &rollout, now).await?;
        let mut tx = db.begin().await?;
        refuse_held(db, &mut tx, &rollout).await?;
        if let Some(old) = supersedes {
            let before = engine(&old)?;
            let mut superseded = before.clone();
            let actions = superseded.supersede(id, &name, &by, now).map_err(not_now)?;
            let change = step::Change {
                before: &before,
                next: &superseded,
                read_at: old.metadata.resource_version,
                actions: &actions,
            };
            step::store(db, &mut tx, &change, now).await?;
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
            actions = begin(app, db, &snapshot, &mut rollout, None, now)?;
        }
        let row = RolloutRow {
            metadata: metadata.clone(),
            app: new.spec.app.clone(),
            channel: new.spec.channel.clone(),
            phase: rollout.phase().word().to_owned(),
            spec: serde_json::to_value(rollout.spec()).map_err(ApiError::internal)?,
            state: step::state(&rollout)?,
        };
        db.insert_rollout(&mut tx, &row).await?;
        db.append_event(&mut tx, &created).await?;
        step::carry_out(db, &mut tx, &rollout, &actions, now).await?;
        tx.commit().await?;
        app.fleet().changed(db.tenant());
        app.events_written();
        Ok((StatusCode::CREATED, versioned(1, &show_whole(app, db, metadata, &rollout).await?))
            .into_response())
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

/// Refuses what the specification alone does not show: waves that select nobody, budgets that leave nobody, rollouts and channels that do not exist.
async fn could_progress(
    app: &App,
    db: &TenantDb,
    snapshot: &Snapshot,
    rollout: &Rollout,
    now: UnixMs,
) -> ApiResult<()> {
    let spec = rollout.spec();
    for (index, name) in spec.depends_on.iter().enumerate() {
        let field = format!("spec.dependsOn[{index}]");
        if name == rollout.name() {
            return Err(ApiError::field(field, "is the rollout itself, which could never start"));
        }
        let mut read = db.read().await?;
        let phase = db.rollout_phases(&mut read, std::slice::from_ref(name)).await?.remove(name);
        if let Some(why) = dependency_error(name, phase) {
            return Err(ApiError::field(field, why));
        }
    }
    if let Some(promotion) = &spec.promotion {
        let known = db.object::<ChannelSpec>(ObjectKind::Channel, promotion.to.as_str()).await;
        match known {
            Ok(_) => {}
            Err(StoreError::NotFound(_)) => {
                let why = format!("there is no channel {}; see `farshore get channels`", promotion.to);
                return Err(ApiError::field("spec.promotion.to", why));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let view = view(app, db, snapshot, rollout, now);
    rollout.plan(&view).map_err(plan_error)?;
    if !view.is_empty() && view.iter().all(|device| device.is_unable(rollout.to().uid)) {
        let why = format!(
            "has slots, and none of the {} devices can keep two instances of an app ({SLOTS_CAPABILITY}); update their agents",
            view.len()
        );
        return Err(ApiError::field("spec.release", why));
    }
    rollout
        .check_openings(&view, now)
        .map_err(|error| ApiError::field(format!("spec.{}", error.field), error.message))
}

/// A rollout may depend on those that exist and may still succeed.
fn dependency_error(name: &Name, phase: Option<Phase>) -> Option<String> {
    match phase {
        None => Some(format!("there is no rollout {name}; see `farshore get rollouts`")),
        Some(phase) if phase.is_final() && phase != Phase::Succeeded => {
            Some(format!("rollout {name} is {phase} and will never succeed"))
        }
        Some(_) => None,
    }
}

fn plan_error(error: PlanError) -> ApiError {
    let field = match &error {
        PlanError::EmptyWave { wave, .. } => format!("spec.waves[{}].selector", wave.saturating_sub(1)),
        PlanError::NoPlaces { limit, of, .. } => {
            let field = limit.split(' ').next().unwrap_or_default();
            let group = if of.starts_with("with ") { "groupBy." } else { "" };
            format!("spec.{group}{field}")
        }
    };
    ApiError::field(field, error.to_string())
}

/// Fixes the population and starts.
pub(super) fn begin(
    app: &App,
    db: &TenantDb,
    snapshot: &Snapshot,
    rollout: &mut Rollout,
    comment: Option<&str>,
    now: UnixMs,
) -> ApiResult<Vec<Action>> {
    let from = snapshot.pointer(&rollout.spec().channel, &rollout.spec().app);
    let view = view(app, db, snapshot, rollout, now);
    rollout.start(from, &view, &db.actor().0, comment, now).map_err(not_now)
}

/// Makes a rollout and, unless `?start=false`, starts it.
#[utoipa::path(post, path = "/api/rollouts", tag = "rollouts", operation_id = "create_rollout", params(Start), request_body = NewObject<RolloutSpec>,
    responses((status = 201, body = RolloutObject), (status = "4XX", body = Problem)))]
pub(super) async fn create(
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
pub(super) async fn supersede(
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
    if old.phase == Phase::RollingBack.word() && engine(&old)?.spec().release == new.spec.release {
        let why = format!("is what {} takes back; name another release", old.metadata.name);
        return Err(ApiError::field("spec.release", why));
    }
    if old.app != new.spec.app || old.channel != new.spec.channel {
        return Err(ApiError::field(
            "spec",
            format!("supersedes a rollout of {} in {}; use the same app and channel", old.app, old.channel),
        ));
    }
    Making { app: &app, db: &db, new, start: true, now: now() }.make(Some(old)).await
}
