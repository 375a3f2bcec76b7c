//! `/api/gateway-keys`, and who comes with one.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farshore_api::gateway_key::{GatewayKey, GatewayKeySpec, GatewayKeyStatus};
use farshore_api::{ErrorCode, List, NewObject, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_store::gateway_keys::{GatewayKeyRow, NewGatewayKey};
use farshore_store::{Driver, SecretHash};
use farshore_trust::token::{self, hash_secret};

use super::peer::{DevicePeer, PeerCertificate, device_peer, turned_away};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, check_text, if_match};
use crate::fleet::check_envelope;
use crate::route::{Access, Db, Route, route};

const MAX_LIFETIME_SECONDS: u64 = 400 * 24 * 3600;
/// No secret of ours is longer.
const MAX_SECRET_BYTES: usize = 128;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::ClaimRead), Access::Needs(Permission::ClaimWrite));
    vec![
        route(Method::GET, "/api/gateway-keys", read, list),
        route(Method::POST, "/api/gateway-keys", write, create),
        route(Method::DELETE, "/api/gateway-keys/{id}", write, delete),
    ]
}

/// Lets in a device with its certificate, as [`device_peer`] does; or, where no certificate was shown, a gateway with a key.
pub(crate) async fn gateway_peer(
    app: &App,
    certificate: Option<&PeerCertificate>,
    headers: &HeaderMap,
) -> Result<DevicePeer, ApiError> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let secret = bearer
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, secret)| secret.trim());
    let shown = certificate.is_some_and(|peer| peer.0.is_some());
    let Some(secret) = secret.filter(|_| !shown) else { return device_peer(app, certificate).await };
    let unknown = || {
        ApiError::new(
            ErrorCode::Unauthenticated,
            "This gateway key is unknown, has expired or was revoked. Make a new one: farshore sync create-key.",
        )
    };
    if secret.len() > MAX_SECRET_BYTES {
        return Err(unknown());
    }
    let (hash, now) = (SecretHash(*hash_secret(secret).as_bytes()), now());
    let found = app.store().system(Driver::Authenticator).gateway_key_device(&hash, now).await?;
    let (tenant, device) = found.ok_or_else(unknown)?;
    let standing = app.standings().of(app, tenant, device, now).await?;
    let standing = standing.filter(|standing| standing.is_welcome()).ok_or_else(turned_away)?;
    let db = app.store().authorize_device(tenant, device);
    Ok(DevicePeer { tenant, device, name: standing.name, identity: None, db })
}

fn show(row: GatewayKeyRow) -> GatewayKey {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: "GatewayKey".to_owned(),
        metadata: Metadata {
            uid: row.uid,
            name: row.name,
            labels: row.labels,
            resource_version: row.resource_version,
            managed_by: "api".to_owned(),
            created_at: row.created_at,
        },
        spec: GatewayKeySpec {
            device: row.device_name,
            location: row.location,
            lifetime_seconds: row.lifetime_seconds.unsigned_abs(),
        },
        status: GatewayKeyStatus { expires_at: row.expires_at, last_used_at: row.last_used_at, key: None },
    }
}

/// Lists the keys of gateways, without the keys themselves.
#[utoipa::path(get, path = "/api/gateway-keys", tag = "claims", operation_id = "list_gateway_keys", params(Page),
    responses((status = 200, body = List<GatewayKey>), (status = "4XX", body = Problem)))]
pub(super) async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<GatewayKey>>> {
    let rows = db.gateway_keys(page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.name.to_string(), show)
}

/// Creates a key for a gateway that has no certificate; the key is shown once. It opens the addresses by which the readings and documents of one device are synced, and nothing else.
#[utoipa::path(post, path = "/api/gateway-keys", tag = "claims", operation_id = "create_gateway_key",
    request_body = NewObject<GatewayKeySpec>,
    responses((status = 201, body = GatewayKey), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Db(db): Db,
    Body(new): Body<NewObject<GatewayKeySpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, "GatewayKey")?;
    let spec = &new.spec;
    if !(1..=MAX_LIFETIME_SECONDS).contains(&spec.lifetime_seconds) {
        return Err(ApiError::field(
            "spec.lifetimeSeconds",
            format!("is 1 to {MAX_LIFETIME_SECONDS} (400 days)"),
        ));
    }
    check_text("spec.location", &spec.location, 200)?;
    let (key, hash) = token::GatewayKey::new(&app.addresses().device_url, app.authority().root_fingerprint())
        .map_err(ApiError::internal)?;
    let row = NewGatewayKey {
        name: &new.metadata.name,
        hash: SecretHash(*hash.as_bytes()),
        device: &spec.device,
        location: &spec.location,
        lifetime_seconds: i64::try_from(spec.lifetime_seconds).unwrap_or(i64::MAX),
        labels: &new.metadata.labels,
    };
    let mut shown = show(db.create_gateway_key(&row, now()).await?);
    app.events_written();
    shown.status.key = Some(key.to_text().to_string());
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Revokes a gateway's key. Its device, and what it sent, stay.
#[utoipa::path(delete, path = "/api/gateway-keys/{id}", tag = "claims", operation_id = "delete_gateway_key", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.revoke_gateway_key(&id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}
