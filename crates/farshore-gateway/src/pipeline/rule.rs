//! A rule for one series: when it is raised, and when it is over.

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) phase: Phase,
    /// Nothing older changes anything.
    latest_ns: Option<i64>,
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
        self.latest_ns = Some(at_ns);
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
}
