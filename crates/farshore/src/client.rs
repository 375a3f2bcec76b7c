//! The client of the REST API. Whatever the command line does, it does through this.
//!
//! Requests that may be repeated (GET, PUT, DELETE, and POST, which carries an `Idempotency-Key`) are, when the connection
//! breaks or the server asks to wait. TLS is rustls, with the context's roots pinned.

use std::time::Duration;

use bytes::Bytes;
use farshore_api::{ErrorCode, Problem};
use farshore_trust::clock::FlooredClock;
use farshore_trust::tls;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, IF_MATCH, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::context::Target;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// How often a request is sent at most.
const TRIES: u32 = 4;
/// How long the answer to a request may take.
const ANSWER: Duration = Duration::from_secs(60);
/// A stream sends something every 15 seconds; after three of them without a word it is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// At most this many bytes in an answer.
const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// The longest pause that a `Retry-After` is followed for.
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// A connection to one server as one user in one tenant. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    target: Target,
    debug: bool,
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    pub(crate) fn new(target: Target, debug: bool) -> Result<Self> {
        let config = match &target.roots {
            None => None,
            Some(roots) => Some(
                tls::client_config(roots, None, clock())
                    .map_err(|error| Failure::because("can't use the server's CA", &error))?,
            ),
        };
        Ok(Self { http: http_client(&target.server, config)?, target, debug })
    }

    pub(crate) const fn target(&self) -> &Target {
        &self.target
    }

    /// The address of `path`, with query parameters.
    pub(crate) fn url(&self, path: &str, query: &[(&str, String)]) -> Url {
        let mut url = self.target.server.clone();
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query.iter().map(|(key, value)| (*key, value.as_str())));
        }
        url
    }

    /// `GET`, as the server wrote it.
    pub(crate) async fn get(&self, what: &str, path: &str, query: &[(&str, String)]) -> Result<Value> {
        self.json(what, Method::GET, self.url(path, query), None, HeaderMap::new()).await
    }

    /// `GET`, as a type.
    pub(crate) async fn get_as<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T> {
        typed(what, self.get(what, path, &[]).await?)
    }

    /// `POST`, with an `Idempotency-Key`.
    pub(crate) async fn post<B: Serialize + Sync>(&self, what: &str, path: &str, body: &B) -> Result<Value> {
        self.post_with(what, path, &[], body).await
    }

    /// `POST`, with query parameters.
    pub(crate) async fn post_with<B: Serialize + Sync>(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, String)],
        body: &B,
    ) -> Result<Value> {
        let mut headers = HeaderMap::new();
        let key = uuid::Uuid::new_v4().to_string();
        headers.insert(HeaderName::from_static("idempotency-key"), header(what, &key)?);
        self.json(what, Method::POST, self.url(path, query), Some(to_value(what, body)?), headers).await
    }

    /// `POST`, and the answer as a type.
    pub(crate) async fn post_as<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &B,
    ) -> Result<T> {
        typed(what, self.post(what, path, body).await?)
    }

    /// `PUT`, of the version that was read.
    pub(crate) async fn put<B: Serialize + Sync>(
        &self,
        what: &str,
        path: &str,
        body: &B,
        version: Option<i64>,
    ) -> Result<Value> {
        let mut headers = HeaderMap::new();
        if let Some(version) = version {
            headers.insert(IF_MATCH, header(what, &format!("\"{version}\""))?);
        }
        self.json(what, Method::PUT, self.url(path, &[]), Some(to_value(what, body)?), headers).await
    }

    /// A JSON Merge Patch, of the version that was read.
    pub(crate) async fn patch_json(
        &self,
        what: &str,
        path: &str,
        patch: &Value,
        version: Option<i64>,
    ) -> Result<Value> {
        let mut headers = HeaderMap::new();
        if let Some(version) = version {
            headers.insert(IF_MATCH, header(what, &format!("\"{version}\""))?);
        }
        self.json(what, Method::PATCH, self.url(path, &[]), Some(patch.clone()), headers).await
    }

    pub(crate) async fn delete(&self, what: &str, path: &str) -> Result<Value> {
        self.json(what, Method::DELETE, self.url(path, &[]), None, HeaderMap::new()).await
    }

    /// Sends a piece of an upload. Not repeated here: after a failure the offset has to be asked for.
    pub(crate) async fn patch(&self, what: &str, path: &str, offset: u64, piece: Bytes) -> Result<Value> {
        let mut request = self
            .http
            .request(Method::PATCH, self.url(path, &[]))
            .headers(self.headers(what)?)
            .header("upload-offset", offset)
            .header("content-type", "application/octet-stream")
            .timeout(Duration::from_secs(300));
        if self.debug {
            eprintln!("> PATCH {path} Upload-Offset: {offset} ({} bytes)", piece.len());
        }
        request = request.body(piece);
        let response = request.send().await.map_err(|error| self.unreachable(what, &error))?;
        self.answer(what, response).await
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn stream(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, String)],
        last_id: Option<&str>,
    ) -> Result<Response> {
        let mut headers = self.headers(what)?;
        headers.insert(reqwest::header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id {
            headers.insert(HeaderName::from_static("last-event-id"), header(what, id)?);
        }
        self.open(what, self.url(path, query), headers).await
    }

    /// `GET`, whose answer is read as it comes.
    pub(crate) async fn download(&self, what: &str, path: &str) -> Result<Response> {
        self.open(what, self.url(path, &[]), self.headers(what)?).await
    }

    async fn open(&self, what: &str, url: Url, headers: HeaderMap) -> Result<Response> {
        if self.debug {
            eprintln!("> GET {url} (stream)");
        }
        let response = self
            .http
            .get(url)
            .headers(headers)
            .send()
            .await
            .map_err(|error| self.unreachable(what, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.answer(what, response).await.err().unwrap_or_else(|| {
            Failure::new(Exit::Failed, what).why("the server answered the stream with something else")
        }))
    }

    fn headers(&self, what: &str) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.target.token {
            let mut value = header(what, &format!("Bearer {token}"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(tenant) = &self.target.tenant {
            headers.insert(HeaderName::from_static("farshore-tenant"), header(what, tenant)?);
        }
        Ok(headers)
    }

    async fn json(
        &self,
        what: &str,
        method: Method,
        url: Url,
        body: Option<Value>,
        extra: HeaderMap,
    ) -> Result<Value> {
        let mut headers = self.headers(what)?;
        headers.extend(extra);
        let mut attempt = 1;
        loop {
            if self.debug {
                eprintln!("> {method} {url}");
                if let Some(body) = &body {
                    eprintln!("> {}", redacted(body));
                }
            }
            let mut request =
                self.http.request(method.clone(), url.clone()).headers(headers.clone()).timeout(ANSWER);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let pause = match request.send().await {
                Ok(response) => match pause_for(&response).filter(|_| attempt < TRIES) {
                    Some(pause) => pause,
                    None => return self.answer(what, response).await,
                },
                // A wrong certificate does not get better by asking again.
                Err(error)
                    if attempt < TRIES && !is_tls(&error) && (error.is_connect() || error.is_request()) =>
                {
                    Duration::from_millis(200 << attempt)
                }
                Err(error) => return Err(self.unreachable(what, &error)),
            };
            if self.debug {
                eprintln!("< again in {} ms", pause.as_millis());
            }
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn answer(&self, what: &str, mut response: Response) -> Result<Value> {
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(what, &error))? {
            if bytes.len() + piece.len() > MAX_ANSWER {
                return Err(Failure::new(Exit::Failed, what).why("the answer is too large"));
            }
            bytes.extend_from_slice(&piece);
        }
        if self.debug {
            eprintln!("< {status} ({} bytes)", bytes.len());
        }
        if status.is_success() {
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&bytes)
                .map_err(|error| Failure::because(what, &error).why("is this a Farshore server?"));
        }
        let problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let mut problem = Problem::new(
                if status == StatusCode::NOT_FOUND { ErrorCode::NotFound } else { ErrorCode::Unknown },
                format!("The server answered {status}, without a problem that this version understands."),
            );
            problem.status = status.as_u16();
            problem
        });
        let mut failure = Failure::problem(what, problem);
        if status == StatusCode::UNAUTHORIZED {
            failure = failure.next(format!("farshore login {}", self.address()));
        }
        Err(failure)
    }

    /// The server's address as a person writes it.
    pub(crate) fn address(&self) -> &str {
        self.target.server.as_str().trim_end_matches('/')
    }

    fn unreachable(&self, what: &str, error: &reqwest::Error) -> Failure {
        let failure = Failure::new(Exit::Failed, what).why(format!("can't reach {}", self.address()));
        let mut cause = std::error::Error::source(error);
        let mut texts = Vec::new();
        while let Some(inner) = cause {
            texts.push(inner.to_string());
            cause = inner.source();
        }
        // The innermost cause says it: "Connection refused", "invalid peer certificate: UnknownIssuer".
        let failure = match texts.pop() {
            Some(text) => failure.why(text),
            None => failure.why(error.to_string()),
        };
        if is_tls(error) {
            failure.next(format!(
                "farshore login {} --ca-fingerprint sha256:… (the server prints it when it starts)",
                self.address()
            ))
        } else {
            failure
        }
    }
}

/// The clock that certificates are judged by.
pub(crate) fn clock() -> FlooredClock {
    FlooredClock::new(crate::clock::now, farshore_domain::time::UnixMs(0))
}

/// reqwest over rustls: with this configuration, or with the machine's own roots.
pub(crate) fn http_client(server: &Url, config: Option<rustls::ClientConfig>) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("farshore/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::none())
        .https_only(true);
    if is_loopback(server) {
        builder = builder.no_proxy();
    }
    if let Some(mut config) = config {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        builder = builder.tls_backend_preconfigured(config);
    }
    builder.build().map_err(|error| Failure::because("can't prepare TLS", &error))
}

fn is_loopback(server: &Url) -> bool {
    match server.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<rustls::Error>() || inner.to_string().contains("invalid peer certificate") {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// How long the server asks to wait.
fn pause_for(response: &Response) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|pause| *pause <= MAX_PAUSE)
}

fn header(what: &str, text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|error| {
        Failure::because(what, &error).why("a token, tenant or version holds odd characters")
    })
}

