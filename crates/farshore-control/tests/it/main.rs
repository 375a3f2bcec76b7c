//! The control plane over real TLS, on both engines. A file for each noun, as the routes have them.
//!
//! SQLite always; PostgreSQL too where `FARSHORE_TEST_POSTGRES` names a server (`cargo xtask test` starts one).

mod access;
mod claims;
mod harness;
mod server;
