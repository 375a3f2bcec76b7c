//! Alerts: what fires, what is over, who looks after it; and what the driver evaluates them from.

use std::collections::BTreeMap;

use farshore_domain::alert::{Change, Firing, Severity};
use farshore_domain::device::Lifecycle;
use farshore_domain::label::Labels;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events;
use crate::on;

/// A stored alert.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRow {
    pub uid: Uuid,
    pub fingerprint: String,
    pub rule: String,
    pub severity: Severity,
    pub subject_kind: String,
    pub subject: Uuid,
    pub subject_name: String,
    pub location: String,
    pub labels: BTreeMap<String, String>,
    pub summary: String,
    pub started_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    pub acknowledged_at: Option<UnixMs>,
    pub acknowledged_by: String,
    pub comment: String,
    /// Its notifications were queued.
    pub told: bool,
}

/// Which alerts to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertFilter {
    pub firing: Option<bool>,
    pub severity: Option<Severity>,
    pub location: Option<String>,
    pub rule: Option<String>,
    /// Name or uid of what it is about.
    pub subject: Option<String>,
}

/// What rules look at of a device.
#[derive(Clone, Debug)]
pub struct WatchedDevice {
    pub uid: Uuid,
    pub name: String,
    pub location: String,
    pub labels: Labels,
    pub lifecycle: Lifecycle,
    pub revoked: bool,
    pub last_seen: Option<UnixMs>,
    pub certificate_expires_at: Option<UnixMs>,
    /// The newest measurements of the host, and when they were taken.
    pub latest: BTreeMap<String, f64>,
    pub latest_at: Option<UnixMs>,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    fingerprint: String,
    rule: String,
    severity: String,
    subject_kind: String,
    subject: Uuid,
    subject_name: String,
    location: String,
    labels: Json<BTreeMap<String, String>>,
    summary: String,
    started_at: i64,
    ended_at: Option<i64>,
    acknowledged_at: Option<i64>,
    acknowledged_by: String,
    comment: String,
    told: bool,
}

impl From<Row> for AlertRow {
    fn from(row: Row) -> Self {
        Self {
            uid: row.uid,
            fingerprint: row.fingerprint,
            rule: row.rule,
            severity: Severity::from_word(&row.severity),
            subject_kind: row.subject_kind,
            subject: row.subject,
            subject_name: row.subject_name,
            location: row.location,
            labels: row.labels.0,
            summary: row.summary,
            started_at: UnixMs(row.started_at),
            ended_at: row.ended_at.map(UnixMs),
            acknowledged_at: row.acknowledged_at.map(UnixMs),
            acknowledged_by: row.acknowledged_by,
            comment: row.comment,
            told: row.told,
        }
    }
}

const COLUMNS: &str = "uid, fingerprint, rule, severity, subject_kind, subject, subject_name, location, labels, summary, started_at,
    ended_at, acknowledged_at, acknowledged_by, comment, told";
/// A tenant has at most this many alerts that are not over.
const MAX_ACTIVE: i64 = 50_000;

impl TenantDb {
    /// What rules look at of all devices.
    pub async fn watched_devices(&self, tx: &mut Tx) -> StoreResult<Vec<WatchedDevice>> {
        type Read = (
            Uuid,
            String,
            String,
            Json<Labels>,
            String,
            Option<i64>,
            Option<i64>,
            Option<i64>,
            Option<Json<BTreeMap<String, f64>>>,
            Option<i64>,
        );
        let rows: Vec<Read> = on!(tx, c => sqlx::query_as(
            "SELECT d.uid, d.name, d.location, d.labels, d.lifecycle, d.revoked_at, d.last_seen_at, d.certificate_expires_at,
                 m.latest, m.at
             FROM devices d LEFT JOIN metric_latest m ON m.tenant = d.tenant AND m.device = d.uid AND m.stream = 'host'
             WHERE d.tenant = $1")
            .bind(self.tenant.0).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(uid, name, location, labels, lifecycle, revoked, seen, certificate, latest, at)| {
                WatchedDevice {
                    uid,
                    name,
                    location,
                    labels: labels.0,
                    lifecycle: Lifecycle::from_word(&lifecycle),
                    revoked: revoked.is_some(),
                    last_seen: seen.map(UnixMs),
                    certificate_expires_at: certificate.map(UnixMs),
                    latest: latest.map(|latest| latest.0).unwrap_or_default(),
                    latest_at: at.map(UnixMs),
                }
            })
            .collect())
    }

