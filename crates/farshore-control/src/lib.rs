//! The control plane: HTTP API, device port, drivers.
//!
//! A folder for each noun (`devices/`, `rollouts/`, …) with its `routes.rs`, and a `driver.rs` where something works by itself.
//! [`route`] holds the one table that the router, the authorization matrix and the OpenAPI document are made from; a request gets its
//! database handle from there, after the permission check, and from nowhere else. [`app`] is what everything shares.
//!
//! Adding an endpoint: a row in the noun's `routes()`, with the permission it needs and its `#[utoipa::path]`; its types in `farshore-api`;
//! `cargo xtask gen`; a row in `tests/matrix.rs` (which fails without one).

pub mod access;
pub mod active_ops;
pub mod alerts;
pub mod app;
pub mod artifacts;
pub mod authority;
pub mod channel;
pub mod claims;
pub mod clock;
pub mod devices;
pub mod documents;
pub mod error;
pub mod events;
pub mod extract;
pub mod fleet;
pub mod incidents;
pub mod install;
pub mod metrics;
pub mod openapi;
pub mod operations;
pub mod pipelines;
pub mod releases;
pub mod rollouts;
pub mod route;
pub mod series;
pub mod server;
pub mod settings;
pub mod sinks;
pub mod sync;
