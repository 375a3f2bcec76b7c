//! Events: what changed. A change and its event are written in one transaction, without a number; [`SystemDb::sequence_events`] numbers
//! committed rows per tenant, in the order in which readers may follow them without missing one.

use std::collections::BTreeMap;

use farshore_domain::id::TenantId;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::error::StoreResult;
use crate::on;
use crate::set;

/// Something that happened, before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// UUIDv7. The same uid twice is one event.
    pub uid: Uuid,
    pub at: UnixMs,
    /// `device.claimed`, `rollout.halted`, …
    pub kind: String,
    /// `Device`, `Rollout`, …
    pub subject_kind: String,
    pub subject: Uuid,
    pub subject_name: String,
    /// `user:<email>`, `token:<name>`, `device:<name>`, `driver:<name>`.
    pub actor: String,
    /// A sentence for people.
    pub message: String,
    /// A JSON object.
    pub payload: serde_json::Value,
}

/// A numbered event.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    pub uid: Uuid,
    pub sequence: i64,
    pub at: UnixMs,
    pub kind: String,
    pub subject_kind: String,
    pub subject: Uuid,
    pub subject_name: String,
    pub actor: String,
    pub message: String,
    pub payload: serde_json::Value,
}

/// Which events of a tenant to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub kind: Option<String>,
    pub subject_kind: Option<String>,
    /// A uid, or a name.
    pub subject: Option<String>,
}

/// The numbers a tenant's events have: from the oldest that is kept to the newest. 0, 0 when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventSpan {
    pub first: i64,
    pub last: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    sequence: i64,
    at: i64,
    kind: String,
    subject_kind: String,
    subject: Uuid,
    subject_name: String,
    actor: String,
    message: String,
    payload: Json<serde_json::Value>,
}

impl From<Row> for EventRow {
    fn from(row: Row) -> Self {
        Self {
            uid: row.uid,
            sequence: row.sequence,
            at: UnixMs(row.at),
            kind: row.kind,
            subject_kind: row.subject_kind,
            subject: row.subject,
            subject_name: row.subject_name,
            actor: row.actor,
            message: row.message,
            payload: row.payload.0,
        }
    }
}

const COLUMNS: &str = "uid, sequence, at, kind, subject_kind, subject, subject_name, actor, message, payload";
const INSERT_COLUMNS: usize = 10;
/// How many events one call of the sequencer numbers for one tenant.
const SEQUENCE_BATCH: i64 = 2_000;

/// Writes an event in the transaction of the change it tells of.
pub(crate) async fn append(tx: &mut Tx, tenant: TenantId, event: &NewEvent) -> StoreResult<()> {
    append_all(tx, &[(tenant, event)]).await
}

/// Writes a set of events. Those whose uid is there already are skipped.
pub(crate) async fn append_all(tx: &mut Tx, events: &[(TenantId, &NewEvent)]) -> StoreResult<()> {
    for chunk in events.chunks(set::rows_per_statement(tx, INSERT_COLUMNS)) {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO events (tenant, uid, at, kind, subject_kind, subject, subject_name, actor, message, payload)
             VALUES {} ON CONFLICT (tenant, uid) DO NOTHING",
            set::values(chunk.len(), INSERT_COLUMNS)
        ));
        on!(tx, c => {
            let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
            for (tenant, event) in chunk {
                query = query.bind(tenant.0).bind(event.uid).bind(event.at.0).bind(&event.kind).bind(&event.subject_kind)
                    .bind(event.subject).bind(&event.subject_name).bind(&event.actor).bind(&event.message)
                    .bind(Json(&event.payload));
            }
            query.execute(c).await.map(affected)
        })?;
    }
    Ok(())
}

