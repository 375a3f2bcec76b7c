//! Forecasts over virtual fleets.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop the test")]

mod fleet;
mod forecast;
mod virtual_fleet;
