//! Incidents as devices tell them, what people did about them, and their evidence.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::id::{DeviceId, IncidentId, ReleaseId, RolloutId, TenantId};
use farshore_domain::incident::{ActionTaken, Incident, IncidentCause};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb, address, stored_name};
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::metrics::{self, StreamKey};
use crate::on;

/// The stream whose marks count batches of incidents.
pub const INCIDENT_STREAM: &str = "incidents";
/// Of one device, the evidence of so many incidents is kept, the newest; and so many incidents.
const EVIDENCE_PER_DEVICE: i64 = 50;
const INCIDENTS_PER_DEVICE: i64 = 1_000;

/// A batch of a device: incidents as they are now, and evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentReport {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub device_name: String,
    pub sequence: i64,
    pub incidents: Vec<Incident>,
    pub evidence: Vec<NewEvidence>,
}

/// Evidence as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvidence {
    pub incident: IncidentId,
    pub part: String,
    pub taken_at: UnixMs,
    pub body: Vec<u8>,
}

/// What somebody said or did about an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentNote {
    pub at: UnixMs,
    pub by: String,
    /// `acknowledged`, `resolved`, `reopened`.
    pub did: String,
    pub comment: String,
}

/// A stored incident.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRow {
    pub uid: IncidentId,
    pub name: Name,
    pub resource_version: i64,
    pub created_at: UnixMs,
    pub device: DeviceId,
    pub device_name: Name,
    pub location: String,
    /// Empty when it concerns the whole device.
    pub app: String,
    pub cause: IncidentCause,
    pub open: bool,
    pub message: String,
    pub release: Option<ReleaseId>,
    pub version: String,
    pub rollout: Option<RolloutId>,
    pub rollout_name: Option<String>,
    pub started_at: UnixMs,
    pub last_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    pub resolved_at: Option<UnixMs>,
    pub resolved_by: String,
    pub acknowledged_at: Option<UnixMs>,
    pub acknowledged_by: String,
    pub signs: i64,
    pub actions: Vec<ActionTaken>,
    pub history: Vec<IncidentNote>,
}

/// Which incidents to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentFilter {
    /// Uid or name.
    pub device: Option<String>,
    pub app: Option<String>,
    pub open: Option<bool>,
    /// Those that began then or later.
    pub since: Option<UnixMs>,
    pub rollout: Option<RolloutId>,
}

/// What somebody does about an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncidentVerb {
    Acknowledge,
    Resolve,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    resource_version: i64,
    created_at: i64,
    device: Uuid,
    device_name: String,
    location: String,
    app: String,
    cause: String,
    state: String,
    message: String,
    release: Option<Uuid>,
    version: String,
    rollout: Option<Uuid>,
    rollout_name: Option<String>,
    started_at: i64,
    last_at: i64,
    ended_at: Option<i64>,
    resolved_at: Option<i64>,
    resolved_by: String,
    acknowledged_at: Option<i64>,
    acknowledged_by: String,
    signs: i64,
    actions: Json<Vec<ActionTaken>>,
    history: Json<Vec<IncidentNote>>,
}

/// An incident's row as it is read to be told of or changed, in the order of its columns.
type KnownIncident = (Uuid, String, String, i64, String, Json<Vec<IncidentNote>>);

impl Row {
    fn read(self) -> StoreResult<IncidentRow> {
        Ok(IncidentRow {
            uid: IncidentId(self.uid),
            name: stored_name(self.name)?,
            resource_version: self.resource_version,
            created_at: UnixMs(self.created_at),
            device: DeviceId(self.device),
            device_name: stored_name(self.device_name)?,
            location: self.location,
            app: self.app,
            cause: IncidentCause::from_word(&self.cause),
            open: self.state == "open",
            message: self.message,
            release: self.release.map(ReleaseId),
            version: self.version,
            rollout: self.rollout.map(RolloutId),
            rollout_name: self.rollout_name,
            started_at: UnixMs(self.started_at),
            last_at: UnixMs(self.last_at),
            ended_at: self.ended_at.map(UnixMs),
            resolved_at: self.resolved_at.map(UnixMs),
            resolved_by: self.resolved_by,
            acknowledged_at: self.acknowledged_at.map(UnixMs),
            acknowledged_by: self.acknowledged_by,
            signs: self.signs,
            actions: self.actions.0,
            history: self.history.0,
        })
    }
}

