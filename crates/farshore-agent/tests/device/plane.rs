//! A control plane that the test plays: the device port with real TLS, real certificates and signatures, and as many lies as asked for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use farshore_agent::{Identity, clock};
use farshore_domain::desired::{DESIRED_SCHEMA, DesiredState};
use farshore_domain::digest::Digest;
use farshore_domain::id::DeviceId;
use farshore_protocol::{
    AgentFrame, SUBPROTOCOL, ServerFrame, SignedDesired, SignedManifest, Welcome, agent_frame, server_frame,
};
use farshore_trust::authority::{Authority, Issuer};
use farshore_trust::certificate::chain_to_pem;
use farshore_trust::clock::FlooredClock;
use farshore_trust::identity::{DeviceIdentity, TrustDomain};
use farshore_trust::online::{OnlineSigner, sign_desired};
use farshore_trust::tls::{ServerCertificate, device_port_server_config};
use farshore_trust::token::ClaimToken;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::release::{Release, Signer};

/// How an artifact is served.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Honest,
    /// Other bytes of the same length.
    Swapped,
    /// Never stops.
    Endless,
    /// All of it, whatever range is asked for.
    RangeIgnored,
    /// Breaks off after this many bytes of what was asked for.
    CutAfter(usize),
}

/// The root of another installation, in PEM.
fn strange_root() -> String {
    let domain = farshore_trust::identity::TrustDomain::new("stranger.test").unwrap();
    let stranger = farshore_trust::authority::Authority::generate(&domain, clock::wall()).unwrap();
    farshore_trust::certificate::chain_to_pem([&stranger.root_cert])
}

#[derive(Default)]
pub(crate) struct Book {
    pub(crate) artifacts: BTreeMap<String, (Vec<u8>, Option<Mood>)>,
    pub(crate) frames: Vec<AgentFrame>,
    pub(crate) outbox: Option<mpsc::UnboundedSender<Message>>,
    pub(crate) channels: usize,
    pub(crate) claims: usize,
    pub(crate) renewals: usize,
    /// Bytes of artifacts that were sent.
    pub(crate) sent: usize,
    pub(crate) ranges: Vec<String>,
    pub(crate) held: usize,
    pub(crate) shed: usize,
    pub(crate) acknowledge: bool,
    pub(crate) lifetime: Duration,
    /// Answers hello with this instead of welcome.
    pub(crate) garbage: Option<Vec<u8>>,
    pub(crate) acknowledged: BTreeMap<String, u64>,
    /// Whether this control plane keeps the stream of operations.
    pub(crate) operations: bool,
}

pub(crate) struct Plane {
    pub(crate) signer: Signer,
    pub(crate) device: DeviceId,
    pub(crate) url: String,
    pub(crate) fingerprint: Digest,
    pub(crate) trust_domain: TrustDomain,
    authority: Issuer,
    pub(crate) online: OnlineSigner,
    pub(crate) book: Mutex<Book>,
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn answer(status: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).body(full(bytes)).unwrap()
}

