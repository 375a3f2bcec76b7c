//! Claim tokens: what lets a device in, for a while and so many times.

use farshore_domain::id::ClaimTokenId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::time::UnixMs;
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SecretHash, TenantDb, address, stored_name};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::users::check_version;
use crate::{events, on};

/// A claim token, without its secret.
#[derive(Clone, Debug)]
pub struct ClaimTokenRow {
    pub metadata: Metadata,
    /// What a device claimed with it gets.
    pub device_labels: Labels,
    pub channel: Name,
    pub location: String,
    pub lifetime_seconds: i64,
    pub uses: i64,
    pub used: i64,
    pub expires_at: UnixMs,
    pub revoked_at: Option<UnixMs>,
}

/// A claim token to be created.
#[derive(Clone, Debug)]
pub struct NewClaimToken<'a> {
    pub name: &'a Name,
    pub labels: &'a Labels,
    pub managed_by: &'a str,
    pub hash: SecretHash,
    pub device_labels: &'a Labels,
    pub channel: &'a Name,
    pub location: &'a str,
    pub lifetime_seconds: i64,
    pub uses: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    labels: Json<Labels>,
    managed_by: String,
    resource_version: i64,
    created_at: i64,
    device_labels: Json<Labels>,
    channel: String,
    location: String,
    lifetime_seconds: i64,
    uses: i64,
    used: i64,
    expires_at: i64,
    revoked_at: Option<i64>,
}

const COLUMNS: &str =
    "uid, name, labels, managed_by, resource_version, created_at, device_labels, channel, location,
    lifetime_seconds, uses, used, expires_at, revoked_at";

impl Row {
    fn read(self) -> StoreResult<ClaimTokenRow> {
        Ok(ClaimTokenRow {
            metadata: Metadata {
                uid: self.uid,
                name: stored_name(self.name)?,
                labels: self.labels.0,
                resource_version: self.resource_version,
                managed_by: self.managed_by,
                created_at: UnixMs(self.created_at),
            },
            device_labels: self.device_labels.0,
            channel: stored_name(self.channel)?,
            location: self.location,
            lifetime_seconds: self.lifetime_seconds,
            uses: self.uses,
            used: self.used,
            expires_at: UnixMs(self.expires_at),
            revoked_at: self.revoked_at.map(UnixMs),
        })
    }
}

impl TenantDb {
    /// A page of claim tokens, by name, after `after`.
    pub async fn claim_tokens(&self, after: Option<&str>, limit: u32) -> StoreResult<Vec<ClaimTokenRow>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM claim_tokens WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One claim token, by uid or name.
    pub async fn claim_token(&self, id: &str) -> StoreResult<ClaimTokenRow> {
        let mut tx = self.read().await?;
        self.claim_token_in(&mut tx, id).await
    }

    pub(crate) async fn claim_token_in(&self, tx: &mut Tx, id: &str) -> StoreResult<ClaimTokenRow> {
        let (uid, name) = address(id);
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM claim_tokens WHERE tenant = $1 AND (uid = $2 OR name = $3)"
        ));
        let row: Option<Row> = on!(tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(uid).bind(name).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("claim token"))?.read()
    }

    /// Reads a claim token and holds off other claims with it until the transaction ends, on both engines.
    pub(crate) async fn lock_claim_token(
        &self,
        tx: &mut Tx,
        uid: ClaimTokenId,
    ) -> StoreResult<ClaimTokenRow> {
        on!(&mut *tx, c => sqlx::query("UPDATE claim_tokens SET used = used WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid.0).execute(c).await.map(affected))?;
        self.claim_token_in(tx, &uid.to_string()).await
    }

    /// Creates a claim token, with its event.
    pub async fn create_claim_token(
        &self,
        new: &NewClaimToken<'_>,
        now: UnixMs,
    ) -> StoreResult<ClaimTokenRow> {
        let mut tx = self.begin().await?;
        let uid = Uuid::now_v7();
        let expires_at = now.plus_ms(new.lifetime_seconds.saturating_mul(1_000));
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO claim_tokens (tenant, uid, name, hash, device_labels, channel, location, lifetime_seconds, uses,
                 labels, managed_by, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (tenant, name) DO NOTHING")
            .bind(self.tenant.0).bind(uid).bind(new.name.as_str()).bind(&new.hash.0[..]).bind(Json(new.device_labels))
            .bind(new.channel.as_str()).bind(new.location).bind(new.lifetime_seconds).bind(new.uses)
            .bind(Json(new.labels)).bind(new.managed_by).bind(now.0).bind(expires_at.0)
            .execute(c).await.map(affected))?;
        if inserted == 0 {
            return Err(StoreError::Conflict(format!(
                "There is a claim token {:?} already.",
                new.name.as_str()
            )));
        }
        let event = self.event(
            "claim-token.created",
            ("ClaimToken", uid, new.name.as_str()),
            format!("claim token {} was created for {} devices", new.name, new.uses),
            json!({"uses": new.uses, "expiresAt": expires_at}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        let row = self.claim_token_in(&mut tx, &uid.to_string()).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Revokes a claim token, with its event. Devices that were claimed with it stay. Revoking it again changes nothing.
    pub async fn revoke_claim_token(&self, id: &str, expected: Option<i64>, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let old = self.claim_token_in(&mut tx, id).await?;
        check_version(old.metadata.resource_version, expected)?;
        if old.revoked_at.is_some() {
            return Ok(());
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE claim_tokens SET revoked_at = $3, resource_version = resource_version + 1 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(now.0).execute(c).await.map(affected))?;
        let event = self.event(
            "claim-token.revoked",
            ("ClaimToken", old.metadata.uid, old.metadata.name.as_str()),
            format!("claim token {} was revoked", old.metadata.name),
            json!({"used": old.used}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }
}
