//! Packets that are large, of all clients together: no more of them arrive at once than there is room for. Others wait in their sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Smaller ones need no room.
const LARGE: usize = 32 * 1024;
const ROOM_KB: usize = 16 * 1024;
/// For a packet to arrive, once it has its room.
const PATIENCE: Duration = Duration::from_secs(60);

/// The room that there is.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// Room for one packet.
#[derive(Debug)]
pub(super) struct Held {
    _permit: OwnedSemaphorePermit,
    pub(super) until: Instant,
}

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KB)))
    }
}

impl Room {
    pub(super) const fn is_large(bytes: usize) -> bool {
        bytes > LARGE
    }

    /// Waits for room for a packet.
    pub(super) async fn get(&self, bytes: usize) -> Option<Held> {
        let kilobytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).acquire_many_owned(kilobytes).await.ok()?;
        Some(Held { _permit: permit, until: Instant::now() + PATIENCE })
    }
}
