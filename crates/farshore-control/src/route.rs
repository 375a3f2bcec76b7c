//! The table of routes.
//!
//! Each row says what it takes to get in. The permission is checked before the handler runs, and the handler gets the database
//! from the check ([`Db`]); a handler without a row does not exist. `tests/matrix.rs` walks the same table.

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use farshore_domain::access::Permission;
use farshore_store::{Principal, TenantDb};

use crate::app::App;
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
}

/// One row.
#[derive(Debug)]
pub struct Route {
    pub method: Method,
    /// As axum writes it. An action such as `POST /api/devices/{id}:revoke` is written `/api/devices/{id}/~revoke` here; see [`split_verb`].
    pub path: &'static str,
    pub access: Access,
    handler: MethodRouter<App>,
}

/// Makes a row.
pub fn route<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
    Route { method, path, access, handler: on(filter, handler) }
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
    for Route { path, access, handler, .. } in routes {
        let guarded = handler.layer(axum::middleware::from_fn_with_state((app.clone(), access), guard));
        router = router.route(path, guarded);
    }
    router.with_state(app.clone())
}

async fn guard(
    State((app, access)): State<(App, Access)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if access != Access::Public {
        let principal = crate::access::authenticate(&app, request.method(), request.headers()).await?;
        if let Access::Needs(permission) = access {
            let db = app.store().authorize(&principal, permission)?;
            request.extensions_mut().insert(Db(db));
        }
        request.extensions_mut().insert(Caller(principal));
    }
    Ok(next.run(request).await)
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