const SELECT: &str = "SELECT i.uid, i.name, i.resource_version, i.created_at, i.device, d.name AS device_name, d.location, i.app, i.cause,
        i.state, i.message, i.release, i.version, i.rollout, r.name AS rollout_name, i.started_at, i.last_at, i.ended_at,
        i.resolved_at, i.resolved_by, i.acknowledged_at, i.acknowledged_by, i.signs, i.actions, i.history
     FROM incidents i JOIN devices d ON d.tenant = i.tenant AND d.uid = i.device
     LEFT JOIN rollouts r ON r.tenant = i.tenant AND r.uid = i.rollout";

/// Stores what devices tell of incidents; a batch that is not above its mark was stored before. Returns an event for each that began or ended.
pub(crate) async fn write_reports(
    tx: &mut Tx,
    reports: &[&IncidentReport],
    now: UnixMs,
) -> StoreResult<Vec<(TenantId, NewEvent)>> {
    let key = |report: &IncidentReport| (report.tenant.0, report.device.0, INCIDENT_STREAM.to_owned());
    let streams: BTreeSet<StreamKey> = reports.iter().map(|report| key(report)).collect();
    let marks = metrics::read_marks(tx, &streams).await?;
    let mut raised: BTreeMap<StreamKey, i64> = BTreeMap::new();
    let mut news = Vec::new();
    for report in reports {
        let key = key(report);
        let mark = raised.get(&key).or_else(|| marks.get(&key)).copied().unwrap_or(0);
        if report.sequence <= mark {
            continue;
        }
        raised.insert(key, report.sequence);
        for incident in &report.incidents {
            news.extend(write_one(tx, report, incident, now).await?.map(|event| (report.tenant, event)));
        }
        for evidence in &report.evidence {
            write_evidence(tx, report, evidence).await?;
        }
        trim(tx, report).await?;
    }
    metrics::write_marks(tx, &raised).await?;
    Ok(news)
}

