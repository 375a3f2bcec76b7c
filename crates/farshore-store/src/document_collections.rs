//! The rules of collections of documents: what decides conflicts, and what devices may only read.

use farshore_domain::document::Rule;
use farshore_domain::time::UnixMs;
use serde_json::json;

use crate::access::TenantDb;
use crate::db::{Tx, affected};
use crate::documents::{json as read, text};
use crate::error::{StoreError, StoreResult};
use crate::{events, on};

/// Most collections of a tenant that have rules.
pub const MAX_COLLECTIONS: i64 = 1_000;

/// The rules of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectionRow {
    pub name: String,
    pub rules: Vec<Rule>,
    pub read_only: bool,
    pub resource_version: i64,
    pub changed_at: UnixMs,
    pub changed_by: String,
}

type Stored = (String, String, i64, i64, i64, String);

fn row(stored: Stored) -> StoreResult<CollectionRow> {
    let (name, rules, read_only, resource_version, changed_at, changed_by) = stored;
    Ok(CollectionRow {
        name,
        rules: read(&rules)?,
        read_only: read_only != 0,
        resource_version,
        changed_at: UnixMs(changed_at),
        changed_by,
    })
}

impl TenantDb {
    /// The rules of all collections that have some.
    pub async fn document_collections(&self, tx: &mut Tx) -> StoreResult<Vec<CollectionRow>> {
        let rows: Vec<Stored> = on!(tx, c => sqlx::query_as(
            "SELECT name, rules, read_only, resource_version, changed_at, changed_by FROM document_collections
             WHERE tenant = $1 ORDER BY name LIMIT $2").bind(self.tenant.0).bind(MAX_COLLECTIONS).fetch_all(c).await)?;
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
        rules: &[Rule],
        read_only: bool,
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
            "UPDATE document_collections SET rules = $3, read_only = $4, resource_version = resource_version + 1, changed_at = $5, changed_by = $6
             WHERE tenant = $1 AND name = $2 AND resource_version = $7
             RETURNING name, rules, read_only, resource_version, changed_at, changed_by"
        } else {
            "INSERT INTO document_collections (tenant, name, rules, read_only, resource_version, changed_at, changed_by)
             VALUES ($1, $2, $3, $4, 1, $5, $6)
             ON CONFLICT (tenant, name) DO UPDATE SET rules = excluded.rules, read_only = excluded.read_only,
                 resource_version = document_collections.resource_version + 1, changed_at = excluded.changed_at, changed_by = excluded.changed_by
             WHERE document_collections.resource_version = COALESCE($7, document_collections.resource_version)
             RETURNING name, rules, read_only, resource_version, changed_at, changed_by"
        };
        let count = rules.len();
        let rules = text(&rules)?;
        let stored: Option<Stored> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(name).bind(rules).bind(i64::from(read_only)).bind(now.0).bind(&self.actor.0).bind(expected)
            .fetch_optional(c).await)?;
        let Some(stored) = stored else {
            let current = self.collection_version(&mut tx, name).await?;
            return Err(StoreError::VersionMismatch { expected: expected.unwrap_or_default(), current });
        };
        let row = row(stored)?;
        let payload =
            json!({"resourceVersion": row.resource_version, "rules": count, "readOnly": row.read_only});
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
