//! What gateways send: batches of points, each taken once; what was lost; and what they say of themselves.
//!
//! A batch, the mark that it has arrived, the latest values and the losses in it are one transaction. The row of its stream is locked first, so that
//! the same batch twice at the same time is one batch.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::id::DeviceId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::received::Received;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb, stored_name};
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::{on, set};

/// Most streams of a device, all lives of its journal together.
pub const MAX_STREAMS: i64 = 1_000;
/// Most series of a device whose latest values are kept; the points of others are stored all the same.
pub const MAX_SERIES: usize = 50_000;
/// Most losses that one batch tells.
pub const MAX_LOSSES: usize = 10_000;
/// Streams of `metric_blocks` that came from gateways begin so, followed by epoch and name.
pub const BLOCK_PREFIX: &str = "gw/";

/// A gateway that was not decommissioned.
const IN_USE: &str = "d.lifecycle <> 'decommissioned'";

/// A batch that was opened and read once.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBatch<'a> {
    pub device: DeviceId,
    /// The life of the device's journal.
    pub epoch: u64,
    pub stream: &'a str,
    /// `alert`, `document`, `telemetry` or `log`.
    pub class: &'static str,
    pub sequence: u64,
    /// Everything below is settled on the device.
    pub floor: u64,
    pub from: UnixMs,
    pub to: UnixMs,
    pub points: u32,
    /// Bytes as sealed.
    pub sealed_bytes: u64,
    /// The points in columns.
    pub block: &'a [u8],
    pub latest: &'a [NewLatest],
    pub losses: &'a [NewLoss],
}

/// The newest point of a series in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLatest {
    pub series: [u8; 16],
    pub measurement: String,
    pub field: String,
    pub tags: BTreeMap<String, String>,
    pub kind: &'static str,
    pub at_ns: i64,
    /// JSON.
    pub value: String,
}

/// Points that are no more, as a gateway told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLoss {
    pub stream: String,
    pub reason: String,
    pub points: i64,
    pub from: UnixMs,
    pub to: UnixMs,
    pub at: UnixMs,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Stored,
    /// It was there, or settled.
    Before,
    TooManyStreams,
    TooManyGaps,
}

/// What has arrived of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    pub device: DeviceId,
    pub epoch: u64,
    pub stream: String,
    pub class: String,
    pub received: Received,
    pub batches: i64,
    pub points: i64,
    pub bytes: i64,
    pub refused: i64,
    pub newest_at: Option<UnixMs>,
    pub last_at: UnixMs,
}

/// A device that sends batches.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayRow {
    pub device: DeviceId,
    pub name: Name,
    pub location: String,
    pub labels: Labels,
    pub epoch: u64,
    pub reported_at: UnixMs,
    pub report: serde_json::Value,
}

/// Losses of one stream for one reason, together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossRow {
    pub device: DeviceId,
    pub stream: String,
    pub reason: String,
    pub times: i64,
    pub points: i64,
    pub from: UnixMs,
    pub to: UnixMs,
    /// When the last one was noticed.
    pub last_at: UnixMs,
}

#[derive(sqlx::FromRow)]
struct StoredStream {
    device: Uuid,
    epoch: i64,
    stream: String,
    class: String,
    floor: i64,
    above: Json<Vec<(u64, u64)>>,
    batches: i64,
    points: i64,
    bytes: i64,
    refused: i64,
    newest_at: Option<i64>,
    last_at: i64,
}

