//! `/api/alerts`, `/api/alert-rules`, `/api/silences`, `/api/alert-routes`, `/api/alert-deliveries`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use farshore_api::alert::{Alert, AlertDelivery, AlertRule, AlertState, DeliveryState, Silence, SilenceSpec};
use farshore_api::incident::IncidentAction;
use farshore_api::{List, NewObject, Problem};
use farshore_domain::access::Permission;
use farshore_domain::alert::{AlertRuleSpec, Severity, silenced_by};
use farshore_store::Driver;
use farshore_store::alert_deliveries::DeliveryRow;
use farshore_store::alerts::AlertFilter;
use serde::Deserialize;
use uuid::Uuid;

use super::{driver, rules, targets, tell};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, check_text, if_match};
use crate::fleet::objects;
use crate::route::{Access, Db, Route, route};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AlertQuery {
    /// `firing` or `ended`; both when left out.
    state: Option<AlertState>,
    /// `info`, `warning` or `critical`.
    severity: Option<Severity>,
    location: Option<String>,
    /// Name of a rule.
    rule: Option<String>,
    /// Name or uid of what it is about.
    subject: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

/// Lists alerts, newest first.
#[utoipa::path(get, path = "/api/alerts", tag = "alerts", params(AlertQuery),
    responses((status = 200, body = List<Alert>), (status = "4XX", body = Problem)))]
async fn alerts(
    State(app): State<App>,
    Db(db): Db,
    Query(query): Query<AlertQuery>,
) -> ApiResult<Json<List<Alert>>> {
    let firing = match query.state {
        None => None,
        Some(AlertState::Firing) => Some(true),
        Some(AlertState::Ended) => Some(false),
        Some(AlertState::Unknown) => return Err(ApiError::field("state", "is firing or ended")),
    };
    if query.severity == Some(Severity::Unknown) {
        return Err(ApiError::field("severity", "is info, warning or critical"));
    }
    for (field, text) in [("location", &query.location), ("rule", &query.rule), ("subject", &query.subject)] {
        check_text(field, text.as_deref().unwrap_or_default(), 253)?;
    }
    let filter = AlertFilter {
        firing,
        severity: query.severity,
        location: query.location,
        rule: query.rule,
        subject: query.subject,
    };
    let page = Page { limit: query.limit, continue_from: query.continue_from };
    let before = page.continue_from.as_deref().map(crate::extract::cursor_uuid).transpose()?;
    let rows = db.alerts(&filter, before, page.limit()?).await?;
    let silences = driver::active_silences(&app.store().system(Driver::Alerts), db.tenant(), now()).await?;
    page.of(
        rows,
        |row| row.uid.to_string(),
        |row| {
            let silenced = if row.ended_at.is_some() {
                Vec::new()
            } else {
                silenced_by(silences.iter().map(|(name, all)| (name.as_str(), all.as_slice())), &row.labels)
            };
            tell::show(row, silenced)
        },
    )
}

fn uid(text: &str, what: &'static str) -> ApiResult<Uuid> {
    Uuid::parse_str(text).map_err(|_| ApiError::not_found(what, text))
}

/// Shows one alert.
#[utoipa::path(get, path = "/api/alerts/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = Alert), (status = "4XX", body = Problem)))]
async fn alert(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Json<Alert>> {
    let row = db.alert(uid(&id, "alert")?).await?;
    let silences = driver::active_silences(&app.store().system(Driver::Alerts), db.tenant(), now()).await?;
    let silenced =
        silenced_by(silences.iter().map(|(name, all)| (name.as_str(), all.as_slice())), &row.labels);
    Ok(Json(tell::show(row, silenced)))
}

/// Says that somebody looks after it. Who said so first stays.
#[utoipa::path(post, path = "/api/alerts/{id}:acknowledge", tag = "alerts", params(("id" = String, Path)),
    request_body = IncidentAction, responses((status = 200, body = Alert), (status = "4XX", body = Problem)))]
async fn acknowledge(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Body(action): Body<IncidentAction>,
) -> ApiResult<Json<Alert>> {
    check_text("comment", &action.comment, 1_000)?;
    let row = db.acknowledge_alert(uid(&id, "alert")?, &action.comment, now()).await?;
    app.events_written();
    Ok(Json(tell::show(row, Vec::new())))
}

