//! An MQTT endpoint for readings and documents: it takes and acknowledges, and delivers what the gateway's own rules publish and what changes in
//! documents.
//!
//! `PUBACK` is sent when the journal says that the message's points are durable, never because of the cloud. A message that comes again (DUP, the
//! same packet id and content, in the same session, before anything new) is acknowledged and not taken twice. A client that connects again takes its session over: the
//! connection before it first settles what it had under way.

mod client;
pub mod codec;
mod connection;
mod documents;
mod hub;
mod large;
mod payload;
mod session;
pub(crate) mod subscriber;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub(crate) use hub::Hub;
pub(crate) use session::Sessions;

use crate::config::TlsFiles;
use crate::gateway::{GatewayError, Shared};

/// Connections at once of one listener.
const MAX_CONNECTIONS: usize = 1_000;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// # Errors
/// When the files can't be read or don't belong together.
pub(crate) fn tls_acceptor(files: &TlsFiles) -> Result<TlsAcceptor, GatewayError> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path)
            .map_err(|source| GatewayError::TlsFile { file: path.display().to_string(), source })
    };
    let (chain, key) = (read(&files.certificate)?, zeroize::Zeroizing::new(read(&files.key)?));
    let certificate =
        farshore_trust::tls::ServerCertificate::from_pem(&chain, &key).map_err(GatewayError::Tls)?;
    let mut config = farshore_trust::tls::api_server_config(certificate).map_err(GatewayError::Tls)?;
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until it is told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let _up = shared.listening.up(if tls.is_some() { "mqtt_tls" } else { "mqtt" });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
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
        let (tls, shared, stop) = (tls.clone(), Arc::clone(&shared), stop.clone());
        connections.spawn(async move {
            let _place = place;
            let ended = match tls {
                None => connection::run(stream, &shared, stop).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection::run(stream, &shared, stop).await,
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(connection::ConnectionError::Silent),
                },
            };
            if let Err(error) = ended {
                tracing::info!(%peer, error = %error, "an MQTT connection ended");
            }
        });
    }
    while connections.join_next().await.is_some() {}
}
