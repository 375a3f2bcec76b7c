//! `/api/rollouts`: the rows, and what reads.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Method;
use axum::response::Response;
use farshore_api::rollout::{Rollout as RolloutObject, RolloutDevice, RolloutPlan};
use farshore_api::{List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_domain::rollout::{Bucket, Phase, Rollout};
use farshore_store::TenantDb;
use serde::Deserialize;

use super::show::{engine, show_row, show_whole};
use super::{holds, make, simulate, verbs, why};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Query, versioned};
use crate::fleet::snapshot::Snapshot;
use crate::route::{Access, Db, Route, route};

/// The noun's part of the OpenAPI document, without the verbs.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(
    list,
    make::create,
    get,
    make::supersede,
    holds::release_hold,
    devices,
    plan,
    why::of_rollout,
    why::of_device
))]
pub struct RolloutDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::RolloutRead);
    let write = Access::Needs(Permission::RolloutWrite);
    let mut rows = vec![
        route(Method::GET, "/api/rollouts", read, list),
        route(Method::POST, "/api/rollouts", write, make::create),
        route(Method::GET, "/api/rollouts/{id}", read, get),
        route(Method::PUT, "/api/rollouts/{id}", write, make::supersede),
        route(Method::POST, "/api/rollouts/{id}/~release-hold", write, holds::release_hold),
        route(Method::GET, "/api/rollouts/{id}/devices", read, devices),
        route(Method::GET, "/api/rollouts/{id}/plan", read, plan),
        route(Method::GET, "/api/rollouts/{id}/why", read, why::of_rollout),
        route(Method::GET, "/api/devices/{id}/why", Access::Needs(Permission::DeviceRead), why::of_device),
    ];
    rows.push(simulate::row());
    rows.extend(verbs::rows());
    rows
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
struct DevicePage {
    /// Only devices that stand there: `waiting`, `updating`, `ok`, `failed`, `unreachable`, `rolling-back`, `rolled-back`, `excluded`.
    bucket: Option<Bucket>,
    limit: Option<u32>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
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
    let items = rows.into_iter().map(show_row).collect::<ApiResult<_>>()?;
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

/// Shows one rollout with its history and what it waits for.
#[utoipa::path(get, path = "/api/rollouts/{id}", tag = "rollouts", operation_id = "get_rollout", params(("id" = String, Path)),
    responses((status = 200, body = RolloutObject), (status = "4XX", body = Problem)))]
async fn get(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let row = db.rollout(&id).await?;
    let rollout = engine(&row)?;
    let version = row.metadata.resource_version;
    Ok(versioned(version, &show_whole(&app, &db, row.metadata, &rollout).await?))
}

/// One page of a rollout's devices, in the order in which it takes them.
struct DeviceList {
    items: Vec<RolloutDevice>,
    metadata: ListMetadata,
}

async fn device_list(
    db: &TenantDb,
    rollout: &Rollout,
    bucket: Option<Bucket>,
    limit: Option<u32>,
    continue_from: Option<&str>,
) -> ApiResult<DeviceList> {
    let limit = crate::extract::limit(limit)? as usize;
    let skip: usize = match continue_from {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| ApiError::field("continue", "is what the page before said"))?
        }
    };
    let rank = |device: DeviceId| rollout.member(device).map(|member| (member.wave(), member.rank()));
    let mut all: Vec<_> =
        rollout.devices().filter(|device| bucket.is_none_or(|bucket| device.bucket == bucket)).collect();
    all.sort_by_key(|device| rank(device.device));
    let total = all.len();
    let mut read = db.read().await?;
    let known: std::collections::BTreeMap<_, _> =
        db.fleet_devices(&mut read).await?.into_iter().map(|device| (device.id, device)).collect();
    let items: Vec<_> = all
        .into_iter()
        .skip(skip)
        .take(limit)
        .filter_map(|summary| {
            let device = known.get(&summary.device)?;
            Some(RolloutDevice {
                name: device.name.clone(),
                location: device.location.clone(),
                model: device.labels.get("model").unwrap_or_default().to_owned(),
                summary,
            })
        })
        .collect();
    let continue_from = (skip.saturating_add(limit) < total).then(|| (skip + limit).to_string());
    Ok(DeviceList { items, metadata: ListMetadata { continue_from, total: Some(total as u64) } })
}

/// Lists a rollout's devices in the order in which it takes them.
#[utoipa::path(get, path = "/api/rollouts/{id}/devices", tag = "rollouts", operation_id = "list_rollout_devices", params(("id" = String, Path), DevicePage),
    responses((status = 200, body = List<RolloutDevice>), (status = "4XX", body = Problem)))]
async fn devices(
    Db(db): Db,
    Path(id): Path<String>,
    Query(page): Query<DevicePage>,
) -> ApiResult<Json<List<RolloutDevice>>> {
    let rollout = engine(&db.rollout(&id).await?)?;
    let continue_from = page.continue_from.as_deref();
    let DeviceList { items, metadata } =
        device_list(&db, &rollout, page.bucket, page.limit, continue_from).await?;
    Ok(Json(List { items, metadata }))
}

/// Says which device is in which wave; before the start, as it would be if the rollout started now.
#[utoipa::path(get, path = "/api/rollouts/{id}/plan", tag = "rollouts", operation_id = "rollout_plan", params(("id" = String, Path), Page),
    responses((status = 200, body = RolloutPlan), (status = "4XX", body = Problem)))]
async fn plan(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Query(page): Query<Page>,
) -> ApiResult<Json<RolloutPlan>> {
    let mut rollout = engine(&db.rollout(&id).await?)?;
    let started = rollout.phase() != Phase::Pending;
    if !started {
        let now = now();
        let mut read = db.read().await?;
        let snapshot = Snapshot::load(&db, &mut read, now).await?;
        drop(read);
        // The same function that starts it; what it changes is thrown away.
        make::begin(&app, &db, &snapshot, &mut rollout, None, now)?;
    }
    let DeviceList { items, metadata } =
        device_list(&db, &rollout, None, page.limit, page.continue_from.as_deref()).await?;
    let summary = rollout.summary(now());
    Ok(Json(RolloutPlan { started, population: summary.population, waves: summary.waves, items, metadata }))
}
