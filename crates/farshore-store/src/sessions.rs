//! Finding out who somebody is: sessions, one-time links, and how often a login may be tried.

use farshore_domain::access::RoleName;
use farshore_domain::id::{TenantId, UserId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::{Driver, Principal, SecretHash, SystemDb, Who, stored_name};
use crate::db::{Store, Tx, affected};
use crate::error::{StoreError, StoreResult};
use crate::on;

/// The role that reaches every tenant.
pub(crate) const PLATFORM_ADMIN: &str = "platform-admin";

/// What a login looks at.
#[derive(Clone, Debug)]
pub struct LoginUser {
    pub uid: UserId,
    pub email: String,
    /// A PHC string; absent until the user has set a password.
    pub password_hash: Option<String>,
}

/// A session to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewSession {
    pub hash: SecretHash,
    pub expires_at: UnixMs,
}

/// How often something may be tried: the first `free` failures within `window_ms` cost nothing, each later one doubles
/// the wait from `base_ms` up to `max_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    pub free: i64,
    pub base_ms: i64,
    pub max_ms: i64,
    pub window_ms: i64,
}

impl Throttle {
    /// How long to wait after this many failures.
    #[must_use]
    pub fn wait_ms(&self, failures: i64) -> i64 {
        let doublings = failures - self.free - 1;
        if doublings < 0 {
            return 0;
        }
        let factor = 1_i64.checked_shl(u32::try_from(doublings.min(40)).unwrap_or(40)).unwrap_or(i64::MAX);
        self.base_ms.saturating_mul(factor).min(self.max_ms)
    }
}

#[derive(sqlx::FromRow)]
struct SessionRow {
    user_uid: Uuid,
    email: String,
    expires_at: i64,
    session_tenant: Uuid,
    tenant: Uuid,
    tenant_name: String,
    role: String,
}

impl Store {
    /// Who carries this session: a user who acts in the tenant he names, or else in the session's. `None`: no such session, or it
    /// has ended. [`StoreError::NotFound`]: he may not act in that tenant, or there is none.
    pub async fn authenticate_session(
        &self,
        hash: &SecretHash,
        tenant: Option<&Name>,
        now: UnixMs,
    ) -> StoreResult<Option<Principal>> {
        let system = self.system(Driver::Authenticator);
        let mut tx = system.read().await?;
        let rows: Vec<SessionRow> = on!(&mut tx, c => sqlx::query_as(
            "SELECT s.user_uid, u.email, s.expires_at, s.tenant AS session_tenant, b.tenant, t.name AS tenant_name, b.role
             FROM sessions s
             JOIN users u ON u.uid = s.user_uid
             JOIN role_bindings b ON b.user_uid = s.user_uid
             JOIN tenants t ON t.uid = b.tenant
             WHERE s.hash = $1 AND s.revoked_at IS NULL AND s.expires_at > $2")
            .bind(&hash.0[..]).bind(now.0).fetch_all(c).await)?;
        let Some(first) = rows.first() else { return Ok(None) };
        let who = Who::User { uid: UserId(first.user_uid), email: first.email.clone() };
        let expires_at = UnixMs(first.expires_at);
        let platform = rows.iter().any(|row| row.role == PLATFORM_ADMIN);
        let binding = rows.iter().find(|row| match tenant {
            Some(name) => row.tenant_name == name.as_str(),
            None => row.tenant == row.session_tenant,
        });
        let (uid, name, role) = match binding {
            Some(row) => {
                let role = if platform { PLATFORM_ADMIN.to_owned() } else { row.role.clone() };
                (TenantId(row.tenant), stored_name(row.tenant_name.clone())?, role)
            }
            None if platform => {
                let row = match tenant {
                    Some(name) => system.tenant_in(&mut tx, name).await?,
                    None => None,
                };
                let row = row.ok_or(StoreError::NotFound("tenant"))?;
                (row.uid, row.name, PLATFORM_ADMIN.to_owned())
            }
            None if tenant.is_some() => return Err(StoreError::NotFound("tenant")),
            None => return Ok(None),
        };
        // A role that this version does not know allows nothing.
        let Ok(role) = RoleName::try_from(role) else { return Ok(None) };
        Ok(Some(Principal { who, tenant: uid, tenant_name: name, role, expires_at }))
    }
}

impl SystemDb {
    /// The user with this address.
    pub async fn login_user(&self, email: &str) -> StoreResult<Option<LoginUser>> {
        let mut tx = self.read().await?;
        let row: Option<(Uuid, String, Option<String>)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT uid, email, password_hash FROM users WHERE email = $1").bind(email).fetch_optional(c).await)?;
        Ok(row.map(|(uid, email, password_hash)| LoginUser { uid: UserId(uid), email, password_hash }))
    }

