//! `/api/tokens`: API tokens.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_api::access::{ApiToken, ApiTokenSpec, ApiTokenStatus};
use farshore_api::{List, NewObject, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_store::tokens::{ApiTokenRow, NewApiToken};
use farshore_trust::token::SecretKind;

use super::secret;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, if_match};
use crate::fleet::check_envelope;
use crate::route::{Access, Caller, Db, Route, route};

const MAX_LIFETIME_SECONDS: u64 = 400 * 24 * 3600;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::UserRead), Access::Needs(Permission::UserWrite));
    vec![
        route(Method::GET, "/api/tokens", read, list),
        route(Method::POST, "/api/tokens", write, create),
        route(Method::DELETE, "/api/tokens/{id}", write, delete),
    ]
}

fn show(row: ApiTokenRow) -> ApiToken {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: "ApiToken".to_owned(),
        metadata: Metadata {
            uid: row.uid.0,
            name: row.name,
            labels: row.labels,
            resource_version: row.resource_version,
            managed_by: "api".to_owned(),
            created_at: row.created_at,
        },
        spec: ApiTokenSpec { role: row.role, lifetime_seconds: row.lifetime_seconds.unsigned_abs() },
        status: ApiTokenStatus { expires_at: row.expires_at, last_used_at: row.last_used_at, token: None },
    }
}

/// Lists API tokens, without the tokens themselves.
#[utoipa::path(get, path = "/api/tokens", tag = "access", operation_id = "list_tokens", params(Page),
    responses((status = 200, body = List<ApiToken>), (status = "4XX", body = Problem)))]
pub(super) async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<ApiToken>>> {
    let rows = db.api_tokens(page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.name.to_string(), show)
}

/// Creates an API token, which is shown once.
#[utoipa::path(post, path = "/api/tokens", tag = "access", operation_id = "create_token", request_body = NewObject<ApiTokenSpec>,
    responses((status = 201, body = ApiToken), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Db(db): Db,
    Caller(by): Caller,
    Body(new): Body<NewObject<ApiTokenSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, "ApiToken")?;
    let lifetime = new.spec.lifetime_seconds;
    if !(1..=MAX_LIFETIME_SECONDS).contains(&lifetime) {
        return Err(ApiError::field(
            "spec.lifetimeSeconds",
            format!("is 1 to {MAX_LIFETIME_SECONDS} (400 days)"),
        ));
    }
    let (token, hash) = secret(SecretKind::ApiToken)?;
    let row = NewApiToken {
        name: &new.metadata.name,
        hash,
        role: &new.spec.role,
        lifetime_seconds: i64::try_from(lifetime).unwrap_or(i64::MAX),
        labels: &new.metadata.labels,
    };
    let mut shown = show(db.create_api_token(&by, &row, now()).await?);
    app.events_written();
    shown.status.token = Some(token.expose().to_owned());
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Revokes an API token.
#[utoipa::path(delete, path = "/api/tokens/{id}", tag = "access", operation_id = "delete_token", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Caller(by): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.revoke_api_token(&by, &id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}
