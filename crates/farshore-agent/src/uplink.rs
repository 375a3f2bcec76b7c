//! The gateway's way to the control plane: the device port, with this device's certificate, or with a key where it has none.
//!
//! The identity is the one that `farshore-agent claim` or `run` made; it is read again when its files change. Where `run` works too, it renews the
//! certificate; where it does not, this does, a while later.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use farshore_domain::document::exchange as document;
use farshore_domain::time::UnixMs;
use farshore_gateway::sync::{Exchange, SyncAnswer, SyncRequest, Uplink, UplinkError};
use farshore_journal::Outgoing;
use farshore_trust::clock::FlooredClock;
use farshore_trust::tls::pinned_by_fingerprint_config;
use farshore_trust::token::GatewayKey;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::claim;
use crate::clock;
use crate::http::{Answer, Endpoint, HttpError, MAX_ANSWER_BYTES, retry_after_ms};
use crate::identity::Identity;

/// Connections that are kept for the next exchange.
const MAX_IDLE: usize = 4;
/// For a connection, and for an answer beyond what the bytes take on a slow link, unless it is told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// The slowest link that is waited for.
const SLOWEST_BYTES_PER_SECOND: u64 = 2_000;

/// An identity, and the state of its files when it was read.
#[derive(Debug)]
struct Known {
    identity: Arc<Identity>,
    files: [Option<SystemTime>; 2],
}

/// What a gateway key opens.
#[derive(Debug)]
struct Keyed {
    endpoint: Endpoint,
    tls: Arc<ClientConfig>,
    authorization: HeaderValue,
}

/// Who asks: a claimed device, or whoever has the key.
#[derive(Clone, Debug)]
enum Asks {
    Device(Arc<Identity>),
    Key(Arc<Keyed>),
}

impl Asks {
    fn endpoint(&self) -> &Endpoint {
        match self {
            Self::Device(identity) => &identity.endpoint,
            Self::Key(keyed) => &keyed.endpoint,
        }
    }

    fn tls(&self) -> Arc<ClientConfig> {
        match self {
            Self::Device(identity) => identity.credentials().tls(),
            Self::Key(keyed) => Arc::clone(&keyed.tls),
        }
    }

