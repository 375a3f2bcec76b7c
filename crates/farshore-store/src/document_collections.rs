//! The rules of collections of documents: what decides conflicts, and what devices may only read.

use farshore_domain::document::Rule;
use farshore_domain::time::{DAY_MS, UnixMs};
use serde_json::json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::documents::{json as read, text};
use crate::error::{StoreError, StoreResult};
use crate::{events, on};

/// Most collections of a tenant that have rules.
pub const MAX_COLLECTIONS: i64 = 1_000;

/// What is set for a collection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CollectionRules {
    pub rules: Vec<Rule>,
    pub read_only: bool,
    /// For how long decided conflicts are kept; nothing: as long as all others.
    pub conflict_days: Option<u32>,
}

/// The rules of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionRow {
    pub name: String,
    pub set: CollectionRules,
    pub resource_version: i64,
    pub changed_at: UnixMs,
    pub changed_by: String,
}

type Stored = (String, String, i64, Option<i64>, i64, i64, String);

const COLUMNS: &str = "name, rules, read_only, conflict_days, resource_version, changed_at, changed_by";

fn row(stored: Stored) -> StoreResult<CollectionRow> {
    let (name, rules, read_only, conflict_days, resource_version, changed_at, changed_by) = stored;
    Ok(CollectionRow {
        name,
        set: CollectionRules {
            rules: read(&rules)?,
            read_only: read_only != 0,
            conflict_days: conflict_days.and_then(|days| u32::try_from(days).ok()),
        },
        resource_version,
        changed_at: UnixMs(changed_at),
        changed_by,
    })
}

impl TenantDb {
    /// The rules of all collections that have some.
    pub async fn document_collections(&self, tx: &mut Tx) -> StoreResult<Vec<CollectionRow>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM document_collections WHERE tenant = $1 ORDER BY name LIMIT $2"
        ));
        let rows: Vec<Stored> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(MAX_COLLECTIONS).fetch_all(c).await)?;
        rows.into_iter().map(row).collect()
    }

    /// Which version the rules of a collection have; 0: it has none.
    async fn collection_version(&self, tx: &mut Tx, name: &str) -> StoreResult<i64> {
        let found: Option<(i64,)> = on!(tx, c => sqlx::query_as(
            "SELECT resource_version FROM document_collections WHERE tenant = $1 AND name = $2")
            .bind(self.tenant.0).bind(name).fetch_optional(c).await)?;
        Ok(found.map_or(0, |(version,)| version))
    }

    /// Sets the rules of a collection, with the event. `expected` is the version that they must have; 0: there must be none.
    pub async fn put_document_collection(
        &self,
        name: &str,
        set: &CollectionRules,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<CollectionRow> {
        let mut tx = self.begin().await?;
        let current = self.collection_version(&mut tx, name).await?;
        crate::users::check_version(current, expected)?;
        let (count,): (i64,) = on!(&mut tx, c => sqlx::query_as("SELECT COUNT(*) FROM document_collections WHERE tenant = $1")
            .bind(self.tenant.0).fetch_one(c).await)?;
        if current == 0 && count >= MAX_COLLECTIONS {
            return Err(StoreError::Refused(format!(
                "a tenant has rules for at most {MAX_COLLECTIONS} collections"
            )));
        }
        // What was read may be old by now: the statement that writes asks for the version once more.
        let sql = if expected.is_some_and(|version| version > 0) {
            "UPDATE document_collections SET rules = $3, read_only = $4, conflict_days = $5, resource_version = resource_version + 1, changed_at = $6, changed_by = $7
             WHERE tenant = $1 AND name = $2 AND resource_version = $8"
        } else {
            "INSERT INTO document_collections (tenant, name, rules, read_only, conflict_days, resource_version, changed_at, changed_by)
             VALUES ($1, $2, $3, $4, $5, 1, $6, $7)
             ON CONFLICT (tenant, name) DO UPDATE SET rules = excluded.rules, read_only = excluded.read_only, conflict_days = excluded.conflict_days,
                 resource_version = document_collections.resource_version + 1, changed_at = excluded.changed_at, changed_by = excluded.changed_by
             WHERE document_collections.resource_version = COALESCE($8, document_collections.resource_version)"
        };
        let sql = sqlx::AssertSqlSafe(format!("{sql} RETURNING {COLUMNS}"));
        let (rules, days) = (text(&set.rules)?, set.conflict_days.map(i64::from));
        let stored: Option<Stored> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(name).bind(rules).bind(i64::from(set.read_only)).bind(days).bind(now.0).bind(&self.actor.0).bind(expected)
            .fetch_optional(c).await)?;
        let Some(stored) = stored else {
            let current = self.collection_version(&mut tx, name).await?;
            return Err(StoreError::VersionMismatch { expected: expected.unwrap_or_default(), current });
        };
        let row = row(stored)?;
        let payload = json!({
            "resourceVersion": row.resource_version, "rules": set.rules.len(), "readOnly": set.read_only,
            "conflictDays": set.conflict_days,
        });
        self.rules_changed(&mut tx, name, "changed", payload, now).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Forgets the rules of a collection, with the event: it has the default again.
    pub async fn delete_document_collection(
        &self,
        name: &str,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let deleted = on!(&mut tx, c => sqlx::query(
            "DELETE FROM document_collections WHERE tenant = $1 AND name = $2 AND resource_version = COALESCE($3, resource_version)")
            .bind(self.tenant.0).bind(name).bind(expected).execute(c).await.map(affected))?;
        if deleted == 0 {
            let current = self.collection_version(&mut tx, name).await?;
            return Err(match expected {
                Some(expected) if current > 0 => StoreError::VersionMismatch { expected, current },
                _ => StoreError::NotFound("collection"),
            });
        }
        self.rules_changed(&mut tx, name, "deleted", json!({}), now).await?;
        tx.commit().await
    }

    async fn rules_changed(
        &self,
        tx: &mut Tx,
        name: &str,
        did: &str,
        payload: serde_json::Value,
        now: UnixMs,
    ) -> StoreResult<()> {
        let event = self.event(
            "documents.rules-changed",
            // A collection has no uid of its own.
            ("DocumentCollection", self.tenant.0, name),
            format!("the rules of document collection {name} were {did}"),
            payload,
            now,
        );
        events::append(tx, self.tenant, &event).await
    }
}

impl SystemDb {
    /// Forgets decided conflicts of the collections that say for how long theirs are kept; at most `limit` of each collection.
    pub async fn delete_old_conflicts(&self, now: UnixMs, limit: u32) -> StoreResult<u64> {
        let mut tx = self.read().await?;
        let collections: Vec<(Uuid, String, i64)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT tenant, name, conflict_days FROM document_collections WHERE conflict_days IS NOT NULL").fetch_all(c).await)?;
        drop(tx);
        let mut deleted = 0;
        for (tenant, name, days) in collections {
            let mut tx = self.begin().await?;
            deleted += on!(&mut tx, c => sqlx::query(
                "DELETE FROM document_conflicts WHERE tenant = $1 AND uid IN (
                     SELECT uid FROM document_conflicts WHERE tenant = $1 AND collection = $2 AND state = 'settled' AND at < $3 ORDER BY at LIMIT $4)")
                .bind(tenant).bind(&name).bind(now.plus_ms(-days * DAY_MS).0).bind(i64::from(limit)).execute(c).await.map(affected))?;
            tx.commit().await?;
        }
        Ok(deleted)
    }
}
