//! Users of a tenant: a role binding, and the person it binds.
//!
//! A person is known to the whole installation by an e-mail address and may be bound in several tenants. What a tenant's
//! admin sees and changes is the binding; he can't reset the password of a person who was there already.

use farshore_domain::access::RoleName;
use farshore_domain::id::UserId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde_json::json;
use sqlx::types::Json;
use uuid::Uuid;

use crate::access::{Principal, SecretHash, TenantDb, address, stored_name, stored_role};
use crate::db::{Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::sessions::PLATFORM_ADMIN;
use crate::tenants::lock_installation;
use crate::{events, on};

/// A user as one tenant sees him.
#[derive(Clone, Debug)]
pub struct UserRow {
    pub uid: UserId,
    pub name: Name,
    pub email: String,
    pub role: RoleName,
    pub labels: Labels,
    pub resource_version: i64,
    pub created_at: UnixMs,
    pub last_login_at: Option<UnixMs>,
}

/// A user to be created.
#[derive(Clone, Debug)]
pub struct NewUser<'a> {
    pub name: &'a Name,
    pub email: &'a str,
    pub role: &'a RoleName,
    pub labels: &'a Labels,
    /// Of the one-time link by which a new person sets a password.
    pub link: SecretHash,
    pub link_expires_at: UnixMs,
}

/// A user who was created. `linked` is false for a person who was known already: he has, or was sent, what he logs in with.
#[derive(Clone, Debug)]
pub struct CreatedUser {
    pub user: UserRow,
    pub linked: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    uid: Uuid,
    name: String,
    email: String,
    role: String,
    labels: Json<Labels>,
    resource_version: i64,
    created_at: i64,
    last_login_at: Option<i64>,
}

impl Row {
    fn read(self) -> StoreResult<UserRow> {
        Ok(UserRow {
            uid: UserId(self.uid),
            name: stored_name(self.name)?,
            email: self.email,
            role: stored_role(self.role)?,
            labels: self.labels.0,
            resource_version: self.resource_version,
            created_at: UnixMs(self.created_at),
            last_login_at: self.last_login_at.map(UnixMs),
        })
    }
}

/// Nobody reaches for more than he has, in either direction: the role given, and the role taken away.
fn check_grant(by: &Principal, role: &RoleName) -> StoreResult<()> {
    if by.may_grant(role) {
        Ok(())
    } else {
        Err(StoreError::Refused(format!(
            "Your role {} does not include everything that {} allows, so it is not yours to give or take.",
            by.role().as_str(),
            role.as_str()
        )))
    }
}

