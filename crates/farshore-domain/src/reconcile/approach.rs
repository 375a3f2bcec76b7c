//! From the offer towards the release that should run: stage, then switch.

use super::decide::{Decision, due};
use super::state::{Action, Attempts, Checks, Event, Installed, Offer, Offered, Refused, Trial};
use crate::object::Reason;

impl Decision<'_> {
    /// From the offer towards `active`: stage, then switch.
    pub(super) fn approach(&mut self, offer: &Offer) {
        let wanted = offer.release.manifest;
        if let Some(active) = self.app.active.as_mut().filter(|active| active.manifest == wanted) {
            active.release = offer.release.uid;
            self.app.refused = None;
            self.app.staged = None;
            self.app.staging = Attempts::default();
            return;
        }
        if self.app.staged.as_ref().is_some_and(|staged| staged.manifest != wanted) {
            self.app.staged = None;
            self.app.staging = Attempts::default();
        }
        // What failed says nothing about another release: that one is tried at once.
        let active = self.app.active.as_ref().map(|active| active.manifest);
        if self.app.staging.of.is_some_and(|of| of != wanted && Some(of) != active) {
            self.app.staging = Attempts::default();
        }
        let terms = match &offer.manifest {
            Offered::Refused { code, message } => return self.refuse(offer, false, code, message),
            Offered::Unsupported { message } => return self.refuse(offer, true, "Unsupported", message),
            Offered::Verified(terms) => terms,
        };
        if let Some(floor) = self.app.floor.as_ref().filter(|floor| offer.release.version < **floor) {
            let message =
                format!("version {} is below the floor {floor} of this device", offer.release.version);
            return self.refuse(offer, false, "BelowFloor", &message);
        }
        if let Some(refused) = &mut self.app.refused {
            if refused.manifest != wanted || self.app.staging.last.is_none() {
                self.app.refused = None;
            } else {
                refused.release = offer.release.uid;
            }
        }
        if self.app.is_held(wanted) {
            return;
        }
        let Some(observed) = self.observed else { return };
        if !observed.staged.contains(&wanted) {
            if self.may_fetch() && !self.busy.staging && due(self.app.staging.retry_at, self.now) {
                self.actions.push(Action::Stage { app: self.name.clone(), manifest: wanted });
            }
            return;
        }
        let release = Installed {
            release: offer.release.uid,
            version: offer.release.version.clone(),
            manifest: wanted,
            terms: terms.clone(),
        };
        self.app.refused = None;
        if self.app.staged.is_none() {
            self.app.staged = Some(release.clone());
            self.emit(
                "release.staged",
                Some(&release),
                None,
                format!("version {} is verified and unpacked", release.version),
            );
        }
        let permit = offer.permit.filter(|permit| permit.until > self.now.mono);
        if let Some(permit) = permit
            && !self.busy.acting
            && self.may_leave(observed)
            && self.may_install()
        {
            self.switch(release, permit.uid, offer);
        }
    }

    /// Whether a download may begin: inside the policy's windows, and at any time to go back.
    pub(super) fn may_fetch(&self) -> bool {
        self.hours.download.is_none() || self.hours.going_back.contains(self.name)
    }

    /// Whether the switch may begin: inside the policy's windows. What is broken or on trial is not kept waiting, nor is the way back.
    fn may_install(&self) -> bool {
        let app = &self.app;
        let broken = matches!(self.checks, Checks::Failed { .. } | Checks::Breached { .. });
        self.hours.install.is_none()
            || self.hours.going_back.contains(self.name)
            || app.trial.is_some()
            || app.returning
            || broken
            || app.failed.is_some() && app.active.is_none()
    }

    fn refuse(&mut self, offer: &Offer, unsupported: bool, code: &str, message: &str) {
        let known =
            self.app.refused.as_ref().is_some_and(|refused| {
                refused.manifest == offer.release.manifest && refused.reason.code == code
            });
        if known {
            return;
        }
        self.app.refused = Some(Refused {
            release: offer.release.uid,
            manifest: offer.release.manifest,
            unsupported,
            reason: Reason::new(code, message, self.now.wall),
        });
        self.actions.push(Action::Emit(Event {
            kind: "release.refused",
            app: self.name.clone(),
            message: message.to_owned(),
            release: Some(offer.release.uid),
            version: Some(offer.release.version.clone()),
            code: Some(code.to_owned()),
            healing: None,
        }));
    }

    /// The intent to activate. The caller has seen a live permit and that the release is staged.
    fn switch(&mut self, to: Installed, permit: crate::id::PermitId, offer: &Offer) {
        let warm = self.warm_for(offer);
        // What was asked was what ran before.
        self.checks = &Checks::Unknown;
        let app = &mut *self.app;
        // Only what was committed is worth going back to.
        if app.trial.is_none()
            && let Some(before) = app.active.take()
            && let Some(older) = app.previous.replace(before)
        {
            app.older.retain(|known| *known != older.manifest);
            app.older.insert(0, older.manifest);
        }
        let known_good = app.previous.as_ref().is_some_and(|previous| previous.manifest == to.manifest);
        app.trial = (!known_good).then(Trial::default);
        if known_good {
            app.previous = None;
        }
        app.active = Some(to.clone());
        app.permit = Some(permit);
        app.config = Some(offer.config);
        match warm {
            // What is to come back still runs.
            Some(warm) if known_good && warm.manifest == to.manifest => app.return_to(warm),
            _ => app.renew(),
        }
        app.warm = warm.filter(|_| !known_good);
        app.staged = None;
        app.returning = false;
        app.healing = Attempts::default();
        app.restarts.clear();
        app.recreated = false;
        app.healing_good_since = None;
        app.older.retain(|known| *known != to.manifest);
        let from = app.previous.as_ref().map_or_else(String::new, |from| format!(" from {}", from.version));
        let how = if app.warm.is_some() { "starting {} beside what runs" } else { "switching to {}" };
        let text = format!("{}{from}", how.replace("{}", to.version.as_str()));
        self.emit("release.activating", Some(&to), None, text);
    }
}
