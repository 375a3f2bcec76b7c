//! A device's end of the channel, and a reader of SSE streams: both as plain as can be, so that they can also misbehave.

use std::time::Duration;

use axum::http::HeaderMap;
use farshore_domain::time::UnixMs;
use farshore_protocol::{
    AgentFrame, Goodbye, Hello, MetricBatch, SUBPROTOCOL, ServerFrame, Welcome, agent_frame, server_frame,
};
use farshore_series::{BlockBuilder, encode};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::harness::{Fleet, PATIENCE, TestDevice};

/// The socket of a device.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    requests: u64,
}

/// The server said no before the channel stood.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// What the server said last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Closed {
    /// 0 when it closed without a close frame.
    pub(crate) code: u16,
    pub(crate) goodbye: Option<Goodbye>,
}

impl Channel {
    /// Opens the channel, without a word yet.
    pub(crate) async fn connect(fleet: &Fleet, device: &TestDevice) -> Result<Self, Refused> {
        Self::connect_as(fleet, device, Some(SUBPROTOCOL)).await
    }

    pub(crate) async fn connect_as(
        fleet: &Fleet,
        device: &TestDevice,
        protocol: Option<&str>,
    ) -> Result<Self, Refused> {
        let mut config = device.tls(fleet, &device.claimed().certificate);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(fleet.running.device_addr).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(std::sync::Arc::new(config)).connect(name, tcp).await.unwrap();
        let mut request =
            format!("wss://{}/api/channel", fleet.running.device_addr).into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        match tokio_tungstenite::client_async(request, tls).await {
            Ok((socket, _)) => Ok(Self { socket, requests: 0 }),
            Err(Error::Http(response)) => Err(Refused {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or(b"")).into_owned(),
            }),
            Err(error) => panic!("the channel: {error}"),
        }
    }

    /// Opens the channel and says hello.
    pub(crate) async fn open(fleet: &Fleet, device: &TestDevice) -> (Self, Welcome) {
        let mut channel = Self::connect(fleet, device).await.unwrap();
        let welcome = channel.hello().await;
        (channel, welcome)
    }

    pub(crate) async fn hello(&mut self) -> Welcome {
        self.hello_with(&["process"]).await
    }

    pub(crate) async fn hello_with(&mut self, capabilities: &[&str]) -> Welcome {
        let hello = Hello {
            protocol_version: 1,
            agent_version: "0.1.0".to_owned(),
            capabilities: capabilities.iter().map(|&capability| capability.to_owned()).collect(),
            hardware_json: r#"{"hostname":"kiosk","os":"linux","arch":"x86_64","model":"Pi 4"}"#.to_owned(),
            ..Default::default()
        };
        self.send(agent_frame::Body::Hello(hello)).await;
        self.until("welcome", |body| match body {
            server_frame::Body::Welcome(welcome) => Some(welcome),
            _ => None,
        })
        .await
    }

    pub(crate) async fn send(&mut self, body: agent_frame::Body) {
        self.requests += 1;
        let frame = AgentFrame {
            request_id: format!("r{}", self.requests),
            traceparent: String::new(),
            body: Some(body),
        };
        self.send_raw(Message::Binary(frame.to_bytes().into())).await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message).await
    }

    /// Reads until a frame fits; others are left out.
    pub(crate) async fn until<T>(&mut self, what: &str, fits: impl Fn(server_frame::Body) -> Option<T>) -> T {
        let read = async {
            while let Some(message) = self.socket.next().await {
                let Message::Binary(bytes) = message.unwrap() else { continue };
                let frame = ServerFrame::from_bytes(&bytes).unwrap();
                if let Some(found) = frame.body.and_then(&fits) {
                    return Some(found);
                }
            }
            None
        };
        tokio::time::timeout(PATIENCE, read).await.expect(what).expect(what)
    }

    /// Sends a batch of measurements and waits until it is acknowledged.
    pub(crate) async fn metrics(&mut self, stream: &str, sequence: u64, rows: &[(i64, f64)]) {
        self.send(agent_frame::Body::Metrics(batch(stream, sequence, rows))).await;
        self.acknowledged(stream, sequence).await;
    }

    pub(crate) async fn acknowledged(&mut self, stream: &str, sequence: u64) {
        self.until("an acknowledgement", |body| match body {
            server_frame::Body::Acknowledged(done) => {
                assert_eq!((done.stream.as_str(), done.sequence), (stream, sequence));
                Some(())
            }
            _ => None,
        })
        .await;
    }

    /// Reads to the end.
    pub(crate) async fn closed(mut self) -> Closed {
        let mut closed = Closed { code: 0, goodbye: None };
        let read = async {
            while let Some(Ok(message)) = self.socket.next().await {
                match message {
                    Message::Binary(bytes) => {
                        if let Some(server_frame::Body::Goodbye(goodbye)) =
                            ServerFrame::from_bytes(&bytes).unwrap().body
                        {
                            closed.goodbye = Some(goodbye);
                        }
                    }
                    Message::Close(Some(frame)) => closed.code = frame.code.into(),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the server closes the channel");
        closed
    }

    /// Says goodbye properly.
    pub(crate) async fn close(mut self) {
        self.socket.close(None).await.unwrap();
    }
}

/// A batch of `cpu` and `load1`.
pub(crate) fn batch(stream: &str, sequence: u64, rows: &[(i64, f64)]) -> MetricBatch {
    let mut builder = BlockBuilder::new();
    for (at, value) in rows {
        builder.push(*at, [("cpu", *value), ("load1", 2.0)]).unwrap();
    }
    MetricBatch { stream: stream.to_owned(), sequence, block: encode(&builder.finish()).unwrap() }
}

pub(crate) fn now() -> UnixMs {
    farshore_control::clock::now()
}

/// One event of an SSE stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sse {
    pub(crate) id: Option<i64>,
    pub(crate) event: String,
    pub(crate) data: Value,
}

/// Reads an SSE stream.
#[derive(Debug)]
pub(crate) struct SseReader {
    response: reqwest::Response,
    buffer: String,
}

impl SseReader {
    /// Opens a stream, which must be one, and waits until it stands.
    pub(crate) async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = request.timeout(Duration::from_secs(120)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut reader = Self { response, buffer: String::new() };
        while !reader.buffer.contains(": open\n") {
            assert!(reader.more().await, "the stream ended");
        }
        reader
    }

    async fn more(&mut self) -> bool {
        match tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream goes on") {
            Ok(Some(bytes)) => {
                self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// The next event; `None` at the end. Comments are left out.
    pub(crate) async fn next(&mut self) -> Option<Sse> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let rest = self.buffer.split_off(end + 2);
                let block = std::mem::replace(&mut self.buffer, rest);
                let mut event = Sse::default();
                let mut data = String::new();
                for line in block.lines() {
                    match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                        Some(("id", id)) => event.id = Some(id.parse().unwrap()),
                        Some(("event", kind)) => event.event = kind.to_owned(),
                        Some(("data", part)) => data.push_str(part),
                        _ => {}
                    }
                }
                if !data.is_empty() {
                    event.data = serde_json::from_str(&data).unwrap();
                    return Some(event);
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next event of this type.
    pub(crate) async fn of(&mut self, kind: &str) -> Sse {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("{kind}: the stream ended"));
            if event.event == kind {
                return event;
            }
        }
    }
}
