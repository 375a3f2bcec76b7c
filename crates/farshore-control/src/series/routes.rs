//! `/api/series`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farshore_api::series::{SeriesLatest, SeriesLine, SeriesRange};
use farshore_api::{List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_domain::name::Name;
use farshore_domain::time::{HOUR_MS, UnixMs};
use farshore_store::TenantDb;
use farshore_store::series::{LatestCursor, LatestRow};
use farshore_store::sync::{GatewayRow, block_stream};
use uuid::Uuid;

use super::fold::{Fold, Line, OfStream, Origin};
use super::query::{Devices, RangeQuery, SelectQuery};
use super::stored::{self, Budget};
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Query;
use crate::route::{Access, Db, Route, route};

/// Most devices whose series one answer holds.
const MAX_DEVICES: u32 = 1_000;
/// Most rows that are looked through for one page of latest values.
const MAX_ROWS: usize = 100_000;

/// The gateways that are asked for.
async fn gateways(db: &TenantDb, devices: &Devices) -> ApiResult<BTreeMap<DeviceId, GatewayRow>> {
    let only = match &devices.device {
        Some(device) => Some(db.device_id(device).await?),
        None => None,
    };
    let mut found = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = db.gateways(devices.location.as_deref(), after.as_deref(), MAX_DEVICES).await?;
        let full = page.len() == MAX_DEVICES as usize;
        after = page.last().map(|row| row.name.to_string());
        found.extend(
            page.into_iter()
                .filter(|row| {
                    only.is_none_or(|only| row.device == only) && devices.selector.matches(&row.labels)
                })
                .map(|row| (row.device, row)),
        );
        if !full {
            return Ok(found);
        }
        if found.len() > MAX_DEVICES as usize {
            return Err(ApiError::field(
                "labelSelector",
                format!("selects more than {MAX_DEVICES} gateways; narrow it, or name a location or device"),
            ));
        }
    }
}

/// Reads points of series: a line for each series, device or location, thinned out to steps. Steps of whole hours are made of hourly figures, which are kept
/// for longer than the points.
#[utoipa::path(get, path = "/api/series", tag = "series", params(RangeQuery),
    responses((status = 200, body = SeriesRange), (status = 503, body = Problem), (status = "4XX", body = Problem)))]
async fn range(
    State(app): State<App>,
    Db(db): Db,
    Query(query): Query<RangeQuery>,
) -> ApiResult<Json<SeriesRange>> {
    let points_from = now().plus_ms(-app.settings().retention.metrics_ms);
    let select = query.read(now(), points_from)?;
    let _turn = app.series().turn(db.tenant()).await?;
    let gateways = gateways(&db, &select.devices).await?;
    let devices: Vec<DeviceId> = gateways.keys().copied().collect();
    let mut fold = Fold::new(select.from, select.to, select.step, select.by, select.wanted.clone());
    let streams = db.sync_streams(&devices).await?;
    let span = (select.from, select.to.saturating_add(1));
    // Steps begin at multiples of their length: those of whole hours are made of whole hours.
    let hourly = select.step % HOUR_MS == 0;
    let mut budget = Budget::default();
    let mut tx = db.snapshot().await?;
    for row in streams {
        let Some(gateway) = gateways.get(&row.device) else { continue };
        if !select.wanted.stream(&row.stream) {
            continue;
        }
        let name = block_stream(row.epoch, &row.stream);
        let origin = Origin { device: row.device, location: gateway.location.clone(), stream: row.stream };
        let stream = (row.device, name.as_str());
        let gather = OfStream { origin, fold };
        let (read, all) = stored::read(&db, &mut tx, stream, span, hourly, &mut budget, gather).await?;
        fold = read.fold;
        if !all {
            fold.truncate();
            break;
        }
    }
    drop(tx);
    let (lines, truncated) = fold.finish(select.aggregate);
    let name_of = |device: DeviceId| gateways.get(&device).map(|row| row.name.clone());
    let location_of = |device: DeviceId| gateways.get(&device).map(|row| row.location.clone());
    let items = lines
        .into_iter()
        .map(|(line, at, values)| {
            let empty = SeriesLine {
                measurement: String::new(),
                field: String::new(),
                tags: BTreeMap::new(),
                device: None,
                device_name: None,
                location: None,
                stream: None,
                at,
                values,
            };
            match line {
                Line::Series { key, device, stream } => SeriesLine {
                    measurement: key.measurement().to_owned(),
                    field: key.field().to_owned(),
                    tags: key.tags().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                    device: Some(device),
                    device_name: name_of(device),
                    location: location_of(device),
                    stream: Some(stream),
                    ..empty
                },
                Line::Device { measurement, field, device } => SeriesLine {
                    measurement,
                    field,
                    device: Some(device),
                    device_name: name_of(device),
                    location: location_of(device),
                    ..empty
                },
                Line::Location { measurement, field, location } => {
                    SeriesLine { measurement, field, location: Some(location), ..empty }
                }
                Line::All { measurement, field } => SeriesLine { measurement, field, ..empty },
            }
        })
        .collect();
    Ok(Json(SeriesRange {
        from: UnixMs(select.from),
        to: UnixMs(select.to),
        step_ms: select.step,
        aggregate: select.aggregate,
        by: select.by,
        items,
        truncated,
    }))
}

