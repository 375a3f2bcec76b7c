//! `farshore-agent gateway --force-sync`: the gateway that runs on this machine sends what waits, now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use farshore_gateway::GatewayConfig;
use farshore_gateway::config::Password;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::fail;

/// The gateway itself answers within a minute.
const PATIENCE: Duration = Duration::from_secs(75);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
enum SyncNowError {
    #[error("HTTP is off (GATEWAY_HTTP_LISTEN=off), so the gateway can't be asked")]
    Off,
    #[error("no gateway answers at {at}")]
    Connect {
        at: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the gateway at {at} did not answer within {} seconds", PATIENCE.as_secs())]
    Late { at: SocketAddr },
    #[error("the request can't be made")]
    Request(#[source] http::Error),
    #[error("the exchange with the gateway broke off")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "the gateway wants other credentials: set GATEWAY_TOKEN, or GATEWAY_USER and GATEWAY_PASSWORD, as it has them"
    )]
    Credentials,
}

pub(crate) fn run(config: &GatewayConfig, authorization: Option<&Password>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(ask(config.http, authorization)) {
        Ok((status, said)) => {
            println!("{said}");
            if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => fail(&error),
    }
}

async fn ask(
    listens: Option<SocketAddr>,
    authorization: Option<&Password>,
) -> Result<(StatusCode, String), SyncNowError> {
    let mut at = listens.ok_or(SyncNowError::Off)?;
    match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let exchange = async {
        let stream = TcpStream::connect(at).await.map_err(|source| SyncNowError::Connect { at, source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| SyncNowError::Exchange(error.into()))?;
        // Its error is the request's, too.
        tokio::spawn(async move { drop(connection.await) });
        let mut request =
            Request::builder().method(Method::POST).uri("/api/sync").header(HOST, at.to_string());
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization.expose())
                .map_err(|error| SyncNowError::Request(error.into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::<Bytes>::default()).map_err(SyncNowError::Request)?;
        let answer =
            sender.send_request(request).await.map_err(|error| SyncNowError::Exchange(error.into()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(SyncNowError::Exchange)?.to_bytes();
        if status == StatusCode::UNAUTHORIZED {
            return Err(SyncNowError::Credentials);
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| SyncNowError::Late { at })?
}
