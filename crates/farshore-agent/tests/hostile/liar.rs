//! A control plane and mirror that says exactly the bytes it is told to, over real TLS.
//!
//! HTTP is written by hand, so that every answer can be wrong in its own way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use farshore_agent::clock;
use farshore_domain::desired::DESIRED_SCHEMA;
use farshore_domain::digest::Digest;
use farshore_domain::id::DeviceId;
use farshore_protocol::{
    AgentFrame, Operation, SUBPROTOCOL, ServerFrame, SignedDesired, SignedManifest, Welcome, agent_frame,
    server_frame,
};
use farshore_trust::authority::{Authority, Issuer};
use farshore_trust::certificate::chain_to_pem;
use farshore_trust::clock::FlooredClock;
use farshore_trust::identity::TrustDomain;
use farshore_trust::online::{OnlineSigner, sign_desired};
use farshore_trust::tls::{ServerCertificate, device_port_server_config};
use farshore_trust::token::ClaimToken;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::release::{Release, Signer};

/// What comes after the bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum After {
    Close,
    /// The same body again and again, until the device hangs up.
    Repeat,
    /// Byte by byte, as slowly as this.
    Drip(Duration),
}

/// An answer, byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) after: After,
}

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::with(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()), body)
    }

    pub(crate) fn with(head: &str, body: &[u8]) -> Self {
        Self { head: head.to_owned(), body: body.to_vec(), after: After::Close }
    }
}

/// What is said on the channel.
#[derive(Debug)]
pub(crate) enum Say {
    Message(Message),
    /// Bytes below the WebSocket.
    Raw(Vec<u8>),
    HangUp,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By path.
    pub(crate) answers: BTreeMap<String, Answer>,
    /// How often each path was asked for.
    pub(crate) asked: BTreeMap<String, usize>,
    /// Answers to `hello` with this instead of welcome, once each.
    pub(crate) greetings: Vec<Vec<u8>>,
    pub(crate) frames: Vec<AgentFrame>,
    pub(crate) outbox: Option<mpsc::UnboundedSender<Say>>,
    pub(crate) channels: usize,
}

#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) signer: Signer,
    pub(crate) device: DeviceId,
    pub(crate) url: String,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) authority: Issuer,
    pub(crate) online: OnlineSigner,
    book: Mutex<Book>,
}

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A root, an intermediate and nobody who knows them.
pub(crate) fn authority(trust_domain: &TrustDomain) -> Issuer {
    let made = Authority::generate(trust_domain, clock::wall()).unwrap();
    Issuer::new(trust_domain.clone(), made.root_cert, made.intermediate_cert, made.intermediate_key).unwrap()
}

