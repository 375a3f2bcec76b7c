//! Operations: imperative requests to devices, queued until the device is there or they expire, done once, and kept for a month.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::device::Lifecycle;
use farshore_domain::id::{DeviceId, OperationId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::operation::{Arguments, Budget, Kind, State};
use farshore_domain::time::{DAY_MS, MINUTE_MS, UnixMs};
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::metrics::{self, StreamKey};
use crate::on;

/// At most this many unfinished operations for one device.
pub const MAX_OPEN_OPERATIONS: i64 = 32;
/// The stream whose marks count batches of how operations go.
pub const OPERATION_STREAM: &str = "operations";
/// A result that comes from afar may take this long on its way.
const GRACE_MS: i64 = MINUTE_MS;
const KEPT_MS: i64 = 30 * DAY_MS;
const OPEN: &str = "('queued', 'delivered', 'running')";

/// An operation to be queued.
#[derive(Clone, Debug, PartialEq)]
pub struct NewOperation {
    pub uid: OperationId,
    pub kind: Kind,
    /// Empty when it concerns the whole device.
    pub app: String,
    pub arguments: Arguments,
    pub reason: String,
    pub expires_at: UnixMs,
    pub time_limit_seconds: u32,
    /// Made together with others.
    pub request: Option<Uuid>,
    pub request_size: u32,
    pub budget: Budget,
    /// It need not wait for its turn.
    pub admitted: bool,
}

/// An operation that waits to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    pub uid: OperationId,
    pub kind: String,
    pub app: String,
    pub arguments: serde_json::Value,
    pub reason: String,
    pub expires_at: UnixMs,
}

/// An operation as it is kept, without its output.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationRow {
    pub uid: OperationId,
    pub name: Name,
    pub device: DeviceId,
    pub device_name: String,
    pub kind: Kind,
    pub app: String,
    pub arguments: Arguments,
    pub reason: String,
    pub state: State,
    pub message: String,
    pub waits: String,
    pub request: Option<Uuid>,
    pub request_size: u32,
    pub budget: Budget,
    pub time_limit_seconds: u32,
    pub created_by: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub admitted_at: Option<UnixMs>,
    pub delivered_at: Option<UnixMs>,
    pub started_at: Option<UnixMs>,
    pub finished_at: Option<UnixMs>,
    pub deadline_at: Option<UnixMs>,
    pub cancel_requested_at: Option<UnixMs>,
    pub cancelled_by: String,
    pub exit_code: Option<i32>,
    pub output_bytes: u64,
    pub output_total: u64,
}

/// Which operations.
#[derive(Clone, Debug, Default)]
pub struct OperationFilter {
    pub device: Option<DeviceId>,
    pub kind: Option<Kind>,
    pub state: Option<State>,
    /// Only those that are not over.
    pub open: bool,
    pub request: Option<Uuid>,
}

/// What a device says of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationProgress {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub uid: OperationId,
    pub state: State,
    pub message: String,
    pub output: Vec<u8>,
    pub output_total: u64,
    pub exit_code: Option<i32>,
}

/// A batch of it; without a number from an agent that keeps no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationReport {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub sequence: Option<i64>,
    pub updates: Vec<OperationProgress>,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    device: Uuid,
    device_name: String,
    kind: String,
    app: String,
    arguments: Json<serde_json::Value>,
    reason: String,
    state: String,
    message: String,
    waits: String,
    request: Option<Uuid>,
    request_size: i64,
    budget: Json<Budget>,
    time_limit: i64,
    created_by: String,
    created_at: i64,
    expires_at: i64,
    admitted_at: Option<i64>,
    delivered_at: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    deadline_at: Option<i64>,
    cancel_requested_at: Option<i64>,
    cancelled_by: String,
    exit_code: Option<i64>,
    output_bytes: i64,
    output_total: i64,
}

