//! `/api/roles`: the table of roles.

use axum::Json;
use axum::http::Method;
use farshore_api::Problem;
use farshore_api::access::Role;
use farshore_domain::access::ROLES;

use crate::route::{Access, Route, route};

pub(super) fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/api/roles", Access::Authenticated, list)]
}

/// The roles and what they allow.
#[utoipa::path(get, path = "/api/roles", tag = "access",
    responses((status = 200, body = Vec<Role>), (status = "4XX", body = Problem)))]
pub(super) async fn list() -> Json<Vec<Role>> {
    let roles = ROLES.iter().map(|row| Role {
        name: row.name.to_owned(),
        says: row.says.to_owned(),
        permissions: row.permissions.to_vec(),
    });
    Json(roles.collect())
}
