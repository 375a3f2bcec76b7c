//! What the kernel tells of stalls: measured at once, remembered by the black box, an event now and then.

use std::collections::BTreeMap;

use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::MINUTE_MS;

use super::{Agent, AgentError, events};
use crate::clock;
use crate::executor::Executor;
use crate::journal::Journal;
use crate::pressure::Stall;

/// One event of each resource in this time; a machine that is always short of something says so that often.
const APART_MS: i64 = 10 * MINUTE_MS;
/// A measurement out of turn at most this often.
const MEASURED_MS: i64 = 5_000;

/// When each resource was told of last, and how often it was short since.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    told: BTreeMap<&'static str, (MonoMs, u64)>,
    measured: Option<MonoMs>,
}

impl Stalls {
    /// Whether this one is told as an event, and how many were not since the last.
    fn spend(&mut self, resource: &'static str, now: MonoMs) -> Option<u64> {
        match self.told.get_mut(resource) {
            Some((at, withheld)) if now.since_ms(*at) < APART_MS => {
                *withheld = withheld.saturating_add(1);
                None
            }
            known => {
                let withheld = known.map_or(0, |(_, withheld)| *withheld);
                self.told.insert(resource, (now, 0));
                Some(withheld)
            }
        }
    }

    fn measures(&mut self, now: MonoMs) -> bool {
        let due = self.measured.is_none_or(|at| now.since_ms(at) >= MEASURED_MS);
        if due {
            self.measured = Some(now);
        }
        due
    }
}

impl<E: Executor, J: Journal> Agent<E, J> {
    pub(super) fn stalled(&mut self, stall: Stall) -> Result<(), AgentError> {
        let now = clock::mono();
        if self.stalls.measures(now) {
            // How it is while it is so.
            self.next_sample = self.next_sample.min(now);
        }
        self.policy.sighted("host.pressure", None, 1, now);
        let Some(withheld) = self.stalls.spend(stall.resource, now) else { return Ok(()) };
        let percent =
            stall.share.map_or_else(String::new, |share| format!(" ({:.0} % of ten seconds)", share * 100.0));
        let what = match stall.resource {
            "cpu" => "a processor",
            "io" => "disks",
            other => other,
        };
        let text = format!("tasks wait for {what}{percent}");
        let details = serde_json::json!({
            "resource": stall.resource, "share": stall.share, "withheld": withheld, "source": "psi",
        });
        self.note(events::note("host.pressure", &text, &details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_always_short_is_told_of_now_and_then_with_how_often_it_was() {
        let mut stalls = Stalls::default();
        let told: Vec<_> = (0..=400).filter_map(|n| stalls.spend("cpu", MonoMs(n * 2_000))).collect();
        assert_eq!(told, [0, 299]);
        assert_eq!(stalls.spend("io", MonoMs(1)), Some(0), "each resource for itself");
        let measured = (0..=10).filter(|n| stalls.measures(MonoMs(n * 2_000))).count();
        assert_eq!(measured, 4);
    }
}
