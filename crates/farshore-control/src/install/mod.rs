//! What a new device fetches before it has an agent: a script, and the agent's packages.
//!
//! Nothing here is secret, and nothing here is trusted by its connection: the operator's line for the device carries the digest of the script,
//! and the script carries the digests of the packages.

mod packages;
mod routes;

pub use packages::Packages;
pub(crate) use routes::line;
pub use routes::{InstallDocs, routes};
