//! Connections to the device port: plain HTTP for claim and renewal, WebSocket for the channel.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_protocol::{MAX_FRAME_BYTES, SUBPROTOCOL};
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// A connection with handshake, or an answer, takes at most this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// At most this many bytes in an answer.
const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// The channel of one device.
pub(crate) type Channel = WebSocketStream<TlsStream<TcpStream>>;

/// Why there is no connection or no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("{0:?} is no address of a device port; write https://host[:port]")]
    Address(String),
    #[error("no connection to the device port")]
    Connect(#[source] std::io::Error),
    #[error("no TLS session with the device port")]
    Tls(#[source] std::io::Error),
    #[error("the device port took too long")]
    Late,
    #[error("the exchange with the device port failed")]
    Http(#[source] hyper::Error),
    #[error("the request can't be made")]
    Request(#[source] http::Error),
    #[error("the answer is broken or too large")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the channel failed")]
    WebSocket(#[source] Box<WsError>),
    #[error("the device port said {status}: {said}")]
    Refused { status: StatusCode, said: String, retry_after_ms: u64 },
}

fn websocket(error: WsError) -> ChannelError {
    match error {
        WsError::Http(response) => ChannelError::Refused {
            status: response.status(),
            said: problem(response.body().as_deref().unwrap_or_default()),
            retry_after_ms: retry_after_ms(response.headers()),
        },
        error => ChannelError::WebSocket(Box::new(error)),
    }
}

/// Where the device port is, and from where it is connected to.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    host: Arc<str>,
    port: u16,
    /// Used when the device port is on this machine.
    source: Option<Ipv4Addr>,
}

impl Route {
    /// Reads `https://host[:port]`.
    pub(crate) fn parse(url: &str) -> Result<Self, ChannelError> {
        let bad = || ChannelError::Address(url.chars().take(200).collect());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self { host: host.into(), port: uri.port_u16().unwrap_or(443), source: None })
    }

    /// From this address, when that is possible.
    pub(crate) fn from(&self, source: Ipv4Addr) -> Self {
        Self { source: Some(source), ..self.clone() }
    }

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    async fn tcp(&self) -> std::io::Result<TcpStream> {
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        let mut addresses: Vec<SocketAddr> = lookup_host((&*self.host, self.port)).await?.collect();
        // A name of this machine means both families; source addresses are of the fourth.
        addresses.sort_by_key(|address| !address.is_ipv4());
        for address in addresses {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(source) = self.source.filter(|_| address.is_ipv4() && address.ip().is_loopback()) {
                socket.bind(SocketAddr::from((source, 0)))?;
            }
            match socket.connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn tls(&self, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, ChannelError> {
        let name = ServerName::try_from(self.host.to_string())
            .map_err(|_| ChannelError::Address(self.host.to_string()))?;
        let tcp = self.tcp().await.map_err(ChannelError::Connect)?;
        TlsConnector::from(config).connect(name, tcp).await.map_err(ChannelError::Tls)
    }

    /// Opens the device channel.
    pub(crate) async fn open(&self, config: Arc<ClientConfig>) -> Result<Channel, ChannelError> {
        let whole = async {
            let stream = self.tls(config).await?;
            let address = format!("wss://{}/api/channel", self.authority());
            let mut request = address.into_client_request().map_err(websocket)?;
            let protocol = HeaderValue::from_static(SUBPROTOCOL);
            request.headers_mut().insert("sec-websocket-protocol", protocol);
            let (channel, _) =
                client_async_with_config(request, stream, Some(buffers())).await.map_err(websocket)?;
            Ok(channel)
        };
        timeout(PATIENCE, whole).await.map_err(|_| ChannelError::Late)?
    }

    /// Posts JSON. Statuses from 400 are errors.
    pub(crate) async fn post(
        &self,
        config: Arc<ClientConfig>,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ChannelError> {
        let request = Request::post(path)
            .header(HOST, self.authority())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(ChannelError::Request)?;
        let whole = async {
            let stream = self.tls(config).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .map_err(ChannelError::Http)?;
            let exchange = async {
                let response = sender.send_request(request).await.map_err(ChannelError::Http)?;
                let (parts, body) = response.into_parts();
                let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
                Ok((parts, body.map_err(ChannelError::Answer)?.to_bytes()))
            };
            tokio::pin!(exchange);
            // The connection does the work; its end alone is no answer.
            let (parts, body) = tokio::select! {
                answer = &mut exchange => answer?,
                ended = connection => match ended {
                    Ok(()) => exchange.await?,
                    Err(error) => return Err(ChannelError::Http(error)),
                },
            };
            if parts.status.as_u16() >= 400 {
                return Err(ChannelError::Refused {
                    status: parts.status,
                    said: problem(&body),
                    retry_after_ms: retry_after_ms(&parts.headers),
                });
            }
            Ok((parts.status, body))
        };
        timeout(PATIENCE, whole).await.map_err(|_| ChannelError::Late)?
    }
}

/// Small: thousands of them are in one process.
fn buffers() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_FRAME_BYTES)
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
}

/// The detail of a problem document, or its beginning.
fn problem(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let said = document.as_ref().and_then(|document| document.get("detail")?.as_str());
    let said = said.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    said.chars().take(300).collect()
}

/// `Retry-After` in seconds, at most an hour.
fn retry_after_ms(headers: &HeaderMap) -> u64 {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    seconds.unwrap_or(0).min(3_600) * 1_000
}

/// An agent's frame as a message.
pub(crate) fn message(body: farshore_protocol::agent_frame::Body) -> Message {
    let frame = farshore_protocol::AgentFrame { body: Some(body), ..Default::default() };
    Message::Binary(frame.to_bytes().into())
}
