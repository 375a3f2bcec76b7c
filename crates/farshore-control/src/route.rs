//! The table of routes.
//!
//! Each row says what it takes to get in. The permission is checked before the handler runs, and the handler gets the database
//! from the check ([`Db`]); a handler without a row does not exist. `tests/matrix.rs` walks the same table.

use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use farshore_api::ErrorCode;
use farshore_domain::access::Permission;
use farshore_store::{Principal, TenantDb};

use crate::app::App;
use crate::claims::PeerCertificate;
use crate::error::ApiError;

/// What it takes to get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Anybody with a session or an API token.
    Authenticated,
    /// A role that allows this.
    Needs(Permission),
    /// On the device port: a claimed device with a valid certificate.
    Device,
    /// On the device port: a claimed device with a valid certificate, or a gateway with its key.
    Gateway,
    /// On the device port: a device whose certificate may have expired.
    RenewingDevice,
}

/// One row.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    /// As axum writes it. An action such as `POST /api/devices/{id}:revoke` is written `/api/devices/{id}/~revoke` here; see [`split_verb`].
    pub path: &'static str,
    pub access: Access,
    /// May take as long as it takes; see [`Route::unhurried`].
    pub unhurried: bool,
    handler: MethodRouter<App>,
}

impl Route {
    /// The answer may take longer than the server waits otherwise: the body is large, or the answer is worked out for long.
    /// Streams need not ask: only the time to the answer's head counts.
    #[must_use]
    pub const fn unhurried(mut self) -> Self {
        self.unhurried = true;
        self
    }
}

/// An answer comes within this time; see [`Route::unhurried`].
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The row that answered a request, as a label for metrics and the access log. In the answer's extensions.
#[derive(Clone, Copy, Debug)]
pub struct RouteLabel(pub &'static str);

/// Who asked, for the access log. In the answer's extensions.
#[derive(Clone, Debug)]
pub struct AskedBy(pub String);

/// Makes a row.
pub fn route<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
    Route { method, path, access, unhurried: false, handler: on(filter, handler) }
}

/// The tenant's database, open to the permission that the row names.
#[derive(Clone, Debug)]
pub struct Db(pub TenantDb);

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller(pub Principal);

impl<S: Send + Sync> FromRequestParts<S> for Db {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal("a handler asks for a database that its row does not open"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal("a handler asks for a caller that its row does not know"))
    }
}

/// Builds the router from the rows.
pub fn router(app: &App, routes: Vec<Route>) -> Router {
    let mut router = Router::new();
    let without_query = crate::openapi::without_query();
    for Route { method, path, access, unhurried, handler } in routes {
        let takes_query = !without_query.contains(&format!("{method} {path}"));
        let row = Row { app: app.clone(), path, access, unhurried, takes_query };
        router = router.route(path, handler.layer(axum::middleware::from_fn_with_state(row, guard)));
    }
    router
        .fallback(async || ApiError::new(ErrorCode::NotFound, "There is nothing at this address."))
        .method_not_allowed_fallback(async || {
            ApiError::new(ErrorCode::MethodNotAllowed, "This address knows other methods, but not this one.")
        })
        .layer(axum::extract::DefaultBodyLimit::max(crate::extract::MAX_JSON_BYTES))
        .with_state(app.clone())
}

/// What the guard knows of a row.
#[derive(Clone, Debug)]
struct Row {
    app: App,
    path: &'static str,
    access: Access,
    unhurried: bool,
    /// Handlers that take query parameters refuse those they don't know; the guard speaks for the others.
    takes_query: bool,
}

async fn guard(State(row): State<Row>, request: Request, next: Next) -> Response {
    let path = row.path;
    let mut asked_by = None;
    let answer = let_in(row, request, next, &mut asked_by);
    let mut response = answer.await.unwrap_or_else(IntoResponse::into_response);
    response.extensions_mut().insert(RouteLabel(path));
    if let Some(who) = asked_by {
        response.extensions_mut().insert(AskedBy(who));
    }
    response
}

async fn let_in(
    row: Row,
    mut request: Request,
    next: Next,
    asked_by: &mut Option<String>,
) -> Result<Response, ApiError> {
    let Row { app, access, unhurried, takes_query, .. } = row;
    let certificate = request.extensions().get::<PeerCertificate>().cloned();
    let mut principal = None;
    match access {
        Access::Public => {}
        Access::Authenticated | Access::Needs(_) => {
            let caller = crate::access::authenticate(&app, request.method(), request.headers()).await?;
            *asked_by = Some(caller.actor().0);
            if let Access::Needs(permission) = access {
                let db = app.store().authorize(&caller, permission)?;
                request.extensions_mut().insert(Db(db));
            }
            request.extensions_mut().insert(Caller(caller.clone()));
            principal = Some(caller);
        }
        Access::Device => {
            let peer = crate::claims::device_peer(&app, certificate.as_ref()).await?;
            *asked_by = Some(format!("device:{}", peer.name));
            request.extensions_mut().insert(peer);
        }
        Access::Gateway => {
            let peer = crate::claims::gateway_peer(&app, certificate.as_ref(), request.headers()).await?;
            *asked_by = Some(format!("device:{}", peer.name));
            request.extensions_mut().insert(peer);
        }
        Access::RenewingDevice => {
            let peer = crate::claims::renewing_peer(&app, certificate.as_ref())?;
            *asked_by = Some(format!("device:{}", peer.identity.device));
            request.extensions_mut().insert(peer);
        }
    }
    let query = request.uri().query().unwrap_or_default();
    if !takes_query && let Some((name, _)) = form_urlencoded::parse(query.as_bytes()).next() {
        return Err(ApiError::field(name, "is no query parameter of this address, which takes none"));
    }
    let answer = async move {
        match principal {
            Some(principal) => crate::server::idempotent(&app, &principal, request, next).await,
            None => Ok(next.run(request).await),
        }
    };
    if unhurried {
        return answer.await;
    }
    tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("The answer took longer than {} seconds. Try again.", ANSWER_WITHIN.as_secs()),
        )
        .retry_after(5))
    })
}

/// matchit allows one parameter in a segment, so the verb of `POST …/{id}:verb` is moved into a segment of its own before routing: `…/{id}/~verb`.
#[must_use]
pub fn split_verb(method: &Method, path: &str) -> Option<String> {
    if method != Method::POST {
        return None;
    }
    let (head, verb) = path.rsplit_once(':')?;
    let is_verb =
        !verb.is_empty() && verb.len() <= 32 && verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    (is_verb && !head.ends_with('/')).then(|| format!("{head}/~{verb}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_verb_of_a_post_is_split_off() {
        let check = |method: Method, path: &str, expect: Option<&str>| {
            assert_eq!(split_verb(&method, path).as_deref(), expect, "{path}")
        };
        check(Method::POST, "/api/devices/kiosk-7:drain", Some("/api/devices/kiosk-7/~drain"));
        check(
            Method::POST,
            "/api/rollouts/edge-web-1.1:restart-app",
            Some("/api/rollouts/edge-web-1.1/~restart-app"),
        );
        check(Method::GET, "/api/devices/kiosk-7:drain", None);
        check(Method::POST, "/api/artifacts/sha256:00ff", None);
        check(Method::POST, "/api/devices", None);
        check(Method::POST, "/api/devices/:drain", None);
    }
}
