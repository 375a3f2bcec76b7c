//! What every kind of app must do alike, against what really runs it: start, stop, restart, be found again, crash, hang, start slowly, lose a child,
//! meet a full disk, lack its runtime, keep its output.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bed;
mod cluster;
mod container;
mod files;
mod installer;
mod isolation;
mod kubernetes;
mod process;
mod suite;
mod systemd;

#[path = "../device/release.rs"]
#[expect(dead_code, reason = "shared with the device's tests, which use more of it")]
mod release;
#[path = "../device/wait.rs"]
#[expect(dead_code, reason = "shared with the device's tests, which use more of it")]
mod wait;