impl From<StoredStream> for StreamRow {
    fn from(row: StoredStream) -> Self {
        Self {
            device: DeviceId(row.device),
            epoch: row.epoch.cast_unsigned(),
            stream: row.stream,
            class: row.class,
            received: Received::new(row.floor.cast_unsigned(), row.above.0),
            batches: row.batches,
            points: row.points,
            bytes: row.bytes,
            refused: row.refused,
            newest_at: row.newest_at.map(UnixMs),
            last_at: UnixMs(row.last_at),
        }
    }
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The stream of `metric_blocks` that a batch's points go to.
#[must_use]
pub fn block_stream(epoch: u64, stream: &str) -> String {
    format!("{BLOCK_PREFIX}{epoch:016x}/{stream}")
}

/// Epoch and stream out of what [`block_stream`] made.
#[must_use]
pub fn parse_block_stream(name: &str) -> Option<(u64, &str)> {
    let (epoch, stream) = name.strip_prefix(BLOCK_PREFIX)?.split_once('/')?;
    Some((u64::from_str_radix(epoch, 16).ok()?, stream))
}

impl TenantDb {
    /// Makes sure that the stream has a row, and locks it. `None`: the device has too many.
    async fn lock_stream(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        epoch: u64,
        (stream, class): (&str, &str),
        now: UnixMs,
    ) -> StoreResult<Option<StreamRow>> {
        let row: StoredStream = on!(&mut *tx, c => sqlx::query_as(
            "INSERT INTO sync_streams (tenant, device, epoch, stream, class, floor, above, batches, points, bytes, first_at, last_at)
             VALUES ($1, $2, $3, $4, $5, 1, $6, 0, 0, 0, $7, $7)
             ON CONFLICT (tenant, device, epoch, stream) DO UPDATE SET last_at = excluded.last_at, class = excluded.class
             RETURNING device, epoch, stream, class, floor, above, batches, points, bytes, refused, newest_at, last_at")
            .bind(self.tenant.0).bind(device.0).bind(epoch.cast_signed()).bind(stream).bind(class)
            .bind(Json(Vec::<(u64, u64)>::new())).bind(now.0).fetch_one(c).await)?;
        if row.batches == 0 && row.refused == 0 {
            let (streams,): (i64,) = on!(&mut *tx, c => sqlx::query_as(
                "SELECT COUNT(*) FROM sync_streams WHERE tenant = $1 AND device = $2")
                .bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
            if streams > MAX_STREAMS {
                return Ok(None);
            }
        }
        Ok(Some(row.into()))
    }

    /// Whether a batch has arrived or is settled, and its floor says nothing new: [taking](Self::take_batch) it would change nothing.
    pub async fn batch_is_known(
        &self,
        device: DeviceId,
        (stream, epoch): (&str, u64),
        sequence: u64,
        floor: u64,
    ) -> StoreResult<bool> {
        type Mark = (i64, Json<Vec<(u64, u64)>>);
        let mut tx = self.read().await?;
        let found: Option<Mark> = on!(&mut tx, c => sqlx::query_as(
            "SELECT floor, above FROM sync_streams WHERE tenant = $1 AND device = $2 AND epoch = $3 AND stream = $4")
            .bind(self.tenant.0).bind(device.0).bind(epoch.cast_signed()).bind(stream).fetch_optional(c).await)?;
        Ok(found.is_some_and(|(known, above)| {
            let before = Received::new(known.cast_unsigned(), above.0);
            let mut received = before.clone();
            received.raise_floor(floor.min(sequence));
            received == before && received.has(sequence)
        }))
    }

    /// Stores a batch with the mark that it has arrived, or nothing when it was there.
    pub async fn take_batch(&self, batch: &NewBatch<'_>, now: UnixMs) -> StoreResult<Taken> {
        let mut tx = self.begin().await?;
        let stream = (batch.stream, batch.class);
        let Some(mut row) = self.lock_stream(&mut tx, batch.device, batch.epoch, stream, now).await? else {
            return Ok(Taken::TooManyStreams);
        };
        let before = row.received.clone();
        // A floor above the batch itself is a mistake that must not swallow it.
        row.received.raise_floor(batch.floor.min(batch.sequence));
        let fresh = match row.received.take(batch.sequence) {
            Ok(fresh) => fresh,
            Err(_) => return Ok(Taken::TooManyGaps),
        };
        if !fresh {
            if row.received != before {
                self.write_mark(&mut tx, &row).await?;
                tx.commit().await?;
            }
            return Ok(Taken::Before);
        }
        if batch.points > 0 {
            on!(&mut tx, c => sqlx::query(
                "INSERT INTO metric_blocks (tenant, device, stream, sequence, from_ms, to_ms, samples, block, arrived, stored_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
                .bind(self.tenant.0).bind(batch.device.0).bind(block_stream(batch.epoch, batch.stream))
                .bind(integer(batch.sequence)).bind(batch.from.0).bind(batch.to.0).bind(i64::from(batch.points))
                .bind(batch.block).bind(row.batches + 1).bind(now.0).execute(c).await.map(affected))?;
            self.write_latest(&mut tx, batch).await?;
        }
        self.write_losses(&mut tx, batch).await?;
        row.batches += 1;
        row.points = row.points.saturating_add(i64::from(batch.points));
        row.bytes = row.bytes.saturating_add(integer(batch.sealed_bytes));
        row.newest_at = row.newest_at.max((batch.points > 0).then_some(batch.to));
        self.write_mark(&mut tx, &row).await?;
        tx.commit().await?;
        Ok(Taken::Stored)
    }

    async fn write_mark(&self, tx: &mut Tx, row: &StreamRow) -> StoreResult<()> {
        on!(tx, c => sqlx::query(
            "UPDATE sync_streams SET floor = $5, above = $6, batches = $7, points = $8, bytes = $9, newest_at = $10
             WHERE tenant = $1 AND device = $2 AND epoch = $3 AND stream = $4")
            .bind(self.tenant.0).bind(row.device.0).bind(row.epoch.cast_signed()).bind(&row.stream)
            .bind(integer(row.received.floor())).bind(Json(row.received.above())).bind(row.batches).bind(row.points)
            .bind(row.bytes).bind(row.newest_at.map(|at| at.0)).execute(c).await.map(affected))?;
        Ok(())
    }

    async fn write_latest(&self, tx: &mut Tx, batch: &NewBatch<'_>) -> StoreResult<()> {
        let mut rows: BTreeMap<[u8; 16], &NewLatest> = BTreeMap::new();
        for latest in batch.latest {
            let newest = rows.entry(latest.series).or_insert(latest);
            if latest.at_ns >= newest.at_ns {
                *newest = latest;
            }
        }
        let (known,): (i64,) = on!(&mut *tx, c => sqlx::query_as(
            "SELECT COUNT(*) FROM series_latest WHERE tenant = $1 AND device = $2")
            .bind(self.tenant.0).bind(batch.device.0).fetch_one(c).await)?;
        let room = MAX_SERIES.saturating_sub(usize::try_from(known).unwrap_or(usize::MAX));
        if rows.len() > room {
            let known: Vec<(Vec<u8>,)> = on!(&mut *tx, c => sqlx::query_as(
                "SELECT series FROM series_latest WHERE tenant = $1 AND device = $2 AND stream = $3")
                .bind(self.tenant.0).bind(batch.device.0).bind(batch.stream).fetch_all(c).await)?;
            let known: BTreeSet<Vec<u8>> = known.into_iter().map(|(series,)| series).collect();
            let mut left = room;
            rows.retain(|series, _| {
                known.contains(&series[..]) || {
                    let fits = left > 0;
                    left = left.saturating_sub(1);
                    fits
                }
            });
        }
        let rows: Vec<&NewLatest> = rows.into_values().collect();
        for chunk in rows.chunks(set::rows_per_statement(tx, 10)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "INSERT INTO series_latest (tenant, device, stream, series, measurement, field, tags, kind, at_ns, value) VALUES {}
                 ON CONFLICT (tenant, device, stream, series) DO UPDATE SET kind = excluded.kind, at_ns = excluded.at_ns, value = excluded.value
                 WHERE excluded.at_ns >= series_latest.at_ns",
                set::values(chunk.len(), 10)
            ));
            on!(&mut *tx, c => {
                let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
                for latest in chunk {
                    query = query.bind(self.tenant.0).bind(batch.device.0).bind(batch.stream).bind(&latest.series[..])
                        .bind(&latest.measurement).bind(&latest.field).bind(Json(&latest.tags)).bind(latest.kind)
                        .bind(latest.at_ns).bind(&latest.value);
                }
                query.execute(c).await.map(affected)
            })?;
        }
        Ok(())
    }

    async fn write_losses(&self, tx: &mut Tx, batch: &NewBatch<'_>) -> StoreResult<()> {
        let numbered: Vec<(i64, &NewLoss)> = (0..).zip(batch.losses.iter().take(MAX_LOSSES)).collect();
        for chunk in numbered.chunks(set::rows_per_statement(tx, 11)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "INSERT INTO sync_losses (tenant, device, epoch, told_in, number, stream, reason, points, from_ms, to_ms, at) VALUES {}",
                set::values(chunk.len(), 11)
            ));
            on!(&mut *tx, c => {
                let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
                for (number, loss) in chunk {
                    query = query.bind(self.tenant.0).bind(batch.device.0).bind(batch.epoch.cast_signed())
                        .bind(integer(batch.sequence)).bind(*number).bind(&loss.stream).bind(&loss.reason)
                        .bind(loss.points).bind(loss.from.0).bind(loss.to.0).bind(loss.at.0);
                }
                query.execute(c).await.map(affected)
            })?;
        }
        Ok(())
    }

