//! Leases: which replica's driver works on something, with a fencing epoch that is checked in each of its writes.

use farshore_domain::time::UnixMs;

use crate::access::SystemDb;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::on;

/// A lease that was held when it was acquired. Whether it still is says [`Lease::check`], inside the write it protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub name: String,
    /// Unique for each start of each replica.
    pub holder: String,
    /// Grows with each change of the holder.
    pub epoch: i64,
    pub expires_at: UnixMs,
}

impl Lease {
    /// Fails with [`StoreError::LeaseLost`] when somebody else took the lease; holds off takers until the transaction ends.
    /// Call it first in each write transaction of the driver.
    pub async fn check(&self, tx: &mut Tx) -> StoreResult<()> {
        let held = on!(tx, c => sqlx::query(
            "UPDATE leases SET epoch = epoch WHERE name = $1 AND holder = $2 AND epoch = $3")
            .bind(&self.name).bind(&self.holder).bind(self.epoch).execute(c).await.map(affected))?;
        if held == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
    }
}

impl SystemDb {
    /// Acquires the lease, or renews it for the holder it has, until `now + ttl_ms`. `None`: somebody else holds it.
    /// A holder whose lease ran out gets a new epoch, because somebody may have held it in between.
    pub async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl_ms: i64,
        now: UnixMs,
    ) -> StoreResult<Option<Lease>> {
        let mut tx = self.begin().await?;
        let expires_at = now.plus_ms(ttl_ms);
        let row: Option<(i64,)> = on!(&mut tx, c => sqlx::query_as(
            "INSERT INTO leases (name, holder, epoch, expires_at) VALUES ($1, $2, 1, $4)
             ON CONFLICT (name) DO UPDATE SET
                 epoch = CASE WHEN leases.holder = $2 AND leases.expires_at > $3 THEN leases.epoch ELSE leases.epoch + 1 END,
                 holder = $2, expires_at = $4
             WHERE leases.holder = $2 OR leases.expires_at <= $3
             RETURNING epoch")
            .bind(name).bind(holder).bind(now.0).bind(expires_at.0).fetch_optional(c).await)?;
        tx.commit().await?;
        Ok(row.map(|(epoch,)| Lease { name: name.to_owned(), holder: holder.to_owned(), epoch, expires_at }))
    }

    /// Gives the lease back, if it is still held, so that the next holder need not wait.
    pub async fn release_lease(&self, lease: &Lease) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query(
            "UPDATE leases SET expires_at = 0 WHERE name = $1 AND holder = $2 AND epoch = $3")
            .bind(&lease.name).bind(&lease.holder).bind(lease.epoch).execute(c).await.map(affected))?;
        tx.commit().await
    }
}