impl TenantDb {
    /// Events after number `after`, oldest first.
    pub async fn events_after(
        &self,
        after: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> StoreResult<Vec<EventRow>> {
        self.events("sequence > $2", "ASC", after, filter, limit).await
    }

    /// Events before number `before`, newest first; `None` begins at the newest.
    pub async fn events_before(
        &self,
        before: Option<i64>,
        filter: &EventFilter,
        limit: u32,
    ) -> StoreResult<Vec<EventRow>> {
        self.events("sequence < $2", "DESC", before.unwrap_or(i64::MAX), filter, limit).await
    }

    async fn events(
        &self,
        range: &str,
        order: &str,
        number: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> StoreResult<Vec<EventRow>> {
        let mut tx = self.read().await?;
        let mut conditions = String::from(range);
        let mut texts = Vec::new();
        for (column, value) in [("kind", &filter.kind), ("subject_kind", &filter.subject_kind)] {
            if let Some(value) = value {
                texts.push(value.as_str());
                conditions.push_str(&format!(" AND {column} = ${}", 3 + texts.len()));
            }
        }
        let uid = filter.subject.as_deref().and_then(|subject| Uuid::parse_str(subject).ok());
        if let Some(subject) = &filter.subject {
            let column = if uid.is_some() { "subject" } else { "subject_name" };
            conditions.push_str(&format!(" AND {column} = ${}", 4 + texts.len()));
            if uid.is_none() {
                texts.push(subject);
            }
        }
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM events WHERE tenant = $1 AND {conditions} ORDER BY sequence {order} LIMIT $3"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => {
            let mut query = sqlx::query_as(sql).bind(self.tenant.0).bind(number).bind(i64::from(limit));
            for text in &texts {
                query = query.bind(*text);
            }
            if let Some(uid) = uid {
                query = query.bind(uid);
            }
            query.fetch_all(c).await
        })?;
        Ok(rows.into_iter().map(EventRow::from).collect())
    }

    /// Events about one object from `from` to `to`, oldest first, the last `limit` of them.
    pub async fn events_about(
        &self,
        subject: Uuid,
        from: UnixMs,
        to: UnixMs,
        limit: u32,
    ) -> StoreResult<Vec<EventRow>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM events WHERE tenant = $1 AND subject = $2 AND sequence IS NOT NULL AND at >= $3 AND at <= $4
             ORDER BY sequence DESC LIMIT $5"
        ));
        let mut rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(subject).bind(from.0).bind(to.0)
            .bind(i64::from(limit)).fetch_all(c).await)?;
        rows.sort_by_key(|row| (row.at, row.sequence));
        Ok(rows.into_iter().map(EventRow::from).collect())
    }

    /// Events of some kinds about one object, at `from` or later, oldest first, the last `limit` of them by number.
    pub async fn events_of_kinds(
        &self,
        subject: Uuid,
        kinds: &[&str],
        from: UnixMs,
        limit: u32,
    ) -> StoreResult<Vec<EventRow>> {
        let mut tx = self.read().await?;
        let places: Vec<String> = (0..kinds.len()).map(|number| format!("${}", number + 5)).collect();
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM events WHERE tenant = $1 AND subject = $2 AND sequence IS NOT NULL AND at >= $3
             AND kind IN ({}) ORDER BY sequence DESC LIMIT $4",
            places.join(", ")
        ));
        let mut rows: Vec<Row> = on!(&mut tx, c => {
            let mut query = sqlx::query_as(sql).bind(self.tenant.0).bind(subject).bind(from.0).bind(i64::from(limit));
            for kind in kinds {
                query = query.bind(*kind);
            }
            query.fetch_all(c).await
        })?;
        rows.sort_by_key(|row| (row.at, row.sequence));
        Ok(rows.into_iter().map(EventRow::from).collect())
    }

    /// The oldest and the newest number.
    pub async fn event_span(&self) -> StoreResult<EventSpan> {
        let mut tx = self.read().await?;
        let first: Option<(i64,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT sequence FROM events WHERE tenant = $1 AND sequence IS NOT NULL ORDER BY sequence LIMIT 1")
            .bind(self.tenant.0).fetch_optional(c).await)?;
        let last: Option<(i64,)> = on!(&mut tx, c => sqlx::query_as("SELECT last FROM event_sequences WHERE tenant = $1")
            .bind(self.tenant.0).fetch_optional(c).await)?;
        let last = last.map_or(0, |(last,)| last);
        Ok(EventSpan { first: first.map_or(if last == 0 { 0 } else { last + 1 }, |(first,)| first), last })
    }
}

