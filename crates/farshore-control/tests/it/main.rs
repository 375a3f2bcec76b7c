//! The control plane over real TLS, on both engines. A file for each noun, as the routes have them.
//!
//! SQLite always; PostgreSQL too where `FARSHORE_TEST_POSTGRES` names a server (`cargo xtask test` starts one).
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where something is not as it should be"
)]

mod access;
mod alerts;
mod bad_input;
mod channel;
mod claims;
mod devices;
mod documents;
mod events;
mod harness;
mod hours;
mod incidents;
mod install;
mod mail;
mod matrix;
mod objects;
mod operations;
mod pipelines;
mod policies;
mod rollouts;
mod server;
mod sinks;
mod sync;
mod wire;
