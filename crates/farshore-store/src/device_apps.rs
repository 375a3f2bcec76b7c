//! What devices report of themselves and of each of their apps.

use std::collections::BTreeMap;

use farshore_domain::desired::Generation;
use farshore_domain::device::{AppPhase, Conformance, Hardware, Health, Sense};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::release::isolation::Isolation;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::condition::{Argument, bind_all};
use crate::db::{Tx, affected};
use crate::devices::{count, name};
use crate::error::StoreResult;
use crate::events::NewEvent;
use crate::{on, set};

/// One app on a device, as it was reported last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAppRow {
    pub app: Name,
    pub phase: AppPhase,
    pub health: Health,
    pub active_release: Option<Uuid>,
    pub active_version: String,
    pub staged_release: Option<Uuid>,
    pub previous_release: Option<Uuid>,
    pub failed_release: Option<Uuid>,
    pub refused_release: Option<Uuid>,
    pub permit: Option<Uuid>,
    pub committed: bool,
    pub restarts: u32,
    pub reasons: Vec<Reason>,
    /// What the running instance is kept apart from, where that is known.
    pub isolation: Option<Isolation>,
    /// The count of resumes that the device has seen, and the one it should see.
    pub resumed_seen: u64,
    pub resumed_wanted: u64,
    pub reported_at: Option<UnixMs>,
}

/// One app in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppReport {
    pub app: Name,
    pub phase: AppPhase,
    pub health: Health,
    pub active_release: Option<Uuid>,
    pub active_version: String,
    pub staged_release: Option<Uuid>,
    pub previous_release: Option<Uuid>,
    pub failed_release: Option<Uuid>,
    pub refused_release: Option<Uuid>,
    pub permit: Option<Uuid>,
    pub committed: bool,
    pub restarts: u32,
    pub reasons: Vec<Reason>,
    pub isolation: Option<Isolation>,
    pub resumed_seen: u64,
}

/// What a device says of itself: everything, each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub accepted: Generation,
    pub health: Health,
    pub conformance: Conformance,
    pub reasons: Vec<Reason>,
    pub apps: Vec<AppReport>,
    /// Who tells which signal of the kernel, by the signal's name.
    pub senses: BTreeMap<String, Sense>,
    pub at: UnixMs,
}

/// What a device says once per channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReport {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub agent_version: String,
    pub capabilities: Vec<String>,
    /// `None`: as it was told before.
    pub hardware: Option<Hardware>,
    pub accepted: Generation,
}

#[derive(sqlx::FromRow)]
struct Row {
    device: Uuid,
    app: String,
    phase: String,
    health: String,
    active_release: Option<Uuid>,
    active_version: String,
    staged_release: Option<Uuid>,
    previous_release: Option<Uuid>,
    failed_release: Option<Uuid>,
    refused_release: Option<Uuid>,
    permit: Option<Uuid>,
    committed: bool,
    restarts: i64,
    reasons: Json<Vec<Reason>>,
    isolation: Option<Json<serde_json::Value>>,
    resumed_seen: i64,
    resumed_wanted: i64,
    reported_at: Option<i64>,
}

impl Row {
    fn read(self) -> StoreResult<(Uuid, DeviceAppRow)> {
        Ok((
            self.device,
            DeviceAppRow {
                app: name(self.app)?,
                phase: AppPhase::from_word(&self.phase),
                health: Health::from_word(&self.health),
                active_release: self.active_release,
                active_version: self.active_version,
                staged_release: self.staged_release,
                previous_release: self.previous_release,
                failed_release: self.failed_release,
                refused_release: self.refused_release,
                permit: self.permit,
                committed: self.committed,
                restarts: u32::try_from(self.restarts).unwrap_or(u32::MAX),
                reasons: self.reasons.0,
                // Words of a later version say nothing here.
                isolation: self.isolation.and_then(|isolation| serde_json::from_value(isolation.0).ok()),
                resumed_seen: count(self.resumed_seen),
                resumed_wanted: count(self.resumed_wanted),
                reported_at: self.reported_at.map(UnixMs),
            },
        ))
    }
}

/// The apps of the devices in `list` (parameters after `$1`, the tenant), by name.
pub(crate) async fn read_apps(
    tx: &mut Tx,
    list: &str,
    arguments: &[Argument],
    keep: bool,
) -> StoreResult<Vec<(Uuid, DeviceAppRow)>> {
    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT device, app, phase, health, active_release, active_version, staged_release, previous_release,
             failed_release, refused_release, permit, committed, CAST(restarts AS BIGINT) AS restarts, reasons, isolation,
             resumed_seen, resumed_wanted, reported_at
         FROM device_apps WHERE tenant = $1 AND device IN ({list}) ORDER BY app"
    ));
    let rows: Vec<Row> =
        on!(tx, c => bind_all!(sqlx::query_as(sql).persistent(keep), arguments).fetch_all(c).await)?;
    rows.into_iter().map(Row::read).collect()
}

fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Writes what devices said in `hello`.
pub(crate) async fn write_hellos(tx: &mut Tx, hellos: &[&HelloReport]) -> StoreResult<()> {
    let latest: BTreeMap<_, _> = hellos.iter().map(|hello| ((hello.tenant, hello.device), *hello)).collect();
    let rows: Vec<_> = latest.into_values().collect();
    for chunk in rows.chunks(set::rows_per_statement(tx, 7)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE devices SET agent_version = v.column3, capabilities = v.column4, hardware = COALESCE(v.column5, devices.hardware),
                 accepted_epoch = v.column6, accepted_generation = v.column7
             FROM (VALUES {}) AS v WHERE devices.tenant = v.column1 AND devices.uid = v.column2",
            set::values(chunk.len(), 7)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for hello in chunk {
                query = query.bind(hello.tenant.0).bind(hello.device.0).bind(&hello.agent_version)
                    .bind(Json(&hello.capabilities)).bind(hello.hardware.as_ref().map(Json))
                    .bind(integer(hello.accepted.epoch)).bind(integer(hello.accepted.generation));
            }
            query.execute(c).await.map(affected)
        })?;
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Before {
    tenant: Uuid,
    uid: Uuid,
    name: String,
    health: String,
    conformance: String,
}

/// Writes status reports; returns an event for each change of health, conformance or an app's phase or release.
pub(crate) async fn write_statuses(
    tx: &mut Tx,
    reports: &[&StatusReport],
) -> StoreResult<Vec<(TenantId, NewEvent)>> {
    // The last report of each device counts; those before it in the same set were never true for anyone.
    let latest: BTreeMap<_, _> =
        reports.iter().map(|report| ((report.tenant, report.device), *report)).collect();
    let mut news = Vec::new();
    let rows: Vec<_> = latest.into_values().collect();
    for chunk in rows.chunks(set::rows_per_statement(tx, 8)) {
        let keys = sqlx::AssertSqlSafe(format!(
            "SELECT tenant, uid, name, health, conformance FROM devices WHERE (tenant, uid) IN (VALUES {})",
            set::values(chunk.len(), 2)
        ));
        let before: Vec<Before> = on!(tx, c => {
            let mut query = sqlx::query_as(keys).persistent(chunk.len() == 1);
            for report in chunk {
                query = query.bind(report.tenant.0).bind(report.device.0);
            }
            query.fetch_all(c).await
        })?;
        let before: BTreeMap<(Uuid, Uuid), Before> =
            before.into_iter().map(|row| ((row.tenant, row.uid), row)).collect();
        let known = apps_before(tx, chunk).await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE devices SET health = v.column3, conformance = v.column4, reasons = v.column5,
                 accepted_epoch = v.column6, accepted_generation = v.column7, reported_at = v.column8, senses = v.column9
             FROM (VALUES {}) AS v WHERE devices.tenant = v.column1 AND devices.uid = v.column2",
            set::values(chunk.len(), 9)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for report in chunk {
                query = query.bind(report.tenant.0).bind(report.device.0).bind(report.health.word())
                    .bind(report.conformance.word()).bind(Json(&report.reasons))
                    .bind(integer(report.accepted.epoch)).bind(integer(report.accepted.generation)).bind(report.at.0)
                    .bind(Json(&report.senses));
            }
            query.execute(c).await.map(affected)
        })?;
        let mut apps = Vec::new();
        for report in chunk {
            let key = (report.tenant.0, report.device.0);
            // A device that is not there any more has no row to hang anything on.
            let Some(old) = before.get(&key) else { continue };
            let none = BTreeMap::new();
            let old_apps = known.get(&key).unwrap_or(&none);
            transitions(report, old, old_apps, &mut news);
            for app in &report.apps {
                apps.push((*report, app.clone()));
            }
            for (app, (phase, _)) in old_apps {
                if *phase != AppPhase::Absent && !report.apps.iter().any(|a| a.app.as_str() == app) {
                    apps.push((*report, absent(name(app.clone())?)));
                }
            }
        }
        write_apps(tx, &apps).await?;
    }
    Ok(news)
}

/// The report leaves the app out: it is gone from the device.
fn absent(app: Name) -> AppReport {
    AppReport {
        app,
        phase: AppPhase::Absent,
        health: Health::Unknown,
        active_release: None,
        active_version: String::new(),
        staged_release: None,
        previous_release: None,
        failed_release: None,
        refused_release: None,
        permit: None,
        committed: false,
        restarts: 0,
        reasons: Vec::new(),
        isolation: None,
        resumed_seen: 0,
    }
}

type AppsBefore = BTreeMap<(Uuid, Uuid), BTreeMap<String, (AppPhase, Option<Uuid>)>>;

