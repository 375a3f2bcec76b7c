//! How devices come in: claim tokens and rules on the API port; claim, renewal and the guard on the device port.

mod device_port;
mod gateway_keys;
mod peer;
mod rules;
mod tokens;

pub use device_port::{DevicePortDocs, device_port_routes};
pub(crate) use gateway_keys::gateway_peer;
pub use peer::{DevicePeer, PeerCertificate, RenewingPeer, Standings};
pub(crate) use peer::{device_peer, renewing_peer};
pub use tokens::ClaimDocs;

use crate::route::Route;

/// The noun's rows on the API port.
#[must_use]
pub fn routes() -> Vec<Route> {
    [tokens::routes(), rules::routes(), gateway_keys::routes()].into_iter().flatten().collect()
}
