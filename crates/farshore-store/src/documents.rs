//! Documents of devices: the state, bounded revisions and deletions for a while.
//!
//! Whoever changes documents of a device locks its head first ([`TenantDb::lock_documents`]); so changes of one device come one after another, and a
//! cursor never misses one.

use std::collections::BTreeMap;

use farshore_domain::document::hub::Held;
use farshore_domain::document::{Hlc, MAX_DEVICE_BYTES, MAX_DOCUMENTS, Rule, Stamps, TWIN};
use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use serde_json::Value;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::{on, set};

/// Revisions of a document that are kept.
pub const MAX_REVISIONS: u64 = 50;
/// About so many bytes of the revisions of a document are kept; the newest is, in any case.
const MAX_REVISION_BYTES: usize = 1024 * 1024;
/// As many as are kept of these are within that.
const SMALL_REVISION: usize = MAX_REVISION_BYTES / 64;
/// Most deletions of a device that are remembered: as many as it may have documents.
const MAX_DELETED: u64 = MAX_DOCUMENTS;

/// How far the documents of a device are.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub sequence: u64,
    pub forgotten: u64,
    pub clock: Hlc,
    pub wish: Option<Rule>,
    pub cursor: u64,
    pub pending: u64,
    pub pending_since: Option<UnixMs>,
    pub synced_at: Option<UnixMs>,
}

/// A document as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentRow {
    pub collection: String,
    pub name: String,
    pub held: Held,
    pub sequence: u64,
    pub author: String,
    pub created_at: UnixMs,
    pub changed_at: UnixMs,
}

/// A document in a list: without its value and its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRow {
    pub collection: String,
    pub name: String,
    pub revision: u64,
    pub sequence: u64,
    /// Of the value.
    pub bytes: u64,
    pub author: String,
    pub created_at: UnixMs,
    pub changed_at: UnixMs,
}

/// What a document is now, for its device: without its times.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedRow {
    pub collection: String,
    pub name: String,
    pub revision: u64,
    pub sequence: u64,
    pub value: Option<Value>,
}

/// What more of a device's documents is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many new documents.
    pub documents: u64,
    /// So many bytes.
    pub bytes: u64,
}

/// One revision of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct RevisionRow {
    pub revision: u64,
    pub sequence: u64,
    pub value: Option<Value>,
    pub author: String,
    pub at: UnixMs,
    pub cause: String,
}

#[derive(sqlx::FromRow)]
struct StoredHead {
    sequence: i64,
    forgotten: i64,
    clock_ms: i64,
    clock_count: i64,
    wish: Option<String>,
    cursor: i64,
    pending: i64,
    pending_since: Option<i64>,
    synced_at: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct StoredDocument {
    collection: String,
    name: String,
    revision: i64,
    sequence: i64,
    value: Option<String>,
    stamps: String,
    author: String,
    created_at: i64,
    changed_at: i64,
    edge_life: Option<i64>,
    edge_number: Option<i64>,
}

type StoredListed = (String, String, i64, i64, i64, String, i64, i64);
type StoredChanged = (String, String, i64, i64, Option<String>);
type StoredRevision = (i64, i64, Option<String>, String, i64, String);

const DOCUMENT: &str = "d.collection, d.name, d.revision, d.sequence, d.value, d.stamps, d.author, d.created_at, d.changed_at, d.edge_life, d.edge_number";

const CHANGED: &str = "d.collection, d.name, d.revision, d.sequence, d.value";
/// What a document weighs, without loading it.
const BYTES: &str = "CAST(COALESCE(OCTET_LENGTH(d.value), 0) AS BIGINT)";
const BYTES_WITH_TIMES: &str = "CAST(COALESCE(OCTET_LENGTH(d.value), 0) + OCTET_LENGTH(d.stamps) AS BIGINT)";

/// How many of these sizes are within a budget; the first is, in any case.
pub(crate) fn within(sizes: impl IntoIterator<Item = i64>, budget: usize) -> usize {
    let mut sum = 0_usize;
    let fitting = sizes.into_iter().enumerate().take_while(|(index, size)| {
        sum = sum.saturating_add(usize::try_from(*size).unwrap_or_default());
        *index == 0 || sum <= budget
    });
    fitting.count()
}

pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(text: &str) -> StoreResult<T> {
    serde_json::from_str(text)
        .map_err(|error| StoreError::Corrupt(format!("a document can't be read: {error}")))
}

pub(crate) fn text<T: serde::Serialize>(value: &T) -> StoreResult<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt(format!("a document can't be written: {error}")))
}

