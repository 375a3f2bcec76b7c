//! Idempotency keys: a request that is sent twice takes effect once, and gets the same answer.

use farshore_domain::id::TenantId;
use farshore_domain::time::{MINUTE_MS, UnixMs};

use crate::access::SystemDb;
use crate::db::affected;
use crate::error::StoreResult;
use crate::on;

/// An unfinished request is given up after this long; longer than any request may take.
const ABANDONED_AFTER_MS: i64 = 5 * MINUTE_MS;
/// The status of a request that is still being answered.
const UNDER_WAY: i64 = 0;

/// What is known of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// Never seen: go ahead, then [`SystemDb::finish_request`] or [`SystemDb::forget_request`].
    New,
    /// Answered before, like this. The body is as it was given to [`SystemDb::finish_request`].
    Answered { status: u16, body: Vec<u8> },
    /// Used before for another request.
    Different,
    /// The first request with this key is still being answered.
    UnderWay,
}

impl SystemDb {
    /// Notes that a request with this key begins. `digest` tells one request from another.
    pub async fn begin_request(
        &self,
        tenant: TenantId,
        key: &str,
        digest: &str,
        now: UnixMs,
    ) -> StoreResult<Repeated> {
        let mut tx = self.tenant(tenant).begin().await?;
        on!(&mut tx, c => sqlx::query("DELETE FROM idempotency_keys WHERE tenant = $1 AND key = $2 AND status = $3 AND created_at < $4")
            .bind(tenant.0).bind(key).bind(UNDER_WAY).bind(now.0 - ABANDONED_AFTER_MS).execute(c).await.map(affected))?;
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO idempotency_keys (tenant, key, request_digest, status, body, created_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant, key) DO NOTHING")
            .bind(tenant.0).bind(key).bind(digest).bind(UNDER_WAY).bind::<&[u8]>(&[]).bind(now.0)
            .execute(c).await.map(affected))?;
        if inserted == 1 {
            tx.commit().await?;
            return Ok(Repeated::New);
        }
        let (stored, status, body): (String, i64, Vec<u8>) = on!(&mut tx, c => sqlx::query_as(
            "SELECT request_digest, status, body FROM idempotency_keys WHERE tenant = $1 AND key = $2")
            .bind(tenant.0).bind(key).fetch_one(c).await)?;
        if stored != digest {
            return Ok(Repeated::Different);
        }
        Ok(match u16::try_from(status) {
            Ok(status) if status >= 100 => Repeated::Answered { status, body },
            _ => Repeated::UnderWay,
        })
    }

    /// Keeps the answer of a request that began.
    pub async fn finish_request(
        &self,
        tenant: TenantId,
        key: &str,
        status: u16,
        body: &[u8],
    ) -> StoreResult<()> {
        let mut tx = self.tenant(tenant).begin().await?;
        on!(&mut tx, c => sqlx::query("UPDATE idempotency_keys SET status = $3, body = $4 WHERE tenant = $1 AND key = $2")
            .bind(tenant.0).bind(key).bind(i64::from(status)).bind(body).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// The request did not take effect: the key is free again.
    pub async fn forget_request(&self, tenant: TenantId, key: &str) -> StoreResult<()> {
        let mut tx = self.tenant(tenant).begin().await?;
        on!(&mut tx, c => sqlx::query("DELETE FROM idempotency_keys WHERE tenant = $1 AND key = $2 AND status = $3")
            .bind(tenant.0).bind(key).bind(UNDER_WAY).execute(c).await.map(affected))?;
        tx.commit().await
    }
}
