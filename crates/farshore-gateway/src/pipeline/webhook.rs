//! Calls of local addresses: HTTP without TLS, to an IP address. Which ones may be called, [`WebhookAllow`] says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::allow::WebhookAllow;

/// For the whole call.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    address: SocketAddr,
    path: String,
}

impl Target {
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Reads `http://ADDRESS[:PORT]/PATH`. Names are not looked up: the call must work with no network around, and what was checked is what is called.
///
/// # Errors
/// What is wrong with it.
pub(super) fn target(url: &str) -> Result<Target, String> {
    let wrong = |why: &str| format!("{url:?} is no address for a webhook: {why}");
    let rest = url.strip_prefix("http://").ok_or_else(|| wrong("it begins with http://"))?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let address_wanted = "it names an IP address, or localhost; other names are not looked up";
    let host = if host == "localhost" || host.starts_with("localhost:") {
        host.replacen("localhost", "127.0.0.1", 1)
    } else {
        host.to_owned()
    };
    let address: SocketAddr = host
        .parse()
        .or_else(|_| host.trim_matches(['[', ']']).parse().map(|ip: IpAddr| SocketAddr::new(ip, 80)))
        .map_err(|_| wrong(address_wanted))?;
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("its path has characters that must be escaped"));
    }
    Ok(Target { address, path: path.to_owned() })
}

/// Calls once.
///
/// # Errors
/// Why it was not taken.
pub(super) async fn call(allow: &WebhookAllow, url: &str, body: String) -> Result<(), String> {
    let target = target(url)?;
    allow.permits(target.address)?;
    match tokio::time::timeout(PATIENCE, send(&target, body)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn send(target: &Target, body: String) -> Result<(), String> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::post(&target.path)
        .header("host", target.address.to_string())
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        // Read to its end, so that the other side is not cut off.
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        if let Err(error) = body {
            tracing::debug!(%error, "the answer of a webhook broke off");
        }
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = exchange.as_mut() => result,
        ended = connection => match ended {
            // The answer may be there still.
            Ok(()) => exchange.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_an_address() {
        for (url, address) in [
            ("http://127.0.0.1:9000/hook?x=1", Some("127.0.0.1:9000")),
            ("http://localhost", Some("127.0.0.1:80")),
            ("http://localhost:81/", Some("127.0.0.1:81")),
            ("http://192.168.1.7/a", Some("192.168.1.7:80")),
            ("http://[::1]:9000/", Some("[::1]:9000")),
            ("http://[fd00::1]/", Some("[fd00::1]:80")),
            ("http://8.8.8.8/", Some("8.8.8.8:80")),
            ("http://example.com/", None),
            ("https://127.0.0.1/", None),
            ("http://user@127.0.0.1/", None),
            ("http://127.0.0.1/a b", None),
            ("http:///", None),
        ] {
            let target = target(url);
            assert_eq!(target.ok().map(|t| t.address.to_string()).as_deref(), address, "{url}");
        }
    }
}
