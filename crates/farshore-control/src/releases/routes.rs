//! `/api/releases`: signed manifests.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use farshore_api::release::{NewRelease, Release, ReleaseSpec};
use farshore_api::{ErrorCode, List, ListMetadata, NoStatus, Problem};
use farshore_domain::access::Permission;
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::object::API_VERSION;
use farshore_domain::release::{MAX_MANIFEST_BYTES, Manifest, ManifestError};
use farshore_store::releases::{NewReleaseRow, ReleaseRow};
use farshore_store::{StoreError, TenantDb};
use farshore_trust::blob::verify_blob;
use farshore_trust::keyset::TrustedKeySet;
use serde::Deserialize;
use uuid::Uuid;

use super::keys;
use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult, chain};
use crate::extract::{Body, Query, if_match, versioned};
use crate::route::{Access, Caller, Db, Route, route};

/// The noun's part of the OpenAPI document.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(list, create, get, delete, keys::list, keys::append))]
pub struct ReleaseDocs;

/// The noun's rows.
#[must_use]
pub fn routes() -> Vec<Route> {
    use Permission as P;
    vec![
        route(Method::GET, "/api/releases", Access::Needs(P::ReleaseRead), list),
        route(Method::POST, "/api/releases", Access::Needs(P::ReleaseWrite), create),
        route(Method::GET, "/api/releases/{id}", Access::Needs(P::ReleaseRead), get),
        route(Method::DELETE, "/api/releases/{id}", Access::Needs(P::ReleaseWrite), delete),
        route(Method::GET, "/api/trusted-keys", Access::Needs(P::TrustRead), keys::list),
        route(Method::POST, "/api/trusted-keys", Access::Needs(P::TrustWrite), keys::append),
    ]
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Only releases of this app.
    app: Option<String>,
    /// At most this many; 100 when left out, 1,000 at most.
    limit: Option<u32>,
    #[serde(rename = "continue")]
    continue_from: Option<String>,
}

fn show(row: ReleaseRow) -> Release {
    Release {
        api_version: API_VERSION.to_owned(),
        kind: "Release".to_owned(),
        metadata: row.metadata,
        spec: ReleaseSpec {
            manifest: row.manifest,
            manifest_digest: row.manifest_digest,
            signed_by: row.signed_by,
            key_name: row.key_name,
            signed_manifest: NewRelease {
                manifest: BASE64.encode(&row.manifest_bytes),
                signature: BASE64.encode(&row.signature),
            },
        },
        status: NoStatus {},
    }
}

/// Lists releases, newest first.
#[utoipa::path(get, path = "/api/releases", tag = "releases", params(Page),
    responses((status = 200, body = List<Release>), (status = "4XX", body = Problem)))]
async fn list(Db(db): Db, Query(page): Query<Page>) -> ApiResult<Json<List<Release>>> {
    let limit = crate::extract::limit(page.limit)?;
    let before = page.continue_from.as_deref().map(crate::extract::cursor_uuid).transpose()?;
    let rows = db.releases(page.app.as_deref(), before, limit).await?;
    let full = rows.len() == limit as usize;
    let continue_from = rows.last().filter(|_| full).map(|row| row.metadata.uid.to_string());
    Ok(Json(List {
        items: rows.into_iter().map(show).collect(),
        metadata: ListMetadata { continue_from, total: None },
    }))
}

/// Shows one release.
#[utoipa::path(get, path = "/api/releases/{id}", tag = "releases", params(("id" = String, Path)),
    responses((status = 200, body = Release), (status = "4XX", body = Problem)))]
async fn get(Db(db): Db, Path(id): Path<String>) -> ApiResult<Response> {
    let row = db.release(&id).await?;
    Ok(versioned(row.metadata.resource_version, &show(row)))
}

/// Deletes a release that nothing points to.
#[utoipa::path(delete, path = "/api/releases/{id}", tag = "releases", params(("id" = String, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
async fn delete(
    State(app): State<App>,
    Db(db): Db,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    db.delete_release(&id, if_match(&headers)?, now()).await?;
    app.events_written();
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a signed manifest. It is refused here as a device would refuse it.
#[utoipa::path(post, path = "/api/releases", tag = "releases", request_body = NewRelease,
    responses((status = 201, body = Release), (status = "4XX", body = Problem)))]
