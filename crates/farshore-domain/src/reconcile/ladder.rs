//! The healing ladder: what a device does by itself when a release that was good once keeps failing.
//!
//! Restart with a growing pause; once in between, where the policy says after how many restarts, set it up anew; until the policy's budget of
//! restarts within a window is used up; then the release before, the safe-mode release, a reboot where the policy allows it, and at last hold:
//! nothing of the app runs, and a person has to look. Each step down starts a new
//! budget. Without a policy a committed release is restarted for ever, as it always was.

use std::collections::BTreeMap;

use super::state::{Installed, Terms};
use crate::name::Name;
use crate::policy::{RestartRules, RollbackRules, RollbackTo};
use crate::time::SECOND_MS;

/// Restarts are counted over this long where no policy says.
const WINDOW_SECONDS: u32 = 600;

/// What to do next about an app that keeps failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on restarting it.
    Restart,
    /// Stop everything of it and set it up anew, once.
    Recreate,
    /// Back to the last release that was good.
    Previous,
    /// To the release that may always be gone back to.
    SafeMode,
    /// Nothing is left to go back to: reboot the device, and begin anew.
    Reboot,
    /// Stop it and call for help.
    Hold,
}

/// What a device's policy says about healing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealingPolicy {
    pub restart: RestartRules,
    pub rollback: RollbackRules,
    /// The safe-mode release of each app, verified.
    pub safe: BTreeMap<Name, Installed>,
    /// How many releases from before are kept, 1 at least; `None`: one.
    pub releases: Option<u32>,
}

/// What there is to step down to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rungs {
    pub previous: bool,
    pub safe: bool,
    /// It was set up anew already, within this budget.
    pub recreated: bool,
    /// The device was not rebooted by this ladder within the last day.
    pub may_reboot: bool,
}

impl HealingPolicy {
    /// Over how long restarts are counted.
    #[must_use]
    pub fn window_ms(&self) -> i64 {
        i64::from(self.restart.window_seconds.unwrap_or(WINDOW_SECONDS)) * SECOND_MS
    }

    /// The pause after `tries` tries: the policy's values, else the release's.
    #[must_use]
    pub fn backoff(&self, terms: &Terms, tries: u32) -> i64 {
        let restart = &self.restart;
        let first = restart.backoff_ms.map_or(terms.backoff_ms, i64::from).max(1);
        let most = restart.max_backoff_ms.map_or(terms.max_backoff_ms, i64::from).max(1);
        let factor = i64::from(restart.backoff_factor.unwrap_or(2)).max(1);
        first.saturating_mul(factor.saturating_pow(tries.min(64))).min(most)
    }

    /// Where to go when a release is given up, with what there is to go to.
    #[must_use]
    pub fn fallback(&self, previous: bool, safe: bool) -> Step {
        let straight = self.rollback.to == Some(RollbackTo::SafeMode) && safe;
        match (previous, safe) {
            _ if straight => Step::SafeMode,
            (true, _) => Step::Previous,
            (false, true) => Step::SafeMode,
            (false, false) => Step::Hold,
        }
    }

    /// The next step for a committed release that was restarted so many times within the window.
    #[must_use]
    pub fn step(&self, restarts: u32, rungs: Rungs) -> Step {
        let Rungs { previous, safe, recreated, may_reboot } = rungs;
        let over = self.restart.max_restarts.is_some_and(|most| restarts > most);
        let step = match self.rollback.after_restarts {
            Some(after) if restarts >= after => match self.fallback(previous, safe) {
                // Nothing to go back to: restarting goes on as long as the budget lasts.
                Step::Hold if !over => Step::Restart,
                step => step,
            },
            _ if over => Step::Hold,
            _ => Step::Restart,
        };
        let anew = self.restart.recreate_after.is_some_and(|after| restarts >= after);
        match step {
            Step::Restart if anew && !recreated => Step::Recreate,
            Step::Hold if may_reboot && self.rollback.reboot == Some(true) => Step::Reboot,
            step => step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(after: Option<u32>, most: Option<u32>, to: Option<RollbackTo>) -> HealingPolicy {
        HealingPolicy {
            restart: RestartRules { max_restarts: most, ..RestartRules::default() },
            rollback: RollbackRules { after_restarts: after, to, ..RollbackRules::default() },
            ..HealingPolicy::default()
        }
    }

    fn rungs(previous: bool, safe: bool) -> Rungs {
        Rungs { previous, safe, ..Rungs::default() }
    }

    #[test]
    fn without_a_policy_it_restarts_for_ever() {
        assert_eq!(HealingPolicy::default().step(u32::MAX, rungs(true, true)), Step::Restart);
    }

    #[test]
    fn each_step_comes_after_the_one_above_it() {
        let ladder = policy(Some(3), Some(5), None);
        assert_eq!(ladder.step(2, rungs(true, true)), Step::Restart);
        assert_eq!(ladder.step(3, rungs(true, true)), Step::Previous);
        assert_eq!(ladder.step(3, rungs(false, true)), Step::SafeMode);
        assert_eq!(ladder.step(5, rungs(false, false)), Step::Restart);
        assert_eq!(ladder.step(6, rungs(false, false)), Step::Hold);
        let straight = policy(Some(3), None, Some(RollbackTo::SafeMode));
        assert_eq!(straight.step(3, rungs(true, true)), Step::SafeMode);
        assert_eq!(straight.step(3, rungs(true, false)), Step::Previous);
        let stop = policy(None, Some(0), None);
        assert_eq!(
            (stop.step(0, rungs(true, true)), stop.step(1, rungs(true, true))),
            (Step::Restart, Step::Hold)
        );
    }

    #[test]
    fn it_is_set_up_anew_once_and_a_reboot_comes_only_where_it_is_allowed_and_before_giving_up() {
        let mut ladder = policy(Some(4), Some(5), None);
        ladder.restart.recreate_after = Some(2);
        assert_eq!(ladder.step(1, rungs(true, true)), Step::Restart);
        assert_eq!(ladder.step(2, rungs(true, true)), Step::Recreate);
        assert_eq!(ladder.step(3, Rungs { recreated: true, ..rungs(true, true) }), Step::Restart);
        assert_eq!(ladder.step(4, rungs(true, true)), Step::Previous, "it is late for that");
        let may = Rungs { recreated: true, may_reboot: true, ..rungs(false, false) };
        assert_eq!(ladder.step(6, may), Step::Hold, "nobody allowed it");
        ladder.rollback.reboot = Some(true);
        assert_eq!(ladder.step(6, may), Step::Reboot);
        assert_eq!(ladder.step(6, Rungs { may_reboot: false, ..may }), Step::Hold);
        assert_eq!(ladder.step(6, Rungs { previous: true, ..may }), Step::Previous);
    }

    #[test]
    fn pauses_grow_by_the_factor_up_to_the_cap() {
        let terms = Terms {
            floor: None,
            soak_ms: 0,
            start_timeout_ms: 0,
            max_restarts: 3,
            backoff_ms: 500,
            max_backoff_ms: 8_000,
        };
        let own = HealingPolicy::default();
        for tries in 0..70 {
            assert_eq!(own.backoff(&terms, tries), terms.backoff(tries), "{tries}");
        }
        let mut ladder = HealingPolicy::default();
        ladder.restart.backoff_ms = Some(10);
        ladder.restart.backoff_factor = Some(3);
        assert_eq!([0, 1, 2, 60].map(|tries| ladder.backoff(&terms, tries)), [10, 30, 90, 8_000]);
    }
}
