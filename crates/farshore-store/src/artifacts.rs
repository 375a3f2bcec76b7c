//! Artifacts and their uploads: which bytes a tenant has. The bytes themselves lie in the artifact folder.

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::affected;
use crate::error::{StoreError, StoreResult};
use crate::on;

/// An artifact of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactRow {
    pub digest: Digest,
    pub size: u64,
    pub name: String,
    pub created_at: UnixMs,
    /// Names of the releases that refer to it.
    pub releases: Vec<String>,
}

/// An upload under way. How far it is, the artifact folder knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRow {
    pub uid: Uuid,
    pub digest: Digest,
    pub size: u64,
    pub name: String,
}

type RawArtifact = (String, i64, String, i64);

fn digest(text: &str) -> StoreResult<Digest> {
    text.parse().map_err(|_| StoreError::Corrupt(format!("digest {text:?}")))
}

fn size(value: i64) -> StoreResult<u64> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt(format!("size {value}")))
}

fn read_artifact((text, bytes, name, at): RawArtifact) -> StoreResult<ArtifactRow> {
    Ok(ArtifactRow {
        digest: digest(&text)?,
        size: size(bytes)?,
        name,
        created_at: UnixMs(at),
        releases: Vec::new(),
    })
}

impl TenantDb {
    /// An artifact of this tenant. Another tenant's does not exist, even if its bytes are the same.
    pub async fn artifact(&self, wanted: &Digest) -> StoreResult<ArtifactRow> {
        let mut tx = self.read().await?;
        let row: Option<RawArtifact> = on!(&mut tx, c => sqlx::query_as(
            "SELECT digest, size, name, created_at FROM artifacts WHERE tenant = $1 AND digest = $2")
            .bind(self.tenant.0).bind(wanted.to_string()).fetch_optional(c).await)?;
        read_artifact(row.ok_or(StoreError::NotFound("artifact"))?)
    }

    /// A page of artifacts, by digest, after `after`.
    pub async fn artifacts(&self, after: Option<&str>, limit: u32) -> StoreResult<Vec<ArtifactRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<RawArtifact> = on!(&mut tx, c => sqlx::query_as(
            "SELECT digest, size, name, created_at FROM artifacts WHERE tenant = $1 AND digest > $2 ORDER BY digest LIMIT $3")
            .bind(self.tenant.0).bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        let mut artifacts = rows.into_iter().map(read_artifact).collect::<StoreResult<Vec<_>>>()?;
        let (Some(first), Some(last)) = (artifacts.first(), artifacts.last()) else { return Ok(artifacts) };
        let uses: Vec<(String, String)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT a.digest, r.name FROM release_artifacts a
             JOIN releases r ON r.tenant = a.tenant AND r.uid = a.release
             WHERE a.tenant = $1 AND a.digest >= $2 AND a.digest <= $3 ORDER BY r.name")
            .bind(self.tenant.0).bind(first.digest.to_string()).bind(last.digest.to_string()).fetch_all(c).await)?;
        for artifact in &mut artifacts {
            let text = artifact.digest.to_string();
            artifact.releases =
                uses.iter().filter(|(d, _)| *d == text).map(|(_, name)| name.clone()).collect();
        }
        Ok(artifacts)
    }

    /// Opens an upload, or finds the open one for the same bytes, so that an interrupted client goes on where it was.
    pub async fn open_upload(
        &self,
        upload: &UploadRow,
        max_open: u32,
        now: UnixMs,
    ) -> StoreResult<UploadRow> {
        let mut tx = self.begin().await?;
        let open: Vec<(Uuid, String, i64, String)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid, digest, size, name FROM uploads WHERE tenant = $1")
            .bind(self.tenant.0).fetch_all(c).await)?;
        let wanted = upload.digest.to_string();
        let bytes = i64::try_from(upload.size)
            .map_err(|_| StoreError::Conflict("The size is too large.".to_owned()))?;
        if let Some((uid, _, known, name)) = open.iter().find(|(_, d, ..)| *d == wanted) {
            if *known != bytes {
                return Err(StoreError::Conflict(format!(
                    "An upload of {wanted} is open with {known} bytes, not {bytes}."
                )));
            }
            return Ok(UploadRow { uid: *uid, digest: upload.digest, size: upload.size, name: name.clone() });
        }
        if open.len() >= max_open as usize {
            return Err(StoreError::Conflict(format!(
                "{max_open} uploads are open already; finish or wait a day for one to expire."
            )));
        }
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO uploads (tenant, uid, digest, size, name, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(self.tenant.0).bind(upload.uid).bind(wanted).bind(bytes).bind(&upload.name).bind(now.0)
            .execute(c).await.map(affected))?;
        tx.commit().await?;
        Ok(upload.clone())
    }

    pub async fn upload(&self, uid: Uuid) -> StoreResult<UploadRow> {
        let mut tx = self.read().await?;
        let row: Option<(String, i64, String)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT digest, size, name FROM uploads WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).fetch_optional(c).await)?;
        let (text, bytes, name) = row.ok_or(StoreError::NotFound("upload"))?;
        Ok(UploadRow { uid, digest: digest(&text)?, size: size(bytes)?, name })
    }

    /// The bytes are there and their digest is right: the upload becomes an artifact.
    pub async fn finish_upload(&self, upload: &UploadRow, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let bytes =
            i64::try_from(upload.size).map_err(|_| StoreError::Corrupt("size of an upload".to_owned()))?;
        on!(&mut tx, c => sqlx::query(
            "INSERT INTO artifacts (tenant, digest, size, name, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant, digest) DO NOTHING")
            .bind(self.tenant.0).bind(upload.digest.to_string()).bind(bytes).bind(&upload.name).bind(now.0)
            .execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query("DELETE FROM uploads WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(upload.uid).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// Forgets an upload, whose bytes were wrong or which was given up.
    pub async fn drop_upload(&self, uid: Uuid) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query("DELETE FROM uploads WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(uid).execute(c).await.map(affected))?;
        tx.commit().await
    }
}
