//! `GET /api/devices/{id}/pipelines`.

use axum::Json;
use axum::extract::Path;
use axum::http::Method;
use farshore_api::Problem;
use farshore_api::pipeline::{DevicePipelines, WantedPipelines};
use farshore_api::sync::GatewayReport;
use farshore_domain::access::Permission;

use super::wanted;
use crate::error::ApiResult;
use crate::route::{Access, Db, Route, route};

/// What a device's gateway is to run, what it runs, and how that stands. Gateways tell it with their sync: within seconds while readings come, and once a
/// minute at least.
#[utoipa::path(get, path = "/api/devices/{id}/pipelines", tag = "sync", params(("id" = String, Path)),
    responses((status = 200, body = DevicePipelines), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Json<DevicePipelines>> {
    let device = db.device(&id).await?;
    let held = wanted::load(&db).await?;
    let wanted = wanted::of(&held, &device.metadata.name, &device.metadata.labels);
    let gateway = db.gateway(device.id()).await?;
    let reported_at = gateway.as_ref().map(|gateway| gateway.reported_at);
    // Of a later version, what this one knows.
    let report = gateway.map(|row| serde_json::from_value::<GatewayReport>(row.report).unwrap_or_default());
    let running = report.and_then(|report| report.processing);
    Ok(Json(DevicePipelines {
        device: device.id(),
        device_name: device.metadata.name,
        state: DevicePipelines::state(wanted.map(|held| held.digest), running.as_ref()),
        wanted: wanted.map(|held| WantedPipelines {
            config: held.config.clone(),
            layer: held.layer,
            resource_version: held.resource_version,
            digest: held.digest,
            text: held.text.clone(),
        }),
        running,
        reported_at,
    }))
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(get))]
pub struct PipelineDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/api/devices/{id}/pipelines", Access::Needs(Permission::DeviceRead), get)]
}
