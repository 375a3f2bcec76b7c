//! Routes: to whom alerts are told. Their secrets are wrapped with the master key before they are stored, and never shown again.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_api::alert::{
    AlertRoute, AlertRouteSpec, AlertRouteStatus, EmailTarget, RouteKind, WebhookFormat, WebhookTarget,
};
use farshore_api::{List, NewObject, Object, Problem};
use farshore_domain::alert::{Matcher, Severity};
use farshore_domain::object::API_VERSION;
use farshore_store::objects::{NewStored, ObjectKind, Stored};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{email, webhook};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, if_match, versioned};
use crate::fleet::check_envelope;
use crate::route::Db;

const KIND: ObjectKind = ObjectKind::AlertRoute;

/// A route as it is stored: what people wrote, without its secret, and the wrapped secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredRoute {
    pub(super) spec: AlertRouteSpec,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

fn purpose(uid: Uuid) -> String {
    format!("alert-route/{uid}")
}

impl StoredRoute {
    /// The secret as it was given.
    pub(super) fn secret(&self, app: &App, uid: Uuid) -> Result<Option<String>, String> {
        let Some(sealed) = &self.sealed else { return Ok(None) };
        let bytes = STANDARD.decode(sealed).map_err(|_| "the stored secret can't be read".to_owned())?;
        let plain = app
            .authority()
            .master()
            .unwrap(&purpose(uid), &bytes)
            .map_err(|error| crate::error::chain(&error))?;
        String::from_utf8(plain.to_vec()).map(Some).map_err(|_| "the stored secret is no text".to_owned())
    }
}

fn show(stored: Stored<StoredRoute>, secret: Option<String>) -> AlertRoute {
    let secret_set = stored.spec.sealed.is_some();
    Object {
        api_version: API_VERSION.to_owned(),
        kind: KIND.word().to_owned(),
        metadata: stored.metadata,
        spec: stored.spec.spec,
        status: AlertRouteStatus { secret_set, secret },
    }
}

/// Checks a route and takes its secret out of it.
fn take_secret(app: &App, spec: &mut AlertRouteSpec) -> ApiResult<Option<String>> {
    let targets = app.settings().alert_targets;
    if spec.min_severity == Severity::Unknown {
        return Err(ApiError::field("spec.minSeverity", "is info, warning or critical"));
    }
    if spec.group_wait_seconds > 3_600 {
        return Err(ApiError::field("spec.groupWaitSeconds", "is 0 to 3600"));
    }
    if !spec.matchers.is_empty() {
        Matcher::check(&spec.matchers)
            .map_err(|error| ApiError::field(format!("spec.{}", error.field), error.message))?;
    }
    match (spec.kind, &mut spec.webhook, &mut spec.email) {
        (RouteKind::Webhook, Some(target), None) => {
            webhook::check_url(targets, &target.url)
                .map_err(|why| ApiError::field("spec.webhook.url", why))?;
            if target.format == WebhookFormat::Unknown {
                return Err(ApiError::field("spec.webhook.format", "is farshore or alertmanager"));
            }
            let secret = target.secret.take();
            if secret.as_deref().is_some_and(|secret| webhook::read_secret(secret).is_none()) {
                return Err(ApiError::field("spec.webhook.secret", "is whsec_ and 24 to 64 bytes in base64"));
            }
            Ok(secret)
        }
        (RouteKind::Email, None, Some(target)) => {
            email::check(target)
                .map_err(|(field, why)| ApiError::field(format!("spec.email.{field}"), why))?;
            let literal = target.host.parse().is_ok_and(|ip| !super::guard::allows(targets, ip));
            if literal {
                let text = format!(
                    "is an address that the server's setting alert-targets ({targets}) does not allow"
                );
                return Err(ApiError::field("spec.email.host", text));
            }
            let password = target.password.take();
            if password.as_ref().is_some_and(|password| password.is_empty() || password.len() > 1_000) {
                return Err(ApiError::field("spec.email.password", "has 1 to 1000 bytes"));
            }
            Ok(password)
        }
        (RouteKind::Webhook, ..) => {
            Err(ApiError::field("spec.webhook", "is needed for type webhook, and email is left out"))
        }
        (RouteKind::Email, ..) => {
            Err(ApiError::field("spec.email", "is needed for type email, and webhook is left out"))
        }
        (RouteKind::Unknown, ..) => Err(ApiError::field("spec.type", "is webhook or email")),
    }
}

