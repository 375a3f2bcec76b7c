//! Held-back releases: what went wrong in a channel is not rolled out there again until somebody says so.

use farshore_domain::id::{ReleaseId, RolloutId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::on;

/// One release that is held back in one channel of its app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub app: Name,
    pub channel: Name,
    pub release: ReleaseId,
    /// The rollout that went wrong.
    pub rollout: RolloutId,
    pub rollout_name: Name,
    /// A sentence for people.
    pub reason: String,
    pub held_at: UnixMs,
}

impl TenantDb {
    /// Holds a release back. A hold that is there already stays as it is.
    pub async fn add_hold(&self, tx: &mut Tx, hold: &Hold) -> StoreResult<()> {
        on!(tx, c => sqlx::query(
            "INSERT INTO held_releases (tenant, app, channel, release, rollout, rollout_name, reason, held_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, app, channel, release) DO NOTHING")
            .bind(self.tenant.0).bind(hold.app.as_str()).bind(hold.channel.as_str()).bind(hold.release.0)
            .bind(hold.rollout.0).bind(hold.rollout_name.as_str()).bind(&hold.reason).bind(hold.held_at.0)
            .execute(c).await.map(affected))?;
        Ok(())
    }

    /// The hold on a release in a channel, if there is one.
    pub async fn hold(
        &self,
        tx: &mut Tx,
        app: &Name,
        channel: &Name,
        release: ReleaseId,
    ) -> StoreResult<Option<Hold>> {
        let row: Option<(Uuid, String, String, i64)> = on!(tx, c => sqlx::query_as(
            "SELECT rollout, rollout_name, reason, held_at FROM held_releases
             WHERE tenant = $1 AND app = $2 AND channel = $3 AND release = $4")
            .bind(self.tenant.0).bind(app.as_str()).bind(channel.as_str()).bind(release.0).fetch_optional(c).await)?;
        let Some((rollout, name, reason, held_at)) = row else { return Ok(None) };
        Ok(Some(Hold {
            app: app.clone(),
            channel: channel.clone(),
            release,
            rollout: RolloutId(rollout),
            rollout_name: Name::new(name)
                .map_err(|error| StoreError::Corrupt(format!("held release: {error}")))?,
            reason,
            held_at: UnixMs(held_at),
        }))
    }

    /// Ends a hold. Returns whether there was one.
    pub async fn release_hold(
        &self,
        tx: &mut Tx,
        app: &Name,
        channel: &Name,
        release: ReleaseId,
    ) -> StoreResult<bool> {
        let released = on!(tx, c => sqlx::query(
            "DELETE FROM held_releases WHERE tenant = $1 AND app = $2 AND channel = $3 AND release = $4")
            .bind(self.tenant.0).bind(app.as_str()).bind(channel.as_str()).bind(release.0)
            .execute(c).await.map(affected))?;
        Ok(released > 0)
    }
}
