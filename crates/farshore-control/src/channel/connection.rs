//! One connection: the task behind a device's WebSocket.
//!
//! What is rare (opening, frames, pushes) runs in boxed futures, so that an idle connection keeps only what waiting needs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use farshore_api::ErrorCode;
use farshore_api::device::Sample;
use farshore_domain::id::{DeviceId, OperationId, TenantId};
use farshore_domain::operation::{EXEC_INSIDE_CAPABILITY_2, OPERATIONS_CAPABILITY};
use farshore_domain::time::UnixMs;
use farshore_protocol::{
    self as wire, AgentFrame, MAX_FRAME_BYTES, PING_SECONDS, PROTOCOL_VERSION, SUBPROTOCOL, ServerFrame,
    agent_frame, server_frame,
};
use farshore_store::channel::EVENT_STREAM;
use farshore_store::events::NewEvent;
use farshore_store::incidents::INCIDENT_STREAM;
use farshore_store::operations::OPERATION_STREAM;
use farshore_store::presence::{Opened, SessionClose, SessionOpen};
use rand::Rng as _;
use uuid::Uuid;

use super::admission::TokenBucket;
use super::hub::{Pending, Session};
use super::live::{self, Glimpse};
use super::presence;
use super::report::{self, Unfit};
use super::writer::{Answer, Item};
use crate::app::App;
use crate::clock::now;
use crate::error::ApiError;

