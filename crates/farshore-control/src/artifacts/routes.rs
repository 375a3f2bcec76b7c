//! `/api/artifacts`: announce, send in pieces, list, download.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use farshore_api::artifact::{Artifact, NewArtifact, Upload};
use farshore_api::{ErrorCode, List, ListMetadata, Problem};
use farshore_domain::access::Permission;
use farshore_store::artifacts::{ArtifactRow, UploadRow};
use farshore_store::{StoreError, TenantDb};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::folder::FinishError;
use crate::app::App;
use crate::claims::DevicePeer;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Body, Query};
use crate::route::{Access, Db, Route, route};

/// At most this many uploads are open in a tenant.
const MAX_OPEN_UPLOADS: u32 = 64;
const UPLOAD_OFFSET: &str = "upload-offset";
/// Synced this often, so that a cut costs little.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, announce, get, upload, send))]
pub struct ArtifactDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    let read = Access::Needs(Permission::ReleaseRead);
    let write = Access::Needs(Permission::ReleaseWrite);
    vec![
        route(Method::GET, "/api/artifacts", read, list),
        route(Method::POST, "/api/artifacts", write, announce),
        route(Method::GET, "/api/artifacts/{digest}", read, get),
        route(Method::GET, "/api/artifacts/uploads/{id}", write, upload),
        route(Method::PATCH, "/api/artifacts/uploads/{id}", write, send).unhurried(),
    ]
}

/// The noun's rows on the device port.
#[must_use]
pub fn device_port_routes() -> Vec<Route> {
    vec![route(Method::GET, "/api/artifacts/{digest}", Access::Device, get_as_device)]
}

/// A device downloads; documented with the same address of the API port.
async fn get_as_device(
    State(app): State<App>,
    peer: DevicePeer,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let response = super::download(&app, &peer.db, &digest, &headers).await?;
    // A download may take hours: revocation cuts one that is under way, too.
    let peer = Arc::new(peer);
    Ok(response.map(|body| {
        RawBody::from_stream(body.into_data_stream().then(move |chunk| {
            let (app, peer) = (app.clone(), Arc::clone(&peer));
            async move {
                peer.check(&app).await.map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
                chunk.map_err(io::Error::other)
            }
        }))
    }))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

fn artifact(row: ArtifactRow) -> Artifact {
    let ArtifactRow { digest, size, name, created_at, releases } = row;
    Artifact { digest, size, name, created_at, releases }
}

/// Lists the tenant's artifacts.
#[utoipa::path(get, path = "/api/artifacts", tag = "artifacts", params(Page),
    responses((status = 200, body = List<Artifact>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<Artifact>>> {
    let limit = crate::extract::limit(page.limit)?;
    let rows = db.artifacts(page.continue_from.as_deref(), limit).await?;
    let full = rows.len() == limit as usize;
    let continue_from = rows.last().filter(|_| full).map(|row| row.digest.to_string());
    let items = rows.into_iter().map(artifact).collect();
    Ok(Json(List { items, metadata: ListMetadata { continue_from, total: None } }))
}

/// Announces bytes. The answer says where to send them, or that they are there already.
#[utoipa::path(post, path = "/api/artifacts", tag = "artifacts", request_body = NewArtifact,
    responses((status = 201, body = Upload), (status = 200, body = Upload, description = "there already"), (status = "4XX", body = Problem)))]
async fn announce(State(app): State<App>, Db(db): Db, Body(new): Body<NewArtifact>) -> ApiResult<Response> {
    let max = app.settings().limits.max_artifact_bytes;
    if new.size == 0 || new.size > max {
        return Err(ApiError::field("size", format!("must be 1 to {max} bytes")));
    }
    if new.name.len() > 253 || new.name.chars().any(char::is_control) {
        return Err(ApiError::field("name", "has at most 253 characters and no control characters"));
    }
    match db.artifact(&new.digest).await {
        Ok(there) if there.size == new.size => {
            let done = Upload {
                upload: Uuid::nil(),
                digest: new.digest,
                size: new.size,
                offset: new.size,
                complete: true,
            };
            return Ok(Json(done).into_response());
        }
        Ok(there) => {
            return Err(ApiError::field(
                "size",
                format!("is not {}, which is the size of {}", there.size, new.digest),
            ));
        }
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let row = UploadRow { uid: Uuid::now_v7(), digest: new.digest, size: new.size, name: new.name };
    let row = db.open_upload(&row, MAX_OPEN_UPLOADS, now()).await?;
    let offset = app.artifacts().offset(row.uid).await.map_err(ApiError::internal)?;
    let location = format!("/api/artifacts/uploads/{}", row.uid);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(state(&row, offset))).into_response())
}

