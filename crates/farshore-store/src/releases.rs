//! Releases: signed manifests, as their exact bytes.

use farshore_domain::digest::Digest;
use farshore_domain::id::ReleaseId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::release::Manifest;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::on;

/// A stored release.
#[derive(Clone, Debug)]
pub struct ReleaseRow {
    pub metadata: Metadata,
    pub app: Name,
    pub version: String,
    /// The exact bytes that were signed.
    pub manifest_bytes: Vec<u8>,
    pub manifest: Manifest,
    pub manifest_digest: Digest,
    pub signature: Vec<u8>,
    pub signed_by: String,
    pub key_name: String,
}

impl ReleaseRow {
    #[must_use]
    pub fn id(&self) -> ReleaseId {
        ReleaseId(self.metadata.uid)
    }
}

/// A release whose signature was checked.
#[derive(Clone, Debug)]
pub struct NewReleaseRow<'a> {
    pub uid: ReleaseId,
    pub name: &'a Name,
    pub manifest: &'a Manifest,
    pub manifest_bytes: &'a [u8],
    pub signature: &'a [u8],
    pub signed_by: &'a str,
    pub key_name: &'a str,
    pub managed_by: &'a str,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    labels: Json<Labels>,
    managed_by: String,
    resource_version: i64,
    created_at: i64,
    app: String,
    version: String,
    manifest: Vec<u8>,
    manifest_digest: String,
    signature: Vec<u8>,
    signed_by: String,
    key_name: String,
}

fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("release: {error}"))
}

impl Row {
    fn read(self) -> StoreResult<ReleaseRow> {
        Ok(ReleaseRow {
            metadata: Metadata {
                uid: self.uid,
                name: Name::new(self.name).map_err(corrupt)?,
                labels: self.labels.0,
                resource_version: self.resource_version,
                managed_by: self.managed_by,
                created_at: UnixMs(self.created_at),
            },
            app: Name::new(self.app).map_err(corrupt)?,
            version: self.version,
            manifest: Manifest::parse(&self.manifest).map_err(corrupt)?,
            manifest_bytes: self.manifest,
            manifest_digest: self.manifest_digest.parse().map_err(corrupt)?,
            signature: self.signature,
            signed_by: self.signed_by,
            key_name: self.key_name,
        })
    }
}

const COLUMNS: &str = "uid, name, labels, managed_by, resource_version, created_at, app, version, manifest,
    manifest_digest, signature, signed_by, key_name";

impl TenantDb {
    /// A page of releases, newest first; `before` is the uid of the last one of the page before.
    pub async fn releases(
        &self,
        app: Option<&str>,
        before: Option<Uuid>,
        limit: u32,
    ) -> StoreResult<Vec<ReleaseRow>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM releases WHERE tenant = $1 AND ($2 = '' OR app = $2) AND uid < $3 ORDER BY uid DESC LIMIT $4"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(app.unwrap_or("")).bind(before.unwrap_or(Uuid::max())).bind(i64::from(limit))
            .fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One release, by uid or name.
    pub async fn release(&self, id: &str) -> StoreResult<ReleaseRow> {
        let mut tx = self.read().await?;
        self.release_in(&mut tx, id).await
    }

    /// One release, by uid or name, within a transaction.
    pub async fn release_in(&self, tx: &mut Tx, id: &str) -> StoreResult<ReleaseRow> {
        let uid = Uuid::parse_str(id).unwrap_or(Uuid::nil());
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM releases WHERE tenant = $1 AND (uid = $2 OR name = $3)"
        ));
        let row: Option<Row> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(uid).bind(id).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("release"))?.read()
    }

    /// Stores a release with the artifacts it refers to, all of which must be there, and its event. The same manifest once more is the same release.
    pub async fn create_release(&self, new: NewReleaseRow<'_>, now: UnixMs) -> StoreResult<ReleaseRow> {
        let mut tx = self.begin().await?;
        let digest = Digest::of(new.manifest_bytes);
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO releases (tenant, uid, name, labels, managed_by, created_at, app, version, manifest, manifest_digest,
                                   signature, signed_by, key_name)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING")
            .bind(self.tenant.0).bind(new.uid.0).bind(new.name.as_str()).bind(Json(Labels::default())).bind(new.managed_by)
            .bind(now.0).bind(new.manifest.app.as_str()).bind(new.manifest.version.as_str()).bind(new.manifest_bytes)
            .bind(digest.to_string()).bind(new.signature).bind(new.signed_by).bind(new.key_name)
            .execute(c).await.map(affected))?;
        if inserted == 0 {
            let there = self.release_in(&mut tx, new.name.as_str()).await;
            return match there {
                Ok(there) if there.manifest_digest == digest => Ok(there),
                _ => Err(StoreError::Conflict(format!(
                    "Release {} is there already with another manifest. A release never changes: give it a new version.",
                    new.name
                ))),
            };
        }
        let mut digests: Vec<_> = new.manifest.platforms.iter().map(|p| p.artifact.digest).collect();
        digests.sort_unstable();
        digests.dedup();
        for artifact in digests {
            on!(&mut tx, c => sqlx::query("INSERT INTO release_artifacts (tenant, release, digest) VALUES ($1, $2, $3)")
                .bind(self.tenant.0).bind(new.uid.0).bind(artifact.to_string()).execute(c).await.map(affected))?;
        }
        let event = NewEvent {
            uid: Uuid::now_v7(),
            at: now,
            kind: "release.created".to_owned(),
            subject_kind: "Release".to_owned(),
            subject: new.uid.0,
            subject_name: new.name.to_string(),
            actor: self.actor.0.clone(),
            message: format!("release {} was uploaded, signed with {}", new.name, new.key_name),
            payload: serde_json::json!({ "app": new.manifest.app, "version": new.manifest.version, "signedBy": new.signed_by }),
        };
        events::append(&mut tx, self.tenant, &event).await?;
        let stored = self.release_in(&mut tx, new.name.as_str()).await?;
        tx.commit().await?;
        Ok(stored)
    }

    /// Deletes a release that nothing points to.
    pub async fn delete_release(&self, id: &str, expected: Option<i64>, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let old = self.release_in(&mut tx, id).await?;
        crate::objects::check_version(old.metadata.resource_version, expected)?;
        on!(&mut tx, c => sqlx::query("DELETE FROM releases WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).execute(c).await.map(affected))?;
        let event = NewEvent {
            uid: Uuid::now_v7(),
            at: now,
            kind: "release.deleted".to_owned(),
            subject_kind: "Release".to_owned(),
            subject: old.metadata.uid,
            subject_name: old.metadata.name.to_string(),
            actor: self.actor.0.clone(),
            message: format!("release {} was deleted", old.metadata.name),
            payload: serde_json::json!({}),
        };
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }
}
