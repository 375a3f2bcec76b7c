//! The agent's reconciler: from what a device should have and what it has, to what it does next.
//!
//! `absent → downloading → staged → (permit) switch → starting → soaking → running`. A new release that does not get
//! healthy is given up and the one before it comes back, network or not. All of it is level-triggered: each decision
//! looks at the whole (intent, observation), so a crash at any point is answered by deciding again.
//!
//! A full disk is waited for ([`room`]): nothing is stopped that could not be started again, and no release fails for it.
//!
//! A release with slots is started beside the one that runs; the switch then is that of the traffic, and comes after the first good checks.
//!
//! In this cut: a changed config restarts a running app without a permit, a removed placement stops its app without
//! one. A committed release that dies is restarted with a growing pause; where the device's policy says after how many
//! restarts, it goes down the [`Step`]s of the ladder: the release before, the safe-mode release, hold and call for help.

mod approach;
mod decide;
mod fellows;
mod ladder;
mod room;
mod run;
mod slots;
mod state;
mod view;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod scenario_tests;
#[cfg(test)]
mod slots_tests;

pub use decide::decide;
pub use ladder::{HealingPolicy, Rungs, Step};
pub use room::NO_ROOM;
pub use state::{
    Action, AppState, Attempts, Busy, Checks, Closed, DeviceState, Event, Failed, Healing, Inputs, Installed,
    LivePermit, LocalHours, MonoMs, Now, Observed, Offer, Offered, Outcome, Refused, Running, Terms, Trial,
    Warm,
};
pub use view::{AppView, DeviceView, view};
