//! `/api/trusted-keys`: a tenant's release keys, rotated by signed sets.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use farshore_api::claim::SignedKeySet as ApiKeySet;
use farshore_api::release::{TrustedKey, TrustedKeys};
use farshore_api::{ErrorCode, Problem};
use farshore_store::TenantDb;
use farshore_store::keys::KeySetRow;
use farshore_trust::keyset::{SignedKeySet, TrustedKeySet, accept_next};

use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::extract::Body;
use crate::route::Db;

/// The tenant's current set of release keys; none before the first one was accepted.
pub async fn current_keys(db: &TenantDb) -> ApiResult<Option<TrustedKeySet>> {
    let sets = db.key_sets_after(0).await?;
    // What is stored was accepted before; reading it again must not depend on the older sets.
    sets.last()
        .map(|set| TrustedKeySet::reload(&set.document, db.tenant()).map_err(ApiError::internal))
        .transpose()
}

fn view(rows: &[KeySetRow], current: Option<&TrustedKeySet>) -> TrustedKeys {
    TrustedKeys {
        version: current.map_or(0, TrustedKeySet::version),
        keys: current
            .map(|set| set.keys().iter())
            .into_iter()
            .flatten()
            .map(|key| TrustedKey {
                name: key.name.to_string(),
                key_id: key.key.key_id().to_string(),
                pem: key.key.to_pem(),
            })
            .collect(),
        sets: rows
            .iter()
            .map(|row| ApiKeySet {
                document: BASE64.encode(&row.document),
                signature: BASE64.encode(&row.signature),
            })
            .collect(),
    }
}

/// The tenant's release keys, and the chain of sets that led to them.
#[utoipa::path(get, path = "/api/trusted-keys", tag = "releases",
    responses((status = 200, body = TrustedKeys), (status = "4XX", body = Problem)))]
pub(super) async fn list(Db(db): Db) -> ApiResult<Json<TrustedKeys>> {
    let rows = db.key_sets_after(0).await?;
    let current = current_keys(&db).await?;
    Ok(Json(view(&rows, current.as_ref())))
}

pub(super) fn decode(field: &'static str, text: &str) -> ApiResult<Vec<u8>> {
    BASE64
        .decode(text.trim())
        .map_err(|_| ApiError::field(field, "is base64 with padding (RFC 4648, section 4)"))
}

/// Accepts the next set: signed by a key of the current one; the first by a key of its own.
#[utoipa::path(post, path = "/api/trusted-keys", tag = "releases", request_body = ApiKeySet,
    responses((status = 201, body = TrustedKeys), (status = "4XX", body = Problem)))]
pub(super) async fn append(
    State(app): State<App>,
    Db(db): Db,
    Body(set): Body<ApiKeySet>,
) -> ApiResult<(StatusCode, Json<TrustedKeys>)> {
    let signed = SignedKeySet {
        document: decode("document", &set.document)?,
        signature: decode("signature", &set.signature)?,
    };
    let current = current_keys(&db).await?;
    let next = accept_next(current.as_ref(), &signed, db.tenant()).map_err(|error| {
        ApiError::new(
            ErrorCode::Untrusted,
            format!("The key set is refused: {}.", crate::error::chain(&error)),
        )
    })?;
    let row = KeySetRow { version: next.version(), document: signed.document, signature: signed.signature };
    db.append_key_set(&row, now()).await?;
    app.hub().push_trusted_keys(db.tenant());
    app.events_written();
    let rows = db.key_sets_after(0).await?;
    Ok((StatusCode::CREATED, Json(view(&rows, Some(&next)))))
}
