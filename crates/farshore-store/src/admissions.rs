//! Letting devices in and putting them out: approval, rejection, revocation, and where a device stands.

use farshore_domain::device::Lifecycle;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde_json::json;

use crate::access::{Actor, SystemDb, TenantDb, stored_name};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::{events, on};

/// What the device port must know of a device before it talks to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStanding {
    pub name: Name,
    pub lifecycle: Lifecycle,
    pub revoked: bool,
    /// SHA-256 of its current key's SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
}

impl DeviceStanding {
    /// Whether it may use the device port.
    #[must_use]
    pub const fn is_welcome(&self) -> bool {
        !self.revoked && self.lifecycle.may_connect()
    }
}

/// A device that somebody approved, rejected or revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRef {
    pub uid: DeviceId,
    pub name: Name,
}

impl SystemDb {
    /// What is known of a device; `None` when there is none.
    pub async fn device_standing(
        &self,
        tenant: TenantId,
        device: DeviceId,
    ) -> StoreResult<Option<DeviceStanding>> {
        let mut tx = self.tenant(tenant).read().await?;
        let row: Option<(String, String, Option<i64>, Vec<u8>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT name, lifecycle, revoked_at, public_key FROM devices WHERE tenant = $1 AND uid = $2")
            .bind(tenant.0).bind(device.0).fetch_optional(c).await)?;
        row.map(|(name, lifecycle, revoked_at, public_key)| {
            Ok(DeviceStanding {
                name: stored_name(name)?,
                lifecycle: Lifecycle::from_word(&lifecycle),
                revoked: revoked_at.is_some(),
                public_key,
            })
        })
        .transpose()
    }
}

impl TenantDb {
    /// Lets a pending device in, with the event; it gets its certificate when it asks next.
    pub async fn approve_device(
        &self,
        device: DeviceId,
        comment: &str,
        now: UnixMs,
    ) -> StoreResult<DeviceRef> {
        let mut tx = self.begin().await?;
        let changed = on!(&mut tx, c => sqlx::query(
            "UPDATE devices SET lifecycle = $3, resource_version = resource_version + 1
             WHERE tenant = $1 AND uid = $2 AND lifecycle = $4 AND revoked_at IS NULL")
            .bind(self.tenant.0).bind(device.0).bind(Lifecycle::Claimed.word()).bind(Lifecycle::Pending.word())
            .execute(c).await.map(affected))?;
        let name = self.device_name(&mut tx, device).await?;
        if changed == 0 {
            return Err(StoreError::Conflict(format!("{name} does not wait for an approval.")));
        }
        let Actor(actor) = &self.actor;
        let event = self.event(
            "device.claimed",
            ("Device", device.0, name.as_str()),
            format!("device {name} was approved by {actor}"),
            json!({"approved": true, "comment": comment}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await?;
        Ok(DeviceRef { uid: device, name })
    }

    /// Turns a pending device away for good: its key can't be claimed again. With the event.
    pub async fn reject_device(
        &self,
        device: DeviceId,
        comment: &str,
        now: UnixMs,
    ) -> StoreResult<DeviceRef> {
        self.put_out(device, Some(Lifecycle::Pending), "device.rejected", "rejected", comment, now).await
    }

    /// Revokes a device, with the event: no new certificate, no claim by its key, nothing on the device port. The caller ends its live channel.
    pub async fn revoke_device(
        &self,
        device: DeviceId,
        comment: &str,
        now: UnixMs,
    ) -> StoreResult<DeviceRef> {
        self.put_out(device, None, "device.revoked", "revoked", comment, now).await
    }

    async fn put_out(
        &self,
        device: DeviceId,
        only: Option<Lifecycle>,
        kind: &str,
        word: &str,
        comment: &str,
        now: UnixMs,
    ) -> StoreResult<DeviceRef> {
        let mut tx = self.begin().await?;
        let changed = on!(&mut tx, c => sqlx::query(
            "UPDATE devices SET lifecycle = $3, revoked_at = $4, resource_version = resource_version + 1
             WHERE tenant = $1 AND uid = $2 AND revoked_at IS NULL AND ($5 = '' OR lifecycle = $5)")
            .bind(self.tenant.0).bind(device.0).bind(Lifecycle::Decommissioned.word()).bind(now.0)
            .bind(only.map_or("", Lifecycle::word)).execute(c).await.map(affected))?;
        let name = self.device_name(&mut tx, device).await?;
        if changed == 0 {
            let text = match only {
                Some(_) => format!("{name} does not wait for an approval."),
                None => format!("{name} was revoked before."),
            };
            return Err(StoreError::Conflict(text));
        }
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO revoked_keys (tenant, public_key, device, revoked_at)
             SELECT tenant, public_key, uid, $3 FROM devices WHERE tenant = $1 AND uid = $2
             ON CONFLICT DO NOTHING")
            .bind(self.tenant.0).bind(device.0).bind(now.0).execute(c).await.map(affected))?;
        let event = self.event(
            kind,
            ("Device", device.0, name.as_str()),
            format!("device {name} was {word}"),
            json!({"comment": comment}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await?;
        Ok(DeviceRef { uid: device, name })
    }

    async fn device_name(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<Name> {
        let row: Option<(String,)> = on!(tx, c => sqlx::query_as("SELECT name FROM devices WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(device.0).fetch_optional(c).await)?;
        stored_name(row.ok_or(StoreError::NotFound("device"))?.0)
    }
}
