//! What a health condition of a policy may speak of: one device's own measurements, events and apps.

use super::vocabulary::{Param, Type, Vocabulary};

/// The names that `metric(…)` takes: what the agent's collector measures of a host.
pub const METRICS: &[&str] = &[
    "cpu",
    "load1",
    "load5",
    "load15",
    "mem_used",
    "mem_total",
    "mem_available",
    "swap_used",
    "disk_used",
    "disk_total",
    "net_rx",
    "net_tx",
    "psi_cpu",
    "psi_mem",
    "psi_mem_full",
    "psi_io",
    "psi_io_full",
    "io_latency",
    "net_retx",
    "uptime",
    "temperature",
    "io_latency_p99",
    "process_exits",
    "oom_kills",
    "disk_wear",
    "gpu",
];

/// The names that `events(…)` takes: what the agent tells of its apps, and what the kernel tells the agent.
pub const EVENTS: &[&str] = &[
    "app.started",
    "app.exited",
    "app.waiting",
    "config.changed",
    "download.failed",
    "health.failed",
    "policy.breached",
    "release.refused",
    "release.activated",
    "release.switched",
    "release.rolled-back",
    "release.failed",
    "process_exit",
    "oom_kill",
    "tcp_retransmit",
    "exec",
    "connect",
];

/// Events are counted over at most this long.
pub const MAX_EVENT_SPAN_MS: i64 = crate::time::HOUR_MS;

/// The vocabulary of a health condition. `of_app`: the condition is about one app, and may speak of it.
///
/// `metric("cpu")` is the newest value of the host's; `events("app.exited", duration("10m"))` counts events of the last
/// so many minutes, at most an hour, of the app where there is one. `app.restarts` counts restarts of the running instance,
/// `app.up` says whether its process runs.
#[must_use]
pub fn vocabulary(of_app: bool) -> Vocabulary {
    let words = |words: &[&str]| Param::OneOf(words.iter().map(|word| (*word).to_owned()).collect());
    let all = Vocabulary::new().function("metric", vec![words(METRICS)], Type::Number).function(
        "events",
        vec![words(EVENTS), Param::Of(Type::Duration)],
        Type::Number,
    );
    if of_app { all.variable("app.restarts", Type::Number).variable("app.up", Type::Bool) } else { all }
}
