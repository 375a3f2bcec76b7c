//! Releases and the keys they are signed with.
//!
//! A release is refused here exactly as a device would refuse it: same functions, same keys. The server's check spares
//! people a surprise; the device's check is the one that counts.

mod keys;
mod routes;

pub use keys::current_keys;
pub use routes::{ReleaseDocs, routes};
