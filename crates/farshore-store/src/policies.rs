//! The versions of policies. A policy itself is an object like the others; each change of one keeps what it says.

use farshore_domain::policy::PolicySpec;
use farshore_domain::time::UnixMs;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::objects::{ObjectKind, Stored};
use crate::on;

/// So many versions of one policy are kept; the oldest go first.
pub const KEPT_VERSIONS: i64 = 500;

/// One version of a policy.
#[derive(Clone, Debug)]
pub struct PolicyVersionRow {
    pub version: i64,
    pub at: UnixMs,
    /// Who made it.
    pub actor: String,
    pub spec: PolicySpec,
}

#[derive(sqlx::FromRow)]
struct Row {
    version: i64,
    at: i64,
    actor: String,
    spec: Json<serde_json::Value>,
}

impl TenantDb {
    /// A policy's versions below `before`, the newest first.
    pub async fn policy_versions(
        &self,
        id: &str,
        before: Option<i64>,
        limit: u32,
    ) -> StoreResult<Vec<PolicyVersionRow>> {
        let mut tx = self.read().await?;
        let policy: Stored<serde_json::Value> = self.object_in(&mut tx, ObjectKind::Policy, id).await?;
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(
            "SELECT version, at, actor, spec FROM policy_versions
             WHERE tenant = $1 AND policy = $2 AND version < $3 ORDER BY version DESC LIMIT $4")
            .bind(self.tenant.0).bind(policy.metadata.uid).bind(before.unwrap_or(i64::MAX)).bind(i64::from(limit))
            .fetch_all(c).await)?;
        rows.into_iter()
            .map(|row| {
                let spec = serde_json::from_value(row.spec.0).map_err(|error| {
                    StoreError::Corrupt(format!("version {} of {id}: {error}", row.version))
                })?;
                Ok(PolicyVersionRow { version: row.version, at: UnixMs(row.at), actor: row.actor, spec })
            })
            .collect()
    }

    /// Keeps what a policy says now, in the transaction that changed it.
    pub(crate) async fn keep_policy_version(
        &self,
        tx: &mut Tx,
        policy: Uuid,
        now: UnixMs,
    ) -> StoreResult<()> {
        on!(&mut *tx, c => sqlx::query(
            "INSERT INTO policy_versions (tenant, policy, version, at, actor, spec)
             SELECT tenant, uid, resource_version, CAST($3 AS BIGINT), CAST($4 AS TEXT), spec FROM objects WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(policy).bind(now.0).bind(&self.actor.0).execute(c).await.map(affected))?;
        on!(&mut *tx, c => sqlx::query(
            "DELETE FROM policy_versions WHERE tenant = $1 AND policy = $2 AND version <=
             (SELECT resource_version FROM objects WHERE tenant = $1 AND uid = $2) - $3")
            .bind(self.tenant.0).bind(policy).bind(KEPT_VERSIONS).execute(c).await.map(affected))?;
        Ok(())
    }
}
