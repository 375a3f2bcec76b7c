//! Messages about alerts: queued in the transaction of the change they tell of, sent later, kept when nobody takes them.

use farshore_domain::id::TenantId;
use farshore_domain::time::UnixMs;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events;
use crate::leases::Lease;
use crate::on;

/// At most this many alerts are told of in one message.
pub const MAX_ALERTS: usize = 100;

/// A message to one route.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRow {
    pub uid: Uuid,
    pub route: Uuid,
    pub route_name: String,
    /// Alerts of one rule in one location go together.
    pub group_key: String,
    /// The alerts as they were, with `status: firing | resolved`.
    pub alerts: Vec<Value>,
    /// `queued`, `delivered` or `dead`.
    pub state: String,
    pub attempts: i64,
    pub next_at: UnixMs,
    pub last_error: String,
    pub created_at: UnixMs,
    pub finished_at: Option<UnixMs>,
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant: Uuid,
    uid: Uuid,
    route: Uuid,
    route_name: String,
    group_key: String,
    alerts: Json<Vec<Value>>,
    state: String,
    attempts: i64,
    next_at: i64,
    last_error: String,
    created_at: i64,
    finished_at: Option<i64>,
}

impl Row {
    fn read(self) -> (TenantId, DeliveryRow) {
        let row = DeliveryRow {
            uid: self.uid,
            route: self.route,
            route_name: self.route_name,
            group_key: self.group_key,
            alerts: self.alerts.0,
            state: self.state,
            attempts: self.attempts,
            next_at: UnixMs(self.next_at),
            last_error: self.last_error,
            created_at: UnixMs(self.created_at),
            finished_at: self.finished_at.map(UnixMs),
        };
        (TenantId(self.tenant), row)
    }
}

const COLUMNS: &str = "tenant, uid, route, route_name, group_key, alerts, state, attempts, next_at, last_error, created_at, finished_at";

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Delivered,
    /// Try again then.
    Again {
        at: UnixMs,
        error: String,
    },
    /// Nobody takes it.
    Dead {
        error: String,
    },
}

impl TenantDb {
    /// Queues alerts for a route, to be sent at `at`; joins a message of the same group that was not tried yet.
    pub async fn queue_delivery(
        &self,
        tx: &mut Tx,
        route: (Uuid, &str),
        group_key: &str,
        alerts: &[Value],
        (at, now): (UnixMs, UnixMs),
    ) -> StoreResult<()> {
        let waiting: Option<(Uuid, Json<Vec<Value>>)> = on!(tx, c => sqlx::query_as(
            "SELECT uid, alerts FROM alert_deliveries WHERE tenant = $1 AND route = $2 AND group_key = $3 AND state = 'queued'
                 AND attempts = 0 ORDER BY created_at DESC LIMIT 1")
            .bind(self.tenant.0).bind(route.0).bind(group_key).fetch_optional(c).await)?;
        let mut rest = alerts;
        if let Some((uid, Json(mut there))) = waiting {
            let room = MAX_ALERTS.saturating_sub(there.len()).min(rest.len());
            let (joining, left) = rest.split_at(room);
            if !joining.is_empty() {
                there.extend_from_slice(joining);
                on!(tx, c => sqlx::query("UPDATE alert_deliveries SET alerts = $3 WHERE tenant = $1 AND uid = $2")
                    .bind(self.tenant.0).bind(uid).bind(Json(&there)).execute(c).await.map(affected))?;
            }
            rest = left;
        }
        for chunk in rest.chunks(MAX_ALERTS) {
            on!(tx, c => sqlx::query(
                "INSERT INTO alert_deliveries (tenant, uid, route, route_name, group_key, alerts, state, next_at, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8)")
                .bind(self.tenant.0).bind(Uuid::now_v7()).bind(route.0).bind(route.1).bind(group_key).bind(Json(chunk))
                .bind(at.0).bind(now.0).execute(c).await.map(affected))?;
        }
        Ok(())
    }

    /// A page of messages, newest first.
    pub async fn deliveries(
        &self,
        state: Option<&str>,
        route: Option<&str>,
        before: Option<Uuid>,
        limit: u32,
    ) -> StoreResult<Vec<DeliveryRow>> {
        let mut tx = self.read().await?;
        let mut all = Conditions::default();
        let tenant = all.uuid(self.tenant.0);
        all.and(&format!("tenant = {tenant}"));
        for (column, value) in [("state", state), ("route_name", route)] {
            if let Some(value) = value {
                let value = all.text(value);
                all.and(&format!("{column} = {value}"));
            }
        }
        if let Some(before) = before {
            let before = all.uuid(before);
            all.and(&format!("uid < {before}"));
        }
        let limit = all.integer(i64::from(limit));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM alert_deliveries WHERE {} ORDER BY uid DESC LIMIT {limit}",
            all.sql()
        ));
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), &all.arguments).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|row| row.read().1).collect())
    }

    /// Queues a message once more, with all its attempts.
    pub async fn retry_delivery(&self, uid: Uuid, now: UnixMs) -> StoreResult<DeliveryRow> {
        let mut tx = self.begin().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM alert_deliveries WHERE tenant = $1 AND uid = $2"
        ));
        let row: Option<Row> =
            on!(&mut tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(uid).fetch_optional(c).await)?;
        let (_, row) = row.ok_or(StoreError::NotFound("delivery"))?.read();
        if row.state != "dead" {
            return Err(StoreError::Conflict(format!(
                "The message is {}; only a dead one is sent again.",
                row.state
            )));
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE alert_deliveries SET state = 'queued', attempts = 0, next_at = $3, finished_at = NULL
             WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).bind(now.0).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(DeliveryRow { state: "queued".to_owned(), attempts: 0, next_at: now, finished_at: None, ..row })
    }

    /// Deletes messages that were finished before `cutoff`, at most 1,000.
    pub async fn delete_deliveries_before(&self, tx: &mut Tx, cutoff: UnixMs) -> StoreResult<u64> {
        Ok(on!(tx, c => sqlx::query(
            "DELETE FROM alert_deliveries WHERE tenant = $1 AND uid IN (
                 SELECT uid FROM alert_deliveries WHERE tenant = $1 AND finished_at < $2 ORDER BY finished_at LIMIT 1000)")
            .bind(self.tenant.0).bind(cutoff.0).execute(c).await.map(affected))?)
    }
}

