//! Whether the service is healthy, and why not.

use std::time::Duration;

use crate::settings::Settings;

/// The answer of the health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    Unhealthy { reason: String },
}

/// Judges by the settings and by the time since the start.
pub(crate) fn judge(settings: &Settings, running: Duration) -> Health {
    if let Some(condition) = settings.fail_health_when.as_ref().filter(|condition| condition.holds) {
        return Health::Unhealthy { reason: format!("{} is {}", condition.name, condition.value) };
    }
    match settings.unhealthy_after {
        Some(limit) if running >= limit => {
            Health::Unhealthy { reason: format!("running for longer than {} ms", limit.as_millis()) }
        }
        _ => Health::Healthy,
    }
}
