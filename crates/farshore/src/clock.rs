//! The one place that reads the clock.

use farshore_domain::time::UnixMs;

/// Now.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line's edge: the clock is read here and passed on"
)]
pub(crate) fn now() -> UnixMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
