//! How a rollout would go: the same engine over virtual time.
//!
//! [`simulate`] plays the rollout several times with virtual devices ([`world`]) whose install times and absences are drawn from
//! what the devices did before ([`history`]), and says when waves start and end, what stands in the way, how many
//! devices of a group are down at once, and what the plan would do with a release that fails. Everything comes from a seed ([`random`]): the
//! same question has the same answer. The bench and the tests play single runs ([`run::play`]).

pub mod answer;
mod gather;
pub mod history;
pub mod random;
pub mod run;
pub mod world;

pub use answer::{Blocked, Ending, Forecast, PeakDown, Turn, WaveForecast};
pub use gather::{ForecastError, Options, simulate};
pub use history::{Basis, DeviceHistory, Habits, History};
pub use run::{Outcome, Play, play};
pub use world::{Failures, World};
