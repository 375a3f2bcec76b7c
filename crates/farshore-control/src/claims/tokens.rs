//! `/api/claim-tokens`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_api::claim::{ClaimToken, ClaimTokenSpec, ClaimTokenStatus};
use farshore_api::{List, NewObject, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::name::Name;
use farshore_domain::object::API_VERSION;
use farshore_store::SecretHash;
use farshore_store::claim_tokens::{ClaimTokenRow, NewClaimToken};

use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, check_text, if_match, versioned};
use crate::fleet::check_envelope;
use crate::route::{Access, Db, Route, route};

const MAX_LIFETIME_SECONDS: u64 = 30 * 24 * 3600;
const MAX_USES: u32 = 1_000_000;
/// Leaves room for what a device adds.
const MAX_DEVICE_LABELS: usize = 48;
const DEFAULT_CHANNEL: &str = "prod";

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(
    list,
    create,
    get,
    delete,
    super::rules::list,
    super::rules::create,
    super::rules::get,
    super::rules::put,
    super::rules::delete,
    super::gateway_keys::list,
    super::gateway_keys::create,
    super::gateway_keys::delete
))]
pub struct ClaimDocs;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::ClaimRead), Access::Needs(Permission::ClaimWrite));
    vec![
        route(Method::GET, "/api/claim-tokens", read, list),
        route(Method::POST, "/api/claim-tokens", write, create),
        route(Method::GET, "/api/claim-tokens/{id}", read, get),
        route(Method::DELETE, "/api/claim-tokens/{id}", write, delete),
    ]
}

fn show(row: ClaimTokenRow) -> ClaimToken {
    let count = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    Object {
        api_version: API_VERSION.to_owned(),
        kind: "ClaimToken".to_owned(),
        metadata: row.metadata,
        spec: ClaimTokenSpec {
            labels: row.device_labels,
            channel: Some(row.channel),
            location: row.location,
            lifetime_seconds: row.lifetime_seconds.unsigned_abs(),
            uses: count(row.uses),
        },
        status: ClaimTokenStatus {
            used: count(row.used),
            expires_at: row.expires_at,
            revoked: row.revoked_at.is_some(),
            token: None,
            command: None,
            install: None,
        },
    }
}

/// Lists claim tokens, without their secrets.
#[utoipa::path(get, path = "/api/claim-tokens", tag = "claims", operation_id = "list_claim_tokens", params(Page),
    responses((status = 200, body = List<ClaimToken>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<ClaimToken>>> {
    let rows = db.claim_tokens(page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.metadata.name.to_string(), show)
}

/// Creates a claim token. The token and the command to type on the device are shown once.
#[utoipa::path(post, path = "/api/claim-tokens", tag = "claims", operation_id = "create_claim_token",
    request_body = NewObject<ClaimTokenSpec>,
    responses((status = 201, body = ClaimToken), (status = "4XX", body = Problem)))]
async fn create(
    State(app): State<App>,
    Db(db): Db,
    Body(new): Body<NewObject<ClaimTokenSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, "ClaimToken")?;
    let spec = &new.spec;
    if !(1..=MAX_LIFETIME_SECONDS).contains(&spec.lifetime_seconds) {
        return Err(ApiError::field(
            "spec.lifetimeSeconds",
            format!("is 1 to {MAX_LIFETIME_SECONDS} (30 days)"),
        ));
    }
    if !(1..=MAX_USES).contains(&spec.uses) {
        return Err(ApiError::field("spec.uses", format!("is 1 to {MAX_USES}")));
    }
    if spec.labels.len() > MAX_DEVICE_LABELS {
        return Err(ApiError::field("spec.labels", format!("has at most {MAX_DEVICE_LABELS} labels")));
    }
    check_text("spec.location", &spec.location, 200)?;
    let channel = match &spec.channel {
        Some(channel) => channel.clone(),
        None => Name::new(DEFAULT_CHANNEL).map_err(ApiError::internal)?,
    };
    let (token, hash) = farshore_trust::token::ClaimToken::new(
        &app.addresses().device_url,
        app.authority().root_fingerprint(),
    )
    .map_err(ApiError::internal)?;
    let row = NewClaimToken {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        hash: SecretHash(*hash.as_bytes()),
        device_labels: &spec.labels,
        channel: &channel,
        location: &spec.location,
        lifetime_seconds: i64::try_from(spec.lifetime_seconds).unwrap_or(i64::MAX),
        uses: i64::from(spec.uses),
    };
    let mut shown = show(db.create_claim_token(&row, now()).await?);
    app.events_written();
    let text = token.to_text().to_string();
    shown.status.command = Some(format!("farshore-agent claim --token {text}"));
    shown.status.install = crate::install::line(&app, &text).await?;
    shown.status.token = Some(text);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Shows a claim token, without its secret.
#[utoipa::path(get, path = "/api/claim-tokens/{id}", tag = "claims", operation_id = "get_claim_token", params(("id" = String, Path)),
    responses((status = 200, body = ClaimToken), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let token = show(db.claim_token(&id).await?);
    Ok(versioned(token.metadata.resource_version, &token))
}

/// Revokes a claim token. Devices that were claimed with it stay.
#[utoipa::path(delete, path = "/api/claim-tokens/{id}", tag = "claims", operation_id = "delete_claim_token", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.revoke_claim_token(&id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}
