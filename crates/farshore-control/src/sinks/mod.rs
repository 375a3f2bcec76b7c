//! Sinks: the readings of gateways go on to other systems, each in its own time.
//!
//! One driver, under a lease, so that one replica does it. What a sink has handed over is on record stream by stream, and is written
//! after its receiver has said yes: at least once, in order within a stream, for ever. Receivers tell a repetition by its id.

mod driver;
mod files;
mod otlp;
mod points;
mod push;
mod routes;

use tokio::sync::Notify;

pub use driver::spawn;
pub use routes::{SinkDocs, routes};

/// The driver's ear.
#[derive(Debug, Default)]
pub struct Sinks {
    wake: Notify,
}

impl Sinks {
    /// A batch came, or a sink was changed.
    pub fn changed(&self) {
        self.wake.notify_one();
    }
}