    fn authorization(&self) -> Option<&HeaderValue> {
        match self {
            Self::Device(_) => None,
            Self::Key(keyed) => Some(&keyed.authorization),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct DeviceUplink {
    folder: PathBuf,
    patience: Duration,
    /// The key, or why it is none.
    keyed: Option<Result<Arc<Keyed>, String>>,
    known: Mutex<Option<Known>>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl DeviceUplink {
    /// With the identity that is, or will be, in this state folder.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            folder: state.join("identity"),
            patience: PATIENCE,
            keyed: None,
            known: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// The same, with this patience for a connection, and for an answer beyond what the bytes take on a slow link.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, with a gateway's key for when there is no identity; `url` in place of the address in the key. A key that is none does not stop
    /// the gateway: it says so, and keeps the readings.
    #[must_use]
    pub fn key(self, key: &str, url: Option<&str>) -> Self {
        let keyed =
            keyed(key, url).map(Arc::new).map_err(|why| format!("CLOUD_API_KEY can't be used: {why}"));
        Self { keyed: Some(keyed), ..self }
    }

    fn asks(&self) -> Result<Asks, UplinkError> {
        let why = match self.identity() {
            Ok(identity) => return Ok(Asks::Device(identity)),
            Err(why) => why,
        };
        match &self.keyed {
            // An identity that is there and damaged is told, not passed over.
            _ if self.folder.join("identity.json").exists() => Err(why),
            Some(Ok(keyed)) => Ok(Asks::Key(Arc::clone(keyed))),
            Some(Err(why)) => Err(UplinkError::Unclaimed(why.clone())),
            None => Err(why),
        }
    }

    fn unclaimed(&self, why: &str) -> UplinkError {
        UplinkError::Unclaimed(format!(
            "{why} in {}: readings are kept here; `farshore-agent claim` registers this device, or CLOUD_API_KEY holds a gateway key",
            self.folder.display()
        ))
    }

    fn identity(&self) -> Result<Arc<Identity>, UplinkError> {
        let changed = |name: &str| {
            let metadata = std::fs::metadata(self.folder.join(name));
            metadata.and_then(|metadata| metadata.modified()).ok()
        };
        let files = [changed("identity.json"), changed("certificate.pem")];
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.files == files) {
            return Ok(Arc::clone(&known.identity));
        }
        let loaded = Identity::load(&self.folder, FlooredClock::new(clock::wall, UnixMs(0)));
        let identity = match loaded {
            Ok(Some(identity)) => Arc::new(identity),
            Ok(None) => return Err(self.unclaimed("there is no identity")),
            Err(error) => return Err(self.unclaimed(&crate::chain(&error))),
        };
        // A clock that stands before the certificate was made is wrong.
        identity.clock.raise_floor(identity.credentials().not_before);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *known = Some(Known { identity: Arc::clone(&identity), files });
        Ok(identity)
    }

    /// Renews where nobody else does: `run` would have at two thirds of the certificate's life.
    async fn renew_if_late(&self, identity: &Identity) {
        let credentials = identity.credentials();
        let left = credentials.not_after.since_ms(identity.clock.now());
        let life = credentials.not_after.since_ms(credentials.not_before);
        if left < life / 4 {
            match claim::renew(identity).await {
                Ok(()) => tracing::info!("the certificate was renewed"),
                Err(error) => {
                    tracing::warn!(error = %crate::chain(&error), "the certificate is not renewed yet");
                }
            }
        }
    }

    async fn connect(&self, asks: &Asks) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let stream = asks.endpoint().connect_within(self.patience, asks.tls()).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %crate::chain(&error), "the connection ended");
            }
        });
        Ok(sender)
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    /// Sends over a connection that is open, or a new one. `held` is how long the other side may keep the answer back.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
        held: Duration,
    ) -> Result<Answer, UplinkError> {
        let unreachable = |error: HttpError| UplinkError::Unreachable(crate::chain(&error));
        let asks = self.asks()?;
        let host = HeaderValue::from_str(&asks.endpoint().authority())
            .map_err(|error| UplinkError::Unreachable(error.to_string()))?;
        let request = || {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(path)
                .header(HOST, host.clone())
                .header(CONTENT_TYPE, content_type);
            if let Some(authorization) = asks.authorization() {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            request.body(Full::new(body.clone())).map_err(|error| unreachable(HttpError::Request(error)))
        };
        // A connection that has to be made first has as much time again.
        let slow = Duration::from_secs(body.len() as u64 / SLOWEST_BYTES_PER_SECOND);
        let patience = self.patience * 2 + slow + held;
        let late = || unreachable(HttpError::Late { address: asks.endpoint().authority() });
        let whole = async {
            // An idle connection may have been closed on the other side, which shows when it is used: then a new one is made. All exchanges may come twice.
            let mut answered = None;
            if let Some(mut sender) = self.take_idle()
                && sender.ready().await.is_ok()
                && let Ok(response) = sender.send_request(request()?).await
            {
                answered = Some((sender, response));
            }
            let (sender, response) = match answered {
                Some(answered) => answered,
                None => {
                    if let Asks::Device(identity) = &asks {
                        self.renew_if_late(identity).await;
                    }
                    let mut sender = self.connect(&asks).await.map_err(unreachable)?;
                    let response = sender.send_request(request()?).await;
                    (sender, response.map_err(|error| unreachable(HttpError::Http(error)))?)
                }
            };
            let status = response.status();
            let retry_after_ms = retry_after_ms(response.headers());
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| unreachable(HttpError::Body(error)))?.to_bytes();
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE && !sender.is_closed() {
                idle.push(sender);
            }
            Ok(Answer { status, retry_after_ms, body })
        };
        timeout(patience, whole).await.map_err(|_| late())?
    }
}

/// Reads a key: whom it trusts, and what it shows.
fn keyed(key: &str, url: Option<&str>) -> Result<Keyed, String> {
    let key: GatewayKey = key.parse().map_err(|error| crate::chain(&error))?;
    let endpoint = Endpoint::parse(url.unwrap_or(key.url())).map_err(|error| crate::chain(&error))?;
    let clock = FlooredClock::new(clock::wall, UnixMs(0));
    let (mut tls, _root) =
        pinned_by_fingerprint_config(key.ca(), clock).map_err(|error| crate::chain(&error))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let text = zeroize::Zeroizing::new(format!("Bearer {}", key.secret().expose()));
    let mut authorization = HeaderValue::from_str(&text).map_err(|error| error.to_string())?;
    authorization.set_sensitive(true);
    Ok(Keyed { endpoint, tls: Arc::new(tls), authorization })
}

