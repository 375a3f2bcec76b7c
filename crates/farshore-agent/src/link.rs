//! The device channel's connection: it is made again and again, for ever, politely.

use std::sync::Arc;
use std::time::Duration;

use farshore_protocol::{AgentFrame, MAX_FRAME_BYTES, PING_SECONDS, SUBPROTOCOL, ServerFrame, server_frame};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::claim::backoff;
use crate::http::{HttpError, retry_after_ms};
use crate::identity::Identity;

/// A channel on which nothing was heard for this long is dead.
const SILENCE: Duration = Duration::from_secs(60);
/// A frame that can't be sent for this long means the same.
const SEND: Duration = Duration::from_secs(30);
/// Frames that wait to be sent.
const OUTBOX: usize = 64;

/// What happens on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A channel is open; frames for it go here. The first one is `hello`.
    Open(mpsc::Sender<AgentFrame>),
    Frame(Box<ServerFrame>),
    Closed {
        reason: String,
    },
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no connection")]
    Http(#[source] HttpError),
    #[error("the control plane asks to come back later ({0})")]
    Shed(StatusCode, Option<u64>),
    #[error("the control plane does not take this device's certificate ({0})")]
    Unauthorized(StatusCode),
    #[error("the channel failed")]
    WebSocket(#[source] Box<WsError>),
    #[error("the control plane sent what is no frame")]
    Garbage(#[source] farshore_protocol::FrameError),
    #[error("nothing was heard for {} s", SILENCE.as_secs())]
    Silence,
    #[error("closed by the control plane: {reason}")]
    Goodbye { reason: String, retry_after_ms: u64 },
    #[error("closed")]
    Closed,
    #[error("the agent ends")]
    AgentEnds,
}

fn config() -> WebSocketConfig {
    // The read buffer is what an idle channel costs.
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_FRAME_BYTES)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
}

/// Keeps a channel open until the receiver of `events` is gone.
pub(crate) async fn keep_open(identity: Arc<Identity>, renew: Arc<Notify>, events: mpsc::Sender<LinkEvent>) {
    let mut attempt = 0;
    loop {
        if identity.expired() {
            wait_for_renewal(&identity, &renew).await;
        }
        let mut heard = false;
        let error = match session(&identity, &events, &mut heard).await {
            Err(error) => error,
            Ok(()) => LinkError::Closed,
        };
        if matches!(error, LinkError::AgentEnds) || events.is_closed() {
            return;
        }
        attempt = if heard { 0 } else { attempt + 1 };
        let wait = match &error {
            LinkError::Shed(_, Some(after)) => Duration::from_millis(*after) + backoff(attempt),
            LinkError::Goodbye { retry_after_ms, .. } => {
                Duration::from_millis(*retry_after_ms) + backoff(attempt)
            }
            LinkError::Unauthorized(_) => {
                // Expired by the control plane's clock, or revoked: only a renewal tells.
                renew.notify_one();
                Duration::from_secs(1) + backoff(attempt.max(2))
            }
            _ => backoff(attempt),
        };
        let reason = crate::chain(&error);
        tracing::info!(%reason, retry_ms = wait.as_millis(), "no channel");
        if events.send(LinkEvent::Closed { reason }).await.is_err() {
            return;
        }
        sleep(wait).await;
    }
}

async fn wait_for_renewal(identity: &Identity, renew: &Notify) {
    let mut changes = identity.changes();
    changes.mark_unchanged();
    renew.notify_one();
    if identity.expired() {
        // Tried all the same after a while: the clock may be what is wrong.
        match timeout(Duration::from_secs(30), changes.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "no more renewals"),
        }
    }
}

async fn session(
    identity: &Identity,
    events: &mpsc::Sender<LinkEvent>,
    heard: &mut bool,
) -> Result<(), LinkError> {
    let tls = identity.credentials().tls();
    let stream = identity.endpoint.connect(tls).await.map_err(LinkError::Http)?;
    let websocket = |error| LinkError::WebSocket(Box::new(error));
    let address = format!("wss://{}/api/channel", identity.endpoint.authority());
    let mut request = address.into_client_request().map_err(websocket)?;
    let protocol = http::HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let handshake = client_async_with_config(request, stream, Some(config()));
    let opened = timeout(SEND, handshake).await.map_err(|_| LinkError::Silence)?;
    let (socket, _) = match opened {
        Ok(opened) => opened,
        Err(WsError::Http(response)) => {
            let status = response.status();
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => LinkError::Unauthorized(status),
                _ => LinkError::Shed(status, retry_after_ms(response.headers())),
            });
        }
        Err(error) => return Err(websocket(error)),
    };
    let (outbox, inbox) = mpsc::channel(OUTBOX);
    events.send(LinkEvent::Open(outbox)).await.map_err(|_| LinkError::AgentEnds)?;
    talk(socket, inbox, events, heard).await
}

async fn talk<S>(
    mut socket: WebSocketStream<S>,
    mut inbox: mpsc::Receiver<AgentFrame>,
    events: &mpsc::Sender<LinkEvent>,
    heard: &mut bool,
) -> Result<(), LinkError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let websocket = |error| LinkError::WebSocket(Box::new(error));
    let every = Duration::from_secs(PING_SECONDS);
    let mut ping = interval_at(Instant::now() + every, every);
    let mut last_heard = Instant::now();
    loop {
        let out = tokio::select! {
            message = socket.next() => {
                last_heard = Instant::now();
                match message {
                    None => return Err(LinkError::Closed),
                    Some(Err(error)) => return Err(websocket(error)),
                    Some(Ok(Message::Binary(bytes))) => {
                        let frame = ServerFrame::from_bytes(&bytes).map_err(LinkError::Garbage)?;
                        *heard = true;
                        if let Some(server_frame::Body::Goodbye(goodbye)) = &frame.body {
                            return Err(LinkError::Goodbye {
                                reason: goodbye.reason.chars().take(100).collect(),
                                retry_after_ms: u64::from(goodbye.retry_after_ms).min(3_600_000),
                            });
                        }
                        let event = LinkEvent::Frame(Box::new(frame));
                        events.send(event).await.map_err(|_| LinkError::AgentEnds)?;
                        continue;
                    }
                    Some(Ok(Message::Close(_))) => return Err(LinkError::Closed),
                    // Answers to pings are made by the library and go out with the next flush.
                    Some(Ok(Message::Ping(_))) => {
                        match timeout(SEND, socket.flush()).await {
                            Ok(flushed) => flushed.map_err(websocket)?,
                            Err(_) => return Err(LinkError::Silence),
                        }
                        continue;
                    }
                    Some(Ok(_)) => continue,
                }
            }
            frame = inbox.recv() => match frame {
                Some(frame) => Message::Binary(frame.to_bytes().into()),
                None => return Err(LinkError::AgentEnds),
            },
            _ = ping.tick() => Message::Ping(bytes::Bytes::new()),
            () = sleep_until(last_heard + SILENCE) => return Err(LinkError::Silence),
        };
        match timeout(SEND, socket.send(out)).await {
            Ok(sent) => sent.map_err(websocket)?,
            Err(_) => return Err(LinkError::Silence),
        }
    }
}