async fn write_one(
    tx: &mut Tx,
    report: &IncidentReport,
    told: &Incident,
    now: UnixMs,
) -> StoreResult<Option<NewEvent>> {
    let (tenant, device) = (report.tenant.0, report.device.0);
    let known: Option<KnownIncident> = on!(tx, c => sqlx::query_as(
        "SELECT device, name, state, signs, resolved_by, history FROM incidents WHERE tenant = $1 AND uid = $2")
        .bind(tenant).bind(told.uid.0).fetch_optional(c).await)?;
    let actor = format!("device:{}", report.device_name);
    let event = |what: &str, name: &str| NewEvent {
        uid: Uuid::now_v7(),
        at: now,
        kind: format!("incident.{what}"),
        subject_kind: "Incident".to_owned(),
        subject: told.uid.0,
        subject_name: name.to_owned(),
        actor: actor.clone(),
        message: format!(
            "incident on {} ({}{}): {}",
            report.device_name,
            told.app.as_ref().map_or_else(String::new, |app| format!("{app}, ")),
            told.cause,
            told.message
        ),
        payload: serde_json::json!({ "device": device, "deviceName": report.device_name, "app": told.app, "cause": told.cause,
            "rollout": told.rollout, "signs": told.signs }),
    };
    let ended = told.ended_at.map(|at| at.0);
    let Some((owner, name, state, signs, resolved_by, history)) = known else {
        let rollout = rollout_of(tx, report, told).await?;
        let name = free_name(tx, tenant, told.uid.0).await?;
        on!(tx, c => sqlx::query(
            "INSERT INTO incidents (tenant, uid, name, device, app, cause, state, message, release, version, rollout, started_at,
                 last_at, ended_at, resolved_at, resolved_by, signs, actions, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15, $16, $17, $18)")
            .bind(tenant).bind(told.uid.0).bind(&name).bind(device).bind(told.app.as_ref().map_or("", Name::as_str))
            .bind(told.cause.word()).bind(if ended.is_some() { "resolved" } else { "open" }).bind(&told.message)
            .bind(told.release.map(|release| release.0)).bind(told.version.as_ref().map_or("", |version| version.as_str()))
            .bind(rollout).bind(told.started_at.0).bind(told.last_at.0).bind(ended)
            .bind(if ended.is_some() { actor.as_str() } else { "" }).bind(i64::from(told.signs)).bind(Json(&told.actions))
            .bind(now.0).execute(c).await.map(affected))?;
        return Ok(Some(event("opened", &name)));
    };
    if owner != device {
        // Another device's incident is not this one's to tell of.
        return Ok(None);
    }
    let more = i64::from(told.signs) > signs;
    let was_open = state == "open";
    // Somebody said it was over, and it was not.
    let reopened = !was_open && more && ended.is_none();
    let ends = was_open && ended.is_some();
    let open = (was_open && ended.is_none()) || reopened;
    let mut history = history.0;
    if reopened {
        let comment = told.message.clone();
        history.push(IncidentNote { at: now, by: actor.clone(), did: "reopened".to_owned(), comment });
    }
    let by = if open {
        String::new()
    } else if ends {
        actor.clone()
    } else {
        resolved_by
    };
    on!(tx, c => sqlx::query(
        "UPDATE incidents SET state = $4, last_at = $5, ended_at = $6, signs = $7, actions = $8, history = $9, resolved_by = $10,
             resolved_at = CASE WHEN $4 = 'open' THEN NULL WHEN resolved_at IS NULL THEN $6 ELSE resolved_at END,
             resource_version = resource_version + 1
         WHERE tenant = $1 AND uid = $2 AND device = $3")
        .bind(tenant).bind(told.uid.0).bind(device).bind(if open { "open" } else { "resolved" }).bind(told.last_at.0).bind(ended)
        .bind(i64::from(told.signs).max(signs)).bind(Json(&told.actions)).bind(Json(&history)).bind(by)
        .execute(c).await.map(affected))?;
    Ok(match (ends, reopened) {
        (true, _) => Some(event("resolved", &name)),
        (_, true) => Some(event("reopened", &name)),
        _ if more => Some(event("changed", &name)),
        _ => None,
    })
}

/// The rollout that it fell into: as the device says if there is such a one, else the one whose permit brought the release there.
async fn rollout_of(tx: &mut Tx, report: &IncidentReport, told: &Incident) -> StoreResult<Option<Uuid>> {
    let (tenant, device) = (report.tenant.0, report.device.0);
    if let Some(rollout) = told.rollout {
        let there: Option<(Uuid,)> = on!(tx, c => sqlx::query_as("SELECT uid FROM rollouts WHERE tenant = $1 AND uid = $2")
            .bind(tenant).bind(rollout.0).fetch_optional(c).await)?;
        if let Some((uid,)) = there {
            return Ok(Some(uid));
        }
    }
    let (Some(release), Some(app)) = (told.release, &told.app) else { return Ok(None) };
    let by_permit: Option<(Option<Uuid>,)> = on!(tx, c => sqlx::query_as(
        "SELECT rollout FROM permits WHERE tenant = $1 AND device = $2 AND app = $3 AND release = $4 AND rollout IS NOT NULL
         ORDER BY issued_at DESC LIMIT 1")
        .bind(tenant).bind(device).bind(app.as_str()).bind(release.0).fetch_optional(c).await)?;
    Ok(by_permit.and_then(|(rollout,)| rollout))
}

/// A short name that no other incident has.
async fn free_name(tx: &mut Tx, tenant: Uuid, uid: Uuid) -> StoreResult<String> {
    let hex = uid.simple().to_string();
    let short = format!("inc-{}", hex.get(24..).unwrap_or(&hex));
    let taken: Option<(Uuid,)> = on!(tx, c => sqlx::query_as("SELECT uid FROM incidents WHERE tenant = $1 AND name = $2")
        .bind(tenant).bind(&short).fetch_optional(c).await)?;
    Ok(if taken.is_some() { format!("inc-{hex}") } else { short })
}

async fn write_evidence(tx: &mut Tx, report: &IncidentReport, evidence: &NewEvidence) -> StoreResult<()> {
    on!(tx, c => sqlx::query(
        "INSERT INTO incident_evidence (tenant, incident, part, taken_at, body)
         SELECT $1, uid, $3, $4, $5 FROM incidents WHERE tenant = $1 AND uid = $2 AND device = $6
         ON CONFLICT (tenant, incident, part) DO NOTHING")
        .bind(report.tenant.0).bind(evidence.incident.0).bind(&evidence.part).bind(evidence.taken_at.0).bind(&evidence.body)
        .bind(report.device.0).execute(c).await.map(affected))?;
    Ok(())
}

/// However much a device tells, only so much of it is kept.
async fn trim(tx: &mut Tx, report: &IncidentReport) -> StoreResult<()> {
    let (tenant, device) = (report.tenant.0, report.device.0);
    on!(tx, c => sqlx::query(
        "DELETE FROM incident_evidence WHERE tenant = $1 AND incident IN (
             SELECT uid FROM incidents WHERE tenant = $1 AND device = $2 ORDER BY started_at DESC, uid DESC LIMIT 1000 OFFSET $3)")
        .bind(tenant).bind(device).bind(EVIDENCE_PER_DEVICE).execute(c).await.map(affected))?;
    on!(tx, c => sqlx::query(
        "DELETE FROM incidents WHERE tenant = $1 AND uid IN (
             SELECT uid FROM incidents WHERE tenant = $1 AND device = $2 ORDER BY started_at DESC, uid DESC LIMIT 1000 OFFSET $3)")
        .bind(tenant).bind(device).bind(INCIDENTS_PER_DEVICE).execute(c).await.map(affected))?;
    Ok(())
}

impl TenantDb {
    /// A page of incidents, newest first, before the one with this uid.
    pub async fn incidents(
        &self,
        filter: &IncidentFilter,
        before: Option<Uuid>,
        limit: u32,
    ) -> StoreResult<Vec<IncidentRow>> {
        let mut tx = self.read().await?;
        let mut all = Conditions::default();
        let tenant = all.uuid(self.tenant.0);
        all.and(&format!("i.tenant = {tenant}"));
        if let Some(device) = &filter.device {
            let (uid, name) = address(device);
            let (uid, name) = (all.uuid(uid), all.text(name));
            all.and(&format!("(i.device = {uid} OR d.name = {name})"));
        }
        if let Some(app) = &filter.app {
            let app = all.text(app);
            all.and(&format!("i.app = {app}"));
        }
        if let Some(open) = filter.open {
            all.and(if open { "i.state = 'open'" } else { "i.state = 'resolved'" });
        }
        if let Some(since) = filter.since {
            let since = all.integer(since.0);
            all.and(&format!("i.started_at >= {since}"));
        }
        if let Some(rollout) = filter.rollout {
            let rollout = all.uuid(rollout.0);
            all.and(&format!("i.rollout = {rollout}"));
        }
        if let Some(before) = before {
            let before = all.uuid(before);
            all.and(&format!(
                "(i.started_at, i.uid) < (SELECT started_at, uid FROM incidents WHERE tenant = {tenant} AND uid = {before})"
            ));
        }
        let limit = all.integer(i64::from(limit));
        let sql = sqlx::AssertSqlSafe(format!(
            "{SELECT} WHERE {} ORDER BY i.started_at DESC, i.uid DESC LIMIT {limit}",
            all.sql()
        ));
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), &all.arguments).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One incident, by uid or name.
    pub async fn incident(&self, id: &str) -> StoreResult<IncidentRow> {
        let mut tx = self.read().await?;
        self.incident_in(&mut tx, id).await
    }

    async fn incident_in(&self, tx: &mut Tx, id: &str) -> StoreResult<IncidentRow> {
        let (uid, name) = address(id);
        let sql =
            sqlx::AssertSqlSafe(format!("{SELECT} WHERE i.tenant = $1 AND (i.uid = $2 OR i.name = $3)"));
        let row: Option<Row> = on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(uid).bind(name).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("incident"))?.read()
    }

    /// Evidence of an incident, oldest first: part, when it was taken, what came.
    pub async fn incident_evidence(
        &self,
        incident: IncidentId,
    ) -> StoreResult<Vec<(String, UnixMs, Vec<u8>)>> {
        let mut tx = self.read().await?;
        let rows: Vec<(String, i64, Vec<u8>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT part, taken_at, body FROM incident_evidence WHERE tenant = $1 AND incident = $2 ORDER BY taken_at")
            .bind(self.tenant.0).bind(incident.0).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(part, at, body)| (part, UnixMs(at), body)).collect())
    }

    /// Somebody acknowledges or resolves it, with the event. Doing so twice changes nothing.
    pub async fn change_incident(
        &self,
        id: &str,
        verb: IncidentVerb,
        comment: &str,
        now: UnixMs,
    ) -> StoreResult<IncidentRow> {
        let mut tx = self.begin().await?;
        let row = self.incident_in(&mut tx, id).await?;
        let (did, over) = match verb {
            IncidentVerb::Acknowledge => ("acknowledged", row.acknowledged_at.is_some()),
            IncidentVerb::Resolve => ("resolved", !row.open),
        };
        if over && comment.is_empty() {
            return Ok(row);
        }
        let mut history = row.history.clone();
        if history.len() >= 200 {
            history.remove(0);
        }
        history.push(IncidentNote {
            at: now,
            by: self.actor.0.clone(),
            did: did.to_owned(),
            comment: comment.to_owned(),
        });
        let sql = match verb {
            IncidentVerb::Acknowledge => {
                "UPDATE incidents SET acknowledged_at = COALESCE(acknowledged_at, $3), history = $5, resource_version = resource_version + 1,
                     acknowledged_by = CASE WHEN acknowledged_by = '' THEN $4 ELSE acknowledged_by END WHERE tenant = $1 AND uid = $2"
            }
            IncidentVerb::Resolve => {
                "UPDATE incidents SET state = 'resolved', resolved_at = COALESCE(resolved_at, $3), history = $5,
                     resource_version = resource_version + 1,
                     resolved_by = CASE WHEN resolved_by = '' THEN $4 ELSE resolved_by END WHERE tenant = $1 AND uid = $2"
            }
        };
        on!(&mut tx, c => sqlx::query(sql).bind(self.tenant.0).bind(row.uid.0).bind(now.0).bind(&self.actor.0)
            .bind(Json(&history)).execute(c).await.map(affected))?;
        let tail = if comment.is_empty() { String::new() } else { format!(": {comment}") };
        let event = self.event(
            &format!("incident.{did}"),
            ("Incident", row.uid.0, row.name.as_str()),
            format!("incident {} on {} was {did}{tail}", row.name, row.device_name),
            serde_json::json!({ "device": row.device, "deviceName": row.device_name, "comment": comment }),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        let row = self.incident_in(&mut tx, &row.uid.to_string()).await?;
        tx.commit().await?;
        Ok(row)
    }
}

impl SystemDb {
    /// Deletes incidents that were resolved before `cutoff`, at most `limit`. Returns how many.
    pub async fn delete_incidents_before(&self, cutoff: UnixMs, limit: u32) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx, c => sqlx::query(
            "DELETE FROM incidents WHERE (tenant, uid) IN (
                 SELECT tenant, uid FROM incidents WHERE state = 'resolved' AND resolved_at < $1 ORDER BY resolved_at LIMIT $2)")
            .bind(cutoff.0).bind(i64::from(limit)).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(deleted)
    }
}
