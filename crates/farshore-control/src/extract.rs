//! Extractors that answer bad input with a problem that names the field and the fix.

use axum::Json;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use farshore_api::{ErrorCode, List, ListMetadata};
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::error::ApiError;

/// At most this many bytes in a JSON body.
pub const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Of a body that is too large, at most this much is read to its end.
const MAX_THROWN_AWAY_BYTES: usize = 8 * 1024 * 1024;

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The id of the request that this task is answering.
#[must_use]
pub fn current_request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Runs `future` as the answer to the request `id`.
pub async fn with_request_id<F: Future>(id: String, future: F) -> F::Output {
    REQUEST_ID.scope(id, future).await
}

/// A JSON body. Unknown fields are refused where the type says `deny_unknown_fields`, as all request types do.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &App) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let essence = kind.split(';').next().unwrap_or("").trim();
        if !(essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")) {
            return Err(ApiError::new(
                ErrorCode::UnsupportedMediaType,
                "Send the body as Content-Type: application/json.",
            ));
        }
        let bytes = read_body(request.into_body()).await?;
        parse_json(&bytes).map(Self)
    }
}

/// Reads a JSON body. What is too large is read on for a while and thrown away, because a client that is still sending would take a
/// connection that closes for a broken one, and never see the answer.
async fn read_body(mut body: axum::body::Body) -> Result<Bytes, ApiError> {
    let mut bytes = BytesMut::new();
    let mut thrown_away = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            ApiError::new(ErrorCode::Malformed, "The body could not be read to its end. Send it again.")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if thrown_away == 0 && bytes.len() + data.len() <= MAX_JSON_BYTES {
            bytes.extend_from_slice(&data);
        } else {
            thrown_away += data.len();
            if thrown_away > MAX_THROWN_AWAY_BYTES {
                break;
            }
        }
    }
    if thrown_away > 0 {
        let detail = format!("The body has more than {MAX_JSON_BYTES} bytes.");
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    Ok(bytes.freeze())
}

/// Whether a JSON text holds `\u0000` as an escape. No text of ours has one, and PostgreSQL takes none.
fn holds_nul(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        if rest.get(at..).is_some_and(|tail| tail.starts_with(br"\u0000")) {
            return true;
        }
        // An escape is at least two bytes: the backslash, and what it escapes.
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    false
}

/// Reads JSON and says, on failure, which field is wrong.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if holds_nul(bytes) {
        return Err(ApiError::new(
            ErrorCode::Malformed,
            r"The body holds the character \u0000, which no text may have.",
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data => {
                ApiError::field(if path == "." { "body".to_owned() } else { path }, inner.to_string())
            }
            _ => ApiError::new(ErrorCode::Malformed, format!("The body is no JSON: {inner}.")),
        }
    })?;
    reader
        .end()
        .map_err(|error| ApiError::new(ErrorCode::Malformed, format!("The body is no JSON: {error}.")))?;
    Ok(value)
}

/// Query parameters; unknown ones are refused where the type says `deny_unknown_fields`.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text = parts.uri.query().unwrap_or("");
        let reader = serde_urlencoded::Deserializer::new(form_urlencoded::parse(text.as_bytes()));
        serde_path_to_error::deserialize(reader).map(Self).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "query".to_owned() } else { path };
            ApiError::field(field, error.into_inner().to_string())
        })
    }
}

/// A JSON answer with an `ETag` made of the resource version.
pub fn versioned<T: Serialize>(version: i64, value: &T) -> Response {
    ([(header::ETAG, format!("\"{version}\""))], Json(value)).into_response()
}

/// The version that `If-Match` names.
pub fn if_match(headers: &axum::http::HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim().trim_start_matches("W/").trim_matches('"');
    if text == "*" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| ApiError::field("If-Match", "is the resourceVersion in quotes, as the ETag says"))
}

/// The size of a page: 100 unless asked otherwise, 1,000 at most.
pub fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    match asked {
        None => Ok(100),
        Some(limit @ 1..=1000) => Ok(limit),
        Some(_) => Err(ApiError::field("limit", "is 1 to 1000")),
    }
}

/// A cursor that is a uid.
pub fn cursor_uuid(text: &str) -> Result<uuid::Uuid, ApiError> {
    uuid::Uuid::parse_str(text).map_err(|_| ApiError::field("continue", "is what the page before said"))
}

/// The query of a list that has no filters, in the order of names.
#[derive(Clone, Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// At most this many; 100 when left out, 1,000 at most.
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(rename = "continue")]
    pub continue_from: Option<String>,
}

impl Page {
    /// The size of this page.
    pub fn limit(&self) -> Result<u32, ApiError> {
        limit(self.limit)
    }

    /// Makes the page of the rows that were found, with a cursor when there may be more.
    pub fn of<R, T>(
        &self,
        rows: Vec<R>,
        cursor: impl Fn(&R) -> String,
        show: impl Fn(R) -> T,
    ) -> Result<Json<List<T>>, ApiError> {
        let full = rows.len() == self.limit()? as usize;
        let continue_from = rows.last().filter(|_| full).map(cursor);
        let items = rows.into_iter().map(show).collect();
        Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
    }
}

/// `limit` characters of plain text.
pub fn check_text(field: &str, text: &str, limit: usize) -> Result<(), ApiError> {
    if text.chars().count() > limit || text.chars().any(char::is_control) {
        return Err(ApiError::field(
            field,
            format!("has at most {limit} characters and no control characters"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_nul_is_found_and_an_escaped_backslash_is_none() {
        assert!(holds_nul(br#"{"a":"x\u0000"}"#));
        assert!(holds_nul(br#""\\\u0000""#));
        assert!(!holds_nul(br#""\\u0000""#));
        assert!(!holds_nul(br#""\"\n""#));
        assert!(!holds_nul(b"\\"));
        assert!(!holds_nul(b""));
    }
}
