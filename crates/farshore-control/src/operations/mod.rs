//! `/api/operations`, and what is asked of devices.
//!
//! [`ask`] checks a request against a device's policy, life and abilities; [`bulk`] does so for many and shows it first; [`driver`] says whose turn
//! it is; [`output`] follows what a running one says. How it goes comes over the channel and is written by `store/operations.rs`.

pub(crate) mod ask;
mod bulk;
pub(crate) mod driver;
pub(crate) mod output;
mod routes;
mod view;

pub use routes::{OperationDocs, routes};
pub(crate) use view::operation as view;
