//! Devices: one device, and what may be changed about it. Lists are in [`device_list`](crate::device_list).

use std::collections::BTreeMap;

use farshore_domain::desired::Generation;
use farshore_domain::device::{Conformance, Hardware, Health, Lifecycle, Reachability, Sense};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::{Metadata, Reason};
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::device_apps::{self, DeviceAppRow};
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::{on, set};

/// A device with everything a page shows of it.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    pub metadata: Metadata,
    pub location: String,
    pub channel: Name,
    pub driver: String,
    pub lifecycle: Lifecycle,
    pub hardware: Hardware,
    pub agent_version: String,
    pub capabilities: Vec<String>,
    /// Who tells which signal of the kernel, by the signal's name.
    pub senses: BTreeMap<String, Sense>,
    pub health: Health,
    pub conformance: Conformance,
    pub reasons: Vec<Reason>,
    pub accepted: Generation,
    pub reported_at: Option<UnixMs>,
    /// Whether a channel is open.
    pub connected: bool,
    pub last_seen_at: Option<UnixMs>,
    pub certificate_expires_at: Option<UnixMs>,
    pub revoked_at: Option<UnixMs>,
    pub apps: Vec<DeviceAppRow>,
    pub desired: Option<IssuedDesired>,
    /// Latest measurements of the host by name.
    pub latest: BTreeMap<String, f64>,
    pub latest_at: Option<UnixMs>,
}

/// The desired state that was issued last: the exact bytes that were signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedDesired {
    pub at: Generation,
    pub body: Vec<u8>,
}

impl DeviceRow {
    #[must_use]
    pub const fn id(&self) -> DeviceId {
        DeviceId(self.metadata.uid)
    }

    /// Computed, so that nothing has to be written when a device falls silent.
    #[must_use]
    pub fn reachability(&self, heartbeat_ms: i64, now: UnixMs) -> Reachability {
        farshore_domain::device::reachability(self.connected, self.last_seen_at, heartbeat_ms, now)
    }
}

/// What may be changed about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    pub name: Name,
    pub labels: Labels,
    pub managed_by: String,
    pub channel: Name,
    pub location: String,
}

/// A step in a device's life that people take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LifecycleStep {
    Cordon,
    Uncordon,
}

