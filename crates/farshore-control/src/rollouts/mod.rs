//! Rollouts: the driver's part of a step, and the API.

mod holds;
mod make;
mod past;
mod routes;
mod show;
mod simulate;
mod step;
mod verbs;
pub(crate) mod why;

pub(crate) use make::resolve;
pub use routes::{RolloutDocs, routes};
pub(crate) use show::show_row;
pub use simulate::SimulateDocs;
pub use step::{Outcome, step};
pub use verbs::VerbDocs;