    /// Counts a batch that can never be read. Its number is settled when the device says so, by the stream's floor.
    pub async fn count_refused_batch(
        &self,
        device: DeviceId,
        epoch: u64,
        stream: (&str, &str),
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        if self.lock_stream(&mut tx, device, epoch, stream, now).await?.is_none() {
            return Ok(());
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE sync_streams SET refused = refused + 1 WHERE tenant = $1 AND device = $2 AND epoch = $3 AND stream = $4")
            .bind(self.tenant.0).bind(device.0).bind(epoch.cast_signed()).bind(stream.0).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// What has arrived of a device's journal in one of its lives, by stream.
    pub async fn sync_marks(&self, device: DeviceId, epoch: u64) -> StoreResult<Vec<StreamRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<StoredStream> = on!(&mut tx, c => sqlx::query_as(
            "SELECT device, epoch, stream, class, floor, above, batches, points, bytes, refused, newest_at, last_at FROM sync_streams
             WHERE tenant = $1 AND device = $2 AND epoch = $3 ORDER BY stream LIMIT $4")
            .bind(self.tenant.0).bind(device.0).bind(epoch.cast_signed()).bind(MAX_STREAMS).fetch_all(c).await)?;
        Ok(rows.into_iter().map(StreamRow::from).collect())
    }

    /// Keeps what a gateway says of itself.
    pub async fn write_gateway_report(
        &self,
        device: DeviceId,
        epoch: u64,
        report: &serde_json::Value,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO sync_gateways (tenant, device, epoch, reported_at, report) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant, device) DO UPDATE SET epoch = excluded.epoch, reported_at = excluded.reported_at, report = excluded.report")
            .bind(self.tenant.0).bind(device.0).bind(epoch.cast_signed()).bind(now.0).bind(Json(report))
            .execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// Devices that send batches, by name, after the one with the name `after`, at most `limit`; of one location, if one is given.
    pub async fn gateways(
        &self,
        location: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<GatewayRow>> {
        let mut conditions = Conditions::default();
        conditions.and(IN_USE);
        if let Some(location) = location {
            let location = conditions.text(location);
            conditions.and(&format!("d.location = {location}"));
        }
        if let Some(after) = after {
            let after = conditions.text(after);
            conditions.and(&format!("d.name > {after}"));
        }
        self.gateways_that(conditions, "d.name", limit).await
    }

    /// Devices that ever sent batches, also those that were decommissioned, by uid, after `after`, at most `limit`.
    pub async fn gateways_ever(&self, after: Option<DeviceId>, limit: u32) -> StoreResult<Vec<GatewayRow>> {
        let mut conditions = Conditions::default();
        if let Some(after) = after {
            let after = conditions.uuid(after.0);
            conditions.and(&format!("d.uid > {after}"));
        }
        self.gateways_that(conditions, "d.uid", limit).await
    }

    /// One device, if it sends batches.
    pub async fn gateway(&self, device: DeviceId) -> StoreResult<Option<GatewayRow>> {
        let mut conditions = Conditions::default();
        conditions.and(IN_USE);
        let device = conditions.uuid(device.0);
        conditions.and(&format!("d.uid = {device}"));
        Ok(self.gateways_that(conditions, "d.uid", 1).await?.pop())
    }

    async fn gateways_that(
        &self,
        mut conditions: Conditions,
        by: &'static str,
        limit: u32,
    ) -> StoreResult<Vec<GatewayRow>> {
        type Row = (Uuid, String, String, Json<Labels>, i64, i64, Json<serde_json::Value>);
        let mut tx = self.read().await?;
        let tenant = conditions.uuid(self.tenant.0);
        conditions.and(&format!("g.tenant = {tenant}"));
        let limit = conditions.integer(i64::from(limit));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT d.uid, d.name, d.location, d.labels, g.epoch, g.reported_at, g.report
             FROM sync_gateways g JOIN devices d ON d.tenant = g.tenant AND d.uid = g.device
             WHERE {} ORDER BY {by} LIMIT {limit}",
            conditions.sql()
        ));
        let arguments = &conditions.arguments;
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql), arguments).fetch_all(c).await)?;
        rows.into_iter()
            .map(|(device, name, location, labels, epoch, reported_at, report)| {
                Ok(GatewayRow {
                    device: DeviceId(device),
                    name: stored_name(name)?,
                    location,
                    labels: labels.0,
                    epoch: epoch.cast_unsigned(),
                    reported_at: UnixMs(reported_at),
                    report: report.0,
                })
            })
            .collect()
    }

    /// The labels of a device.
    pub async fn device_labels(&self, device: DeviceId) -> StoreResult<Labels> {
        let mut tx = self.read().await?;
        let found: Option<(Json<Labels>,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT labels FROM devices WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(device.0).fetch_optional(c).await)?;
        found.map(|(labels,)| labels.0).ok_or(StoreError::NotFound("device"))
    }

    /// What has arrived of these devices' streams, all lives of their journals.
    pub async fn sync_streams(&self, devices: &[DeviceId]) -> StoreResult<Vec<StreamRow>> {
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.read().await?;
        let mut conditions = Conditions::default();
        let tenant = conditions.uuid(self.tenant.0);
        let devices = conditions.uuids(devices.iter().map(|device| device.0));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT device, epoch, stream, class, floor, above, batches, points, bytes, refused, newest_at, last_at FROM sync_streams
             WHERE tenant = {tenant} AND device IN ({devices}) ORDER BY device, stream, last_at"
        ));
        let arguments = &conditions.arguments;
        let rows: Vec<StoredStream> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
        Ok(rows.into_iter().map(StreamRow::from).collect())
    }

    /// What these devices lost, by stream and reason.
    pub async fn sync_losses(&self, devices: &[DeviceId]) -> StoreResult<Vec<LossRow>> {
        type Row = (Uuid, String, String, i64, f64, i64, i64, i64);
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.read().await?;
        let mut conditions = Conditions::default();
        let tenant = conditions.uuid(self.tenant.0);
        let devices = conditions.uuids(devices.iter().map(|device| device.0));
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT device, stream, reason, COUNT(*), SUM(CAST(points AS DOUBLE PRECISION)), MIN(from_ms), MAX(to_ms), MAX(at) FROM sync_losses
             WHERE tenant = {tenant} AND device IN ({devices}) GROUP BY device, stream, reason ORDER BY device, stream, reason"
        ));
        let arguments = &conditions.arguments;
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(device, stream, reason, times, points, from, to, last_at)| LossRow {
                device: DeviceId(device),
                stream,
                reason,
                times,
                // Added up as floats: integers that devices say may be too much together. `as` stops at the largest one.
                points: points as i64,
                from: UnixMs(from),
                to: UnixMs(to),
                last_at: UnixMs(last_at),
            })
            .collect())
    }
}