const SELECT: &str = "SELECT o.uid, o.device, d.name AS device_name, o.kind, o.app, o.arguments, o.reason, o.state, o.message, o.waits,
     o.request, o.request_size, o.budget, o.time_limit, o.created_by, o.created_at, o.expires_at, o.admitted_at, o.delivered_at,
     o.started_at, o.finished_at, o.deadline_at, o.cancel_requested_at, o.cancelled_by, o.exit_code,
     CAST(COALESCE(LENGTH(o.output), 0) AS BIGINT) AS output_bytes, o.output_total
     FROM operations o JOIN devices d ON d.tenant = o.tenant AND d.uid = o.device WHERE o.tenant = $1";

impl Row {
    fn read(self) -> StoreResult<OperationRow> {
        let small = |number: i64| u32::try_from(number).unwrap_or(0);
        Ok(OperationRow {
            uid: OperationId(self.uid),
            // Its uid, which is a good name.
            name: Name::new(self.uid.to_string())
                .map_err(|error| StoreError::Corrupt(format!("operation: {error}")))?,
            device: DeviceId(self.device),
            device_name: self.device_name,
            kind: Kind::from_word(&self.kind),
            app: self.app,
            // What another version wrote is shown without.
            arguments: serde_json::from_value(self.arguments.0).unwrap_or_default(),
            reason: self.reason,
            state: State::from_word(&self.state),
            message: self.message,
            waits: self.waits,
            request: self.request,
            request_size: small(self.request_size),
            budget: self.budget.0,
            time_limit_seconds: small(self.time_limit),
            created_by: self.created_by,
            created_at: UnixMs(self.created_at),
            expires_at: UnixMs(self.expires_at),
            admitted_at: self.admitted_at.map(UnixMs),
            delivered_at: self.delivered_at.map(UnixMs),
            started_at: self.started_at.map(UnixMs),
            finished_at: self.finished_at.map(UnixMs),
            deadline_at: self.deadline_at.map(UnixMs),
            cancel_requested_at: self.cancel_requested_at.map(UnixMs),
            cancelled_by: self.cancelled_by,
            exit_code: self.exit_code.and_then(|code| i32::try_from(code).ok()),
            output_bytes: self.output_bytes.unsigned_abs(),
            output_total: self.output_total.unsigned_abs(),
        })
    }
}

