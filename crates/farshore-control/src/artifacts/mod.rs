//! Artifacts: bytes with a digest, uploaded in pieces, downloaded in ranges.

pub mod folder;
mod range;
mod routes;
mod serve;
mod uploads;

pub use folder::ArtifactFolder;
pub use routes::{ArtifactDocs, device_port_routes, routes};
pub use serve::download;
pub use uploads::Uploads;
