//! `/api/tenants`: for platform admins.

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_api::access::{Tenant, TenantSpec};
use farshore_api::{List, NewObject, NoStatus, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_store::Driver;
use farshore_store::tenants::TenantRow;

use crate::app::App;
use crate::clock::now;
use crate::error::ApiResult;
use crate::extract::{Body, Page, Query, check_text};
use crate::fleet::check_envelope;
use crate::route::{Access, Route, route};

pub(super) fn routes() -> Vec<Route> {
    let platform = Access::Needs(Permission::PlatformWrite);
    vec![
        route(Method::GET, "/api/tenants", platform, list),
        route(Method::POST, "/api/tenants", platform, create),
    ]
}

fn show(row: TenantRow) -> Tenant {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: "Tenant".to_owned(),
        metadata: Metadata {
            uid: row.uid.0,
            name: row.name,
            labels: row.labels,
            resource_version: row.resource_version,
            managed_by: "api".to_owned(),
            created_at: row.created_at,
        },
        spec: TenantSpec { display_name: row.display_name },
        status: NoStatus {},
    }
}

/// Lists tenants.
#[utoipa::path(get, path = "/api/tenants", tag = "access", operation_id = "list_tenants", params(Page),
    responses((status = 200, body = List<Tenant>), (status = "4XX", body = Problem)))]
pub(super) async fn list(State(app): State<App>, Query(page): Query<Page>) -> ApiResult<Json<List<Tenant>>> {
    let system = app.store().system(Driver::Platform);
    let rows = system.tenants(page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.name.to_string(), show)
}

/// Creates a tenant.
#[utoipa::path(post, path = "/api/tenants", tag = "access", operation_id = "create_tenant", request_body = NewObject<TenantSpec>,
    responses((status = 201, body = Tenant), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Body(new): Body<NewObject<TenantSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, "Tenant")?;
    check_text("spec.displayName", &new.spec.display_name, 200)?;
    let system = app.store().system(Driver::Platform);
    let row =
        system.create_tenant(&new.metadata.name, &new.spec.display_name, &new.metadata.labels, now()).await?;
    app.events_written();
    app.fleet().changed(row.uid);
    Ok((StatusCode::CREATED, Json(show(row))).into_response())
}