impl TenantDb {
    /// Queues operations, each with its event, in the caller's transaction. The caller wakes the devices' channels.
    pub async fn create_operations(
        &self,
        tx: &mut Tx,
        new: &[(DeviceId, Name, NewOperation)],
        now: UnixMs,
    ) -> StoreResult<()> {
        for (device, name, new) in new {
            let (open,): (i64,) = on!(tx, c => sqlx::query_as(
                "SELECT COUNT(*) FROM operations WHERE tenant = $1 AND device = $2 AND finished_at IS NULL")
                .bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
            if open >= MAX_OPEN_OPERATIONS {
                return Err(StoreError::Conflict(format!(
                    "{open} operations wait for {name} already; try again when some have finished or expired."
                )));
            }
            let admitted = new.admitted.then_some(now.0);
            on!(tx, c => sqlx::query(
                "INSERT INTO operations (tenant, uid, device, kind, app, arguments, state, created_by, created_at, expires_at,
                     reason, request, request_size, budget, time_limit, admitted_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8, $9, $10, $11, $12, $13, $14, $15)")
                .bind(self.tenant.0).bind(new.uid.0).bind(device.0).bind(new.kind.word()).bind(&new.app)
                .bind(Json(&new.arguments)).bind(&self.actor.0).bind(now.0).bind(new.expires_at.0)
                .bind(&new.reason).bind(new.request).bind(i64::from(new.request_size)).bind(Json(&new.budget))
                .bind(i64::from(new.time_limit_seconds)).bind(admitted)
                .execute(c).await.map(affected))?;
            let what = described(new.kind, &new.app, &new.arguments);
            let why = if new.reason.is_empty() { String::new() } else { format!(": {}", new.reason) };
            let message = format!("{what} on {name} was requested{why}");
            let payload = serde_json::json!({
                "operation": new.uid, "kind": new.kind, "app": new.app, "arguments": new.arguments,
                "reason": new.reason, "request": new.request,
            });
            let event = about(
                *device,
                name.as_str(),
                "device.operation-requested",
                self.actor.0.clone(),
                message,
                payload,
                now,
            );
            events::append(tx, self.tenant, &event).await?;
        }
        Ok(())
    }

    /// What a device is to be sent: its turn has come, and it has not taken it yet. Oldest first.
    pub async fn open_operations(&self, device: DeviceId, now: UnixMs) -> StoreResult<Vec<OpenOperation>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid, String, String, Json<serde_json::Value>, String, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid, kind, app, arguments, reason, expires_at FROM operations
             WHERE tenant = $1 AND device = $2 AND state = 'queued' AND admitted_at IS NOT NULL AND kind NOT IN ('drain', 'force-sync')
               AND expires_at > $3
             ORDER BY created_at, uid")
            .bind(self.tenant.0).bind(device.0).bind(now.0).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(uid, kind, app, arguments, reason, expires_at)| OpenOperation {
                uid: OperationId(uid),
                kind,
                app,
                arguments: arguments.0,
                reason,
                expires_at: UnixMs(expires_at),
            })
            .collect())
    }

    /// What a device is to give up. It may have heard of it before; that does no harm.
    pub async fn cancelled_operations(&self, device: DeviceId, now: UnixMs) -> StoreResult<Vec<OperationId>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid FROM operations WHERE tenant = $1 AND device = $2 AND cancel_requested_at > $3
             AND state IN ('delivered', 'running', 'cancelled') ORDER BY uid LIMIT 64")
            .bind(self.tenant.0).bind(device.0).bind(now.plus_ms(-DAY_MS).0).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(uid,)| OperationId(uid)).collect())
    }

    /// The forced sync that a gateway is to do now: one whose answer may have been lost, or the oldest that waits, which is running from now on.
    pub async fn next_force_sync(&self, device: DeviceId, now: UnixMs) -> StoreResult<Option<OperationId>> {
        let next = async |tx: &mut Tx| -> StoreResult<Option<(Uuid, String, i64)>> {
            Ok(on!(tx, c => sqlx::query_as(
                "SELECT uid, state, time_limit FROM operations
                 WHERE tenant = $1 AND device = $2 AND kind = 'force-sync' AND finished_at IS NULL
                   AND (state = 'running' OR (state = 'queued' AND expires_at > $3))
                 ORDER BY CASE WHEN state = 'running' THEN 0 ELSE 1 END, created_at, uid LIMIT 1")
                .bind(self.tenant.0).bind(device.0).bind(now.0).fetch_optional(c).await)?)
        };
        // Gateways ask all the time, and nearly always for nothing.
        let mut tx = self.read().await?;
        let found = next(&mut tx).await?;
        drop(tx);
        match found {
            None => return Ok(None),
            Some((uid, state, _)) if state == "running" => return Ok(Some(OperationId(uid))),
            Some(_) => {}
        }
        let mut tx = self.begin().await?;
        let Some((uid, _, limit)) = next(&mut tx).await? else { return Ok(None) };
        let deadline = now.plus_ms(limit.saturating_mul(1_000).saturating_add(GRACE_MS));
        on!(&mut tx, c => sqlx::query(
            "UPDATE operations SET state = 'running', waits = '', delivered_at = COALESCE(delivered_at, $3), started_at = $3, deadline_at = $4
             WHERE tenant = $1 AND uid = $2 AND state = 'queued'")
            .bind(self.tenant.0).bind(uid).bind(now.0).bind(deadline.0).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(Some(OperationId(uid)))
    }

    /// Keeps how a forced sync went, once. Says whether it was new.
    pub async fn end_force_sync(
        &self,
        device: DeviceId,
        uid: OperationId,
        state: State,
        message: &str,
        now: UnixMs,
    ) -> StoreResult<bool> {
        let mut tx = self.begin().await?;
        let row = match self.operation_in(&mut tx, uid.0).await {
            Ok(row) if row.kind == Kind::ForceSync && row.device == device => row,
            // Forgotten long ago, or never one of this device.
            Ok(_) | Err(StoreError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        if row.state == state {
            return Ok(false);
        }
        let one = OperationProgress {
            tenant: self.tenant,
            device,
            uid,
            state,
            message: message.to_owned(),
            output: Vec::new(),
            output_total: 0,
            exit_code: None,
        };
        let Some(event) = write_one(&mut tx, &one, now).await? else { return Ok(false) };
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Devices that said that they are gateways.
    pub async fn gateway_ids(&self, tx: &mut Tx) -> StoreResult<BTreeSet<DeviceId>> {
        let rows: Vec<(Uuid,)> = on!(tx, c => sqlx::query_as("SELECT device FROM sync_gateways WHERE tenant = $1")
            .bind(self.tenant.0).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(device,)| DeviceId(device)).collect())
    }

    /// Operations, newest first.
    pub async fn operations(
        &self,
        filter: &OperationFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> StoreResult<Vec<OperationRow>> {
        let mut tx = self.read().await?;
        let sql = format!(
            "{SELECT} AND ($2 IS NULL OR o.device = $2) AND ($3 = '' OR o.kind = $3) AND ($4 = '' OR o.state = $4)
             AND ($5 = 0 OR o.finished_at IS NULL) AND ($6 IS NULL OR o.request = $6) AND ($7 IS NULL OR o.uid < $7)
             ORDER BY o.uid DESC LIMIT $8"
        );
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql.as_str()))
            .bind(self.tenant.0).bind(filter.device.map(|device| device.0))
            .bind(filter.kind.map_or("", Kind::word)).bind(filter.state.map_or("", State::word))
            .bind(i64::from(filter.open)).bind(filter.request).bind(before).bind(i64::from(limit))
            .fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One operation.
    pub async fn operation(&self, uid: Uuid) -> StoreResult<OperationRow> {
        let mut tx = self.read().await?;
        self.operation_in(&mut tx, uid).await
    }

    /// The same within a transaction.
    pub async fn operation_in(&self, tx: &mut Tx, uid: Uuid) -> StoreResult<OperationRow> {
        let sql = format!("{SELECT} AND o.uid = $2");
        let row: Option<Row> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql.as_str()))
            .bind(self.tenant.0).bind(uid).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("operation"))?.read()
    }

    /// What an operation produced.
    pub async fn operation_output(&self, uid: Uuid) -> StoreResult<Vec<u8>> {
        let mut tx = self.read().await?;
        let row: Option<(Option<Vec<u8>>,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT output FROM operations WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).fetch_optional(c).await)?;
        Ok(row.ok_or(StoreError::NotFound("operation"))?.0.unwrap_or_default())
    }

    /// Gives an operation up: at once while nobody has begun it, otherwise as soon as the device hears of it.
    pub async fn cancel_operation(&self, uid: Uuid, reason: &str, now: UnixMs) -> StoreResult<OperationRow> {
        let mut tx = self.begin().await?;
        let old = self.operation_in(&mut tx, uid).await?;
        if old.state.is_final() {
            return Err(StoreError::Conflict(format!("The operation is over: it {}.", past(old.state))));
        }
        let at_once = old.state == State::Queued || matches!(old.kind, Kind::Drain | Kind::ForceSync);
        let who = self.actor.0.clone();
        on!(&mut tx, c => sqlx::query(
            "UPDATE operations SET cancel_requested_at = COALESCE(cancel_requested_at, $3), cancelled_by = $4 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).bind(now.0).bind(&who).execute(c).await.map(affected))?;
        if at_once {
            self.end_operation(&mut tx, &old, State::Cancelled, reason, now).await?;
        } else {
            let what = described(old.kind, &old.app, &old.arguments);
            let message = format!("{what} on {} is to be cancelled", old.device_name);
            let payload = serde_json::json!({ "operation": old.uid, "reason": reason });
            let event =
                about(old.device, &old.device_name, "device.operation-cancel", who, message, payload, now);
            events::append(&mut tx, self.tenant, &event).await?;
        }
        let row = self.operation_in(&mut tx, uid).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Ends an operation that is not over, with its event. A drain that ends otherwise than well leaves its device cordoned.
    pub async fn end_operation(
        &self,
        tx: &mut Tx,
        row: &OperationRow,
        state: State,
        message: &str,
        now: UnixMs,
    ) -> StoreResult<bool> {
        let sql = format!(
            "UPDATE operations SET state = $3, message = $4, finished_at = $5, waits = '' WHERE tenant = $1 AND uid = $2 AND state IN {OPEN}"
        );
        let changed = on!(tx, c => sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
            .bind(self.tenant.0).bind(row.uid.0).bind(state.word()).bind(message).bind(now.0)
            .execute(c).await.map(affected))?;
        if changed == 0 {
            return Ok(false);
        }
        if row.kind == Kind::Drain {
            let to = if state == State::Succeeded { Lifecycle::Drained } else { Lifecycle::Cordoned };
            self.set_lifecycle(tx, row.device, Lifecycle::Draining, to).await?;
        }
        let event = finished(row, state, message, self.actor.0.clone(), now);
        events::append(tx, self.tenant, &event).await?;
        Ok(true)
    }

    async fn set_lifecycle(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        from: Lifecycle,
        to: Lifecycle,
    ) -> StoreResult<()> {
        on!(tx, c => sqlx::query(
            "UPDATE devices SET lifecycle = $3, resource_version = resource_version + 1
             WHERE tenant = $1 AND uid = $2 AND lifecycle = $4 AND revoked_at IS NULL")
            .bind(self.tenant.0).bind(device.0).bind(to.word()).bind(from.word()).execute(c).await.map(affected))?;
        Ok(())
    }

    /// Everything that is not over, oldest first, for the driver.
    pub async fn unfinished_operations(&self, tx: &mut Tx) -> StoreResult<Vec<OperationRow>> {
        let sql = format!("{SELECT} AND o.finished_at IS NULL ORDER BY o.created_at, o.uid");
        let rows: Vec<Row> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql.as_str()))
            .bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// It is an operation's turn. A drain begins with it.
    pub async fn admit_operation(&self, tx: &mut Tx, row: &OperationRow, now: UnixMs) -> StoreResult<()> {
        let drain = row.kind == Kind::Drain;
        let (state, deadline) = if drain {
            (State::Running, Some(now.plus_ms(i64::from(row.time_limit_seconds) * 1_000 + GRACE_MS).0))
        } else {
            (State::Queued, None)
        };
        let sql = "UPDATE operations SET admitted_at = $3, waits = '', state = $4, deadline_at = $5, started_at = $6
             WHERE tenant = $1 AND uid = $2 AND state = 'queued'";
        on!(tx, c => sqlx::query(sql).bind(self.tenant.0).bind(row.uid.0).bind(now.0).bind(state.word())
            .bind(deadline).bind(drain.then_some(now.0)).execute(c).await.map(affected))?;
        if drain {
            self.set_lifecycle(tx, row.device, Lifecycle::Cordoned, Lifecycle::Draining).await?;
            let message = format!("device {} is being drained", row.device_name);
            let payload = serde_json::json!({ "operation": row.uid });
            let event = about(
                row.device,
                &row.device_name,
                "device.draining",
                self.actor.0.clone(),
                message,
                payload,
                now,
            );
            events::append(tx, self.tenant, &event).await?;
        }
        Ok(())
    }

    /// Says what an operation waits for.
    pub async fn operation_waits(&self, tx: &mut Tx, uid: OperationId, waits: &str) -> StoreResult<()> {
        on!(tx, c => sqlx::query("UPDATE operations SET waits = $3 WHERE tenant = $1 AND uid = $2 AND state = 'queued'")
            .bind(self.tenant.0).bind(uid.0).bind(waits).execute(c).await.map(affected))?;
        Ok(())
    }

    /// Ends what was to be done to a device that is no longer drained because somebody said so.
    pub async fn end_drains(&self, tx: &mut Tx, device: DeviceId, now: UnixMs) -> StoreResult<()> {
        let sql = format!("{SELECT} AND o.device = $2 AND o.kind = 'drain' AND o.finished_at IS NULL");
        let rows: Vec<Row> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql.as_str()))
            .bind(self.tenant.0).bind(device.0).fetch_all(c).await)?;
        for row in rows {
            let row = row.read()?;
            self.end_operation(tx, &row, State::Cancelled, "the device was uncordoned", now).await?;
        }
        Ok(())
    }

    /// Whether an operation of this device is under way, so that its output may be shown.
    pub async fn operation_is_open(&self, device: DeviceId, uid: OperationId) -> StoreResult<bool> {
        let mut tx = self.read().await?;
        let (count,): (i64,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT COUNT(*) FROM operations WHERE tenant = $1 AND uid = $2 AND device = $3 AND finished_at IS NULL")
            .bind(self.tenant.0).bind(uid.0).bind(device.0).fetch_one(c).await)?;
        Ok(count > 0)
    }
}

