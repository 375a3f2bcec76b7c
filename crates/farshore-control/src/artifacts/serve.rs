//! Sends an artifact, whole or in part; the same on the API and on the device port.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farshore_api::ErrorCode;
use farshore_domain::digest::Digest;
use farshore_store::TenantDb;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::range::{Wanted, wanted};
use crate::app::App;
use crate::error::{ApiError, ApiResult};

const CHUNK_BYTES: usize = 64 * 1024;

/// Answers `GET /api/artifacts/{digest}` for whoever holds `db`. Bytes that another tenant uploaded do not exist.
pub async fn download(app: &App, db: &TenantDb, digest: &str, headers: &HeaderMap) -> ApiResult<Response> {
    let digest: Digest = digest.parse().map_err(|_| ApiError::not_found("artifact", digest))?;
    db.artifact(&digest).await?;
    let (mut file, size) = app.artifacts().read(&digest).await.map_err(ApiError::internal)?;
    let part = wanted(headers.get(header::RANGE).and_then(|value| value.to_str().ok()), size);
    let (status, first, length) = match part {
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Wanted::Unsatisfiable => {
            let error =
                ApiError::new(ErrorCode::RangeNotSatisfiable, format!("The artifact has {size} bytes."));
            let mut response = error.into_response();
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            return Ok(response);
        }
    };
    file.seek(std::io::SeekFrom::Start(first)).await.map_err(ApiError::internal)?;
    let body = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK_BYTES));
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{digest}\""))
        .header(header::CACHE_CONTROL, "private, immutable, max-age=31536000");
    if status == StatusCode::PARTIAL_CONTENT {
        response =
            response.header(header::CONTENT_RANGE, format!("bytes {first}-{}/{size}", first + length - 1));
    }
    response.body(body).map_err(ApiError::internal)
}
