//! The device against real processes, real TLS and a control plane that the test plays.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod disk;
mod download;
mod incidents;
mod line;
mod operations;
mod plane;
mod policy;
#[expect(dead_code, reason = "shared with the conformance suite, which uses more of it")]
mod release;
mod room;
mod runner;
mod slots;
mod unpack;
mod virtual_fleet;
mod wait;
