//! When to send and how fast. Pure: times and randomness are arguments.

use std::collections::VecDeque;
use std::time::Duration;

/// The longest pause between two attempts.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// The longest pause that somebody else may ask for.
const MAX_ASKED: Duration = Duration::from_secs(3600);
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(100);
/// What is older says nothing of the link now.
const WINDOW_NS: i64 = 5 * 60 * 1_000_000_000;
const MAX_SAMPLES: usize = 512;

/// Pauses after failures: full jitter under a cap that doubles, so that gateways do not all come back at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause; `random` is any number, `asked` what the other side wants at least.
    pub(crate) fn next(&mut self, random: u64, asked: Option<Duration>) -> Duration {
        let cap = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(16)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        let cap_ms = u64::try_from(cap.as_millis()).unwrap_or(u64::MAX).max(1);
        let jitter = Duration::from_millis(random % (cap_ms + 1));
        // Who is asked to wait waits that long and then some, for the same reason.
        asked.map_or(jitter, |asked| asked.min(MAX_ASKED) + jitter.min(asked / 4)).max(LEAST)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Keeps under a number of bytes a second.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    free_at_ns: i64,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at_ns: 0 }
    }

    /// What has to pass before anything may go.
    pub(super) fn wait(&self, now_ns: i64) -> Duration {
        Duration::from_nanos(self.free_at_ns.saturating_sub(now_ns).max(0).unsigned_abs())
    }

    /// Takes the link for so many bytes.
    pub(super) fn take(&mut self, now_ns: i64, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let takes = (bytes as u128 * 1_000_000_000 / u128::from(rate.max(1))).min(i64::MAX as u128);
        let takes = i64::try_from(takes).unwrap_or(i64::MAX);
        self.free_at_ns = self.free_at_ns.max(now_ns).saturating_add(takes);
    }
}

/// What goes in this time leaves room for another batch beside it.
const BESIDE_S: f64 = 20.0;
/// An attempt that took less and came to nothing says nothing of the pace.
const LONG_S: f64 = 10.0;

/// How good the link is: a smoothed time of one exchange, which failures make worse, and how fast batches go.
#[derive(Debug)]
pub(super) struct Link {
    exchange_s: f64,
    /// What the last batches had, and how long they took, the newest with the most weight.
    carried: f64,
    carrying_s: f64,
}

impl Default for Link {
    /// Until something is known, it may be a slow one.
    fn default() -> Self {
        Self { exchange_s: 0.05, carried: 4_000.0, carrying_s: 1.0 }
    }
}

impl Link {
    /// How an attempt with a batch went.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn tried(&mut self, bytes: usize, took: Duration, arrived: bool) {
        let (bytes, took) = (bytes as f64, took.as_secs_f64());
        // What did not arrive in a long time would have taken longer.
        let slower = bytes * self.carrying_s < self.carried * took;
        if arrived || (took >= LONG_S && slower) {
            self.carried = self.carried * 0.8 + bytes;
            self.carrying_s = self.carrying_s * 0.8 + took;
        }
    }

    /// Whether a batch may begin while others of so many bytes are under way. Over a slow link a large one has it for itself: two would take
    /// twice as long each, and neither might end in the time that it has.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn has_room(&self, under_way: usize) -> bool {
        under_way as f64 * self.carrying_s <= self.carried * BESIDE_S
    }

    pub(super) fn took(&mut self, took: Duration) {
        self.exchange_s = self.exchange_s * 0.8 + took.as_secs_f64() * 0.2;
    }

    pub(super) fn failed(&mut self) {
        self.exchange_s = (self.exchange_s * 2.0).min(60.0);
    }

    /// Between two rounds, exchanges take a twentieth of the time at most: a good link is used each second, a slow one less often and with larger
    /// batches.
    pub(super) fn interval(&self, most: Duration) -> Duration {
        Duration::from_secs_f64((self.exchange_s * 20.0).max(1.0)).min(most.max(Duration::from_secs(1)))
    }
}

