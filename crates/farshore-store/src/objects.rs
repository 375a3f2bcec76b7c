//! Objects that are only a specification: App, Placement, Channel, Pin, Config, ClaimRule, AlertRule, Silence, AlertRoute, Sink.
//!
//! One table and one set of statements; what a specification may say is checked by its type, before it gets here.

use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::object::Metadata;
use farshore_domain::time::UnixMs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{SystemDb, TenantDb};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::events::{self, NewEvent};
use crate::on;

/// Which kind of object; its word is the `kind` of the envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    App,
    Placement,
    Channel,
    Pin,
    Config,
    Policy,
    ClaimRule,
    AlertRule,
    Silence,
    AlertRoute,
    Sink,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::App,
        Self::Placement,
        Self::Channel,
        Self::Pin,
        Self::Config,
        Self::Policy,
        Self::ClaimRule,
        Self::AlertRule,
        Self::Silence,
        Self::AlertRoute,
        Self::Sink,
    ];

    /// The `kind` of the envelope.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::App => "App",
            Self::Placement => "Placement",
            Self::Channel => "Channel",
            Self::Pin => "Pin",
            Self::Config => "Config",
            Self::Policy => "Policy",
            Self::ClaimRule => "ClaimRule",
            Self::AlertRule => "AlertRule",
            Self::Silence => "Silence",
            Self::AlertRoute => "AlertRoute",
            Self::Sink => "Sink",
        }
    }

    /// What a sentence calls it.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Placement => "placement",
            Self::Channel => "channel",
            Self::Pin => "pin",
            Self::Config => "config",
            Self::Policy => "policy",
            Self::ClaimRule => "claim rule",
            Self::AlertRule => "alert rule",
            Self::Silence => "silence",
            Self::AlertRoute => "alert route",
            Self::Sink => "sink",
        }
    }
}

/// A stored object.
#[derive(Clone, Debug)]
pub struct Stored<S> {
    pub metadata: Metadata,
    pub spec: S,
}

/// An object to be stored.
#[derive(Clone, Debug)]
pub struct NewStored<'a, S> {
    pub name: &'a Name,
    pub labels: &'a Labels,
    pub managed_by: &'a str,
    pub spec: &'a S,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    labels: Json<Labels>,
    managed_by: String,
    resource_version: i64,
    created_at: i64,
    spec: Json<serde_json::Value>,
}

impl Row {
    fn read<S: DeserializeOwned>(self) -> StoreResult<Stored<S>> {
        let name = Name::new(self.name).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let spec = serde_json::from_value(self.spec.0)
            .map_err(|error| StoreError::Corrupt(format!("specification of {name}: {error}")))?;
        Ok(Stored {
            metadata: Metadata {
                uid: self.uid,
                name,
                labels: self.labels.0,
                resource_version: self.resource_version,
                managed_by: self.managed_by,
                created_at: UnixMs(self.created_at),
            },
            spec,
        })
    }
}

const COLUMNS: &str = "uid, name, labels, managed_by, resource_version, created_at, spec";

/// The two addresses of an object: its uid, or its name.
fn address(id: &str) -> (Uuid, &str) {
    (Uuid::parse_str(id).unwrap_or(Uuid::nil()), id)
}

/// All objects of a kind, within a transaction, by name.
pub async fn all_in<S: DeserializeOwned>(
    tx: &mut Tx,
    tenant: Uuid,
    kind: ObjectKind,
) -> StoreResult<Vec<Stored<S>>> {
    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM objects WHERE tenant = $1 AND kind = $2 ORDER BY name"
    ));
    let rows: Vec<Row> = on!(tx, c => sqlx::query_as(sql).bind(tenant).bind(kind.word()).fetch_all(c).await)?;
    rows.into_iter().map(Row::read).collect()
}

impl TenantDb {
    /// A page of objects of one kind, by name, after `after`.
    pub async fn objects<S: DeserializeOwned>(
        &self,
        kind: ObjectKind,
        after: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<Stored<S>>> {
        let mut tx = self.read().await?;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM objects WHERE tenant = $1 AND kind = $2 AND name > $3 ORDER BY name LIMIT $4"
        ));
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(kind.word()).bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One object, by uid or name.
    pub async fn object<S: DeserializeOwned>(&self, kind: ObjectKind, id: &str) -> StoreResult<Stored<S>> {
        let mut tx = self.read().await?;
        self.object_in(&mut tx, kind, id).await
    }

