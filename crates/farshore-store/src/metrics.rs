//! Measurements: compressed blocks as devices sent them, the latest values, and the mark up to which each stream is stored.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::StoreResult;
use crate::{on, set};

/// A block that was read once, so that its figures are known to be right.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBlock {
    pub tenant: TenantId,
    pub device: DeviceId,
    /// `host`, or `app/<name>`.
    pub stream: String,
    /// Counts up within a stream of a device.
    pub sequence: i64,
    pub from: UnixMs,
    pub to: UnixMs,
    pub samples: u32,
    pub block: Vec<u8>,
    /// The last value of each series.
    pub latest: BTreeMap<String, f64>,
}

/// A stored block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    pub device: DeviceId,
    pub from: UnixMs,
    pub to: UnixMs,
    pub block: Vec<u8>,
}

/// A stream of a device.
pub(crate) type StreamKey = (Uuid, Uuid, String);

/// The marks of these streams; a stream that is missing has none.
pub(crate) async fn read_marks(
    tx: &mut Tx,
    streams: &BTreeSet<StreamKey>,
) -> StoreResult<BTreeMap<StreamKey, i64>> {
    let mut marks = BTreeMap::new();
    let streams: Vec<&StreamKey> = streams.iter().collect();
    for chunk in streams.chunks(set::rows_per_statement(tx, 3)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT tenant, device, stream, sequence FROM stream_marks WHERE (tenant, device, stream) IN (VALUES {})",
            set::values(chunk.len(), 3)
        ));
        let rows: Vec<(Uuid, Uuid, String, i64)> = on!(tx, c => {
            let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1);
            for (tenant, device, stream) in chunk {
                query = query.bind(*tenant).bind(*device).bind(stream);
            }
            query.fetch_all(c).await
        })?;
        marks.extend(
            rows.into_iter().map(|(tenant, device, stream, sequence)| ((tenant, device, stream), sequence)),
        );
    }
    Ok(marks)
}

/// Raises marks. They never go back.
pub(crate) async fn write_marks(tx: &mut Tx, marks: &BTreeMap<StreamKey, i64>) -> StoreResult<()> {
    let marks: Vec<(&StreamKey, &i64)> = marks.iter().collect();
    for chunk in marks.chunks(set::rows_per_statement(tx, 4)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO stream_marks (tenant, device, stream, sequence) VALUES {}
             ON CONFLICT (tenant, device, stream) DO UPDATE SET sequence = excluded.sequence
             WHERE excluded.sequence > stream_marks.sequence",
            set::values(chunk.len(), 4)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for ((tenant, device, stream), sequence) in chunk {
                query = query.bind(*tenant).bind(*device).bind(stream).bind(**sequence);
            }
            query.execute(c).await.map(affected)
        })?;
    }
    Ok(())
}

/// Stores blocks of many devices with their latest values and marks; what is not above its mark was stored before and is left out.
pub(crate) async fn write_blocks(tx: &mut Tx, blocks: &[&NewBlock]) -> StoreResult<()> {
    let key = |block: &NewBlock| (block.tenant.0, block.device.0, block.stream.clone());
    let streams: BTreeSet<StreamKey> = blocks.iter().map(|block| key(block)).collect();
    let marks = read_marks(tx, &streams).await?;
    let mut fresh: BTreeMap<(StreamKey, i64), &NewBlock> = BTreeMap::new();
    let mut raised: BTreeMap<StreamKey, i64> = BTreeMap::new();
    let mut latest: BTreeMap<StreamKey, &NewBlock> = BTreeMap::new();
    for block in blocks {
        let key = key(block);
        if block.sequence <= marks.get(&key).copied().unwrap_or(0) {
            continue;
        }
        let mark = raised.entry(key.clone()).or_insert(block.sequence);
        *mark = block.sequence.max(*mark);
        // Without rows there is nothing to keep, but the device may forget it.
        if block.samples > 0 {
            let newest = latest.entry(key.clone()).or_insert(block);
            if block.to >= newest.to {
                *newest = block;
            }
            fresh.insert((key, block.sequence), block);
        }
    }
    let fresh: Vec<&NewBlock> = fresh.into_values().collect();
    for chunk in fresh.chunks(set::rows_per_statement(tx, 8)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO metric_blocks (tenant, device, stream, sequence, from_ms, to_ms, samples, block) VALUES {}
             ON CONFLICT (tenant, device, stream, sequence) DO NOTHING",
            set::values(chunk.len(), 8)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for block in chunk {
                query = query.bind(block.tenant.0).bind(block.device.0).bind(&block.stream).bind(block.sequence)
                    .bind(block.from.0).bind(block.to.0).bind(i64::from(block.samples)).bind(&block.block);
            }
            query.execute(c).await.map(affected)
        })?;
    }
    let latest: Vec<&NewBlock> = latest.into_values().collect();
    for chunk in latest.chunks(set::rows_per_statement(tx, 5)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO metric_latest (tenant, device, stream, at, latest) VALUES {}
             ON CONFLICT (tenant, device, stream) DO UPDATE SET at = excluded.at, latest = excluded.latest
             WHERE excluded.at >= metric_latest.at",
            set::values(chunk.len(), 5)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for block in chunk {
                query = query.bind(block.tenant.0).bind(block.device.0).bind(&block.stream).bind(block.to.0)
                    .bind(Json(&block.latest));
            }
            query.execute(c).await.map(affected)
        })?;
    }
    write_marks(tx, &raised).await
}

