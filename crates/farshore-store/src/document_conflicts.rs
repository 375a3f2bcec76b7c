//! The conflict log of documents: what both sides had changed, what decided, and the value that lost.

use farshore_domain::document::merge::{Conflict, Winner};
use farshore_domain::document::{Hlc, Rule, Stamp};
use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use serde_json::Value;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::{Tx, affected};
use crate::documents::{integer, json, text, within};
use crate::error::{StoreError, StoreResult};
use crate::on;

/// Most conflicts of a device that are kept. Beyond that the oldest that are settled go; where all are open, nothing more is taken from the device.
pub const MAX_CONFLICTS: i64 = 5_000;

/// Most conflicts that one exchange notes.
pub const MAX_CONFLICTS_AT_ONCE: i64 = 500;
/// About so many bytes of values are in the log of a device; beyond that the same holds.
const MAX_CONFLICT_BYTES: i64 = 128 * 1024 * 1024;
/// About so many bytes of values are on one page of conflicts, and one conflict more.
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// A conflict as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct ConflictRow {
    pub uid: Uuid,
    pub device: DeviceId,
    pub device_name: String,
    pub collection: String,
    pub name: String,
    pub conflict: Conflict,
    pub revision: u64,
    pub at: UnixMs,
    pub open: bool,
    pub settled_at: Option<UnixMs>,
    pub settled_by: Option<String>,
    pub chosen: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Stored {
    uid: Uuid,
    device: Uuid,
    device_name: String,
    collection: String,
    name: String,
    path: String,
    rule: String,
    winner: String,
    note: Option<String>,
    base: Option<String>,
    edge: Option<String>,
    cloud: Option<String>,
    edge_at: Option<i64>,
    edge_by: Option<String>,
    cloud_at: Option<i64>,
    cloud_by: Option<String>,
    revision: i64,
    at: i64,
    state: String,
    settled_at: Option<i64>,
    settled_by: Option<String>,
    chosen: Option<String>,
}

const COLUMNS: &str = "x.uid, x.device, d.name AS device_name, x.collection, x.name, x.path, x.rule, x.winner, x.note, x.base, x.edge, x.cloud, x.edge_at,
    x.edge_by, x.cloud_at, x.cloud_by, x.revision, x.at, x.state, x.settled_at, x.settled_by, x.chosen";
const SIZE: &str = "CAST(COALESCE(OCTET_LENGTH(x.base), 0) + COALESCE(OCTET_LENGTH(x.edge), 0) + COALESCE(OCTET_LENGTH(x.cloud), 0) AS BIGINT)";
const FROM: &str = "document_conflicts x JOIN devices d ON d.tenant = x.tenant AND d.uid = x.device";

fn stamp(at: Option<i64>, by: Option<String>) -> Option<Stamp> {
    Some(Stamp { at: Hlc { ms: at?, count: 0 }, by: by? })
}

impl TryFrom<Stored> for ConflictRow {
    type Error = StoreError;
    fn try_from(row: Stored) -> StoreResult<Self> {
        let value =
            |text: Option<String>| -> StoreResult<Option<Value>> { text.as_deref().map(json).transpose() };
        Ok(Self {
            uid: row.uid,
            device: DeviceId(row.device),
            device_name: row.device_name,
            collection: row.collection,
            name: row.name,
            conflict: Conflict {
                path: row.path,
                rule: json::<Rule>(&row.rule)?,
                base: value(row.base)?,
                edge: value(row.edge)?,
                cloud: value(row.cloud)?,
                edge_stamp: stamp(row.edge_at, row.edge_by),
                cloud_stamp: stamp(row.cloud_at, row.cloud_by),
                winner: match row.winner.as_str() {
                    "edge" => Winner::Edge,
                    "cloud" => Winner::Cloud,
                    "resolver" => Winner::Resolver,
                    _ => Winner::Open,
                },
                note: row.note,
            },
            revision: row.revision.cast_unsigned(),
            at: UnixMs(row.at),
            open: row.state == "open",
            settled_at: row.settled_at.map(UnixMs),
            settled_by: row.settled_by,
            chosen: row.chosen,
        })
    }
}

/// Which conflicts to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConflictFilter {
    pub device: Option<DeviceId>,
    pub open: Option<bool>,
    /// (collection, name)
    pub document: Option<(String, String)>,
    /// Older than this one.
    pub before: Option<Uuid>,
}