fn past(state: State) -> &'static str {
    match state {
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Expired => "expired",
        State::Cancelled => "was cancelled",
        _ => "is not supported there",
    }
}

/// What an operation is, for people.
#[must_use]
pub fn described(kind: Kind, app: &str, arguments: &Arguments) -> String {
    let mut text = kind.word().to_owned();
    let inside = kind == Kind::Exec && !app.is_empty();
    if !app.is_empty() && !inside {
        text.push_str(&format!(" of {app}"));
    }
    if let Some(runbook) = &arguments.runbook {
        text.push_str(&format!(" of runbook {runbook}"));
    }
    if arguments.command.is_some() {
        text.push_str(" of a command");
    }
    if inside {
        text.push_str(&format!(" inside {app}"));
    }
    text
}

fn about(
    device: DeviceId,
    name: &str,
    kind: &str,
    actor: String,
    message: String,
    payload: serde_json::Value,
    now: UnixMs,
) -> NewEvent {
    NewEvent {
        uid: Uuid::now_v7(),
        at: now,
        kind: kind.to_owned(),
        subject_kind: "Device".to_owned(),
        subject: device.0,
        subject_name: name.to_owned(),
        actor,
        message,
        payload,
    }
}

fn finished(row: &OperationRow, state: State, message: &str, actor: String, now: UnixMs) -> NewEvent {
    let tail = if message.is_empty() { String::new() } else { format!(": {message}") };
    let what = described(row.kind, &row.app, &row.arguments);
    let payload = serde_json::json!({
        "operation": row.uid, "kind": row.kind, "app": row.app, "state": state, "requestedBy": row.created_by,
    });
    let message = format!("{what} on {} {}{tail}", row.device_name, past(state));
    about(row.device, &row.device_name, "device.operation-finished", actor, message, payload, now)
}

