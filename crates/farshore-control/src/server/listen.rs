//! Accepting connections: handshakes off the accept loop, a few at a time, with a deadline; then HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use farshore_trust::identity::DeviceIdentity;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answerer, PeerAddress};
use crate::app::App;
use crate::claims::PeerCertificate;

/// From the accepted connection to the end of its handshake, the wait for its turn included.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// From the client's hello to the end of the handshake, once it is its turn.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// From one request's end to the next one's whole head.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// A peer that takes nothing of what is sent to it for so long is gone.
const STALLED_MS: u32 = 120_000;
/// hyper's least; a device's requests are small.
const DEVICE_BUFFER_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// After an accept failed (no file handles left), before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which of the two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// HTTP/2 and HTTP/1.1.
    Api,
    /// HTTP/1.1 with small buffers, client certificates, upgrades to WebSocket.
    Device,
}

/// A port to be served.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) listener: TcpListener,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) max_connections: usize,
    pub(super) max_handshakes: usize,
    pub(super) kind: Kind,
    pub(super) router: Answerer,
}

impl Port {
    /// Serves until `shutdown`; each connection is a task of `tasks`.
    pub(super) async fn serve(self, app: App, tasks: TaskTracker, shutdown: CancellationToken) {
        let Self { name, listener, tls, max_connections, max_handshakes, kind, router } = self;
        let connections = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let handshakes = Arc::new(Semaphore::new(max_handshakes));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(port = name, %error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&connections).try_acquire_owned() else {
                app.metrics().connection_shed(name);
                continue;
            };
            let (tls, handshakes) = (Arc::clone(&tls), Arc::clone(&handshakes));
            let (app, router, shutdown) = (app.clone(), router.clone(), shutdown.clone());
            tasks.spawn(async move {
                let handshake = Box::pin(handshake(stream, tls, handshakes));
                let handshake = tokio::select! {
                    () = shutdown.cancelled() => return,
                    ended = tokio::time::timeout(HANDSHAKE_WITHIN, handshake) => ended,
                };
                let stream = match handshake {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        app.metrics().handshake_failed(name);
                        tracing::debug!(port = name, peer = %address, %error, "a TLS handshake failed");
                        return;
                    }
                    Err(_) => {
                        app.metrics().handshake_failed(name);
                        tracing::debug!(port = name, peer = %address, "a TLS handshake took too long");
                        return;
                    }
                };
                let peer =
                    Peer { address: PeerAddress(address), certificate: peer_certificate(&app, &stream) };
                let stream = TokioIo::new(Placed { stream, _place: place });
                match kind {
                    Kind::Api => Box::pin(serve_api(stream, peer, router, shutdown)).await,
                    Kind::Device => Box::pin(serve_device(stream, peer, router, shutdown)).await,
                }
            });
        }
    }
}

/// Reads the client's hello, then waits for its turn: connections that say nothing hold nobody up, and in a storm those whose turn has come
/// finish before their deadline, rather than all of them failing together.
async fn handshake(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    handshakes: Arc<Semaphore>,
) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, STALLED_MS)?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let _turn = handshakes.acquire_owned().await.map_err(io::Error::other)?;
    tokio::time::timeout(TURN_WITHIN, hello.into_stream(tls)).await?
}

/// Who is on the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: PeerAddress,
    pub(super) certificate: PeerCertificate,
}

fn peer_certificate(app: &App, stream: &TlsStream<TcpStream>) -> PeerCertificate {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let trust_domain = app.authority().issuer().trust_domain();
    PeerCertificate(leaf.and_then(|leaf| match DeviceIdentity::from_certificate(leaf, trust_domain) {
        Ok(identity) => Some(Arc::new(identity)),
        Err(error) => {
            tracing::debug!(
                error = crate::error::chain(&error),
                "a client certificate names no device of ours"
            );
            None
        }
    }))
}

async fn serve_api(stream: TokioIo<Placed>, peer: Peer, router: Answerer, shutdown: CancellationToken) {
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(32 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let service = service_fn(move |request| router.clone().answer(request, peer.clone()));
    let connection = builder.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "an API connection broke");
    }
}

async fn serve_device(stream: TokioIo<Placed>, peer: Peer, router: Answerer, shutdown: CancellationToken) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(MAX_HEADERS)
        .max_buf_size(DEVICE_BUFFER_BYTES);
    let service = service_fn(move |request| router.clone().answer(request, peer.clone()));
    let connection = builder.serve_connection(stream, service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a device connection broke");
    }
}

/// A connection with its place in the count, which it gives back when it is gone, also after an upgrade.
#[derive(Debug)]
struct Placed {
    stream: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
