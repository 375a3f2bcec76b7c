//! A rule for one series: when it is raised, and when it is over.

use farshore_journal::Value;
use serde::{Deserialize, Serialize};

/// A series that has been quiet for less is not silent.
const SILENT_NS: i64 = 1_000_000_000;
/// Characters of a text that are remembered, to be said when time has passed.
const MAX_SAID: usize = 256;

/// Where a rule stands for a series. Times are the points' own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    #[default]
    Calm,
    /// True since then, and not yet for long enough.
    Pending(i64),
    Raised {
        at_ns: i64,
    },
    /// Raised, and over since then, but not yet for long enough.
    Clearing {
        at_ns: i64,
        since_ns: i64,
    },
}

/// What a rule remembers of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) phase: Phase,
    /// Nothing older changes anything.
    latest_ns: Option<i64>,
    /// Between the last two points.
    #[serde(default)]
    gap_ns: i64,
    /// What the last point said, where something waits for time to pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    said: Option<Said>,
}

/// What a point said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// All its bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// What a silence led to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    pub(super) turn: Turn,
    /// When it had held for long enough.
    pub(super) at_ns: i64,
    /// What the last point said.
    pub(super) number: Option<f64>,
    pub(super) text: Option<Value>,
}

/// What a point changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Nothing,
    /// The point is older than one that was judged.
    Late,
    Raised,
    /// With the time at which it was raised.
    Cleared(i64),
}

impl Watched {
    pub(super) fn is_raised(&self) -> bool {
        matches!(self.phase, Phase::Raised { .. } | Phase::Clearing { .. })
    }

    /// Whether something waits for time to pass.
    pub(super) const fn waits(&self) -> bool {
        matches!(self.phase, Phase::Pending(_) | Phase::Clearing { .. })
    }

    /// Keeps what the point that was judged last has said, where that may be asked for.
    pub(super) fn keep(&mut self, number: Option<f64>, text: Option<&str>) {
        self.said = self.waits().then(|| Said {
            number: number.map(f64::to_bits),
            text: text.map(|text| text.chars().take(MAX_SAID).collect()),
        });
    }

    /// No point has come for so long. The last one counts until another comes: what it began has held for long enough by now, or not yet. A series is
    /// silent after twice the time between its last two points, or after what it has to hold for, whichever is shorter; so a point that is only on its way is
    /// waited for. What comes later and is older than this turn changes nothing.
    pub(super) fn silent(&mut self, silence_ns: i64, hold_ns: i64, clear_ns: i64) -> Option<Due> {
        let latest = self.latest_ns?;
        let (since, needed) = match self.phase {
            Phase::Pending(since) => (since, hold_ns),
            Phase::Clearing { since_ns, .. } => (since_ns, clear_ns),
            Phase::Calm | Phase::Raised { .. } => return None,
        };
        if silence_ns < self.gap_ns.saturating_mul(2).min(needed).max(SILENT_NS) {
            return None;
        }
        let at_ns = since.saturating_add(needed);
        if latest.saturating_add(silence_ns) < at_ns {
            return None;
        }
        let turn = match self.phase {
            Phase::Clearing { at_ns: raised, .. } => {
                self.phase = Phase::Calm;
                Turn::Cleared(raised)
            }
            _ => {
                self.phase = Phase::Raised { at_ns };
                Turn::Raised
            }
        };
        self.come_to(latest.max(at_ns));
        let said = self.said.take();
        let number = said.as_ref().and_then(|said| said.number).map(f64::from_bits);
        Some(Due { turn, at_ns, number, text: said.and_then(|said| said.text).map(Value::Text) })
    }

    fn come_to(&mut self, at_ns: i64) {
        if let Some(before) = self.latest_ns.filter(|before| *before < at_ns) {
            self.gap_ns = at_ns.saturating_sub(before);
        }
        self.latest_ns = Some(at_ns);
    }

