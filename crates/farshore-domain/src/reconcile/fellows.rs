//! The order of apps that need each other: started after what they need, stopped before it.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{DeviceState, Inputs, Running};
use crate::name::Name;

/// What a decision about one app must know of the others.
#[derive(Debug, Default)]
pub(super) struct Fellows {
    /// Their target runs and is up.
    up: BTreeSet<Name>,
    /// Something of them runs.
    running: BTreeSet<Name>,
    needs: BTreeMap<Name, Vec<Name>>,
}

impl Fellows {
    pub(super) fn of(state: &DeviceState, inputs: &Inputs) -> Self {
        let mut fellows = Self::default();
        for (name, observed) in inputs.observed.iter().flatten() {
            if observed.all().next().is_none() {
                continue;
            }
            fellows.running.insert(name.clone());
            // What is kept beside a release on trial does its work meanwhile.
            let up = state.apps.get(name).is_some_and(|app| {
                let wanted = |running: &&Running| {
                    app.is_target(running) || app.warm.is_some_and(|warm| warm.is(running))
                };
                observed.all().filter(wanted).any(|running| running.up)
            });
            if up {
                fellows.up.insert(name.clone());
            }
        }
        let offers = inputs.desired.iter().flatten();
        // What is not to be on this device can't be waited for.
        let here: BTreeSet<&Name> = offers.clone().map(|offer| &offer.app).collect();
        for offer in offers {
            let needs: Vec<_> = offer
                .needs
                .iter()
                .filter(|need| here.contains(need) && **need != offer.app)
                .cloned()
                .collect();
            if !needs.is_empty() {
                fellows.needs.insert(offer.app.clone(), needs);
            }
        }
        fellows
    }

    /// An app that has to be up before this one is started. Apps that need each other in a circle do not wait for each other.
    pub(super) fn waits_for(&self, app: &Name) -> Option<&Name> {
        self.needs.get(app)?.iter().find(|need| !self.up.contains(*need) && !self.reaches(need, app))
    }

    /// Apps that have to be stopped before this one is.
    pub(super) fn stop_first(&self, app: &Name) -> Vec<Name> {
        let needing = self.needs.iter().filter(|(name, needs)| {
            needs.contains(app) && self.running.contains(*name) && !self.reaches(app, name)
        });
        needing.map(|(name, _)| name.clone()).collect()
    }

    /// Whether `from` needs `to`, directly or by way of others.
    fn reaches(&self, from: &Name, to: &Name) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            if name == to {
                return true;
            }
            if seen.insert(name) {
                open.extend(self.needs.get(name).into_iter().flatten());
            }
        }
        false
    }
}
