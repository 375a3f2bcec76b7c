//! `/api/sinks`. Secrets are wrapped with the master key before they are stored, and never shown again.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_api::sink::{Sink, SinkKind, SinkSpec, SinkStart, SinkState, SinkStatus};
use farshore_api::{List, ListMetadata, NewObject, Object, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_domain::label::Labels;
use farshore_domain::object::API_VERSION;
use farshore_domain::time::UnixMs;
use farshore_store::TenantDb;
use farshore_store::objects::{NewStored, ObjectKind, Stored};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::driver::folder;
use super::points;
use crate::alerts::webhook;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Page, Query, check_text, if_match, versioned};
use crate::fleet::check_envelope;
use crate::route::{Access, Db, Route, route};

const KIND: ObjectKind = ObjectKind::Sink;
/// Most streams and measurements that a sink names.
const MAX_NAMES: usize = 100;
const MAX_NAME: usize = 256;
/// Most sinks of a tenant.
const MAX_SINKS: u32 = 50;
const MAX_AUTHORIZATION: usize = 4_000;

/// A sink as it is stored: what people wrote, without its secret, and the wrapped secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredSink {
    pub(super) spec: SinkSpec,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

fn purpose(uid: Uuid) -> String {
    format!("sink/{uid}")
}

impl StoredSink {
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

fn seal(app: &App, uid: Uuid, secret: &str) -> ApiResult<String> {
    let sealed =
        app.authority().master().wrap(&purpose(uid), secret.as_bytes()).map_err(ApiError::internal)?;
    Ok(STANDARD.encode(sealed))
}

/// Checks a sink and takes its secret out of it.
fn take_secret(app: &App, spec: &mut SinkSpec) -> ApiResult<Option<String>> {
    let targets = app.settings().alert_targets;
    for (field, names) in [("spec.streams", &spec.streams), ("spec.measurements", &spec.measurements)] {
        if names.len() > MAX_NAMES || names.iter().any(String::is_empty) {
            return Err(ApiError::field(field, format!("has at most {MAX_NAMES} names, none of them empty")));
        }
        for name in names {
            check_text(field, name, MAX_NAME)?;
        }
    }
    if spec.start == SinkStart::Unknown {
        return Err(ApiError::field("spec.start", "is now or earliest"));
    }
    let given = [
        ("webhook", SinkKind::Webhook, spec.webhook.is_some()),
        ("otlp", SinkKind::Otlp, spec.otlp.is_some()),
        ("parquet", SinkKind::Parquet, spec.parquet.is_some()),
    ];
    for (name, kind, given) in given {
        if given != (spec.kind == kind) {
            let why = if given { "is left out for another type" } else { "is needed for this type" };
            return Err(ApiError::field(format!("spec.{name}"), why));
        }
    }
    match (spec.kind, &mut spec.webhook, &mut spec.otlp, &mut spec.parquet) {
        (SinkKind::Webhook, Some(target), ..) => {
            webhook::check_url(targets, &target.url)
                .map_err(|why| ApiError::field("spec.webhook.url", why))?;
            let secret = target.secret.take();
            if secret.as_deref().is_some_and(|secret| webhook::read_secret(secret).is_none()) {
                return Err(ApiError::field("spec.webhook.secret", "is whsec_ and 24 to 64 bytes in base64"));
            }
            Ok(secret)
        }
        (SinkKind::Otlp, _, Some(target), _) => {
            webhook::check_url(targets, &target.url).map_err(|why| ApiError::field("spec.otlp.url", why))?;
            let secret = target.authorization.take();
            let wrong = |text: &String| {
                text.is_empty()
                    || text.len() > MAX_AUTHORIZATION
                    || axum::http::HeaderValue::from_str(text).is_err()
            };
            if secret.as_ref().is_some_and(wrong) {
                let why = format!("is the value of a header of at most {MAX_AUTHORIZATION} bytes");
                return Err(ApiError::field("spec.otlp.authorization", why));
            }
            Ok(secret)
        }
        (SinkKind::Parquet, _, _, Some(target)) => {
            if !(1..=86_400).contains(&target.every_seconds) {
                return Err(ApiError::field("spec.parquet.everySeconds", "is 1 to 86400"));
            }
            if !(1..=3_650).contains(&target.keep_days) {
                return Err(ApiError::field("spec.parquet.keepDays", "is 1 to 3650"));
            }
            Ok(None)
        }
        _ => Err(ApiError::field("spec.type", "is webhook, otlp or parquet")),
    }
}

/// How sinks stand, for a page of them.
async fn statuses(db: &TenantDb, sinks: &[Stored<StoredSink>]) -> ApiResult<Vec<SinkStatus>> {
    let labels = if sinks.iter().any(|sink| sink.spec.spec.selector.is_some()) {
        gateway_labels(db).await?
    } else {
        BTreeMap::new()
    };
    let mut statuses = Vec::with_capacity(sinks.len());
    for sink in sinks {
        let (uid, spec) = (sink.metadata.uid, &sink.spec.spec);
        let state = db.sink_state(uid).await?.unwrap_or_default();
        let backlog = db.sink_backlog(uid, &points::takes(spec)).await?;
        let of_gateways = backlog.iter().filter(|(device, _)| {
            spec.selector
                .as_ref()
                .is_none_or(|selector| labels.get(device).is_some_and(|labels| selector.matches(labels)))
        });
        let waiting: i64 = of_gateways.map(|(_, batches)| batches).sum();
        let failing = state.attempts > 0;
        statuses.push(SinkStatus {
            state: match (spec.enabled, failing) {
                (false, _) => SinkState::Disabled,
                (true, true) => SinkState::Failing,
                (true, false) => SinkState::Running,
            },
            secret_set: sink.spec.sealed.is_some(),
            secret: None,
            waiting_batches: waiting.unsigned_abs(),
            delivered_batches: state.delivered_batches.unsigned_abs(),
            delivered_points: state.delivered_points.unsigned_abs(),
            skipped_batches: state.skipped_batches.unsigned_abs(),
            last_delivered_at: state.delivered_at.map(UnixMs),
            attempts: state.attempts.unsigned_abs(),
            last_error: state.last_error,
            last_error_at: state.failed_at.map(UnixMs),
            next_at: (state.next_at > 0).then_some(UnixMs(state.next_at)),
            folder: (spec.kind == SinkKind::Parquet)
                .then(|| format!("artifacts/{}", folder(db.tenant(), uid).display())),
        });
    }
    Ok(statuses)
}

async fn gateway_labels(db: &TenantDb) -> ApiResult<BTreeMap<DeviceId, Labels>> {
    const PAGE: u32 = 1_000;
    let mut labels = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = db.gateways(None, after.as_deref(), PAGE).await?;
        let full = page.len() == PAGE as usize;
        after = page.last().map(|row| row.name.to_string());
        labels.extend(page.into_iter().map(|row| (row.device, row.labels)));
        if !full {
            return Ok(labels);
        }
    }
}

