//! Who asks, and the only way to a database handle.

use farshore_domain::access::{self, Permission, RoleName};
use farshore_domain::id::{ApiTokenId, DeviceId, TenantId, UserId};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::db::{Store, Tx};
use crate::error::{StoreError, StoreResult};
use crate::events::NewEvent;

/// Somebody whose identity was proved. Only this crate's `authenticate_…` functions make one.
#[derive(Clone, Debug)]
pub struct Principal {
    pub(crate) who: Who,
    pub(crate) tenant: TenantId,
    pub(crate) tenant_name: Name,
    pub(crate) role: RoleName,
    pub(crate) expires_at: UnixMs,
}

#[derive(Clone, Debug)]
pub(crate) enum Who {
    User { uid: UserId, email: String },
    ApiToken { uid: ApiTokenId, name: Name },
}

/// Who did something, as events name it: `user:<email>`, `token:<name>`, `device:<name>`, `driver:<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub String);

impl Principal {
    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    #[must_use]
    pub const fn tenant_name(&self) -> &Name {
        &self.tenant_name
    }

    #[must_use]
    pub const fn role(&self) -> &RoleName {
        &self.role
    }

    /// When the session or token ends.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMs {
        self.expires_at
    }

    /// The user, unless an API token asks.
    #[must_use]
    pub fn user(&self) -> Option<(UserId, &str)> {
        match &self.who {
            Who::User { uid, email } => Some((*uid, email)),
            Who::ApiToken { .. } => None,
        }
    }

    #[must_use]
    pub fn actor(&self) -> Actor {
        match &self.who {
            Who::User { email, .. } => Actor(format!("user:{email}")),
            Who::ApiToken { name, .. } => Actor(format!("token:{name}")),
        }
    }

    /// Nobody hands out what he does not have: whether every permission of `role` is also this principal's.
    #[must_use]
    pub fn may_grant(&self, role: &RoleName) -> bool {
        access::role(role.as_str())
            .is_some_and(|row| row.permissions.iter().all(|permission| self.role.allows(*permission)))
    }

    /// The API token, unless a user asks.
    #[must_use]
    pub fn api_token(&self) -> Option<(ApiTokenId, &Name)> {
        match &self.who {
            Who::User { .. } => None,
            Who::ApiToken { uid, name } => Some((*uid, name)),
        }
    }
}

/// The hash of a secret that somebody carries: SHA-256 of its text. Secrets themselves are never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

/// A part of the control plane that works by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Finds out who somebody is: sessions, tokens, certificates.
    Authenticator,
    /// First start, certificate authority, tenants.
    Platform,
    DevicePort,
    Rollouts,
    Assignments,
    Sequencer,
    Retention,
    Presence,
    Alerts,
    Hours,
    Sinks,
}

impl Driver {
    #[must_use]
    pub fn actor(self) -> Actor {
        let name = match self {
            Self::Authenticator => "authenticator",
            Self::Platform => "platform",
            Self::DevicePort => "device-port",
            Self::Rollouts => "rollouts",
            Self::Assignments => "assignments",
            Self::Sequencer => "sequencer",
            Self::Retention => "retention",
            Self::Presence => "presence",
            Self::Alerts => "alerts",
            Self::Hours => "hours",
            Self::Sinks => "sinks",
        };
        Actor(format!("driver:{name}"))
    }
}

/// One tenant's data. Statements on it name the tenant; on PostgreSQL its transactions see nothing else.
#[derive(Clone, Debug)]
pub struct TenantDb {
    pub(crate) store: Store,
    pub(crate) tenant: TenantId,
    pub(crate) actor: Actor,
}

/// All tenants' data, for drivers.
#[derive(Clone, Debug)]
pub struct SystemDb {
    pub(crate) store: Store,
    pub(crate) actor: Actor,
}

impl Store {
    /// The only way for a request to a tenant's data: a proved identity that has the permission the endpoint names.
    pub fn authorize(&self, principal: &Principal, permission: Permission) -> StoreResult<TenantDb> {
        if !principal.role.allows(permission) {
            return Err(StoreError::Denied(permission));
        }
        Ok(TenantDb { store: self.clone(), tenant: principal.tenant, actor: principal.actor() })
    }

    /// A device's way to its tenant's data; the caller has checked its certificate against [`SystemDb`].
    #[must_use]
    pub fn authorize_device(&self, tenant: TenantId, device: DeviceId) -> TenantDb {
        TenantDb { store: self.clone(), tenant, actor: Actor(format!("device:{device}")) }
    }

    /// For what works by itself.
    #[must_use]
    pub fn system(&self, driver: Driver) -> SystemDb {
        SystemDb { store: self.clone(), actor: driver.actor() }
    }
}

impl TenantDb {
    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// A transaction that may write.
    pub async fn begin(&self) -> StoreResult<Tx> {
        self.store.begin(&self.tenant.to_string(), true).await
    }

    /// A transaction that only reads.
    pub async fn read(&self) -> StoreResult<Tx> {
        self.store.begin(&self.tenant.to_string(), false).await
    }

    /// An event by this handle's actor.
    pub(crate) fn event(
        &self,
        kind: &str,
        (subject_kind, subject, subject_name): (&str, Uuid, &str),
        message: String,
        payload: serde_json::Value,
        now: UnixMs,
    ) -> NewEvent {
        NewEvent {
            uid: Uuid::now_v7(),
            at: now,
            kind: kind.to_owned(),
            subject_kind: subject_kind.to_owned(),
            subject,
            subject_name: subject_name.to_owned(),
            actor: self.actor.0.clone(),
            message,
            payload,
        }
    }
}

/// A name read from the database.
pub(crate) fn stored_name(text: String) -> StoreResult<Name> {
    Name::new(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// A role read from the database.
pub(crate) fn stored_role(text: String) -> StoreResult<RoleName> {
    RoleName::try_from(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// The two addresses of a row: its uid, or its name.
pub(crate) fn address(id: &str) -> (Uuid, &str) {
    (Uuid::parse_str(id).unwrap_or(Uuid::nil()), id)
}

impl SystemDb {
    /// One tenant's data, on behalf of the same driver.
    #[must_use]
    pub fn tenant(&self, tenant: TenantId) -> TenantDb {
        TenantDb { store: self.store.clone(), tenant, actor: self.actor.clone() }
    }

    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// A transaction that may write.
    pub async fn begin(&self) -> StoreResult<Tx> {
        self.store.begin("*", true).await
    }

    /// A transaction that only reads.
    pub async fn read(&self) -> StoreResult<Tx> {
        self.store.begin("*", false).await
    }
}
