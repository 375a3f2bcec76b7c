//! A client of a site's own MQTT broker: what is published there on the topics that were asked for becomes readings.
//!
//! Each message at QoS 1 is acknowledged when the journal says that its points are durable, in the order of their arrival. The session is kept by the broker
//! (no clean session): what is published while the gateway is away waits there. Retained messages are left out: they say again what was said before. The client
//! speaks MQTT 3.1.1, which every broker understands; in that version a broker can't be told how large a message may be, so one that is too large is passed over and
//! acknowledged: it would come again for ever.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use farshore_trust::clock::FlooredClock;
use farshore_trust::sealed::random_bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::connection::{ConnectionError, UnderWay, publish};
use super::session::Acknowledged;
use super::{client, codec};
use crate::clock;
use crate::config::BrokerConfig;
use crate::gateway::Shared;
use crate::ingest::lock;
use crate::limits::MAX_PACKET_BYTES;
use crate::mqtt::codec::{Packet, Version};
use crate::status::BrokerStatus;
use crate::sync::Backoff;

/// For a connection, TLS with it.
const CONNECT: Duration = Duration::from_secs(15);
/// For the answer to CONNECT, and for the broker to read what it is told.
const ANSWER: Duration = Duration::from_secs(15);
/// Promised to the broker, in seconds; it hears of us in half the time.
const KEEP_ALIVE: u16 = 30;
const PING: Duration = Duration::from_secs(15);
/// A broker that is silent for longer is gone.
const SILENT: Duration = Duration::from_secs(45);
/// A broker of the same site is looked for more often than a cloud.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Messages that are not durable yet; the next ones wait in the socket.
const MAX_UNDER_WAY: usize = 256;
/// For what is under way when the gateway stops.
const LAST: Duration = Duration::from_secs(5);
const SUBSCRIPTION: u16 = 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    #[error("it can't be reached: {0}")]
    Unreachable(#[source] std::io::Error),
    #[error("it took too long")]
    Late,
    #[error("it refuses the connection: {0}")]
    Refused(&'static str),
    #[error("it does not let {0} be subscribed to")]
    Topic(String),
    #[error("{0}")]
    Connection(#[from] ConnectionError),
}

impl From<std::io::Error> for BrokerError {
    fn from(error: std::io::Error) -> Self {
        Self::Connection(error.into())
    }
}

impl From<codec::CodecError> for BrokerError {
    fn from(error: codec::CodecError) -> Self {
        Self::Connection(error.into())
    }
}

/// How the connection to the broker stands, for those who ask.
#[derive(Debug, Default)]
pub(crate) struct BrokerState(Mutex<(bool, Option<String>)>);

impl BrokerState {
    pub(crate) fn status(&self, broker: &BrokerConfig) -> BrokerStatus {
        let (connected, note) = lock(&self.0).clone();
        BrokerStatus { address: broker.address(), topics: broker.topics.clone(), connected, note }
    }

    fn set(&self, connected: bool, note: Option<String>) -> bool {
        let mut state = lock(&self.0);
        let changed = *state != (connected, note.clone());
        *state = (connected, note);
        changed
    }
}

/// TLS for the broker, from the certificates of its authority.
///
/// # Errors
/// When the file can't be read or holds no usable certificate.
pub(crate) fn tls(file: &std::path::Path) -> Result<Arc<ClientConfig>, crate::gateway::GatewayError> {
    use crate::gateway::GatewayError;
    let pem = std::fs::read_to_string(file)
        .map_err(|source| GatewayError::TlsFile { file: file.display().to_string(), source })?;
    let unusable = |error: &dyn std::fmt::Display| {
        GatewayError::Settings(vec![format!("GATEWAY_BROKER_CA={}: {error}", file.display())])
    };
    let roots = farshore_trust::certificate::chain_from_pem(&pem).map_err(|error| unusable(&error))?;
    let now = || farshore_domain::time::UnixMs(clock::wall_ns().div_euclid(1_000_000));
    let clock = FlooredClock::new(now, farshore_domain::time::UnixMs(0));
    let config = farshore_trust::tls::client_config(&roots, None, clock).map_err(|error| unusable(&error))?;
    Ok(Arc::new(config))
}

/// Works until it is told to stop.
pub(crate) async fn run(
    shared: Arc<Shared>,
    broker: BrokerConfig,
    tls: Option<Arc<ClientConfig>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::default();
    let mut acknowledged = Acknowledged::default();
    loop {
        let mut met = false;
        let connected = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            connected = connect(&broker, tls.as_ref()) => connected,
        };
        let ended = match connected {
            Ok(Connected::Plain(stream)) => {
                session(stream, &shared, &broker, &mut acknowledged, &mut met, &mut stop).await
            }
            Ok(Connected::Tls(stream)) => {
                session(*stream, &shared, &broker, &mut acknowledged, &mut met, &mut stop).await
            }
            Err(error) => Err(error),
        };
        let error = match ended {
            // It was told to stop.
            Ok(()) => return,
            Err(error) => error,
        };
        if met {
            backoff.reset();
        }
        let random = random_bytes::<8>().map_or(u64::MAX / 2, u64::from_le_bytes);
        let pause = backoff.next(random, None).min(MAX_PAUSE);
        // The same again and again is said once.
        if shared.broker.set(false, Some(error.to_string())) {
            tracing::warn!(broker = broker.address(), %error, retry_ms = pause.as_millis(), "the site's broker is not connected");
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

enum Connected {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(broker: &BrokerConfig, tls: Option<&Arc<ClientConfig>>) -> Result<Connected, BrokerError> {
    let whole = async {
        let found = tokio::net::lookup_host((broker.host.as_str(), broker.port));
        let addresses: Vec<SocketAddr> = found.await.map_err(BrokerError::Unreachable)?.take(16).collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(BrokerError::Unreachable)?;
        stream.set_nodelay(true).map_err(BrokerError::Unreachable)?;
        let Some(tls) = tls else { return Ok(Connected::Plain(stream)) };
        let name = ServerName::try_from(broker.host.clone())
            .map_err(|error| BrokerError::Unreachable(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
        Ok(Connected::Tls(Box::new(stream.map_err(BrokerError::Unreachable)?)))
    };
    timeout(CONNECT, whole).await.map_err(|_| BrokerError::Late)?
}

/// The connection, and what is on its way in both directions.
struct Link<S> {
    stream: S,
    buffer: BytesMut,
    out: Vec<u8>,
    said: Instant,
    passing: Option<Passing>,
    /// A message that was too large has been told of.
    told: bool,
}

/// A message that is not kept, as far as it has not come yet.
struct Passing {
    rest: usize,
    retain: bool,
    /// At QoS 1.
    id: Option<u16>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Link<S> {
    async fn flush(&mut self) -> Result<(), BrokerError> {
        if self.out.is_empty() {
            return Ok(());
        }
        timeout(ANSWER, self.stream.write_all(&self.out)).await.map_err(|_| BrokerError::Late)??;
        timeout(ANSWER, self.stream.flush()).await.map_err(|_| BrokerError::Late)??;
        self.out.clear();
        self.said = Instant::now();
        Ok(())
    }

    async fn read(&mut self) -> Result<(), BrokerError> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    /// Begins to pass over the message at the front; not when more of it is needed.
    fn begin_to_pass(&mut self) -> Result<bool, BrokerError> {
        let Some((message, length)) = codec::decode_large(&self.buffer)? else { return Ok(false) };
        // Once for each connection: a camera would fill the log.
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                topic = message.topic,
                bytes = length,
                most = MAX_PACKET_BYTES,
                "messages of the site's broker that are too large are passed over"
            );
        }
        self.passing = Some(Passing { rest: length, retain: message.retain, id: message.id });
        Ok(true)
    }

    /// Drops what has come of the message that is passed over. Says so when that was all of it.
    fn pass(&mut self) -> Option<Passing> {
        let passing = self.passing.as_mut()?;
        let come = passing.rest.min(self.buffer.len());
        self.buffer.advance(come);
        passing.rest -= come;
        self.passing.take_if(|passing| passing.rest == 0)
    }

    /// Introduces itself and asks for the topics.
    async fn introduce(&mut self, broker: &BrokerConfig) -> Result<(), BrokerError> {
        let password = broker.password.as_ref().map(|password| password.expose().as_bytes());
        client::connect(&mut self.out, &broker.client_id, KEEP_ALIVE, broker.user.as_deref(), password);
        self.flush().await?;
        let code = loop {
            match codec::decode(&self.buffer, Version::V311)? {
                Some((Packet::ConnAck { code, .. }, length)) => {
                    self.buffer.advance(length);
                    break code;
                }
                Some(_) => {
                    return Err(codec::CodecError::Malformed("the first packet is no CONNACK").into());
                }
                None => timeout(ANSWER, self.read()).await.map_err(|_| BrokerError::Late)??,
            }
        };
        match code {
            0 => {}
            1 => return Err(BrokerError::Refused("it does not speak MQTT 3.1.1")),
            2 => return Err(BrokerError::Refused("it does not take this client id")),
            3 => return Err(BrokerError::Refused("it is not ready")),
            4 => return Err(BrokerError::Refused("the user or the password is wrong")),
            _ => return Err(BrokerError::Refused("not authorized")),
        }
        client::subscribe(&mut self.out, SUBSCRIPTION, &broker.topics);
        self.flush().await
    }
}

async fn session<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    shared: &Shared,
    broker: &BrokerConfig,
    acknowledged: &mut Acknowledged,
    met: &mut bool,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    let mut link = Link {
        stream,
        buffer: BytesMut::with_capacity(16 * 1024),
        out: Vec::new(),
        said: Instant::now(),
        passing: None,
        told: false,
    };
    acknowledged.begin();
    link.introduce(broker).await?;
    let mut under_way: UnderWay<'_> = FuturesOrdered::new();
    let ended = talk(&mut link, shared, broker, (&mut under_way, acknowledged), met, stop).await;
    // What became durable is acknowledged, where somebody still hears it, and remembered where not.
    let rest = async {
        while let Some(settled) = under_way.next().await {
            // One that can't be kept comes again; those behind it may be durable.
            if let Err(error) = settle(&mut link.out, acknowledged, settled) {
                tracing::debug!(%error, "a message was not kept and comes again");
            }
        }
        if ended.is_ok() {
            client::disconnect(&mut link.out);
            link.flush().await?;
        }
        Ok::<_, BrokerError>(())
    };
    timeout(LAST, rest).await.map_err(|_| BrokerError::Late)??;
    ended
}

async fn talk<'s, S: AsyncRead + AsyncWrite + Unpin + Send>(
    link: &mut Link<S>,
    shared: &'s Shared,
    broker: &BrokerConfig,
    (under_way, acknowledged): (&mut UnderWay<'s>, &mut Acknowledged),
    met: &mut bool,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    let from = shared.journal.producer();
    let mut heard = Instant::now();
    loop {
        while under_way.len() < MAX_UNDER_WAY {
            if let Some(passed) = link.pass() {
                // Those that are retained are left out in any case.
                if !passed.retain {
                    shared.counters.rejected.add(1);
                }
                if let Some(id) = passed.id {
                    acknowledge_in_turn(under_way, id);
                }
                continue;
            }
            if link.passing.is_some() {
                break;
            }
            let decoded = match codec::decode(&link.buffer, Version::V311) {
                Err(codec::CodecError::TooLarge(_)) => {
                    if link.begin_to_pass()? {
                        continue;
                    }
                    break;
                }
                decoded => decoded?,
            };
            let Some((packet, length)) = decoded else { break };
            match packet {
                Packet::Publish(message) if message.retain => {
                    if let Some(id) = message.id {
                        acknowledge_in_turn(under_way, id);
                    }
                }
                Packet::Publish(message) => publish(shared, from, under_way, acknowledged, &message),
                Packet::SubAck { codes, .. } => {
                    let refused = broker.topics.iter().zip(codes).find(|(_, code)| **code >= 0x80);
                    if let Some((topic, _)) = refused {
                        return Err(BrokerError::Topic(topic.clone()));
                    }
                    *met = true;
                    shared.broker.set(true, None);
                    tracing::info!(
                        broker = broker.address(),
                        topics = broker.topics.len(),
                        "the site's broker is connected"
                    );
                }
                Packet::PingResponse => {}
                _ => return Err(codec::CodecError::Malformed("a packet that only a client sends").into()),
            }
            link.buffer.advance(length);
        }
        link.flush().await?;
        let room = under_way.len() < MAX_UNDER_WAY;
        let ping = link.said + PING;
        tokio::select! {
            biased;
            Some(settled) = under_way.next(), if !under_way.is_empty() => {
                settle(&mut link.out, acknowledged, settled)?;
                while let Some(Some(settled)) = under_way.next().now_or_never() {
                    settle(&mut link.out, acknowledged, settled)?;
                }
            }
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            read = link.read(), if room => {
                read?;
                heard = Instant::now();
            }
            () = tokio::time::sleep_until(ping) => client::ping_request(&mut link.out),
            () = tokio::time::sleep_until(heard + SILENT), if room => {
                return Err(ConnectionError::Silent.into());
            }
        }
    }
}

fn acknowledge_in_turn(under_way: &mut UnderWay<'_>, id: u16) {
    under_way.push_back(Box::pin(std::future::ready(super::connection::Settled::known(id))));
}

fn settle(
    out: &mut Vec<u8>,
    acknowledged: &mut Acknowledged,
    settled: super::connection::Settled,
) -> Result<(), ConnectionError> {
    match (settled.id, settled.result) {
        (Some((id, hash)), Ok(())) => {
            if settled.reason == 0 {
                acknowledged.remember(id, hash);
            }
            codec::pub_ack(out, Version::V311, id, 0);
            Ok(())
        }
        (None, Ok(())) => Ok(()),
        // There is no way to say no but to go: the broker sends it again.
        (_, Err(error)) => Err(error),
    }
}