/// Lists rules, by name; the built-in ones are always there.
#[utoipa::path(get, path = "/api/alert-rules", tag = "alerts", params(Page),
    responses((status = 200, body = List<AlertRule>), (status = "4XX", body = Problem)))]
async fn rule_list(
    State(app): State<App>,
    Db(db): Db,
    Query(page): Query<Page>,
) -> ApiResult<Json<List<AlertRule>>> {
    rules::all(&app, db.tenant()).await?;
    objects::list::<AlertRuleSpec>(&db, page.limit, page.continue_from.as_deref()).await
}

/// Makes a further rule of one of the types.
#[utoipa::path(post, path = "/api/alert-rules", tag = "alerts", request_body = NewObject<AlertRuleSpec>,
    responses((status = 201, body = AlertRule), (status = "4XX", body = Problem)))]
async fn rule_create(
    State(app): State<App>,
    Db(db): Db,
    Body(new): Body<NewObject<AlertRuleSpec>>,
) -> ApiResult<Response> {
    rules::check_name(&new)?;
    let made = objects::create(&app, &db, &new).await?;
    app.alerts().changed();
    Ok(made)
}

/// Shows one rule.
#[utoipa::path(get, path = "/api/alert-rules/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = AlertRule), (status = "4XX", body = Problem)))]
async fn rule_get(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    rules::all(&app, db.tenant()).await?;
    objects::get::<AlertRuleSpec>(&db, &id).await
}

/// Replaces a rule: threshold, severity, selector, or whether it is enabled.
#[utoipa::path(put, path = "/api/alert-rules/{id}", tag = "alerts", params(("id" = String, Path)), request_body = NewObject<AlertRuleSpec>,
    responses((status = 200, body = AlertRule), (status = "4XX", body = Problem)))]
async fn rule_put(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewObject<AlertRuleSpec>>,
) -> ApiResult<Response> {
    rules::all(&app, db.tenant()).await?;
    rules::check_name(&new)?;
    let replaced = objects::replace(&app, &db, &id, &new, if_match(&headers)?).await?;
    app.alerts().changed();
    Ok(replaced)
}

/// Deletes a rule that is not built in; its alerts end.
#[utoipa::path(delete, path = "/api/alert-rules/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn rule_delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    rules::refuse_built_in(&db, &id).await?;
    let gone = objects::delete::<AlertRuleSpec>(&app, &db, &id, if_match(&headers)?).await?;
    app.alerts().changed();
    Ok(gone)
}

/// Lists silences, by name.
#[utoipa::path(get, path = "/api/silences", tag = "alerts", params(Page),
    responses((status = 200, body = List<Silence>), (status = "4XX", body = Problem)))]
async fn silence_list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<Silence>>> {
    objects::list::<SilenceSpec>(&db, page.limit, page.continue_from.as_deref()).await
}

/// Silences alerts that match, until an end. They are still shown.
#[utoipa::path(post, path = "/api/silences", tag = "alerts", request_body = NewObject<SilenceSpec>,
    responses((status = 201, body = Silence), (status = "4XX", body = Problem)))]
async fn silence_create(
    State(app): State<App>,
    Db(db): Db,
    Body(new): Body<NewObject<SilenceSpec>>,
) -> ApiResult<Response> {
    objects::create(&app, &db, &new).await
}

/// Shows one silence.
#[utoipa::path(get, path = "/api/silences/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = Silence), (status = "4XX", body = Problem)))]
async fn silence_get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    objects::get::<SilenceSpec>(&db, &id).await
}

/// Replaces a silence.
#[utoipa::path(put, path = "/api/silences/{id}", tag = "alerts", params(("id" = String, Path)), request_body = NewObject<SilenceSpec>,
    responses((status = 200, body = Silence), (status = "4XX", body = Problem)))]
async fn silence_put(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewObject<SilenceSpec>>,
) -> ApiResult<Response> {
    let replaced = objects::replace(&app, &db, &id, &new, if_match(&headers)?).await?;
    app.alerts().changed();
    Ok(replaced)
}

