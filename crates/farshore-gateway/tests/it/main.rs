//! A gateway as its producers see it: real sockets, real clients.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

mod api;
mod broker;
mod by_hand;
mod disk;
mod documents;
mod given;
mod http;
mod load;
mod memory;
mod mqtt;
mod mqtt_documents;
mod processing;
mod streams;
mod support;
mod sync;
mod sync_long;
