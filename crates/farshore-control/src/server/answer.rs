//! From a request's head to the answer's, around the router: request id, trace, verb, panics, security headers, access log.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use farshore_api::ErrorCode;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use tower::ServiceExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use super::listen::Peer;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::with_request_id;
use crate::route::{AskedBy, RouteLabel, split_verb};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The address of the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// The router with what goes around it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Answerer {
    app: App,
    router: Router,
}

impl Answerer {
    pub(super) fn new(app: &App, router: Router) -> Self {
        Self { app: app.clone(), router }
    }

    /// Answers one request. Never fails, never panics.
    pub(super) async fn answer(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Result<Response<Body>, Infallible> {
        let started = Instant::now();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.address);
        request.extensions_mut().insert(peer.certificate);
        name_host(&mut request);
        let request_id = request_id(request.headers());
        let span = tracing::info_span!(
            "request",
            request_id,
            trace_id = trace_id(request.headers()),
            peer = %peer.address.0
        );
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        if holds_nul(request.uri()) {
            // No id, name or text has one, and PostgreSQL takes none: it fits no address.
            *request.uri_mut() = Uri::from_static("/api/~");
        } else if let Some(split) = split_verb(&method, &path) {
            *request.uri_mut() = with_path(request.uri(), &split);
        } else if path.contains("/~") {
            // Inside, `/~verb` stands for `:verb`; nobody writes it outside.
            *request.uri_mut() = Uri::from_static("/api/~");
        }
        let router = self.router;
        let answer = async move { router.oneshot(request).await.unwrap_or_else(|never| match never {}) };
        let answer = with_request_id(request_id.clone(), AssertUnwindSafe(answer).catch_unwind());
        let mut response = match answer.instrument(span.clone()).await {
            Ok(response) => response,
            Err(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                let error = ApiError::internal(format!("a handler panicked: {text}"));
                with_request_id(request_id.clone(), async { error.into_response() }).await
            }
        };
        if is_plain_error(&response) {
            let error = plain_error(response.status());
            let plain = std::mem::replace(response.extensions_mut(), http::Extensions::new());
            response = with_request_id(request_id.clone(), async { error.into_response() }).await;
            response.extensions_mut().extend(plain);
        }
        set_headers(response.headers_mut(), &request_id);
        let route = response.extensions().get::<RouteLabel>().map_or("none", |label| label.0);
        let asked_by = response.extensions().get::<AskedBy>().map_or("", |who| who.0.as_str());
        let (status, elapsed) = (response.status(), started.elapsed());
        self.app.metrics().answered(&method, route, status, elapsed);
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(parent: &span, %method, path, route, status = status.as_u16(), ms, asked_by, "answered");
        } else if route == "/healthz" || route == "/readyz" || route == "/metrics" {
            tracing::debug!(parent: &span, %method, path, route, status = status.as_u16(), ms, asked_by, "answered");
        } else {
            tracing::info!(parent: &span, %method, path, route, status = status.as_u16(), ms, asked_by, "answered");
        }
        Ok(response)
    }
}

fn holds_nul(uri: &Uri) -> bool {
    uri.path_and_query().is_some_and(|text| text.as_str().contains("%00"))
}

/// An error that none of our handlers wrote: a library's word on an address or a body it can't read.
fn is_plain_error(response: &Response<Body>) -> bool {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    (status.is_client_error() || status.is_server_error()) && kind != Some(b"application/problem+json")
}

fn plain_error(status: StatusCode) -> ApiError {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => (ErrorCode::NotFound, "There is nothing at this address."),
        StatusCode::METHOD_NOT_ALLOWED => {
            (ErrorCode::MethodNotAllowed, "This address knows other methods, but not this one.")
        }
        StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::TooLarge, "The body is too large."),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            (ErrorCode::UnsupportedMediaType, "Send the body as Content-Type: application/json.")
        }
        status if status.is_client_error() => (
            ErrorCode::Malformed,
            "The request can't be read: its address, a header or its body is not well formed.",
        ),
        status => return ApiError::internal(format!("a handler answered {status} without a problem")),
    };
    ApiError::new(code, detail)
}

/// HTTP/2 says the host in the address; handlers look for it in the header.
fn name_host(request: &mut Request<Body>) {
    if !request.headers().contains_key(header::HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// The caller's request id, if it is a plain word; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=128).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        })
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// The trace id of `traceparent` (W3C Trace Context, version 00).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    (version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && parts.next().is_none())
        .then_some(trace)
}

fn with_path(uri: &Uri, path: &str) -> Uri {
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = text.parse::<PathAndQuery>().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

fn set_headers(headers: &mut HeaderMap, request_id: &str) {
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn only_a_plain_request_id_is_taken_over() {
        assert_eq!(request_id(&headers("x-request-id", "a-1_b.2")), "a-1_b.2");
        for bad in ["", "a b", "a\"b", &"a".repeat(129)] {
            assert_ne!(request_id(&headers("x-request-id", bad)), bad);
        }
    }

    #[test]
    fn only_a_whole_traceparent_is_taken_over() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            trace_id(&headers("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"))),
            Some(trace)
        );
        for bad in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-xyz-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_id(&headers("traceparent", bad)), None, "{bad}");
        }
    }

    #[test]
    fn the_path_changes_and_the_query_stays() {
        let uri: Uri = "/api/devices/a:revoke?x=1".parse().unwrap();
        assert_eq!(with_path(&uri, "/api/devices/a/~revoke").to_string(), "/api/devices/a/~revoke?x=1");
        let uri: Uri = "https://h:1/api/devices/a:revoke".parse().unwrap();
        assert_eq!(with_path(&uri, "/x").to_string(), "https://h:1/x");
    }
}