impl TryFrom<StoredHead> for Head {
    type Error = StoreError;
    fn try_from(row: StoredHead) -> StoreResult<Self> {
        Ok(Self {
            sequence: row.sequence.cast_unsigned(),
            forgotten: row.forgotten.cast_unsigned(),
            clock: Hlc { ms: row.clock_ms, count: u32::try_from(row.clock_count).unwrap_or(u32::MAX) },
            // Of a later version, none.
            wish: row.wish.and_then(|wish| serde_json::from_str(&wish).ok()),
            cursor: row.cursor.cast_unsigned(),
            pending: row.pending.cast_unsigned(),
            pending_since: row.pending_since.map(UnixMs),
            synced_at: row.synced_at.map(UnixMs),
        })
    }
}

impl From<DocumentRow> for ChangedRow {
    fn from(row: DocumentRow) -> Self {
        Self {
            collection: row.collection,
            name: row.name,
            revision: row.held.revision,
            sequence: row.sequence,
            value: row.held.value,
        }
    }
}

impl TryFrom<StoredDocument> for DocumentRow {
    type Error = StoreError;
    fn try_from(row: StoredDocument) -> StoreResult<Self> {
        let stamps: Stamps = json(&row.stamps)?;
        Ok(Self {
            held: Held {
                revision: row.revision.cast_unsigned(),
                value: row.value.as_deref().map(json).transpose()?,
                stamps,
                edge: row
                    .edge_life
                    .zip(row.edge_number)
                    .map(|(life, number)| (life.cast_unsigned(), number.cast_unsigned())),
            },
            collection: row.collection,
            name: row.name,
            sequence: row.sequence.cast_unsigned(),
            author: row.author,
            created_at: UnixMs(row.created_at),
            changed_at: UnixMs(row.changed_at),
        })
    }
}

fn revision(row: StoredRevision) -> StoreResult<RevisionRow> {
    let (revision, sequence, value, author, at, cause) = row;
    Ok(RevisionRow {
        revision: revision.cast_unsigned(),
        sequence: sequence.cast_unsigned(),
        value: value.as_deref().map(json).transpose()?,
        author,
        at: UnixMs(at),
        cause,
    })
}

const HEAD: &str =
    "sequence, forgotten, clock_ms, clock_count, wish, cursor, pending, pending_since, synced_at";