impl SystemDb {
    /// Writes events that tell of no other change in the database, as a set.
    pub async fn append_events(&self, events: &[(TenantId, NewEvent)]) -> StoreResult<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        let rows: Vec<_> = events.iter().map(|(tenant, event)| (*tenant, event)).collect();
        append_all(&mut tx, &rows).await?;
        tx.commit().await
    }

    /// Numbers what was committed since, and returns it by tenant, in order. A tenant with a full batch may have more: call again.
    ///
    /// The row of `event_sequences` is locked before the events are looked at, so that numbers become visible in their order even while
    /// two replicas both believe they hold the lease.
    pub async fn sequence_events(&self) -> StoreResult<BTreeMap<TenantId, Vec<EventRow>>> {
        let waiting: Vec<(Uuid,)> = {
            let mut tx = self.read().await?;
            on!(&mut tx, c => sqlx::query_as("SELECT DISTINCT tenant FROM events WHERE sequence IS NULL")
                .fetch_all(c).await)?
        };
        let mut numbered = BTreeMap::new();
        if waiting.is_empty() {
            return Ok(numbered);
        }
        let mut tx = self.begin().await?;
        for (tenant,) in waiting {
            let (last,): (i64,) = on!(&mut tx, c => sqlx::query_as(
                "INSERT INTO event_sequences (tenant, last) VALUES ($1, 0)
                 ON CONFLICT (tenant) DO UPDATE SET last = event_sequences.last RETURNING last")
                .bind(tenant).fetch_one(c).await)?;
            let sql = sqlx::AssertSqlSafe(format!(
                "UPDATE events SET sequence = $2 + numbered.n
                 FROM (SELECT uid AS event, ROW_NUMBER() OVER (ORDER BY at, uid) AS n
                       FROM events WHERE tenant = $1 AND sequence IS NULL ORDER BY at, uid LIMIT $3) AS numbered
                 WHERE tenant = $1 AND uid = numbered.event
                 RETURNING {COLUMNS}"
            ));
            let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
                .bind(tenant).bind(last).bind(SEQUENCE_BATCH).fetch_all(c).await)?;
            let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
            on!(&mut tx, c => sqlx::query("UPDATE event_sequences SET last = last + $2 WHERE tenant = $1")
                .bind(tenant).bind(count).execute(c).await.map(affected))?;
            let mut rows: Vec<EventRow> = rows.into_iter().map(EventRow::from).collect();
            rows.sort_by_key(|event| event.sequence);
            numbered.insert(TenantId(tenant), rows);
        }
        tx.commit().await?;
        Ok(numbered)
    }

    /// Deletes the oldest events from before `cutoff`, at most `limit` for each tenant. Returns how many; call again until it is 0.
    pub async fn delete_events_before(&self, cutoff: UnixMs, limit: u32) -> StoreResult<u64> {
        let tenants: Vec<(Uuid,)> = {
            let mut tx = self.read().await?;
            on!(&mut tx, c => sqlx::query_as("SELECT tenant FROM event_sequences").fetch_all(c).await)?
        };
        let mut deleted = 0;
        for (tenant,) in tenants {
            let mut tx = self.begin().await?;
            deleted += on!(&mut tx, c => sqlx::query(
                "DELETE FROM events WHERE tenant = $1 AND uid IN (
                     SELECT uid FROM (SELECT uid, at FROM events WHERE tenant = $1 AND sequence IS NOT NULL
                                      ORDER BY sequence LIMIT $3) AS oldest
                     WHERE at < $2)")
                .bind(tenant).bind(cutoff.0).bind(i64::from(limit)).execute(c).await.map(affected))?;
            tx.commit().await?;
        }
        Ok(deleted)
    }
}
