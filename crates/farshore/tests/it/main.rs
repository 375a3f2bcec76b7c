//! The command line as a user types it, against a real control plane in this process.

mod apply;
mod dev;
mod errors;
mod login;
mod output;
mod release;
mod rollout;
mod stage;
mod watch;