fn show(stored: Stored<StoredSink>, status: SinkStatus) -> Sink {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: KIND.word().to_owned(),
        metadata: stored.metadata,
        spec: stored.spec.spec,
        status,
    }
}

async fn shown(db: &TenantDb, stored: Stored<StoredSink>, secret: Option<String>) -> ApiResult<Response> {
    let version = stored.metadata.resource_version;
    let status = statuses(db, std::slice::from_ref(&stored)).await?.pop();
    let status = status.ok_or_else(|| ApiError::internal("a sink without a status"))?;
    Ok(versioned(version, &show(stored, SinkStatus { secret, ..status })))
}

/// Lists sinks, by name, with how they stand and without their secrets.
#[utoipa::path(get, path = "/api/sinks", tag = "sinks", params(Page),
    responses((status = 200, body = List<Sink>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<Sink>>> {
    let rows = db.objects::<StoredSink>(KIND, page.continue_from.as_deref(), page.limit()?).await?;
    let statuses = statuses(&db, &rows).await?;
    let full = rows.len() == page.limit()? as usize;
    let continue_from = rows.last().filter(|_| full).map(|row| row.metadata.name.to_string());
    let items = rows.into_iter().zip(statuses).map(|(row, status)| show(row, status)).collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

/// Shows one sink and how it stands, without its secret.
#[utoipa::path(get, path = "/api/sinks/{id}", tag = "sinks", params(("id" = String, Path)),
    responses((status = 200, body = Sink), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let stored = db.object::<StoredSink>(KIND, &id).await?;
    shown(&db, stored, None).await
}

/// Makes a sink. A webhook's secret that is left out is made here and shown in this answer only.
#[utoipa::path(post, path = "/api/sinks", tag = "sinks", request_body = NewObject<SinkSpec>,
    responses((status = 201, body = Sink), (status = "4XX", body = Problem)))]
async fn create(
    State(app): State<App>,
    Db(db): Db,
    Body(mut new): Body<NewObject<SinkSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, KIND.word())?;
    let given = take_secret(&app, &mut new.spec)?;
    if db.objects::<StoredSink>(KIND, None, MAX_SINKS).await?.len() >= MAX_SINKS as usize {
        return Err(ApiError::new(
            farshore_api::ErrorCode::Conflict,
            format!("There are {MAX_SINKS} sinks already; delete one first."),
        ));
    }
    let mut made = None;
    if given.is_none() && new.spec.kind == SinkKind::Webhook {
        made = Some(webhook::new_secret().map_err(|error| ApiError::internal(error.to_string()))?);
    }
    let uid = Uuid::now_v7();
    let sealed = given.as_deref().or(made.as_deref()).map(|secret| seal(&app, uid, secret)).transpose()?;
    let from_now = new.spec.start == SinkStart::Now;
    let spec = StoredSink { spec: new.spec, sealed };
    let stored = NewStored {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        spec: &spec,
    };
    let stored = db.create_object(KIND, uid, stored, now()).await?;
    // Were it to stop right here, the driver would begin it.
    db.begin_sink(uid, from_now).await?;
    app.events_written();
    app.sinks().changed();
    Ok((StatusCode::CREATED, shown(&db, stored, made).await?).into_response())
}

