//! Keys of gateways that have no certificate: each belongs to one device, and opens nothing but the addresses by which its readings and documents
//! are synced.
//!
//! Such a device is not claimed: it is registered with its first key, under a public key that nobody can have. Revoking the device ends its keys.

use farshore_domain::device::{Hardware, Lifecycle};
use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::{MINUTE_MS, UnixMs};
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SecretHash, SystemDb, TenantDb, address, stored_name};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::{events, on};

/// Most keys of a tenant.
const MAX_KEYS: i64 = 10_000;

/// A key, without its secret.
#[derive(Clone, Debug)]
pub struct GatewayKeyRow {
    pub uid: Uuid,
    pub name: Name,
    pub device: DeviceId,
    pub device_name: Name,
    pub location: String,
    pub lifetime_seconds: i64,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub last_used_at: Option<UnixMs>,
}

/// A key to be created.
#[derive(Clone, Debug)]
pub struct NewGatewayKey<'a> {
    pub name: &'a Name,
    pub hash: SecretHash,
    /// Registered with this key when there is none of this name.
    pub device: &'a Name,
    /// Of a device that is registered.
    pub location: &'a str,
    pub lifetime_seconds: i64,
    pub labels: &'a Labels,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    device: Uuid,
    device_name: String,
    location: String,
    lifetime_seconds: i64,
    labels: Json<Labels>,
    resource_version: i64,
    created_at: i64,
    expires_at: i64,
    last_used_at: Option<i64>,
}

impl Row {
    fn read(self) -> StoreResult<GatewayKeyRow> {
        Ok(GatewayKeyRow {
            uid: self.uid,
            name: stored_name(self.name)?,
            device: DeviceId(self.device),
            device_name: stored_name(self.device_name)?,
            location: self.location,
            lifetime_seconds: self.lifetime_seconds,
            labels: self.labels.0,
            resource_version: self.resource_version,
            created_at: UnixMs(self.created_at),
            expires_at: UnixMs(self.expires_at),
            last_used_at: self.last_used_at.map(UnixMs),
        })
    }
}

const SELECT: &str = "SELECT k.uid, k.name, k.device, d.name AS device_name, d.location, k.lifetime_seconds, k.labels, k.resource_version, \
     k.created_at, k.expires_at, k.last_used_at FROM gateway_keys k JOIN devices d ON d.tenant = k.tenant AND d.uid = k.device";

impl SystemDb {
    /// Whose key this is. `None`: nobody's, or its time is over.
    pub async fn gateway_key_device(
        &self,
        hash: &SecretHash,
        now: UnixMs,
    ) -> StoreResult<Option<(TenantId, DeviceId)>> {
        let mut tx = self.read().await?;
        let found: Option<(Uuid, Uuid, Uuid, Option<i64>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT tenant, device, uid, last_used_at FROM gateway_keys WHERE hash = $1 AND expires_at > $2")
            .bind(&hash.0[..]).bind(now.0).fetch_optional(c).await)?;
        drop(tx);
        let Some((tenant, device, uid, last_used_at)) = found else { return Ok(None) };
        if last_used_at.is_none_or(|at| at < now.0 - MINUTE_MS) {
            let mut tx = self.tenant(TenantId(tenant)).begin().await?;
            on!(&mut tx, c => sqlx::query("UPDATE gateway_keys SET last_used_at = $3 WHERE tenant = $1 AND uid = $2")
                .bind(tenant).bind(uid).bind(now.0).execute(c).await.map(affected))?;
            tx.commit().await?;
        }
        Ok(Some((TenantId(tenant), DeviceId(device))))
    }
}

impl TenantDb {
    /// A page of keys, by name, after `after`.
    pub async fn gateway_keys(&self, after: Option<&str>, limit: u32) -> StoreResult<Vec<GatewayKeyRow>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "{SELECT} WHERE k.tenant = $1 AND k.name > $2 ORDER BY k.name LIMIT $3"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    async fn gateway_key_in(&self, tx: &mut Tx, id: &str) -> StoreResult<GatewayKeyRow> {
        let (uid, name) = address(id);
        let sql =
            sqlx::AssertSqlSafe(format!("{SELECT} WHERE k.tenant = $1 AND (k.uid = $2 OR k.name = $3)"));
        let row: Option<Row> = on!(tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(uid).bind(name).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("gateway key"))?.read()
    }