/// What an answer that is not 200 means for the sender.
fn refusal(answer: &Answer) -> UplinkError {
    #[derive(serde::Deserialize)]
    struct Code {
        code: String,
    }
    let code = serde_json::from_slice::<Code>(&answer.body).map(|problem| problem.code).unwrap_or_default();
    match (answer.status, code.as_str()) {
        (StatusCode::UNPROCESSABLE_ENTITY, "bad-batch") => UplinkError::BadBatch(answer.problem()),
        (StatusCode::CONFLICT, "other-key") => UplinkError::OtherKey,
        (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, _) => UplinkError::NoSync,
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => UplinkError::Refused(answer.problem()),
        _ => UplinkError::Later {
            why: answer.problem(),
            after: answer.retry_after_ms.map(Duration::from_millis),
        },
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, UplinkError> {
    if answer.status != StatusCode::OK {
        return Err(refusal(answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| UplinkError::Answer(error.to_string()))
}

impl Uplink for DeviceUplink {
    fn ask<'a>(&'a self, request: &'a SyncRequest) -> Exchange<'a, SyncAnswer> {
        Box::pin(async move {
            let body = serde_json::to_vec(request).map_err(|error| UplinkError::Answer(error.to_string()))?;
            let path = "/api/device/sync";
            let sent = self.exchange(Method::POST, path, "application/json", body.into(), Duration::ZERO);
            read(&sent.await?)
        })
    }

    fn documents<'a>(&'a self, request: &'a document::Request) -> Exchange<'a, document::Answer> {
        Box::pin(async move {
            let body = serde_json::to_vec(request).map_err(|error| UplinkError::Answer(error.to_string()))?;
            let path = "/api/device/documents";
            let held = Duration::from_secs(request.wait_seconds.into());
            read(&self.exchange(Method::POST, path, "application/json", body.into(), held).await?)
        })
    }

    fn put<'a>(&'a self, batch: &'a Outgoing) -> Exchange<'a, bool> {
        #[derive(serde::Deserialize)]
        struct Taken {
            stored: bool,
        }
        Box::pin(async move {
            let path = format!(
                "/api/device/batches/{}/{:016x}/{}?floor={}",
                batch.stream.as_str().replace('/', "+"),
                batch.epoch,
                batch.sequence,
                batch.floor
            );
            let body = Bytes::from(batch.bytes.clone());
            let answer =
                self.exchange(Method::PUT, &path, "application/octet-stream", body, Duration::ZERO).await?;
            Ok(read::<Taken>(&answer)?.stored)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str, retry_after_ms: Option<u64>) -> UplinkError {
        let status = StatusCode::from_u16(status).unwrap();
        refusal(&Answer { status, retry_after_ms, body: Bytes::copy_from_slice(body.as_bytes()) })
    }

    #[test]
    fn each_answer_means_one_thing() {
        assert!(matches!(
            refused(422, r#"{"code":"bad-batch","detail":"x"}"#, None),
            UplinkError::BadBatch(_)
        ));
        assert_eq!(refused(409, r#"{"code":"other-key"}"#, None), UplinkError::OtherKey);
        assert_eq!(refused(404, "", None), UplinkError::NoSync);
        assert!(matches!(refused(403, "{}", None), UplinkError::Refused(_)));
        // Whatever is not known to be for good is not.
        for status in [400, 409, 413, 422, 429, 500, 502, 503] {
            let after = Some(Duration::from_secs(7));
            let refused = refused(status, "<html>", Some(7_000));
            assert!(matches!(refused, UplinkError::Later { after: told, .. } if told == after), "{status}");
        }
    }

    #[tokio::test]
    async fn a_key_that_is_none_is_told_and_stops_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let uplink = DeviceUplink::new(folder.path()).key("your-api-key-here", None);
        let request = SyncRequest {
            epoch: "0".repeat(16),
            report: Default::default(),
            forced: Vec::new(),
            config: None,
        };
        let told = uplink.ask(&request).await;
        assert!(
            matches!(&told, Err(UplinkError::Unclaimed(why)) if why.contains("CLOUD_API_KEY") && why.contains("fsgk_")),
            "{told:?}"
        );
        assert!(keyed("fsgk_x", Some("https://h")).is_err());
    }

    #[tokio::test]
    async fn without_a_claim_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let uplink = DeviceUplink::new(folder.path());
        let request = SyncRequest {
            epoch: "0".repeat(16),
            report: Default::default(),
            forced: Vec::new(),
            config: None,
        };
        assert!(
            matches!(uplink.ask(&request).await, Err(UplinkError::Unclaimed(why)) if why.contains("claim"))
        );
    }
}
