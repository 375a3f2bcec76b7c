//! The device channel's connection: it is made again and again, for ever, politely.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::connectivity::{Connectivity, Failed, TlsFault, diagnose};
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
use crate::http::{Endpoint, HttpError, retry_after_ms};
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
        cause: Connectivity,
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
    #[error("hung up, to begin anew")]
    HungUp,
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
        let cause = cause_of(&identity.endpoint, &error).await;
        if events.send(LinkEvent::Closed { reason, cause }).await.is_err() {
            return;
        }
        sleep(wait).await;
    }
}

/// What is in the way, from how far the attempt came.
async fn cause_of(endpoint: &Endpoint, error: &LinkError) -> Connectivity {
    let failed = match error {
        LinkError::Http(HttpError::Resolve { .. }) => Failed::Resolve,
        LinkError::Http(HttpError::Proxy { .. }) => Failed::Proxy,
        LinkError::Http(HttpError::Connect { .. } | HttpError::Late { .. }) => Failed::Connect,
        LinkError::Http(HttpError::Tls { source, .. }) => Failed::Tls(match tls_fault(source) {
            // Only then is it asked, in the clear and without a secret, whether it is a portal.
            Some(TlsFault::Untrusted) | None if endpoint.answers_plain_http().await => TlsFault::AnsweredHttp,
            Some(fault) => fault,
            // It hung up or broke off: nobody there who speaks TLS.
            None => return diagnose(Failed::Connect, true),
        }),
        _ => Failed::Channel,
    };
    let interface = endpoint.is_local() || has_interface(Path::new("/sys/class/net"));
    diagnose(failed, interface)
}

/// What rustls says is wrong; none when it says nothing, because the connection broke.
fn tls_fault(error: &std::io::Error) -> Option<TlsFault> {
    use rustls::{CertificateError, Error};
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => TlsFault::Time,
        _ => TlsFault::Untrusted,
    })
}

/// Whether an interface other than loopback is up. What can't be read counts as up: it explains nothing.
fn has_interface(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return true };
    entries.flatten().filter(|entry| entry.file_name() != "lo").any(|entry| {
        let state = std::fs::read_to_string(entry.path().join("operstate")).unwrap_or_default();
        // Tunnels and the like never say more than this.
        matches!(state.trim(), "up" | "unknown")
    })
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
                // Wanted by the agent, which goes on: a new channel follows.
                None => return Err(LinkError::HungUp),
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

#[cfg(test)]
mod tests {
    use farshore_domain::time::UnixMs;
    use farshore_trust::authority::{Authority, Issuer, NewAuthority};
    use farshore_trust::clock::FlooredClock;
    use farshore_trust::identity::TrustDomain;
    use farshore_trust::tls::{ServerCertificate, api_server_config, client_config};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::clock::wall;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn authority() -> NewAuthority {
        Authority::generate(&TrustDomain::new("acme.test").unwrap(), wall()).unwrap()
    }

    /// What an attempt runs into that trusts only `root`, by a clock that never reads less than `floor`.
    async fn attempt(
        url: &str,
        root: &rustls::pki_types::CertificateDer<'static>,
        floor: UnixMs,
    ) -> Connectivity {
        attempt_at(&Endpoint::parse(url).unwrap(), root, floor).await
    }

    async fn attempt_at(
        endpoint: &Endpoint,
        root: &rustls::pki_types::CertificateDer<'static>,
        floor: UnixMs,
    ) -> Connectivity {
        let tls = client_config(std::slice::from_ref(root), None, FlooredClock::new(wall, floor)).unwrap();
        let error = LinkError::Http(endpoint.connect(Arc::new(tls)).await.map(drop).unwrap_err());
        cause_of(endpoint, &error).await
    }

    /// Answers every connection with these bytes, after something was said.
    async fn says(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut some = [0; 1024];
                let heard = stream.read(&mut some).await;
                if heard.is_ok_and(|count| count > 0) && stream.write_all(answer).await.is_err() {
                    continue;
                }
            }
        });
        url
    }

    /// A server with a certificate of `made` that ends in a day.
    async fn serves_tls(made: NewAuthority) -> String {
        let domain = TrustDomain::new("acme.test").unwrap();
        let issuer =
            Issuer::new(domain, made.root_cert, made.intermediate_cert, made.intermediate_key).unwrap();
        let server = issuer.issue_server(&["127.0.0.1".to_owned()], wall(), DAY).unwrap();
        let certificate = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(api_server_config(certificate).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust it ends its own connection only.
                drop(acceptor.accept(stream).await);
            }
        });
        url
    }

    #[tokio::test]
    async fn each_thing_in_the_way_is_told_apart_on_real_sockets() {
        let pinned = authority();
        let root = pinned.root_cert.clone();
        let now = wall();
        // Nobody listens there any more.
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", closed.local_addr().unwrap());
        drop(closed);
        assert_eq!(attempt(&url, &root, now).await, Connectivity::ControlPlane);
        // A name that never exists (RFC 6761); where there is no network at all, that is what is in the way.
        let dns = attempt("https://nowhere.invalid", &root, now).await;
        let alone = !has_interface(Path::new("/sys/class/net"));
        assert_eq!(dns, if alone { Connectivity::Interface } else { Connectivity::Dns });
        // A proxy that refuses, and one that is not there.
        let refusing = says(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
        let through = async |proxy: &str, to: &str| {
            let proxy = crate::Proxy::parse(&proxy.replace("https", "http")).unwrap();
            attempt_at(&Endpoint::parse(to).unwrap().through(proxy), &root, now).await
        };
        let way = if alone { Connectivity::Interface } else { Connectivity::Proxy };
        assert_eq!(through(&refusing, "https://nowhere.invalid").await, way);
        assert_eq!(through(&url, "https://nowhere.invalid").await, way);
        let portal = says(b"HTTP/1.1 302 Found\r\nLocation: http://portal.test/login\r\n\r\n").await;
        assert_eq!(attempt(&portal, &root, now).await, Connectivity::CaptivePortal);
        let other = says(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        assert_eq!(attempt(&other, &root, now).await, Connectivity::Tls);
        let stranger = serves_tls(authority()).await;
        assert_eq!(attempt(&stranger, &root, now).await, Connectivity::Tls);
        let own = serves_tls(pinned).await;
        let later = now.plus_ms(3 * farshore_domain::time::DAY_MS);
        assert_eq!(attempt(&own, &root, later).await, Connectivity::Clock);
    }

    #[test]
    fn an_interface_counts_when_it_is_up_and_is_not_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let set = |name: &str, state: &str| {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("operstate"), state).unwrap();
        };
        assert!(!has_interface(folder.path()));
        set("lo", "unknown\n");
        set("eth0", "down\n");
        assert!(!has_interface(folder.path()));
        set("wg0", "unknown\n");
        assert!(has_interface(folder.path()));
        assert!(has_interface(&folder.path().join("none")), "what can't be read explains nothing");
    }
}