    /// Creates a key, with its event; and its device, when there is none of that name.
    pub async fn create_gateway_key(
        &self,
        new: &NewGatewayKey<'_>,
        now: UnixMs,
    ) -> StoreResult<GatewayKeyRow> {
        let mut tx = self.begin().await?;
        // An expired key keeps neither its row nor its name.
        on!(&mut tx, c => sqlx::query("DELETE FROM gateway_keys WHERE tenant = $1 AND expires_at <= $2")
            .bind(self.tenant.0).bind(now.0).execute(c).await.map(affected))?;
        let (keys,): (i64,) = on!(&mut tx, c => sqlx::query_as("SELECT COUNT(*) FROM gateway_keys WHERE tenant = $1")
            .bind(self.tenant.0).fetch_one(c).await)?;
        if keys >= MAX_KEYS {
            return Err(StoreError::Conflict(format!("A tenant has at most {MAX_KEYS} gateway keys.")));
        }
        let device = self.gateway_device(&mut tx, new, now).await?;
        let uid = Uuid::now_v7();
        let expires_at = now.plus_ms(new.lifetime_seconds.saturating_mul(1_000));
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO gateway_keys (tenant, uid, name, hash, device, lifetime_seconds, labels, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, name) DO NOTHING")
            .bind(self.tenant.0).bind(uid).bind(new.name.as_str()).bind(&new.hash.0[..]).bind(device.0)
            .bind(new.lifetime_seconds).bind(Json(new.labels)).bind(now.0).bind(expires_at.0)
            .execute(c).await.map(affected))?;
        if inserted == 0 {
            return Err(StoreError::Conflict(format!(
                "There is a gateway key {:?} already.",
                new.name.as_str()
            )));
        }
        let event = self.event(
            "gateway-key.created",
            ("GatewayKey", uid, new.name.as_str()),
            format!("gateway key {} was created for device {}", new.name, new.device),
            json!({"device": new.device, "expiresAt": expires_at}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        let row = self.gateway_key_in(&mut tx, &uid.to_string()).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// The device of that name, registered when there is none.
    async fn gateway_device(
        &self,
        tx: &mut Tx,
        new: &NewGatewayKey<'_>,
        now: UnixMs,
    ) -> StoreResult<DeviceId> {
        let known: Option<(Uuid, String, Option<i64>)> = on!(&mut *tx, c => sqlx::query_as(
            "SELECT uid, lifecycle, revoked_at FROM devices WHERE tenant = $1 AND name = $2")
            .bind(self.tenant.0).bind(new.device.as_str()).fetch_optional(c).await)?;
        if let Some((uid, lifecycle, revoked_at)) = known {
            if revoked_at.is_some() || !Lifecycle::from_word(&lifecycle).may_connect() {
                return Err(StoreError::Conflict(format!(
                    "Device {} is not let in: it is {lifecycle}. A key would open nothing.",
                    new.device
                )));
            }
            return Ok(DeviceId(uid));
        }
        let uid = Uuid::now_v7();
        // The digest of no key: no certificate fits it.
        let public_key = Digest::of(format!("a gateway without a certificate {uid}").as_bytes());
        on!(&mut *tx, c => sqlx::query(
            "INSERT INTO devices (tenant, uid, name, labels, managed_by, created_at, location, channel, driver, lifecycle,
                 public_key, hardware)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
            .bind(self.tenant.0).bind(uid).bind(new.device.as_str()).bind(Json(Labels::default())).bind("gateway-key")
            .bind(now.0).bind(new.location).bind("prod").bind("agent").bind(Lifecycle::Claimed.word())
            .bind(&public_key.as_bytes()[..]).bind(Json(Hardware::default())).execute(c).await.map(affected))?;
        let event = self.event(
            "device.registered",
            ("Device", uid, new.device.as_str()),
            format!("device {} was registered with gateway key {}", new.device, new.name),
            json!({"key": new.name}),
            now,
        );
        events::append(tx, self.tenant, &event).await?;
        Ok(DeviceId(uid))
    }

    /// Ends a key, with its event. Its device and what it sent stay.
    pub async fn revoke_gateway_key(&self, id: &str, expected: Option<i64>, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let old = self.gateway_key_in(&mut tx, id).await?;
        crate::users::check_version(old.resource_version, expected)?;
        on!(&mut tx, c => sqlx::query("DELETE FROM gateway_keys WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.uid).execute(c).await.map(affected))?;
        let event = self.event(
            "gateway-key.revoked",
            ("GatewayKey", old.uid, old.name.as_str()),
            format!("gateway key {} of device {} was revoked", old.name, old.device_name),
            json!({"device": old.device_name}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }
}