impl LifecycleStep {
    /// From which states it leads where, and how events call it.
    const fn rule(self) -> (&'static [Lifecycle], Lifecycle, &'static str) {
        match self {
            Self::Cordon => (&[Lifecycle::Claimed], Lifecycle::Cordoned, "cordoned"),
            Self::Uncordon => (
                &[Lifecycle::Cordoned, Lifecycle::Draining, Lifecycle::Drained],
                Lifecycle::Claimed,
                "uncordoned",
            ),
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    labels: Json<Labels>,
    managed_by: String,
    resource_version: i64,
    created_at: i64,
    location: String,
    channel: String,
    driver: String,
    lifecycle: String,
    hardware: Json<Hardware>,
    agent_version: String,
    capabilities: Json<Vec<String>>,
    senses: Json<BTreeMap<String, Sense>>,
    health: String,
    conformance: String,
    reasons: Json<Vec<Reason>>,
    accepted_epoch: i64,
    accepted_generation: i64,
    reported_at: Option<i64>,
    last_seen_at: Option<i64>,
    certificate_expires_at: Option<i64>,
    revoked_at: Option<i64>,
    session: Option<Uuid>,
}

const COLUMNS: &str =
    "d.uid, d.name, d.labels, d.managed_by, d.resource_version, d.created_at, d.location, d.channel, d.driver,
     d.lifecycle, d.hardware, d.agent_version, d.capabilities, d.senses, d.health, d.conformance, d.reasons, d.accepted_epoch,
     d.accepted_generation, d.reported_at, d.last_seen_at, d.certificate_expires_at, d.revoked_at, s.device AS session";

/// Device, time, values by name.
type LatestRow = (Uuid, i64, Json<BTreeMap<String, f64>>);

/// A number that is never negative.
pub(crate) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) fn name(text: String) -> StoreResult<Name> {
    Name::new(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

impl Row {
    fn read(self) -> StoreResult<DeviceRow> {
        Ok(DeviceRow {
            metadata: Metadata {
                uid: self.uid,
                name: name(self.name)?,
                labels: self.labels.0,
                resource_version: self.resource_version,
                managed_by: self.managed_by,
                created_at: UnixMs(self.created_at),
            },
            location: self.location,
            channel: name(self.channel)?,
            driver: self.driver,
            lifecycle: Lifecycle::from_word(&self.lifecycle),
            hardware: self.hardware.0,
            agent_version: self.agent_version,
            capabilities: self.capabilities.0,
            senses: self.senses.0,
            health: Health::from_word(&self.health),
            conformance: Conformance::from_word(&self.conformance),
            reasons: self.reasons.0,
            accepted: Generation {
                epoch: count(self.accepted_epoch),
                generation: count(self.accepted_generation),
            },
            reported_at: self.reported_at.map(UnixMs),
            connected: self.session.is_some(),
            last_seen_at: self.last_seen_at.map(UnixMs),
            certificate_expires_at: self.certificate_expires_at.map(UnixMs),
            revoked_at: self.revoked_at.map(UnixMs),
            apps: Vec::new(),
            desired: None,
            latest: BTreeMap::new(),
            latest_at: None,
        })
    }
}

/// Reads these devices, in the order asked for; those that are not there are left out.
pub(crate) async fn read_devices(
    tx: &mut Tx,
    tenant: TenantId,
    wanted: &[Uuid],
) -> StoreResult<Vec<DeviceRow>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut conditions = Conditions::default();
    conditions.uuid(tenant.0);
    let list = conditions.uuids(wanted.iter().copied());
    // One device is asked for often; the texts of lists differ too much to be kept.
    let keep = wanted.len() == 1;
    let arguments = &conditions.arguments;

    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM devices d LEFT JOIN device_sessions s ON s.tenant = d.tenant AND s.device = d.uid
         WHERE d.tenant = $1 AND d.uid IN ({list})"
    ));
    let rows: Vec<Row> =
        on!(tx, c => bind_all!(sqlx::query_as(sql).persistent(keep), arguments).fetch_all(c).await)?;
    let mut devices = BTreeMap::new();
    for row in rows {
        devices.insert(row.uid, row.read()?);
    }

    for (device, app) in device_apps::read_apps(tx, &list, arguments, keep).await? {
        if let Some(row) = devices.get_mut(&device) {
            row.apps.push(app);
        }
    }

    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT device, epoch, generation, body FROM desired_states WHERE tenant = $1 AND device IN ({list})"
    ));
    let desired: Vec<(Uuid, i64, i64, Vec<u8>)> =
        on!(tx, c => bind_all!(sqlx::query_as(sql).persistent(keep), arguments).fetch_all(c).await)?;
    for (device, epoch, generation, body) in desired {
        if let Some(row) = devices.get_mut(&device) {
            let at = Generation { epoch: count(epoch), generation: count(generation) };
            row.desired = Some(IssuedDesired { at, body });
        }
    }

    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT device, at, latest FROM metric_latest WHERE tenant = $1 AND device IN ({list}) AND stream = 'host'"
    ));
    let latest: Vec<LatestRow> =
        on!(tx, c => bind_all!(sqlx::query_as(sql).persistent(keep), arguments).fetch_all(c).await)?;
    for (device, at, values) in latest {
        if let Some(row) = devices.get_mut(&device) {
            row.latest = values.0;
            row.latest_at = Some(UnixMs(at));
        }
    }
    Ok(wanted.iter().filter_map(|uid| devices.remove(uid)).collect())
}

/// Replaces the rows by which selectors find the device.
pub(crate) async fn write_labels(
    tx: &mut Tx,
    tenant: TenantId,
    device: Uuid,
    labels: &Labels,
) -> StoreResult<()> {
    on!(tx, c => sqlx::query("DELETE FROM device_labels WHERE tenant = $1 AND device = $2")
        .bind(tenant.0).bind(device).execute(c).await.map(affected))?;
    if labels.is_empty() {
        return Ok(());
    }
    let sql = sqlx::AssertSqlSafe(format!(
        "INSERT INTO device_labels (tenant, device, key, value) VALUES {}",
        set::values(labels.len(), 4)
    ));
    on!(tx, c => {
        let mut query = sqlx::query(sql);
        for (key, value) in labels.iter() {
            query = query.bind(tenant.0).bind(device).bind(key).bind(value);
        }
        query.execute(c).await.map(affected)
    })?;
    Ok(())
}