    /// Opens a session in the tenant named, or in the first one the user has a role in. `None`: he has none there.
    pub async fn create_session(
        &self,
        user: UserId,
        tenant: Option<&Name>,
        session: &NewSession,
        now: UnixMs,
    ) -> StoreResult<Option<()>> {
        let mut tx = self.begin().await?;
        if self.open_session(&mut tx, user, tenant, session, now).await?.is_none() {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some(()))
    }

    async fn open_session(
        &self,
        tx: &mut Tx,
        user: UserId,
        tenant: Option<&Name>,
        session: &NewSession,
        now: UnixMs,
    ) -> StoreResult<Option<()>> {
        let bindings: Vec<(Uuid, String, String)> = on!(tx, c => sqlx::query_as(
            "SELECT b.tenant, t.name, b.role FROM role_bindings b JOIN tenants t ON t.uid = b.tenant
             WHERE b.user_uid = $1 ORDER BY b.created_at, t.name").bind(user.0).fetch_all(c).await)?;
        let found = bindings.iter().find(|(_, name, _)| tenant.is_none_or(|wanted| wanted.as_str() == name));
        let uid = match (found, tenant) {
            (Some((uid, ..)), _) => *uid,
            (None, Some(name)) if bindings.iter().any(|(_, _, role)| role == PLATFORM_ADMIN) => {
                match self.tenant_in(tx, name).await? {
                    Some(row) => row.uid.0,
                    None => return Ok(None),
                }
            }
            (None, _) => return Ok(None),
        };
        on!(tx, c => sqlx::query(
            "INSERT INTO sessions (hash, user_uid, tenant, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(&session.hash.0[..]).bind(user.0).bind(uid).bind(now.0).bind(session.expires_at.0)
            .execute(c).await.map(affected))?;
        on!(tx, c => sqlx::query("UPDATE users SET last_login_at = $2 WHERE uid = $1")
            .bind(user.0).bind(now.0).execute(c).await.map(affected))?;
        Ok(Some(()))
    }

    /// Ends a session.
    pub async fn revoke_session(&self, hash: &SecretHash, now: UnixMs) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query("UPDATE sessions SET revoked_at = $2 WHERE hash = $1 AND revoked_at IS NULL")
            .bind(&hash.0[..]).bind(now.0).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// Stores a one-time link.
    pub async fn create_login_link(
        &self,
        user: UserId,
        hash: &SecretHash,
        expires_at: UnixMs,
    ) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query("INSERT INTO login_links (hash, user_uid, expires_at) VALUES ($1, $2, $3)")
            .bind(&hash.0[..]).bind(user.0).bind(expires_at.0).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// Redeems a one-time link, exactly once: opens a session and, when given, sets the password, which ends the user's other sessions.
    /// `Ok(None)`: no such link, or it was used or has ended. [`StoreError::Conflict`]: the user needs a password; the link stays good.
    pub async fn redeem_login_link(
        &self,
        link: &SecretHash,
        password_hash: Option<&str>,
        session: &NewSession,
        now: UnixMs,
    ) -> StoreResult<Option<UserId>> {
        let mut tx = self.begin().await?;
        let row: Option<(Uuid,)> = on!(&mut tx, c => sqlx::query_as(
            "UPDATE login_links SET used_at = $2 WHERE hash = $1 AND used_at IS NULL AND expires_at > $2 RETURNING user_uid")
            .bind(&link.0[..]).bind(now.0).fetch_optional(c).await)?;
        let Some((user,)) = row else { return Ok(None) };
        match password_hash {
            Some(hash) => {
                on!(&mut tx, c => sqlx::query("UPDATE users SET password_hash = $2 WHERE uid = $1")
                    .bind(user).bind(hash).execute(c).await.map(affected))?;
                on!(&mut tx, c => sqlx::query(
                    "UPDATE sessions SET revoked_at = $2 WHERE user_uid = $1 AND revoked_at IS NULL")
                    .bind(user).bind(now.0).execute(c).await.map(affected))?;
            }
            None => {
                let (has,): (Option<String>,) = on!(&mut tx, c => sqlx::query_as("SELECT password_hash FROM users WHERE uid = $1")
                        .bind(user).fetch_one(c).await)?;
                if has.is_none() {
                    return Err(StoreError::Conflict(
                        "This user has no password yet: send one along.".to_owned(),
                    ));
                }
            }
        }
        if self.open_session(&mut tx, UserId(user), None, session, now).await?.is_none() {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some(UserId(user)))
    }

    /// Counts an attempt **before** it is made, so that attempts side by side can't outrun the count. `Err(until)` inside: not now.
    pub async fn begin_attempt(
        &self,
        subjects: &[(&str, Throttle)],
        now: UnixMs,
    ) -> StoreResult<Result<(), UnixMs>> {
        let mut tx = self.begin().await?;
        let mut blocked: Option<i64> = None;
        for (subject, throttle) in subjects {
            // Counts as a failure until the caller says otherwise; the row is locked until the end of the transaction.
            let (failures, blocked_until): (i64, i64) = on!(&mut tx, c => sqlx::query_as(
                "INSERT INTO login_attempts (subject, failures, first_at, blocked_until) VALUES ($1, 1, $2, 0)
                 ON CONFLICT (subject) DO UPDATE SET
                     failures = CASE WHEN login_attempts.first_at < $3 THEN 1 ELSE login_attempts.failures + 1 END,
                     first_at = CASE WHEN login_attempts.first_at < $3 THEN $2 ELSE login_attempts.first_at END
                 RETURNING CAST(failures AS BIGINT), blocked_until")
                .bind(*subject).bind(now.0).bind(now.0.saturating_sub(throttle.window_ms)).fetch_one(c).await)?;
            if blocked_until > now.0 {
                blocked = Some(blocked.unwrap_or(0).max(blocked_until));
            } else {
                // Nothing to wait for is the past, also for an attempt that read the clock a moment before this one.
                let wait_ms = throttle.wait_ms(failures);
                let until = if wait_ms == 0 { 0 } else { now.0.saturating_add(wait_ms) };
                on!(&mut tx, c => sqlx::query("UPDATE login_attempts SET blocked_until = $2 WHERE subject = $1")
                    .bind(*subject).bind(until).execute(c).await.map(affected))?;
            }
        }
        if let Some(until) = blocked {
            // What was refused does not count: the wait does not grow by asking.
            return Ok(Err(UnixMs(until)));
        }
        tx.commit().await?;
        Ok(Ok(()))
    }

    /// The attempt succeeded: forgets the failures of `email`, and takes the one that was counted for `source` back.
    pub async fn attempt_succeeded(&self, email: &str, source: &str) -> StoreResult<()> {
        let mut tx = self.begin().await?;
        on!(&mut tx, c => sqlx::query("DELETE FROM login_attempts WHERE subject = $1")
            .bind(email).execute(c).await.map(affected))?;
        on!(&mut tx, c => sqlx::query(
            "UPDATE login_attempts SET failures = failures - 1, blocked_until = 0 WHERE subject = $1 AND failures > 0")
            .bind(source).execute(c).await.map(affected))?;
        tx.commit().await
    }

    /// Removes what has ended: sessions, links, attempts, answers to repeated requests, certificates long expired.
    pub async fn forget_ended(&self, now: UnixMs) -> StoreResult<u64> {
        const DAY: i64 = farshore_domain::time::DAY_MS;
        let mut removed = 0;
        for (sql, before) in [
            ("DELETE FROM sessions WHERE expires_at < $1", now.0 - DAY),
            ("DELETE FROM login_links WHERE expires_at < $1", now.0 - DAY),
            ("DELETE FROM login_attempts WHERE first_at < $1 AND blocked_until < $1", now.0 - DAY),
            ("DELETE FROM idempotency_keys WHERE created_at < $1", now.0 - DAY),
            ("DELETE FROM certificates WHERE expires_at < $1", now.0 - 30 * DAY),
        ] {
            let mut tx = self.begin().await?;
            removed += on!(&mut tx, c => sqlx::query(sql).bind(before).execute(c).await.map(affected))?;
            tx.commit().await?;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_after_the_free_failures_and_stops_growing() {
        let throttle = Throttle { free: 3, base_ms: 1_000, max_ms: 60_000, window_ms: 0 };
        let waits: Vec<i64> = (0..=6).map(|failures| throttle.wait_ms(failures)).collect();
        assert_eq!(waits, [0, 0, 0, 0, 1_000, 2_000, 4_000]);
        assert_eq!(throttle.wait_ms(i64::MAX), 60_000);
    }
}
