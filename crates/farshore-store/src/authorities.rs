//! The control plane's own certificates and wrapped keys.

use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::SystemDb;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::on;
use crate::tenants::lock_installation;

/// What a certificate of the control plane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthorityKind {
    Root,
    Intermediate,
    /// Signs desired state.
    Online,
}

impl AuthorityKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Online => "online",
        }
    }

    fn from_word(word: &str) -> StoreResult<Self> {
        match word {
            "root" => Ok(Self::Root),
            "intermediate" => Ok(Self::Intermediate),
            "online" => Ok(Self::Online),
            other => Err(StoreError::Corrupt(format!("an authority of kind {other:?}"))),
        }
    }
}

/// A certificate (PEM, a chain where there is one) with its key, which is wrapped by the master key; `None` where the key is kept elsewhere.
#[derive(Clone, Debug)]
pub struct AuthorityRow {
    pub kind: AuthorityKind,
    pub certificate: String,
    pub wrapped_key: Option<Vec<u8>>,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
}

#[derive(sqlx::FromRow)]
struct Row {
    kind: String,
    certificate: String,
    wrapped_key: Option<Vec<u8>>,
    created_at: i64,
    expires_at: i64,
}

impl SystemDb {
    /// The authorities in use, the newest of each kind first.
    pub async fn authorities(&self) -> StoreResult<Vec<AuthorityRow>> {
        let mut tx = self.read().await?;
        current(&mut tx).await
    }

    /// Stores these unless there are authorities already, and returns those in use: of several first starts, one wins.
    pub async fn first_authorities(&self, new: &[AuthorityRow]) -> StoreResult<Vec<AuthorityRow>> {
        let mut tx = self.begin().await?;
        lock_installation(&mut tx).await?;
        let mut rows = current(&mut tx).await?;
        if rows.is_empty() {
            for row in new {
                insert(&mut tx, row).await?;
            }
            rows = current(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(rows)
    }

    /// Puts a successor in the place of the authority of its kind that expires at `replaces`. Returns the one in use: somebody else may have
    /// been first.
    pub async fn replace_authority(
        &self,
        new: &AuthorityRow,
        replaces: Option<UnixMs>,
        now: UnixMs,
    ) -> StoreResult<AuthorityRow> {
        let mut tx = self.begin().await?;
        lock_installation(&mut tx).await?;
        let present = current(&mut tx).await?.into_iter().find(|row| row.kind == new.kind);
        if let Some(present) = present
            && Some(present.expires_at) != replaces
            && present.expires_at > now
        {
            return Ok(present);
        }
        on!(&mut tx, c => sqlx::query("UPDATE authorities SET state = 'retired' WHERE kind = $1 AND state = 'current'")
            .bind(new.kind.word()).execute(c).await.map(affected))?;
        insert(&mut tx, new).await?;
        tx.commit().await?;
        Ok(new.clone())
    }
}

async fn current(tx: &mut Tx) -> StoreResult<Vec<AuthorityRow>> {
    let rows: Vec<Row> = on!(tx, c => sqlx::query_as(
        "SELECT kind, certificate, wrapped_key, created_at, expires_at FROM authorities
         WHERE state = 'current' ORDER BY created_at DESC, uid DESC").fetch_all(c).await)?;
    rows.into_iter()
        .map(|row| {
            Ok(AuthorityRow {
                kind: AuthorityKind::from_word(&row.kind)?,
                certificate: row.certificate,
                wrapped_key: row.wrapped_key,
                created_at: UnixMs(row.created_at),
                expires_at: UnixMs(row.expires_at),
            })
        })
        .collect()
}

async fn insert(tx: &mut Tx, row: &AuthorityRow) -> StoreResult<()> {
    on!(tx, c => sqlx::query(
        "INSERT INTO authorities (uid, kind, certificate, wrapped_key, state, created_at, expires_at)
         VALUES ($1, $2, $3, $4, 'current', $5, $6)")
        .bind(Uuid::now_v7()).bind(row.kind.word()).bind(&row.certificate).bind(row.wrapped_key.as_deref())
        .bind(row.created_at.0).bind(row.expires_at.0).execute(c).await.map(affected))?;
    Ok(())
}
