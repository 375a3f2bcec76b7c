//! `Idempotency-Key` on POST: the same request sent twice takes effect once, and gets the same answer.
//!
//! Answers may hold secrets that are shown once (tokens, links), so they rest encrypted under the master key.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use farshore_api::ErrorCode;
use farshore_domain::digest::Digest;
use farshore_store::idempotency::Repeated;
use farshore_store::{Driver, Principal};
use http_body_util::{BodyExt as _, Limited};

use crate::app::App;
use crate::clock::now;
use crate::error::ApiError;
use crate::extract::MAX_JSON_BYTES;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PURPOSE: &str = "idempotency/answer";
/// The largest answer that is kept: what the master key wraps at once.
const MAX_ANSWER_BYTES: usize = farshore_trust::master::MAX_PLAIN_BYTES;

/// Runs the handler, unless this request was answered before.
pub(crate) async fn idempotent(
    app: &App,
    principal: &Principal,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = match request.headers().get(&IDEMPOTENCY_KEY) {
        Some(key) if request.method() == Method::POST => key,
        _ => return Ok(next.run(request).await),
    };
    let key = key
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()))
        .ok_or_else(|| ApiError::field("Idempotency-Key", "has 1 to 255 visible characters"))?;
    // Keys belong to who sent them: nobody gets another's answer.
    let key = Digest::of(format!("{}\n{key}", principal.actor().0).as_bytes()).hex();
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_JSON_BYTES).collect().await.map_err(|_| {
        ApiError::new(
            ErrorCode::TooLarge,
            format!("With an Idempotency-Key a body has at most {MAX_JSON_BYTES} bytes."),
        )
    })?;
    let body = body.to_bytes();
    let mut told = format!("{} {}\n", parts.method, parts.uri).into_bytes();
    told.extend_from_slice(&body);
    let digest = Digest::of(&told).hex();

    let system = app.store().system(Driver::Authenticator);
    let tenant = principal.tenant();
    match system.begin_request(tenant, &key, &digest, now()).await? {
        Repeated::New => {}
        Repeated::Answered { status, body } => return replay(app, status, &body),
        Repeated::Different => {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                "This Idempotency-Key was used for another request. Use a new key for a new request.",
            ));
        }
        Repeated::UnderWay => {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                "The first request with this Idempotency-Key is still being answered. Ask again in a moment.",
            )
            .retry_after(1));
        }
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let (parts, body) = response.into_parts();
    let is_json =
        parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_none_or(|kind| {
            kind.starts_with("application/json") || kind.starts_with("application/problem+json")
        });
    // What did not take effect may be tried again with the same key.
    if !is_json || parts.status.is_server_error() || parts.status == StatusCode::TOO_MANY_REQUESTS {
        system.forget_request(tenant, &key).await?;
        return Ok(Response::from_parts(parts, body));
    }
    let body: Bytes = body.collect().await.map_err(ApiError::internal)?.to_bytes();
    if body.len() <= MAX_ANSWER_BYTES {
        let sealed = app.authority().master().wrap(PURPOSE, &body).map_err(ApiError::internal)?;
        system.finish_request(tenant, &key, parts.status.as_u16(), &sealed).await?;
    } else {
        system.forget_request(tenant, &key).await?;
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(app: &App, status: u16, sealed: &[u8]) -> Result<Response, ApiError> {
    let body = app.authority().master().unwrap(PURPOSE, sealed).map_err(ApiError::internal)?;
    let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let mut response = (status, body.to_vec()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(response)
}