fn host(spec: &SinkSpec) -> Option<(String, Option<u16>, String)> {
    let url = spec.webhook.as_ref().map(|one| &one.url).or(spec.otlp.as_ref().map(|one| &one.url))?;
    let url: reqwest::Url = url.parse().ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default(), url.scheme().to_owned()))
}

/// Replaces a sink; it goes on where it is. A secret that is left out stays, unless points now go to another host.
#[utoipa::path(put, path = "/api/sinks/{id}", tag = "sinks", params(("id" = String, Path)), request_body = NewObject<SinkSpec>,
    responses((status = 200, body = Sink), (status = "4XX", body = Problem)))]
async fn replace(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(mut new): Body<NewObject<SinkSpec>>,
) -> ApiResult<Response> {
    check_envelope(&new, KIND.word())?;
    let given = take_secret(&app, &mut new.spec)?;
    let old = db.object::<StoredSink>(KIND, &id).await?;
    if old.spec.spec.kind != new.spec.kind {
        return Err(ApiError::field("spec.type", "can't be changed: make another sink"));
    }
    let expected = if_match(&headers)?;
    let sealed = match given {
        Some(secret) => Some(seal(&app, old.metadata.uid, &secret)?),
        None if old.spec.sealed.is_some() && host(&old.spec.spec) != host(&new.spec) => {
            let field = if new.spec.kind == SinkKind::Otlp {
                "spec.otlp.authorization"
            } else {
                "spec.webhook.secret"
            };
            return Err(ApiError::field(field, "is given again when points go to another host"));
        }
        None => old.spec.sealed,
    };
    let spec = StoredSink { spec: new.spec, sealed };
    let stored = NewStored {
        name: &new.metadata.name,
        labels: &new.metadata.labels,
        managed_by: new.metadata.managed_by.as_deref().unwrap_or("api"),
        spec: &spec,
    };
    // The secret was read at this version: nobody may have changed it since.
    let expected = Some(expected.unwrap_or(old.metadata.resource_version));
    let stored = db.replace_object(KIND, &id, stored, expected, now()).await?;
    // Whoever mends an address does not want to wait for the pause to end.
    db.hurry_sink(stored.metadata.uid).await?;
    app.events_written();
    app.sinks().changed();
    shown(&db, stored, None).await
}

/// Deletes a sink. What waits for it is not handed over; files that it wrote stay.
#[utoipa::path(delete, path = "/api/sinks/{id}", tag = "sinks", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.delete_object(KIND, &id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, get, create, replace, delete))]
pub struct SinkDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::DeviceRead);
    let write = Access::Needs(Permission::FleetWrite);
    vec![
        route(Method::GET, "/api/sinks", read, list),
        route(Method::POST, "/api/sinks", write, create),
        route(Method::GET, "/api/sinks/{id}", read, get),
        route(Method::PUT, "/api/sinks/{id}", write, replace),
        route(Method::DELETE, "/api/sinks/{id}", write, delete),
    ]
}