    /// Judges a point: whether the rule's condition holds, and whether what ends it does; nothing when that can't be said.
    pub(super) fn judge(
        &mut self,
        at_ns: i64,
        holds: Option<bool>,
        over: Option<bool>,
        hold_ns: i64,
        clear_ns: i64,
    ) -> Turn {
        if self.latest_ns.is_some_and(|latest| at_ns < latest) {
            return Turn::Late;
        }
        self.come_to(at_ns);
        match self.phase {
            Phase::Calm | Phase::Pending(_) => {
                let since = match (holds, self.phase) {
                    (Some(true), Phase::Pending(since)) => since,
                    (Some(true), _) => at_ns,
                    (Some(false), _) => {
                        self.phase = Phase::Calm;
                        return Turn::Nothing;
                    }
                    (None, _) => return Turn::Nothing,
                };
                if at_ns.saturating_sub(since) >= hold_ns {
                    self.phase = Phase::Raised { at_ns };
                    return Turn::Raised;
                }
                self.phase = Phase::Pending(since);
            }
            Phase::Raised { at_ns: raised } | Phase::Clearing { at_ns: raised, .. } => {
                let since = match (over, self.phase) {
                    (Some(true), Phase::Clearing { since_ns, .. }) => since_ns,
                    (Some(true), _) => at_ns,
                    (Some(false), _) => {
                        self.phase = Phase::Raised { at_ns: raised };
                        return Turn::Nothing;
                    }
                    (None, _) => return Turn::Nothing,
                };
                if at_ns.saturating_sub(since) >= clear_ns {
                    self.phase = Phase::Calm;
                    return Turn::Cleared(raised);
                }
                self.phase = Phase::Clearing { at_ns: raised, since_ns: since };
            }
        }
        Turn::Nothing
    }
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    fn turns(hold: i64, clear: i64, points: &[(i64, f64)]) -> Vec<Turn> {
        let mut watched = Watched::default();
        let judge = |(at, value): &(i64, f64)| {
            watched.judge(*at, Some(*value > 100.0), Some(*value < 90.0), hold, clear)
        };
        points.iter().map(judge).collect()
    }

    #[test]
    fn it_is_raised_once_and_ends_below_the_other_bound() {
        let got = turns(0, 0, &[(1, 99.0), (2, 101.0), (3, 120.0), (4, 95.0), (5, 89.0), (6, 101.0)]);
        let expected =
            [Turn::Nothing, Turn::Raised, Turn::Nothing, Turn::Nothing, Turn::Cleared(2), Turn::Raised];
        assert_eq!(got, expected);
    }

    #[test]
    fn it_must_hold_for_long_enough() {
        let got = turns(10, 5, &[(0, 101.0), (9, 101.0), (9, 50.0), (12, 101.0), (21, 101.0), (22, 101.0)]);
        assert_eq!(got.iter().position(|turn| *turn == Turn::Raised), Some(5));
        let got = turns(0, 5, &[(0, 101.0), (1, 50.0), (5, 95.0), (6, 50.0), (10, 50.0), (11, 50.0)]);
        assert_eq!(got.iter().position(|turn| *turn == Turn::Cleared(0)), Some(5));
    }

    #[test]
    fn what_is_older_changes_nothing() {
        assert_eq!(
            turns(0, 0, &[(5, 101.0), (4, 50.0), (5, 50.0)]),
            [Turn::Raised, Turn::Late, Turn::Cleared(5)]
        );
    }

    const S: i64 = SILENT_NS;

    #[test]
    fn a_door_that_stays_open_is_told_though_it_says_nothing_more() {
        let mut door = Watched::default();
        let judge = |door: &mut Watched, at: i64, open: bool| {
            let turn = door.judge(at * S, Some(open), Some(!open), 300 * S, 60 * S);
            door.keep(None, Some(if open { "open" } else { "closed" }));
            turn
        };
        assert_eq!(judge(&mut door, 0, false), Turn::Nothing);
        assert_eq!(door.silent(10_000 * S, 300 * S, 60 * S), None);
        assert_eq!(judge(&mut door, 30_000, true), Turn::Nothing);
        assert_eq!(door.silent(299 * S, 300 * S, 60 * S), None);
        let due = door.silent(301 * S, 300 * S, 60 * S).expect("due");
        assert_eq!((due.turn, due.at_ns), (Turn::Raised, 30_300 * S));
        assert_eq!(due.text, Some(Value::Text("open".to_owned())));
        assert_eq!(door.silent(10_000 * S, 300 * S, 60 * S), None, "once");
        // It comes late: from before it was raised.
        assert_eq!(judge(&mut door, 30_200, false), Turn::Late);
        assert_eq!(judge(&mut door, 30_400, true), Turn::Nothing);
        assert_eq!(judge(&mut door, 30_500, false), Turn::Nothing);
        let due = door.silent(61 * S, 300 * S, 60 * S).expect("due");
        assert_eq!((due.turn, due.at_ns), (Turn::Cleared(30_300 * S), 30_560 * S));
    }