    /// The alerts that are not over.
    pub async fn active_alerts(&self, tx: &mut Tx) -> StoreResult<Vec<AlertRow>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM alerts WHERE tenant = $1 AND ended_at IS NULL ORDER BY started_at, uid LIMIT $2"
        ));
        let rows: Vec<Row> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(MAX_ACTIVE).fetch_all(c).await)?;
        Ok(rows.into_iter().map(AlertRow::from).collect())
    }

    /// Carries changes out, with an event for each that fires or ends. One that fires already stays as it is.
    pub async fn change_alerts(&self, tx: &mut Tx, changes: &[Change], now: UnixMs) -> StoreResult<()> {
        for change in changes {
            match change {
                Change::Fire(firing) => self.fire(tx, firing, now).await?,
                Change::Update(uid, firing) => {
                    on!(tx, c => sqlx::query(
                        "UPDATE alerts SET summary = $3, severity = $4, labels = $5, location = $6 WHERE tenant = $1 AND uid = $2")
                        .bind(self.tenant.0).bind(*uid).bind(&firing.summary).bind(firing.severity.word())
                        .bind(Json(&firing.labels)).bind(&firing.location).execute(c).await.map(affected))?;
                }
                Change::End(uid) => self.end(tx, *uid, now).await?,
            }
        }
        Ok(())
    }

    async fn fire(&self, tx: &mut Tx, firing: &Firing, now: UnixMs) -> StoreResult<()> {
        let uid = Uuid::now_v7();
        let fired = on!(tx, c => sqlx::query(
            "INSERT INTO alerts (tenant, uid, fingerprint, rule, severity, subject_kind, subject, subject_name, location, labels,
                 summary, started_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (tenant, fingerprint) WHERE ended_at IS NULL DO NOTHING")
            .bind(self.tenant.0).bind(uid).bind(&firing.fingerprint).bind(&firing.rule).bind(firing.severity.word())
            .bind(firing.subject_kind).bind(firing.subject).bind(&firing.subject_name).bind(&firing.location)
            .bind(Json(&firing.labels)).bind(&firing.summary).bind(now.0).execute(c).await.map(affected))?;
        if fired == 0 {
            return Ok(());
        }
        let about = (firing.subject_kind, firing.subject, firing.subject_name.as_str());
        let payload = serde_json::json!({ "alert": uid, "rule": firing.rule, "severity": firing.severity, "location": firing.location });
        let event = self.event("alert.fired", about, firing.summary.clone(), payload, now);
        events::append(tx, self.tenant, &event).await
    }

    async fn end(&self, tx: &mut Tx, uid: Uuid, now: UnixMs) -> StoreResult<()> {
        let ended: Option<(String, String, Uuid, String, String)> = on!(tx, c => sqlx::query_as(
            "UPDATE alerts SET ended_at = $3 WHERE tenant = $1 AND uid = $2 AND ended_at IS NULL
             RETURNING rule, subject_kind, subject, subject_name, summary")
            .bind(self.tenant.0).bind(uid).bind(now.0).fetch_optional(c).await)?;
        let Some((rule, kind, subject, name, summary)) = ended else { return Ok(()) };
        let payload = serde_json::json!({ "alert": uid, "rule": rule });
        let event =
            self.event("alert.ended", (&kind, subject, &name), format!("over: {summary}"), payload, now);
        events::append(tx, self.tenant, &event).await
    }

    /// Alerts whose notifications were queued, so that it is not done again.
    pub async fn mark_told(&self, tx: &mut Tx, alerts: &[Uuid]) -> StoreResult<()> {
        for alert in alerts {
            on!(tx, c => sqlx::query("UPDATE alerts SET told = TRUE WHERE tenant = $1 AND uid = $2")
                .bind(self.tenant.0).bind(*alert).execute(c).await.map(affected))?;
        }
        Ok(())
    }

    /// A page of alerts, newest first, before the one with this uid.
    pub async fn alerts(
        &self,
        filter: &AlertFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> StoreResult<Vec<AlertRow>> {
        let mut tx = self.read().await?;
        let mut all = Conditions::default();
        let tenant = all.uuid(self.tenant.0);
        all.and(&format!("tenant = {tenant}"));
        if let Some(firing) = filter.firing {
            all.and(if firing { "ended_at IS NULL" } else { "ended_at IS NOT NULL" });
        }
        if let Some(severity) = filter.severity {
            let severity = all.text(severity.word());
            all.and(&format!("severity = {severity}"));
        }
        if let Some(location) = &filter.location {
            let location = all.text(location);
            all.and(&format!("location = {location}"));
        }
        if let Some(rule) = &filter.rule {
            let rule = all.text(rule);
            all.and(&format!("rule = {rule}"));
        }
        if let Some(subject) = &filter.subject {
            let (uid, name) = crate::access::address(subject);
            let (uid, name) = (all.uuid(uid), all.text(name));
            all.and(&format!("(subject = {uid} OR subject_name = {name})"));
        }
        if let Some(before) = before {
            let before = all.uuid(before);
            all.and(&format!(
                "(started_at, uid) < (SELECT started_at, uid FROM alerts WHERE tenant = {tenant} AND uid = {before})"
            ));
        }
        let limit = all.integer(i64::from(limit));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM alerts WHERE {} ORDER BY started_at DESC, uid DESC LIMIT {limit}",
            all.sql()
        ));
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), &all.arguments).fetch_all(c).await)?;
        Ok(rows.into_iter().map(AlertRow::from).collect())
    }

    /// One alert.
    pub async fn alert(&self, uid: Uuid) -> StoreResult<AlertRow> {
        let mut tx = self.read().await?;
        self.alert_in(&mut tx, uid).await
    }

    async fn alert_in(&self, tx: &mut Tx, uid: Uuid) -> StoreResult<AlertRow> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM alerts WHERE tenant = $1 AND uid = $2"));
        let row: Option<Row> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(uid).fetch_optional(c).await)?;
        row.map(AlertRow::from).ok_or(StoreError::NotFound("alert"))
    }

    /// Somebody looks after it, with the event. Who said so first stays.
    pub async fn acknowledge_alert(&self, uid: Uuid, comment: &str, now: UnixMs) -> StoreResult<AlertRow> {
        let mut tx = self.begin().await?;
        let row = self.alert_in(&mut tx, uid).await?;
        if row.acknowledged_at.is_some() {
            return Ok(row);
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE alerts SET acknowledged_at = $3, acknowledged_by = $4, comment = $5 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).bind(now.0).bind(&self.actor.0).bind(comment).execute(c).await.map(affected))?;
        let about = (row.subject_kind.as_str(), row.subject, row.subject_name.as_str());
        let payload = serde_json::json!({ "alert": uid, "rule": row.rule, "comment": comment });
        let event =
            self.event("alert.acknowledged", about, format!("acknowledged: {}", row.summary), payload, now);
        events::append(&mut tx, self.tenant, &event).await?;
        let row = self.alert_in(&mut tx, uid).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Deletes alerts that were over before `cutoff`, at most 1,000.
    pub async fn delete_alerts_before(&self, tx: &mut Tx, cutoff: UnixMs) -> StoreResult<u64> {
        Ok(on!(tx, c => sqlx::query(
            "DELETE FROM alerts WHERE tenant = $1 AND uid IN (
                 SELECT uid FROM alerts WHERE tenant = $1 AND ended_at < $2 ORDER BY ended_at LIMIT 1000)")
            .bind(self.tenant.0).bind(cutoff.0).execute(c).await.map(affected))?)
    }
}