/// How fast the backlog goes.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// When, how many points, and how long that took.
    sent: VecDeque<(i64, u64, Duration)>,
    /// Up to here the time is counted.
    counted_ns: i64,
    /// When, and how many points had come in by then.
    came: VecDeque<(i64, u64)>,
}

impl Drain {
    /// Sending begins: the time before was idle.
    pub(super) fn begins(&mut self, now_ns: i64) {
        self.counted_ns = self.counted_ns.max(now_ns);
    }

    /// So many points have arrived, after which nothing may go for as long as `wait`. Batches under way at once take their time once.
    pub(super) fn sent(&mut self, now_ns: i64, points: u64, wait: Duration) {
        let until_ns = now_ns.saturating_add(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX));
        let took = Duration::from_nanos(until_ns.saturating_sub(self.counted_ns).max(0).unsigned_abs());
        self.counted_ns = self.counted_ns.max(until_ns);
        self.sent.push_back((now_ns, points, took));
        self.sent.retain(|(at, ..)| now_ns.saturating_sub(*at) <= WINDOW_NS);
        while self.sent.len() > MAX_SAMPLES {
            self.sent.pop_front();
        }
    }

    /// So many points have come in since the start.
    pub(super) fn came(&mut self, now_ns: i64, total: u64) {
        if self.came.back().is_none_or(|(at, _)| now_ns.saturating_sub(*at) >= 1_000_000_000) {
            self.came.push_back((now_ns, total));
        }
        while self.came.len() > 2 && self.came.get(1).is_some_and(|(at, _)| now_ns - at >= WINDOW_NS) {
            self.came.pop_front();
        }
        while self.came.len() > MAX_SAMPLES {
            self.came.pop_front();
        }
    }

    /// Until `pending` points have gone; `None` while nobody can say, or more comes than goes.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(super) fn estimate(&self, pending: u64) -> Option<Duration> {
        if pending == 0 {
            return Some(Duration::ZERO);
        }
        let points: u64 = self.sent.iter().map(|(_, points, _)| points).sum();
        let busy: f64 = self.sent.iter().map(|(.., took)| took.as_secs_f64()).sum();
        if points == 0 || busy <= 0.0 {
            return None;
        }
        let coming = match (self.came.front(), self.came.back()) {
            (Some((first, before)), Some((last, after))) if last > first => {
                after.saturating_sub(*before) as f64 / ((last - first) as f64 / 1e9)
            }
            _ => 0.0,
        };
        let net = points as f64 / busy - coming;
        (net > 0.0).then(|| Duration::from_secs_f64((pending as f64 / net).min(1e9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn pauses_are_spread_under_a_cap_that_doubles_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut caps = Vec::new();
        for _ in 0..12 {
            // The largest that a random number can give.
            let failures = backoff.failures;
            let most = (0..4_000u64)
                .map(|random| Backoff { failures }.next(random * 97, None))
                .max()
                .unwrap_or_default();
            caps.push(most.as_secs_f64().round() as u64);
            assert!(Backoff { failures }.next(0, None) >= LEAST);
            backoff.next(0, None);
        }
        assert_eq!(caps, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        let asked = Some(Duration::from_secs(40));
        assert!((0..500).all(|random| {
            let pause = Backoff { failures: 9 }.next(random * 7_919, asked);
            (Duration::from_secs(40)..=Duration::from_secs(50)).contains(&pause)
        }));
        let far = Backoff::default().next(0, Some(Duration::from_secs(1_000_000)));
        assert_eq!(far, MAX_ASKED);
        backoff.reset();
        assert!(backoff.next(u64::MAX, None) <= FIRST_BACKOFF);
    }

    #[test]
    fn a_throttle_spreads_bytes_over_time() {
        let mut throttle = Throttle::new(Some(1_000));
        assert_eq!(throttle.wait(0), Duration::ZERO);
        throttle.take(0, 500);
        assert_eq!(throttle.wait(0), Duration::from_millis(500));
        throttle.take(0, 1_000);
        assert_eq!(throttle.wait(S), Duration::from_millis(500));
        assert_eq!(throttle.wait(100 * S), Duration::ZERO);
        throttle.take(100 * S, 1_000);
        assert_eq!(throttle.wait(100 * S), Duration::from_secs(1), "what was not used is not saved up");
        let mut without = Throttle::new(None);
        without.take(0, usize::MAX);
        assert_eq!(without.wait(0), Duration::ZERO);
    }

    #[test]
    fn a_slow_or_failing_link_is_used_less_often() {
        let most = Duration::from_secs(60);
        let mut link = Link::default();
        assert_eq!(link.interval(most), Duration::from_secs(1));
        for _ in 0..30 {
            link.took(Duration::from_secs(1));
        }
        assert!((15..=20).contains(&link.interval(most).as_secs()));
        for _ in 0..5 {
            link.failed();
        }
        assert_eq!(link.interval(most), most);
        for _ in 0..60 {
            link.took(Duration::from_millis(20));
        }
        assert_eq!(link.interval(most), Duration::from_secs(1));
    }

    #[test]
    fn over_a_slow_link_and_over_one_of_which_nothing_is_known_a_large_batch_goes_alone() {
        const LARGE: usize = 2 << 20;
        let mut link = Link::default();
        assert!(link.has_room(0) && link.has_room(20_000) && !link.has_room(LARGE));
        link.tried(LARGE, Duration::from_millis(500), true);
        assert!(link.has_room(LARGE));
        // Small ones of which most is the way there and back, and what fails at once.
        for _ in 0..10 {
            link.tried(1_000, Duration::from_millis(200), true);
            link.tried(LARGE, Duration::from_millis(200), false);
        }
        assert!(link.has_room(20_000));
        let mut cut_off = Link::default();
        cut_off.tried(LARGE, Duration::from_millis(500), true);
        for _ in 0..3 {
            cut_off.tried(LARGE, Duration::from_secs(120), false);
        }
        assert!(!cut_off.has_room(LARGE) && cut_off.has_room(1_000));
        for _ in 0..3 {
            link.tried(LARGE, Duration::from_secs(170), true);
        }
        assert!(!link.has_room(LARGE) && link.has_room(20_000));
        // It is a better one again.
        for _ in 0..30 {
            link.tried(LARGE, Duration::from_secs(1), true);
        }
        assert!(link.has_room(LARGE));
    }

    #[test]
    fn the_drain_estimate_counts_what_comes_in_meanwhile() {
        let mut drain = Drain::default();
        assert_eq!(drain.estimate(0), Some(Duration::ZERO));
        assert_eq!(drain.estimate(10), None, "nothing was sent yet");
        drain.begins(0);
        drain.sent(S, 1_000, Duration::ZERO);
        assert_eq!(drain.estimate(10_000), Some(Duration::from_secs(10)));
        drain.came(0, 0);
        drain.came(10 * S, 5_000);
        assert_eq!(drain.estimate(10_000), Some(Duration::from_secs(20)));
        drain.came(20 * S, 30_000);
        assert_eq!(drain.estimate(10_000), None, "more comes than goes");
    }

    #[test]
    fn two_batches_at_once_take_their_time_once_and_the_wait_for_the_bandwidth_counts() {
        let mut drain = Drain::default();
        drain.begins(100 * S);
        // Both for ten seconds.
        drain.sent(110 * S, 500, Duration::ZERO);
        drain.sent(110 * S, 500, Duration::ZERO);
        assert_eq!(drain.estimate(1_000), Some(Duration::from_secs(10)));
        // An hour later, in no time, and then nothing may go for ten seconds.
        let mut drain = Drain { counted_ns: drain.counted_ns, ..Drain::default() };
        drain.begins(3_600 * S);
        drain.sent(3_600 * S, 1_000, Duration::from_secs(10));
        assert_eq!(drain.estimate(3_000), Some(Duration::from_secs(30)));
        drain.begins(3_605 * S);
        drain.sent(3_610 * S, 1_000, Duration::from_secs(10));
        assert_eq!(drain.estimate(3_000), Some(Duration::from_secs(30)), "that wait counts once");
    }
}
