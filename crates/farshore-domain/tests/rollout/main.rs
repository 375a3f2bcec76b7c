//! The rollout engine, driven as the driver drives it: over a fleet of virtual devices, with the assignment rule in between.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop the test")]

mod assigning;
mod fleet;
mod groups;
mod histories;
mod invariants;
mod judging;
mod model;
mod offline;
mod scale;
mod scenarios;
mod stored;
mod windows;