impl SystemDb {
    /// Messages of all tenants that are due, at most `limit`.
    pub async fn due_deliveries(&self, now: UnixMs, limit: u32) -> StoreResult<Vec<(TenantId, DeliveryRow)>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM alert_deliveries WHERE state = 'queued' AND next_at <= $1 ORDER BY next_at, uid LIMIT $2"
        ));
        let rows: Vec<Row> =
            on!(&mut tx, c => sqlx::query_as(sql).bind(now.0).bind(i64::from(limit)).fetch_all(c).await)?;
        Ok(rows.into_iter().map(Row::read).collect())
    }

    /// When the next message is due.
    pub async fn next_delivery(&self) -> StoreResult<Option<UnixMs>> {
        let mut tx = self.read().await?;
        let (next,): (Option<i64>,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT MIN(next_at) FROM alert_deliveries WHERE state = 'queued'").fetch_one(c).await)?;
        Ok(next.map(UnixMs))
    }

    /// Writes how an attempt ended, if the lease is still held.
    pub async fn finish_attempt(
        &self,
        lease: &Lease,
        tenant: TenantId,
        uid: Uuid,
        attempt: &Attempt,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        let (state, next_at, error, finished) = match attempt {
            Attempt::Delivered => ("delivered", now, "", Some(now.0)),
            Attempt::Again { at, error } => ("queued", *at, error.as_str(), None),
            Attempt::Dead { error } => ("dead", now, error.as_str(), Some(now.0)),
        };
        let route: Option<(Uuid, String)> = on!(&mut tx, c => sqlx::query_as(
            "UPDATE alert_deliveries SET state = $3, next_at = $4, last_error = $5, finished_at = $6, attempts = attempts + 1
             WHERE tenant = $1 AND uid = $2 AND state = 'queued' RETURNING route, route_name")
            .bind(tenant.0).bind(uid).bind(state).bind(next_at.0).bind(error).bind(finished).fetch_optional(c).await)?;
        if let (Attempt::Dead { error }, Some((route, name))) = (attempt, route) {
            let payload = serde_json::json!({ "delivery": uid, "error": error });
            let message = format!("nobody takes a message about alerts from route {name}: {error}");
            let about = ("AlertRoute", route, name.as_str());
            let event = self.tenant(tenant).event("alert.undelivered", about, message, payload, now);
            events::append(&mut tx, tenant, &event).await?;
        }
        tx.commit().await
    }
}
