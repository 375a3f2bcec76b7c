//! Who somebody is, and who may: tenants, users, sessions, tokens, claims, leases, and the two locks between tenants. On both engines.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod access;
mod claims;
mod engines;
mod leases;
mod row_security;
mod world;
