//! Rollouts: the engine's state, kept as it gives it.

use std::collections::BTreeMap;

use farshore_domain::id::RolloutId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::rollout::Phase;
use farshore_domain::time::UnixMs;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::on;

/// A stored rollout. `state` is `farshore_domain::rollout::Rollout`, which carries its own version.
#[derive(Clone, Debug)]
pub struct RolloutRow {
    pub metadata: Metadata,
    pub app: Name,
    pub channel: Name,
    pub phase: String,
    pub spec: Value,
    pub state: Value,
}

impl RolloutRow {
    #[must_use]
    pub fn id(&self) -> RolloutId {
        RolloutId(self.metadata.uid)
    }
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
    channel: String,
    phase: String,
    spec: Json<Value>,
    state: Json<Value>,
}

fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("rollout: {error}"))
}

impl Row {
    fn read(self) -> StoreResult<RolloutRow> {
        Ok(RolloutRow {
            metadata: Metadata {
                uid: self.uid,
                name: Name::new(self.name).map_err(corrupt)?,
                labels: self.labels.0,
                resource_version: self.resource_version,
                managed_by: self.managed_by,
                created_at: UnixMs(self.created_at),
            },
            app: Name::new(self.app).map_err(corrupt)?,
            channel: Name::new(self.channel).map_err(corrupt)?,
            phase: self.phase,
            spec: self.spec.0,
            state: self.state.0,
        })
    }
}

const COLUMNS: &str =
    "uid, name, labels, managed_by, resource_version, created_at, app, channel, phase, spec, state";
/// Phases in which a rollout still needs its driver, as the column holds them.
const FINAL: &str = "('succeeded', 'failed', 'aborted', 'superseded')";

impl SystemDb {
    /// The tenants that have a rollout which is not over.
    pub async fn tenants_with_open_rollouts(&self) -> StoreResult<Vec<Uuid>> {
        let mut tx = self.read().await?;
        let sql =
            sqlx::AssertSqlSafe(format!("SELECT DISTINCT tenant FROM rollouts WHERE phase NOT IN {FINAL}"));
        let rows: Vec<(Uuid,)> = on!(&mut tx, c => sqlx::query_as(sql).fetch_all(c).await)?;
        Ok(rows.into_iter().map(|(tenant,)| tenant).collect())
    }
}

impl TenantDb {
    /// A page of rollouts, newest first.
    pub async fn rollouts(&self, before: Option<Uuid>, limit: u32) -> StoreResult<Vec<RolloutRow>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM rollouts WHERE tenant = $1 AND uid < $2 ORDER BY uid DESC LIMIT $3"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(before.unwrap_or(Uuid::max())).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// Rollouts that decide something: those that are not over, and the newest started one of each app and channel.
    pub async fn deciding_rollouts(&self, tx: &mut Tx) -> StoreResult<Vec<RolloutRow>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM rollouts r WHERE tenant = $1 AND (phase NOT IN {FINAL} OR (phase <> 'pending' AND NOT EXISTS (
                 SELECT 1 FROM rollouts n WHERE n.tenant = r.tenant AND n.app = r.app AND n.channel = r.channel
                     AND n.phase <> 'pending' AND n.uid > r.uid)))
             ORDER BY uid DESC"
        ));
        let rows: Vec<Row> = on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One rollout, by uid or name.
    pub async fn rollout(&self, id: &str) -> StoreResult<RolloutRow> {
        let mut tx = self.read().await?;
        self.rollout_in(&mut tx, id).await
    }

    /// One rollout, by uid or name, within a transaction.
    pub async fn rollout_in(&self, tx: &mut Tx, id: &str) -> StoreResult<RolloutRow> {
        let uid = Uuid::parse_str(id).unwrap_or(Uuid::nil());
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM rollouts WHERE tenant = $1 AND (uid = $2 OR name = $3)"
        ));
        let row: Option<Row> =
            on!(tx, c => sqlx::query_as(sql).bind(self.tenant.0).bind(uid).bind(id).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("rollout"))?.read()
    }

    /// The phases of these rollouts, by name; a name that is not there does not exist.
    pub async fn rollout_phases(&self, tx: &mut Tx, names: &[Name]) -> StoreResult<BTreeMap<Name, Phase>> {
        let mut phases = BTreeMap::new();
        for name in names {
            let row: Option<(String,)> = on!(tx, c => sqlx::query_as(
                "SELECT phase FROM rollouts WHERE tenant = $1 AND name = $2")
                .bind(self.tenant.0).bind(name.as_str()).fetch_optional(c).await)?;
            if let Some((phase,)) = row {
                phases.insert(name.clone(), Phase::from_word(&phase));
            }
        }
        Ok(phases)
    }

    /// The specification of the newest rollout of an app in a channel.
    pub async fn newest_rollout_spec(
        &self,
        tx: &mut Tx,
        app: &Name,
        channel: &Name,
    ) -> StoreResult<Option<Value>> {
        let row: Option<(Json<Value>,)> = on!(tx, c => sqlx::query_as(
            "SELECT spec FROM rollouts WHERE tenant = $1 AND app = $2 AND channel = $3 ORDER BY uid DESC LIMIT 1")
            .bind(self.tenant.0).bind(app.as_str()).bind(channel.as_str()).fetch_optional(c).await)?;
        Ok(row.map(|(spec,)| spec.0))
    }

    /// Stores a new rollout.
    pub async fn insert_rollout(&self, tx: &mut Tx, row: &RolloutRow) -> StoreResult<()> {
        let inserted = on!(tx, c => sqlx::query(
            "INSERT INTO rollouts (tenant, uid, name, labels, managed_by, created_at, app, channel, phase, spec, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant, name) DO NOTHING")
            .bind(self.tenant.0).bind(row.metadata.uid).bind(row.metadata.name.as_str()).bind(Json(&row.metadata.labels))
            .bind(&row.metadata.managed_by).bind(row.metadata.created_at.0).bind(row.app.as_str()).bind(row.channel.as_str())
            .bind(&row.phase).bind(Json(&row.spec)).bind(Json(&row.state)).execute(c).await.map(affected))?;
        if inserted == 0 {
            return Err(StoreError::Conflict(format!(
                "There is a rollout {:?} already.",
                row.metadata.name.as_str()
            )));
        }
        Ok(())
    }

    /// Stores the engine's next state, if nobody else changed the rollout since it was read.
    pub async fn update_rollout(
        &self,
        tx: &mut Tx,
        id: RolloutId,
        read_at: i64,
        phase: &str,
        state: &Value,
    ) -> StoreResult<()> {
        let updated = on!(tx, c => sqlx::query(
            "UPDATE rollouts SET phase = $4, state = $5, resource_version = resource_version + 1
             WHERE tenant = $1 AND uid = $2 AND resource_version = $3")
            .bind(self.tenant.0).bind(id.0).bind(read_at).bind(phase).bind(Json(state)).execute(c).await.map(affected))?;
        if updated == 0 {
            return Err(StoreError::Conflict("The rollout changed in the meantime.".to_owned()));
        }
        Ok(())
    }
}
