//! The edge where the clock is read.

use farshore_domain::time::UnixMs;

/// Now.
#[must_use]
pub fn now() -> UnixMs {
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the clock is read")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
