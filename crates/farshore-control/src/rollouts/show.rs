//! Stored rollouts as the API shows them, and the engine's refusals as problems.

use farshore_api::ErrorCode;
use farshore_api::rollout::{Rollout as RolloutObject, RolloutStatus};
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_domain::rollout::{FleetView, Rollout, SpecErrors, TransitionError};
use farshore_domain::time::UnixMs;
use farshore_store::rollouts::RolloutRow;
use farshore_store::{StoreError, TenantDb};

use super::holds;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::fleet::snapshot::Snapshot;

pub(super) fn engine(row: &RolloutRow) -> ApiResult<Rollout> {
    serde_json::from_value(row.state.clone()).map_err(|error| {
        ApiError::internal(StoreError::Corrupt(format!("rollout {}: {error}", row.metadata.name)))
    })
}

/// As lists show it: without history and without what it waits for.
pub(crate) fn show_row(row: RolloutRow) -> ApiResult<RolloutObject> {
    let rollout = engine(&row)?;
    Ok(show(row.metadata, &rollout))
}

fn show(metadata: Metadata, rollout: &Rollout) -> RolloutObject {
    RolloutObject {
        api_version: API_VERSION.to_owned(),
        kind: "Rollout".to_owned(),
        metadata,
        spec: rollout.spec().clone(),
        status: RolloutStatus {
            summary: rollout.summary(now()),
            waiting: Vec::new(),
            groups: Vec::new(),
            history: Vec::new(),
            held_back: None,
        },
    }
}

/// With history, what it waits for, and whether its release is held back.
pub(super) async fn show_whole(
    app: &App,
    db: &TenantDb,
    metadata: Metadata,
    rollout: &Rollout,
) -> ApiResult<RolloutObject> {
    let now = now();
    let mut read = db.read().await?;
    let mut object = show(metadata, rollout);
    object.status.history = rollout.history().to_vec();
    object.status.held_back = holds::held_back(db, &mut read, rollout).await?;
    if !rollout.phase().is_final() {
        let snapshot = Snapshot::load(db, &mut read, now).await?;
        let mut view = view(app, db, &snapshot, rollout, now);
        super::step::signals::fill(db, &mut view, rollout).await?;
        object.status.waiting = rollout.waiting_for(&view, now);
        object.status.groups = rollout.group_stands(&view, now);
    }
    Ok(object)
}

/// The rollout's devices as they are known now.
pub(super) fn view(
    app: &App,
    db: &TenantDb,
    snapshot: &Snapshot,
    rollout: &Rollout,
    now: UnixMs,
) -> FleetView {
    let presence = |device, stored| app.hub().presence(db.tenant(), device, stored, now);
    snapshot.view(rollout, &presence, now)
}

pub(super) fn spec_errors(errors: SpecErrors) -> ApiError {
    let mut fields = errors.0.into_iter();
    let first = fields.next().map_or_else(
        || ApiError::field("spec", "is not valid"),
        |error| ApiError::field(format!("spec.{}", error.field), error.message),
    );
    fields.fold(first, |all, error| all.and_field(format!("spec.{}", error.field), error.message))
}

pub(super) fn not_now(error: TransitionError) -> ApiError {
    ApiError::new(ErrorCode::Conflict, format!("{error}."))
}
