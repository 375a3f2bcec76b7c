//! The device channel: one WebSocket for each connected device, protobuf frames on it.
//!
//! - [`hub`] knows the live sessions of this replica; whoever has something for a device leaves a note there and wakes it.
//! - [`connection`] is the task of one connection: one timer, no queue of its own, so that an idle device costs little memory.
//! - [`writer`] stores what connections bring in sets, one transaction for many devices, and then answers each (group commit).
//! - [`presence`] flushes who was heard from and tells when a device has gone or is back.
//! - [`live`] counts who looks at a device, and passes its one-second samples on.
//! - [`report`] turns frames into what the store keeps, with caps on everything.
//!
//! Flow of a connection: admission (shedding), upgrade, `hello`, session row, `welcome`, trusted keys, desired state, waiting operations; then frames both
//! ways until either side closes, a newer connection of the same device replaces it, the device is revoked, or it was silent for a minute.

pub mod admission;
pub mod connection;
pub mod hub;
pub mod live;
pub mod presence;
pub mod report;
mod routes;
pub mod writer;

pub use hub::Hub;
pub use routes::{ChannelDocs, routes};

use tokio::task::JoinHandle;

use crate::app::App;

/// Starts what works behind the channel: the writer and the presence driver. They end when the app shuts down.
pub fn spawn(app: &App) -> Vec<JoinHandle<()>> {
    let mut tasks = vec![tokio::spawn(presence::run(app.clone()))];
    tasks.extend(writer::spawn(app));
    tasks
}
