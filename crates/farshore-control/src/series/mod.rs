//! The series that gateways send: latest values, and ranges out of stored blocks and hours, thinned out here.

mod fold;
pub mod hours;
mod query;
mod room;
mod routes;
pub(crate) mod stored;

pub use hours::{Hours, spawn};
pub use room::Room;
pub(crate) use room::Turn;
pub use routes::{SeriesDocs, routes};
