//! The device channel.

pub mod hub;

pub use hub::Hub;
