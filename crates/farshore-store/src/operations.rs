//! Operations: imperative requests to devices, queued until the device is there or they expire.

use farshore_domain::id::{DeviceId, OperationId, TenantId};
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::devices::DeviceRow;
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::on;

/// At most this many unfinished operations for one device.
pub const MAX_OPEN_OPERATIONS: i64 = 32;

/// An operation to be queued.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOperation {
    pub uid: OperationId,
    /// `restart-app`, `logs`, `diagnostics`.
    pub kind: String,
    /// Empty when it concerns the whole device.
    pub app: String,
    /// A JSON object.
    pub arguments: serde_json::Value,
    pub expires_at: UnixMs,
}

/// An operation that waits to be sent or finished.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    pub uid: OperationId,
    pub kind: String,
    pub app: String,
    pub arguments: serde_json::Value,
    pub expires_at: UnixMs,
}

/// What a device says of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationProgress {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub uid: OperationId,
    /// `running`, `succeeded`, `failed`, `expired`, `unsupported`.
    pub state: String,
    pub message: String,
    pub output: Vec<u8>,
}

impl TenantDb {
    /// Queues an operation for a device, with its event. The caller wakes the device's channel.
    pub async fn create_operation(
        &self,
        device: &DeviceRow,
        new: &NewOperation,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        if device.revoked_at.is_some() {
            return Err(StoreError::Conflict(format!(
                "{} is revoked and takes no operations.",
                device.metadata.name
            )));
        }
        let (open,): (i64,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT COUNT(*) FROM operations WHERE tenant = $1 AND device = $2
             AND state IN ('queued', 'running') AND expires_at > $3")
            .bind(self.tenant.0).bind(device.metadata.uid).bind(now.0).fetch_one(c).await)?;
        if open >= MAX_OPEN_OPERATIONS {
            return Err(StoreError::Conflict(format!(
                "{open} operations wait for {} already; try again when some have finished or expired.",
                device.metadata.name
            )));
        }
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO operations (tenant, uid, device, kind, app, arguments, state, created_by, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8, $9)")
            .bind(self.tenant.0).bind(new.uid.0).bind(device.metadata.uid).bind(&new.kind).bind(&new.app)
            .bind(Json(&new.arguments)).bind(&self.actor.0).bind(now.0).bind(new.expires_at.0)
            .execute(c).await.map(affected))?;
        let message = format!("{} {} on {} was requested", new.kind, new.app, device.metadata.name);
        let payload = serde_json::json!({ "operation": new.uid, "kind": new.kind, "app": new.app });
        self.device_event(&mut tx, device, "operation-requested", &message, payload, now).await?;
        tx.commit().await
    }

    /// What still waits for a device, oldest first.
    pub async fn open_operations(&self, device: DeviceId, now: UnixMs) -> StoreResult<Vec<OpenOperation>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid, String, String, Json<serde_json::Value>, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid, kind, app, arguments, expires_at FROM operations
             WHERE tenant = $1 AND device = $2 AND state IN ('queued', 'running') AND expires_at > $3
             ORDER BY created_at, uid")
            .bind(self.tenant.0).bind(device.0).bind(now.0).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(uid, kind, app, arguments, expires_at)| OpenOperation {
                uid: OperationId(uid),
                kind,
                app,
                arguments: arguments.0,
                expires_at: UnixMs(expires_at),
            })
            .collect())
    }
}

