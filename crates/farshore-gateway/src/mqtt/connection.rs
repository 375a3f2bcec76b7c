//! One client's connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use farshore_journal::{JournalError, Producer};
use futures_util::FutureExt as _;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::timeout;

use super::codec::{self, CodecError, Packet, Publish, Version};
use super::documents::{self, Telling};
use super::hub::{Inbox, Subscribed};
use super::session::{Acknowledged, Connected, Memory};
use super::{large, payload};
use crate::gateway::Shared;
use crate::ingest::Taken;

/// Messages of a connection that are not durable yet; the client's next ones wait in the socket.
const MAX_UNDER_WAY: u16 = 256;
const FIRST_PACKET: Duration = Duration::from_secs(10);
/// For a client to read what is said to it.
const WRITE: Duration = Duration::from_secs(30);

pub(super) const QUOTA_EXCEEDED: u8 = 0x97;
const PAYLOAD_INVALID: u8 = 0x99;
const FILTER_INVALID: u8 = 0x8f;
const NO_SUBSCRIPTION: u8 = 0x11;
const SESSION_TAKEN_OVER: u8 = 0x8e;
const SHUTTING_DOWN: u8 = 0x8b;
const MALFORMED: u8 = 0x81;
const PROTOCOL_ERROR: u8 = 0x82;
const TOPIC_ALIAS_INVALID: u8 = 0x94;
const PACKET_TOO_LARGE: u8 = 0x95;
const RETAIN_NOT_SUPPORTED: u8 = 0x9a;
const QOS_NOT_SUPPORTED: u8 = 0x9b;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("the client said nothing for too long")]
    Silent,
    #[error("a large packet took too long")]
    Slow,
    #[error("the client does not read what it is told")]
    Deaf,
    #[error("the first packet was no CONNECT")]
    NotConnect,
    #[error("the user or the password is wrong")]
    NotAllowed,
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("readings could not be kept: {0}")]
    Journal(JournalError),
    #[error("a document could not be written: {0}")]
    Document(String),
}

/// A message whose points or document are on their way to the disk.
pub(super) struct Settled {
    /// Packet id and hash, at QoS 1.
    pub(super) id: Option<(u16, u64)>,
    /// Told to clients of version 5; 0 when the points are durable.
    pub(super) reason: u8,
    pub(super) result: Result<(), ConnectionError>,
}

impl Settled {
    /// A message that needs no more than its acknowledgement.
    pub(super) fn known(id: u16) -> Self {
        Self { id: Some((id, 0)), reason: PAYLOAD_INVALID, result: Ok(()) }
    }

    pub(super) const fn document(
        id: Option<(u16, u64)>,
        reason: u8,
        result: Result<(), ConnectionError>,
    ) -> Self {
        Self { id, reason, result }
    }
}

pub(super) type UnderWay<'s> = FuturesOrdered<Pin<Box<dyn Future<Output = Settled> + Send + 's>>>;

/// Whoever is at the other end, and what it is told.
struct Client {
    name: Arc<str>,
    inbox: Inbox,
    telling: Telling,
    /// For how many seconds its session outlives the connection.
    session_expiry: u32,
    /// A document is being written; what comes after it waits, so that writes happen in their order.
    writing: bool,
}

struct Connection<'s, S> {
    stream: S,
    shared: &'s Shared,
    producer: Producer,
    buffer: BytesMut,
    /// Where a large packet arrives.
    large: Option<large::Held>,
    out: Vec<u8>,
    version: Version,
}

pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    shared: &Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let mut connection = Connection {
        stream,
        shared,
        producer: shared.journal.producer(),
        buffer: BytesMut::with_capacity(4096),
        large: None,
        out: Vec::new(),
        version: Version::V311,
    };
    let first = timeout(FIRST_PACKET, connection.connect()).await.map_err(|_| ConnectionError::Silent)??;
    let _counted = Connected::new(&shared.mqtt);
    let held = shared.mqtt.open(&first.client);
    let session = &held.session;
    // One connection to a session: the older one ends, and settles what it has under way before.
    session.takeover.notify_one();
    let mut memory = timeout(WRITE, session.memory.lock()).await.map_err(|_| ConnectionError::Silent)?;
    // What was meant for the older one must not end this one; a newer one tells again while it waits for the lock.
    let _ = session.takeover.notified().now_or_never();
    let mut client = Client {
        name: first.client.as_str().into(),
        inbox: shared.hub.open(),
        telling: Telling::new(shared.documents.clone()),
        session_expiry: first.session_expiry,
        writing: false,
    };
    let mut present = held.resume(&mut memory, first.clean, first.session_expiry);
    if present && !client.resume(&memory) {
        // A client that hears that its session is there does not subscribe again.
        client.inbox = shared.hub.open();
        client.telling = Telling::new(shared.documents.clone());
        present = held.resume(&mut memory, true, first.session_expiry);
    }
    codec::conn_ack(
        &mut connection.out,
        connection.version,
        present,
        0,
        MAX_UNDER_WAY,
        first.assigned.then_some(first.client.as_str()),
    );
    connection.flush().await?;
    let mut under_way: UnderWay<'_> = FuturesOrdered::new();
    let acknowledged = &mut memory.acknowledged;
    let result = connection
        .talk(&mut under_way, acknowledged, (first.patience, &mut client), &session.takeover, &mut stop)
        .await;
    // Whoever connects next with this session must find what became durable.
    while let Some(settled) = under_way.next().await {
        if let (Some((id, hash)), 0, Ok(())) = (settled.id, settled.reason, settled.result) {
            acknowledged.remember(id, hash);
        }
    }
    held.leave(&mut memory, client.filters(), client.session_expiry);
    result
}

impl Client {
    /// Takes up the subscriptions of a session; not when there is no room for all of them.
    fn resume(&mut self, memory: &Memory) -> bool {
        memory.filters.iter().all(|(filter, after)| {
            self.telling.resume(filter, *after);
            self.inbox.subscribe(filter) == Subscribed::Granted
        })
    }

    /// What was subscribed to, and up to which version of documents each was told.
    fn filters(&self) -> Vec<(String, u64)> {
        let told = |filter: String| {
            let after = self.telling.told(&filter);
            (filter, after)
        };
        self.inbox.filters().into_iter().map(told).collect()
    }
}

/// What the first packet said.
struct First {
    client: String,
    assigned: bool,
    clean: bool,
    /// Seconds.
    session_expiry: u32,
    /// Silence for longer ends the connection.
    patience: Option<Duration>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'_, S> {
    async fn connect(&mut self) -> Result<First, ConnectionError> {
        let (first, length) = loop {
            // What begins otherwise speaks another protocol, and would be waited for in vain.
            if self.buffer.first().is_some_and(|byte| *byte != 0x10) {
                return Err(ConnectionError::NotConnect);
            }
            codec::check_first(&self.buffer)?;
            match codec::decode(&self.buffer, self.version) {
                Ok(Some((Packet::Connect(connect), length))) => {
                    let password =
                        connect.password.map(|bytes| std::str::from_utf8(bytes).unwrap_or_default());
                    let credentials = &self.shared.config.credentials;
                    let allowed = credentials.is_empty()
                        || credentials
                            .accepts(connect.user.unwrap_or_default(), password.unwrap_or_default());
                    self.version = connect.version;
                    if !allowed {
                        let code = if connect.version == Version::V5 { 0x86 } else { 4 };
                        codec::conn_ack(&mut self.out, self.version, false, code, 0, None);
                        self.flush().await?;
                        return Err(ConnectionError::NotAllowed);
                    }
                    let assigned = connect.client_id.is_empty();
                    let client = if assigned {
                        format!("anonymous-{}", uuid::Uuid::now_v7())
                    } else {
                        connect.client_id.chars().take(256).collect()
                    };
                    let patience = Duration::from_secs(u64::from(connect.keep_alive)) * 3 / 2;
                    let first = First {
                        client,
                        assigned,
                        clean: connect.clean_start,
                        // In 3.1.1 nobody is told what name was given.
                        session_expiry: if assigned && connect.version == Version::V311 {
                            0
                        } else {
                            connect.session_expiry
                        },
                        patience: (!patience.is_zero()).then_some(patience),
                    };
                    break (first, length);
                }
                Ok(Some(_)) => return Err(ConnectionError::NotConnect),
                Ok(None) => {}
                Err(CodecError::Version(level)) => {
                    // Both versions understand this one.
                    codec::conn_ack(&mut self.out, Version::V311, false, 1, 0, None);
                    self.flush().await?;
                    return Err(CodecError::Version(level).into());
                }
                Err(error) => return Err(error.into()),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        };
        self.buffer.advance(length);
        Ok(first)
    }

    async fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.out.is_empty() {
            return Ok(());
        }
        timeout(WRITE, self.stream.write_all(&self.out)).await.map_err(|_| ConnectionError::Deaf)??;
        timeout(WRITE, self.stream.flush()).await.map_err(|_| ConnectionError::Deaf)??;
        self.out.clear();
        Ok(())
    }

