//! Errors: `application/problem+json` (RFC 9457) with a stable code.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The closed list of error codes; what programs look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// 400: the request can't be read.
    Malformed,
    /// 400: the request can be read and is wrong; `errors` names the fields.
    Invalid,
    /// 401
    Unauthenticated,
    /// 403
    Forbidden,
    /// 404: also what belongs to another tenant.
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 409: already there, or in a state that does not allow it.
    Conflict,
    /// 412: `If-Match` names another version.
    VersionMismatch,
    /// 413
    TooLarge,
    /// 415
    UnsupportedMediaType,
    /// 416
    RangeNotSatisfiable,
    /// 409: a batch was sealed for a key that is not the tenant's: seal it again for the present one.
    OtherKey,
    /// 422: a signature, digest or trust rule refuses it.
    Untrusted,
    /// 422: a batch that can never be read; sending it again is of no use.
    BadBatch,
    /// 429: see `Retry-After`.
    TooManyRequests,
    /// 500: ours; the log has it under `requestId`.
    Internal,
    /// 503: see `Retry-After`.
    Unavailable,
    #[serde(other)]
    Unknown,
}

/// A problem as RFC 9457 describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `https://farshore.dev/problems/<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub code: ErrorCode,
    /// What happened, to what, and what to do next.
    pub detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// One wrong field and its fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// A path such as `spec.waves[1].percent`, or the name of a query parameter or header.
    pub field: String,
    pub message: String,
}

impl ErrorCode {
    /// The HTTP status of this code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::OtherKey => 409,
            Self::VersionMismatch => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::Untrusted | Self::BadBatch => 422,
            Self::TooManyRequests => 429,
            Self::Internal | Self::Unknown => 500,
            Self::Unavailable => 503,
        }
    }

    /// The title that goes with this code.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request can't be read",
            Self::Invalid => "The request is not valid",
            Self::Unauthenticated => "Log in first",
            Self::Forbidden => "Not allowed",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::Conflict => "Conflict",
            Self::VersionMismatch => "Changed in the meantime",
            Self::TooLarge => "Too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::RangeNotSatisfiable => "Range not satisfiable",
            Self::OtherKey => "Sealed for another key",
            Self::Untrusted => "Not trusted",
            Self::BadBatch => "Not a readable batch",
            Self::TooManyRequests => "Too many requests",
            Self::Internal | Self::Unknown => "Internal error",
            Self::Unavailable => "Not available now",
        }
    }
}

impl Problem {
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let word =
            serde_json::to_value(code).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        Self {
            kind: format!("https://farshore.dev/problems/{word}"),
            title: code.title().to_owned(),
            status: code.status(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            request_id: None,
        }
    }
}