impl TenantDb {
    /// Operations of all devices that are not over, newest first, with their devices' uids and names.
    pub async fn operations_under_way(
        &self,
        now: UnixMs,
        limit: u32,
    ) -> StoreResult<Vec<(DeviceId, String, OpenOperation)>> {
        let mut tx = self.read().await?;
        type Read = (Uuid, String, Uuid, String, String, Json<serde_json::Value>, i64);
        let rows: Vec<Read> = on!(&mut tx, c => sqlx::query_as(
            "SELECT o.device, d.name, o.uid, o.kind, o.app, o.arguments, o.expires_at FROM operations o
             JOIN devices d ON d.tenant = o.tenant AND d.uid = o.device
             WHERE o.tenant = $1 AND o.state IN ('queued', 'running') AND o.expires_at > $2
             ORDER BY o.created_at DESC, o.uid LIMIT $3")
            .bind(self.tenant.0).bind(now.0).bind(i64::from(limit)).fetch_all(c).await)?;
        let open = |uid, kind, app, arguments: Json<serde_json::Value>, at| OpenOperation {
            uid: OperationId(uid),
            kind,
            app,
            arguments: arguments.0,
            expires_at: UnixMs(at),
        };
        Ok(rows
            .into_iter()
            .map(|(device, name, uid, kind, app, arguments, at)| {
                (DeviceId(device), name, open(uid, kind, app, arguments, at))
            })
            .collect())
    }
}

/// Writes how operations go; a finished one stays as it is. Returns an event for each that finished.
pub(crate) async fn write_progress(
    tx: &mut Tx,
    progress: &[&OperationProgress],
    now: UnixMs,
) -> StoreResult<Vec<(TenantId, NewEvent)>> {
    let mut news = Vec::new();
    for one in progress {
        let finished = one.state != "running";
        let changed = on!(tx, c => sqlx::query(
            "UPDATE operations SET state = $4, message = $5, output = $6, finished_at = $7
             WHERE tenant = $1 AND uid = $2 AND device = $3 AND state IN ('queued', 'running')")
            .bind(one.tenant.0).bind(one.uid.0).bind(one.device.0).bind(&one.state).bind(&one.message)
            .bind(&one.output).bind(finished.then_some(now.0)).execute(c).await.map(affected))?;
        if changed == 0 || !finished {
            continue;
        }
        let row: Option<(String, String, String)> = on!(tx, c => sqlx::query_as(
            "SELECT o.kind, o.app, d.name FROM operations o JOIN devices d ON d.tenant = o.tenant AND d.uid = o.device
             WHERE o.tenant = $1 AND o.uid = $2")
            .bind(one.tenant.0).bind(one.uid.0).fetch_optional(c).await)?;
        if let Some((kind, app, name)) = row {
            let tail = if one.message.is_empty() { String::new() } else { format!(": {}", one.message) };
            news.push((
                one.tenant,
                NewEvent {
                    uid: Uuid::now_v7(),
                    at: now,
                    kind: "device.operation-finished".to_owned(),
                    subject_kind: "Device".to_owned(),
                    subject: one.device.0,
                    subject_name: name.clone(),
                    actor: format!("device:{name}"),
                    message: format!("{kind} {app} on {name} {}{tail}", one.state),
                    payload: serde_json::json!({ "operation": one.uid, "kind": kind, "app": app, "state": one.state }),
                },
            ));
        }
    }
    Ok(news)
}

impl SystemDb {
    /// Ends operations whose time is over, with their events.
    pub async fn expire_operations(&self, now: UnixMs) -> StoreResult<u64> {
        let over: Vec<(Uuid, Uuid, Uuid, String, String, String)> = {
            let mut tx = self.read().await?;
            on!(&mut tx, c => sqlx::query_as(
                "SELECT o.tenant, o.uid, o.device, o.kind, o.app, d.name FROM operations o
                 JOIN devices d ON d.tenant = o.tenant AND d.uid = o.device
                 WHERE o.state IN ('queued', 'running') AND o.expires_at <= $1 LIMIT 1000")
                .bind(now.0).fetch_all(c).await)?
        };
        if over.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let mut expired = 0;
        for (tenant, uid, device, kind, app, name) in over {
            let changed = on!(&mut tx, c => sqlx::query(
                "UPDATE operations SET state = 'expired', finished_at = $3
                 WHERE tenant = $1 AND uid = $2 AND state IN ('queued', 'running')")
                .bind(tenant).bind(uid).bind(now.0).execute(c).await.map(affected))?;
            if changed == 0 {
                continue;
            }
            expired += 1;
            let event = NewEvent {
                uid: Uuid::now_v7(),
                at: now,
                kind: "device.operation-finished".to_owned(),
                subject_kind: "Device".to_owned(),
                subject: device,
                subject_name: name.clone(),
                actor: self.actor().0.clone(),
                message: format!("{kind} {app} on {name} expired before the device did it"),
                payload: serde_json::json!({ "operation": uid, "kind": kind, "app": app, "state": "expired" }),
            };
            events::append(&mut tx, TenantId(tenant), &event).await?;
        }
        tx.commit().await?;
        Ok(expired)
    }
}