/// A device says `hello` within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(15);
/// A device that was silent for this long is gone.
const DEAD_AFTER_MS: i64 = 60_000;
/// A frame is sent within this time, or the connection is given up.
const SEND_WITHIN: Duration = Duration::from_secs(20);
/// How often a device samples into batches, and how many seconds a batch covers, when nobody looks.
const SAMPLE_SECONDS: u32 = 10;
const BATCH_SECONDS: u32 = 60;
/// After this many unreadable blocks on one connection it is closed.
const MAX_STRIKES: u8 = 8;
/// At most this many streams on one connection.
const MAX_STREAMS: usize = 72;
/// Frames and events a second that a device may send for long, and at once; more is read more slowly.
const FRAMES_PER_SECOND: f64 = 100.0;
const FRAMES_BURST: f64 = 1_000.0;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The other side went, or the network did.
    Lost,
    /// Silent for too long.
    Dead,
    /// The device breaks the rules: WebSocket close code and text.
    Protocol(u16, &'static str),
    Goodbye(&'static str),
    /// What it sent could not be stored: it should come back and send it again.
    NotStored,
}

impl From<Unfit> for End {
    fn from(Unfit(why): Unfit) -> Self {
        Self::Protocol(axum::extract::ws::close_code::POLICY, why)
    }
}

/// What a connection remembers.
#[derive(Debug)]
struct State {
    /// The version of trusted keys that the device has.
    keys_version: u64,
    strikes: u8,
    streams: Vec<Box<str>>,
    budget: TokenBucket,
    /// The agent gives up what is cancelled.
    operations: bool,
    /// The agent runs commands inside an app's container.
    exec_inside: bool,
}

/// Answers `GET /api/channel` of a device whose certificate was checked.
pub async fn accept(app: App, tenant: TenantId, device: DeviceId, upgrade: WebSocketUpgrade) -> Response {
    if app.shutdown().is_cancelled() {
        return ApiError::new(ErrorCode::Unavailable, "The control plane is stopping.")
            .retry_after(5)
            .into_response();
    }
    if let Err(seconds) = app.hub().admission.admit(now()) {
        return ApiError::new(ErrorCode::Unavailable, "Too many devices connect at once. Come back later.")
            .retry_after(seconds)
            .into_response();
    }
    let upgrade = upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(1_024)
        .write_buffer_size(0)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_message_size(MAX_FRAME_BYTES);
    if upgrade.selected_protocol().is_none() {
        return ApiError::field("Sec-WebSocket-Protocol", format!("must offer {SUBPROTOCOL}"))
            .into_response();
    }
    upgrade.on_upgrade(move |socket| run(app, tenant, device, socket))
}

async fn run(app: App, tenant: TenantId, device: DeviceId, mut socket: WebSocket) {
    let hello = match Box::pin(wait_for_hello(&mut socket)).await {
        Ok(hello) => hello,
        Err(end) => return Box::pin(finish(&app, (tenant, device), "", end, &mut socket)).await,
    };
    let session = app.hub().enter(tenant, device, now());
    let end = match Box::pin(open(&app, &session, hello, &mut socket)).await {
        Ok(mut state) => tokio::select! {
            end = serve(&app, &session, &mut state, &mut socket) => end,
            // A revoked device is cut off even while a frame to it is stuck.
            () = session.cut.notified() => End::Lost,
        },
        Err(end) => end,
    };
    app.hub().leave(&session);
    let close = SessionClose { tenant, device, epoch: session.epoch };
    // Without a writer the control plane has stopped; the session is forgotten at the next start.
    let _ = app.hub().writer.leave(Item::Close(close)).await;
    Box::pin(finish(&app, (tenant, device), session.name(), end, &mut socket)).await;
}

async fn wait_for_hello(socket: &mut WebSocket) -> Result<(wire::Hello, String), End> {
    let deadline = tokio::time::Instant::now() + HELLO_WITHIN;
    loop {
        let message = match tokio::time::timeout_at(deadline, socket.recv()).await {
            Err(_) => return Err(End::Dead),
            Ok(None | Some(Err(_))) => return Err(End::Lost),
            Ok(Some(Ok(message))) => message,
        };
        match message {
            Message::Binary(bytes) => {
                let frame = read(&bytes)?;
                return match frame.body {
                    Some(agent_frame::Body::Hello(hello)) => Ok((hello, frame.request_id)),
                    _ => Err(Unfit("the first frame must be hello").into()),
                };
            }
            Message::Text(_) => return Err(Unfit("frames are binary").into()),
            Message::Close(_) => return Err(End::Lost),
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

fn read(bytes: &[u8]) -> Result<AgentFrame, End> {
    AgentFrame::from_bytes(bytes)
        .map_err(|_| End::Protocol(axum::extract::ws::close_code::INVALID, "the bytes are no frame"))
}

async fn send(socket: &mut WebSocket, request_id: String, body: server_frame::Body) -> Result<(), End> {
    let frame = ServerFrame { request_id, traceparent: String::new(), body: Some(body) };
    let message = Message::Binary(frame.to_bytes().into());
    match tokio::time::timeout(SEND_WITHIN, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Lost),
    }
}

async fn open(
    app: &App,
    session: &Arc<Session>,
    (hello, request_id): (wire::Hello, String),
    socket: &mut WebSocket,
) -> Result<State, End> {
    let (tenant, device) = session.key;
    let at = now();
    let said = report::hello(tenant, device, &hello)?;
    let accepted = said.accepted;
    let open = SessionOpen { tenant, device, epoch: session.epoch, at };
    let opened: Opened = match app.hub().writer.write(Item::Open(open, Box::new(said))).await {
        Ok(Answer::Opened(opened)) => *opened,
        Ok(Answer::Gone | Answer::Written) => return Err(End::Goodbye("revoked")),
        Err(_) => return Err(End::NotStored),
    };
    // The name is set once, here.
    let _ = session.name.set(opened.name.as_str().into());
    tracing::debug!(tenant = %tenant, device = %device, name = opened.name, request_id, epoch = session.epoch, "channel open");
    if let Some(event) = presence::back(app, session, &opened) {
        app.hub().writer.leave(Item::News(tenant, Box::new(event))).await.map_err(|_| End::NotStored)?;
    }
    let welcome = wire::Welcome {
        protocol_version: PROTOCOL_VERSION,
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: ["incidents/v1", "live", "live-events/v1", "operations", OPERATIONS_CAPABILITY]
            .map(str::to_owned)
            .into(),
        heartbeat_seconds: app.settings().heartbeat_seconds,
        server_time_ms: now().0,
        acknowledged: opened
            .marks
            .iter()
            .map(|(stream, sequence)| wire::Acknowledged { stream: stream.clone(), sequence: *sequence })
            .collect(),
        sample_seconds: SAMPLE_SECONDS,
        batch_seconds: BATCH_SECONDS,
    };
    send(socket, request_id, server_frame::Body::Welcome(welcome)).await?;
    let says = |word: &str| hello.capabilities.iter().any(|capability| capability == word);
    let mut state = State {
        keys_version: hello.trusted_keys_version,
        strikes: 0,
        streams: opened.marks.into_iter().map(|(stream, _)| stream.into()).collect(),
        budget: TokenBucket::new(FRAMES_PER_SECOND, FRAMES_BURST),
        operations: says(OPERATIONS_CAPABILITY),
        exec_inside: says(EXEC_INSIDE_CAPABILITY_2),
    };
    let watched = app.hub().live().is_watched(tenant, device);
    let first = Pending {
        desired: stale(app, session, accepted).await,
        keys: true,
        operations: true,
        live_seconds: watched.then_some(live::SECONDS),
        goodbye: None,
    };
    push(app, session, &mut state, socket, first).await?;
    Ok(state)
}

/// Whether the device needs another desired state than the one it accepted.
async fn stale(app: &App, session: &Session, accepted: farshore_domain::desired::Generation) -> bool {
    let (tenant, device) = session.key;
    let db = app.store().authorize_device(tenant, device);
    match db.desired_state(device).await {
        Ok(Some(row)) => (row.epoch, row.generation) != (accepted.epoch, accepted.generation),
        Ok(None) => false,
        // Sending it once more does no harm.
        Err(error) => {
            tracing::error!(tenant = %tenant, device = %device, error = crate::error::chain(&error), "desired state could not be read");
            true
        }
    }
}

async fn serve(app: &App, session: &Arc<Session>, state: &mut State, socket: &mut WebSocket) -> End {
    let mut ticks = tokio::time::interval(Duration::from_secs(PING_SECONDS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let end = tokio::select! {
            message = socket.recv() => match message {
                None | Some(Err(_)) => return End::Lost,
                Some(Ok(message)) => {
                    session.seen(now());
                    match message {
                        Message::Binary(bytes) => Box::pin(receive(app, session, state, socket, bytes)).await,
                        Message::Text(_) => Err(Unfit("frames are binary").into()),
                        Message::Close(_) => return End::Lost,
                        Message::Ping(_) | Message::Pong(_) => Ok(()),
                    }
                }
            },
            () = session.wake.notified() => {
                let pending = session.take_pending();
                Box::pin(push(app, session, state, socket, pending)).await
            }
            _ = ticks.tick() => {
                if now().since_ms(session.last_seen()) >= DEAD_AFTER_MS {
                    return End::Dead;
                }
                Box::pin(ping(socket)).await
            }
        };
        if let Err(end) = end {
            return end;
        }
    }
}

async fn ping(socket: &mut WebSocket) -> Result<(), End> {
    match tokio::time::timeout(SEND_WITHIN, socket.send(Message::Ping(axum::body::Bytes::new()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Lost),
    }
}

/// Sends what waits for the device.
async fn push(
    app: &App,
    session: &Session,
    state: &mut State,
    socket: &mut WebSocket,
    pending: Pending,
) -> Result<(), End> {
    let (tenant, device) = session.key;
    if let Some(reason) = pending.goodbye {
        return Err(End::Goodbye(reason));
    }
    if pending.keys {
        match crate::fleet::signed::trusted_keys(app, tenant, state.keys_version).await {
            Ok(Some(keys)) => {
                state.keys_version += u64::try_from(keys.sets.len()).unwrap_or(0);
                send(socket, String::new(), server_frame::Body::TrustedKeys(keys)).await?;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(tenant = %tenant, device = %device, error = crate::error::chain(&error), "trusted keys were not sent");
            }
        }
    }
    if pending.desired {
        match crate::fleet::signed::desired(app, tenant, device).await {
            Ok(Some(desired)) => send(socket, String::new(), server_frame::Body::Desired(desired)).await?,
            Ok(None) => {}
            Err(error) => {
                tracing::error!(tenant = %tenant, device = %device, error = crate::error::chain(&error), "desired state was not sent");
            }
        }
    }
    if pending.operations {
        let db = app.store().authorize_device(tenant, device);
        match db.open_operations(device, now()).await {
            Ok(operations) => {
                for operation in operations {
                    // An agent that was set back since would run it beside the apps, or where `exec` alone allows it.
                    if operation.kind == "exec" && !operation.app.is_empty() && !state.exec_inside {
                        continue;
                    }
                    let frame = wire::Operation {
                        uid: operation.uid.to_string(),
                        kind: operation.kind,
                        app: operation.app,
                        arguments_json: operation.arguments.to_string(),
                        expires_at_ms: operation.expires_at.0,
                        reason: operation.reason,
                    };
                    send(socket, String::new(), server_frame::Body::Operation(frame)).await?;
                }
            }
            Err(error) => {
                tracing::error!(tenant = %tenant, device = %device, error = crate::error::chain(&error), "operations were not sent");
            }
        }
        if state.operations {
            match db.cancelled_operations(device, now()).await {
                Ok(operations) => {
                    for operation in operations {
                        let frame = wire::OperationCancel { uid: operation.to_string() };
                        send(socket, String::new(), server_frame::Body::OperationCancel(frame)).await?;
                    }
                }
                Err(error) => {
                    tracing::error!(tenant = %tenant, device = %device, error = crate::error::chain(&error), "cancellations were not sent");
                }
            }
        }
    }
    if let Some(seconds) = pending.live_seconds {
        let request = wire::LiveRequest { seconds, interval_ms: live::INTERVAL_MS };
        send(socket, String::new(), server_frame::Body::Live(request)).await?;
    }
    Ok(())
}

/// Takes a frame in.
async fn receive(
    app: &App,
    session: &Arc<Session>,
    state: &mut State,
    socket: &mut WebSocket,
    bytes: axum::body::Bytes,
) -> Result<(), End> {
    let frame = read(&bytes)?;
    drop(bytes);
    let (tenant, device) = session.key;
    let AgentFrame { request_id, traceparent, body } = frame;
    // A newer agent may say what this version does not know.
    let Some(body) = body else { return Ok(()) };
    tracing::trace!(
        tenant = %tenant, device = %device, request_id = report::clean(&request_id, 64),
        traceparent = report::clean(&traceparent, 64), "frame"
    );
    #[expect(clippy::cast_precision_loss, reason = "at most the events that fit a frame")]
    let cost =
        if let agent_frame::Body::Events(batch) = &body { 1.0 + batch.events.len() as f64 } else { 1.0 };
    let wait_ms = state.budget.borrow(cost, now());
    if wait_ms > 0 {
        // Reading more slowly is what slows the device down; nothing is lost.
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
    match body {
        agent_frame::Body::Hello(_) => Err(Unfit("hello comes once").into()),
        agent_frame::Body::Heartbeat(_) => Ok(()),
        agent_frame::Body::Status(status) => {
            let status = report::status(tenant, device, &status, now())?;
            store(app, Item::Status(Box::new(status))).await
        }
        agent_frame::Body::Metrics(batch) => metrics(app, session, state, socket, request_id, batch).await,
        agent_frame::Body::Events(batch) => {
            if batch.sequence == 0 {
                if app.hub().live().is_watched(tenant, device) {
                    for event in report::live_events(device, session.name(), batch, now())? {
                        app.hub().live().publish(tenant, device, Glimpse::Event(event));
                    }
                }
                return Ok(());
            }
            let events = report::events(tenant, device, session.name(), batch, now())?;
            let sequence = events.sequence.unsigned_abs();
            store(app, Item::Events(Box::new(events))).await?;
            let stored = wire::Acknowledged { stream: EVENT_STREAM.to_owned(), sequence };
            send(socket, request_id, server_frame::Body::Acknowledged(stored)).await
        }
        agent_frame::Body::Incidents(batch) => {
            let report = report::incidents(tenant, device, session.name(), batch, now())?;
            let sequence = report.sequence.unsigned_abs();
            store(app, Item::Incidents(Box::new(report))).await?;
            let stored = wire::Acknowledged { stream: INCIDENT_STREAM.to_owned(), sequence };
            send(socket, request_id, server_frame::Body::Acknowledged(stored)).await
        }
        agent_frame::Body::OperationUpdate(update) => {
            let report = report::operation(tenant, device, update)?;
            store(app, Item::Operation(Box::new(report))).await
        }
        agent_frame::Body::Operations(batch) => {
            let report = report::operations(tenant, device, batch)?;
            let sequence = report.sequence.unwrap_or(0).unsigned_abs();
            store(app, Item::Operation(Box::new(report))).await?;
            let stored = wire::Acknowledged { stream: OPERATION_STREAM.to_owned(), sequence };
            send(socket, request_id, server_frame::Body::Acknowledged(stored)).await
        }
        agent_frame::Body::OperationOutput(piece) => output(app, session, &piece).await,
        agent_frame::Body::Refused(refused) => {
            let why = report::clean(&refused.reason, 1_000);
            let event = about(
                session.key,
                session.name(),
                "device.desired-refused",
                format!("device {} did not take its desired state: {why}", session.name()),
                serde_json::json!({ "epoch": refused.epoch, "generation": refused.generation, "reason": why }),
            );
            store(app, Item::News(tenant, Box::new(event))).await
        }
    }
}

/// Live output goes to whoever looks; the result brings the whole of it.
async fn output(app: &App, session: &Session, piece: &wire::OperationOutput) -> Result<(), End> {
    let (tenant, device) = session.key;
    let uid = piece.uid.parse().map_err(|_| Unfit("an operation's uid can't be read"))?;
    let uid = OperationId(uid);
    let outputs = app.hub().outputs();
    if !outputs.knows((tenant, uid)) {
        let db = app.store().authorize_device(tenant, device);
        match db.operation_is_open(device, uid).await {
            Ok(true) => {}
            // It is over here, or not this device's.
            Ok(false) => return Ok(()),
            Err(_) => return Err(End::NotStored),
        }
    }
    outputs.push((tenant, uid), piece.offset, &piece.bytes);
    Ok(())
}

async fn store(app: &App, item: Item) -> Result<(), End> {
    app.hub().writer.write(item).await.map(|_| ()).map_err(|_| End::NotStored)
}

async fn metrics(
    app: &App,
    session: &Arc<Session>,
    state: &mut State,
    socket: &mut WebSocket,
    request_id: String,
    batch: wire::MetricBatch,
) -> Result<(), End> {
    let (tenant, device) = session.key;
    if !report::is_stream(&batch.stream) {
        return Err(Unfit("a stream is host, or app/ and a name").into());
    }
    let live = batch.sequence == 0;
    if live && !app.hub().live().is_watched(tenant, device) {
        return Ok(());
    }
    let (block, wrong) = report::block(tenant, device, batch, now());
    if let Some(Unfit(why)) = wrong {
        state.strikes = state.strikes.saturating_add(1);
        tell(app, session.key, session.name(), why).await;
        if state.strikes >= MAX_STRIKES {
            return Err(Unfit("too many blocks of measurements can't be read").into());
        }
    }
    if live {
        pass_on(app, session, &block);
        return Ok(());
    }
    if !state.streams.iter().any(|known| **known == *block.stream) {
        if state.streams.len() >= MAX_STREAMS {
            return Err(Unfit("the device has too many streams").into());
        }
        state.streams.push(block.stream.as_str().into());
    }
    let stored = wire::Acknowledged { stream: block.stream.clone(), sequence: block.sequence.unsigned_abs() };
    store(app, Item::Block(Box::new(block))).await?;
    send(socket, request_id, server_frame::Body::Acknowledged(stored)).await
}

/// Live samples go to whoever looks, and nowhere else.
fn pass_on(app: &App, session: &Session, block: &farshore_store::metrics::NewBlock) {
    let (tenant, device) = session.key;
    let Ok(read) = farshore_series::decode(&block.block) else { return };
    for (row, at) in read.at_ms.iter().enumerate() {
        let values = read
            .series
            .iter()
            .zip(&read.columns)
            .filter_map(|(name, column)| {
                let value = column.get(row).copied().flatten().filter(|value| value.is_finite())?;
                Some((name.clone(), value))
            })
            .collect();
        app.hub().live().publish(
            tenant,
            device,
            Glimpse::Sample(Sample { stream: block.stream.clone(), at: *at, values }),
        );
    }
}

fn about(
    (_, device): (TenantId, DeviceId),
    name: &str,
    kind: &str,
    message: String,
    payload: serde_json::Value,
) -> NewEvent {
    NewEvent {
        uid: Uuid::now_v7(),
        at: now(),
        kind: kind.to_owned(),
        subject_kind: "Device".to_owned(),
        subject: device.0,
        subject_name: name.to_owned(),
        actor: format!("device:{name}"),
        message,
        payload,
    }
}

/// A device breaks the rules: the log says so each time, an event now and then.
async fn tell(app: &App, key: (TenantId, DeviceId), name: &str, why: &'static str) {
    let (tenant, device) = key;
    tracing::warn!(tenant = %tenant, device = %device, name, why, "device breaks the protocol");
    let at: UnixMs = now();
    // Before its session is stored the device has no name to tell of.
    if name.is_empty() || !app.hub().may_tell_trouble(key, at) {
        return;
    }
    let message = format!("device {name} breaks the protocol: {why}");
    let event = about(key, name, "device.protocol-error", message, serde_json::json!({ "why": why }));
    if app.hub().writer.leave(Item::News(tenant, Box::new(event))).await.is_err() {
        tracing::warn!(tenant = %tenant, device = %device, "the event of it was not stored: the control plane stops");
    }
}

/// Says goodbye, if there is anything to say.
async fn finish(app: &App, key: (TenantId, DeviceId), name: &str, end: End, socket: &mut WebSocket) {
    let (tenant, device) = key;
    tracing::debug!(tenant = %tenant, device = %device, name, end = ?end, "channel closed");
    let (code, why, retry_after_ms) = match end {
        End::Lost | End::Dead => return,
        End::Protocol(code, why) => {
            tell(app, key, name, why).await;
            (code, why, 60_000)
        }
        End::Goodbye(reason) => {
            let code = if reason == "revoked" {
                axum::extract::ws::close_code::POLICY
            } else {
                axum::extract::ws::close_code::AWAY
            };
            (code, reason, rand::rng().random_range(1_000..=15_000))
        }
        End::NotStored => {
            (axum::extract::ws::close_code::AGAIN, "shedding", rand::rng().random_range(5_000..=30_000))
        }
    };
    let goodbye = async {
        let frame = wire::Goodbye { reason: why.to_owned(), retry_after_ms };
        send(socket, String::new(), server_frame::Body::Goodbye(frame)).await?;
        let close = CloseFrame { code, reason: why.into() };
        socket.send(Message::Close(Some(close))).await.map_err(|_| End::Lost)
    };
    // A device that does not listen any more is simply left.
    let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function's future holds, without calling it.
    const fn held<A, B, C, D, F: Future>(_: &impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_holds_little() {
        let bytes = held(&run);
        eprintln!(
            "the task of a connection: {bytes} bytes, of them {} of the WebSocket; a session: {}",
            size_of::<WebSocket>(),
            size_of::<Session>()
        );
        assert!(bytes < 2_048, "{bytes} bytes for each connection");
    }
}
