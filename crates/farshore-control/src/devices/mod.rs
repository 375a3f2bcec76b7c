//! Devices: lists, one device, what may be done to it.

mod actions;
mod connectivity;
mod query;
mod routes;
pub mod view;

pub use routes::{DeviceDocs, routes};
