//! The HTTP proxy of a site that lets nothing else out: connections to the control plane go through it as tunnels (`CONNECT`).
//!
//! It is told, never guessed (`--proxy`, `FARSHORE_PROXY`), and sees the control plane's name and bytes it can't read. What is on this very machine is
//! reached without it.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// At most so many bytes of a proxy's answer before the tunnel begins.
const MAX_ANSWER: usize = 8 * 1024;
const DEFAULT_PORT: u16 = 3128;

static TOLD: OnceLock<Arc<Proxy>> = OnceLock::new();

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("it can't be reached")]
    Connect(#[source] std::io::Error),
    #[error("it broke off")]
    Io(#[source] std::io::Error),
    #[error("it does not answer as a proxy does")]
    Answer,
    #[error("it wants to know who this is; give the user and password in its address")]
    Unauthorized,
    #[error("it does not let this through ({0})")]
    Refused(u16),
}

impl Proxy {
    /// Reads `http://[user:password@]host[:port]`; the port is 3128 unless told.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || "is no proxy; write http://[user:password@]host[:port]".to_owned();
        let rest = text.trim().strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        let (secret, place) = match rest.rsplit_once('@') {
            Some((secret, place)) => (Some(secret), place),
            None => (None, rest),
        };
        let authority: http::uri::Authority = place.parse().map_err(|_| bad())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || place.ends_with(':') {
            return Err(bad());
        }
        let authorization = secret.map(|secret| {
            let plain = Zeroizing::new(decoded(secret));
            Zeroizing::new(format!("Basic {}", STANDARD.encode(plain.as_slice())))
        });
        Ok(Self { host, port: authority.port_u16().unwrap_or(DEFAULT_PORT), authorization })
    }

    /// A connection through it to `authority` (`host:port`).
    pub(crate) async fn tunnel(&self, authority: &str) -> Result<TcpStream, ProxyError> {
        let mut tcp =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(ProxyError::Connect)?;
        tcp.set_nodelay(true).map_err(ProxyError::Io)?;
        let mut asked = Zeroizing::new(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"));
        if let Some(authorization) = &self.authorization {
            asked.push_str("Proxy-Authorization: ");
            asked.push_str(authorization);
            asked.push_str("\r\n");
        }
        asked.push_str("\r\n");
        tcp.write_all(asked.as_bytes()).await.map_err(ProxyError::Io)?;
        // Byte by byte: what follows the empty line belongs to the tunnel.
        let mut answer = Vec::with_capacity(256);
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_ANSWER {
                return Err(ProxyError::Answer);
            }
            answer.push(tcp.read_u8().await.map_err(ProxyError::Io)?);
        }
        let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u16>().ok());
        match status {
            Some(200..=299) => Ok(tcp),
            Some(401 | 407) => Err(ProxyError::Unauthorized),
            Some(status) => Err(ProxyError::Refused(status)),
            None => Err(ProxyError::Answer),
        }
    }
}

/// User and password with their percent escapes undone.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        plain.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    plain
}

/// From now on new endpoints are reached through this proxy. The first one told counts.
pub fn use_proxy(proxy: Proxy) {
    if TOLD.set(Arc::new(proxy)).is_err() {
        tracing::debug!("a proxy was told already");
    }
}

/// The proxy that was told.
pub(crate) fn told() -> Option<Arc<Proxy>> {
    TOLD.get().cloned()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A proxy that answers like this, and what it was asked.
    async fn answers(answer: &'static str) -> (Proxy, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let count = stream.read(&mut asked).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        (Proxy::parse(&format!("http://us%40er:pass@127.0.0.1:{port}")).unwrap(), asked)
    }

    #[tokio::test]
    async fn a_tunnel_begins_after_the_answer_and_nothing_of_it_is_lost() {
        let (proxy, asked) = answers("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello").await;
        let mut tcp = proxy.tunnel("cp.example:8444").await.unwrap();
        let mut first = String::new();
        tcp.read_to_string(&mut first).await.unwrap();
        assert_eq!(first, "hello");
        let asked = asked.await.unwrap();
        assert!(
            asked.starts_with("CONNECT cp.example:8444 HTTP/1.1\r\nHost: cp.example:8444\r\n"),
            "{asked}"
        );
        // us@er:pass
        assert!(asked.contains("\r\nProxy-Authorization: Basic dXNAZXI6cGFzcw==\r\n"), "{asked}");
        assert!(!format!("{proxy:?}").contains("dXNA"));
    }

    #[tokio::test]
    async fn a_refusal_says_what_it_is() {
        let fails = async |answer| {
            let (proxy, _asked) = answers(answer).await;
            proxy.tunnel("cp.example:443").await.unwrap_err()
        };
        assert!(matches!(fails("HTTP/1.1 403 Forbidden\r\n\r\n").await, ProxyError::Refused(403)));
        assert!(matches!(fails("HTTP/1.1 407 Who?\r\n\r\n").await, ProxyError::Unauthorized));
        assert!(matches!(fails("SSH-2.0-OpenSSH\r\n\r\n").await, ProxyError::Answer));
        assert!(matches!(fails("HTTP/1.1 200").await, ProxyError::Io(_)));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = Proxy::parse(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
        drop(closed);
        assert!(matches!(gone.tunnel("cp.example:443").await, Err(ProxyError::Connect(_))));
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        for bad in [
            "",
            "proxy",
            "https://proxy",
            "http://",
            "http://:80",
            "http://host:",
            "http://ho st",
            "socks5://h",
        ] {
            assert!(Proxy::parse(bad).is_err(), "{bad:?}");
        }
        let plain = Proxy::parse("http://proxy.site/").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.authorization), ("proxy.site", 3128, None));
        let v6 = Proxy::parse("http://[::1]:8080").unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 8080));
    }
}
