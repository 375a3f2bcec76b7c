//! Virtual fleets against a real control plane in this process: real TLS, real claims, real signatures, a real database.

mod plane;
mod rollout;
mod stay;