/// Ends a silence. Alerts that still fire are told now.
#[utoipa::path(delete, path = "/api/silences/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn silence_delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    let gone = objects::delete::<SilenceSpec>(&app, &db, &id, if_match(&headers)?).await?;
    app.alerts().changed();
    Ok(gone)
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeliveryQuery {
    /// `queued`, `delivered` or `dead`.
    state: Option<DeliveryState>,
    /// Name of a route.
    route: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

fn show_delivery(row: DeliveryRow) -> AlertDelivery {
    AlertDelivery {
        uid: row.uid,
        route: row.route,
        route_name: row.route_name,
        group_key: row.group_key,
        state: DeliveryState::from_word(&row.state),
        attempts: row.attempts,
        next_at: row.next_at,
        last_error: row.last_error,
        created_at: row.created_at,
        finished_at: row.finished_at,
        alerts: row.alerts.len() as u64,
    }
}

/// Lists messages about alerts, newest first: what waits, what was delivered, and the dead letters.
#[utoipa::path(get, path = "/api/alert-deliveries", tag = "alerts", params(DeliveryQuery),
    responses((status = 200, body = List<AlertDelivery>), (status = "4XX", body = Problem)))]
async fn deliveries(Db(db): Db, Query(query): Query<DeliveryQuery>) -> ApiResult<Json<List<AlertDelivery>>> {
    if query.state == Some(DeliveryState::Unknown) {
        return Err(ApiError::field("state", "is queued, delivered or dead"));
    }
    check_text("route", query.route.as_deref().unwrap_or_default(), 253)?;
    let page = Page { limit: query.limit, continue_from: query.continue_from };
    let before = page.continue_from.as_deref().map(crate::extract::cursor_uuid).transpose()?;
    let state = query.state.map(DeliveryState::word);
    let rows = db.deliveries(state, query.route.as_deref(), before, page.limit()?).await?;
    page.of(rows, |row| row.uid.to_string(), show_delivery)
}

/// Sends a dead letter once more.
#[utoipa::path(post, path = "/api/alert-deliveries/{id}:retry", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = AlertDelivery), (status = "4XX", body = Problem)))]
async fn retry(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Json<AlertDelivery>> {
    let row = db.retry_delivery(uid(&id, "delivery")?, now()).await?;
    app.alerts().queued();
    Ok(Json(show_delivery(row)))
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(
    alerts,
    alert,
    acknowledge,
    rule_list,
    rule_create,
    rule_get,
    rule_put,
    rule_delete,
    silence_list,
    silence_create,
    silence_get,
    silence_put,
    silence_delete,
    targets::list,
    targets::create,
    targets::get,
    targets::replace,
    targets::delete,
    deliveries,
    retry
))]
pub struct AlertDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::IncidentRead);
    let write = Access::Needs(Permission::IncidentWrite);
    vec![
        route(Method::GET, "/api/alerts", read, alerts),
        route(Method::GET, "/api/alerts/{id}", read, alert),
        route(Method::POST, "/api/alerts/{id}/~acknowledge", write, acknowledge),
        route(Method::GET, "/api/alert-rules", read, rule_list),
        route(Method::POST, "/api/alert-rules", write, rule_create),
        route(Method::GET, "/api/alert-rules/{id}", read, rule_get),
        route(Method::PUT, "/api/alert-rules/{id}", write, rule_put),
        route(Method::DELETE, "/api/alert-rules/{id}", write, rule_delete),
        route(Method::GET, "/api/silences", read, silence_list),
        route(Method::POST, "/api/silences", write, silence_create),
        route(Method::GET, "/api/silences/{id}", read, silence_get),
        route(Method::PUT, "/api/silences/{id}", write, silence_put),
        route(Method::DELETE, "/api/silences/{id}", write, silence_delete),
        route(Method::GET, "/api/alert-routes", read, targets::list),
        route(Method::POST, "/api/alert-routes", write, targets::create),
        route(Method::GET, "/api/alert-routes/{id}", read, targets::get),
        route(Method::PUT, "/api/alert-routes/{id}", write, targets::replace),
        route(Method::DELETE, "/api/alert-routes/{id}", write, targets::delete),
        route(Method::GET, "/api/alert-deliveries", read, deliveries),
        route(Method::POST, "/api/alert-deliveries/{id}/~retry", write, retry),
    ]
}
