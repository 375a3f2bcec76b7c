//! An MQTT endpoint for readings and documents: it takes and acknowledges, and delivers what the gateway's own rules publish and what changes in
//! documents.
//!
//! `PUBACK` is sent when the journal says that the message's points are durable, never because of the cloud. A message that comes again (DUP, the
//! same packet id and content, in the same session) is acknowledged and not taken twice. A client that connects again takes its session over: the
//! connection before it first settles what it had under way.

mod client;
pub mod codec;
mod connection;
mod documents;
mod hub;
mod payload;
pub(crate) mod subscriber;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub(crate) use hub::Hub;

use crate::config::TlsFiles;
use crate::gateway::{GatewayError, Shared};
use crate::ingest::lock;

/// Connections at once of one listener.
const MAX_CONNECTIONS: usize = 1_000;
/// Sessions that are remembered after their client has gone.
const MAX_SESSIONS: usize = 4_000;
/// Acknowledged messages that a session remembers.
const REMEMBERED: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The sessions of all clients.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_client: Mutex<HashMap<String, Arc<Session>>>,
    connected: AtomicU64,
    hasher: RandomState,
}

/// What is remembered of a client.
#[derive(Debug, Default)]
struct Session {
    /// Tells the connection that has it to end.
    takeover: Notify,
    /// Held by the connection that has the session.
    acknowledged: tokio::sync::Mutex<Acknowledged>,
}

/// Packet ids of the newest messages that were acknowledged, with the hash of their topic and content.
#[derive(Debug, Default)]
struct Acknowledged(VecDeque<(u16, u64)>);

impl Acknowledged {
    fn remember(&mut self, id: u16, hash: u64) {
        self.0.retain(|(other, _)| *other != id);
        while self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((id, hash));
    }

    fn knows(&self, id: u16, hash: u64) -> bool {
        self.0.contains(&(id, hash))
    }
}

impl Sessions {
    pub(crate) fn connections(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// The session of a client, and whether there was one.
    fn open(&self, client: &str) -> (Arc<Session>, bool) {
        let mut sessions = lock(&self.by_client);
        if let Some(session) = sessions.get(client) {
            return (Arc::clone(session), true);
        }
        if sessions.len() >= MAX_SESSIONS {
            // Those that no connection holds.
            sessions.retain(|_, session| Arc::strong_count(session) > 1);
        }
        let session = Arc::new(Session::default());
        sessions.insert(client.to_owned(), Arc::clone(&session));
        (session, false)
    }

    fn hash(&self, topic: &str, payload: &[u8]) -> u64 {
        self.hasher.hash_one((topic, payload))
    }
}

/// Counts a connection for as long as it lives.
struct Connected<'s>(&'s AtomicU64);

impl<'s> Connected<'s> {
    fn new(sessions: &'s Sessions) -> Self {
        sessions.connected.fetch_add(1, Ordering::Relaxed);
        Self(&sessions.connected)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_remembers_the_newest_messages() {
        let mut acknowledged = Acknowledged::default();
        acknowledged.remember(1, 10);
        assert!(acknowledged.knows(1, 10) && !acknowledged.knows(1, 11) && !acknowledged.knows(2, 10));
        acknowledged.remember(1, 11);
        assert!(acknowledged.knows(1, 11) && !acknowledged.knows(1, 10));
        for id in 2..=u16::try_from(REMEMBERED + 1).expect("small") {
            acknowledged.remember(id, 0);
        }
        assert!(!acknowledged.knows(1, 11));
    }
}
