//! Hours: what the points of each hour come to, stream by stream, and the blocks that are not in there yet.
//!
//! The list of work is durable: a block is stored with `rolled = 0` in the transaction that takes it. The driver writes the hours that a block belongs
//! to and `rolled = 1` in one transaction, under its lease. So each block is in its hours once, whoever crashes when, however late it came; and
//! a range is always the hours and the blocks that are not in them, read in one [snapshot](TenantDb::snapshot).

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::leases::Lease;
use crate::{on, set};

/// A stream of a device with blocks to be put into hours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueStream {
    pub tenant: TenantId,
    pub device: DeviceId,
    /// As in `metric_blocks`.
    pub stream: String,
}

/// A block to be put into hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueBlock {
    pub sequence: i64,
    pub from: UnixMs,
    pub to: UnixMs,
    pub samples: i64,
    /// Which of its stream it is, in the order in which they came; 0: not from a gateway.
    pub arrived: i64,
    pub block: Vec<u8>,
}

/// Blocks of one hour, put together in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedBlock {
    /// Those that it stands for; it gets the greatest of their numbers.
    pub of: Vec<i64>,
    pub from: UnixMs,
    pub to: UnixMs,
    pub samples: i64,
    /// The newest of theirs.
    pub arrived: i64,
    pub block: Vec<u8>,
}

/// What became of some blocks of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rolled {
    /// The hours as they are now.
    pub hours: Vec<(UnixMs, Vec<u8>)>,
    /// Blocks that are in their hours now.
    pub rolled: Vec<i64>,
    /// Blocks that can't be put into hours.
    pub refused: Vec<i64>,
    /// Of those that are in their hours now.
    pub merged: Vec<MergedBlock>,
}

impl SystemDb {
    /// Streams with blocks that ended before `before` and are in no hour yet, oldest block first; found among the `limit` oldest blocks.
    pub async fn streams_to_roll(&self, before: UnixMs, limit: u32) -> StoreResult<Vec<DueStream>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid, Uuid, String)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT tenant, device, stream FROM metric_blocks WHERE rolled = 0 AND to_ms < $1 ORDER BY to_ms LIMIT $2")
            .bind(before.0).bind(i64::from(limit)).fetch_all(c).await)?;
        let mut seen = std::collections::BTreeSet::new();
        let streams = rows.into_iter().map(|(tenant, device, stream)| DueStream {
            tenant: TenantId(tenant),
            device: DeviceId(device),
            stream,
        });
        Ok(streams.filter(|stream| seen.insert(stream.clone())).collect())
    }
}

impl TenantDb {
    /// A transaction that reads, and sees nothing that was written after its first statement.
    pub async fn snapshot(&self) -> StoreResult<Tx> {
        self.store.begin_snapshot(&self.tenant.to_string()).await
    }

