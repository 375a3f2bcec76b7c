//! The command line as a user types it, against a real control plane in this process.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that can't go on fails its test")]

mod apply;
mod dev;
mod errors;
mod login;
mod output;
mod release;
mod rollout;
mod stage;
mod verbs;
mod watch;
