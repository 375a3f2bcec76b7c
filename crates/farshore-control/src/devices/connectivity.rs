//! How a device stood to its control plane over the last days, made of the transitions that it told of.

use axum::Json;
use axum::extract::{Path, State};
use farshore_api::Problem;
use farshore_api::device::{ConnectivitySpan, DeviceConnectivity};
use farshore_domain::connectivity::Connectivity;
use farshore_domain::connectivity::history::{Told, spans, sum};
use farshore_domain::device::Reachability;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::events::EventRow;
use serde::Deserialize;

use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Query;
use crate::route::Db;

const DEFAULT_DAYS: u32 = 7;
const MAX_DAYS: u32 = 90;
/// At most so many transitions are looked at.
const MAX_TOLD: u32 = 2_000;
/// A state that began before the time that is asked for is found when its event is not older than this.
const BEFORE_MS: i64 = 90 * DAY_MS;
/// As events are named now, and as they were before they had a noun of their own.
const KINDS: [&str; 6] = [
    "connectivity.online",
    "connectivity.offline",
    "connectivity.cause",
    "agent.connectivity.online",
    "agent.connectivity.offline",
    "agent.connectivity.cause",
];

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ConnectivityQuery {
    /// How many days back, 1 to 90; 7 when left out.
    days: Option<u32>,
}

/// The transition that an event tells of; none when it is no such event.
fn told(event: EventRow) -> Option<Told> {
    let word = |name: &str| event.payload.get(name)?.as_str().map(Connectivity::from_word);
    let number = |name: &str| event.payload.get(name).and_then(serde_json::Value::as_i64);
    // An event is told after its transition, by the same clock.
    let at = number("since").map_or(event.at, |since| UnixMs(since).min(event.at));
    let to = word("cause")?;
    let (from, lasted_ms) = (word("from")?, number("lastedSeconds").unwrap_or(0).saturating_mul(1_000));
    let said = event.message.split_once(": ").map(|(_, said)| said.to_owned()).unwrap_or_default();
    let message = if to == Connectivity::Online { String::new() } else { said };
    Some(Told { at, from, to, lasted_ms: lasted_ms.clamp(0, BEFORE_MS), message })
}

/// Shows how a device stood to its control plane: now, and over the last days.
#[utoipa::path(get, path = "/api/devices/{id}/connectivity", tag = "devices", params(("id" = String, Path), ConnectivityQuery),
    responses((status = 200, body = DeviceConnectivity), (status = "4XX", body = Problem)))]
pub(super) async fn connectivity(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    Query(query): Query<ConnectivityQuery>,
) -> ApiResult<Json<DeviceConnectivity>> {
    let days = query.days.unwrap_or(DEFAULT_DAYS);
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(ApiError::field("days", format!("is 1 to {MAX_DAYS}")));
    }
    let to = now();
    let from = to.plus_ms(-i64::from(days) * DAY_MS);
    let row = db.device(&id).await?;
    let reachability = row.reachability(app.hub().heartbeat_ms(), to);
    let silent_since = match reachability {
        Reachability::Offline | Reachability::Stale => row.last_seen_at,
        _ => None,
    };
    let events = db.events_of_kinds(row.id().0, &KINDS, from.plus_ms(-BEFORE_MS), MAX_TOLD).await?;
    let truncated = events.len() >= MAX_TOLD as usize;
    let spans = spans(events.into_iter().filter_map(told).collect(), from, to, silent_since);
    let sum = sum(&spans);
    let last = spans.last().filter(|span| span.to >= to);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of days are far below 2^52")]
    let online_share = (sum.known_ms > 0).then(|| sum.online_ms as f64 / sum.known_ms as f64);
    Ok(Json(DeviceConnectivity {
        state: last.map_or(Connectivity::Unknown, |span| span.state),
        since: last.map(|span| span.from),
        message: last.map(|span| span.message.clone()).unwrap_or_default(),
        from,
        to,
        online_share,
        outages: sum.outages,
        spans: spans
            .into_iter()
            .map(|span| ConnectivitySpan {
                from: span.from,
                to: span.to,
                state: span.state,
                message: span.message,
            })
            .collect(),
        truncated,
    }))
}
