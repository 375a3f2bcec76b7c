//! The sync of gateways: the keys that their batches are sealed for, the batches as they come in, and how each gateway stands.

mod device_port;
mod keys;
mod read;
mod routes;

use std::sync::Arc;

use tokio::sync::Semaphore;

pub use device_port::{SyncPortDocs, device_port_routes};
pub use routes::{SyncDocs, routes};

/// Kilobytes of batches in memory at once. A batch is counted eight times: its points take more room than its bytes.
const ROOM_KB: usize = 512 * 1024;

/// Room for batches that are under way.
#[derive(Debug)]
pub struct Sync {
    room: Arc<Semaphore>,
}

impl Default for Sync {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM_KB)) }
    }
}
