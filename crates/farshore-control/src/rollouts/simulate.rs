//! `POST /api/rollouts/{id}:simulate`: how the rollout would go, by the same engine over virtual time.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Method;
use farshore_api::forecast::{RolloutForecast, SimulateRequest};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::access::Permission;
use farshore_domain::forecast::{self, ForecastError, Options};
use tokio::sync::Semaphore;

use super::past;
use super::show::{engine, not_now, view};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::fleet::snapshot::Snapshot;
use crate::route::{Access, Db, Route, route};

/// At most so many forecasts are made at once, each on a core of its own; who comes then is asked to come again.
const AT_ONCE: usize = 2;
const MOST_RUNS: u32 = 200;
const RETRY_SECONDS: u32 = 2;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(simulate))]
pub struct SimulateDocs;

/// It changes nothing: whoever may see the rollout may ask.
pub(super) fn row() -> Route {
    let read = Access::Needs(Permission::RolloutRead);
    route(Method::POST, "/api/rollouts/{id}/~simulate", read, simulate)
}

/// Foresees how a rollout goes from now on. Nothing is changed.
#[utoipa::path(post, path = "/api/rollouts/{id}:simulate", tag = "rollouts", params(("id" = String, Path)), request_body = SimulateRequest,
    responses((status = 200, body = RolloutForecast), (status = "4XX", body = Problem)))]
async fn simulate(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(request): Body<SimulateRequest>,
) -> ApiResult<Json<RolloutForecast>> {
    let limit = crate::extract::limit(request.limit)? as usize;
    if request.runs.is_some_and(|runs| !(1..=MOST_RUNS).contains(&runs)) {
        return Err(ApiError::field("runs", format!("is 1 to {MOST_RUNS}; leave it out for as many as fit")));
    }
    let Ok(place) = PLACES.try_acquire() else {
        let detail = format!("{AT_ONCE} forecasts are being made already; ask again in a moment.");
        return Err(ApiError::new(ErrorCode::TooManyRequests, detail).retry_after(RETRY_SECONDS));
    };
    let begin = Instant::now();
    let now = now();
    let mut read = db.read().await?;
    let row = db.rollout_in(&mut read, &id).await?;
    let rollout = engine(&row)?;
    let snapshot = Snapshot::load(&db, &mut read, now).await?;
    drop(read);
    let history = past::read(&db, &snapshot, &rollout.spec().app, now).await?;
    let options = Options {
        seed: u64::from(request.seed.unwrap_or(1)),
        runs: request.runs,
        from: snapshot.pointer(&rollout.spec().channel, &rollout.spec().app),
        ..Options::default()
    };
    let view = view(&app, &db, &snapshot, &rollout, now);
    drop(snapshot);
    // Up to seconds of work: not on a thread that answers others. The place is given back when the work is done, even if nobody waits for it.
    let forecast = tokio::task::spawn_blocking(move || {
        let _place = place;
        forecast::simulate(&rollout, &view, &history, &options, now)
    })
    .await
    .map_err(ApiError::internal)?;
    let mut forecast = forecast.map_err(|error| match error {
        ForecastError::Refused(refused) => not_now(refused),
        ForecastError::Over(_) => ApiError::new(ErrorCode::Conflict, format!("{error}.")),
    })?;
    let assignments_total = u32::try_from(forecast.assignments.len()).unwrap_or(u32::MAX);
    let offset = request.offset.unwrap_or(0) as usize;
    forecast.assignments = forecast.assignments.into_iter().skip(offset).take(limit).collect();
    let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(RolloutForecast { forecast, assignments_total, took_ms }))
}
