//! What runs where: apps, placements, channels, pins, config, policies; and the driver that makes each device's desired state of them.

mod driver;
pub(crate) mod objects;
mod policies;
mod preview;
mod routes;
mod signals;
pub mod signed;
pub mod snapshot;
mod twins;

pub use driver::{Fleet, spawn};
pub(crate) use objects::check_envelope;
pub(crate) use policies::merged;
pub use preview::PreviewDocs;
pub use routes::{FleetDocs, routes};
pub(crate) use snapshot::Snapshot;
