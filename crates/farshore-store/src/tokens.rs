//! API tokens: what programs log in with.

use farshore_domain::access::RoleName;
use farshore_domain::id::{ApiTokenId, TenantId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::{MINUTE_MS, UnixMs};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{Driver, Principal, SecretHash, TenantDb, Who, address, stored_name, stored_role};
use crate::db::{Store, Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::{events, on};

/// An API token, without its secret.
#[derive(Clone, Debug)]
pub struct ApiTokenRow {
    pub uid: ApiTokenId,
    pub name: Name,
    pub role: RoleName,
    pub lifetime_seconds: i64,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub last_used_at: Option<UnixMs>,
}

/// An API token to be created.
#[derive(Clone, Debug)]
pub struct NewApiToken<'a> {
    pub name: &'a Name,
    pub hash: SecretHash,
    pub role: &'a RoleName,
    pub lifetime_seconds: i64,
    pub labels: &'a Labels,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    role: String,
    lifetime_seconds: i64,
    labels: Json<Labels>,
    resource_version: i64,
    created_at: i64,
    expires_at: i64,
    last_used_at: Option<i64>,
}

impl Row {
    fn read(self) -> StoreResult<ApiTokenRow> {
        Ok(ApiTokenRow {
            uid: ApiTokenId(self.uid),
            name: stored_name(self.name)?,
            role: stored_role(self.role)?,
            lifetime_seconds: self.lifetime_seconds,
            labels: self.labels.0,
            resource_version: self.resource_version,
            created_at: UnixMs(self.created_at),
            expires_at: UnixMs(self.expires_at),
            last_used_at: self.last_used_at.map(UnixMs),
        })
    }
}

const COLUMNS: &str =
    "uid, name, role, lifetime_seconds, labels, resource_version, created_at, expires_at, last_used_at";

#[derive(sqlx::FromRow)]
struct Carried {
    tenant: Uuid,
    tenant_name: String,
    uid: Uuid,
    name: String,
    role: String,
    expires_at: i64,
    last_used_at: Option<i64>,
}

impl Store {
    /// Who carries this API token. `None`: no such token, or it has ended or was revoked.
    pub async fn authenticate_api_token(
        &self,
        hash: &SecretHash,
        now: UnixMs,
    ) -> StoreResult<Option<Principal>> {
        let system = self.system(Driver::Authenticator);
        let mut tx = system.read().await?;
        let row: Option<Carried> = on!(&mut tx, c => sqlx::query_as(
            "SELECT a.tenant, t.name AS tenant_name, a.uid, a.name, a.role, a.expires_at, a.last_used_at
             FROM api_tokens a JOIN tenants t ON t.uid = a.tenant
             WHERE a.hash = $1 AND a.revoked_at IS NULL AND a.expires_at > $2")
            .bind(&hash.0[..]).bind(now.0).fetch_optional(c).await)?;
        drop(tx);
        let Some(row) = row else { return Ok(None) };
        // A role that this version does not know allows nothing.
        let Ok(role) = RoleName::try_from(row.role) else { return Ok(None) };
        let tenant = TenantId(row.tenant);
        if row.last_used_at.is_none_or(|at| at < now.0 - MINUTE_MS) {
            let mut tx = system.tenant(tenant).begin().await?;
            on!(&mut tx, c => sqlx::query("UPDATE api_tokens SET last_used_at = $3 WHERE tenant = $1 AND uid = $2")
                .bind(row.tenant).bind(row.uid).bind(now.0).execute(c).await.map(affected))?;
            tx.commit().await?;
        }
        Ok(Some(Principal {
            who: Who::ApiToken { uid: ApiTokenId(row.uid), name: stored_name(row.name)? },
            tenant,
            tenant_name: stored_name(row.tenant_name)?,
            role,
            expires_at: UnixMs(row.expires_at),
        }))
    }
}

impl TenantDb {
    /// A page of API tokens that are not revoked, by name, after `after`.
    pub async fn api_tokens(&self, after: Option<&str>, limit: u32) -> StoreResult<Vec<ApiTokenRow>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM api_tokens WHERE tenant = $1 AND revoked_at IS NULL AND name > $2 ORDER BY name LIMIT $3"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    async fn api_token_in(&self, tx: &mut Tx, id: &str) -> StoreResult<ApiTokenRow> {
        let (uid, name) = address(id);
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM api_tokens WHERE tenant = $1 AND revoked_at IS NULL AND (uid = $2 OR name = $3)"
        ));
        let row: Option<Row> = on!(tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(uid).bind(name).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("API token"))?.read()
    }

    /// Creates an API token, with its event. Nobody makes one that may do more than he.
    pub async fn create_api_token(
        &self,
        by: &Principal,
        new: &NewApiToken<'_>,
        now: UnixMs,
    ) -> StoreResult<ApiTokenRow> {
        if !by.may_grant(new.role) {
            return Err(StoreError::Refused(format!(
                "Your role {} does not include everything that {} allows, so a token can't have it either.",
                by.role().as_str(),
                new.role.as_str()
            )));
        }
        let mut tx = self.begin().await?;
        let uid = Uuid::now_v7();
        let expires_at = now.plus_ms(new.lifetime_seconds.saturating_mul(1_000));
        // A revoked token keeps its row for the events that name it, but not its name.
        on!(&mut tx, c => sqlx::query(
            "DELETE FROM api_tokens WHERE tenant = $1 AND name = $2 AND (revoked_at IS NOT NULL OR expires_at <= $3)")
            .bind(self.tenant.0).bind(new.name.as_str()).bind(now.0).execute(c).await.map(affected))?;
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO api_tokens (tenant, uid, name, hash, role, lifetime_seconds, labels, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, name) DO NOTHING")
            .bind(self.tenant.0).bind(uid).bind(new.name.as_str()).bind(&new.hash.0[..]).bind(new.role.as_str())
            .bind(new.lifetime_seconds).bind(Json(new.labels)).bind(now.0).bind(expires_at.0)
            .execute(c).await.map(affected))?;
        if inserted == 0 {
            return Err(StoreError::Conflict(format!(
                "There is an API token {:?} already.",
                new.name.as_str()
            )));
        }
        let event = self.event(
            "api-token.created",
            ("ApiToken", uid, new.name.as_str()),
            format!("API token {} was created as {}", new.name, new.role.as_str()),
            json!({"role": new.role.as_str(), "expiresAt": expires_at}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        let row = self.api_token_in(&mut tx, &uid.to_string()).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Revokes an API token, with its event. Nobody revokes one that may do more than he.
    pub async fn revoke_api_token(
        &self,
        by: &Principal,
        id: &str,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let old = self.api_token_in(&mut tx, id).await?;
        if !by.may_grant(&old.role) {
            return Err(StoreError::Refused(format!(
                "Your role {} does not include everything that this token's role {} allows.",
                by.role().as_str(),
                old.role.as_str()
            )));
        }
        crate::users::check_version(old.resource_version, expected)?;
        on!(&mut tx, c => sqlx::query(
            "UPDATE api_tokens SET revoked_at = $3, resource_version = resource_version + 1 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.uid.0).bind(now.0).execute(c).await.map(affected))?;
        let event = self.event(
            "api-token.revoked",
            ("ApiToken", old.uid.0, old.name.as_str()),
            format!("API token {} was revoked", old.name),
            json!({}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }
}
