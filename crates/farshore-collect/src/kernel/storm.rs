//! What becomes of many events at once: some are told one by one, the rest is counted and told together.
//!
//! For each kind, apart for apps and for the rest of the machine, there is a budget that refills with time. What is beyond it is added
//! up by who it was and how it ended, and told every few seconds as one event with a number. A thousand exits a second make
//! a handful of events, and no number is lost.

use std::collections::BTreeMap;

use super::event::{Ended, Event, Kind};

/// Groups that are added up at once; what is beyond them is one group.
const MOST_GROUPS: usize = 64;
/// Groups of a kind that are told together; the rest is one more.
const TOLD_GROUPS: usize = 5;

/// One event to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What happened, or an example of it.
    pub event: Event,
    /// The app it belongs to.
    pub app: Option<String>,
    /// It is the app's own process, not one that it started.
    pub main: bool,
    /// How often: 1 where it is told by itself.
    pub times: u64,
    /// It stands for events that were added up.
    pub together: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    kind: Kind,
    app: Option<String>,
    main: bool,
    comm: String,
    ended: Option<Ended>,
    peer: Option<std::net::SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    burst: f64,
    per_second: f64,
    left: f64,
    at_ms: i64,
}

impl Budget {
    fn spend(&mut self, now_ms: i64) -> bool {
        let seconds = now_ms.saturating_sub(self.at_ms).max(0) as f64 / 1000.0;
        self.at_ms = now_ms;
        self.left = (self.left + seconds * self.per_second).min(self.burst);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// How many at once, and a second; and after how many milliseconds the rest is told.
fn limits(kind: Kind, of_app: bool) -> (f64, f64, i64) {
    match (kind, of_app) {
        (Kind::ProcessExit, true) => (60.0, 5.0, 5_000),
        (Kind::ProcessExit, false) => (20.0, 2.0, 5_000),
        (Kind::OomKill, _) => (20.0, 2.0, 5_000),
        // A lossy link sends again all day.
        (Kind::TcpRetransmit, _) => (3.0, 1.0 / 60.0, 60_000),
        (Kind::Exec | Kind::Connect, _) => (20.0, 2.0, 10_000),
    }
}

/// The budgets, and what waits to be told together.
#[derive(Debug, Default)]
pub struct Storm {
    budgets: BTreeMap<(Kind, bool), Budget>,
    groups: BTreeMap<Group, (Event, u64)>,
    due: BTreeMap<Kind, i64>,
}

impl Storm {
    /// Takes an event. Returned where it is to be told at once. `now_ms` is of the monotonic clock.
    pub fn hear(&mut self, event: Event, app: Option<String>, main: bool, now_ms: i64) -> Option<Told> {
        let (burst, per_second, _) = limits(event.kind, app.is_some());
        let budget = self.budgets.entry((event.kind, app.is_some())).or_insert(Budget {
            burst,
            per_second,
            left: burst,
            at_ms: now_ms,
        });
        if budget.spend(now_ms) {
            return Some(Told { event, app, main, times: 1, together: false });
        }
        self.add(event, app, main, 1, now_ms);
        None
    }

    /// Takes events of which only the number is known.
    pub fn missed(&mut self, kind: Kind, times: u64, now_ms: i64) {
        if times > 0 {
            self.add(Event::new(kind, 0, 0), None, false, times, now_ms);
        }
    }

    fn add(&mut self, event: Event, app: Option<String>, main: bool, times: u64, now_ms: i64) {
        let kind = event.kind;
        let (comm, ended, peer) = (event.comm.clone(), event.ended, event.peer);
        let mut group = Group { kind, app, main, comm, ended, peer };
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&group) {
            group = Group { kind, app: None, main: false, comm: String::new(), ended: None, peer: None };
        }
        let rest =
            group.comm.is_empty() && group.ended.is_none() && group.peer.is_none() && group.app.is_none();
        let example = if rest { Event::new(kind, 0, event.at_ns) } else { event };
        let entry = self.groups.entry(group).or_insert((example.clone(), 0));
        entry.1 = entry.1.saturating_add(times);
        entry.0.at_ns = entry.0.at_ns.max(example.at_ns);
        let (.., after_ms) = limits(kind, false);
        self.due.entry(kind).or_insert(now_ms.saturating_add(after_ms));
    }

    /// When something is to be told together.
    #[must_use]
    pub fn next_ms(&self) -> Option<i64> {
        self.due.values().copied().min()
    }

    /// What is to be told together now: of each kind the largest groups, and one for the rest.
    pub fn flush(&mut self, now_ms: i64) -> Vec<Told> {
        let kinds: Vec<Kind> =
            self.due.iter().filter(|(_, due)| now_ms >= **due).map(|(kind, _)| *kind).collect();
        let mut told = Vec::new();
        for kind in kinds {
            self.due.remove(&kind);
            let (of_kind, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                std::mem::take(&mut self.groups).into_iter().partition(|(group, _)| group.kind == kind);
            self.groups = others;
            let mut groups: Vec<(Group, (Event, u64))> = of_kind.into_iter().collect();
            // What an app's own process did is worth more than any number of others.
            groups.sort_by_key(|(group, (_, times))| std::cmp::Reverse((group.main, *times)));
            let rest = groups.split_off(groups.len().min(TOLD_GROUPS));
            told.extend(groups.into_iter().map(|(group, (event, times))| Told {
                event,
                app: group.app,
                main: group.main,
                times,
                together: true,
            }));
            let times = rest.iter().fold(0u64, |sum, (_, (_, times))| sum.saturating_add(*times));
            if times > 0 {
                let at_ns = rest.iter().map(|(_, (event, _))| event.at_ns).max().unwrap_or_default();
                let event = Event::new(kind, 0, at_ns);
                told.push(Told { event, app: None, main: false, times, together: true });
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(comm: &str, code: u8) -> Event {
        let mut event = Event::new(Kind::ProcessExit, 7, 1);
        (event.comm, event.ended) = (comm.to_owned(), Some(Ended::Code(code)));
        event
    }

    #[test]
    fn a_storm_makes_a_handful_of_events_and_loses_no_number() {
        let mut storm = Storm::default();
        let (mut told, mut times) = (0, 0);
        for second in 0..60 {
            for at in 0..1000 {
                let now = second * 1000 + at;
                let comm = format!("job{}", at % 100);
                let one = storm.hear(exit(&comm, 0), None, false, now).into_iter();
                for one in one.chain(storm.flush(now)) {
                    told += 1;
                    times += one.times;
                }
            }
            storm.missed(Kind::ProcessExit, 500, second * 1000 + 999);
        }
        for one in storm.flush(70_000) {
            told += 1;
            times += one.times;
        }
        assert_eq!(times, 60 * 1500);
        assert!(told < 240, "{told} events for 90,000 exits");
        assert_eq!(storm.next_ms(), None);
    }

    #[test]
    fn an_app_is_heard_through_a_storm_of_others() {
        let mut storm = Storm::default();
        for _ in 0..1000 {
            storm.hear(exit("job", 0), None, false, 0);
        }
        let told = storm.hear(exit("web", 3), Some("web".to_owned()), true, 0).unwrap();
        assert_eq!((told.times, told.together, told.main), (1, false, true));
        for _ in 0..1000 {
            storm.hear(exit("web", 3), Some("web".to_owned()), true, 0);
        }
        let told = storm.flush(5_000);
        assert_eq!(
            told.first().map(|told| (told.app.as_deref(), told.times)),
            Some((Some("web"), 1001 - 60))
        );
        assert_eq!(told.get(1).map(|told| (told.event.comm.as_str(), told.times)), Some(("job", 980)));
    }

    #[test]
    fn what_is_told_together_waits_for_its_time() {
        let mut storm = Storm::default();
        for _ in 0..10 {
            storm.hear(Event::new(Kind::TcpRetransmit, 0, 5), None, false, 1_000);
        }
        assert_eq!(storm.next_ms(), Some(61_000));
        assert!(storm.flush(60_999).is_empty());
        assert_eq!(storm.flush(61_000).first().map(|told| told.times), Some(7));
    }
}