/// Writes how operations go; what was sent before takes no effect a second time. What the device says wins over what was assumed of it, and a
/// result stays as it is. Returns an event for each that finished.
pub(crate) async fn write_reports(
    tx: &mut Tx,
    reports: &[&OperationReport],
    now: UnixMs,
) -> StoreResult<Vec<(TenantId, NewEvent)>> {
    let key = |report: &OperationReport| (report.tenant.0, report.device.0, OPERATION_STREAM.to_owned());
    let numbered = reports.iter().filter(|report| report.sequence.is_some());
    let streams: BTreeSet<StreamKey> = numbered.map(|report| key(report)).collect();
    let marks = metrics::read_marks(tx, &streams).await?;
    let mut raised: BTreeMap<StreamKey, i64> = BTreeMap::new();
    let mut news = Vec::new();
    for report in reports {
        if let Some(sequence) = report.sequence {
            let key = key(report);
            if sequence <= raised.get(&key).or_else(|| marks.get(&key)).copied().unwrap_or(0) {
                continue;
            }
            raised.insert(key, sequence);
        }
        for update in &report.updates {
            news.extend(write_one(tx, update, now).await?.map(|event| (update.tenant, event)));
        }
    }
    metrics::write_marks(tx, &raised).await?;
    Ok(news)
}