    /// Says why, to those that understand it, and ends.
    async fn leave(&mut self, reason: u8) {
        codec::disconnect(&mut self.out, self.version, reason);
        // It goes away anyway.
        if let Err(error) = self.flush().await {
            tracing::debug!(%error, "a client did not hear why it has to go");
        }
    }
}

impl<'s, S: AsyncRead + AsyncWrite + Unpin + Send> Connection<'s, S> {
    async fn talk(
        &mut self,
        under_way: &mut UnderWay<'s>,
        acknowledged: &mut Acknowledged,
        (patience, client): (Option<Duration>, &mut Client),
        takeover: &tokio::sync::Notify,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), ConnectionError> {
        let mut heard = tokio::time::Instant::now();
        loop {
            while under_way.len() < usize::from(MAX_UNDER_WAY) && !client.writing {
                match codec::decode(&self.buffer, self.version) {
                    Ok(None) => break,
                    Ok(Some((Packet::Disconnect { session_expiry, .. }, _))) => {
                        // One that was to end with its connection does.
                        if client.session_expiry > 0 {
                            client.session_expiry = session_expiry.unwrap_or(client.session_expiry);
                        }
                        return Ok(());
                    }
                    Ok(Some((packet, length))) => {
                        let answered = hear(
                            self.shared,
                            self.version,
                            &mut self.out,
                            under_way,
                            acknowledged,
                            (self.producer, packet, &mut *client),
                        );
                        self.buffer.advance(length);
                        if let Err(error) = answered {
                            return self.refuse(error).await;
                        }
                    }
                    Err(error) => return self.refuse(error).await,
                }
            }
            self.flush().await?;
            let wanted = self.look_ahead();
            let waits = large::Room::is_large(wanted) && self.large.is_none();
            let room = under_way.len() < usize::from(MAX_UNDER_WAY) && !client.writing && !waits;
            let large_until = self.large.as_ref().map_or(heard, |large| large.until);
            // A client without keep-alive may be silent for ever.
            let until = heard + patience.unwrap_or(Duration::from_secs(365 * 86_400));
            tokio::select! {
                biased;
                Some(settled) = under_way.next(), if !under_way.is_empty() => {
                    self.settle(acknowledged, settled)?;
                    while let Some(Some(settled)) = under_way.next().now_or_never() {
                        self.settle(acknowledged, settled)?;
                    }
                    // A document is the last one of those under way.
                    client.writing &= !under_way.is_empty();
                }
                read = self.stream.read_buf(&mut self.buffer), if room => {
                    if read? == 0 {
                        return Ok(());
                    }
                    heard = tokio::time::Instant::now();
                }
                Some(message) = client.inbox.next() => {
                    codec::publish(&mut self.out, self.version, &message.topic, &message.payload, false);
                    while let Some(message) = client.inbox.next_now() {
                        codec::publish(&mut self.out, self.version, &message.topic, &message.payload, false);
                    }
                }
                page = client.telling.next() => {
                    let (out, version) = (&mut self.out, self.version);
                    let told = client.telling.tell(&page, |topic, payload, there| {
                        codec::publish(out, version, topic, payload, there);
                    });
                    self.shared.hub.delivered(told);
                }
                () = takeover.notified() => {
                    self.leave(SESSION_TAKEN_OVER).await;
                    return Ok(());
                }
                _ = stop.changed() => {
                    self.leave(SHUTTING_DOWN).await;
                    return Ok(());
                }
                held = self.shared.mqtt.large.get(wanted), if waits => {
                    self.large = held;
                    heard = tokio::time::Instant::now();
                }
                () = tokio::time::sleep_until(until), if room => return Err(ConnectionError::Silent),
                () = tokio::time::sleep_until(large_until), if room && self.large.is_some() => {
                    return Err(ConnectionError::Slow);
                }
            }
        }
    }