async fn apps_before(tx: &mut Tx, chunk: &[&StatusReport]) -> StoreResult<AppsBefore> {
    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT tenant, device, app, phase, active_release FROM device_apps WHERE (tenant, device) IN (VALUES {})",
        set::values(chunk.len(), 2)
    ));
    let rows: Vec<(Uuid, Uuid, String, String, Option<Uuid>)> = on!(tx, c => {
        let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1);
        for report in chunk {
            query = query.bind(report.tenant.0).bind(report.device.0);
        }
        query.fetch_all(c).await
    })?;
    let mut apps = AppsBefore::new();
    for (tenant, device, app, phase, release) in rows {
        apps.entry((tenant, device)).or_default().insert(app, (AppPhase::from_word(&phase), release));
    }
    Ok(apps)
}

async fn write_apps(tx: &mut Tx, apps: &[(&StatusReport, AppReport)]) -> StoreResult<()> {
    const WIDTH: usize = 19;
    for chunk in apps.chunks(set::rows_per_statement(tx, WIDTH)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO device_apps (tenant, device, app, phase, health, active_release, active_version, staged_release,
                 previous_release, failed_release, refused_release, permit, committed, restarts, reasons, resumed_seen,
                 reported_at, resumed_wanted, isolation)
             VALUES {}
             ON CONFLICT (tenant, device, app) DO UPDATE SET phase = excluded.phase, health = excluded.health,
                 active_release = excluded.active_release, active_version = excluded.active_version,
                 staged_release = excluded.staged_release, previous_release = excluded.previous_release,
                 failed_release = excluded.failed_release, refused_release = excluded.refused_release,
                 permit = excluded.permit, committed = excluded.committed, restarts = excluded.restarts,
                 reasons = excluded.reasons, resumed_seen = excluded.resumed_seen, reported_at = excluded.reported_at,
                 isolation = excluded.isolation",
            set::values(chunk.len(), WIDTH)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for (report, app) in chunk {
                query = query.bind(report.tenant.0).bind(report.device.0).bind(app.app.as_str()).bind(app.phase.word())
                    .bind(app.health.word()).bind(app.active_release).bind(&app.active_version).bind(app.staged_release)
                    .bind(app.previous_release).bind(app.failed_release).bind(app.refused_release).bind(app.permit)
                    .bind(app.committed).bind(i64::from(app.restarts)).bind(Json(&app.reasons))
                    .bind(integer(app.resumed_seen)).bind(report.at.0).bind(integer(app.resumed_seen))
                    .bind(app.isolation.as_ref().map(Json));
            }
            query.execute(c).await.map(affected)
        })?;
    }
    Ok(())
}

fn transitions(
    report: &StatusReport,
    old: &Before,
    old_apps: &BTreeMap<String, (AppPhase, Option<Uuid>)>,
    news: &mut Vec<(TenantId, NewEvent)>,
) {
    let mut tell = |kind: &str, message: String, payload: serde_json::Value| {
        news.push((
            report.tenant,
            NewEvent {
                uid: Uuid::now_v7(),
                at: report.at,
                kind: kind.to_owned(),
                subject_kind: "Device".to_owned(),
                subject: report.device.0,
                subject_name: old.name.clone(),
                actor: format!("device:{}", old.name),
                message,
                payload,
            },
        ));
    };
    let why = |reasons: &[Reason]| reasons.first().map(|r| format!(": {}", r.message)).unwrap_or_default();
    let health = Health::from_word(&old.health);
    if health != report.health {
        tell(
            "device.health-changed",
            format!("{} is {}, was {health}{}", old.name, report.health, why(&report.reasons)),
            serde_json::json!({ "from": health, "to": report.health, "reasons": report.reasons }),
        );
    }
    let conformance = Conformance::from_word(&old.conformance);
    if conformance != report.conformance {
        tell(
            "device.conformance-changed",
            format!("{} is {}, was {conformance}{}", old.name, report.conformance, why(&report.reasons)),
            serde_json::json!({ "from": conformance, "to": report.conformance, "reasons": report.reasons }),
        );
    }
    for app in &report.apps {
        let before = old_apps.get(app.app.as_str()).copied().unwrap_or((AppPhase::Absent, None));
        if before != (app.phase, app.active_release) {
            let version = if app.active_version.is_empty() {
                String::new()
            } else {
                format!(" {}", app.active_version)
            };
            tell(
                "device.app-changed",
                format!(
                    "{}{version} on {} is {}, was {}{}",
                    app.app,
                    old.name,
                    app.phase,
                    before.0,
                    why(&app.reasons)
                ),
                serde_json::json!({
                    "app": app.app, "from": before.0, "to": app.phase, "activeRelease": app.active_release,
                    "activeVersion": app.active_version, "failedRelease": app.failed_release, "reasons": app.reasons,
                }),
            );
        }
    }
}
