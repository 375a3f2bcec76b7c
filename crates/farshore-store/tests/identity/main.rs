//! Who somebody is, and who may: tenants, users, sessions, tokens, claims, leases, and the two locks between tenants. On both engines.

mod access;
mod claims;
mod engines;
mod leases;
mod row_security;
mod world;
