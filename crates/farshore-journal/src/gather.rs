//! How long appends wait for company before they are written.
//!
//! A sync costs the same for one append as for a hundred, and a producer that waits for its acknowledgement sends nothing
//! meanwhile. So a group is written when the first of these holds:
//!
//! - its oldest append has waited for its stream's whole window ([`Durability::Group`](crate::Durability::Group));
//! - it is large;
//! - somebody in it is **eager**, and nobody who is worth waiting for is missing.
//!
//! A producer is eager when it usually sends again within the window after an acknowledgement: it waits for us, and each
//! moment spent on gathering slows it. One that sends more seldom does not notice: alone, such producers use the whole
//! window, and their syncs are few. Missing is an eager producer that usually comes back in less than half the time that a sync
//! takes: waiting for it costs less than a sync of its own. Where syncs are quick, nobody is waited for: the next group gathers while this one is written. One client alone is therefore never held up, and the disk of a hundred clients
//! that ask one by one syncs once for all of them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// A group of this size is written at once.
const LARGE_BYTES: usize = 256 * 1024;
/// Producers whose habits are known; of more, nothing is expected.
const MAX_PRODUCERS: usize = 2_048;
/// A producer that was not heard of for so long is forgotten when there are many.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Longer pauses are all the same.
const LONGEST: Duration = Duration::from_secs(1);

/// Someone who sends and waits for the answer: a connection, a session. Appends of none are never held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Producer(pub(crate) u64);

#[derive(Debug)]
struct Habit {
    /// Appends that wait for their answer.
    waiting: u32,
    answered: Option<Instant>,
    /// From an answer until the next append, lately.
    pause: Option<Duration>,
}

/// The group that gathers, and what is known of those who send.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    habits: HashMap<Producer, Habit>,
    missing: HashSet<Producer>,
    /// From then on nobody is waited for.
    missed_until: Option<Instant>,
    /// What a commit takes, lately.
    commit: Duration,
    group: Group,
}

#[derive(Debug, Default)]
struct Group {
    bytes: usize,
    /// When the first of its windows ends.
    until: Option<Instant>,
    eager: bool,
}

/// The newer value counts for a quarter.
fn average(before: Option<Duration>, now: Duration) -> Duration {
    before.map_or(now, |before| (before * 3 + now) / 4)
}

impl Gather {
    /// An append joins the group for which nobody waits.
    pub(crate) fn add(&mut self, now: Instant, window: Duration, bytes: usize) {
        let until = now + window;
        self.group.until = Some(self.group.until.map_or(until, |before| before.min(until)));
        self.group.bytes += bytes;
    }

    /// An append joins the group, and its producer waits.
    pub(crate) fn arrive(
        &mut self,
        now: Instant,
        producer: Option<Producer>,
        window: Duration,
        bytes: usize,
    ) {
        let Some(producer) = producer else {
            return self.add(now, Duration::ZERO, bytes);
        };
        self.add(now, window, bytes);
        self.missing.remove(&producer);
        if !self.habits.contains_key(&producer) && self.habits.len() >= MAX_PRODUCERS {
            self.habits.retain(|_, habit| {
                habit.waiting > 0 || habit.answered.is_some_and(|at| now.duration_since(at) < FORGOTTEN)
            });
        }
        if self.habits.len() >= MAX_PRODUCERS && !self.habits.contains_key(&producer) {
            self.group.eager = true;
            return;
        }
        let habit = self.habits.entry(producer).or_insert(Habit { waiting: 0, answered: None, pause: None });
        if habit.waiting == 0
            && let Some(at) = habit.answered
        {
            habit.pause = Some(average(habit.pause, now.duration_since(at).min(LONGEST)));
        }
        // Of a stranger nothing is known: it is not held up.
        self.group.eager |= habit.waiting > 0 || habit.pause.is_none_or(|pause| pause <= window);
        habit.waiting += 1;
    }

