//! Answers.

use bytes::Bytes;
use farshore_journal::JournalError;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
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

pub(super) fn unauthorized() -> Answer {
    let message = "give the gateway's token (Authorization: Bearer …) or its user and password";
    let mut answer = failure(StatusCode::UNAUTHORIZED, "unauthorized", message);
    let challenge = HeaderValue::from_static("Basic realm=\"edge gateway\"");
    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    answer
}

/// Says when to come again.
pub(super) fn later(status: StatusCode, code: &str, message: &str, seconds: u64) -> Answer {
    let mut answer = failure(status, code, message);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// What the journal would not take: 429 where it only is too much at once, 503 with the reason otherwise.
pub(super) fn journal(error: &JournalError) -> Answer {
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        message = format!("{message}: {source}");
    }
    let seconds = error.retry_after().map(|after| after.as_secs().max(1));
    match (error, seconds) {
        (JournalError::Busy, _) => {
            later(StatusCode::TOO_MANY_REQUESTS, "too many requests", &message, seconds.unwrap_or(1))
        }
        (_, Some(seconds)) => later(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message, seconds),
        (JournalError::TooLarge { .. }, None) => {
            failure(StatusCode::PAYLOAD_TOO_LARGE, "request too large", &message)
        }
        (_, None) => failure(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable entity", &message),
    }
}
