//! `/api/sync` and `/api/ingest-keys`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use farshore_api::sync::{GatewayReport, GatewaySync, IngestKey, StreamSync, SyncLoss};
use farshore_api::{List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::DeviceId;
use farshore_store::ingest_keys::IngestKeyRow;
use farshore_store::sync::{GatewayRow, LossRow, StreamRow};
use serde::Deserialize;

use super::keys;
use crate::app::App;
use crate::clock::now;
use crate::error::ApiResult;
use crate::extract::{Query, check_text, limit};
use crate::route::{Access, Db, Route, route};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SyncQuery {
    /// Gateways at this location.
    location: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    #[param(rename = "continue")]
    continue_from: Option<String>,
}

/// How the sync of each gateway stands: what waits there, what has arrived, what was lost.
#[utoipa::path(get, path = "/api/sync", tag = "sync", params(SyncQuery),
    responses((status = 200, body = List<GatewaySync>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(query): Query<SyncQuery>) -> ApiResult<Json<List<GatewaySync>>> {
    let size = limit(query.limit)?;
    for (field, text) in [("location", &query.location), ("continue", &query.continue_from)] {
        check_text(field, text.as_deref().unwrap_or_default(), 253)?;
    }
    let rows = db.gateways(query.location.as_deref(), query.continue_from.as_deref(), size).await?;
    let continue_from = rows.last().filter(|_| rows.len() == size as usize).map(|row| row.name.to_string());
    let devices: Vec<DeviceId> = rows.iter().map(|row| row.device).collect();
    let mut streams: BTreeMap<DeviceId, Vec<StreamRow>> = BTreeMap::new();
    for row in db.sync_streams(&devices).await? {
        streams.entry(row.device).or_default().push(row);
    }
    let mut losses: BTreeMap<DeviceId, Vec<LossRow>> = BTreeMap::new();
    for row in db.sync_losses(&devices).await? {
        losses.entry(row.device).or_default().push(row);
    }
    let items = rows
        .into_iter()
        .map(|row| {
            let streams = streams.remove(&row.device).unwrap_or_default();
            let losses = losses.remove(&row.device).unwrap_or_default();
            gateway(row, &streams, losses)
        })
        .collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

fn gateway(row: GatewayRow, streams: &[StreamRow], losses: Vec<LossRow>) -> GatewaySync {
    let sum = |of: fn(&StreamRow) -> i64| streams.iter().map(of).fold(0, i64::saturating_add).unsigned_abs();
    let mut by_name: BTreeMap<&str, StreamSync> = BTreeMap::new();
    for stream in streams {
        let one = by_name.entry(&stream.stream).or_insert_with(|| StreamSync {
            stream: stream.stream.clone(),
            class: stream.class.clone(),
            points: 0,
            batches: 0,
            bytes: 0,
            refused_batches: 0,
            newest_at: None,
            last_at: stream.last_at,
        });
        one.class.clone_from(&stream.class);
        one.points += stream.points.unsigned_abs();
        one.batches += stream.batches.unsigned_abs();
        one.bytes += stream.bytes.unsigned_abs();
        one.refused_batches += stream.refused.unsigned_abs();
        one.newest_at = one.newest_at.max(stream.newest_at);
        one.last_at = one.last_at.max(stream.last_at);
    }
    GatewaySync {
        device: row.device,
        device_name: row.name,
        location: row.location,
        epoch: format!("{:016x}", row.epoch),
        reported_at: row.reported_at,
        // Of a later version, what this one knows.
        report: serde_json::from_value::<GatewayReport>(row.report).unwrap_or_default(),
        received_points: sum(|row| row.points),
        received_batches: sum(|row| row.batches),
        received_bytes: sum(|row| row.bytes),
        refused_batches: sum(|row| row.refused),
        last_batch_at: streams.iter().map(|row| row.last_at).max(),
        newest_at: streams.iter().filter_map(|row| row.newest_at).max(),
        lost_points: losses.iter().map(|row| row.points.unsigned_abs()).fold(0, u64::saturating_add),
        losses: losses
            .into_iter()
            .map(|row| SyncLoss {
                stream: row.stream,
                reason: row.reason,
                times: row.times.unsigned_abs(),
                points: row.points.unsigned_abs(),
                from: row.from,
                to: row.to,
                last_at: row.last_at,
            })
            .collect(),
        streams: by_name.into_values().collect(),
    }
}

fn key(row: IngestKeyRow) -> IngestKey {
    IngestKey {
        id: hex::encode(row.id),
        public_key: hex::encode(row.public_key),
        current: row.retired_at.is_none(),
        created_at: row.created_at,
        retired_at: row.retired_at,
    }
}

/// Lists the keys that gateways sealed their batches for, the present one first.
#[utoipa::path(get, path = "/api/ingest-keys", tag = "sync",
    responses((status = 200, body = List<IngestKey>), (status = "4XX", body = Problem)))]
async fn keys_list(Db(db): Db) -> ApiResult<Json<List<IngestKey>>> {
    let mut items: Vec<IngestKey> = db.ingest_keys().await?.into_iter().map(key).collect();
    items.sort_by_key(|key| !key.current);
    Ok(Json(List { items, metadata: ListMetadata::default() }))
}

/// Takes a new ingest key into use. Gateways seal for it from their next exchange on; the old ones go on opening what was sealed for them.
#[utoipa::path(post, path = "/api/ingest-keys:rotate", tag = "sync",
    responses((status = 201, body = IngestKey), (status = "4XX", body = Problem)))]
async fn rotate(State(app): State<App>, Db(db): Db) -> ApiResult<(StatusCode, Json<IngestKey>)> {
    let row = keys::rotate(&app, &db, now()).await?;
    Ok((StatusCode::CREATED, Json(key(row))))
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, keys_list, rotate))]
pub struct SyncDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    use Permission::{DeviceRead, TrustRead, TrustWrite};
    vec![
        route(Method::GET, "/api/sync", Access::Needs(DeviceRead), list),
        route(Method::GET, "/api/ingest-keys", Access::Needs(TrustRead), keys_list),
        route(Method::POST, "/api/ingest-keys/~rotate", Access::Needs(TrustWrite), rotate),
    ]
}
