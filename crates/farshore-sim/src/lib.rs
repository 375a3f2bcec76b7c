//! Virtual fleets: thousands of devices in one process, over real mTLS to a real device port.
//!
//! Each virtual device has its own key and certificate from a real claim, speaks the device channel's frames, checks
//! every signature as an agent does, and decides with the agent's own reconciler ([`farshore_domain::reconcile`]). Only
//! the machine under it is made up: staging and starting take random time, no process is started, nothing is
//! downloaded, and metrics are a random walk. Everything random comes from one seed, so that the same fleet behaves
//! the same way again; what the network and the scheduler do to it is real and does not repeat.
//!
//! [`VirtualFleet`] starts and stops one. [`machine`] is the pure part. One task a device, no thread, coarse timers:
//! the aim is less than 30 KB a device, TLS included.

#![recursion_limit = "256"]

mod channel;
pub mod claim;
mod clock;
mod desired;
mod device;
mod dice;
mod fleet;
mod identity;
pub mod machine;
pub mod options;
mod outbox;
mod report;
mod session;
mod store;
mod walk;

pub use claim::{ClaimError, claim};
pub use dice::Dice;
pub use fleet::{FleetError, FleetStats, VirtualFleet};
pub use identity::Identity;
pub use options::{Behaviours, Fault, FaultKind, FleetOptions, Group, Outages};
