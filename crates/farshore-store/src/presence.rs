//! Presence: who is connected, and when each device was heard from last.
//!
//! Frames only touch memory; every few seconds a replica flushes what it heard as one set. Reachability is computed from an open
//! session and `last_seen_at` (see [`DeviceRow::reachability`](crate::devices::DeviceRow::reachability)), so nothing is written when a
//! device falls silent.

use std::collections::BTreeMap;

use farshore_domain::device::Lifecycle;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::SystemDb;
use crate::db::{Tx, affected};
use crate::devices::count;
use crate::error::StoreResult;
use crate::{on, set};

/// How often a device says that it is there.
pub const HEARTBEAT_MS: i64 = 30_000;

/// A channel was opened. The highest epoch of a device wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpen {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub epoch: i64,
    pub at: UnixMs,
}

/// What there is to know about a device whose channel was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub name: String,
    pub lifecycle: Lifecycle,
    /// When it was heard from before this channel.
    pub last_seen_before: Option<UnixMs>,
    /// The last stored batch of each of its streams.
    pub marks: Vec<(String, u64)>,
}

/// A channel was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionClose {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub epoch: i64,
}

/// A device was heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub at: UnixMs,
}

/// A device that was not heard from for too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub name: String,
    pub last_seen_at: UnixMs,
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant: Uuid,
    uid: Uuid,
    name: String,
    lifecycle: String,
    last_seen_at: Option<i64>,
}

/// Opens sessions. Devices that are not there any more are missing from the answer.
pub(crate) async fn open_sessions(
    tx: &mut Tx,
    replica: &str,
    opens: &[SessionOpen],
) -> StoreResult<Vec<Opened>> {
    let mut newest: BTreeMap<(TenantId, DeviceId), SessionOpen> = BTreeMap::new();
    for open in opens {
        let entry = newest.entry((open.tenant, open.device)).or_insert(*open);
        if open.epoch > entry.epoch {
            *entry = *open;
        }
    }
    let wanted: Vec<SessionOpen> = newest.into_values().collect();
    let mut opened = Vec::with_capacity(wanted.len());
    for chunk in wanted.chunks(set::rows_per_statement(tx, 5)) {
        let keys = set::values(chunk.len(), 2);
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT tenant, uid, name, lifecycle, last_seen_at FROM devices WHERE (tenant, uid) IN (VALUES {keys})"
        ));
        let rows: Vec<Row> = on!(tx, c => {
            let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1);
            for open in chunk {
                query = query.bind(open.tenant.0).bind(open.device.0);
            }
            query.fetch_all(c).await
        })?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT tenant, device, stream, sequence FROM stream_marks WHERE (tenant, device) IN (VALUES {keys})"
        ));
        let marks: Vec<(Uuid, Uuid, String, i64)> = on!(tx, c => {
            let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1);
            for open in chunk {
                query = query.bind(open.tenant.0).bind(open.device.0);
            }
            query.fetch_all(c).await
        })?;
        let mut by_device: BTreeMap<(Uuid, Uuid), Vec<(String, u64)>> = BTreeMap::new();
        for (tenant, device, stream, sequence) in marks {
            by_device.entry((tenant, device)).or_default().push((stream, count(sequence)));
        }
        let there: Vec<(&SessionOpen, Row)> = rows
            .into_iter()
            .filter_map(|row| {
                let open = chunk.iter().find(|o| o.tenant.0 == row.tenant && o.device.0 == row.uid)?;
                Some((open, row))
            })
            .collect();
        if there.is_empty() {
            continue;
        }
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO device_sessions (tenant, device, replica, epoch, connected_at) VALUES {}
             ON CONFLICT (tenant, device) DO UPDATE SET replica = excluded.replica, epoch = excluded.epoch,
                 connected_at = excluded.connected_at WHERE excluded.epoch > device_sessions.epoch",
            set::values(there.len(), 5)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(there.len() == 1);
            for (open, _) in &there {
                query = query.bind(open.tenant.0).bind(open.device.0).bind(replica).bind(open.epoch).bind(open.at.0);
            }
            query.execute(c).await.map(affected)
        })?;
        let seen: Vec<Seen> = there
            .iter()
            .map(|(open, _)| Seen { tenant: open.tenant, device: open.device, at: open.at })
            .collect();
        write_seen(tx, &seen).await?;
        opened.extend(there.into_iter().map(|(open, row)| Opened {
            tenant: open.tenant,
            device: open.device,
            name: row.name,
            lifecycle: Lifecycle::from_word(&row.lifecycle),
            last_seen_before: row.last_seen_at.map(UnixMs),
            marks: by_device.remove(&(row.tenant, row.uid)).unwrap_or_default(),
        }));
    }
    Ok(opened)
}

/// Closes sessions, unless a newer one of the same device took over.
pub(crate) async fn close_sessions(tx: &mut Tx, closes: &[SessionClose]) -> StoreResult<()> {
    for chunk in closes.chunks(set::rows_per_statement(tx, 3)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "DELETE FROM device_sessions WHERE (tenant, device, epoch) IN (VALUES {})",
            set::values(chunk.len(), 3)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for close in chunk {
                query = query.bind(close.tenant.0).bind(close.device.0).bind(close.epoch);
            }
            query.execute(c).await.map(affected)
        })?;
    }
    Ok(())
}

pub(crate) async fn write_seen(tx: &mut Tx, seen: &[Seen]) -> StoreResult<()> {
    for chunk in seen.chunks(set::rows_per_statement(tx, 3)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE devices SET last_seen_at = v.column3 FROM (VALUES {}) AS v
             WHERE devices.tenant = v.column1 AND devices.uid = v.column2
               AND (devices.last_seen_at IS NULL OR devices.last_seen_at < v.column3)",
            set::values(chunk.len(), 3)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for one in chunk {
                query = query.bind(one.tenant.0).bind(one.device.0).bind(one.at.0);
            }
            query.execute(c).await.map(affected)
        })?;
    }
    Ok(())
}

impl SystemDb {
    /// Flushes who was heard from, as a set.
    pub async fn record_seen(&self, seen: &[Seen]) -> StoreResult<()> {
        if seen.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        write_seen(&mut tx, seen).await?;
        tx.commit().await
    }

    /// Forgets the sessions of a replica from before its start.
    pub async fn forget_sessions(&self, replica: &str, started: UnixMs) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let forgotten = on!(&mut tx, c => sqlx::query(
            "DELETE FROM device_sessions WHERE replica = $1 AND connected_at < $2")
            .bind(replica).bind(started.0).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(forgotten)
    }

    /// When any device was heard from last before `started`: about when the control plane listened before that start.
    pub async fn last_heard(&self, started: UnixMs) -> StoreResult<Option<UnixMs>> {
        let mut tx = self.read().await?;
        let (last,): (Option<i64>,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT MAX(last_seen_at) FROM devices WHERE last_seen_at < $1").bind(started.0).fetch_one(c).await)?;
        Ok(last.map(UnixMs))
    }

    /// Devices that were heard from last after `after` and not after `until`, of those that are still trusted.
    pub async fn silent_devices(&self, after: UnixMs, until: UnixMs) -> StoreResult<Vec<Silent>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid, Uuid, String, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT tenant, uid, name, last_seen_at FROM devices
             WHERE last_seen_at > $1 AND last_seen_at <= $2 AND revoked_at IS NULL")
            .bind(after.0).bind(until.0).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(tenant, device, name, at)| Silent {
                tenant: TenantId(tenant),
                device: DeviceId(device),
                name,
                last_seen_at: UnixMs(at),
            })
            .collect())
    }
}
