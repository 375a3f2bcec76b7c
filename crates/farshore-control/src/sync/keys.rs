//! The tenant's ingest keys: made when the first gateway asks, the secret half under the master key.

use farshore_domain::id::TenantId;
use farshore_domain::time::UnixMs;
use farshore_store::TenantDb;
use farshore_store::ingest_keys::IngestKeyRow;
use farshore_trust::sealed::{IngestKey, IngestPublicKey};

use crate::app::App;
use crate::error::{ApiError, ApiResult};

fn purpose(tenant: TenantId, id: [u8; 8]) -> String {
    format!("ingest/{tenant}/{}", hex::encode(id))
}

fn generate(app: &App, db: &TenantDb, now: UnixMs) -> ApiResult<IngestKeyRow> {
    let key = IngestKey::generate().map_err(ApiError::internal)?;
    let public = key.public();
    let wrapped = app.authority().master().wrap(&purpose(db.tenant(), public.id()), &*key.to_bytes());
    Ok(IngestKeyRow {
        id: public.id(),
        public_key: public.as_bytes().to_vec(),
        wrapped_key: wrapped.map_err(ApiError::internal)?,
        created_at: now,
        retired_at: None,
    })
}

/// The key that gateways seal for now; made when there is none.
pub(super) async fn current(app: &App, db: &TenantDb, now: UnixMs) -> ApiResult<IngestPublicKey> {
    let row = match db.current_ingest_key().await? {
        Some(row) => row,
        None => {
            let row = db.add_ingest_key(&generate(app, db, now)?, None, now).await?;
            app.events_written();
            row
        }
    };
    let public: [u8; 32] =
        row.public_key.try_into().map_err(|_| ApiError::internal("a stored ingest key has not 32 bytes"))?;
    Ok(IngestPublicKey::from_bytes(public))
}

/// Takes a new key into use. The old one goes on opening what was sealed for it.
pub(super) async fn rotate(app: &App, db: &TenantDb, now: UnixMs) -> ApiResult<IngestKeyRow> {
    let old = db.current_ingest_key().await?.map(|row| row.id);
    let row = db.add_ingest_key(&generate(app, db, now)?, old, now).await?;
    app.events_written();
    Ok(row)
}

/// The secret half of a key, retired or not; `None`: the tenant has no such key.
pub(super) async fn secret(app: &App, db: &TenantDb, id: [u8; 8]) -> ApiResult<Option<IngestKey>> {
    let Some(row) = db.ingest_key(id).await? else { return Ok(None) };
    let plain = app.authority().master().unwrap(&purpose(db.tenant(), id), &row.wrapped_key);
    let plain = plain.map_err(ApiError::internal)?;
    let bytes: [u8; 32] = plain
        .as_slice()
        .try_into()
        .map_err(|_| ApiError::internal("a stored ingest key has not 32 bytes"))?;
    Ok(Some(IngestKey::from_bytes(bytes)))
}
