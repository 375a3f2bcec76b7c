//! The keys that a tenant's gateways seal their batches for.

use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::on;

/// Most keys of a tenant; each rotation adds one, and each still opens what was sealed for it.
const MAX_KEYS: i64 = 1_000;

/// One key. The secret half is wrapped by the master key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestKeyRow {
    /// The first eight bytes of the public half.
    pub id: [u8; 8],
    pub public_key: Vec<u8>,
    pub wrapped_key: Vec<u8>,
    pub created_at: UnixMs,
    /// Since when nothing is sealed for it any more.
    pub retired_at: Option<UnixMs>,
}

type Row = (Vec<u8>, Vec<u8>, Vec<u8>, i64, Option<i64>);

fn row((id, public_key, wrapped_key, created_at, retired_at): Row) -> StoreResult<IngestKeyRow> {
    let id = id.try_into().map_err(|_| StoreError::Corrupt("the id of an ingest key".to_owned()))?;
    let (created_at, retired_at) = (UnixMs(created_at), retired_at.map(UnixMs));
    Ok(IngestKeyRow { id, public_key, wrapped_key, created_at, retired_at })
}

async fn current(tx: &mut Tx, tenant: Uuid) -> StoreResult<Option<IngestKeyRow>> {
    let found: Option<Row> = on!(tx, c => sqlx::query_as(
        "SELECT id, public_key, wrapped_key, created_at, retired_at FROM ingest_keys WHERE tenant = $1 AND state = 'current'")
        .bind(tenant).fetch_optional(c).await)?;
    found.map(row).transpose()
}

impl TenantDb {
    /// The key that batches are sealed for now.
    pub async fn current_ingest_key(&self) -> StoreResult<Option<IngestKeyRow>> {
        let mut tx = self.read().await?;
        current(&mut tx, self.tenant.0).await
    }

    /// A key by its id, retired or not.
    pub async fn ingest_key(&self, id: [u8; 8]) -> StoreResult<Option<IngestKeyRow>> {
        let mut tx = self.read().await?;
        let found: Option<Row> = on!(&mut tx, c => sqlx::query_as(
            "SELECT id, public_key, wrapped_key, created_at, retired_at FROM ingest_keys WHERE tenant = $1 AND id = $2")
            .bind(self.tenant.0).bind(&id[..]).fetch_optional(c).await)?;
        found.map(row).transpose()
    }

    /// All keys, the newest first.
    pub async fn ingest_keys(&self) -> StoreResult<Vec<IngestKeyRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(
            "SELECT id, public_key, wrapped_key, created_at, retired_at FROM ingest_keys WHERE tenant = $1
             ORDER BY created_at DESC, id LIMIT $2")
            .bind(self.tenant.0).bind(MAX_KEYS).fetch_all(c).await)?;
        rows.into_iter().map(row).collect()
    }

    /// Puts a key in the place of the one with the id `replaces`, or of none. Returns the one in use: somebody else may have been first.
    pub async fn add_ingest_key(
        &self,
        new: &IngestKeyRow,
        replaces: Option<[u8; 8]>,
        now: UnixMs,
    ) -> StoreResult<IngestKeyRow> {
        let mut tx = self.begin().await?;
        let (keys,): (i64,) = on!(&mut tx, c => sqlx::query_as("SELECT COUNT(*) FROM ingest_keys WHERE tenant = $1")
            .bind(self.tenant.0).fetch_one(c).await)?;
        if keys >= MAX_KEYS {
            return Err(StoreError::Conflict(format!("A tenant has at most {MAX_KEYS} ingest keys.")));
        }
        if let Some(old) = replaces {
            on!(&mut tx, c => sqlx::query(
                "UPDATE ingest_keys SET state = 'retired', retired_at = $3 WHERE tenant = $1 AND id = $2 AND state = 'current'")
                .bind(self.tenant.0).bind(&old[..]).bind(now.0).execute(c).await.map(affected))?;
        }
        let added = on!(&mut tx, c => sqlx::query(
            "INSERT INTO ingest_keys (tenant, id, public_key, wrapped_key, state, created_at)
             VALUES ($1, $2, $3, $4, 'current', $5) ON CONFLICT DO NOTHING")
            .bind(self.tenant.0).bind(&new.id[..]).bind(&new.public_key).bind(&new.wrapped_key).bind(now.0)
            .execute(c).await.map(affected))?;
        let in_use = current(&mut tx, self.tenant.0).await?.ok_or(StoreError::NotFound("ingest key"))?;
        if added > 0 {
            let id: String = new.id.iter().map(|byte| format!("{byte:02x}")).collect();
            let event = NewEvent {
                uid: Uuid::now_v7(),
                at: now,
                kind: "ingest-key.changed".to_owned(),
                subject_kind: "IngestKey".to_owned(),
                subject: self.tenant.0,
                subject_name: id.clone(),
                actor: self.actor.0.clone(),
                message: format!("gateways seal their batches for the ingest key {id} from now on"),
                payload: serde_json::json!({ "id": id }),
            };
            events::append(&mut tx, self.tenant, &event).await?;
        }
        tx.commit().await?;
        Ok(in_use)
    }
}
