//! Incidents: what devices tell went wrong on them, what people do about it, and the evidence as one archive.

mod bundle;
mod post_mortem;
mod routes;
mod view;

pub use routes::{IncidentDocs, routes};
pub(crate) use view::incident as view;