    pub(crate) async fn object_in<S: DeserializeOwned>(
        &self,
        tx: &mut Tx,
        kind: ObjectKind,
        id: &str,
    ) -> StoreResult<Stored<S>> {
        let (uid, name) = address(id);
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM objects WHERE tenant = $1 AND kind = $2 AND (uid = $3 OR name = $4)"
        ));
        let row: Option<Row> = on!(tx, c => sqlx::query_as(sql)
            .bind(self.tenant.0).bind(kind.word()).bind(uid).bind(name).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound(kind.noun()))?.read()
    }

    /// Creates an object, with its event.
    pub async fn create_object<S: Serialize + DeserializeOwned>(
        &self,
        kind: ObjectKind,
        uid: Uuid,
        new: NewStored<'_, S>,
        now: UnixMs,
    ) -> StoreResult<Stored<S>> {
        let mut tx = self.begin().await?;
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO objects (tenant, uid, kind, name, labels, managed_by, created_at, spec)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant, kind, name) DO NOTHING")
            .bind(self.tenant.0).bind(uid).bind(kind.word()).bind(new.name.as_str()).bind(Json(new.labels))
            .bind(new.managed_by).bind(now.0).bind(Json(new.spec)).execute(c).await.map(affected))?;
        if inserted == 0 {
            return Err(StoreError::Conflict(format!(
                "There is a {} {:?} already.",
                kind.noun(),
                new.name.as_str()
            )));
        }
        self.object_event(&mut tx, kind, uid, new.name, "created", now).await?;
        if kind == ObjectKind::Policy {
            self.keep_policy_version(&mut tx, uid, now).await?;
        }
        let stored = self.object_in(&mut tx, kind, &uid.to_string()).await?;
        tx.commit().await?;
        Ok(stored)
    }

    /// Replaces an object's labels and specification, if it still is at `expected`, with its event. The name stays.
    pub async fn replace_object<S: Serialize + DeserializeOwned>(
        &self,
        kind: ObjectKind,
        id: &str,
        new: NewStored<'_, S>,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<Stored<S>> {
        let mut tx = self.begin().await?;
        let old: Stored<serde_json::Value> = self.object_in(&mut tx, kind, id).await?;
        check_version(old.metadata.resource_version, expected)?;
        if old.metadata.name != *new.name {
            return Err(StoreError::Conflict(format!(
                "A {} can't be renamed: create another one.",
                kind.noun()
            )));
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE objects SET labels = $3, managed_by = $4, spec = $5, resource_version = resource_version + 1
             WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).bind(Json(new.labels)).bind(new.managed_by).bind(Json(new.spec))
            .execute(c).await.map(affected))?;
        self.object_event(&mut tx, kind, old.metadata.uid, new.name, "changed", now).await?;
        if kind == ObjectKind::Policy {
            self.keep_policy_version(&mut tx, old.metadata.uid, now).await?;
        }
        let stored = self.object_in(&mut tx, kind, id).await?;
        tx.commit().await?;
        Ok(stored)
    }

    /// Deletes an object, if it still is at `expected`, with its event.
    pub async fn delete_object(
        &self,
        kind: ObjectKind,
        id: &str,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        let old: Stored<serde_json::Value> = self.object_in(&mut tx, kind, id).await?;
        check_version(old.metadata.resource_version, expected)?;
        on!(&mut tx, c => sqlx::query("DELETE FROM objects WHERE tenant = $1 AND uid = $2")
            .bind(self.tenant.0).bind(old.metadata.uid).execute(c).await.map(affected))?;
        self.object_event(&mut tx, kind, old.metadata.uid, &old.metadata.name, "deleted", now).await?;
        tx.commit().await
    }

    async fn object_event(
        &self,
        tx: &mut Tx,
        kind: ObjectKind,
        uid: Uuid,
        name: &Name,
        what: &str,
        now: UnixMs,
    ) -> StoreResult<()> {
        let event = NewEvent {
            uid: Uuid::now_v7(),
            at: now,
            kind: format!("{}.{what}", kind.noun().replace(' ', "-")),
            subject_kind: kind.word().to_owned(),
            subject: uid,
            subject_name: name.to_string(),
            actor: self.actor.0.clone(),
            message: format!("{} {name} was {what}", kind.noun()),
            payload: serde_json::json!({}),
        };
        events::append(tx, self.tenant, &event).await
    }
}

impl SystemDb {
    /// All objects of a kind in one tenant, for drivers.
    pub async fn all_objects<S: DeserializeOwned>(
        &self,
        tenant: Uuid,
        kind: ObjectKind,
    ) -> StoreResult<Vec<Stored<S>>> {
        let mut tx = self.read().await?;
        all_in(&mut tx, tenant, kind).await
    }
}

pub(crate) fn check_version(current: i64, expected: Option<i64>) -> StoreResult<()> {
    match expected {
        Some(expected) if expected != current => Err(StoreError::VersionMismatch { expected, current }),
        _ => Ok(()),
    }
}
