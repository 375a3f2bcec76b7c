//! The sync of gateways: the keys that their batches are sealed for, the batches as they come in, and how each gateway stands.

mod body;
mod device_port;
mod keys;
mod read;
mod routes;

use std::time::Duration;

pub use device_port::{SyncPortDocs, device_port_routes};
pub use routes::{SyncDocs, routes};

use crate::series::Room;

/// So many batches are unpacked at once in all: what a batch unpacks to may be many times its bytes.
const UNPACKED: usize = 6;
/// Of these, so many of one tenant.
const UNPACKED_OF_TENANT: usize = 4;
/// How long a batch that has arrived waits for its turn: sending it again costs its gateway more.
const TURN: Duration = Duration::from_secs(20);

/// Room for batches that are under way.
#[derive(Debug)]
pub struct Sync {
    bodies: body::Bodies,
    unpacking: Room,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            bodies: body::Bodies::default(),
            unpacking: Room::new("batches", UNPACKED, UNPACKED_OF_TENANT).patient(TURN),
        }
    }
}