    #[test]
    fn a_point_that_is_only_on_its_way_is_waited_for() {
        let mut watched = Watched::default();
        for at in [0, 10, 20] {
            assert_eq!(watched.judge(at * S, Some(true), Some(false), 25 * S, 0), Turn::Nothing);
        }
        assert_eq!(watched.silent(11 * S, 25 * S, 0), None);
        assert_eq!(watched.clone().judge(30 * S, Some(false), Some(true), 25 * S, 0), Turn::Nothing);
        let due = watched.silent(20 * S, 25 * S, 0).expect("due");
        assert_eq!((due.turn, due.at_ns), (Turn::Raised, 25 * S));
    }

    /// The same, from a list of all that was judged.
    #[derive(Default)]
    struct Model {
        judged: Vec<(i64, bool)>,
        /// What counts begins here: what led to the last turn does not count for the next one.
        from: usize,
        /// What it has come to, each time once.
        times: Vec<i64>,
        raised: Option<i64>,
    }

    impl Model {
        /// Since when the points speak for the next turn.
        fn since(&self) -> Option<i64> {
            let wanted = self.raised.is_none();
            let run = self.judged[self.from..].iter().rev().take_while(|(_, holds)| *holds == wanted);
            run.last().map(|(at, _)| *at)
        }

        fn turn(&mut self, at: i64) -> Turn {
            self.from = self.judged.len();
            match self.raised.take() {
                Some(raised) => Turn::Cleared(raised),
                None => {
                    self.raised = Some(at);
                    Turn::Raised
                }
            }
        }

        fn come_to(&mut self, at: i64) {
            self.times.push(at);
            self.times.dedup();
        }

        fn point(&mut self, at: i64, holds: bool, needed: [i64; 2]) -> Turn {
            if self.times.last().is_some_and(|latest| at < *latest) {
                return Turn::Late;
            }
            self.judged.push((at, holds));
            self.come_to(at);
            let needed = needed[usize::from(self.raised.is_some())];
            if self.since().is_some_and(|since| at - since >= needed) { self.turn(at) } else { Turn::Nothing }
        }

        fn silence(&mut self, silence: i64, needed: [i64; 2]) -> Option<(Turn, i64)> {
            let needed = needed[usize::from(self.raised.is_some())];
            let due = self.since()? + needed;
            let (last, gap) = match self.times.as_slice() {
                [.., before, last] => (*last, last - before),
                [last] => (*last, 0),
                [] => return None,
            };
            let patient = silence >= (2 * gap).min(needed).max(S);
            (patient && last + silence >= due).then(|| {
                self.come_to(last.max(due));
                (self.turn(due), due)
            })
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// So long after the newest that came, or before it.
        Point(i64, bool),
        Silence(i64),
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 2_000, ..Default::default() })]

        #[test]
        fn it_does_what_the_list_of_all_points_says(
            needed in [0..40_i64, 0..40_i64],
            steps in proptest::collection::vec(
                proptest::prop_oneof![
                    4 => (-15..25_i64, proptest::bool::weighted(0.7)).prop_map(|(by, holds)| Step::Point(by, holds)),
                    2 => (0..120_i64).prop_map(Step::Silence),
                ],
                1..60,
            ),
        ) {
            let needed = needed.map(|seconds| seconds * S);
            let (mut watched, mut model, mut newest) = (Watched::default(), Model::default(), 0);
            let mut active = false;
            for step in steps {
                let turn = match step {
                    Step::Point(by, holds) => {
                        let at = newest + by * S;
                        newest = newest.max(at);
                        let turn = watched.judge(at, Some(holds), Some(!holds), needed[0], needed[1]);
                        proptest::prop_assert_eq!(turn, model.point(at, holds, needed));
                        watched.keep(Some(1.0), None);
                        turn
                    }
                    Step::Silence(seconds) => {
                        let due = watched.silent(seconds * S, needed[0], needed[1]).map(|due| (due.turn, due.at_ns));
                        proptest::prop_assert_eq!(due, model.silence(seconds * S, needed));
                        // The series goes on after the time that has passed, or with what was on its way.
                        newest += seconds * S / 2;
                        due.map_or(Turn::Nothing, |(turn, _)| turn)
                    }
                };
                // Never twice the same, whatever comes late.
                match turn {
                    Turn::Raised => proptest::prop_assert!(!std::mem::replace(&mut active, true)),
                    Turn::Cleared(_) => proptest::prop_assert!(std::mem::replace(&mut active, false)),
                    Turn::Nothing | Turn::Late => {}
                }
                proptest::prop_assert_eq!(active, watched.is_raised());
            }
            // Whatever waits does not wait for ever.
            while watched.waits() {
                proptest::prop_assert!(watched.silent(i64::MAX / 4, needed[0], needed[1]).is_some());
            }
        }
    }
}