impl TenantDb {
    /// A page of users, by name, after `after`.
    pub async fn users(&self, after: Option<&str>, limit: u32) -> StoreResult<Vec<UserRow>> {
        let mut tx = self.read().await?;
        let rows: Vec<Row> = on!(&mut tx, c => sqlx::query_as(
            "SELECT b.user_uid AS uid, b.name, u.email, b.role, b.labels, b.resource_version, b.created_at, u.last_login_at
             FROM role_bindings b JOIN users u ON u.uid = b.user_uid
             WHERE b.tenant = $1 AND b.name > $2 ORDER BY b.name LIMIT $3")
            .bind(self.tenant.0).bind(after.unwrap_or("")).bind(i64::from(limit)).fetch_all(c).await)?;
        rows.into_iter().map(Row::read).collect()
    }

    /// One user, by uid or name.
    pub async fn user(&self, id: &str) -> StoreResult<UserRow> {
        let mut tx = self.read().await?;
        self.user_in(&mut tx, id).await
    }

    async fn user_in(&self, tx: &mut Tx, id: &str) -> StoreResult<UserRow> {
        let (uid, name) = address(id);
        let row: Option<Row> = on!(tx, c => sqlx::query_as(
            "SELECT b.user_uid AS uid, b.name, u.email, b.role, b.labels, b.resource_version, b.created_at, u.last_login_at
             FROM role_bindings b JOIN users u ON u.uid = b.user_uid
             WHERE b.tenant = $1 AND (b.user_uid = $2 OR b.name = $3)")
            .bind(self.tenant.0).bind(uid).bind(name).fetch_optional(c).await)?;
        row.ok_or(StoreError::NotFound("user"))?.read()
    }

    /// Creates a user, with his event.
    pub async fn create_user(
        &self,
        by: &Principal,
        new: &NewUser<'_>,
        now: UnixMs,
    ) -> StoreResult<CreatedUser> {
        check_grant(by, new.role)?;
        let mut tx = self.begin().await?;
        let uid = UserId(Uuid::now_v7());
        let inserted = on!(&mut tx, c => sqlx::query(
            "INSERT INTO users (uid, email, created_at) VALUES ($1, $2, $3) ON CONFLICT (email) DO NOTHING")
            .bind(uid.0).bind(new.email).bind(now.0).execute(c).await.map(affected))?;
        let linked = inserted == 1;
        let (uid,): (Uuid,) = on!(&mut tx, c => sqlx::query_as("SELECT uid FROM users WHERE email = $1")
            .bind(new.email).fetch_one(c).await)?;
        let bound = on!(&mut tx, c => sqlx::query(
            "INSERT INTO role_bindings (tenant, user_uid, name, role, labels, created_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING")
            .bind(self.tenant.0).bind(uid).bind(new.name.as_str()).bind(new.role.as_str()).bind(Json(new.labels))
            .bind(now.0).execute(c).await.map(affected))?;
        if bound == 0 {
            return Err(StoreError::Conflict(format!(
                "There is a user {:?} or with the address {:?} already.",
                new.name.as_str(),
                new.email
            )));
        }
        // A link sets a password, so only somebody who was unknown until now gets one: else an admin of one tenant could
        // take over a person of another.
        if linked {
            on!(&mut tx, c => sqlx::query("INSERT INTO login_links (hash, user_uid, expires_at) VALUES ($1, $2, $3)")
                .bind(&new.link.0[..]).bind(uid).bind(new.link_expires_at.0).execute(c).await.map(affected))?;
        }
        let event = self.event(
            "user.created",
            ("User", uid, new.name.as_str()),
            format!("user {} was created as {}", new.name, new.role.as_str()),
            json!({"role": new.role.as_str()}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        let user = self.user_in(&mut tx, &uid.to_string()).await?;
        tx.commit().await?;
        Ok(CreatedUser { user, linked })
    }

    /// Gives a user another role or other labels, with the event. The last admin stays one.
    pub async fn change_user(
        &self,
        by: &Principal,
        id: &str,
        role: &RoleName,
        labels: &Labels,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<UserRow> {
        check_grant(by, role)?;
        let mut tx = self.begin_for_users(by).await?;
        let old = self.user_in(&mut tx, id).await?;
        check_grant(by, &old.role)?;
        check_version(old.resource_version, expected)?;
        if old.role != *role {
            self.keep_an_admin(&mut tx, &old, Some(role)).await?;
        }
        on!(&mut tx, c => sqlx::query(
            "UPDATE role_bindings SET role = $3, labels = $4, resource_version = resource_version + 1
             WHERE tenant = $1 AND user_uid = $2")
            .bind(self.tenant.0).bind(old.uid.0).bind(role.as_str()).bind(Json(labels)).execute(c).await.map(affected))?;
        let event = self.event(
            "user.changed",
            ("User", old.uid.0, old.name.as_str()),
            format!("user {} was {} and is {}", old.name, old.role.as_str(), role.as_str()),
            json!({"role": role.as_str(), "before": old.role.as_str()}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        let user = self.user_in(&mut tx, &old.uid.to_string()).await?;
        tx.commit().await?;
        Ok(user)
    }

    /// Takes a user's role in this tenant away, and his sessions in it, with the event. The last admin stays.
    pub async fn delete_user(
        &self,
        by: &Principal,
        id: &str,
        expected: Option<i64>,
        now: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin_for_users(by).await?;
        let old = self.user_in(&mut tx, id).await?;
        check_grant(by, &old.role)?;
        check_version(old.resource_version, expected)?;
        self.keep_an_admin(&mut tx, &old, None).await?;
        on!(&mut tx, c => sqlx::query("DELETE FROM role_bindings WHERE tenant = $1 AND user_uid = $2")
            .bind(self.tenant.0).bind(old.uid.0).execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query(
            "UPDATE sessions SET revoked_at = $3 WHERE tenant = $1 AND user_uid = $2 AND revoked_at IS NULL")
            .bind(self.tenant.0).bind(old.uid.0).bind(now.0).execute(c).await.map(affected))?;
        let event = self.event(
            "user.deleted",
            ("User", old.uid.0, old.name.as_str()),
            format!("user {} was deleted", old.name),
            json!({}),
            now,
        );
        events::append(&mut tx, self.tenant, &event).await?;
        tx.commit().await
    }

    /// Whether a platform admin is left can only be seen across tenants, and only platform admins can change it.
    async fn begin_for_users(&self, by: &Principal) -> StoreResult<Tx> {
        let scope =
            if by.role().as_str() == PLATFORM_ADMIN { "*".to_owned() } else { self.tenant.to_string() };
        self.store.begin(&scope, true).await
    }

    /// Refuses to leave the tenant without a user who may make users, or the installation without a platform admin.
    async fn keep_an_admin(&self, tx: &mut Tx, old: &UserRow, becomes: Option<&RoleName>) -> StoreResult<()> {
        const MAKES_USERS: farshore_domain::access::Permission =
            farshore_domain::access::Permission::UserWrite;
        // One at a time, so that two admins can't remove each other in the same moment.
        lock_installation(tx).await?;
        if old.role.as_str() == PLATFORM_ADMIN && becomes.is_none_or(|role| role.as_str() != PLATFORM_ADMIN) {
            let (others,): (i64,) = on!(&mut *tx, c => sqlx::query_as(
                "SELECT COUNT(*) FROM role_bindings WHERE role = $1 AND NOT (tenant = $2 AND user_uid = $3)")
                .bind(PLATFORM_ADMIN).bind(self.tenant.0).bind(old.uid.0).fetch_one(c).await)?;
            if others == 0 {
                return Err(StoreError::Conflict(format!(
                    "{} is the last platform admin. Make another one first.",
                    old.name
                )));
            }
        }
        if old.role.allows(MAKES_USERS) && !becomes.is_some_and(|role| role.allows(MAKES_USERS)) {
            let roles: Vec<(String,)> = on!(&mut *tx, c => sqlx::query_as(
                "SELECT role FROM role_bindings WHERE tenant = $1 AND user_uid <> $2")
                .bind(self.tenant.0).bind(old.uid.0).fetch_all(c).await)?;
            let another = roles
                .into_iter()
                .any(|(role,)| RoleName::try_from(role).is_ok_and(|role| role.allows(MAKES_USERS)));
            if !another {
                return Err(StoreError::Conflict(format!(
                    "{} is the last admin of this tenant. Make another one first.",
                    old.name
                )));
            }
        }
        Ok(())
    }
}

pub(crate) fn check_version(current: i64, expected: Option<i64>) -> StoreResult<()> {
    match expected {
        Some(expected) if expected != current => Err(StoreError::VersionMismatch { expected, current }),
        _ => Ok(()),
    }
}
