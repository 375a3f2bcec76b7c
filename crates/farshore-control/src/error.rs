//! Errors at the HTTP edge: what the caller reads, and what only the log gets.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farshore_api::{ErrorCode, FieldError, Problem};
use farshore_store::StoreError;

/// An answer that says no. The public part is a [`Problem`]; the cause goes to the log, with its whole chain, once.
#[derive(Debug)]
pub struct ApiError {
    problem: Box<Problem>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    retry_after_seconds: Option<u32>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { problem: Box::new(Problem::new(code, detail)), cause: None, retry_after_seconds: None }
    }

    /// One field is wrong.
    #[must_use]
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let mut error = Self::new(ErrorCode::Invalid, format!("{field}: {message}"));
        error.problem.errors.push(FieldError { field, message });
        error
    }

    /// Another wrong field of the same request.
    #[must_use]
    pub fn and_field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.problem.errors.push(FieldError { field: field.into(), message: message.into() });
        self
    }

    /// What does not exist, or belongs to another tenant, which is the same.
    #[must_use]
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("There is no {what} {id:?} here. Check the name, and the tenant you act in."),
        )
    }

    /// Our fault: `cause` goes to the log only.
    #[must_use]
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error = Self::new(
            ErrorCode::Internal,
            "Something went wrong on the server. Its log has the cause under this request id.",
        );
        error.cause = Some(cause.into());
        error
    }

    /// Try again after this many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

/// An error with all its causes, for the log or for the person who has to mend it.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Denied(permission) => Self::new(
                ErrorCode::Forbidden,
                format!("Your role does not include {permission}. Ask a tenant admin for a role that does."),
            ),
            StoreError::Refused(text) => Self::new(ErrorCode::Forbidden, text),
            StoreError::NotFound(what) => Self::new(
                ErrorCode::NotFound,
                format!("There is no such {what} here. Check the name, and the tenant you act in."),
            ),
            StoreError::Conflict(text) => Self::new(ErrorCode::Conflict, text),
            StoreError::VersionMismatch { expected, current } => Self::new(
                ErrorCode::VersionMismatch,
                format!(
                    "You changed version {expected}, but it is at {current} by now. Read it again and repeat the change."
                ),
            ),
            other @ (StoreError::LeaseLost
            | StoreError::Certificate(_)
            | StoreError::Corrupt(_)
            | StoreError::Database(_)
            | StoreError::Migrate(_)) => Self::internal(other),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { mut problem, cause, retry_after_seconds } = self;
        let request_id = crate::extract::current_request_id();
        if let Some(cause) = cause {
            tracing::error!(request_id, cause = chain(cause.as_ref()), "request failed: {}", problem.detail);
        }
        problem.request_id = request_id;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