async fn write_one(tx: &mut Tx, one: &OperationProgress, now: UnixMs) -> StoreResult<Option<NewEvent>> {
    let sql = format!("{SELECT} AND o.uid = $2 AND o.device = $3");
    let row: Option<Row> = on!(tx, c => sqlx::query_as(sqlx::AssertSqlSafe(sql.as_str()))
        .bind(one.tenant.0).bind(one.uid.0).bind(one.device.0).fetch_optional(c).await)?;
    let Some(row) = row.map(Row::read).transpose()? else { return Ok(None) };
    if !one.state.is_final() {
        let started = one.state == State::Running;
        let deadline = started
            .then(|| now.plus_ms(i64::from(row.time_limit_seconds) * 1_000 + GRACE_MS).0)
            .or(row.deadline_at.map(|at| at.0));
        on!(tx, c => sqlx::query(
            "UPDATE operations SET state = $3, delivered_at = COALESCE(delivered_at, $4), started_at = $5, deadline_at = $6
             WHERE tenant = $1 AND uid = $2 AND (state = 'queued' OR state = 'delivered')")
            .bind(one.tenant.0).bind(one.uid.0).bind(one.state.word()).bind(now.0)
            .bind(started.then_some(now.0)).bind(deadline).execute(c).await.map(affected))?;
        return Ok(None);
    }
    // Assumed to be over, and done after all.
    let late = matches!(row.state, State::Expired | State::Cancelled) && one.state != row.state;
    if row.state.is_final() && !late {
        return Ok(None);
    }
    let message = match (late, one.message.is_empty()) {
        (false, _) => one.message.clone(),
        (true, true) => format!("told after it {}", past(row.state)),
        (true, false) => format!("{} (told after it {})", one.message, past(row.state)),
    };
    on!(tx, c => sqlx::query(
        "UPDATE operations SET state = $3, message = $4, output = $5, output_total = $6, exit_code = $7, finished_at = $8, waits = ''
         WHERE tenant = $1 AND uid = $2")
        .bind(one.tenant.0).bind(one.uid.0).bind(one.state.word()).bind(&message).bind(&one.output)
        .bind(i64::try_from(one.output_total).unwrap_or(i64::MAX)).bind(one.exit_code.map(i64::from)).bind(now.0)
        .execute(c).await.map(affected))?;
    let actor = format!("device:{}", row.device_name);
    Ok(Some(finished(&row, one.state, &message, actor, now)))
}

impl SystemDb {
    /// Ends operations whose time is over, with their events, and forgets those that ended long ago.
    pub async fn expire_operations(
        &self,
        now: UnixMs,
    ) -> StoreResult<Vec<(TenantId, DeviceId, OperationId)>> {
        let over: Vec<(Uuid, Uuid)> = {
            let mut tx = self.read().await?;
            on!(&mut tx, c => sqlx::query_as(
                "SELECT tenant, uid FROM operations WHERE finished_at IS NULL
                 AND ((state <> 'running' AND expires_at <= $1) OR (state = 'running' AND deadline_at <= $1)) LIMIT 1000")
                .bind(now.0).fetch_all(c).await)?
        };
        let mut ended = Vec::new();
        for (tenant, uid) in over {
            let db = self.tenant(TenantId(tenant));
            let mut tx = db.begin().await?;
            let row = db.operation_in(&mut tx, uid).await?;
            let message = match row.state {
                State::Running => "the device did not say in time how it ended",
                State::Delivered => "the device took it and did not begin it in time",
                _ if !row.waits.is_empty() => row.waits.as_str(),
                _ => "the device did not take it in time",
            };
            if db.end_operation(&mut tx, &row, State::Expired, message, now).await? {
                tx.commit().await?;
                ended.push((TenantId(tenant), row.device, row.uid));
            }
        }
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query("DELETE FROM operations WHERE finished_at <= $1")
            .bind(now.plus_ms(-KEPT_MS).0).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(ended)
    }
}