fn state(row: &UploadRow, offset: u64) -> Upload {
    Upload { upload: row.uid, digest: row.digest, size: row.size, offset, complete: false }
}

fn with_offset(upload: &Upload) -> Response {
    let mut response = Json(upload).into_response();
    response.headers_mut().insert(UPLOAD_OFFSET, HeaderValue::from(upload.offset));
    response
}

fn upload_id(id: &str) -> ApiResult<Uuid> {
    Uuid::parse_str(id).map_err(|_| ApiError::not_found("upload", id))
}

/// Sends an artifact's bytes, all or a range.
#[utoipa::path(get, path = "/api/artifacts/{digest}", tag = "artifacts", params(("digest" = String, Path)),
    responses((status = 200, description = "the bytes"), (status = 206, description = "a range of them"), (status = "4XX", body = Problem)))]
async fn get(
    State(app): State<App>,
    Db(db): Db,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    super::download(&app, &db, &digest, &headers).await
}

/// Says how far an upload is.
#[utoipa::path(get, path = "/api/artifacts/uploads/{id}", tag = "artifacts", params(("id" = Uuid, Path)),
    responses((status = 200, body = Upload), (status = "4XX", body = Problem)))]
async fn upload(State(app): State<App>, Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let row = db.upload(upload_id(&id)?).await?;
    let offset = app.artifacts().offset(row.uid).await.map_err(ApiError::internal)?;
    Ok(with_offset(&state(&row, offset)))
}

/// Takes the next piece of an upload. `Upload-Offset` says where it starts, which is where the upload stands.
#[utoipa::path(patch, path = "/api/artifacts/uploads/{id}", tag = "artifacts",
    params(("id" = Uuid, Path), ("Upload-Offset" = u64, Header)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Upload), (status = "4XX", body = Problem)))]
async fn send(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: RawBody,
) -> ApiResult<Response> {
    let row = db.upload(upload_id(&id)?).await?;
    let told = headers.get(UPLOAD_OFFSET).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let told = told.ok_or_else(|| ApiError::field("Upload-Offset", "is the number of bytes sent so far"))?;
    let Some(_only_one) = app.uploads().enter(row.uid) else {
        return Err(ApiError::new(ErrorCode::Conflict, "Another request is sending this upload right now.")
            .retry_after(1));
    };
    let offset = app.artifacts().offset(row.uid).await.map_err(ApiError::internal)?;
    if told != offset {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("The upload stands at {offset} bytes, not {told}. Go on from there."),
        ));
    }
    let reached = receive(&app, &row, offset, body).await?;
    if reached < row.size {
        return Ok(with_offset(&state(&row, reached)));
    }
    finish(&app, &db, &row).await
}

/// Appends the body's bytes; what has come when the body breaks off is kept.
async fn receive(app: &App, row: &UploadRow, offset: u64, body: RawBody) -> ApiResult<u64> {
    let mut file = app.artifacts().append(row.uid, offset).await.map_err(disk)?;
    let (mut at, mut synced) = (offset, offset);
    let mut pieces = body.into_data_stream();
    let mut cut = false;
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            cut = true;
            break;
        };
        let length = piece.len() as u64;
        if at + length > row.size {
            app.artifacts().sync(&mut file).await.map_err(disk)?;
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("The upload was announced with {} bytes and gets more.", row.size),
            ));
        }
        file.write_all(&piece).await.map_err(disk)?;
        at += length;
        if at - synced >= SYNC_BYTES {
            app.artifacts().sync(&mut file).await.map_err(disk)?;
            synced = at;
        }
    }
    app.artifacts().sync(&mut file).await.map_err(disk)?;
    if cut {
        return Err(ApiError::new(
            ErrorCode::Malformed,
            format!("The body broke off; {at} bytes are kept. Go on from there."),
        ));
    }
    Ok(at)
}

fn disk(error: std::io::Error) -> ApiError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return ApiError::new(
            ErrorCode::Unavailable,
            "The server's disk is full; nothing was lost. Try again later.",
        )
        .retry_after(60);
    }
    ApiError::internal(error)
}

async fn finish(app: &App, db: &TenantDb, row: &UploadRow) -> ApiResult<Response> {
    match app.artifacts().finish(row.uid, row.digest).await {
        Ok(()) => {
            db.finish_upload(row, now()).await?;
            Ok(with_offset(&Upload { complete: true, ..state(row, row.size) }))
        }
        Err(error @ FinishError::WrongDigest { .. }) => {
            app.artifacts().discard(row.uid).await.map_err(ApiError::internal)?;
            db.drop_upload(row.uid).await?;
            Err(ApiError::new(
                ErrorCode::Untrusted,
                format!("Refused: {error}. The upload was discarded; start again."),
            ))
        }
        Err(FinishError::Io(error)) => Err(disk(error)),
    }
}
