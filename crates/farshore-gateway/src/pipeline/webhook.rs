//! Calls of local addresses: HTTP without TLS, to this machine or the networks it stands in.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// For the whole call.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    address: SocketAddr,
    path: String,
}

/// Reads `http://ADDRESS[:PORT]/PATH`. Names are not looked up: the call must work with no network around.
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
    let local = "it is local: localhost, or an IP address of this machine or a private network";
    let host = if host == "localhost" || host.starts_with("localhost:") {
        host.replacen("localhost", "127.0.0.1", 1)
    } else {
        host.to_owned()
    };
    let address: SocketAddr = host
        .parse()
        .or_else(|_| host.trim_matches(['[', ']']).parse().map(|ip: IpAddr| SocketAddr::new(ip, 80)))
        .map_err(|_| wrong(local))?;
    let near = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    };
    if !near {
        return Err(wrong(local));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("its path has characters that must be escaped"));
    }
    Ok(Target { address, path: path.to_owned() })
}

/// Calls once.
///
/// # Errors
/// Why it was not taken.
pub(super) async fn call(url: &str, body: String) -> Result<(), String> {
    let target = target(url)?;
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
    fn only_local_addresses() {
        for (url, address) in [
            ("http://127.0.0.1:9000/hook?x=1", Some("127.0.0.1:9000")),
            ("http://localhost", Some("127.0.0.1:80")),
            ("http://localhost:81/", Some("127.0.0.1:81")),
            ("http://192.168.1.7/a", Some("192.168.1.7:80")),
            ("http://[::1]:9000/", Some("[::1]:9000")),
            ("http://[fd00::1]/", Some("[fd00::1]:80")),
            ("http://8.8.8.8/", None),
            ("http://169.254.169.254/latest/meta-data", None),
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
