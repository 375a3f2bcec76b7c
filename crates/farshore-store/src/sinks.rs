//! Sinks: how far each has come in every stream of every gateway, and how it stands.
//!
//! A batch gets its place in its stream (`arrived`) under the lock of that stream's row, so the places have no gaps that fill later: whoever
//! has read up to one has read all before it. A sink's cursor moves after its receiver has said yes; a crash in between hands a batch over again.

use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::condition::{Conditions, bind_all};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events;
use crate::leases::Lease;
use crate::on;

/// Most streams that are looked at for one sink at a time.
const MAX_STREAMS: i64 = 20_000;
const CURSOR: &str = "s.device, s.epoch, s.stream, s.batches, COALESCE(c.arrived, 0), COALESCE(c.part, 0), COALESCE(c.attempts, 0), COALESCE(c.next_at, 0)";

/// Streams that a sink takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamPattern {
    /// The one of this name.
    Is(String),
    /// All whose names begin so.
    Begins(String),
}

/// Where a sink stands in a stream in which something waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkCursor {
    pub device: DeviceId,
    pub epoch: u64,
    pub stream: String,
    /// The newest that is there.
    pub newest: i64,
    /// Everything up to here is done.
    pub arrived: i64,
    /// Parts of the next batch that are done.
    pub part: i64,
    pub attempts: i64,
    pub next_at: UnixMs,
}

/// A batch on its way to a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkBlock {
    pub arrived: i64,
    pub block: Vec<u8>,
}

/// How a sink stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct SinkStateRow {
    pub round: i64,
    pub delivered_batches: i64,
    pub delivered_points: i64,
    pub skipped_batches: i64,
    pub delivered_at: Option<i64>,
    pub attempts: i64,
    pub next_at: i64,
    pub last_error: String,
    pub failed_at: Option<i64>,
}

const STATE: &str = "round, delivered_batches, delivered_points, skipped_batches, delivered_at, attempts, next_at, last_error, failed_at";

/// A sink, for what it is called in an event.
#[derive(Clone, Copy, Debug)]
pub struct SinkName<'a> {
    pub uid: Uuid,
    pub name: &'a str,
}

/// What was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// The cursors as they are now.
    pub cursors: Vec<SinkCursor>,
    pub batches: i64,
    pub points: i64,
    /// One more thing that was written as one.
    pub next_round: bool,
    /// Nothing is to be done for it before.
    pub next_at: UnixMs,
}

impl Default for Handed {
    fn default() -> Self {
        Self { cursors: Vec::new(), batches: 0, points: 0, next_round: false, next_at: UnixMs(0) }
    }
}

/// So many failures in a row are told as an event.
pub const FAILURES_TOLD: i64 = 5;

impl TenantDb {
    /// Makes the state of a sink, when there is none; with `from_now` it begins behind what is there.
    pub async fn begin_sink(&self, sink: Uuid, from_now: bool) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let made = on!(&mut tx, c => sqlx::query(
            "INSERT INTO sink_states (tenant, sink) VALUES ($1, $2) ON CONFLICT (tenant, sink) DO NOTHING")
            .bind(self.tenant.0).bind(sink).execute(c).await.map(affected))?;
        if made == 1 && from_now {
            on!(&mut tx, c => sqlx::query(
                "INSERT INTO sink_cursors (tenant, sink, device, epoch, stream, arrived)
                 SELECT tenant, $2, device, epoch, stream, batches FROM sync_streams WHERE tenant = $1")
                .bind(self.tenant.0).bind(sink).execute(c).await.map(affected))?;
        }
        tx.commit().await
    }

    /// How a sink stands; `None`: it has not begun.
    pub async fn sink_state(&self, sink: Uuid) -> StoreResult<Option<SinkStateRow>> {
        let mut tx = self.read().await?;
        let sql =
            sqlx::AssertSqlSafe(format!("SELECT {STATE} FROM sink_states WHERE tenant = $1 AND sink = $2"));
        Ok(on!(&mut tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(sink).fetch_optional(c).await)?)
    }

