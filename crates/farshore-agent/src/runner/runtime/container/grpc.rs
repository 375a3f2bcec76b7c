//! As much of gRPC as containerd needs: calls over HTTP/2 on its socket. Each call has a connection of its own: there are few, and one that broke is simply
//! not there the next time.

use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// At most this many bytes in one answer.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
const CONNECT: Duration = Duration::from_secs(5);

/// Status of a call for something that is not there, or that is there already.
pub(super) const NOT_FOUND: u32 = 5;
pub(super) const ALREADY_EXISTS: u32 = 6;
const UNKNOWN: u32 = 2;
const FAILED_PRECONDITION: u32 = 9;

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrpcError {
    #[error("containerd can't be reached at {path}")]
    Unreachable {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection to containerd failed")]
    Http(#[source] hyper::Error),
    #[error("containerd's answer can't be read: {0}")]
    Garbage(String),
    #[error("containerd: {message}")]
    Status { code: u32, message: String },
}

impl GrpcError {
    pub(super) fn is(&self, wanted: u32) -> bool {
        matches!(self, Self::Status { code, .. } if *code == wanted)
    }

    /// There is none, or none that still runs.
    pub(super) fn is_gone(&self) -> bool {
        self.is(NOT_FOUND)
    }

    /// It may not be deleted while it runs, which containerd's shim says without a code of its own.
    pub(super) fn is_busy(&self) -> bool {
        self.is(FAILED_PRECONDITION) || self.is(UNKNOWN)
    }

    /// Its disk is full, for which it has no code of its own.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Status { message, .. } if message.contains("no space left on device"))
    }

    /// Something else still needs it.
    pub(super) fn is_in_use(&self) -> bool {
        self.is(FAILED_PRECONDITION)
    }
}

/// containerd at its socket, in one namespace.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: std::path::PathBuf,
    namespace: String,
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A buffer that grows takes every message.
    if let Err(error) = message.encode(&mut bytes) {
        tracing::error!(%error, "a message can't be encoded");
    }
    bytes.freeze()
}

impl Client {
    pub(super) fn new(socket: &Path, namespace: &str) -> Self {
        Self { socket: socket.to_path_buf(), namespace: namespace.to_owned() }
    }

    /// One request, one answer.
    pub(super) async fn call<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, GrpcError> {
        let mut answers = self.exchange(method, Full::new(framed(request))).await?;
        match (answers.pop(), answers.is_empty()) {
            (Some(answer), true) => Ok(answer),
            _ => Err(GrpcError::Garbage("it is not one message".to_owned())),
        }
    }

    /// One request, any number of answers.
    pub(super) async fn list<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Vec<A>, GrpcError> {
        self.exchange(method, Full::new(framed(request))).await
    }

    /// Any number of requests, of which one that can't be made ends the call.
    pub(super) async fn stream<R, A>(
        &self,
        method: &'static str,
        requests: impl Stream<Item = std::io::Result<R>> + Send + 'static,
    ) -> Result<Vec<A>, GrpcError>
    where
        R: Message + 'static,
        A: Message + Default,
    {
        let body =
            StreamBody::new(requests.map(|request| Ok::<_, std::io::Error>(Frame::data(framed(&request?)))));
        self.exchange(method, http_body_util::BodyExt::boxed_unsync(body)).await
    }

    async fn exchange<A, B>(&self, method: &'static str, body: B) -> Result<Vec<A>, GrpcError>
    where
        A: Message + Default,
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let unreachable = |source| GrpcError::Unreachable { path: self.socket.display().to_string(), source };
        let connecting = timeout(CONNECT, UnixStream::connect(&self.socket)).await;
        let stream =
            connecting.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(GrpcError::Http)?;
        let driver = tokio::spawn(connection);
        let request = http::Request::post(format!("http://containerd{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "farshore-agent")
            .header("containerd-namespace", &self.namespace)
            .body(body)
            .map_err(|error| GrpcError::Garbage(error.to_string()));
        let answered = match request {
            Ok(request) => read(sender.send_request(request)).await,
            Err(error) => Err(error),
        };
        drop(sender);
        driver.abort();
        answered
    }
}

async fn read<A: Message + Default>(
    sent: impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>>,
) -> Result<Vec<A>, GrpcError> {
    let response = sent.await.map_err(GrpcError::Http)?;
    // An answer without a body has its status here.
    let mut told = status(response.headers())?;
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(GrpcError::Http)?.into_data() {
            Ok(data) => {
                if bytes.len() + data.len() > MAX_ANSWER {
                    return Err(GrpcError::Garbage(format!("it has more than {MAX_ANSWER} bytes")));
                }
                bytes.extend_from_slice(&data);
            }
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    told = status(trailers)?;
                }
            }
        }
    }
    if !told {
        return Err(GrpcError::Garbage("it ends without a status".to_owned()));
    }
    let mut bytes = bytes.freeze();
    let mut answers = Vec::new();
    while bytes.len() >= 5 {
        let compressed = bytes.get_u8();
        let length = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
        if compressed != 0 || length > bytes.len() {
            return Err(GrpcError::Garbage("its frame is broken".to_owned()));
        }
        let message = A::decode(bytes.split_to(length));
        answers.push(message.map_err(|error| GrpcError::Garbage(error.to_string()))?);
    }
    Ok(answers)
}

/// Whether a status is there; one that is not OK is an error.
fn status(headers: &http::HeaderMap) -> Result<bool, GrpcError> {
    let Some(code) = headers.get("grpc-status") else { return Ok(false) };
    let code = code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2);
    if code == 0 {
        return Ok(true);
    }
    let message =
        headers.get("grpc-message").and_then(|text| text.to_str().ok()).unwrap_or("no reason given");
    Err(GrpcError::Status { code, message: unescape(message) })
}

/// Percent signs, as gRPC writes what is not plain ASCII.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