    /// How large the packet is of which the beginning is there. Gives back what a larger one before it has needed.
    fn look_ahead(&mut self) -> usize {
        let wanted = codec::announced(&self.buffer);
        if !large::Room::is_large(wanted) && self.large.take().is_some() {
            self.buffer = BytesMut::from(self.buffer.as_ref());
        }
        wanted
    }

    /// Ends the connection for what was sent.
    async fn refuse(&mut self, error: CodecError) -> Result<(), ConnectionError> {
        let reason = match error {
            CodecError::Protocol(_) => PROTOCOL_ERROR,
            CodecError::Qos2 => QOS_NOT_SUPPORTED,
            CodecError::Retained => RETAIN_NOT_SUPPORTED,
            CodecError::TopicAlias => TOPIC_ALIAS_INVALID,
            CodecError::TooLarge(_) => PACKET_TOO_LARGE,
            _ => MALFORMED,
        };
        self.leave(reason).await;
        Err(error.into())
    }

    fn settle(&mut self, acknowledged: &mut Acknowledged, settled: Settled) -> Result<(), ConnectionError> {
        let Settled { id, reason, result } = settled;
        match (id, result) {
            (id, Ok(())) => {
                if let Some((id, hash)) = id {
                    if reason == 0 {
                        acknowledged.remember(id, hash);
                    }
                    codec::pub_ack(&mut self.out, self.version, id, reason);
                }
                Ok(())
            }
            (Some((id, _)), Err(error)) if self.version == Version::V5 => {
                tracing::warn!(%error, "a message was not kept");
                codec::pub_ack(&mut self.out, self.version, id, QUOTA_EXCEEDED);
                Ok(())
            }
            // There is no way to say no in 3.1.1 but to go: the client sends it again.
            (Some(_), Err(error)) => Err(error),
            (None, Err(error)) => {
                tracing::warn!(%error, "a message at QoS 0 was not kept");
                Ok(())
            }
        }
    }
}