impl TenantDb {
    /// How many conflicts a device's log takes now; makes room by forgetting the oldest that are settled.
    pub async fn room_for_conflicts(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<usize> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT COUNT(*), COUNT(CASE WHEN x.state = 'open' THEN 1 END), CAST(COALESCE(SUM({SIZE}), 0) AS BIGINT),
                 CAST(COALESCE(SUM(CASE WHEN x.state = 'open' THEN {SIZE} END), 0) AS BIGINT)
             FROM document_conflicts x WHERE x.tenant = $1 AND x.device = $2"
        ));
        let (count, open, bytes, open_bytes): (i64, i64, i64, i64) =
            on!(&mut *tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
        if open_bytes >= MAX_CONFLICT_BYTES {
            return Ok(0);
        }
        let mut forgotten = 0;
        if bytes > MAX_CONFLICT_BYTES {
            let sql = sqlx::AssertSqlSafe(format!(
                "DELETE FROM document_conflicts WHERE (tenant, uid) IN (
                     SELECT s.tenant, s.uid FROM (
                         SELECT x.tenant, x.uid, SUM({SIZE}) OVER (ORDER BY x.at DESC, x.uid DESC) AS bytes FROM document_conflicts x
                         WHERE x.tenant = $1 AND x.device = $2 AND x.state = 'settled') AS s
                     WHERE s.bytes > $3)"
            ));
            forgotten = on!(&mut *tx, c => sqlx::query(sql)
                .bind(self.tenant.0).bind(device.0).bind(MAX_CONFLICT_BYTES - open_bytes).execute(c).await.map(affected))?;
        }
        let room = (MAX_CONFLICTS - open).clamp(0, MAX_CONFLICTS_AT_ONCE);
        let over = count - forgotten.cast_signed() + room - MAX_CONFLICTS;
        if over > 0 {
            on!(&mut *tx, c => sqlx::query(
                "DELETE FROM document_conflicts WHERE (tenant, uid) IN (
                     SELECT tenant, uid FROM document_conflicts WHERE tenant = $1 AND device = $2 AND state = 'settled' ORDER BY at LIMIT $3)")
                .bind(self.tenant.0).bind(device.0).bind(over).execute(c).await.map(affected))?;
        }
        Ok(usize::try_from(room).unwrap_or_default())
    }

    /// Notes a conflict.
    pub async fn add_conflict(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        (collection, name): (&str, &str),
        conflict: &Conflict,
        revision: u64,
        now: UnixMs,
    ) -> StoreResult<Uuid> {
        let uid = Uuid::now_v7();
        let value = |value: &Option<Value>| value.as_ref().map(text).transpose();
        let (base, edge, cloud) = (value(&conflict.base)?, value(&conflict.edge)?, value(&conflict.cloud)?);
        let rule = text(&conflict.rule)?;
        let state = if conflict.winner == Winner::Open { "open" } else { "settled" };
        let (edge_stamp, cloud_stamp) = (conflict.edge_stamp.as_ref(), conflict.cloud_stamp.as_ref());
        on!(&mut *tx, c => sqlx::query(
            "INSERT INTO document_conflicts (tenant, uid, device, collection, name, path, rule, winner, note, base, edge, cloud, edge_at, edge_by,
                 cloud_at, cloud_by, revision, at, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)")
            .bind(self.tenant.0).bind(uid).bind(device.0).bind(collection).bind(name).bind(&conflict.path).bind(rule)
            .bind(conflict.winner.as_str()).bind(&conflict.note).bind(base).bind(edge).bind(cloud)
            .bind(edge_stamp.map(|stamp| stamp.at.ms)).bind(edge_stamp.map(|stamp| stamp.by.as_str()))
            .bind(cloud_stamp.map(|stamp| stamp.at.ms)).bind(cloud_stamp.map(|stamp| stamp.by.as_str()))
            .bind(integer(revision)).bind(now.0).bind(state).execute(c).await.map(affected))?;
        Ok(uid)
    }

    /// Conflicts, the newest first, and whether there may be more: a page ends early where its values are large.
    pub async fn conflicts(
        &self,
        filter: &ConflictFilter,
        limit: u32,
    ) -> StoreResult<(Vec<ConflictRow>, bool)> {
        let mut tx = self.read().await?;
        let (collection, name) = filter.document.clone().unwrap_or_default();
        let state = filter.open.map_or("", |open| if open { "open" } else { "settled" });
        let of = |what: &str| {
            sqlx::AssertSqlSafe(format!(
                "SELECT {what} FROM {FROM} WHERE x.tenant = $1 AND (x.device = $2 OR $3 = 0) AND (x.state = $4 OR $4 = '')
                 AND ((x.collection = $5 AND x.name = $6) OR $5 = '') AND (x.uid < $7 OR $8 = 0) ORDER BY x.uid DESC LIMIT $9"
            ))
        };
        macro_rules! fetch {
            ($what:expr, $limit:expr) => {
                on!(&mut tx, c => sqlx::query_as(of($what))
                    .bind(self.tenant.0).bind(filter.device.map_or(Uuid::nil(), |device| device.0)).bind(i64::from(filter.device.is_some()))
                    .bind(state).bind(&collection).bind(&name).bind(filter.before.unwrap_or_default())
                    .bind(i64::from(filter.before.is_some())).bind($limit).fetch_all(c).await)?
            };
        }
        let sizes: Vec<(i64,)> = fetch!(SIZE, i64::from(limit));
        let within = within(sizes.iter().map(|(size,)| *size), MAX_PAGE_BYTES);
        let rows: Vec<Stored> = fetch!(COLUMNS, integer(within as u64));
        let more = within < sizes.len() || sizes.len() == limit as usize;
        Ok((rows.into_iter().map(ConflictRow::try_from).collect::<StoreResult<_>>()?, more))
    }

    /// One conflict.
    pub async fn conflict(&self, tx: &mut Tx, uid: Uuid) -> StoreResult<ConflictRow> {
        let sql =
            sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM {FROM} WHERE x.tenant = $1 AND x.uid = $2"));
        let row: Option<Stored> =
            on!(&mut *tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(uid).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("conflict"))?.try_into()
    }

    /// Notes what somebody chose.
    pub async fn settle_conflict(
        &self,
        tx: &mut Tx,
        uid: Uuid,
        chosen: &str,
        now: UnixMs,
    ) -> StoreResult<()> {
        on!(&mut *tx, c => sqlx::query(
            "UPDATE document_conflicts SET state = 'settled', chosen = $3, settled_at = $4, settled_by = $5 WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).bind(chosen).bind(now.0).bind(&self.actor.0).execute(c).await.map(affected))?;
        Ok(())
    }

    /// How many conflicts of a device wait for somebody.
    pub async fn open_conflicts(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<u64> {
        let (count,): (i64,) = on!(&mut *tx, c => sqlx::query_as(
            "SELECT COUNT(*) FROM document_conflicts WHERE tenant = $1 AND device = $2 AND state = 'open'")
            .bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
        Ok(count.cast_unsigned())
    }
}
