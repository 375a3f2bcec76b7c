//! Tenants, users, sessions, API tokens.

use farshore_domain::access::{Permission, RoleName};
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{NoStatus, Object};

/// `POST /api/login`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Login {
    pub email: String,
    pub password: String,
    /// The tenant to act in; the first one the user has a role in when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Name>,
    /// `true`: answer with a bearer token instead of a cookie (for the command line).
    #[serde(default)]
    pub bearer: bool,
}

/// `POST /api/login/link`: redeems a one-time link.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedeemLink {
    pub link: String,
    /// Sets the user's password; at least 12 characters. Needed unless the user has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default)]
    pub bearer: bool,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("email", &self.email).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for RedeemLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedeemLink").finish_non_exhaustive()
    }
}

/// Who one is: the answer to a login and to `GET /api/me`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    /// Absent for an API token that belongs to no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Uuid>,
    pub email: String,
    pub tenant: Name,
    pub tenant_id: Uuid,
    pub role: RoleName,
    pub permissions: Vec<Permission>,
    /// The tenants this user may act in; choose with the header `Farshore-Tenant`.
    pub tenants: Vec<Name>,
    pub expires_at: UnixMs,
    /// Only with `bearer: true`; shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantSpec {
    #[serde(default)]
    pub display_name: String,
}

pub type Tenant = Object<TenantSpec, NoStatus>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserSpec {
    pub email: String,
    pub role: RoleName,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_login_at: Option<UnixMs>,
    /// A one-time link to set the password; only in the answer to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_link: Option<String>,
}

pub type User = Object<UserSpec, UserStatus>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiTokenSpec {
    pub role: RoleName,
    /// Lifetime from creation, in seconds; at most 400 days.
    #[serde(default = "ninety_days")]
    pub lifetime_seconds: u64,
}

fn ninety_days() -> u64 {
    90 * 24 * 3600
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiTokenStatus {
    pub expires_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<UnixMs>,
    /// The token itself; only in the answer to the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

pub type ApiToken = Object<ApiTokenSpec, ApiTokenStatus>;

/// One row of the table of roles; `GET /api/roles`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    pub name: String,
    pub says: String,
    pub permissions: Vec<Permission>,
}