fn hear<'s>(
    shared: &'s Shared,
    version: Version,
    out: &mut Vec<u8>,
    under_way: &mut UnderWay<'s>,
    acknowledged: &mut Acknowledged,
    (from, packet, client): (Producer, Packet<'_>, &mut Client),
) -> Result<(), CodecError> {
    match packet {
        // As CONNACK said. In 3.1.1 there is no way to say so, and it is a reading like others.
        Packet::Publish(message) if message.retain && version == Version::V5 => {
            return Err(CodecError::Retained);
        }
        Packet::Publish(message) if documents::is_for_documents(message.topic) => {
            let Err(id) = seen(shared, under_way, acknowledged, &message) else { return Ok(()) };
            let (topic, payload) = (message.topic.to_owned(), message.payload.to_vec());
            let name = Arc::clone(&client.name);
            under_way.push_back(Box::pin(documents::write(
                shared,
                (name, client.inbox.id()),
                id,
                topic,
                payload,
            )));
            client.writing = true;
        }
        Packet::Publish(message) => publish(shared, from, under_way, acknowledged, &message),
        Packet::PingRequest => codec::ping_response(out),
        Packet::Subscribe { id, filters } => {
            let code = |filter: &&str| match client.inbox.subscribe(filter) {
                Subscribed::Granted => {
                    client.telling.subscribe(filter);
                    0
                }
                Subscribed::NoFilter => FILTER_INVALID,
                Subscribed::TooMany => QUOTA_EXCEEDED,
            };
            codec::sub_ack(out, version, id, &filters.iter().map(code).collect::<Vec<u8>>());
        }
        Packet::Unsubscribe { id, filters } => {
            let code = |filter: &&str| {
                client.telling.unsubscribe(filter);
                if client.inbox.unsubscribe(filter) { 0 } else { NO_SUBSCRIPTION }
            };
            codec::unsub_ack(out, version, id, &filters.iter().map(code).collect::<Vec<u8>>());
        }
        Packet::Connect(_) => return Err(CodecError::Protocol("a second CONNECT")),
        Packet::PubAck { .. } => return Err(CodecError::Protocol("nothing waits to be acknowledged")),
        _ => return Err(CodecError::Protocol("a packet that only a server sends")),
    }
    Ok(())
}

/// A message that comes again and was acknowledged is acknowledged once more. Otherwise what it is known by, at QoS 1.
fn seen(
    shared: &Shared,
    under_way: &mut UnderWay<'_>,
    acknowledged: &mut Acknowledged,
    message: &Publish<'_>,
) -> Result<(), Option<(u16, u64)>> {
    let id = message.id.map(|id| (id, shared.mqtt.hash(message.topic, message.payload)));
    if id.is_some() && !message.duplicate {
        acknowledged.got_on();
    }
    let Some((packet, hash)) =
        id.filter(|(packet, hash)| message.duplicate && acknowledged.knows(*packet, *hash))
    else {
        return Err(id);
    };
    shared.counters.duplicates_mqtt.add(1);
    let again = Settled { id: Some((packet, hash)), reason: 0, result: Ok(()) };
    // Acknowledgements go in the order of their messages.
    under_way.push_back(Box::pin(std::future::ready(again)));
    Ok(())
}

pub(super) fn publish<'s>(
    shared: &'s Shared,
    from: Producer,
    under_way: &mut UnderWay<'s>,
    acknowledged: &mut Acknowledged,
    message: &Publish<'_>,
) {
    let begun = Instant::now();
    let Err(id) = seen(shared, under_way, acknowledged, message) else { return };
    match payload::take(&shared.ingest, Some(from), &shared.mqtt_stream, message.topic, message.payload) {
        Ok(taken) => under_way.push_back(Box::pin(settled(shared, id, taken.since(begun)))),
        Err(error) => {
            tracing::info!(topic = message.topic, %error, "a message is no reading");
            // Sent again it would be none either.
            let reason = PAYLOAD_INVALID;
            under_way.push_back(Box::pin(std::future::ready(Settled { id, reason, result: Ok(()) })));
        }
    }
}

async fn settled(shared: &Shared, id: Option<(u16, u64)>, taken: Taken) -> Settled {
    match shared.ingest.durable(taken).await {
        Ok(_) => Settled { id, reason: 0, result: Ok(()) },
        // Sent again it would be no smaller.
        Err(error @ (JournalError::TooLarge { .. } | JournalError::BeyondBounds { .. })) => {
            tracing::warn!(%error, "a message is too large for its stream");
            Settled { id, reason: PAYLOAD_INVALID, result: Ok(()) }
        }
        Err(error) => Settled { id, reason: 0, result: Err(ConnectionError::Journal(error)) },
    }
}