fn read_cursor(text: &str) -> Option<LatestCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (device, stream, series): (Uuid, String, Vec<u8>) = serde_json::from_slice(&bytes).ok()?;
    (stream.len() <= 64 && !stream.contains('\0') && series.len() == 16).then_some((
        DeviceId(device),
        stream,
        series,
    ))
}

fn write_cursor((device, stream, series): &LatestCursor) -> ApiResult<String> {
    let cursor = (device.0, stream, series);
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).map_err(ApiError::internal)?))
}

/// Lists series with their latest values.
#[utoipa::path(get, path = "/api/series/latest", tag = "series", params(SelectQuery),
    responses((status = 200, body = List<SeriesLatest>), (status = "4XX", body = Problem)))]
async fn latest(Db(db): Db, Query(query): Query<SelectQuery>) -> ApiResult<Json<List<SeriesLatest>>> {
    let select = query.read()?;
    let mut after = match &select.continue_from {
        Some(text) if text.len() <= 1_024 => Some(
            read_cursor(text).ok_or_else(|| ApiError::field("continue", "is what the page before said"))?,
        ),
        Some(_) => return Err(ApiError::field("continue", "is what the page before said")),
        None => None,
    };
    let gateways = gateways(&db, &select.devices).await?;
    let devices: Vec<DeviceId> = gateways.keys().copied().collect();
    let (measurement, field) = (select.wanted.measurement.as_deref(), select.wanted.field.as_deref());
    let mut items = Vec::new();
    let mut continue_from = None;
    let mut rows = 0;
    'pages: loop {
        let page = db.latest_series(&devices, measurement, field, after.as_ref(), 1_000).await?;
        let full = page.len() == 1_000;
        rows += page.len();
        for row in page {
            after = Some((row.device, row.stream.clone(), row.series.clone()));
            if !select.wanted.stream(&row.stream)
                || !select.wanted.tags(|name| row.tags.get(name).map(String::as_str))
            {
                continue;
            }
            let Some(gateway) = gateways.get(&row.device) else { continue };
            items.push(show(row, gateway.name.clone(), gateway.location.clone()));
            if items.len() == select.limit as usize {
                continue_from = after.as_ref().map(write_cursor).transpose()?;
                break 'pages;
            }
        }
        if !full {
            break;
        }
        if rows >= MAX_ROWS {
            // There may be more of what is asked for behind what was looked through, even where nothing of it is in this page.
            continue_from = after.as_ref().map(write_cursor).transpose()?;
            break;
        }
    }
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

fn show(row: LatestRow, device_name: Name, location: String) -> SeriesLatest {
    let tags = row.tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let name = farshore_series::SeriesKey::new(&row.measurement, &row.field, tags)
        .map_or_else(|_| row.measurement.clone(), |key| key.to_string());
    SeriesLatest {
        name,
        device: row.device,
        device_name,
        location,
        kind: row.kind,
        at: UnixMs(row.at_ns.div_euclid(1_000_000)),
        value: serde_json::from_str(&row.value).unwrap_or_default(),
        measurement: row.measurement,
        field: row.field,
        tags: row.tags,
        stream: row.stream,
    }
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(range, latest))]
pub struct SeriesDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let needs = Access::Needs(Permission::DeviceRead);
    vec![
        route(Method::GET, "/api/series", needs, range),
        route(Method::GET, "/api/series/latest", needs, latest),
    ]
}