    /// Ends the pauses of a sink, which was changed.
    pub async fn hurry_sink(&self, sink: Uuid) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        for sql in [
            "UPDATE sink_states SET next_at = 0 WHERE tenant = $1 AND sink = $2",
            // What it takes may have changed, and with it the parts of a batch.
            "UPDATE sink_cursors SET next_at = 0, part = 0, attempts = 0 WHERE tenant = $1 AND sink = $2 AND (next_at > 0 OR part > 0 OR attempts > 0)",
        ] {
            on!(&mut tx, c => sqlx::query(sql).bind(self.tenant.0).bind(sink).execute(c).await.map(affected))?;
        }
        tx.commit().await
    }

    /// Streams that a sink takes and in which something waits for it, the longest first: at most [`MAX_STREAMS`], so that those at the end have their turn as well.
    pub async fn sink_waiting(&self, sink: Uuid, takes: &[StreamPattern]) -> StoreResult<Vec<SinkCursor>> {
        let (mut conditions, from) = self.behind(sink, takes, true);
        let limit = conditions.integer(MAX_STREAMS);
        let sql =
            format!("SELECT {CURSOR} {from} ORDER BY s.batches - COALESCE(c.arrived, 0) DESC LIMIT {limit}");
        self.cursors(&conditions, sql).await
    }

    /// Streams that a sink does not take, and in which so many batches came since its cursor was moved on.
    pub async fn sink_others(
        &self,
        sink: Uuid,
        takes: &[StreamPattern],
        at_least: i64,
    ) -> StoreResult<Vec<SinkCursor>> {
        let (mut conditions, from) = self.behind(sink, takes, false);
        let (at_least, limit) = (conditions.integer(at_least), conditions.integer(MAX_STREAMS));
        let sql = format!(
            "SELECT {CURSOR} {from} AND s.batches - COALESCE(c.arrived, 0) >= {at_least} LIMIT {limit}"
        );
        self.cursors(&conditions, sql).await
    }

    /// Whether a sink has something to hand over at `now`, or [others](Self::sink_others) to move on.
    pub async fn sink_has_work(
        &self,
        sink: Uuid,
        takes: &[StreamPattern],
        at_least: i64,
        now: UnixMs,
    ) -> StoreResult<bool> {
        let (mut conditions, from) = self.behind(sink, takes, true);
        let (now, one) = (conditions.integer(now.0), conditions.integer(1));
        let sql = format!("SELECT {CURSOR} {from} AND COALESCE(c.next_at, 0) <= {now} LIMIT {one}");
        if !self.cursors(&conditions, sql).await?.is_empty() {
            return Ok(true);
        }
        let (mut conditions, from) = self.behind(sink, takes, false);
        let (at_least, one) = (conditions.integer(at_least), conditions.integer(1));
        let sql = format!(
            "SELECT {CURSOR} {from} AND s.batches - COALESCE(c.arrived, 0) >= {at_least} LIMIT {one}"
        );
        Ok(!self.cursors(&conditions, sql).await?.is_empty())
    }

    /// How many batches wait for a sink, by device.
    pub async fn sink_backlog(
        &self,
        sink: Uuid,
        takes: &[StreamPattern],
    ) -> StoreResult<Vec<(DeviceId, i64)>> {
        let (conditions, from) = self.behind(sink, takes, true);
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT s.device, CAST(SUM(s.batches - COALESCE(c.arrived, 0)) AS BIGINT) {from} GROUP BY s.device"
        ));
        let arguments = &conditions.arguments;
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid, i64)> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(device, batches)| (DeviceId(device), batches)).collect())
    }

    /// Streams with something behind a sink's cursor, of those that it takes or of the others.
    fn behind(&self, sink: Uuid, takes: &[StreamPattern], taken: bool) -> (Conditions, String) {
        let mut conditions = Conditions::default();
        let (tenant, sink) = (conditions.uuid(self.tenant.0), conditions.uuid(sink));
        let patterns: Vec<String> = takes
            .iter()
            .map(|pattern| match pattern {
                StreamPattern::Is(name) => format!("s.stream = {}", conditions.text(name)),
                StreamPattern::Begins(start) => {
                    let length = i64::try_from(start.chars().count()).unwrap_or(i64::MAX);
                    let (length, start) = (conditions.integer(length), conditions.text(start));
                    // PostgreSQL has substr for 32-bit lengths only.
                    format!("substr(s.stream, 1, CAST({length} AS INTEGER)) = {start}")
                }
            })
            .collect();
        let patterns = if patterns.is_empty() { "FALSE".to_owned() } else { patterns.join(" OR ") };
        let not = if taken { "" } else { "NOT " };
        let from = format!(
            "FROM sync_streams s LEFT JOIN sink_cursors c
               ON c.tenant = s.tenant AND c.sink = {sink} AND c.device = s.device AND c.epoch = s.epoch AND c.stream = s.stream
             WHERE s.tenant = {tenant} AND s.batches > COALESCE(c.arrived, 0) AND {not}({patterns})"
        );
        (conditions, from)
    }

    async fn cursors(&self, conditions: &Conditions, sql: String) -> StoreResult<Vec<SinkCursor>> {
        type Row = (Uuid, i64, String, i64, i64, i64, i64, i64);
        let (sql, arguments) = (sqlx::AssertSqlSafe(sql), &conditions.arguments);
        let mut tx = self.read().await?;
        let rows: Vec<Row> = on!(&mut tx, c => bind_all!(sqlx::query_as(sql).persistent(false), arguments).fetch_all(c).await)?;
        Ok(rows
            .into_iter()
            .map(|(device, epoch, stream, newest, arrived, part, attempts, next_at)| SinkCursor {
                device: DeviceId(device),
                epoch: epoch.cast_unsigned(),
                stream,
                newest,
                arrived,
                part,
                attempts,
                next_at: UnixMs(next_at),
            })
            .collect())
    }

    /// Batches after a sink's cursor, in the order in which they came: at most `limit`, and no more than `bytes` together, except when the first alone has more.
    pub async fn sink_blocks(
        &self,
        cursor: &SinkCursor,
        limit: u32,
        bytes: i64,
    ) -> StoreResult<Vec<SinkBlock>> {
        let name = crate::sync::block_stream(cursor.epoch, &cursor.stream);
        let mut tx = self.read().await?;
        let sizes: Vec<(i64, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT arrived, CAST(LENGTH(block) AS BIGINT) FROM metric_blocks
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND arrived > 0 AND arrived > $4 AND arrived <= $5 ORDER BY arrived LIMIT $6")
            .bind(self.tenant.0).bind(cursor.device.0).bind(&name).bind(cursor.arrived).bind(cursor.newest)
            .bind(i64::from(limit)).fetch_all(c).await)?;
        let mut together = 0_i64;
        let mut last = None;
        for (arrived, size) in sizes {
            together = together.saturating_add(size);
            if last.is_some() && together > bytes {
                break;
            }
            last = Some(arrived);
        }
        let Some(last) = last else { return Ok(Vec::new()) };
        let rows: Vec<(i64, Vec<u8>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT arrived, block FROM metric_blocks
             WHERE tenant = $1 AND device = $2 AND stream = $3 AND arrived > 0 AND arrived > $4 AND arrived <= $5 ORDER BY arrived")
            .bind(self.tenant.0).bind(cursor.device.0).bind(&name).bind(cursor.arrived).bind(last).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(arrived, block)| SinkBlock { arrived, block }).collect())
    }

    /// Up to which batch of a stream all sinks have come; `None`: there is no sink.
    pub async fn sinks_passed(&self, device: DeviceId, epoch: u64, stream: &str) -> StoreResult<Option<i64>> {
        let mut tx = self.read().await?;
        let (least,): (Option<i64>,) = on!(&mut tx, c => sqlx::query_as(
            "SELECT MIN(COALESCE(c.arrived, 0)) FROM objects o LEFT JOIN sink_cursors c
               ON c.tenant = o.tenant AND c.sink = o.uid AND c.device = $2 AND c.epoch = $3 AND c.stream = $4
             WHERE o.tenant = $1 AND o.kind = 'Sink'")
            .bind(self.tenant.0).bind(device.0).bind(epoch.cast_signed()).bind(stream).fetch_one(c).await)?;
        Ok(least)
    }

    async fn write_cursor(&self, tx: &mut Tx, sink: Uuid, cursor: &SinkCursor) -> StoreResult<()> {
        on!(tx, c => sqlx::query(
            "INSERT INTO sink_cursors (tenant, sink, device, epoch, stream, arrived, part, attempts, next_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (tenant, sink, device, epoch, stream) DO UPDATE
             SET arrived = excluded.arrived, part = excluded.part, attempts = excluded.attempts, next_at = excluded.next_at")
            .bind(self.tenant.0).bind(sink).bind(cursor.device.0).bind(cursor.epoch.cast_signed()).bind(&cursor.stream)
            .bind(cursor.arrived).bind(cursor.part).bind(cursor.attempts).bind(cursor.next_at.0)
            .execute(c).await.map(affected))?;
        Ok(())
    }

    /// Moves cursors on in streams that a sink does not take.
    pub async fn sink_passed(&self, lease: &Lease, sink: Uuid, cursors: &[SinkCursor]) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        for cursor in cursors {
            self.write_cursor(&mut tx, sink, cursor).await?;
        }
        tx.commit().await
    }

    /// Keeps that something was handed over: cursors, counts, and that the receiver is there again.
    pub async fn sink_handed(
        &self,
        lease: &Lease,
        sink: SinkName<'_>,
        handed: &Handed,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        let before: Option<(i64,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT attempts FROM sink_states WHERE tenant = $1 AND sink = $2")
            .bind(self.tenant.0).bind(sink.uid).fetch_optional(c).await)?;
        let (before,) = before.ok_or(StoreError::NotFound("sink"))?;
        for cursor in &handed.cursors {
            self.write_cursor(&mut tx, sink.uid, cursor).await?;
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE sink_states SET delivered_batches = delivered_batches + $3, delivered_points = delivered_points + $4, delivered_at = COALESCE($5, delivered_at),
                 attempts = 0, next_at = $7, round = round + $6
             WHERE tenant = $1 AND sink = $2")
            .bind(self.tenant.0).bind(sink.uid).bind(handed.batches).bind(handed.points).bind((handed.points > 0).then_some(now.0))
            .bind(i64::from(handed.next_round)).bind(handed.next_at.0).execute(c).await.map(affected))?;
        if before >= FAILURES_TOLD {
            let message = format!("sink {} is taken by its receiver again", sink.name);
            let event = self.event(
                "sink.recovered",
                ("Sink", sink.uid, sink.name),
                message,
                serde_json::json!({}),
                now,
            );
            events::append(&mut tx, self.tenant, &event).await?;
        }
        tx.commit().await
    }

    /// Keeps what a receiver said of something that it took in part.
    pub async fn sink_rejected(&self, sink: Uuid, error: &str, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query("UPDATE sink_states SET last_error = $3, failed_at = $4 WHERE tenant = $1 AND sink = $2")
            .bind(self.tenant.0).bind(sink).bind(error).bind(now.0).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// Keeps that an attempt failed: of one batch, whose cursor says when it is tried again, or of the sink as a whole.
    pub async fn sink_failed(
        &self,
        lease: &Lease,
        sink: SinkName<'_>,
        cursor: Option<&SinkCursor>,
        next_at: UnixMs,
        error: &str,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        // A batch that is refused holds up its stream alone.
        let wait = if cursor.is_some() { 0 } else { next_at.0 };
        let attempts: Option<(i64,)> = on!(&mut tx, c => sqlx::query_as(
            "UPDATE sink_states SET attempts = attempts + 1, next_at = $3, last_error = $4, failed_at = $5
             WHERE tenant = $1 AND sink = $2 RETURNING attempts")
            .bind(self.tenant.0).bind(sink.uid).bind(wait).bind(error).bind(now.0).fetch_optional(c).await)?;
        let (attempts,) = attempts.ok_or(StoreError::NotFound("sink"))?;
        if let Some(cursor) = cursor {
            self.write_cursor(&mut tx, sink.uid, cursor).await?;
        }
        if attempts == FAILURES_TOLD {
            let message = format!("sink {} is not taken by its receiver: {error}", sink.name);
            let payload = serde_json::json!({ "error": error });
            let event = self.event("sink.failing", ("Sink", sink.uid, sink.name), message, payload, now);
            events::append(&mut tx, self.tenant, &event).await?;
        }
        tx.commit().await
    }

    /// Passes over a batch that its receiver refuses, with an event. The cursor says which, and stands behind it.
    pub async fn sink_skipped(
        &self,
        lease: &Lease,
        sink: SinkName<'_>,
        cursor: &SinkCursor,
        error: &str,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        lease.check(&mut tx).await?;
        let known = on!(&mut tx, c => sqlx::query(
            "UPDATE sink_states SET skipped_batches = skipped_batches + 1, last_error = $3, failed_at = $4 WHERE tenant = $1 AND sink = $2")
            .bind(self.tenant.0).bind(sink.uid).bind(error).bind(now.0).execute(c).await.map(affected))?;
        if known == 0 {
            return Err(StoreError::NotFound("sink"));
        }
        self.write_cursor(&mut tx, sink.uid, cursor).await?;
        let message =
            format!("sink {} passed over batch {} of {}: {error}", sink.name, cursor.arrived, cursor.stream);
        let payload = serde_json::json!({
            "device": cursor.device, "stream": cursor.stream, "epoch": format!("{:016x}", cursor.epoch),
            "batch": cursor.arrived, "error": error,
        });
        let event = self.event("sink.batch-skipped", ("Sink", sink.uid, sink.name), message, payload, now);
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }
}

impl SystemDb {
    /// Tenants that have sinks.
    pub async fn tenants_with_sinks(&self) -> StoreResult<Vec<TenantId>> {
        let mut tx = self.read().await?;
        let rows: Vec<(Uuid,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT DISTINCT tenant FROM objects WHERE kind = 'Sink' ORDER BY tenant").fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(tenant,)| TenantId(tenant)).collect())
    }
}
