//! Rollouts: the driver's part of a step, and the API.

mod routes;
mod step;

pub use routes::{RolloutDocs, routes};
pub use step::{Outcome, step};
