//! Two slots: a release is started and checked beside the one that runs, then the traffic is switched, and the one before is kept for the soak.
//!
//! All of it is decided from what runs in which slot. The current slot is where the traffic goes. Until the release on trial is good, what ran
//! before is kept there; afterwards it is kept in the other slot, and gone back to without a start.

use super::decide::{Decision, due};
use super::state::{Action, Installed, Observed, Offer, Running, Warm};

impl Decision<'_> {
    /// What goes on running while the offered release is started beside it: what runs now and is good, or what was kept for a release
    /// on trial that this one supersedes. None when it has to be replaced.
    pub(super) fn warm_for(&self, offer: &Offer) -> Option<Warm> {
        if self.app.trial.is_some() {
            let comes_back = |warm: &Warm| warm.manifest == offer.release.manifest;
            return self.app.warm.filter(|warm| offer.beside || comes_back(warm));
        }
        if !offer.beside {
            return None;
        }
        let good = |running: &&Running| self.app.is_target(running) && running.slot.is_some();
        let running = self.observed?.all().find(good)?;
        Some(Warm { manifest: running.manifest, instance: running.instance, config: self.app.config })
    }

    fn is_warm(&self, running: &Running) -> bool {
        self.app.warm.is_some_and(|warm| warm.is(running))
    }

    /// Whether the traffic goes to it, as far as that is for slots to say.
    pub(super) fn has_traffic(&self, running: &Running) -> bool {
        self.observed
            .is_some_and(|observed| observed.running.as_ref() == Some(running) && !observed.switching)
    }

    /// Whether something is already to be done with what runs of the app.
    pub(super) fn is_acting(&self) -> bool {
        self.actions.iter().any(|action| match action {
            Action::Start { app, .. }
            | Action::Stop { app }
            | Action::StopOne { app, .. }
            | Action::Switch { app, .. } => app == self.name,
            _ => false,
        })
    }

    /// The target runs in the current slot: a switch that was begun is finished, and what is no longer needed beside it is stopped.
    pub(super) fn settle(&mut self, observed: &Observed, active: &Installed) {
        let Some(running) = observed.running.as_ref().filter(|running| self.is_target(running)) else {
            return;
        };
        let as_it_was = self.app.active.as_ref().is_some_and(|now| now.manifest == active.manifest);
        if self.is_acting() || !as_it_was {
            return;
        }
        if observed.switching && running.slot.is_some() {
            // On trial it comes with the first good checks.
            if self.app.trial.is_none() && running.up {
                self.switch_to(running.instance);
            }
        } else if let Some(other) = observed.beside.as_ref().filter(|other| !self.is_warm(other)) {
            self.stop_one(other.instance);
        } else if let Some(stray) = observed.stray {
            self.stop_one(stray);
        }
    }

    /// The target does not run in the current slot. Says whether this is an affair of slots, and was decided here.
    pub(super) fn beside(&mut self, observed: &Observed, active: &Installed) -> bool {
        let (current, other) = (observed.running.as_ref(), observed.beside.as_ref());
        if let Some(target) = other.filter(|other| self.is_target(other)) {
            match self.app.warm {
                Some(_) if current.is_none() => self.start_warm(observed),
                Some(_) => self.prove(target, active),
                // It was good before, or nothing is left to wait for.
                None => self.switch_to(target.instance),
            }
            return true;
        }
        let Some(_) = self.app.warm.filter(|_| self.app.trial.is_some()) else { return false };
        match (current, other) {
            // Nothing is stopped that the traffic may still go to.
            (Some(current), _) if self.is_warm(current) && observed.switching => {
                self.switch_to(current.instance);
            }
            (Some(current), None) if self.is_warm(current) => self.start(observed, active.clone(), true),
            (Some(current), Some(other)) if self.is_warm(current) => self.stop_one(other.instance),
            (_, Some(other)) if self.is_warm(other) => {
                // What had the traffic is gone, or is not wanted any more.
                self.begin_again();
                self.switch_to(other.instance);
            }
            (None, None) => {
                self.begin_again();
                self.start_warm(observed);
            }
            _ => {
                self.app.warm = None;
                return false;
            }
        }
        true
    }

    /// The release on trial has to get healthy once more before it gets the traffic.
    fn begin_again(&mut self) {
        if let Some(trial) = &mut self.app.trial {
            (trial.starting_since, trial.healthy_since) = (None, None);
        }
    }

    /// The power was cut, say: what is known to be good comes first.
    fn start_warm(&mut self, observed: &Observed) {
        let (Some(warm), Some(before)) = (self.app.warm, self.app.previous.clone()) else { return };
        let fits = before.manifest == warm.manifest && observed.staged.contains(&warm.manifest);
        let Some(config) = self.offer.map(|offer| offer.config).or(warm.config).filter(|_| fits) else {
            self.app.warm = None;
            return;
        };
        let retry_at = self.app.trial.as_ref().and_then(|trial| trial.retry_at);
        let no_room = observed.full || self.app.found_no_room() && !due(retry_at, self.now);
        if no_room || self.fellows.waits_for(self.name).is_some() {
            return;
        }
        self.app.warm = Some(Warm { config: Some(config), ..warm });
        self.actions.push(Action::Start {
            app: self.name.clone(),
            release: before,
            instance: warm.instance,
            config,
            beside: false,
        });
    }

    fn switch_to(&mut self, instance: u64) {
        let retry_at = self.app.trial.as_ref().map_or(self.app.healing.retry_at, |trial| trial.retry_at);
        if due(retry_at, self.now) {
            self.actions.push(Action::Switch { app: self.name.clone(), instance });
        }
    }

    fn stop_one(&mut self, instance: u64) {
        self.actions.push(Action::StopOne { app: self.name.clone(), instance });
    }
}