impl TenantDb {
    /// One device, by uid or name.
    pub async fn device(&self, id: &str) -> StoreResult<DeviceRow> {
        let mut tx = self.read().await?;
        self.device_in(&mut tx, id).await
    }

    /// The uid of a device, by uid or name.
    pub async fn device_id(&self, id: &str) -> StoreResult<DeviceId> {
        let mut tx = self.read().await?;
        self.device_id_in(&mut tx, id).await
    }

    async fn device_id_in(&self, tx: &mut Tx, id: &str) -> StoreResult<DeviceId> {
        let uid = Uuid::parse_str(id).unwrap_or(Uuid::nil());
        let found: Option<(Uuid,)> = on!(tx, c => sqlx::query_as(
            "SELECT uid FROM devices WHERE tenant = $1 AND (uid = $2 OR name = $3)")
            .bind(self.tenant.0).bind(uid).bind(id).fetch_optional(c).await)?;
        found.map(|(uid,)| DeviceId(uid)).ok_or(StoreError::NotFound("device"))
    }

    async fn device_in(&self, tx: &mut Tx, id: &str) -> StoreResult<DeviceRow> {
        let uid = self.device_id_in(tx, id).await?;
        read_devices(tx, self.tenant, &[uid.0]).await?.pop().ok_or(StoreError::NotFound("device"))
    }

