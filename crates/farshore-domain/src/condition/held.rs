//! `for:` how long a condition has to hold before it counts.

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::reconcile::MonoMs;

/// How long a condition has been true, on a clock that only goes forward.
///
/// Time during which it is unknown is neither counted nor does it start the count anew, unless it is unknown for longer
/// than it had been true: then nothing is left to build on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Milliseconds for which it was seen true.
    for_ms: i64,
    /// Milliseconds for which it has been unknown since.
    unknown_ms: i64,
    /// When it was looked at last, and whether it was true or unknown then.
    last: Option<(MonoMs, bool)>,
}

impl Held {
    /// Takes one verdict and says whether the condition has now been true for `needed_ms`. A need of zero is fulfilled by
    /// the first true verdict.
    pub fn observe(&mut self, verdict: &Verdict, now: MonoMs, needed_ms: i64) -> bool {
        let passed = self.last.map_or(0, |(at, _)| now.since_ms(at).max(0));
        match (verdict, self.last) {
            (Verdict::False, _) => {
                *self = Self::default();
                return false;
            }
            (_, None) => {}
            (Verdict::True, Some((_, true))) => self.for_ms = self.for_ms.saturating_add(passed),
            (Verdict::True | Verdict::Unknown(_), Some(_)) => {
                self.unknown_ms = self.unknown_ms.saturating_add(passed);
            }
        }
        let known = verdict.is_true();
        if self.unknown_ms > self.for_ms {
            *self = Self::default();
        }
        if known {
            self.unknown_ms = 0;
        }
        // An unknown verdict before any true one begins nothing.
        self.last = (known || self.last.is_some()).then_some((now, known));
        known && self.for_ms >= needed_ms
    }

    /// The boot's clock has started anew: what was counted is kept, the time since the last look is not known.
    pub fn rebooted(&mut self) {
        self.last = None;
    }
}
