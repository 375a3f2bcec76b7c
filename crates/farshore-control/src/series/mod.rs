//! The series that gateways send: latest values, and ranges out of stored blocks, thinned out here.

mod fold;
mod query;
mod room;
mod routes;

pub use room::Room;
pub use routes::{SeriesDocs, routes};