fn to_value<B: Serialize>(what: &str, body: &B) -> Result<Value> {
    serde_json::to_value(body).map_err(|error| Failure::because(what, &error))
}

/// Reads an answer as a type of the API.
pub(crate) fn typed<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        Failure::because(what, &error).why("the server's answer is of another version than this command")
    })
}

/// A body for `--debug`, without its secrets.
fn redacted(value: &Value) -> Value {
    const SECRET: &[&str] = &["password", "token", "link", "csr", "loginLink"];
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| {
                    let secret = SECRET.contains(&key.as_str()) && value.is_string();
                    (key.clone(), if secret { "<redacted>".into() } else { redacted(value) })
                })
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(redacted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let body = serde_json::json!({"email": "a@b", "password": "hunter2", "spec": [{"token": "fsat_x"}]});
        let shown = redacted(&body).to_string();
        assert!(!shown.contains("hunter2") && !shown.contains("fsat_x") && shown.contains("a@b"), "{shown}");
    }

    #[test]
    fn a_proxy_is_never_asked_for_this_machine() {
        let loopback = |text: &str| is_loopback(&Url::parse(text).unwrap());
        assert!(
            loopback("https://127.0.0.1:1") && loopback("https://[::1]:1") && loopback("https://localhost")
        );
        assert!(!loopback("https://farshore.example") && !loopback("https://10.0.0.1"));
    }
}
