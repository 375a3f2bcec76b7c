//! `GET /api/active-ops`: rollouts in progress, operations under way, open incidents; once, or as a stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, header};
use axum::response::sse::Event as SseEvent;
use axum::response::{IntoResponse, Response};
use farshore_api::Problem;
use farshore_api::active_ops::{ActiveOperation, ActiveOps};
use farshore_domain::access::Permission;
use farshore_store::TenantDb;
use farshore_store::incidents::IncidentFilter;
use farshore_store::operations::OperationFilter;
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;

use crate::app::App;
use crate::error::{ApiResult, chain};
use crate::events::stream::{Reader, respond};
use crate::route::{Access, Caller, Db, Route, route};

/// At most this many of each.
const MAX: u32 = 200;
/// A stream looks again this often, whatever was heard.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A burst of events is one look.
const COALESCE: Duration = Duration::from_millis(250);

async fn read(db: &TenantDb) -> ApiResult<ActiveOps> {
    let mut tx = db.read().await?;
    let rows = db.deciding_rollouts(&mut tx).await?;
    drop(tx);
    let mut rollouts = Vec::new();
    for row in rows {
        let object = crate::rollouts::show_row(row)?;
        if !object.status.summary.phase.is_final() {
            rollouts.push(object);
        }
    }
    let unfinished = OperationFilter { open: true, ..OperationFilter::default() };
    let operations = db.operations(&unfinished, None, MAX).await?;
    let operations = operations.into_iter().map(|row| ActiveOperation {
        uid: row.uid,
        device: row.device,
        device_name: row.device_name,
        kind: row.kind.word().to_owned(),
        app: row.app,
        expires_at: row.expires_at,
        state: row.state,
        waits: row.waits,
        deadline_at: row.deadline_at.unwrap_or(row.expires_at),
    });
    let open = IncidentFilter { open: Some(true), ..IncidentFilter::default() };
    let incidents = db.incidents(&open, None, MAX).await?;
    Ok(ActiveOps {
        rollouts,
        operations: operations.collect(),
        incidents: incidents.into_iter().map(|row| crate::incidents::view(row, Vec::new())).collect(),
    })
}

fn stream(reader: Reader, db: TenantDb) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    async_stream::stream! {
        let mut feed = reader.app().hub().feed().follow(reader.tenant());
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let over = reader.over();
        tokio::pin!(over);
        // Tells the reader at once that the stream stands.
        yield Ok(SseEvent::default().comment("open"));
        let mut said = String::new();
        loop {
            tokio::select! {
                () = &mut over => return,
                _ = ticks.tick() => {}
                heard = feed.recv() => match heard {
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        tokio::time::sleep(COALESCE).await;
                        // What came meanwhile is in the same look.
                        while matches!(feed.try_recv(), Ok(_) | Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_))) {}
                    }
                    Err(RecvError::Closed) => return,
                },
            }
            let data = match read(&db).await.map(|ops| serde_json::to_string(&ops)) {
                Ok(Ok(data)) => data,
                Ok(Err(error)) => {
                    tracing::error!(error = chain(&error), "what is under way could not be written out");
                    return;
                }
                // The answer of the next look decides.
                Err(_) => continue,
            };
            if data != said {
                yield Ok(SseEvent::default().event("active-ops").data(&data));
                said = data;
            }
        }
    }
}

/// What is going on right now. With `Accept: text/event-stream` as a stream: `event: active-ops` with the whole of it, at once and whenever it changes.
#[utoipa::path(get, path = "/api/active-ops", tag = "rollouts", operation_id = "active_ops",
    responses((status = 200, body = ActiveOps), (status = "4XX", body = Problem)))]
async fn active_ops(
    State(app): State<App>,
    Db(db): Db,
    Caller(principal): Caller,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.split(',').any(|kind| kind.trim().starts_with("text/event-stream")) {
        return Ok(respond(stream(Reader::new(&app, &principal, &headers)?, db)));
    }
    Ok(Json(read(&db).await?).into_response())
}

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(active_ops))]
pub struct ActiveOpsDocs;

/// The noun's row.
#[must_use]
pub fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/api/active-ops", Access::Needs(Permission::RolloutRead), active_ops)]
}
