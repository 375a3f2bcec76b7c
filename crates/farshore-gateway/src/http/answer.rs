//! Answers.

use bytes::Bytes;
use farshore_journal::JournalError;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

pub(super) fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => body(status, "application/json", bytes),
        Err(error) => failure(status, "internal error", &error.to_string()),
    }
}

/// InfluxDB's form of an error: a code and a sentence.
pub(super) fn failure(status: StatusCode, code: &str, message: &str) -> Answer {
    let text = serde_json::json!({"code": code, "message": message}).to_string();
    body(status, "application/json", text)
}

pub(super) fn invalid(message: &str) -> Answer {
    failure(StatusCode::BAD_REQUEST, "invalid", message)
}

/// Why something is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Seconds after which to come again.
    pub(super) again: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), again: None }
    }

    /// The answer, in the form that readers of JSON expect.
    pub(super) fn answer(&self) -> Answer {
        self.put(failure(self.status, self.code, &self.message))
    }

    /// Adds to an answer when to come again.
    pub(super) fn put(&self, mut answer: Answer) -> Answer {
        if let Some(seconds) = self.again {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        answer
    }
}

pub(super) fn unauthorized() -> Answer {
    let message = "give the gateway's token (Authorization: Bearer …) or its user and password";
    let mut answer = failure(StatusCode::UNAUTHORIZED, "unauthorized", message);
    let challenge = HeaderValue::from_static("Basic realm=\"edge gateway\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer
}

/// A web page of somebody else made the browser ask.
pub(super) fn other_origin() -> Answer {
    let message = "requests of web pages of other origins are not taken";
    failure(StatusCode::FORBIDDEN, "forbidden", message)
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let message = "this address takes another method";
    let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", message);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Says when to come again.
pub(super) fn later(status: StatusCode, code: &'static str, message: &str, seconds: u64) -> Answer {
    Refusal { again: Some(seconds), ..Refusal::new(status, code, message) }.answer()
}

/// What the journal would not take: 429 where it only is too much at once, 503 with the reason otherwise.
pub(super) fn journal(error: &JournalError) -> Refusal {
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        message = format!("{message}: {source}");
    }
    let again = error.retry_after().map(|after| after.as_secs().max(1));
    let (status, code) = match (error, again) {
        (JournalError::Busy, _) => (StatusCode::TOO_MANY_REQUESTS, "too many requests"),
        (_, Some(_)) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (JournalError::TooLarge { .. } | JournalError::BeyondBounds { .. }, None) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "request too large")
        }
        (_, None) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable entity"),
    };
    Refusal { again, ..Refusal::new(status, code, message) }
}
