//! A small HTTP/1.1 client over TLS for the device port.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::{self, Proxy, ProxyError};

/// At most so many addresses of a name are tried.
const MAX_ADDRESSES: usize = 16;
const CONNECT: Duration = Duration::from_secs(15);
const PLAIN: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);
/// At most this many bytes in an answer that is not an artifact.
pub(crate) const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0:?} is no address of a device port; write https://host[:port]")]
    Address(String),
    #[error("{address} has no address")]
    Resolve {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no connection to {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no way through the proxy to {address}")]
    Proxy {
        address: String,
        #[source]
        source: ProxyError,
    },
    #[error("no TLS session with {address}")]
    Tls {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{address} took too long")]
    Late { address: String },
    #[error("the exchange failed")]
    Http(#[source] hyper::Error),
    #[error("the request can't be made")]
    Request(#[source] http::Error),
    #[error("the answer is broken or larger than {MAX_ANSWER_BYTES} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Where a device port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    /// What it is reached through.
    proxy: Option<Arc<Proxy>>,
}

impl Endpoint {
    /// Reads `https://host[:port]`; the port is 443 unless told.
    ///
    /// # Errors
    /// When it is no such address.
    pub fn parse(url: &str) -> Result<Self, HttpError> {
        let bad = || HttpError::Address(url.chars().take(200).collect());
        let uri: http::Uri = url.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let endpoint = Self { host, port: uri.port_u16().unwrap_or(443), proxy: None };
        let proxy = if endpoint.is_local() { None } else { proxy::told() };
        Ok(Self { proxy, ..endpoint })
    }

    /// The same through this proxy.
    #[cfg(test)]
    pub(crate) fn through(self, proxy: Proxy) -> Self {
        Self { proxy: Some(Arc::new(proxy)), ..self }
    }

    /// As in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether it is on this very machine.
    #[must_use]
    pub(crate) fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether what listens there answers a plain HTTP request: a portal in the control plane's place, which answers TLS only. Nothing is
    /// sent but the question.
    pub(crate) async fn answers_plain_http(&self) -> bool {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let ask = async {
            let mut tcp = self.reach().await.ok()?;
            let question = format!("HEAD / HTTP/1.0\r\nHost: {}\r\n\r\n", self.authority());
            tcp.write_all(question.as_bytes()).await.ok()?;
            let mut begin = [0; 5];
            tcp.read_exact(&mut begin).await.ok()?;
            Some(begin == *b"HTTP/")
        };
        matches!(timeout(PLAIN, ask).await, Ok(Some(true)))
    }

    /// A TCP connection, through the proxy where there is one.
    async fn reach(&self) -> Result<TcpStream, HttpError> {
        let address = self.authority();
        if let Some(proxy) = &self.proxy {
            return proxy.tunnel(&address).await.map_err(|source| HttpError::Proxy { address, source });
        }
        let found = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|source| HttpError::Resolve { address: address.clone(), source })?;
        let found: Vec<_> = found.take(MAX_ADDRESSES).collect();
        let connect = |source| HttpError::Connect { address: address.clone(), source };
        let tcp = TcpStream::connect(found.as_slice()).await.map_err(connect)?;
        tcp.set_nodelay(true).map_err(connect)?;
        Ok(tcp)
    }

    /// A TLS connection.
    pub(crate) async fn connect(&self, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, HttpError> {
        self.connect_within(CONNECT, tls).await
    }

    /// A TLS connection, given up after so long.
    pub(crate) async fn connect_within(
        &self,
        within: Duration,
        tls: Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, HttpError> {
        let address = self.authority();
        let name =
            ServerName::try_from(self.host.clone()).map_err(|_| HttpError::Address(address.clone()))?;
        let whole = async {
            let tcp = self.reach().await?;
            let stream = TlsConnector::from(tls).connect(name, tcp).await;
            stream.map_err(|source| HttpError::Tls { address: address.clone(), source })
        };
        timeout(within, whole).await.map_err(|_| HttpError::Late { address: address.clone() })?
    }

    /// Sends a request; the answer's body is still to be read.
    pub(crate) async fn send(
        &self,
        tls: Arc<ClientConfig>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        let address = self.authority();
        let host = http::HeaderValue::from_str(&address).map_err(|e| HttpError::Request(e.into()))?;
        request.headers_mut().insert(HOST, host);
        let stream = self.connect(tls).await?;
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Http)?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %crate::chain(&error), "the connection ended");
                }
            });
            sender.send_request(request).await.map_err(HttpError::Http)
        };
        timeout(ANSWER, exchange).await.map_err(|_| HttpError::Late { address })?
    }

    /// Posts JSON and reads the answer, whatever its status.
    pub(crate) async fn post_json(
        &self,
        tls: Arc<ClientConfig>,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<Answer, HttpError> {
        let body = serde_json::to_vec(body).map_err(|e| HttpError::Body(e.into()))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(HttpError::Request)?;
        let response = self.send(tls, request).await?;
        let status = response.status();
        let retry_after_ms = retry_after_ms(response.headers());
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
        let body = timeout(ANSWER, body).await.map_err(|_| HttpError::Late { address: self.authority() })?;
        Ok(Answer { status, retry_after_ms, body: body.map_err(HttpError::Body)?.to_bytes() })
    }
}

/// An answer in full.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: http::StatusCode,
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What a problem document says, or the status alone.
    pub(crate) fn problem(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Problem {
            #[serde(default)]
            title: String,
            #[serde(default)]
            detail: String,
        }
        let said = serde_json::from_slice::<Problem>(&self.body).ok();
        let said = said.map(|problem| if problem.detail.is_empty() { problem.title } else { problem.detail });
        match said.filter(|said| !said.is_empty()) {
            Some(said) => {
                format!("{} ({})", said.chars().take(500).collect::<String>(), self.status.as_u16())
            }
            None => format!("status {}", self.status),
        }
    }
}

/// `Retry-After` in seconds, at most an hour; dates are not understood.
pub(crate) fn retry_after_ms(headers: &http::HeaderMap) -> Option<u64> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(seconds.min(3600) * 1000)
}
