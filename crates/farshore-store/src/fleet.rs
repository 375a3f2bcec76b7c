//! What the drivers that decide what runs where need to know, and what they write: pointers, permits, desired states.

use std::collections::BTreeMap;

use farshore_domain::device::{AppPhase, Lifecycle};
use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, PermitId, ReleaseId, RolloutId, TenantId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::time::UnixMs;
use farshore_domain::version::Version;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events::NewEvent;
use crate::on;

/// A device as far as assigning and rolling out need it.
#[derive(Clone, Debug)]
pub struct FleetDevice {
    pub id: DeviceId,
    pub name: Name,
    pub labels: Labels,
    pub channel: Name,
    pub location: String,
    pub lifecycle: Lifecycle,
    pub last_seen: Option<UnixMs>,
    /// What its agent said it can do.
    pub capabilities: Vec<String>,
}

/// What a device last reported of one app, and how often somebody resumed it.
#[derive(Clone, Debug)]
pub struct FleetApp {
    pub device: DeviceId,
    pub app: Name,
    pub phase: AppPhase,
    pub active: Option<ReleaseId>,
    pub failed: Option<ReleaseId>,
    pub refused: Option<ReleaseId>,
    pub committed: bool,
    pub reasons: Vec<Reason>,
    pub resumed_seen: u64,
    pub resumed_wanted: u64,
    pub reported_at: Option<UnixMs>,
}

/// For one app of a channel, the release that is current there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    pub channel: Name,
    pub app: Name,
    pub release: ReleaseId,
    pub version: String,
}

/// A release as far as assigning needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseMark {
    pub id: ReleaseId,
    pub app: Name,
    pub version: Version,
    pub manifest: Digest,
}

/// A permit as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermitRow {
    pub uid: PermitId,
    pub device: DeviceId,
    pub app: Name,
    pub release: ReleaseId,
    pub rollout: Option<RolloutId>,
    pub issued_at: UnixMs,
    pub expires_at: UnixMs,
}

/// The desired state of one device, as it will be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRow {
    pub device: DeviceId,
    pub epoch: u64,
    pub generation: u64,
    pub body: Vec<u8>,
    /// Of the body without epoch, generation and time.
    pub content: Digest,
}

fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("fleet: {error}"))
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[derive(sqlx::FromRow)]
struct DeviceRow {
    uid: Uuid,
    name: String,
    labels: Json<Labels>,
    channel: String,
    location: String,
    lifecycle: String,
    last_seen_at: Option<i64>,
    capabilities: Json<Vec<String>>,
}

impl DeviceRow {
    fn read(self) -> StoreResult<FleetDevice> {
        Ok(FleetDevice {
            id: DeviceId(self.uid),
            name: Name::new(self.name).map_err(corrupt)?,
            labels: self.labels.0,
            channel: Name::new(self.channel).map_err(corrupt)?,
            location: self.location,
            lifecycle: Lifecycle::from_word(&self.lifecycle),
            last_seen: self.last_seen_at.map(UnixMs),
            capabilities: self.capabilities.0,
        })
    }
}

#[derive(sqlx::FromRow)]
struct AppRow {
    device: Uuid,
    app: String,
    phase: String,
    active_release: Option<Uuid>,
    failed_release: Option<Uuid>,
    refused_release: Option<Uuid>,
    committed: bool,
    reasons: Json<Vec<Reason>>,
    resumed_seen: i64,
    resumed_wanted: i64,
    reported_at: Option<i64>,
}

impl AppRow {
    fn read(self) -> StoreResult<FleetApp> {
        Ok(FleetApp {
            device: DeviceId(self.device),
            app: Name::new(self.app).map_err(corrupt)?,
            phase: AppPhase::from_word(&self.phase),
            active: self.active_release.map(ReleaseId),
            failed: self.failed_release.map(ReleaseId),
            refused: self.refused_release.map(ReleaseId),
            committed: self.committed,
            reasons: self.reasons.0,
            resumed_seen: number(self.resumed_seen),
            resumed_wanted: number(self.resumed_wanted),
            reported_at: self.reported_at.map(UnixMs),
        })
    }
}

/// Uid, device, app, release, rollout, issued, expires.
type RawPermit = (Uuid, Uuid, String, Uuid, Option<Uuid>, i64, i64);

const DEVICE: &str = "SELECT uid, name, labels, channel, location, lifecycle, last_seen_at, capabilities FROM devices WHERE tenant = $1";
const APP: &str =
    "SELECT device, app, phase, active_release, failed_release, refused_release, committed, reasons,
    resumed_seen, resumed_wanted, reported_at FROM device_apps WHERE tenant = $1";