    /// Blocks of one stream that ended before `before` and are in no hour yet, by number: at most `limit` of them, and no more than `bytes` together,
    /// except when the first alone has more.
    pub async fn blocks_to_roll(
        &self,
        device: DeviceId,
        stream: &str,
        before: UnixMs,
        limit: u32,
        bytes: i64,
    ) -> StoreResult<Vec<DueBlock>> {
        let mut tx = self.read().await?;
        let sizes: Vec<(i64, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT sequence, CAST(LENGTH(block) AS BIGINT) FROM metric_blocks
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND rolled = 0 AND to_ms < $4 ORDER BY sequence LIMIT $5")
            .bind(self.tenant.0).bind(device.0).bind(stream).bind(before.0).bind(i64::from(limit)).fetch_all(c).await)?;
        let mut together = 0_i64;
        let mut last = None;
        for (sequence, size) in sizes {
            together = together.saturating_add(size);
            if last.is_some() && together > bytes {
                break;
            }
            last = Some(sequence);
        }
        let Some(last) = last else { return Ok(Vec::new()) };
        let rows: Vec<(i64, i64, i64, i64, i64, Vec<u8>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT sequence, from_ms, to_ms, samples, arrived, block FROM metric_blocks
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND rolled = 0 AND to_ms < $4 AND sequence <= $5 ORDER BY sequence")
            .bind(self.tenant.0).bind(device.0).bind(stream).bind(before.0).bind(last).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(sequence, from, to, samples, arrived, block)| DueBlock {
                sequence,
                from: UnixMs(from),
                to: UnixMs(to),
                samples,
                arrived,
                block,
            })
            .collect())
    }

    /// These hours of a stream, those that there are. `None`: they have more than so many bytes.
    pub async fn hours_at(
        &self,
        device: DeviceId,
        stream: &str,
        hours: &[UnixMs],
        most_bytes: i64,
    ) -> StoreResult<Option<Vec<(UnixMs, Vec<u8>)>>> {
        let mut tx = self.read().await?;
        let (mut found, mut bytes) = (Vec::new(), 0_i64);
        for chunk in hours.chunks(set::rows_per_statement(&tx, 1)) {
            let (conditions, which) = self.these_hours(device, stream, chunk);
            let arguments = &conditions.arguments;
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT CAST(COALESCE(SUM(LENGTH(block)), 0) AS BIGINT) FROM series_hours WHERE {which}"
            ));
            let (of_chunk,): (i64,) = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_one(c).await)?;
            bytes = bytes.saturating_add(of_chunk);
            if bytes > most_bytes {
                return Ok(None);
            }
            let sql = sqlx::AssertSqlSafe(format!("SELECT hour_ms, block FROM series_hours WHERE {which}"));
            let rows: Vec<(i64, Vec<u8>)> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
            found.extend(rows.into_iter().map(|(hour, block)| (UnixMs(hour), block)));
        }
        Ok(Some(found))
    }

    fn these_hours(&self, device: DeviceId, stream: &str, hours: &[UnixMs]) -> (Conditions, String) {
        let mut conditions = Conditions::default();
        let tenant = conditions.uuid(self.tenant.0);
        let device = conditions.uuid(device.0);
        let stream = conditions.text(stream);
        let all: Vec<String> = hours.iter().map(|hour| conditions.integer(hour.0)).collect();
        let sql = format!(
            "tenant = {tenant} AND device = {device} AND stream = {stream} AND hour_ms IN ({})",
            all.join(", ")
        );
        (conditions, sql)
    }

    /// Keeps what became of some blocks, under the driver's lease. Blocks that are not there any more, or were put into their hours in the meantime, undo it all.
    pub async fn write_rolled(
        &self,
        lease: &Lease,
        device: DeviceId,
        stream: &str,
        rolled: &Rolled,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        for chunk in rolled.hours.chunks(set::rows_per_statement(&tx, 5)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "INSERT INTO series_hours (tenant, device, stream, hour_ms, block) VALUES {}
                 ON CONFLICT (tenant, device, stream, hour_ms) DO UPDATE SET block = excluded.block",
                set::values(chunk.len(), 5)
            ));
            on!(&mut tx, c => {
                let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
                for (hour, block) in chunk {
                    query = query.bind(self.tenant.0).bind(device.0).bind(stream).bind(hour.0).bind(block);
                }
                query.execute(c).await.map(affected)
            })?;
        }
        for (sequences, state) in [(&rolled.rolled, 1), (&rolled.refused, 2)] {
            for chunk in sequences.chunks(set::rows_per_statement(&tx, 1)) {
                let marked = self.mark_blocks(&mut tx, device, stream, chunk, state).await?;
                if marked != chunk.len() as u64 {
                    return Err(StoreError::Conflict(
                        "Blocks went away while they were put into hours.".to_owned(),
                    ));
                }
            }
        }
        for merged in &rolled.merged {
            // It is kept as long as the last of those that it stands for would be.
            let mut stored_at = 0;
            for chunk in merged.of.chunks(set::rows_per_statement(&tx, 1)) {
                let (conditions, which) = self.these_blocks(device, stream, chunk);
                let sql = sqlx::AssertSqlSafe(format!("DELETE FROM metric_blocks WHERE {which}"));
                let newest = sqlx::AssertSqlSafe(format!(
                    "SELECT COALESCE(MAX(stored_at), 0) FROM metric_blocks WHERE {which}"
                ));
                let arguments = &conditions.arguments;
                let (newest,): (i64,) = on!(&mut tx, c => bind_all!(sqlx::query_as(newest).persistent(false), arguments).fetch_one(c).await)?;
                stored_at = newest.max(stored_at);
                on!(&mut tx, c => bind_all!(sqlx::query(sql).persistent(false), arguments).execute(c).await.map(affected))?;
            }
            let sequence = merged.of.iter().copied().max().unwrap_or_default();
            on!(&mut tx, c => sqlx::query(
                "INSERT INTO metric_blocks (tenant, device, stream, sequence, from_ms, to_ms, samples, block, rolled, arrived, stored_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $10)")
                .bind(self.tenant.0).bind(device.0).bind(stream).bind(sequence).bind(merged.from.0).bind(merged.to.0)
                .bind(merged.samples).bind(&merged.block).bind(merged.arrived).bind(stored_at).execute(c).await.map(affected))?;
        }
        tx.commit().await
    }

    fn these_blocks(&self, device: DeviceId, stream: &str, sequences: &[i64]) -> (Conditions, String) {
        let mut conditions = Conditions::default();
        let tenant = conditions.uuid(self.tenant.0);
        let device = conditions.uuid(device.0);
        let stream = conditions.text(stream);
        let all: Vec<String> = sequences.iter().map(|sequence| conditions.integer(*sequence)).collect();
        let sql = format!(
            "tenant = {tenant} AND device = {device} AND stream = {stream} AND sequence IN ({})",
            all.join(", ")
        );
        (conditions, sql)
    }

    async fn mark_blocks(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        stream: &str,
        sequences: &[i64],
        state: i64,
    ) -> StoreResult<u64> {
        let (mut conditions, which) = self.these_blocks(device, stream, sequences);
        let state = conditions.integer(state);
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE metric_blocks SET rolled = {state} WHERE {which} AND rolled = 0"
        ));
        let arguments = &conditions.arguments;
        Ok(
            on!(tx, c => bind_all!(sqlx::query(sql).persistent(false), arguments).execute(c).await.map(affected))?,
        )
    }

    /// Hours of a stream from `from` to before `to`, after the hour `after`, oldest first, at most `limit`.
    pub async fn hours_in(
        &self,
        tx: &mut Tx,
        (device, stream): (DeviceId, &str),
        (from, to): (UnixMs, UnixMs),
        after: Option<UnixMs>,
        limit: u32,
    ) -> StoreResult<Vec<(UnixMs, Vec<u8>)>> {
        let rows: Vec<(i64, Vec<u8>)> = on!(tx, c => sqlx::query_as(
            "SELECT hour_ms, block FROM series_hours
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND hour_ms >= $4 AND hour_ms < $5 AND hour_ms > $6 ORDER BY hour_ms LIMIT $7")
            .bind(self.tenant.0).bind(device.0).bind(stream).bind(from.0).bind(to.0)
            .bind(after.map_or(i64::MIN, |after| after.0)).bind(i64::from(limit)).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(hour, block)| (UnixMs(hour), block)).collect())
    }

    /// Blocks of a stream that hold anything from `from` to before `to`, by number, after the number `after`, at most `limit`; all of them, or those that are in no hour.
    pub async fn blocks_in(
        &self,
        tx: &mut Tx,
        (device, stream): (DeviceId, &str),
        (from, to): (UnixMs, UnixMs),
        in_no_hour: bool,
        after: i64,
        limit: u32,
    ) -> StoreResult<Vec<(i64, Vec<u8>)>> {
        Ok(on!(tx, c => sqlx::query_as(
            "SELECT sequence, block FROM metric_blocks
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND to_ms >= $4 AND from_ms < $5 AND sequence > $6 AND rolled <> $7
             ORDER BY sequence LIMIT $8")
            .bind(self.tenant.0).bind(device.0).bind(stream).bind(from.0).bind(to.0).bind(after)
            .bind(if in_no_hour { 1_i64 } else { -1 }).bind(i64::from(limit)).fetch_all(c).await)?)
    }
}

impl SystemDb {
    /// Deletes hours that began before `cutoff`, at most `limit`. Returns how many; call again until it is 0.
    pub async fn delete_hours_before(&self, cutoff: UnixMs, limit: u32) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx, c => sqlx::query(
            "DELETE FROM series_hours WHERE (tenant, device, stream, hour_ms) IN (
                 SELECT tenant, device, stream, hour_ms FROM series_hours WHERE hour_ms < $1 ORDER BY hour_ms LIMIT $2)")
            .bind(cutoff.0).bind(i64::from(limit)).execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(deleted)
    }
}
