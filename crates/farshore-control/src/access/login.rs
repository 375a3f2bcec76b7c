//! `/api/login`, `/api/logout`, `/api/me`.

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use farshore_api::access::{Login, Me, RedeemLink};
use farshore_api::{ErrorCode, Problem};
use farshore_domain::access::role;
use farshore_domain::name::Name;
use farshore_domain::time::{HOUR_MS, MINUTE_MS, SECOND_MS, UnixMs};
use farshore_store::sessions::{NewSession, Throttle};
use farshore_store::{Driver, Principal, StoreError};
use farshore_trust::token::{Secret, SecretKind};

use super::authenticate::{Missing, Presented, check_email, check_origin, presented};
use super::{SESSION_COOKIE, hash, secret};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::{Access, Caller, Route, route};
use crate::server::PeerAddress;

/// Lifetime of a session.
pub const SESSION_MS: i64 = 12 * HOUR_MS;
/// A platform admin's list of tenants ends here.
const MAX_TENANTS_SHOWN: u32 = 1_000;

/// One person mistypes a few times; a wait of at most five minutes keeps an attacker from locking somebody out for long.
const PER_EMAIL: Throttle =
    Throttle { free: 4, base_ms: SECOND_MS, max_ms: 5 * MINUTE_MS, window_ms: HOUR_MS };
/// Many people may share one address.
const PER_SOURCE: Throttle =
    Throttle { free: 30, base_ms: SECOND_MS, max_ms: 15 * MINUTE_MS, window_ms: HOUR_MS };

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(
    login,
    login_link,
    logout,
    me,
    super::tenants::list,
    super::tenants::create,
    super::users::list,
    super::users::create,
    super::users::get,
    super::users::put,
    super::users::delete,
    super::tokens::list,
    super::tokens::create,
    super::tokens::delete,
    super::roles::list
))]
pub struct AccessDocs;

pub(super) fn routes() -> Vec<Route> {
    vec![
        route(Method::POST, "/api/login", Access::Public, login),
        route(Method::POST, "/api/login/link", Access::Public, login_link),
        route(Method::POST, "/api/logout", Access::Authenticated, logout),
        route(Method::GET, "/api/me", Access::Authenticated, me),
    ]
}

/// Logs in with a password.
#[utoipa::path(post, path = "/api/login", tag = "access", request_body = Login,
    responses((status = 200, body = Me), (status = "4XX", body = Problem)))]
async fn login(
    State(app): State<App>,
    Extension(PeerAddress(source)): Extension<PeerAddress>,
    headers: HeaderMap,
    Body(login): Body<Login>,
) -> ApiResult<Response> {
    check_origin(&headers, Missing::Accepted)?;
    let wrong = || {
        ApiError::new(ErrorCode::Unauthenticated, "The e-mail address, the password or the tenant is wrong.")
    };
    let email = check_email(&login.email).map_err(|_| wrong())?;
    let system = app.store().system(Driver::Authenticator);
    let (by_email, by_source) = (format!("email:{email}"), source_subject(source));
    let attempt = system.begin_attempt(&[(&by_email, PER_EMAIL), (&by_source, PER_SOURCE)], now()).await?;
    if let Err(until) = attempt {
        return Err(throttled(until));
    }
    let user = system.login_user(&email).await?;
    let stored = user.as_ref().and_then(|user| user.password_hash.as_deref());
    let right = app.passwords().verify(&login.password, stored).await?;
    let (true, Some(user)) = (right, user) else { return Err(wrong()) };
    let (token, session) = new_session()?;
    if system.create_session(user.uid, login.tenant.as_ref(), &session, now()).await?.is_none() {
        return Err(wrong());
    }
    system.attempt_succeeded(&by_email, &by_source).await?;
    answer(&app, &token, login.bearer).await
}

/// Redeems a one-time link.
#[utoipa::path(post, path = "/api/login/link", tag = "access", request_body = RedeemLink,
    responses((status = 200, body = Me), (status = "4XX", body = Problem)))]