const PERMIT: &str =
    "SELECT uid, device, app, release, rollout, issued_at, expires_at FROM permits WHERE tenant = $1";

/// All tenants, for drivers that walk them.
impl SystemDb {
    pub async fn tenant_ids(&self) -> StoreResult<Vec<(TenantId, Name)>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid, String)> = on!(&mut tx, c => sqlx::query_as("SELECT uid, name FROM tenants ORDER BY name").fetch_all(c).await)?;
        rows.into_iter().map(|(uid, name)| Ok((TenantId(uid), Name::new(name).map_err(corrupt)?))).collect()
    }

    /// The epoch of this database; raised when it is restored.
    pub async fn epoch(&self) -> StoreResult<u64> {
        let mut tx = self.read().await?;
        let (epoch,): (i64,) =
            on!(&mut tx, c => sqlx::query_as("SELECT epoch FROM epochs WHERE id = 1").fetch_one(c).await)?;
        Ok(number(epoch))
    }
}

impl TenantDb {
    /// Every device that is or was claimed.
    pub async fn fleet_devices(&self, tx: &mut Tx) -> StoreResult<Vec<FleetDevice>> {
        let rows: Vec<DeviceRow> =
            on!(tx, c => sqlx::query_as(DEVICE).bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter().map(DeviceRow::read).collect()
    }

    /// One device.
    pub async fn fleet_device(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<Option<FleetDevice>> {
        let sql = sqlx::AssertSqlSafe(format!("{DEVICE} AND uid = $2"));
        let row: Option<DeviceRow> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(device.0).fetch_optional(c).await)?;
        row.map(DeviceRow::read).transpose()
    }

    /// What all devices report of all their apps.
    pub async fn fleet_apps(&self, tx: &mut Tx) -> StoreResult<Vec<FleetApp>> {
        let rows: Vec<AppRow> = on!(tx, c => sqlx::query_as(APP).bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter().map(AppRow::read).collect()
    }

    /// What all devices report of one app.
    pub async fn fleet_app(&self, tx: &mut Tx, app: &Name) -> StoreResult<Vec<FleetApp>> {
        let sql = sqlx::AssertSqlSafe(format!("{APP} AND app = $2"));
        let rows: Vec<AppRow> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(app.as_str()).fetch_all(c).await)?;
        rows.into_iter().map(AppRow::read).collect()
    }

    /// What one device reports of its apps.
    pub async fn fleet_apps_of(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<Vec<FleetApp>> {
        let sql = sqlx::AssertSqlSafe(format!("{APP} AND device = $2"));
        let rows: Vec<AppRow> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(device.0).fetch_all(c).await)?;
        rows.into_iter().map(AppRow::read).collect()
    }

    /// The current release of each app in each channel.
    pub async fn pointers(&self, tx: &mut Tx) -> StoreResult<Vec<Pointer>> {
        let rows: Vec<(String, String, Uuid, String)> = on!(tx, c => sqlx::query_as(
            "SELECT p.channel, p.app, p.release, r.version FROM channel_pointers p
             JOIN releases r ON r.tenant = p.tenant AND r.uid = p.release
             WHERE p.tenant = $1 ORDER BY p.channel, p.app")
            .bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter()
            .map(|(channel, app, release, version)| {
                Ok(Pointer {
                    channel: Name::new(channel).map_err(corrupt)?,
                    app: Name::new(app).map_err(corrupt)?,
                    release: ReleaseId(release),
                    version,
                })
            })
            .collect()
    }

    /// All releases of the tenant, in brief.
    pub async fn release_marks(&self, tx: &mut Tx) -> StoreResult<Vec<ReleaseMark>> {
        let rows: Vec<(Uuid, String, String, String)> = on!(tx, c => sqlx::query_as(
            "SELECT uid, app, version, manifest_digest FROM releases WHERE tenant = $1")
            .bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter()
            .map(|(uid, app, version, manifest)| {
                Ok(ReleaseMark {
                    id: ReleaseId(uid),
                    app: Name::new(app).map_err(corrupt)?,
                    version: version.parse().map_err(corrupt)?,
                    manifest: manifest.parse().map_err(corrupt)?,
                })
            })
            .collect()
    }

    /// Makes `release` the current one of an app in a channel.
    pub async fn move_pointer(
        &self,
        tx: &mut Tx,
        channel: &Name,
        app: &Name,
        release: ReleaseId,
        now: UnixMs,
    ) -> StoreResult<()> {
        on!(tx, c => sqlx::query(
            "INSERT INTO channel_pointers (tenant, channel, app, release, moved_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant, channel, app) DO UPDATE SET release = excluded.release, moved_at = excluded.moved_at")
            .bind(self.tenant.0).bind(channel.as_str()).bind(app.as_str()).bind(release.0).bind(now.0)
            .execute(c).await.map(affected))?;
        Ok(())
    }

    /// Permits that have not expired, of all devices.
    pub async fn live_permits(&self, tx: &mut Tx, now: UnixMs) -> StoreResult<Vec<PermitRow>> {
        let sql = sqlx::AssertSqlSafe(format!("{PERMIT} AND expires_at > $2"));
        let rows: Vec<RawPermit> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(now.0).fetch_all(c).await)?;
        rows.into_iter()
            .map(|(uid, device, app, release, rollout, issued, expires)| {
                Ok(PermitRow {
                    uid: PermitId(uid),
                    device: DeviceId(device),
                    app: Name::new(app).map_err(corrupt)?,
                    release: ReleaseId(release),
                    rollout: rollout.map(RolloutId),
                    issued_at: UnixMs(issued),
                    expires_at: UnixMs(expires),
                })
            })
            .collect()
    }

    /// Keeps a permit that is about to be given.
    pub async fn add_permit(&self, tx: &mut Tx, permit: &PermitRow) -> StoreResult<()> {
        on!(tx, c => sqlx::query(
            "INSERT INTO permits (tenant, uid, device, app, release, rollout, issued_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, uid) DO NOTHING")
            .bind(self.tenant.0).bind(permit.uid.0).bind(permit.device.0).bind(permit.app.as_str()).bind(permit.release.0)
            .bind(permit.rollout.map(|r| r.0)).bind(permit.issued_at.0).bind(permit.expires_at.0)
            .execute(c).await.map(affected))?;
        Ok(())
    }

    /// Forgets permits that expired before `before`.
    pub async fn forget_permits(&self, tx: &mut Tx, before: UnixMs) -> StoreResult<u64> {
        Ok(on!(tx, c => sqlx::query("DELETE FROM permits WHERE tenant = $1 AND expires_at < $2")
            .bind(self.tenant.0).bind(before.0).execute(c).await.map(affected))?)
    }

    /// One device's desired state.
    pub async fn desired_state(&self, device: DeviceId) -> StoreResult<Option<DesiredRow>> {
        let mut tx = self.read().await?;
        let row: Option<(i64, i64, Vec<u8>, String)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT epoch, generation, body, content_digest FROM desired_states WHERE tenant = $1 AND device = $2")
            .bind(self.tenant.0).bind(device.0).fetch_optional(c).await)?;
        row.map(|(epoch, generation, body, content)| {
            Ok(DesiredRow {
                device,
                epoch: number(epoch),
                generation: number(generation),
                body,
                content: content.parse().map_err(corrupt)?,
            })
        })
        .transpose()
    }

    /// Where every device's desired state stands: epoch, generation, digest of its content.
    pub async fn desired_marks(&self, tx: &mut Tx) -> StoreResult<BTreeMap<DeviceId, (u64, u64, Digest)>> {
        let rows: Vec<(Uuid, i64, i64, String)> = on!(tx, c => sqlx::query_as(
            "SELECT device, epoch, generation, content_digest FROM desired_states WHERE tenant = $1")
            .bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter()
            .map(|(device, epoch, generation, content)| {
                Ok((DeviceId(device), (number(epoch), number(generation), content.parse().map_err(corrupt)?)))
            })
            .collect()
    }

    /// Writes new desired states; an older one never replaces a newer one.
    pub async fn write_desired(&self, tx: &mut Tx, rows: &[DesiredRow], now: UnixMs) -> StoreResult<()> {
        for row in rows {
            on!(tx, c => sqlx::query(
                "INSERT INTO desired_states (tenant, device, epoch, generation, body, content_digest, issued_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (tenant, device) DO UPDATE SET epoch = excluded.epoch, generation = excluded.generation,
                     body = excluded.body, content_digest = excluded.content_digest, issued_at = excluded.issued_at
                 WHERE desired_states.epoch < excluded.epoch
                    OR (desired_states.epoch = excluded.epoch AND desired_states.generation < excluded.generation)")
                .bind(self.tenant.0).bind(row.device.0).bind(stored(row.epoch)).bind(stored(row.generation))
                .bind(&row.body).bind(row.content.to_string()).bind(now.0).execute(c).await.map(affected))?;
        }
        Ok(())
    }

    /// Writes an event in the same transaction as the change it tells of.
    pub async fn append_event(&self, tx: &mut Tx, event: &NewEvent) -> StoreResult<()> {
        crate::events::append(tx, self.tenant, event).await
    }
}