async fn create(
    State(app): State<App>,
    Db(db): Db,
    Caller(caller): Caller,
    Body(new): Body<NewRelease>,
) -> ApiResult<(StatusCode, Response)> {
    let manifest_bytes = keys::decode("manifest", &new.manifest)?;
    let signature = keys::decode("signature", &new.signature)?;
    if manifest_bytes.len() > MAX_MANIFEST_BYTES {
        return Err(ApiError::new(ErrorCode::TooLarge, ManifestError::TooLarge.to_string()));
    }
    let trusted = keys::current_keys(&db).await?.ok_or_else(|| {
        untrusted("no release keys are trusted yet. Make a set with `farshore key init` and a tenant admin's or security analyst's role")
    })?;
    let (signed_by, key_name) = verify(&trusted, &manifest_bytes, &signature)?;
    let manifest = Manifest::parse(&manifest_bytes).map_err(|error| match error {
        ManifestError::Invalid { field, what } => ApiError::field(format!("manifest.{field}"), what),
        other => ApiError::field("manifest", other.to_string()),
    })?;
    if manifest.tenant != *caller.tenant_name() {
        return Err(untrusted(format!(
            "it is signed for tenant {}, and this is {}",
            manifest.tenant,
            caller.tenant_name()
        )));
    }
    check_artifacts(&db, &manifest).await?;
    check_floor(&db, &manifest).await?;
    let name = Name::new(format!("{}-{}", manifest.app, manifest.version.as_str().to_ascii_lowercase()))
        .map_err(|error| {
            ApiError::field("manifest.version", format!("gives the release no usable name: {error}"))
        })?;
    let row = NewReleaseRow {
        uid: ReleaseId(Uuid::now_v7()),
        name: &name,
        manifest: &manifest,
        manifest_bytes: &manifest_bytes,
        signature: &signature,
        signed_by: &signed_by,
        key_name: &key_name,
        managed_by: "api",
    };
    let stored = db.create_release(row, now()).await?;
    app.events_written();
    Ok((StatusCode::CREATED, versioned(stored.metadata.resource_version, &show(stored))))
}

fn untrusted(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Untrusted, format!("The release is refused: {why}."))
}

fn verify(trusted: &TrustedKeySet, manifest: &[u8], signature: &[u8]) -> ApiResult<(String, String)> {
    let id =
        verify_blob(&trusted.public_keys(), manifest, signature).map_err(|error| untrusted(chain(&error)))?;
    let name = trusted.keys().iter().find(|key| key.key.key_id() == id).map(|key| key.name.to_string());
    Ok((id.to_string(), name.unwrap_or_default()))
}

/// Every platform's artifact is there, with the size the manifest says.
async fn check_artifacts(db: &TenantDb, manifest: &Manifest) -> ApiResult<()> {
    for (index, platform) in manifest.platforms.iter().enumerate() {
        let wanted = &platform.artifact;
        match db.artifact(&wanted.digest).await {
            Ok(there) if there.size == wanted.size => {}
            Ok(there) => {
                return Err(untrusted(format!(
                    "artifact {} has {} bytes, the manifest says {}",
                    wanted.digest, there.size, wanted.size
                )));
            }
            Err(StoreError::NotFound(_)) => {
                return Err(ApiError::field(
                    format!("manifest.platforms[{index}].artifact.digest"),
                    format!(
                        "{} is not here; upload it first (`farshore release push` does both)",
                        wanted.digest
                    ),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The highest floor among the app's releases: nothing below it may come back in.
async fn check_floor(db: &TenantDb, manifest: &Manifest) -> ApiResult<()> {
    let mut before = None;
    loop {
        let page = db.releases(Some(manifest.app.as_str()), before, 1000).await?;
        for row in &page {
            if let Some(floor) = row.manifest.floor.as_ref().filter(|floor| manifest.version < **floor) {
                return Err(untrusted(format!(
                    "version {} is below {floor}, the floor that release {} set; devices would refuse it",
                    manifest.version, row.metadata.name
                )));
            }
        }
        match page.last() {
            Some(last) if page.len() == 1000 => before = Some(last.metadata.uid),
            _ => return Ok(()),
        }
    }
}
