//! Who may do what: one table of roles; a new role is one row.

use serde::{Deserialize, Serialize};

use crate::word_enum;

word_enum! {
    /// One thing that may be allowed. Each endpoint names the one it needs.
    Permission {
        DeviceRead = "device.read",
        DeviceWrite = "device.write",
        /// Revoke and decommission.
        DeviceRevoke = "device.revoke",
        /// Exec, logs, restart.
        DeviceOperate = "device.operate",
        ClaimRead = "claim.read",
        ClaimWrite = "claim.write",
        ReleaseRead = "release.read",
        ReleaseWrite = "release.write",
        TrustRead = "trust.read",
        /// The keys that releases are signed with.
        TrustWrite = "trust.write",
        FleetRead = "fleet.read",
        /// Apps, placements, channels, pins, config.
        FleetWrite = "fleet.write",
        RolloutRead = "rollout.read",
        RolloutWrite = "rollout.write",
        /// Say yes or no where a rollout waits for an approval.
        RolloutApprove = "rollout.approve",
        PolicyRead = "policy.read",
        /// How devices heal, and what may be done to them from afar.
        PolicyWrite = "policy.write",
        EventRead = "event.read",
        /// Incidents, their evidence, and alerts.
        IncidentRead = "incident.read",
        /// Acknowledge and resolve; rules, silences and routes of alerts.
        IncidentWrite = "incident.write",
        UserRead = "user.read",
        UserWrite = "user.write",
        TenantRead = "tenant.read",
        /// Across tenants: platform admins only.
        PlatformWrite = "platform.write",
    }
}

/// A role: a name and what it allows.
#[derive(Clone, Copy, Debug)]
pub struct RoleRow {
    pub name: &'static str,
    pub says: &'static str,
    pub permissions: &'static [Permission],
}

use Permission as P;

const READ: &[P] = &[
    P::DeviceRead,
    P::ReleaseRead,
    P::FleetRead,
    P::RolloutRead,
    P::PolicyRead,
    P::EventRead,
    P::IncidentRead,
    P::TenantRead,
];

/// The table of roles. A new role is one row.
pub const ROLES: &[RoleRow] = &[
    RoleRow { name: "viewer", says: "sees devices, rollouts and events", permissions: READ },
    RoleRow {
        name: "operator",
        says: "runs the fleet: claims devices, rolls releases out",
        permissions: &[
            P::DeviceRead,
            P::DeviceWrite,
            P::DeviceOperate,
            P::ClaimRead,
            P::ClaimWrite,
            P::ReleaseRead,
            P::ReleaseWrite,
            P::TrustRead,
            P::FleetRead,
            P::FleetWrite,
            P::RolloutRead,
            P::RolloutWrite,
            P::RolloutApprove,
            P::PolicyRead,
            P::PolicyWrite,
            P::EventRead,
            P::IncidentRead,
            P::IncidentWrite,
            P::TenantRead,
        ],
    },
    RoleRow {
        name: "security-analyst",
        says: "watches trust: keys, claims, revocations",
        permissions: &[
            P::DeviceRead,
            P::DeviceRevoke,
            P::ClaimRead,
            P::ReleaseRead,
            P::TrustRead,
            P::TrustWrite,
            P::FleetRead,
            P::RolloutRead,
            P::PolicyRead,
            P::EventRead,
            P::IncidentRead,
            P::IncidentWrite,
            P::UserRead,
            P::TenantRead,
        ],
    },
    RoleRow { name: "finops", says: "sees the fleet and what it costs", permissions: READ },
    RoleRow {
        name: "tenant-admin",
        says: "everything within one tenant",
        permissions: &[
            P::DeviceRead,
            P::DeviceWrite,
            P::DeviceRevoke,
            P::DeviceOperate,
            P::ClaimRead,
            P::ClaimWrite,
            P::ReleaseRead,
            P::ReleaseWrite,
            P::TrustRead,
            P::TrustWrite,
            P::FleetRead,
            P::FleetWrite,
            P::RolloutRead,
            P::RolloutWrite,
            P::RolloutApprove,
            P::PolicyRead,
            P::PolicyWrite,
            P::EventRead,
            P::IncidentRead,
            P::IncidentWrite,
            P::UserRead,
            P::UserWrite,
            P::TenantRead,
        ],
    },
    RoleRow { name: "platform-admin", says: "everything, in every tenant", permissions: P::ALL },
];

/// The row of a role.
#[must_use]
pub fn role(name: &str) -> Option<&'static RoleRow> {
    ROLES.iter().find(|row| row.name == name)
}

/// The name of a role, known to exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", schema(value_type = String, example = "operator"))]
pub struct RoleName(String);

/// No such role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no role; use one of viewer, operator, security-analyst, finops, tenant-admin, platform-admin"
)]
pub struct UnknownRole(String);

impl RoleName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this role allows `permission`.
    #[must_use]
    pub fn allows(&self, permission: Permission) -> bool {
        role(&self.0).is_some_and(|row| row.permissions.contains(&permission))
    }
}

impl TryFrom<String> for RoleName {
    type Error = UnknownRole;
    fn try_from(name: String) -> Result<Self, UnknownRole> {
        if role(&name).is_some() { Ok(Self(name)) } else { Err(UnknownRole(name.chars().take(64).collect())) }
    }
}

impl std::str::FromStr for RoleName {
    type Err = UnknownRole;
    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Self::try_from(name.to_owned())
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_platform_admin_reaches_across_tenants() {
        for row in ROLES {
            assert_eq!(
                row.permissions.contains(&Permission::PlatformWrite),
                row.name == "platform-admin",
                "{}",
                row.name
            );
        }
        assert!(!"viewer".parse::<RoleName>().unwrap().allows(Permission::RolloutWrite));
        assert!("root".parse::<RoleName>().is_err());
    }
}
