//! `/api/devices/{id}/metrics`.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use axum::response::sse::Event as SseEvent;
use farshore_api::Problem;
use farshore_api::device::Measurements;
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_domain::time::{DAY_MS, HOUR_MS};
use futures_util::Stream;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::range::{Aggregate, Range};
use crate::app::App;
use crate::channel::live::{Glimpse, RENEW_SECONDS, SECONDS, Viewer};
use crate::channel::{Hub, report};
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::events::stream::{Reader, respond};
use crate::extract::Query;
use crate::route::{Access, Caller, Db, Route, route};
use crate::series::stored::{self, Budget};

const DEFAULT_POINTS: u32 = 300;
const MAX_POINTS: u32 = 5_000;
const MAX_SPAN_MS: i64 = 32 * DAY_MS;
/// With points of whole hours.
const MAX_HOURS_MS: i64 = 400 * DAY_MS;
const MAX_NAMES: usize = 64;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct RangeQuery {
    /// `host`, or `app/<name>`. `host` when left out.
    stream: Option<String>,
    /// Unix milliseconds; an hour before `to` when left out.
    from: Option<i64>,
    /// Unix milliseconds; now when left out.
    to: Option<i64>,
    /// Names with commas; all when left out.
    metrics: Option<String>,
    /// At most this many points; 300 when left out.
    points: Option<u32>,
    /// What stands for several samples that fall together: `mean` (when left out), `min` or `max`.
    #[param(inline)]
    aggregate: Option<Aggregate>,
}

/// Reads measurements of a device: columns over one time axis, thinned out to so many points. Where a point stands for an hour or more, points are made of
/// hourly figures, which are kept for longer than the samples.
#[utoipa::path(get, path = "/api/devices/{id}/metrics", tag = "devices", params(("id" = String, Path), RangeQuery),
    responses((status = 200, body = Measurements), (status = 503, body = Problem), (status = "4XX", body = Problem)))]
async fn read(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Query(query): Query<RangeQuery>,
) -> ApiResult<Json<Measurements>> {
    let stream = query.stream.unwrap_or_else(|| "host".to_owned());
    if !report::is_stream(&stream) {
        return Err(ApiError::field("stream", "is host, or app/ and the name of an app"));
    }
    let to = query.to.unwrap_or_else(|| now().0);
    let from = query.from.unwrap_or(to.saturating_sub(HOUR_MS));
    let span = to.saturating_sub(from);
    if from > to || span > MAX_HOURS_MS {
        return Err(ApiError::field("from", "lies before to, and not more than 400 days"));
    }
    let points = query.points.unwrap_or(DEFAULT_POINTS);
    if !(1..=MAX_POINTS).contains(&points) {
        return Err(ApiError::field("points", format!("is a number from 1 to {MAX_POINTS}")));
    }
    let names: Vec<String> = query
        .metrics
        .as_deref()
        .unwrap_or("")
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if names.len() > MAX_NAMES {
        return Err(ApiError::field("metrics", format!("names at most {MAX_NAMES}")));
    }
    let device = db.device_id(&id).await?;
    let range = Range::new(from, to, points, names);
    if span > MAX_SPAN_MS && !range.is_hourly() {
        return Err(ApiError::field("points", "are at most one an hour for more than 32 days"));
    }
    let hourly = range.is_hourly();
    let _turn = app.series().turn(db.tenant()).await?;
    let mut tx = db.snapshot().await?;
    let span = (from, to.saturating_add(1));
    // What there would have been more of is at the end: the newest hours and blocks.
    let (range, _) =
        stored::read(&db, &mut tx, (device, stream.as_str()), span, hourly, &mut Budget::default(), range)
            .await?;
    Ok(Json(range.finish(stream, query.aggregate.unwrap_or_default())))
}

/// Samples of a device as they are taken, one a second, for as long as somebody reads: `event: sample`. `event: event` is an
/// event of the kernel that the device shows and nobody keeps, such as a process that ended as it should. `event: device` says that its state changed.
#[utoipa::path(get, path = "/api/devices/{id}/metrics/stream", tag = "devices", params(("id" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = "4XX", body = Problem)))]
async fn follow(
    State(app): State<App>,
    Db(db): Db,
    Caller(principal): Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let device = db.device_id(&id).await?;
    let reader = Reader::new(&app, &principal, &headers)?;
    Ok(respond(samples(reader, device)))
}

/// Asks the device for samples, and no longer when it is dropped.
struct Look {
    app: App,
    viewer: Viewer,
    tenant: farshore_domain::id::TenantId,
    device: DeviceId,
}

impl Look {
    fn hub(&self) -> &Hub {
        self.app.hub()
    }

    fn renew(&self) {
        self.hub().ask_live(self.tenant, self.device, SECONDS);
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if self.viewer.is_last() {
            self.hub().ask_live(self.tenant, self.device, 0);
        }
    }
}

fn samples(reader: Reader, device: DeviceId) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    async_stream::stream! {
        let app = reader.app().clone();
        let tenant = reader.tenant();
        let viewer = app.hub().live().look(tenant, device);
        let mut look = Look { app: app.clone(), viewer, tenant, device };
        let mut changes = app.hub().changes();
        let mut renew = tokio::time::interval(Duration::from_secs(RENEW_SECONDS));
        let over = reader.over();
        tokio::pin!(over);
        yield Ok(SseEvent::default().comment("open"));
        loop {
            tokio::select! {
                () = &mut over => return,
                _ = renew.tick() => look.renew(),
                glimpse = look.viewer.next() => {
                    let Some(glimpse) = glimpse else { return };
                    let (name, json) = match &*glimpse {
                        Glimpse::Sample(sample) => ("sample", serde_json::to_string(sample)),
                        Glimpse::Event(event) => ("event", serde_json::to_string(event)),
                    };
                    let Ok(json) = json else { continue };
                    yield Ok(SseEvent::default().event(name).data(json));
                }
                change = changes.recv() => match change {
                    Ok(change) if change.tenant == tenant && change.device == device => {
                        let data = serde_json::json!({ "uid": device }).to_string();
                        yield Ok(SseEvent::default().event("device").data(data));
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(read, follow))]
pub struct MetricDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let needs = Access::Needs(Permission::DeviceRead);
    vec![
        route(Method::GET, "/api/devices/{id}/metrics", needs, read),
        route(Method::GET, "/api/devices/{id}/metrics/stream", needs, follow),
    ]
}
