//! `/api/users`: who may do what in a tenant.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_api::access::{User, UserSpec, UserStatus};
use farshore_api::{List, NewObject, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::users::{NewUser, UserRow};
use farshore_trust::token::SecretKind;

use super::{check_email, secret};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, if_match, versioned};
use crate::fleet::check_envelope;
use crate::route::{Access, Caller, Db, Route, route};

/// How long a new user has to set a password.
pub(crate) const LINK_MS: i64 = DAY_MS;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::UserRead), Access::Needs(Permission::UserWrite));
    vec![
        route(Method::GET, "/api/users", read, list),
        route(Method::POST, "/api/users", write, create),
        route(Method::GET, "/api/users/{id}", read, get),
        route(Method::PUT, "/api/users/{id}", write, put),
        route(Method::DELETE, "/api/users/{id}", write, delete),
    ]
}

fn show(row: UserRow) -> User {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: "User".to_owned(),
        metadata: Metadata {
            uid: row.uid.0,
            name: row.name,
            labels: row.labels,
            resource_version: row.resource_version,
            managed_by: "api".to_owned(),
            created_at: row.created_at,
        },
        spec: UserSpec { email: row.email, role: row.role },
        status: UserStatus { last_login_at: row.last_login_at, login_link: None },
    }
}

/// Lists users.
#[utoipa::path(get, path = "/api/users", tag = "access", operation_id = "list_users", params(Page),
    responses((status = 200, body = List<User>), (status = "4XX", body = Problem)))]
pub(super) async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<User>>> {
    let rows = db.users(page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.name.to_string(), show)
}

/// Creates a user. The answer holds a one-time link to set a password, unless the person was known to this installation already.
#[utoipa::path(post, path = "/api/users", tag = "access", operation_id = "create_user", request_body = NewObject<UserSpec>,
    responses((status = 201, body = User), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Db(db): Db,
    Caller(by): Caller,
    Body(new): Body<NewObject<UserSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, "User")?;
    let email = check_email(&new.spec.email).map_err(|why| ApiError::field("spec.email", why))?;
    let (link, hash) = secret(SecretKind::LoginLink)?;
    let now = now();
    let user = NewUser {
        name: &new.metadata.name,
        email: &email,
        role: &new.spec.role,
        labels: &new.metadata.labels,
        link: hash,
        link_expires_at: UnixMs(now.0 + LINK_MS),
    };
    let created = db.create_user(&by, &user, now).await?;
    app.events_written();
    let mut user = show(created.user);
    user.status.login_link = created.linked.then(|| app.addresses().login_link(link.expose()));
    Ok((StatusCode::CREATED, Json(user)).into_response())
}

/// Shows a user.
#[utoipa::path(get, path = "/api/users/{id}", tag = "access", operation_id = "get_user", params(("id" = String, Path)),
    responses((status = 200, body = User), (status = "4XX", body = Problem)))]
pub(super) async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let user = show(db.user(&id).await?);
    Ok(versioned(user.metadata.resource_version, &user))
}

/// Gives a user another role or other labels.
#[utoipa::path(put, path = "/api/users/{id}", tag = "access", operation_id = "replace_user", params(("id" = String, Path)),
    request_body = NewObject<UserSpec>, responses((status = 200, body = User), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(app): State<App>,
    Db(db): Db,
    Caller(by): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewObject<UserSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, "User")?;
    let email = check_email(&new.spec.email).map_err(|why| ApiError::field("spec.email", why))?;
    let old = db.user(&id).await?;
    if old.email != email {
        return Err(ApiError::field("spec.email", "can't be changed: create another user"));
    }
    if old.name != new.metadata.name {
        return Err(ApiError::field("metadata.name", "can't be changed: create another user"));
    }
    let row =
        db.change_user(&by, &id, &new.spec.role, &new.metadata.labels, if_match(&headers)?, now()).await?;
    app.events_written();
    let user = show(row);
    Ok(versioned(user.metadata.resource_version, &user))
}

/// Takes a user's role in this tenant away.
#[utoipa::path(delete, path = "/api/users/{id}", tag = "access", operation_id = "delete_user", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Caller(by): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.delete_user(&by, &id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}
