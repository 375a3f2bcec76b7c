//! The HTTP side: a small server on loopback, or beyond it with credentials.

mod answer;
mod auth;
mod body;
mod documents;
pub(crate) mod idempotency;
mod page;
mod patient;
mod routes;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::patient::Patient;
use crate::gateway::Shared;

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// For the head of a request, and so for a connection that says nothing.
const HEAD: Duration = Duration::from_secs(75);
/// For a client to take something of its answer.
const WRITE: Duration = Duration::from_secs(30);

/// What the requests of a server share.
#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    rooms: body::Rooms,
}

/// Serves until it is told to stop, and lets requests that are under way end.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let _up = shared.listening.up("http");
    let server = Arc::new(Server { shared: Arc::clone(&shared), rooms: body::Rooms::default() });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: give others the time to end.
                    tracing::warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = stop.changed() => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection waits for full packets");
        }
        let server = Arc::clone(&server);
        let from = server.shared.journal.producer();
        let mut stop = stop.clone();
        connections.spawn(async move {
            let _place = place;
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(routes::answer(&server, from, request).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
            let mut connection =
                std::pin::pin!(builder.serve_connection(TokioIo::new(Patient::new(stream, WRITE)), service));
            let result = tokio::select! {
                result = connection.as_mut() => result,
                _ = stop.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    while connections.join_next().await.is_some() {}
}
