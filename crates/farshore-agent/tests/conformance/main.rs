//! What every kind of app must do alike, against what really runs it: start, stop, restart, be found again, crash, hang, start slowly, lose a child,
//! meet a full disk, lack its runtime, keep its output.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bed;
mod cluster;
mod container;
mod containerd;
mod files;
mod inside;
mod installer;
mod isolation;
mod kubernetes;
mod network;
mod process;
mod registry;
mod suite;
mod systemd;

#[path = "../device/disk.rs"]
#[expect(dead_code, reason = "shared with the device's tests, which use more of it")]
mod disk;
#[path = "../device/plane.rs"]
#[expect(dead_code, reason = "shared with the device's tests, which use more of it")]
mod plane;
#[path = "../device/release.rs"]
mod release;
#[path = "../device/wait.rs"]
#[expect(dead_code, reason = "shared with the device's tests, which use more of it")]
mod wait;
