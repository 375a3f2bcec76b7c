//! Who asks: sessions, API tokens, users, tenants.

use axum::http::{HeaderMap, Method};
use farshore_api::ErrorCode;
use farshore_store::Principal;

use crate::app::App;
use crate::error::ApiError;

/// Finds out who sent the request, from its cookie or its bearer token.
pub async fn authenticate(_app: &App, _method: &Method, _headers: &HeaderMap) -> Result<Principal, ApiError> {
    Err(ApiError::new(
        ErrorCode::Unauthenticated,
        "Log in with POST /api/login, or send an API token as Authorization: Bearer.",
    ))
}
