//! Measurements: ranges out of stored blocks, sparklines, live samples, and how long they are kept.

mod range;
pub mod retention;
mod routes;
pub mod sparkline;

pub use retention::spawn;
pub use routes::{MetricDocs, routes};