impl SystemDb {
    /// Deletes what is older than its points are kept: losses and marks before `cutoff`, latest values before `latest_cutoff`; at most `limit` of each.
    /// A mark goes only when all that came under it has gone, so that nothing is ever stored beside its own copy.
    pub async fn delete_old_sync(
        &self,
        cutoff: UnixMs,
        latest_cutoff: UnixMs,
        limit: u32,
    ) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let mut deleted = 0;
        let latest_ns = latest_cutoff.0.saturating_mul(1_000_000);
        for (sql, cutoff) in [
            (
                "DELETE FROM sync_losses WHERE (tenant, device, epoch, told_in, number) IN (
                     SELECT tenant, device, epoch, told_in, number FROM sync_losses WHERE at < $1 ORDER BY at LIMIT $2)",
                cutoff.0,
            ),
            (
                "DELETE FROM sync_streams WHERE (tenant, device, epoch, stream) IN (
                     SELECT tenant, device, epoch, stream FROM sync_streams WHERE last_at < $1 ORDER BY last_at LIMIT $2)",
                cutoff.0,
            ),
            (
                "DELETE FROM series_latest WHERE (tenant, device, stream, series) IN (
                     SELECT tenant, device, stream, series FROM series_latest WHERE at_ns < $1 ORDER BY at_ns LIMIT $2)",
                latest_ns,
            ),
        ] {
            deleted += on!(&mut tx, c => sqlx::query(sql).bind(cutoff).bind(i64::from(limit)).execute(c).await.map(affected))?;
        }
        tx.commit().await?;
        Ok(deleted)
    }
}