impl TenantDb {
    /// The head of a device's documents, locked until the transaction ends; made when there is none.
    pub async fn lock_documents(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<Head> {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO document_heads (tenant, device, sequence, forgotten, clock_ms, clock_count, cursor, pending)
             VALUES ($1, $2, 0, 0, 0, 0, 0, 0)
             ON CONFLICT (tenant, device) DO UPDATE SET sequence = document_heads.sequence RETURNING {HEAD}"
        ));
        let row: StoredHead =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
        row.try_into()
    }

    /// The head of a device's documents; nothing when it has none.
    pub async fn document_head(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<Option<Head>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {HEAD} FROM document_heads WHERE tenant = $1 AND device = $2"
        ));
        let row: Option<StoredHead> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(device.0).fetch_optional(c).await)?;
        row.map(Head::try_from).transpose()
    }

    /// Keeps a head that is locked.
    pub async fn write_document_head(&self, tx: &mut Tx, device: DeviceId, head: &Head) -> StoreResult<()> {
        let wish = head.wish.as_ref().map(text).transpose()?;
        on!(tx, c => sqlx::query(
            "UPDATE document_heads SET sequence = $3, forgotten = $4, clock_ms = $5, clock_count = $6, wish = $7, cursor = $8, pending = $9,
             pending_since = $10, synced_at = $11 WHERE tenant = $1 AND device = $2")
            .bind(self.tenant.0).bind(device.0).bind(integer(head.sequence)).bind(integer(head.forgotten))
            .bind(head.clock.ms).bind(i64::from(head.clock.count)).bind(wish).bind(integer(head.cursor))
            .bind(integer(head.pending)).bind(head.pending_since.map(|at| at.0)).bind(head.synced_at.map(|at| at.0))
            .execute(c).await.map(affected))?;
        Ok(())
    }

    /// These documents of a device, deleted ones too, by (collection, name).
    pub async fn documents_named(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        names: &[(&str, &str)],
    ) -> StoreResult<BTreeMap<(String, String), DocumentRow>> {
        let mut found = BTreeMap::new();
        for chunk in names.chunks(set::rows_per_statement(tx, 2)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT {DOCUMENT} FROM (VALUES {}) AS n CROSS JOIN documents d WHERE d.tenant = $1 AND d.device = $2
                 AND d.collection = n.column1 AND d.name = n.column2",
                set::values_after(2, chunk.len(), 2)
            ));
            let rows: Vec<StoredDocument> = on!(&mut *tx, c => {
                let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1).bind(self.tenant.0).bind(device.0);
                for (collection, name) in chunk {
                    query = query.bind(*collection).bind(*name);
                }
                query.fetch_all(c).await
            })?;
            for row in rows {
                let row = DocumentRow::try_from(row)?;
                found.insert((row.collection.clone(), row.name.clone()), row);
            }
        }
        Ok(found)
    }

    /// As [`Self::documents_named`] for the first of the names, as many as weigh no more than `budget` (one at least); and for how many that is.
    pub async fn documents_within(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        names: &[(&str, &str)],
        budget: usize,
    ) -> StoreResult<(BTreeMap<(String, String), DocumentRow>, usize)> {
        let mut sizes = BTreeMap::new();
        for chunk in names.chunks(set::rows_per_statement(tx, 2)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT d.collection, d.name, {BYTES_WITH_TIMES} FROM (VALUES {}) AS n CROSS JOIN documents d WHERE d.tenant = $1 AND d.device = $2
                 AND d.collection = n.column1 AND d.name = n.column2",
                set::values_after(2, chunk.len(), 2)
            ));
            let rows: Vec<(String, String, i64)> = on!(&mut *tx, c => {
                let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1).bind(self.tenant.0).bind(device.0);
                for (collection, name) in chunk {
                    query = query.bind(*collection).bind(*name);
                }
                query.fetch_all(c).await
            })?;
            sizes.extend(rows.into_iter().map(|(collection, name, size)| ((collection, name), size)));
        }
        let size = |(collection, name): &(&str, &str)| {
            sizes.get(&((*collection).to_owned(), (*name).to_owned())).copied().unwrap_or_default()
        };
        let count = within(names.iter().map(size), budget);
        let rows = self.documents_named(tx, device, names.get(..count).unwrap_or_default()).await?;
        Ok((rows, count))
    }

    /// What more of a device's documents is taken. Deletions are remembered for a while and count, too.
    pub async fn document_room(&self, tx: &mut Tx, device: DeviceId) -> StoreResult<Room> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT COUNT(d.value), COUNT(*), CAST(COALESCE(SUM({BYTES_WITH_TIMES}), 0) AS BIGINT) FROM documents d WHERE d.tenant = $1 AND d.device = $2"
        ));
        let (there, all, bytes): (i64, i64, i64) =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
        let left = |most: u64, count: i64| most.saturating_sub(count.cast_unsigned());
        Ok(Room {
            documents: left(MAX_DOCUMENTS, there).min(left(MAX_DOCUMENTS + MAX_DELETED, all)),
            bytes: left(MAX_DEVICE_BYTES, bytes),
        })
    }

    /// What changed after a cursor, in order, and whether there may be more: at most `limit`, and as many as weigh no more than `budget` (one at least).
    pub async fn documents_since(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        cursor: u64,
        limit: usize,
        budget: usize,
    ) -> StoreResult<(Vec<ChangedRow>, bool)> {
        let of = |what: &str| {
            sqlx::AssertSqlSafe(format!(
                "SELECT {what} FROM documents d WHERE d.tenant = $1 AND d.device = $2 AND d.sequence > $3 ORDER BY d.sequence LIMIT $4"
            ))
        };
        let sizes: Vec<(i64,)> = on!(&mut *tx, c => sqlx::query_as(of(BYTES))
            .bind(self.tenant.0).bind(device.0).bind(integer(cursor)).bind(integer(limit as u64)).fetch_all(c).await)?;
        let count = within(sizes.iter().map(|(size,)| *size), budget);
        let rows: Vec<StoredChanged> = on!(tx, c => sqlx::query_as(of(CHANGED))
            .bind(self.tenant.0).bind(device.0).bind(integer(cursor)).bind(integer(count as u64)).fetch_all(c).await)?;
        let more = count < sizes.len() || sizes.len() == limit;
        let rows = rows.into_iter().map(|(collection, name, revision, sequence, value)| {
            let value = value.as_deref().map(json).transpose()?;
            let (revision, sequence) = (revision.cast_unsigned(), sequence.cast_unsigned());
            Ok(ChangedRow { collection, name, revision, sequence, value })
        });
        Ok((rows.collect::<StoreResult<_>>()?, more))
    }

    /// The newest kept revision of each of these documents that a device with this cursor knows; none where it is much larger than the document is now,
    /// because a patch would save nothing then.
    pub async fn revisions_known(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        cursor: u64,
        names: &[(&str, &str)],
    ) -> StoreResult<BTreeMap<(String, String), (u64, Option<Value>)>> {
        let mut found = BTreeMap::new();
        for chunk in names.chunks(set::rows_per_statement(tx, 2)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT r.collection, r.name, r.revision, r.value FROM (VALUES {}) AS n CROSS JOIN documents d CROSS JOIN document_revisions r
                 WHERE d.tenant = $1 AND d.device = $2 AND d.collection = n.column1 AND d.name = n.column2
                 AND r.tenant = $1 AND r.device = $2 AND r.collection = n.column1 AND r.name = n.column2
                 AND OCTET_LENGTH(r.value) <= 2 * OCTET_LENGTH(d.value) + 1024 AND r.revision = (SELECT MAX(o.revision) FROM document_revisions o WHERE o.tenant = r.tenant AND o.device = r.device
                     AND o.collection = r.collection AND o.name = r.name AND o.sequence <= $3)",
                set::values_after(3, chunk.len(), 2)
            ));
            let rows: Vec<(String, String, i64, Option<String>)> = on!(&mut *tx, c => {
                let mut query = sqlx::query_as(sql).persistent(chunk.len() == 1)
                    .bind(self.tenant.0).bind(device.0).bind(integer(cursor));
                for (collection, name) in chunk {
                    query = query.bind(*collection).bind(*name);
                }
                query.fetch_all(c).await
            })?;
            for (collection, name, revision, value) in rows {
                let value = value.as_deref().map(json).transpose()?;
                found.insert((collection, name), (revision.cast_unsigned(), value));
            }
        }
        Ok(found)
    }

    /// A document at a revision; `None`: that is not kept.
    pub async fn document_revision(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        (collection, name): (&str, &str),
        wanted: u64,
    ) -> StoreResult<Option<RevisionRow>> {
        let row: Option<StoredRevision> = on!(tx, c => sqlx::query_as(
            "SELECT revision, sequence, value, author, at, cause FROM document_revisions
             WHERE tenant = $1 AND device = $2 AND collection = $3 AND name = $4 AND revision = $5")
            .bind(self.tenant.0).bind(device.0).bind(collection).bind(name).bind(integer(wanted))
            .fetch_optional(c).await)?;
        row.map(revision).transpose()
    }

    /// The kept revisions of a document before one, the newest first.
    pub async fn document_history(
        &self,
        device: DeviceId,
        (collection, name): (&str, &str),
        before: Option<u64>,
        limit: u32,
    ) -> StoreResult<Vec<RevisionRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<StoredRevision> = on!(&mut tx, c => sqlx::query_as(
            "SELECT revision, sequence, value, author, at, cause FROM document_revisions
             WHERE tenant = $1 AND device = $2 AND collection = $3 AND name = $4 AND revision < $5 ORDER BY revision DESC LIMIT $6")
            .bind(self.tenant.0).bind(device.0).bind(collection).bind(name)
            .bind(before.map_or(i64::MAX, integer)).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(revision).collect()
    }

    /// The documents of a device in the order of collection and name, after one; of one collection, if one is given.
    pub async fn documents(
        &self,
        device: DeviceId,
        collection: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> StoreResult<Vec<ListedRow>> {
        let mut tx = self.read().await?;
        let (collection_after, name_after) = after.unwrap_or_default();
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT d.collection, d.name, d.revision, d.sequence, {BYTES}, d.author, d.created_at, d.changed_at
             FROM documents d WHERE d.tenant = $1 AND d.device = $2 AND d.value IS NOT NULL
             AND (d.collection = $3 OR $3 = '') AND (d.collection > $4 OR (d.collection = $4 AND d.name > $5))
             ORDER BY d.collection, d.name LIMIT $6"
        ));
        let rows: Vec<StoredListed> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(device.0).bind(collection.unwrap_or_default()).bind(collection_after).bind(name_after)
            .bind(i64::from(limit)).fetch_all(c).await)?;
        let listed =
            |(collection, name, revision, sequence, bytes, author, created_at, changed_at): StoredListed| {
                ListedRow {
                    collection,
                    name,
                    revision: revision.cast_unsigned(),
                    sequence: sequence.cast_unsigned(),
                    bytes: bytes.cast_unsigned(),
                    author,
                    created_at: UnixMs(created_at),
                    changed_at: UnixMs(changed_at),
                }
            };
        Ok(rows.into_iter().map(listed).collect())
    }

    /// Keeps documents as they are now, and the revision of those that changed (with its cause).
    pub async fn write_documents(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        rows: &[(DocumentRow, Option<&'static str>)],
    ) -> StoreResult<()> {
        for chunk in rows.chunks(set::rows_per_statement(tx, 13)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "INSERT INTO documents (tenant, device, collection, name, revision, sequence, value, stamps, author, created_at, changed_at, edge_life, edge_number)
                 VALUES {}
                 ON CONFLICT (tenant, device, collection, name) DO UPDATE SET revision = excluded.revision, sequence = excluded.sequence,
                     value = excluded.value, stamps = excluded.stamps, author = excluded.author, changed_at = excluded.changed_at,
                     edge_life = excluded.edge_life, edge_number = excluded.edge_number",
                set::values(chunk.len(), 13)
            ));
            let mut texts = Vec::with_capacity(chunk.len());
            for (row, _) in chunk {
                texts.push((row.held.value.as_ref().map(text).transpose()?, text(&row.held.stamps)?));
            }
            on!(&mut *tx, c => {
                let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
                for ((row, _), (value, stamps)) in chunk.iter().zip(texts) {
                    query = query.bind(self.tenant.0).bind(device.0).bind(&row.collection).bind(&row.name)
                        .bind(integer(row.held.revision)).bind(integer(row.sequence)).bind(value).bind(stamps)
                        .bind(&row.author).bind(row.created_at.0).bind(row.changed_at.0)
                        .bind(row.held.edge.map(|(life, _)| life.cast_signed()))
                        .bind(row.held.edge.map(|(_, number)| number.cast_signed()));
                }
                query.execute(c).await.map(affected)
            })?;
        }
        let mut large: Vec<&DocumentRow> = Vec::new();
        let changed: Vec<(&DocumentRow, &'static str)> =
            rows.iter().filter_map(|(row, cause)| Some((row, (*cause)?))).collect();
        for chunk in changed.chunks(set::rows_per_statement(tx, 10)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "INSERT INTO document_revisions (tenant, device, collection, name, revision, sequence, value, author, at, cause) VALUES {}",
                set::values(chunk.len(), 10)
            ));
            let mut values = Vec::with_capacity(chunk.len());
            for (row, _) in chunk {
                let value = row.held.value.as_ref().map(text).transpose()?;
                if value.as_ref().is_some_and(|text| text.len() > SMALL_REVISION) {
                    large.push(*row);
                }
                values.push(value);
            }
            on!(&mut *tx, c => {
                let mut query = sqlx::query(sql).persistent(chunk.len() == 1);
                for ((row, cause), value) in chunk.iter().zip(values) {
                    query = query.bind(self.tenant.0).bind(device.0).bind(&row.collection).bind(&row.name)
                        .bind(integer(row.held.revision)).bind(integer(row.sequence)).bind(value).bind(&row.author)
                        .bind(row.changed_at.0).bind(*cause);
                }
                query.execute(c).await.map(affected)
            })?;
        }
        for row in large {
            on!(&mut *tx, c => sqlx::query(
                "DELETE FROM document_revisions WHERE tenant = $1 AND device = $2 AND collection = $3 AND name = $4 AND revision IN (
                     SELECT s.revision FROM (
                         SELECT r.revision, SUM(OCTET_LENGTH(r.value)) OVER (ORDER BY r.revision DESC) AS bytes FROM document_revisions r
                         WHERE r.tenant = $1 AND r.device = $2 AND r.collection = $3 AND r.name = $4) AS s
                     WHERE s.bytes > $5)")
                .bind(self.tenant.0).bind(device.0).bind(&row.collection).bind(&row.name)
                .bind(integer(MAX_REVISION_BYTES as u64)).execute(c).await.map(affected))?;
        }
        for (row, _) in changed.into_iter().filter(|(row, _)| row.held.revision > MAX_REVISIONS) {
            on!(&mut *tx, c => sqlx::query(
                "DELETE FROM document_revisions WHERE tenant = $1 AND device = $2 AND collection = $3 AND name = $4 AND revision <= $5")
                .bind(self.tenant.0).bind(device.0).bind(&row.collection).bind(&row.name)
                .bind(integer(row.held.revision - MAX_REVISIONS)).execute(c).await.map(affected))?;
        }
        Ok(())
    }

    /// The twins of these devices: device, name of the half, and document.
    pub async fn twins(
        &self,
        tx: &mut Tx,
        devices: &[DeviceId],
    ) -> StoreResult<Vec<(DeviceId, String, Value)>> {
        let mut found = Vec::new();
        for chunk in devices.chunks(set::rows_per_statement(tx, 1)) {
            let sql = sqlx::AssertSqlSafe(format!(
                "SELECT d.device, d.name, d.value FROM (VALUES {}) AS n CROSS JOIN documents d
                 WHERE d.tenant = $1 AND d.device = n.column1 AND d.collection = $2 AND d.value IS NOT NULL",
                set::values_after(2, chunk.len(), 1)
            ));
            let rows: Vec<(Uuid, String, String)> = on!(&mut *tx, c => {
                let mut query = sqlx::query_as(sql).persistent(false).bind(self.tenant.0).bind(TWIN);
                for device in chunk {
                    query = query.bind(device.0);
                }
                query.fetch_all(c).await
            })?;
            for (device, name, value) in rows {
                found.push((DeviceId(device), name, json(&value)?));
            }
        }
        Ok(found)
    }

    /// An event about a device's documents.
    pub async fn document_event(
        &self,
        tx: &mut Tx,
        device: DeviceId,
        kind: &str,
        message: String,
        payload: Value,
        now: UnixMs,
    ) -> StoreResult<()> {
        let (name,): (String,) = on!(&mut *tx, c => sqlx::query_as("SELECT name FROM devices WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(device.0).fetch_one(c).await)?;
        let event = self.event(kind, ("Device", device.0, &name), message, payload, now);
        crate::events::append(tx, self.tenant, &event).await
    }
}

impl SystemDb {
    /// Forgets deletions, old revisions and settled conflicts before `cutoff`, open conflicts before `open_cutoff`; at most `limit` of each. The newest
    /// revision of a document stays, and settled conflicts of collections that say for how long theirs are kept
    /// ([`Self::delete_old_conflicts`]). A device whose cursor is before a forgotten deletion is told to begin anew.
    pub async fn delete_old_documents(
        &self,
        cutoff: UnixMs,
        open_cutoff: UnixMs,
        limit: u32,
    ) -> StoreResult<u64> {
        let mut tx = self.begin().await?;
        let mut deleted = 0;
        let old: Vec<(Uuid, Uuid, String, String, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT tenant, device, collection, name, sequence FROM documents WHERE value IS NULL AND changed_at < $1 ORDER BY changed_at LIMIT $2")
            .bind(cutoff.0).bind(i64::from(limit)).fetch_all(c).await)?;
        for (tenant, device, collection, name, sequence) in old {
            on!(&mut tx, c => sqlx::query(
                "UPDATE document_heads SET forgotten = $3 WHERE tenant = $1 AND device = $2 AND forgotten < $3")
                .bind(tenant).bind(device).bind(sequence).execute(c).await.map(affected))?;
            deleted += on!(&mut tx, c => sqlx::query(
                "DELETE FROM documents WHERE tenant = $1 AND device = $2 AND collection = $3 AND name = $4 AND value IS NULL AND sequence = $5")
                .bind(tenant).bind(device).bind(collection).bind(name).bind(sequence).execute(c).await.map(affected))?;
        }
        for (sql, cutoff) in [
            (
                "DELETE FROM document_revisions WHERE (tenant, device, collection, name, revision) IN (
                     SELECT r.tenant, r.device, r.collection, r.name, r.revision FROM document_revisions r
                     JOIN documents d ON d.tenant = r.tenant AND d.device = r.device AND d.collection = r.collection AND d.name = r.name
                     WHERE r.at < $1 AND r.revision < d.revision ORDER BY r.at LIMIT $2)",
                cutoff,
            ),
            (
                "DELETE FROM document_conflicts WHERE (tenant, uid) IN (
                     SELECT x.tenant, x.uid FROM document_conflicts x WHERE x.state = 'settled' AND x.at < $1
                     AND NOT EXISTS (SELECT 1 FROM document_collections o
                         WHERE o.tenant = x.tenant AND o.name = x.collection AND o.conflict_days IS NOT NULL)
                     ORDER BY x.at LIMIT $2)",
                cutoff,
            ),
            (
                "DELETE FROM document_conflicts WHERE (tenant, uid) IN (
                     SELECT tenant, uid FROM document_conflicts WHERE state = 'open' AND at < $1 ORDER BY at LIMIT $2)",
                open_cutoff,
            ),
        ] {
            deleted += on!(&mut tx, c => sqlx::query(sql).bind(cutoff.0).bind(i64::from(limit)).execute(c).await.map(affected))?;
        }
        tx.commit().await?;
        Ok(deleted)
    }
}
