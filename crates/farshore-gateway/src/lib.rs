//! The data plane of a device.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod decode;
pub mod limits;
pub mod point;

pub use point::{Point, PointError, Value};
