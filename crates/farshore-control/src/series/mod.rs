//! The series that gateways send: latest values, and ranges out of stored blocks, thinned out here.

mod fold;
mod query;
mod room;
mod routes;

pub use room::Room;
pub(crate) use room::Turn;
pub use routes::{SeriesDocs, routes};
