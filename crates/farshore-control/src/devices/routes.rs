//! `/api/devices`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use farshore_api::device::{AppUsage, Device, DeviceSpec, DeviceSummary, LocationSummary};
use farshore_api::{List, ListMetadata, NewObject, Problem};
use farshore_domain::access::Permission;
use farshore_domain::device::AppPhase;
use farshore_domain::id::DeviceId;
use farshore_store::devices::DeviceChange;

use super::query::{ListQuery, write_cursor};
use super::view::{Detail, device};
use super::{actions, connectivity};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Query, if_match, versioned};
use crate::metrics::sparkline;
use crate::route::{Access, Db, Route, route};

const MAX_LOCATION: usize = 253;

/// Lists devices: filtered, sorted and paged by the server.
#[utoipa::path(get, path = "/api/devices", tag = "devices", params(ListQuery),
    responses((status = 200, body = List<Device>), (status = "4XX", body = Problem)))]
async fn list(
    State(app): State<App>,
    Db(db): Db,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<List<Device>>> {
    let with_sparkline = query.sparkline()?;
    let query = query.read()?;
    let at = now();
    let heartbeat_ms = app.hub().heartbeat_ms();
    let page = db.devices(&query, heartbeat_ms, at).await?;
    let continue_from = page.next.map(|cursor| write_cursor(&query, cursor)).transpose()?;
    let mut items: Vec<Device> =
        page.devices.into_iter().map(|row| device(row, Detail::Listed, heartbeat_ms, at)).collect();
    if with_sparkline {
        let ids: Vec<DeviceId> = items.iter().map(|item| DeviceId(item.metadata.uid)).collect();
        let mut lines: HashMap<DeviceId, Vec<Option<f64>>> = sparkline::cpu(&db, &ids, at).await?;
        for item in &mut items {
            item.status.sparkline = lines.remove(&DeviceId(item.metadata.uid)).unwrap_or_default();
        }
    }
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: Some(page.total) } }))
}

/// Counts devices by state and by location. Takes the filters of the list.
#[utoipa::path(get, path = "/api/devices/summary", tag = "devices", params(ListQuery),
    responses((status = 200, body = DeviceSummary), (status = "4XX", body = Problem)))]
async fn summary(
    State(app): State<App>,
    Db(db): Db,
    Query(query): Query<ListQuery>,
) -> ApiResult<Json<DeviceSummary>> {
    let query = query.read()?;
    let counts = db.device_counts(&query.filter, app.hub().heartbeat_ms(), now()).await?;
    Ok(Json(DeviceSummary {
        total: counts.total,
        reachability: counts.reachability,
        health: counts.health,
        conformance: counts.conformance,
        lifecycle: counts.lifecycle,
        by_location: counts
            .locations
            .into_iter()
            .map(|one| LocationSummary {
                location: one.location,
                total: one.total,
                online: one.online,
                unhealthy: one.unhealthy,
            })
            .collect(),
        channels: counts.channels,
    }))
}

/// Shows a device.
#[utoipa::path(get, path = "/api/devices/{id}", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
async fn get(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let row = db.device(&id).await?;
    let version = row.metadata.resource_version;
    let mut used = db.latest_of_apps(row.id()).await?;
    let mut shown = device(row, Detail::Full, app.hub().heartbeat_ms(), now());
    for app in &mut shown.status.apps {
        let (at, values) = match used.remove(app.app.as_str()) {
            Some(latest) if app.phase != AppPhase::Absent => latest,
            _ => continue,
        };
        app.usage = Some(AppUsage { at, values });
    }
    Ok(versioned(version, &shown))
}

/// Replaces a device's labels, channel and location.
#[utoipa::path(put, path = "/api/devices/{id}", tag = "devices", params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    request_body = NewObject<DeviceSpec>, responses((status = 200, body = Device), (status = "4XX", body = Problem)))]
async fn replace(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(body): Body<NewObject<DeviceSpec>>,
) -> ApiResult<Response> {
    crate::fleet::check_envelope(&body, "Device")?;
    if body.spec.driver != "agent" {
        return Err(ApiError::field("spec.driver", "is agent"));
    }
    if body.spec.location.chars().count() > MAX_LOCATION || body.spec.location.chars().any(char::is_control) {
        return Err(ApiError::field(
            "spec.location",
            format!("has at most {MAX_LOCATION} characters and no control characters"),
        ));
    }
    let change = DeviceChange {
        name: body.metadata.name,
        labels: body.metadata.labels,
        managed_by: body.metadata.managed_by.unwrap_or_else(|| "api".to_owned()),
        channel: body.spec.channel,
        location: body.spec.location,
    };
    let row = db.change_device(&id, &change, if_match(&headers)?, now()).await?;
    actions::announce(&app, &db, row.id());
    let version = row.metadata.resource_version;
    Ok(versioned(version, &device(row, Detail::Full, app.hub().heartbeat_ms(), now())))
}

/// Decommissions a device: it leaves the fleet, and its certificate and key are refused for ever.
#[utoipa::path(delete, path = "/api/devices/{id}", tag = "devices", params(("id" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn decommission(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    let row = db.decommission_device(&id, if_match(&headers)?, now()).await?;
    actions::cut_off(&app, &db, row.id());
    actions::announce(&app, &db, row.id());
    Ok(StatusCode::NO_CONTENT)
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(
    list,
    summary,
    get,
    replace,
    decommission,
    connectivity::connectivity,
    actions::approve,
    actions::reject,
    actions::revoke,
    actions::cordon,
    actions::uncordon,
    actions::resume
))]
pub struct DeviceDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    use Permission::{ClaimWrite, DeviceRead, DeviceRevoke, DeviceWrite};
    let needs = Access::Needs;
    vec![
        route(Method::GET, "/api/devices", needs(DeviceRead), list),
        route(Method::GET, "/api/devices/summary", needs(DeviceRead), summary),
        route(Method::GET, "/api/devices/{id}", needs(DeviceRead), get),
        route(Method::PUT, "/api/devices/{id}", needs(DeviceWrite), replace),
        route(Method::DELETE, "/api/devices/{id}", needs(DeviceRevoke), decommission),
        route(Method::GET, "/api/devices/{id}/connectivity", needs(DeviceRead), connectivity::connectivity),
        route(Method::POST, "/api/devices/{id}/~approve", needs(ClaimWrite), actions::approve),
        route(Method::POST, "/api/devices/{id}/~reject", needs(ClaimWrite), actions::reject),
        route(Method::POST, "/api/devices/{id}/~revoke", needs(DeviceRevoke), actions::revoke),
        route(Method::POST, "/api/devices/{id}/~cordon", needs(DeviceWrite), actions::cordon),
        route(Method::POST, "/api/devices/{id}/~uncordon", needs(DeviceWrite), actions::uncordon),
        route(Method::POST, "/api/devices/{id}/~resume", needs(DeviceWrite), actions::resume),
    ]
}
