//! `/healthz`, `/readyz`, `/metrics`, `/api/openapi.json`.

use axum::extract::State;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use farshore_api::{ErrorCode, Problem};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::route::{Access, Route, route};

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(healthz, readyz, metrics, openapi_json))]
pub(crate) struct HealthDocs;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/healthz", Access::Public, healthz),
        route(Method::GET, "/readyz", Access::Public, readyz),
        route(Method::GET, "/metrics", Access::Public, metrics),
        route(Method::GET, "/api/openapi.json", Access::Public, openapi_json),
    ]
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// The process can work: its database answers, and it is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = String), (status = 503, body = Problem)))]
async fn readyz(State(app): State<App>) -> ApiResult<&'static str> {
    let not_ready = |why: &str| ApiError::new(ErrorCode::Unavailable, why).retry_after(5);
    if app.shutdown().is_cancelled() {
        return Err(not_ready("This replica is stopping."));
    }
    match app.store().ping().await {
        Ok(()) => Ok("ready\n"),
        Err(error) => {
            tracing::error!(error = crate::error::chain(&error), "the database does not answer");
            Err(not_ready("The database does not answer."))
        }
    }
}

/// Figures in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String)))]
async fn metrics(State(app): State<App>) -> Response {
    let mut response = Body::from(app.metrics().text(&app)).into_response();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// This API, described.
#[utoipa::path(get, path = "/api/openapi.json", tag = "health", responses((status = 200)))]
async fn openapi_json() -> Json<utoipa::openapi::OpenApi> {
    Json(crate::openapi::openapi())
}