    /// Changes labels, channel and location, if the device still is at `expected`.
    pub async fn change_device(
        &self,
        id: &str,
        change: &DeviceChange,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<DeviceRow> {
        let mut tx = self.begin().await?;
        let old = self.device_in(&mut tx, id).await?;
        check_version(&old, expected)?;
        if old.metadata.name != change.name {
            return Err(StoreError::Conflict(
                "A device can't be renamed: its name was given when it was claimed.".to_owned(),
            ));
        }
        if old.lifecycle == Lifecycle::Decommissioned {
            return Err(StoreError::Conflict(format!(
                "{} is decommissioned and can't be changed.",
                change.name
            )));
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE devices SET labels = $3, managed_by = $4, channel = $5, location = $6,
                 resource_version = resource_version + 1 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(Json(&change.labels)).bind(&change.managed_by)
            .bind(change.channel.as_str()).bind(&change.location).execute(c).await.map(affected))?;
        if old.metadata.labels != change.labels {
            write_labels(&mut tx, self.tenant, old.metadata.uid, &change.labels).await?;
        }
        let payload = serde_json::json!({
            "before": { "labels": old.metadata.labels, "channel": old.channel, "location": old.location },
            "after": { "labels": change.labels, "channel": change.channel, "location": change.location },
        });
        self.device_event(
            &mut tx,
            &old,
            "changed",
            &format!("device {} was changed", change.name),
            payload,
            now,
        )
        .await?;
        let device = self.device_in(&mut tx, &old.metadata.uid.to_string()).await?;
        tx.commit().await?;
        Ok(device)
    }

    /// Takes a step in the device's life. A step taken already is not an error and makes no second event.
    pub async fn step_device(
        &self,
        id: &str,
        step: LifecycleStep,
        comment: &str,
        now: UnixMs,
    ) -> StoreResult<DeviceRow> {
        let (from, to, word) = step.rule();
        let mut tx = self.begin().await?;
        let old = self.device_in(&mut tx, id).await?;
        if old.lifecycle == to {
            return Ok(old);
        }
        if !from.contains(&old.lifecycle) || old.revoked_at.is_some() {
            let state = if old.revoked_at.is_some() { "revoked" } else { old.lifecycle.word() };
            return Err(StoreError::Conflict(format!(
                "{} is {state} and can't be {word}.",
                old.metadata.name
            )));
        }
        if step == LifecycleStep::Uncordon {
            self.end_drains(&mut tx, old.id(), now).await?;
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE devices SET lifecycle = $3, resource_version = resource_version + 1 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(to.word()).execute(c).await.map(affected))?;
        let message = sentence(&old.metadata.name, word, comment);
        self.device_event(&mut tx, &old, word, &message, serde_json::json!({ "comment": comment }), now)
            .await?;
        let device = self.device_in(&mut tx, &old.metadata.uid.to_string()).await?;
        tx.commit().await?;
        Ok(device)
    }

    /// Takes a device out of the fleet for ever: its key is refused everywhere from now on, and lists leave it out. The caller closes its channel.
    pub async fn decommission_device(
        &self,
        id: &str,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<DeviceRow> {
        let mut tx = self.begin().await?;
        let old = self.device_in(&mut tx, id).await?;
        check_version(&old, expected)?;
        if old.revoked_at.is_some() && old.lifecycle == Lifecycle::Decommissioned {
            return Ok(old);
        }
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO revoked_keys (tenant, public_key, device, revoked_at)
             SELECT tenant, public_key, uid, $3 FROM devices WHERE tenant = $1 AND uid = $2
             ON CONFLICT (tenant, public_key) DO NOTHING")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(now.0).execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query(
            "UPDATE devices SET lifecycle = $3, revoked_at = COALESCE(revoked_at, $4),
                 resource_version = resource_version + 1 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(Lifecycle::Decommissioned.word()).bind(now.0)
            .execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query(
            "UPDATE operations SET state = 'expired', finished_at = $3, message = 'the device was decommissioned'
             WHERE tenant = $1 AND device = $2 AND finished_at IS NULL")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(now.0).execute(c).await.map(affected))?;
        let message = sentence(&old.metadata.name, "decommissioned", "");
        self.device_event(&mut tx, &old, "decommissioned", &message, serde_json::json!({}), now).await?;
        let device = self.device_in(&mut tx, &old.metadata.uid.to_string()).await?;
        tx.commit().await?;
        Ok(device)
    }

    /// Lifts the hold on an app of a device: the next desired state carries a higher count than the device has seen.
    pub async fn resume_device_app(&self, id: &str, app: &Name, now: UnixMs) -> StoreResult<DeviceRow> {
        let mut tx = self.begin().await?;
        let old = self.device_in(&mut tx, id).await?;
        if !self.resume_app(&mut tx, old.id(), app).await? {
            return Err(StoreError::NotFound("app on this device"));
        }
        let message = format!("{app} on {} was resumed", old.metadata.name);
        self.device_event(&mut tx, &old, "resumed", &message, serde_json::json!({ "app": app }), now).await?;
        let device = self.device_in(&mut tx, &old.metadata.uid.to_string()).await?;
        tx.commit().await?;
        Ok(device)
    }

    /// Counts an app of a device up as resumed, as [`TenantDb::resume_device_app`] does. Returns whether the device has the app.
    pub async fn resume_app(&self, tx: &mut Tx, device: DeviceId, app: &Name) -> StoreResult<bool> {
        let known = on!(tx, c => sqlx::query(
            "UPDATE device_apps SET resumed_wanted =
                 CASE WHEN resumed_wanted > resumed_seen THEN resumed_wanted ELSE resumed_seen END + 1
             WHERE tenant = $1 AND device = $2 AND app = $3")
            .bind(self.tenant.0).bind(device.0).bind(app.as_str()).execute(c).await.map(affected))?;
        Ok(known > 0)
    }

    pub(crate) async fn device_event(
        &self,
        tx: &mut Tx,
        device: &DeviceRow,
        what: &str,
        message: &str,
        payload: serde_json::Value,
        now: UnixMs,
    ) -> StoreResult<()> {
        let event = NewEvent {
            uid: Uuid::now_v7(),
            at: now,
            kind: format!("device.{what}"),
            subject_kind: "Device".to_owned(),
            subject: device.metadata.uid,
            subject_name: device.metadata.name.to_string(),
            actor: self.actor.0.clone(),
            message: message.to_owned(),
            payload,
        };
        events::append(tx, self.tenant, &event).await
    }
}

fn check_version(device: &DeviceRow, expected: Option<i64>) -> StoreResult<()> {
    match expected {
        Some(expected) if expected != device.metadata.resource_version => {
            Err(StoreError::VersionMismatch { expected, current: device.metadata.resource_version })
        }
        _ => Ok(()),
    }
}

fn sentence(name: &Name, word: &str, comment: &str) -> String {
    if comment.is_empty() {
        format!("device {name} was {word}")
    } else {
        format!("device {name} was {word}: {comment}")
    }
}
