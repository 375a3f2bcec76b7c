//! Admission of new connections: a token bucket. When a whole fleet comes back at once, some are told to come a little later.

use std::sync::{Mutex, PoisonError};

use farshore_domain::time::UnixMs;
use rand::Rng as _;

/// New channels a second that are let in for long.
const RATE_PER_SECOND: f64 = 500.0;
/// New channels that are let in at once after a quiet time.
const BURST: f64 = 2_000.0;
/// A device that is shed comes back after 1 to this many seconds.
const MAX_RETRY_SECONDS: u32 = 15;

/// Tokens that come back with time. Not for exact accounting: a clock that goes back gives none and takes none.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: f64,
    burst: f64,
    per_ms: f64,
    at: Option<UnixMs>,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { tokens: burst, burst, per_ms: per_second / 1_000.0, at: None }
    }

    fn refill(&mut self, now: UnixMs) {
        let passed = self.at.map_or(0, |at| now.since_ms(at)).clamp(0, 3_600_000);
        // At most an hour in milliseconds: exact in f64.
        #[expect(clippy::cast_precision_loss, reason = "at most 3,600,000")]
        let back = passed as f64 * self.per_ms;
        self.tokens = (self.tokens + back).min(self.burst);
        self.at = Some(now);
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: UnixMs) -> bool {
        self.refill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Takes tokens, on credit if need be, and says how many milliseconds to wait until the debt is paid.
    pub fn borrow(&mut self, tokens: f64, now: UnixMs) -> u64 {
        self.refill(now);
        self.tokens -= tokens;
        if self.tokens >= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, capped at a minute"
        )]
        let wait = (-self.tokens / self.per_ms).min(60_000.0) as u64;
        wait
    }
}

/// The gate of the channel.
#[derive(Debug)]
pub struct Admission {
    bucket: Mutex<TokenBucket>,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(RATE_PER_SECOND, BURST)
    }
}

impl Admission {
    #[must_use]
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { bucket: Mutex::new(TokenBucket::new(per_second, burst)) }
    }

    /// Begins anew with another rate and a full bucket.
    pub fn limit(&self, per_second: f64, burst: f64) {
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner) = TokenBucket::new(per_second, burst);
    }

    /// Lets a connection in, or says after how many seconds to try again: spread, so that those shed don't come back together.
    pub fn admit(&self, now: UnixMs) -> Result<(), u32> {
        let admitted = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        if admitted { Ok(()) } else { Err(rand::rng().random_range(1..=MAX_RETRY_SECONDS)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rush_is_shed_after_the_burst_and_let_in_again_as_time_passes() {
        let gate = Admission::new(10.0, 3.0);
        let admitted = |at: i64, n: usize| (0..n).filter(|_| gate.admit(UnixMs(at)).is_ok()).count();
        assert_eq!(admitted(0, 10), 3);
        assert_eq!(admitted(100, 10), 1);
        assert_eq!(admitted(50, 10), 0, "a clock that goes back gives nothing");
        assert_eq!(admitted(1_000_000, 10), 3, "a long silence gives one burst, not more");
    }

    #[test]
    fn those_shed_come_back_spread() {
        let gate = Admission::new(0.000_1, 0.0);
        let waits: std::collections::BTreeSet<u32> =
            (0..200).filter_map(|_| gate.admit(UnixMs(0)).err()).collect();
        assert!(
            waits.len() > 5 && waits.iter().all(|wait| (1..=MAX_RETRY_SECONDS).contains(wait)),
            "{waits:?}"
        );
    }

    #[test]
    fn a_debt_says_how_long_to_wait() {
        let mut bucket = TokenBucket::new(100.0, 1_000.0);
        assert_eq!(bucket.borrow(1_000.0, UnixMs(0)), 0);
        assert_eq!(bucket.borrow(50.0, UnixMs(0)), 500);
        assert_eq!(bucket.borrow(0.0, UnixMs(500)), 0);
    }
}
