//! `/api/claim-rules`: what happens to a device that shows a valid claim token.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_api::claim::ClaimRule;
use farshore_api::{List, NewObject, NoStatus, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::claim::ClaimRule as ClaimRuleSpec;
use farshore_domain::object::API_VERSION;
use farshore_store::objects::{NewStored, ObjectKind, Stored};
use uuid::Uuid;

use crate::app::App;
use crate::clock::now;
use crate::error::ApiResult;
use crate::extract::{Body, Page, Query, if_match, versioned};
use crate::fleet::check_envelope;
use crate::route::{Access, Db, Route, route};

const KIND: ObjectKind = ObjectKind::ClaimRule;

pub(super) fn routes() -> Vec<Route> {
    let (read, write) = (Access::Needs(Permission::ClaimRead), Access::Needs(Permission::ClaimWrite));
    vec![
        route(Method::GET, "/api/claim-rules", read, list),
        route(Method::POST, "/api/claim-rules", write, create),
        route(Method::GET, "/api/claim-rules/{id}", read, get),
        route(Method::PUT, "/api/claim-rules/{id}", write, put),
        route(Method::DELETE, "/api/claim-rules/{id}", write, delete),
    ]
}

fn show(stored: Stored<ClaimRuleSpec>) -> ClaimRule {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: KIND.word().to_owned(),
        metadata: stored.metadata,
        spec: stored.spec,
        status: NoStatus {},
    }
}

fn stored(new: &NewObject<ClaimRuleSpec>) -> ApiResult<NewStored<'_, ClaimRuleSpec>> {
    check_envelope(new, KIND.word())?;
    Ok(NewStored {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        spec: &new.spec,
    })
}

/// Lists claim rules, by name; they are tried in order of `(order, name)`.
#[utoipa::path(get, path = "/api/claim-rules", tag = "claims", operation_id = "list_claim_rules", params(Page),
    responses((status = 200, body = List<ClaimRule>), (status = "4XX", body = Problem)))]
pub(super) async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<ClaimRule>>> {
    let rows = db.objects::<ClaimRuleSpec>(KIND, page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.metadata.name.to_string(), show)
}

/// Creates a claim rule.
#[utoipa::path(post, path = "/api/claim-rules", tag = "claims", operation_id = "create_claim_rule",
    request_body = NewObject<ClaimRuleSpec>,
    responses((status = 201, body = ClaimRule), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Db(db): Db,
    Body(new): Body<NewObject<ClaimRuleSpec>>,
) -> ApiResult<Response> {
    let rule = db.create_object(KIND, Uuid::now_v7(), stored(&new)?, now()).await?;
    app.events_written();
    Ok((StatusCode::CREATED, Json(show(rule))).into_response())
}

/// Shows a claim rule.
#[utoipa::path(get, path = "/api/claim-rules/{id}", tag = "claims", operation_id = "get_claim_rule", params(("id" = String, Path)),
    responses((status = 200, body = ClaimRule), (status = "4XX", body = Problem)))]
pub(super) async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let rule = show(db.object(KIND, &id).await?);
    Ok(versioned(rule.metadata.resource_version, &rule))
}

/// Replaces a claim rule.
#[utoipa::path(put, path = "/api/claim-rules/{id}", tag = "claims", operation_id = "replace_claim_rule", params(("id" = String, Path)),
    request_body = NewObject<ClaimRuleSpec>, responses((status = 200, body = ClaimRule), (status = "4XX", body = Problem)))]
pub(super) async fn put(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewObject<ClaimRuleSpec>>,
) -> ApiResult<Response> {
    let rule = show(db.replace_object(KIND, &id, stored(&new)?, if_match(&headers)?, now()).await?);
    app.events_written();
    Ok(versioned(rule.metadata.resource_version, &rule))
}

/// Deletes a claim rule.
#[utoipa::path(delete, path = "/api/claim-rules/{id}", tag = "claims", operation_id = "delete_claim_rule", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.delete_object(KIND, &id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}
