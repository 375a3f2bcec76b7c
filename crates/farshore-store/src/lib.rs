//! Control-plane persistence: each SQL statement written once for SQLite and PostgreSQL.
//!
//! The database is reached only through [`Store::authorize`] (a tenant's [`TenantDb`], for a [`Principal`] that has the
//! permission) or [`Store::system`] (a [`SystemDb`] for drivers and for finding out who somebody is). A file for each
//! noun adds its statements to one of the two. Each statement names its tenant; on PostgreSQL row-level security is the second lock.
//!
//! Writing a statement: `on!(tx, c => sqlx::query("… $1 …").bind(x).execute(c).await.map(affected))`. Parameters are `$1`, JSON goes
//! through `sqlx::types::Json`, ids are bound as `Uuid`, times as `i64`. What differs between the engines is listed in [`db`].
//!
//! Adding a table: a new pair of migrations (expand first, contract a release later), the tenant in the primary key and
//! in each reference, the row-security policy, a test in `tests/`.

pub mod access;
pub mod admissions;
pub mod alert_deliveries;
pub mod alerts;
pub mod artifacts;
pub mod authorities;
pub mod channel;
pub mod claim_tokens;
pub mod claims;
mod condition;
pub mod db;
pub mod device_apps;
pub mod device_list;
pub mod devices;
pub mod document_collections;
pub mod document_conflicts;
pub mod documents;
pub mod error;
pub mod events;
pub mod fleet;
pub mod gateway_keys;
pub mod holds;
pub mod idempotency;
pub mod incidents;
pub mod ingest_keys;
pub mod keys;
pub mod leases;
pub mod metrics;
pub mod objects;
pub mod operations;
pub mod past;
pub mod policies;
pub mod presence;
pub mod releases;
pub mod rollouts;
pub mod series;
pub mod series_hours;
pub mod sessions;
mod set;
pub mod signals;
pub mod sinks;
pub mod sync;
pub mod tenants;
#[cfg(feature = "test-util")]
pub mod test_util;
pub mod tokens;
pub mod users;

pub use access::{Actor, Driver, Principal, SecretHash, SystemDb, TenantDb};
pub use db::{Store, StoreOptions};
pub use error::{StoreError, StoreResult};