    /// When the group is to be written; `None`: there is none.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        let until = self.group.until?;
        if self.group.bytes >= LARGE_BYTES {
            return Some(now);
        }
        if !self.group.eager {
            return Some(until);
        }
        if self.missed_until.is_none_or(|end| end <= now) {
            self.missing.clear();
        }
        if self.missing.is_empty() {
            Some(now)
        } else {
            Some(self.missed_until.map_or(until, |end| end.min(until)))
        }
    }

    /// The group was taken to be written.
    pub(crate) fn taken(&mut self) {
        self.group = Group::default();
    }

    /// A commit took so long.
    pub(crate) fn committed(&mut self, took: Duration) {
        self.commit = average(Some(self.commit).filter(|before| !before.is_zero()), took);
    }

    /// A producer is about to get its answer; `window` is that of its stream.
    pub(crate) fn answered(&mut self, now: Instant, producer: Option<Producer>, window: Duration) {
        let Some(producer) = producer else { return };
        let Some(habit) = self.habits.get_mut(&producer) else { return };
        habit.waiting = habit.waiting.saturating_sub(1);
        habit.answered = Some(now);
        let Some(pause) = habit.pause.filter(|_| habit.waiting == 0) else { return };
        if pause * 2 <= self.commit.min(window) {
            self.missing.insert(producer);
            let end = now + (pause * 2).min(window);
            self.missed_until = Some(self.missed_until.map_or(end, |before| before.max(end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(20);
    const MS: Duration = Duration::from_millis(1);

    /// Lets producers send, and answers after a commit of 2 ms.
    struct Bench {
        gather: Gather,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let mut gather = Gather::default();
            gather.committed(2 * MS);
            Self { gather, now }
        }

        fn arrive(&mut self, producer: u64) -> Duration {
            self.gather.arrive(self.now, Some(Producer(producer)), WINDOW, 100);
            self.wait()
        }

        fn wait(&mut self) -> Duration {
            self.gather.due(self.now).unwrap().duration_since(self.now)
        }

        fn commit(&mut self, producers: &[u64]) {
            self.gather.taken();
            self.now += 2 * MS;
            for producer in producers {
                self.gather.answered(self.now, Some(Producer(*producer)), WINDOW);
            }
        }
    }

    #[test]
    fn one_client_alone_is_never_held_up() {
        let mut bench = Bench::new();
        assert_eq!(bench.gather.due(bench.now), None);
        for _ in 0..10 {
            assert_eq!(bench.arrive(1), Duration::ZERO);
            bench.commit(&[1]);
            bench.now += MS;
        }
        bench.gather.arrive(bench.now, None, WINDOW, 1);
        assert_eq!(bench.wait(), Duration::ZERO, "nor one who says nothing of himself");
    }

    #[test]
    fn clients_that_come_back_at_once_share_a_sync() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            for producer in 1..=3 {
                bench.arrive(producer);
            }
            bench.commit(&[1, 2, 3]);
            bench.now += MS;
        }
        assert!(bench.arrive(1) > Duration::ZERO);
        assert!(bench.arrive(2) > Duration::ZERO);
        assert_eq!(bench.arrive(3), Duration::ZERO, "all are there");
        // One of them does not come back: it is waited for once, and no longer than it usually takes.
        bench.commit(&[1, 2, 3]);
        bench.now += MS;
        bench.arrive(1);
        assert!(bench.arrive(2) <= 2 * MS);
        bench.now += 2 * MS;
        assert_eq!(bench.wait(), Duration::ZERO);
        bench.commit(&[1, 2]);
        bench.now += MS;
        bench.arrive(1);
        assert_eq!(bench.arrive(2), Duration::ZERO);
    }

    #[test]
    fn who_comes_seldom_uses_the_window_and_holds_up_nobody() {
        let mut bench = Bench::new();
        for _ in 0..8 {
            bench.arrive(1);
            bench.arrive(2);
            bench.commit(&[1, 2]);
            bench.now += 500 * MS;
        }
        assert_eq!(bench.arrive(1), WINDOW);
        bench.now += 5 * MS;
        assert_eq!(bench.arrive(2), WINDOW - 5 * MS, "the first one's window counts");
        assert_eq!(bench.arrive(3), Duration::ZERO, "a stranger is not held up");
        bench.commit(&[1, 2, 3]);
        bench.arrive(1);
        bench.gather.arrive(bench.now, Some(Producer(2)), WINDOW, LARGE_BYTES);
        assert_eq!(bench.wait(), Duration::ZERO, "nor a large group");
    }

    #[test]
    fn habits_of_ever_new_producers_do_not_pile_up() {
        let mut bench = Bench::new();
        for producer in 0..10 * MAX_PRODUCERS as u64 {
            assert_eq!(bench.arrive(producer), Duration::ZERO);
            bench.commit(&[producer]);
        }
        assert!(bench.gather.habits.len() <= MAX_PRODUCERS);
    }
}
