//! Sinks: the readings of gateways go on to other systems, each in its own time.
//!
//! One driver, under a lease, so that one replica does it. What a sink has handed over is on record stream by stream, and is written
//! after its receiver has said yes: at least once, in order within a stream. Receivers tell a repetition by its id.

mod driver;
mod files;
mod otlp;
mod points;
mod push;
mod routes;

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

pub use driver::spawn;
pub use routes::{SinkDocs, routes};

/// Memory for batches that are unpacked, for all sinks together, in MiB.
const MEMORY: u32 = 256;
/// So many are unpacked at a time: what they take is known only afterwards.
const UNPACKING: usize = 4;

/// The driver's ear, and the memory that sinks share.
#[derive(Debug)]
pub struct Sinks {
    wake: Notify,
    memory: Arc<Semaphore>,
    unpacking: Semaphore,
}

impl Default for Sinks {
    fn default() -> Self {
        Self {
            wake: Notify::default(),
            memory: Arc::new(Semaphore::new(MEMORY as usize)),
            unpacking: Semaphore::new(UNPACKING),
        }
    }
}

impl Sinks {
    /// Waits for its turn to unpack something; it ends when [room](Self::room) for that was found. Whoever has room does not wait for a turn.
    async fn turn_to_unpack(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.unpacking.acquire().await.ok()
    }

    /// Waits for room for what has so many bytes unpacked, twice: as points, and as what is made of them. Until it is dropped.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = u32::try_from(bytes / (512 * 1024)).unwrap_or(MEMORY).saturating_add(1).min(MEMORY);
        // It is never closed.
        Arc::clone(&self.memory).acquire_many_owned(wanted).await.ok()
    }

    /// A batch came, or a sink was changed.
    pub fn changed(&self) {
        self.wake.notify_one();
    }
}