impl TenantDb {
    /// The blocks of one stream of some devices that hold anything from `from` to `to`, oldest first, at most `limit`.
    pub async fn metric_blocks(
        &self,
        devices: &[DeviceId],
        stream: &str,
        from: UnixMs,
        to: UnixMs,
        limit: u32,
    ) -> StoreResult<Vec<BlockRow>> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.read().await?;
        let mut conditions = Conditions::default();
        let tenant = conditions.uuid(self.tenant.0);
        let devices_in = conditions.uuids(devices.iter().map(|device| device.0));
        let stream = conditions.text(stream);
        let from = conditions.integer(from.0);
        let to = conditions.integer(to.0);
        let limit = conditions.integer(i64::from(limit));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT device, from_ms, to_ms, block FROM metric_blocks
             WHERE tenant = {tenant} AND device IN ({devices_in}) AND stream = {stream} AND to_ms >= {from} AND from_ms <= {to}
             ORDER BY to_ms LIMIT {limit}"
        ));
        let arguments = &conditions.arguments;
        let keep = devices.len() == 1;
        let rows: Vec<(Uuid, i64, i64, Vec<u8>)> =
            on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(keep), arguments).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(device, from, to, block)| BlockRow {
                device: DeviceId(device),
                from: UnixMs(from),
                to: UnixMs(to),
                block,
            })
            .collect())
    }

    /// The newest measurements of each app of a device, and when they were taken.
    pub async fn latest_of_apps(
        &self,
        device: DeviceId,
    ) -> StoreResult<BTreeMap<String, (UnixMs, BTreeMap<String, f64>)>> {
        type Latest = (String, i64, Json<BTreeMap<String, f64>>);
        let mut tx = self.read().await?;
        let rows: Vec<Latest> = on!(&mut tx, c => sqlx::query_as(
            "SELECT stream, at, latest FROM metric_latest WHERE tenant = $1 AND device = $2 AND stream LIKE 'app/%'")
            .bind(self.tenant.0).bind(device.0).fetch_all(c).await)?;
        let app = |stream: String| stream.strip_prefix("app/").map(str::to_owned);
        Ok(rows
            .into_iter()
            .filter_map(|(stream, at, latest)| Some((app(stream)?, (UnixMs(at), latest.0))))
            .collect())
    }
}

impl SystemDb {
    /// Deletes blocks that end before `cutoff`, were stored before it, too, and are in their hours, at most `limit`. Returns how many; call again until it is 0.
    pub async fn delete_blocks_before(&self, cutoff: UnixMs, limit: u32) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx, c => sqlx::query(
            "DELETE FROM metric_blocks WHERE (tenant, device, stream, sequence) IN (
                 SELECT tenant, device, stream, sequence FROM metric_blocks WHERE to_ms < $1 AND stored_at < $1 AND rolled <> 0 ORDER BY to_ms LIMIT $2)")
            .bind(cutoff.0).bind(i64::from(limit)).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(deleted)
    }

    /// Deletes blocks of these devices that ended before `cutoff`, were stored before it, too, and are in their hours, at most `limit` of them. Returns how many there were.
    pub async fn delete_blocks_of(
        &self,
        tenant: TenantId,
        devices: &[DeviceId],
        cutoff: UnixMs,
        limit: u32,
    ) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let mut deleted = 0;
        for device in devices {
            let left = i64::from(limit).saturating_sub(i64::try_from(deleted).unwrap_or(i64::MAX));
            if left <= 0 {
                break;
            }
            deleted += on!(&mut tx, c => sqlx::query(
                "DELETE FROM metric_blocks WHERE (tenant, device, stream, sequence) IN (
                     SELECT tenant, device, stream, sequence FROM metric_blocks
                     WHERE tenant = $1 AND device = $2 AND to_ms < $3 AND stored_at < $3 AND rolled <> 0 LIMIT $4)")
                .bind(tenant.0).bind(device.0).bind(cutoff.0).bind(left).execute(c).await.map(affected))?;
        }
        tx.commit().await?;
        Ok(deleted)
    }
}
