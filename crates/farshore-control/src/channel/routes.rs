//! `GET /api/channel` on the device port.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use farshore_api::{ErrorCode, Problem};

use super::connection;
use crate::app::App;
use crate::claims::DevicePeer;
use crate::error::ApiError;
use crate::route::{Access, Route, route};

/// Opens the device's channel: a WebSocket with the subprotocol `farshore.channel.v1`.
#[utoipa::path(get, path = "/api/channel", tag = "device-port",
    responses((status = 101), (status = 503, body = Problem), (status = "4XX", body = Problem)))]
async fn open(
    State(app): State<App>,
    peer: DevicePeer,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        Ok(upgrade) => connection::accept(app, peer.tenant, peer.device, upgrade).await,
        Err(rejection) => ApiError::new(
            ErrorCode::Malformed,
            format!("This address takes WebSockets only: {}", rejection.body_text()),
        )
        .into_response(),
    }
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(open))]
pub struct ChannelDocs;

/// The noun's rows on the device port.
#[must_use]
pub fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/api/channel", Access::Device, open)]
}