impl Plane {
    /// Listens on a port of its own until the runtime ends.
    pub(crate) async fn start() -> Arc<Self> {
        farshore_trust::provider::install();
        let now = clock::wall();
        let trust_domain = TrustDomain::new("test.farshore").unwrap();
        let made = Authority::generate(&trust_domain, now).unwrap();
        let root = made.root_cert.clone();
        let authority =
            Issuer::new(trust_domain.clone(), made.root_cert, made.intermediate_cert, made.intermediate_key)
                .unwrap();
        let day = Duration::from_secs(24 * 3600);
        let server = authority.issue_server(&["127.0.0.1".to_owned()], now, day).unwrap();
        let certificate = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
        let floor = FlooredClock::new(clock::wall, now);
        let tls = device_port_server_config(certificate, &[root], floor).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plane = Arc::new(Self {
            signer: Signer::new("acme"),
            device: DeviceId(uuid::Uuid::now_v7()),
            url: format!("https://{}", listener.local_addr().unwrap()),
            fingerprint: authority.root_fingerprint(),
            online: authority.issue_online(now, day).unwrap(),
            trust_domain,
            authority,
            book: Mutex::new(Book { acknowledge: true, operations: true, lifetime: day, ..Book::default() }),
        });
        let serving = Arc::clone(&plane);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).connection(acceptor.clone(), stream));
            }
        });
        plane
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn token(&self) -> ClaimToken {
        ClaimToken::new(&self.url, self.fingerprint).unwrap().0
    }

    /// An identity without a claim, for what needs only that.
    pub(crate) fn identity(&self) -> Identity {
        let key = farshore_trust::device::DeviceKey::generate().unwrap();
        let claimed = self.claimed(key.csr_pem().unwrap().as_bytes());
        let claimed: farshore_agent::claim::Claimed = serde_json::from_value(claimed).unwrap();
        let clock = FlooredClock::new(clock::wall, clock::wall());
        claimed.into_identity(&self.url, key, clock, None).unwrap()
    }

    fn issue(&self, csr: &[u8]) -> String {
        let lifetime = self.book().lifetime;
        let now = clock::wall();
        self.authority.issue_device(csr, self.signer.tenant, self.device, now, lifetime).unwrap().chain_pem()
    }

    /// A certificate for a key that was claimed before.
    pub(crate) fn reissue(&self, key: &farshore_trust::device::DeviceKey) -> String {
        self.issue(key.csr_pem().unwrap().as_bytes())
    }

    pub(crate) fn roots(&self) -> Vec<String> {
        vec![chain_to_pem([self.authority.root_cert()])]
    }

    fn claimed(&self, csr: &[u8]) -> serde_json::Value {
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let set = self.signer.first_set();
        serde_json::json!({
            "tenant": self.signer.tenant, "tenantName": self.signer.tenant_name, "device": self.device,
            "name": "till-1", "certificate": self.issue(csr), "roots": self.roots(), "trustDomain": self.trust_domain,
            "trustedKeys": [{"document": base64(&set.document), "signature": base64(&set.signature)}],
            "serverTime": clock::wall(),
        })
    }

    pub(crate) fn publish(&self, release: &Release, mood: Mood) {
        let artifact = (release.artifact.clone(), Some(mood));
        self.book().artifacts.insert(release.artifact_digest.to_string(), artifact);
    }

    /// Signs a desired state as the online key does.
    pub(crate) fn sign(&self, state: &serde_json::Value, releases: &[&Release]) -> SignedDesired {
        let signed = sign_desired(&self.online, serde_json::to_vec(state).unwrap()).unwrap();
        let manifest = |release: &&Release| SignedManifest {
            manifest: release.signed.document.clone(),
            signature: release.signed.signature.clone(),
        };
        SignedDesired {
            body: signed.body,
            signature: signed.signature,
            chain: signed.chain,
            manifests: releases.iter().map(manifest).collect(),
        }
    }

    /// One app with a permit of a minute.
    pub(crate) fn state(
        &self,
        generation: u64,
        release: &Release,
        config: &[(&str, &str)],
    ) -> serde_json::Value {
        let value = |(key, value): &(&str, &str)| {
            ((*key).to_owned(), serde_json::json!({"value": value, "layer": "app", "from": "test"}))
        };
        let config: serde_json::Map<_, _> = config.iter().map(value).collect();
        let now = clock::wall();
        let state = serde_json::json!({
            "schema": DESIRED_SCHEMA, "tenant": self.signer.tenant, "tenantName": self.signer.tenant_name,
            "device": self.device, "epoch": 1, "generation": generation, "issuedAt": now,
            "apps": [{
                "app": "web",
                "release": {"uid": release_uid(release), "version": release.version, "manifest": release.manifest},
                "because": {"source": "channel", "channel": "prod"}, "config": config,
                "permit": {"uid": uuid::Uuid::now_v7(), "expiresAt": now.plus_ms(60_000)}, "resumed": 0,
            }],
        });
        DesiredState::parse(&serde_json::to_vec(&state).unwrap()).unwrap();
        state
    }

    pub(crate) fn tell(&self, body: server_frame::Body) {
        let frame = ServerFrame { request_id: "t".into(), traceparent: String::new(), body: Some(body) };
        self.book().outbox.as_ref().unwrap().send(Message::Binary(frame.to_bytes().into())).unwrap();
    }

    pub(crate) fn desire(&self, generation: u64, release: &Release, config: &[(&str, &str)]) {
        let state = self.state(generation, release, config);
        self.tell(server_frame::Body::Desired(self.sign(&state, &[release])));
    }

    /// The last status of the app that was reported on any channel.
    pub(crate) fn app_status(&self) -> Option<farshore_protocol::AppStatus> {
        let book = self.book();
        let statuses = book.frames.iter().rev().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::Status(status)) => Some(status),
            _ => None,
        });
        statuses.into_iter().next()?.apps.first().cloned()
    }

    pub(crate) fn events(&self) -> Vec<farshore_protocol::DeviceEvent> {
        let book = self.book();
        let batches = book.frames.iter().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::Events(batch)) => Some(batch.events.clone()),
            _ => None,
        });
        batches.flatten().collect()
    }

    async fn connection(self: Arc<Self>, acceptor: TlsAcceptor, stream: TcpStream) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let peer = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|leaf| DeviceIdentity::from_certificate(leaf, &self.trust_domain).unwrap());
        let service = service_fn(move |request| {
            let (plane, peer) = (Arc::clone(&self), peer.clone());
            async move { Ok::<_, Infallible>(plane.serve(request, peer).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // The device hangs up as it likes.
        drop(connection.with_upgrades().await);
    }

    async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Option<DeviceIdentity>,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/api/devices/claim" {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            {
                let mut book = self.book();
                book.claims += 1;
                if book.held > 0 {
                    book.held -= 1;
                    return answer(StatusCode::ACCEPTED, r#"{"state":"pending","retryAfterMs":200}"#);
                }
            }
            if body["token"] == "bad" {
                return answer(StatusCode::UNAUTHORIZED, r#"{"title":"bad token"}"#);
            }
            let claimed = self.claimed(body["csr"].as_str().unwrap().as_bytes());
            return answer(StatusCode::OK, claimed.to_string());
        }
        let Some(peer) = peer else { return answer(StatusCode::UNAUTHORIZED, "") };
        if path == "/api/devices/renew" {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            self.book().renewals += 1;
            let certificate = self.issue(body["csr"].as_str().unwrap().as_bytes());
            // A root of somebody else's, which a device must not take.
            let renewed = serde_json::json!({
                "certificate": certificate, "roots": [strange_root()], "trustDomain": self.trust_domain, "serverTime": clock::wall(),
            });
            return answer(StatusCode::OK, renewed.to_string());
        }
        if peer.expired(clock::wall()) {
            return answer(StatusCode::UNAUTHORIZED, "");
        }
        if path == "/api/channel" {
            return self.channel(request);
        }
        match path.strip_prefix("/api/artifacts/") {
            Some(digest) => self.artifact(digest, request.headers()),
            None => answer(StatusCode::NOT_FOUND, ""),
        }
    }

    fn artifact(&self, digest: &str, headers: &http::HeaderMap) -> Response<Body> {
        let mut book = self.book();
        let Some((bytes, mood)) = book.artifacts.get(digest).cloned() else {
            return answer(StatusCode::NOT_FOUND, "");
        };
        let mood = mood.unwrap_or(Mood::Honest);
        let range = headers.get("range").and_then(|range| range.to_str().ok()).map(str::to_owned);
        let from =
            range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        book.ranges.extend(range);
        let from: usize = from.filter(|_| mood != Mood::RangeIgnored).unwrap_or(0);
        let mut part = bytes[from.min(bytes.len())..].to_vec();
        if mood == Mood::Swapped {
            part[0] ^= 1;
        }
        book.sent += part.len();
        drop(book);
        let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let response = Response::builder()
            .status(status)
            .header("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()));
        let body = match mood {
            Mood::Endless => {
                let chunk = |_| async { Ok(Frame::data(Bytes::from(vec![7; 64 * 1024]))) };
                BodyExt::boxed(StreamBody::new(futures_util::stream::iter(0_u64..).then(chunk)))
            }
            Mood::CutAfter(count) => {
                let whole = Bytes::from(part);
                let first = Ok(Frame::data(whole.slice(..count.min(whole.len()))));
                let cut = Err(std::io::Error::other("cut"));
                // Late enough for what came before to be on its way.
                let pause = |frame: Result<_, _>| async move {
                    if frame.is_err() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    frame
                };
                BodyExt::boxed(StreamBody::new(futures_util::stream::iter([first, cut]).then(pause)))
            }
            _ => full(part),
        };
        response.body(body).unwrap()
    }

    fn channel(self: Arc<Self>, mut request: Request<Incoming>) -> Response<Body> {
        {
            let mut book = self.book();
            if book.shed > 0 {
                book.shed -= 1;
                return Response::builder()
                    .status(StatusCode::SERVICE_UNAVAILABLE)
                    .header("retry-after", "1")
                    .body(full(""))
                    .unwrap();
            }
        }
        assert_eq!(request.headers()["sec-websocket-protocol"], SUBPROTOCOL);
        let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
        tokio::spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            self.talk(socket).await;
        });
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", accept)
            .header("sec-websocket-protocol", SUBPROTOCOL)
            .body(full(""))
            .unwrap()
    }

    async fn talk(self: Arc<Self>, mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>) {
        let (outbox, mut inbox) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                message = socket.next() => {
                    let Some(Ok(message)) = message else { break };
                    let Message::Binary(bytes) = message else { continue };
                    let frame = AgentFrame::from_bytes(&bytes).unwrap();
                    self.hear(&frame, &outbox);
                    self.book().frames.push(frame);
                }
                Some(message) = inbox.recv() => {
                    let close = matches!(message, Message::Close(_));
                    if socket.send(message).await.is_err() || close {
                        break;
                    }
                }
            }
        }
        self.book().outbox = None;
    }

    fn hear(&self, frame: &AgentFrame, outbox: &mpsc::UnboundedSender<Message>) {
        let mut book = self.book();
        let (stream, sequence) = match frame.body.as_ref().unwrap() {
            agent_frame::Body::Hello(_) => {
                book.channels += 1;
                if let Some(garbage) = book.garbage.take() {
                    outbox.send(Message::Binary(garbage.into())).unwrap();
                    return;
                }
                let acknowledged = book.acknowledged.iter();
                let acknowledged = acknowledged
                    .map(|(stream, sequence)| farshore_protocol::Acknowledged {
                        stream: stream.clone(),
                        sequence: *sequence,
                    })
                    .collect();
                let welcome = Welcome {
                    protocol_version: 1,
                    server_version: "test".into(),
                    capabilities: std::iter::once("incidents/v1")
                        .chain(book.operations.then_some("operations/v2"))
                        .map(str::to_owned)
                        .collect(),
                    heartbeat_seconds: 1,
                    server_time_ms: clock::wall().0,
                    acknowledged,
                    sample_seconds: 1,
                    batch_seconds: 2,
                };
                let welcome = Some(server_frame::Body::Welcome(welcome));
                let frame =
                    ServerFrame { request_id: String::new(), traceparent: String::new(), body: welcome };
                outbox.send(Message::Binary(frame.to_bytes().into())).unwrap();
                book.outbox = Some(outbox.clone());
                return;
            }
            agent_frame::Body::Events(batch) => ("events".to_owned(), batch.sequence),
            agent_frame::Body::Incidents(batch) => ("incidents".to_owned(), batch.sequence),
            agent_frame::Body::Operations(batch) => ("operations".to_owned(), batch.sequence),
            agent_frame::Body::Metrics(batch) if batch.sequence > 0 => (batch.stream.clone(), batch.sequence),
            _ => return,
        };
        if book.acknowledge {
            book.acknowledged.insert(stream.clone(), sequence);
            let acknowledged = farshore_protocol::Acknowledged { stream, sequence };
            let body = Some(server_frame::Body::Acknowledged(acknowledged));
            let frame = ServerFrame { request_id: String::new(), traceparent: String::new(), body };
            outbox.send(Message::Binary(frame.to_bytes().into())).unwrap();
        }
    }
}

/// Made from the version, so that a test can name it.
pub(crate) fn release_uid(release: &Release) -> uuid::Uuid {
    let digest = release.manifest;
    let bytes: [u8; 16] = digest.as_bytes()[..16].try_into().unwrap();
    uuid::Uuid::from_bytes(bytes)
}