async fn login_link(
    State(app): State<App>,
    Extension(PeerAddress(source)): Extension<PeerAddress>,
    headers: HeaderMap,
    Body(redeem): Body<RedeemLink>,
) -> ApiResult<Response> {
    check_origin(&headers, Missing::Accepted)?;
    let system = app.store().system(Driver::Authenticator);
    let by_source = source_subject(source);
    if let Err(until) = system.begin_attempt(&[(&by_source, PER_SOURCE)], now()).await? {
        return Err(throttled(until));
    }
    let password = match &redeem.password {
        Some(password) => Some(app.passwords().hash(password).await?),
        None => None,
    };
    let (token, session) = new_session()?;
    let redeemed = system.redeem_login_link(&hash(&redeem.link), password.as_deref(), &session, now()).await;
    match redeemed {
        Ok(Some(_)) => {}
        Ok(None) => {
            return Err(ApiError::new(
                ErrorCode::Unauthenticated,
                "This link was used or has ended. Ask an admin for a new one.",
            ));
        }
        Err(StoreError::Conflict(text)) => {
            return Err(ApiError::field("password", text));
        }
        Err(other) => return Err(other.into()),
    }
    system.attempt_succeeded("", &by_source).await?;
    answer(&app, &token, redeem.bearer).await
}

/// Ends the session.
#[utoipa::path(post, path = "/api/logout", tag = "access",
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn logout(State(app): State<App>, headers: HeaderMap) -> ApiResult<Response> {
    if let Some(Presented::Cookie(secret) | Presented::Bearer(secret)) = presented(&headers) {
        app.store().system(Driver::Authenticator).revoke_session(&hash(secret), now()).await?;
    }
    let gone = format!("{SESSION_COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0");
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

/// Who one is.
#[utoipa::path(get, path = "/api/me", tag = "access",
    responses((status = 200, body = Me), (status = "4XX", body = Problem)))]
async fn me(State(app): State<App>, Caller(principal): Caller) -> ApiResult<Json<Me>> {
    Ok(Json(describe(&app, &principal, None).await?))
}

/// One subject for a source: an IPv4 address, or the /64 that one host of IPv6 has to itself.
fn source_subject(source: std::net::SocketAddr) -> String {
    match source.ip().to_canonical() {
        std::net::IpAddr::V4(address) => format!("ip:{address}"),
        std::net::IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("ip:{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn throttled(until: UnixMs) -> ApiError {
    let seconds = u32::try_from(until.since_ms(now()).max(0) / SECOND_MS + 1).unwrap_or(u32::MAX);
    ApiError::new(
        ErrorCode::TooManyRequests,
        format!("Too many failed logins. Try again in {seconds} seconds."),
    )
    .retry_after(seconds)
}

fn new_session() -> Result<(Secret, NewSession), ApiError> {
    let (token, hash) = secret(SecretKind::Session)?;
    Ok((token, NewSession { hash, expires_at: now().plus_ms(SESSION_MS) }))
}

async fn answer(app: &App, token: &Secret, bearer: bool) -> ApiResult<Response> {
    let principal = app
        .store()
        .authenticate_session(&hash(token.expose()), None, now())
        .await?
        .ok_or_else(|| ApiError::internal("a session that was just opened is not there"))?;
    let me = describe(app, &principal, bearer.then_some(token)).await?;
    let mut response = Json(me).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !bearer {
        let cookie = format!(
            "{SESSION_COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={}",
            token.expose(),
            SESSION_MS / 1_000
        );
        let cookie: HeaderValue =
            cookie.parse().map_err(|error: http::header::InvalidHeaderValue| ApiError::internal(error))?;
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

async fn describe(app: &App, principal: &Principal, token: Option<&Secret>) -> ApiResult<Me> {
    let system = app.store().system(Driver::Authenticator);
    let platform = principal.role().as_str() == "platform-admin";
    let tenants: Vec<Name> = match principal.user() {
        Some(_) if platform => {
            system.tenants(None, MAX_TENANTS_SHOWN).await?.into_iter().map(|row| row.name).collect()
        }
        Some((uid, _)) => system.tenants_of(uid).await?,
        None => vec![principal.tenant_name().clone()],
    };
    Ok(Me {
        user: principal.user().map(|(uid, _)| uid.0),
        email: match (principal.user(), principal.api_token()) {
            (Some((_, email)), _) => email.to_owned(),
            (None, Some((_, name))) => name.to_string(),
            (None, None) => String::new(),
        },
        tenant: principal.tenant_name().clone(),
        tenant_id: principal.tenant().0,
        role: principal.role().clone(),
        permissions: role(principal.role().as_str()).map(|row| row.permissions.to_vec()).unwrap_or_default(),
        tenants,
        expires_at: principal.expires_at(),
        token: token.map(|token| token.expose().to_owned()),
    })
}
