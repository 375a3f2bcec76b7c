//! Tenants, and the first start of an installation.

use farshore_domain::id::{TenantId, UserId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SecretHash, SystemDb, stored_name};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::{events, on};

/// A tenant.
#[derive(Clone, Debug)]
pub struct TenantRow {
    pub uid: TenantId,
    pub name: Name,
    pub display_name: String,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: UnixMs,
}

/// The tenant, user and link that an empty database starts with.
#[derive(Clone, Debug)]
pub struct FirstStart<'a> {
    pub tenant: &'a Name,
    pub email: &'a str,
    /// Of the one-time link by which the first admin sets a password.
    pub link: SecretHash,
    pub link_expires_at: UnixMs,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    display_name: String,
    labels: Json<Labels>,
    resource_version: i64,
    created_at: i64,
}

impl Row {
    fn read(self) -> StoreResult<TenantRow> {
        Ok(TenantRow {
            uid: TenantId(self.uid),
            name: stored_name(self.name)?,
            display_name: self.display_name,
            labels: self.labels.0,
            resource_version: self.resource_version,
            created_at: UnixMs(self.created_at),
        })
    }
}

/// Holds off whoever else wants this until the transaction ends, on both engines.
pub(crate) async fn lock_installation(tx: &mut Tx) -> StoreResult<()> {
    on!(tx, c => sqlx::query("UPDATE epochs SET epoch = epoch WHERE id = 1").execute(c).await.map(affected))?;
    Ok(())
}

impl SystemDb {
    /// On a database without users: makes the tenant, its platform admin and the one-time link, and says so. Otherwise does nothing.
    pub async fn first_start(
        &self,
        first: &FirstStart<'_>,
        now: UnixMs,
    ) -> StoreResult<Option<(TenantId, UserId)>> {
        let mut tx = self.begin().await?;
        lock_installation(&mut tx).await?;
        let (users,): (i64,) =
            on!(&mut tx, c => sqlx::query_as("SELECT COUNT(*) FROM users").fetch_one(c).await)?;
        if users > 0 {
            return Ok(None);
        }
        let tenant = match self.tenant_in(&mut tx, first.tenant).await? {
            Some(row) => row.uid,
            None => self.insert_tenant(&mut tx, first.tenant, "", &Labels::default(), now).await?,
        };
        let user = UserId(Uuid::now_v7());
        on!(&mut tx, c => sqlx::query("INSERT INTO users (uid, email, created_at) VALUES ($1, $2, $3)")
            .bind(user.0).bind(first.email).bind(now.0).execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO role_bindings (tenant, user_uid, name, role, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(tenant.0).bind(user.0).bind("admin").bind("platform-admin").bind(now.0)
            .execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query("INSERT INTO login_links (hash, user_uid, expires_at) VALUES ($1, $2, $3)")
            .bind(&first.link.0[..]).bind(user.0).bind(first.link_expires_at.0).execute(c).await.map(affected))?;
        let event = self.tenant(tenant).event(
            "user.created",
            ("User", user.0, "admin"),
            format!("The first admin {} was created", first.email),
            json!({"role": "platform-admin"}),
            now,
        );
        events::append(&mut tx, tenant, &event).await?;
        tx.commit().await?;
        Ok(Some((tenant, user)))
    }

    /// Creates a tenant, with its event.
    pub async fn create_tenant(
        &self,
        name: &Name,
        display_name: &str,
        labels: &Labels,
        now: UnixMs,
    ) -> StoreResult<TenantRow> {
        let mut tx = self.begin().await?;
        self.insert_tenant(&mut tx, name, display_name, labels, now).await?;
        let row = self.tenant_in(&mut tx, name).await?.ok_or(StoreError::NotFound("tenant"))?;
        tx.commit().await?;
        Ok(row)
    }

    async fn insert_tenant(
        &self,
        tx: &mut Tx,
        name: &Name,
        display_name: &str,
        labels: &Labels,
        now: UnixMs,
    ) -> StoreResult<TenantId> {
        let tenant = TenantId(Uuid::now_v7());
        let inserted = on!(tx, c => sqlx::query(
            "INSERT INTO tenants (uid, name, display_name, labels, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO NOTHING")
            .bind(tenant.0).bind(name.as_str()).bind(display_name).bind(Json(labels)).bind(now.0)
            .execute(c).await.map(affected))?;
        if inserted == 0 {
            return Err(StoreError::Conflict(format!("There is a tenant {:?} already.", name.as_str())));
        }
        let event = self.tenant(tenant).event(
            "tenant.created",
            ("Tenant", tenant.0, name.as_str()),
            format!("tenant {name} was created"),
            json!({}),
            now,
        );
        events::append(tx, tenant, &event).await?;
        Ok(tenant)
    }

    /// A tenant by name.
    pub async fn tenant_by_name(&self, name: &Name) -> StoreResult<Option<TenantRow>> {
        let mut tx = self.read().await?;
        self.tenant_in(&mut tx, name).await
    }

    pub(crate) async fn tenant_in(&self, tx: &mut Tx, name: &Name) -> StoreResult<Option<TenantRow>> {
        let row: Option<Row> = on!(tx, c => sqlx::query_as(
            "SELECT uid, name, display_name, labels, resource_version, created_at FROM tenants WHERE name = $1")
            .bind(name.as_str()).fetch_optional(c).await)?;
        row.map(Row::read).transpose()
    }

    /// A page of tenants, by name, after `after`.
    pub async fn tenants(&self, after: Option<&str>, limit: u32) -> StoreResult<Vec<TenantRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid, name, display_name, labels, resource_version, created_at FROM tenants
             WHERE name > $1 ORDER BY name LIMIT $2")
            .bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// The tenants a user has a role in, by name.
    pub async fn tenants_of(&self, user: UserId) -> StoreResult<Vec<Name>> {
        let mut tx = self.read().await?;
        let rows: Vec<(String,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT t.name FROM role_bindings b JOIN tenants t ON t.uid = b.tenant WHERE b.user_uid = $1 ORDER BY t.name")
            .bind(user.0).fetch_all(c).await)?;
        rows.into_iter().map(|(name,)| stored_name(name)).collect()
    }
}