impl Liar {
    /// Listens on a port of its own until the runtime ends.
    pub(crate) async fn start() -> Arc<Self> {
        farshore_trust::provider::install();
        let now = clock::wall();
        let trust_domain = TrustDomain::new("test.farshore").unwrap();
        let authority = authority(&trust_domain);
        let server = authority.issue_server(&["127.0.0.1".to_owned()], now, DAY).unwrap();
        let certificate = ServerCertificate::new(server.certificate.chain, &server.key).unwrap();
        let root = authority.root_cert().clone();
        let tls =
            device_port_server_config(certificate, &[root], FlooredClock::new(clock::wall, now)).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let liar = Arc::new(Self {
            signer: Signer::new("acme"),
            device: DeviceId(uuid::Uuid::now_v7()),
            url: format!("https://{}", listener.local_addr().unwrap()),
            online: authority.issue_online(now, DAY).unwrap(),
            trust_domain,
            authority,
            book: Mutex::default(),
        });
        let serving = Arc::clone(&liar);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (liar, acceptor) = (Arc::clone(&serving), acceptor.clone());
                tokio::spawn(async move {
                    // Whoever hangs up, the device or a lie, ends only this connection.
                    drop(liar.connection(acceptor, stream).await);
                });
            }
        });
        liar
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn token(&self) -> ClaimToken {
        ClaimToken::new(&self.url, self.authority.root_fingerprint()).unwrap().0
    }

    async fn connection(&self, acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = acceptor.accept(stream).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .find(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_owned())
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let length: usize = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        *self.book().asked.entry(path.clone()).or_default() += 1;
        let answer = self.book().answers.get(&path).cloned();
        let answer = match (answer, path.as_str()) {
            (Some(answer), _) => answer,
            (None, "/api/devices/claim") => self.claimed(&body, true),
            (None, "/api/devices/renew") => self.claimed(&body, false),
            (None, "/api/channel") => {
                let key = field("sec-websocket-key").unwrap_or_default();
                return self.channel(stream, &key).await;
            }
            (None, _) => Answer::with("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b""),
        };
        stream.write_all(answer.head.as_bytes()).await?;
        match answer.after {
            After::Close => stream.write_all(&answer.body).await?,
            After::Repeat => loop {
                stream.write_all(&answer.body).await?;
            },
            After::Drip(pause) => {
                for byte in answer.body {
                    stream.write_u8(byte).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
        stream.shutdown().await
    }

    fn claimed(&self, body: &[u8], first: bool) -> Answer {
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        let (csr, now) = (body["csr"].as_str().unwrap(), clock::wall());
        let issued = self.authority.issue_device(csr.as_bytes(), self.signer.tenant, self.device, now, DAY);
        let set = self.signer.set(self.signer.tenant, 1, &self.signer.key);
        let mut answer = serde_json::json!({
            "certificate": issued.unwrap().chain_pem(), "roots": [chain_to_pem([self.authority.root_cert()])],
            "trustDomain": self.trust_domain, "serverTime": now,
        });
        if first {
            answer["tenant"] = serde_json::json!(self.signer.tenant);
            answer["tenantName"] = serde_json::json!(self.signer.tenant_name);
            answer["device"] = serde_json::json!(self.device);
            answer["name"] = "till-1".into();
            answer["trustedKeys"] =
                serde_json::json!([{"document": base64(&set.document), "signature": base64(&set.signature)}]);
        }
        Answer::ok(answer.to_string().as_bytes())
    }

    async fn channel(&self, mut stream: TlsStream<TcpStream>, key: &str) -> std::io::Result<()> {
        let accept = derive_accept_key(key.as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: {SUBPROTOCOL}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let (outbox, mut inbox) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                message = socket.next() => {
                    let Some(Ok(message)) = message else { break };
                    let Message::Binary(bytes) = message else { continue };
                    self.hear(AgentFrame::from_bytes(&bytes).unwrap(), &outbox);
                }
                Some(say) = inbox.recv() => match say {
                    Say::Message(message) => if socket.send(message).await.is_err() { break },
                    Say::Raw(bytes) => {
                        socket.get_mut().write_all(&bytes).await?;
                        socket.get_mut().flush().await?;
                    }
                    Say::HangUp => break,
                }
            }
        }
        let mut book = self.book();
        if book.outbox.as_ref().is_some_and(|open| open.same_channel(&outbox)) {
            book.outbox = None;
        }
        Ok(())
    }

    fn hear(&self, frame: AgentFrame, outbox: &mpsc::UnboundedSender<Say>) {
        let mut book = self.book();
        let body = match frame.body.as_ref() {
            Some(agent_frame::Body::Hello(_)) => {
                book.channels += 1;
                if let Some(greeting) = book.greetings.pop() {
                    outbox.send(Say::Message(Message::Binary(greeting.into()))).unwrap();
                }
                book.outbox = Some(outbox.clone());
                Some(server_frame::Body::Welcome(Welcome {
                    protocol_version: 1,
                    server_version: "liar".into(),
                    heartbeat_seconds: 60,
                    server_time_ms: clock::wall().0,
                    sample_seconds: 60,
                    batch_seconds: 60,
                    ..Welcome::default()
                }))
            }
            Some(agent_frame::Body::Events(batch)) => {
                let (stream, sequence) = ("events".to_owned(), batch.sequence);
                Some(server_frame::Body::Acknowledged(farshore_protocol::Acknowledged { stream, sequence }))
            }
            _ => None,
        };
        book.frames.push(frame);
        if let Some(body) = body {
            // It may have been closed while a lie was told.
            drop(outbox.send(Say::Message(message(body))));
        }
    }

    /// Says something on the channel that is open; false when none is.
    pub(crate) fn say(&self, say: Say) -> bool {
        self.book().outbox.as_ref().is_some_and(|outbox| outbox.send(say).is_ok())
    }

    pub(crate) fn tell(&self, body: server_frame::Body) {
        assert!(self.say(Say::Message(message(body))), "no channel");
    }

    pub(crate) fn diagnose(&self, uid: &str) -> bool {
        let (uid, kind) = (uid.to_owned(), "diagnostics".to_owned());
        let operation = Operation { uid, kind, arguments_json: "{}".into(), ..Operation::default() };
        self.say(Say::Message(message(server_frame::Body::Operation(operation))))
    }

    pub(crate) fn publish(&self, release: &Release, answer: Answer) {
        self.book().answers.insert(path(release), answer);
    }

    /// One app with a permit of a minute.
    pub(crate) fn state(&self, generation: u64, release: &Release) -> serde_json::Value {
        let now = clock::wall();
        serde_json::json!({
            "schema": DESIRED_SCHEMA, "tenant": self.signer.tenant, "tenantName": self.signer.tenant_name,
            "device": self.device, "epoch": 1, "generation": generation, "issuedAt": now,
            "apps": [{
                "app": "web",
                "release": {"uid": release.uid(), "version": release.version, "manifest": release.manifest},
                "because": {"source": "channel", "channel": "prod"}, "config": {},
                "permit": {"uid": uuid::Uuid::now_v7(), "expiresAt": now.plus_ms(60_000)}, "resumed": 0,
            }],
        })
    }

    pub(crate) fn sign(&self, state: &serde_json::Value, releases: &[&Release]) -> SignedDesired {
        self.sign_bytes(serde_json::to_vec(state).unwrap(), releases)
    }

    /// Signs whatever it is, as the online key does.
    pub(crate) fn sign_bytes(&self, body: Vec<u8>, releases: &[&Release]) -> SignedDesired {
        let signed = sign_desired(&self.online, body).unwrap();
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

    /// The last status that was reported.
    pub(crate) fn status(&self) -> Option<farshore_protocol::StatusReport> {
        self.book().frames.iter().rev().find_map(|frame| match &frame.body {
            Some(agent_frame::Body::Status(status)) => Some(status.clone()),
            _ => None,
        })
    }

    pub(crate) fn app_status(&self) -> Option<farshore_protocol::AppStatus> {
        self.status()?.apps.first().cloned()
    }

    /// Why desired states were refused, in order.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let book = self.book();
        let refused = book.frames.iter().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::Refused(refused)) => Some(refused.reason.clone()),
            _ => None,
        });
        refused.collect()
    }

    pub(crate) fn events(&self, kind: &str) -> usize {
        let book = self.book();
        let batches = book.frames.iter().filter_map(|frame| match &frame.body {
            Some(agent_frame::Body::Events(batch)) => Some(&batch.events),
            _ => None,
        });
        // The same batch may come again on the next channel.
        let uids = batches.flatten().filter(|event| event.kind == kind).map(|event| event.uid.as_str());
        uids.collect::<std::collections::BTreeSet<_>>().len()
    }

    pub(crate) fn answered(&self, uid: &str) -> bool {
        self.book().frames.iter().any(|frame| {
            matches!(&frame.body, Some(agent_frame::Body::OperationUpdate(update)) if update.uid == uid)
        })
    }

    pub(crate) fn asked(&self, path: &str) -> usize {
        self.book().asked.get(path).copied().unwrap_or(0)
    }
}

pub(crate) fn path(release: &Release) -> String {
    path_of(release.artifact_digest)
}

pub(crate) fn path_of(digest: Digest) -> String {
    format!("/api/artifacts/{digest}")
}

pub(crate) fn message(body: server_frame::Body) -> Message {
    let frame = ServerFrame { request_id: "t".into(), traceparent: String::new(), body: Some(body) };
    Message::Binary(frame.to_bytes().into())
}