fn seal(app: &App, uid: Uuid, secret: &str) -> ApiResult<String> {
    let sealed =
        app.authority().master().wrap(&purpose(uid), secret.as_bytes()).map_err(ApiError::internal)?;
    Ok(STANDARD.encode(sealed))
}

/// Lists routes, by name, without their secrets.
#[utoipa::path(get, path = "/api/alert-routes", tag = "alerts", params(Page),
    responses((status = 200, body = List<AlertRoute>), (status = "4XX", body = Problem)))]
pub(super) async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<AlertRoute>>> {
    let rows = db.objects::<StoredRoute>(KIND, page.continue_from.as_deref(), page.limit()?).await?;
    page.of(rows, |row| row.metadata.name.to_string(), |row| show(row, None))
}

/// Shows one route, without its secret.
#[utoipa::path(get, path = "/api/alert-routes/{id}", tag = "alerts", params(("id" = String, Path)),
    responses((status = 200, body = AlertRoute), (status = "4XX", body = Problem)))]
pub(super) async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let stored = db.object::<StoredRoute>(KIND, &id).await?;
    Ok(versioned(stored.metadata.resource_version, &show(stored, None)))
}

/// Makes a route. A webhook's secret that is left out is made here and shown in this answer only.
#[utoipa::path(post, path = "/api/alert-routes", tag = "alerts", request_body = NewObject<AlertRouteSpec>,
    responses((status = 201, body = AlertRoute), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(app): State<App>,
    Db(db): Db,
    Body(mut new): Body<NewObject<AlertRouteSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, KIND.word())?;
    let given = take_secret(&app, &mut new.spec)?;
    let mut made = None;
    if given.is_none() && new.spec.kind == RouteKind::Webhook {
        made = Some(webhook::new_secret().map_err(|error| ApiError::internal(error.to_string()))?);
    }
    let uid = Uuid::now_v7();
    let sealed = given.as_deref().or(made.as_deref()).map(|secret| seal(&app, uid, secret)).transpose()?;
    let spec = StoredRoute { spec: new.spec, sealed };
    let stored = NewStored {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        spec: &spec,
    };
    let stored = db.create_object(KIND, uid, stored, now()).await?;
    app.events_written();
    let version = stored.metadata.resource_version;
    Ok((StatusCode::CREATED, versioned(version, &show(stored, made))).into_response())
}

/// Whether a kept secret would go somewhere else than it did: then it has to be given again.
fn moved(old: &AlertRouteSpec, new: &AlertRouteSpec) -> bool {
    let mail = |target: &EmailTarget| {
        (target.host.clone(), target.port, target.tls, target.ca.clone(), target.username.clone())
    };
    old.kind != new.kind
        || old.email.as_ref().map(mail) != new.email.as_ref().map(mail)
        || old.webhook.as_ref().map(host) != new.webhook.as_ref().map(host)
}

fn host(target: &WebhookTarget) -> Option<(String, Option<u16>)> {
    let url: reqwest::Url = target.url.parse().ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()))
}

/// Replaces a route. A secret that is left out stays, unless messages now go to another host.
#[utoipa::path(put, path = "/api/alert-routes/{id}", tag = "alerts", params(("id" = String, Path)), request_body = NewObject<AlertRouteSpec>,
    responses((status = 200, body = AlertRoute), (status = "4XX", body = Problem)))]
pub(super) async fn replace(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(mut new): Body<NewObject<AlertRouteSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, KIND.word())?;
    let given = take_secret(&app, &mut new.spec)?;
    let old = db.object::<StoredRoute>(KIND, &id).await?;
    let expected = if_match(&headers)?;
    let sealed = match given {
        Some(secret) => Some(seal(&app, old.metadata.uid, &secret)?),
        None if old.spec.sealed.is_some() && moved(&old.spec.spec, &new.spec) => {
            let field =
                if new.spec.kind == RouteKind::Email { "spec.email.password" } else { "spec.webhook.secret" };
            return Err(ApiError::field(field, "is given again when messages go to another host"));
        }
        None => old.spec.sealed,
    };
    let spec = StoredRoute { spec: new.spec, sealed };
    let stored = NewStored {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        spec: &spec,
    };
    // The secret was read at this version: nobody may have changed it since.
    let expected = Some(expected.unwrap_or(old.metadata.resource_version));
    let stored = db.replace_object(KIND, &id, stored, expected, now()).await?;
    app.events_written();
    Ok(versioned(stored.metadata.resource_version, &show(stored, None)))
}

/// Deletes a route. What was queued for it is not sent.
#[utoipa::path(delete, path = "/api/alert-routes/{id}", tag = "alerts", params(("id" = String, Path)),
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
