//! The chain of a tenant's trusted key sets, as exact signed bytes.

use farshore_domain::time::UnixMs;

use crate::access::TenantDb;
use crate::db::affected;
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::on;

/// One set: exact bytes and signature file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetRow {
    pub version: u64,
    pub document: Vec<u8>,
    pub signature: Vec<u8>,
}

impl TenantDb {
    /// The sets after `version`, oldest first.
    pub async fn key_sets_after(&self, version: u64) -> StoreResult<Vec<KeySetRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT version, document, signature FROM trusted_key_sets WHERE tenant = $1 AND version > $2 ORDER BY version")
            .bind(self.tenant.0).bind(i64::try_from(version).unwrap_or(i64::MAX)).fetch_all(c).await)?;
        rows.into_iter()
            .map(|(version, document, signature)| {
                let version =
                    u64::try_from(version).map_err(|_| StoreError::Corrupt("key set version".to_owned()))?;
                Ok(KeySetRow { version, document, signature })
            })
            .collect()
    }

    /// Appends a set that was checked against the one before; two writers at once: one wins.
    pub async fn append_key_set(&self, set: &KeySetRow, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let version = i64::try_from(set.version)
            .map_err(|_| StoreError::Conflict("The version is too large.".to_owned()))?;
        let (last,): (i64,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT COALESCE(MAX(version), 0) FROM trusted_key_sets WHERE tenant = $1")
            .bind(self.tenant.0).fetch_one(c).await)?;
        if version != last + 1 {
            return Err(StoreError::Conflict(format!(
                "The current key set is version {last}; the next one is {}.",
                last + 1
            )));
        }
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO trusted_key_sets (tenant, version, document, signature, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(self.tenant.0).bind(version).bind(&set.document).bind(&set.signature).bind(now.0)
            .execute(c).await.map(affected))?;
        let event = NewEvent {
            uid: uuid::Uuid::now_v7(),
            at: now,
            kind: "trusted-keys.changed".to_owned(),
            subject_kind: "TrustedKeys".to_owned(),
            subject: self.tenant.0,
            subject_name: format!("version-{version}"),
            actor: self.actor.0.clone(),
            message: format!("trusted key set version {version} was accepted"),
            payload: serde_json::json!({ "version": version }),
        };
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }
}
