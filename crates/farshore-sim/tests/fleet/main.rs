//! Virtual fleets against a real control plane in this process: real TLS, real claims, real signatures, a real database.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod plane;
mod rollout;
mod stay;
