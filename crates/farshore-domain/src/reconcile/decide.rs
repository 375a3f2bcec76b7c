//! The decision.

use std::collections::BTreeSet;

use super::state::{
    Action, AppState, Attempts, Busy, Checks, DeviceState, Event, Failed, Inputs, Installed, MAX_GIVEN_UP,
    MonoMs, Now, Observed, Offer, Offered, Outcome, Refused, Running, Terms, Trial,
};
use super::view;
use crate::device::AppPhase;
use crate::name::Name;
use crate::object::Reason;
use crate::time::MINUTE_MS;

/// Pauses between attempts to stage: from one second to five minutes.
const STAGE_BACKOFF_MS: i64 = 1_000;
const STAGE_BACKOFF_MAX_MS: i64 = 5 * MINUTE_MS;
/// After this long in good health a committed release's restarts are forgotten.
const HEALED_AFTER_MS: i64 = 10 * MINUTE_MS;

/// Decides for all apps of a device. Equal state and inputs give equal decisions; an action that is still under way
/// (`busy`) is not asked for again.
#[must_use]
pub fn decide(mut state: DeviceState, inputs: &Inputs, now: Now) -> (DeviceState, Vec<Action>) {
    let mut actions = Vec::new();
    for outcome in &inputs.outcomes {
        take_outcome(&mut state, outcome, now, &mut actions);
    }
    let mut names: BTreeSet<Name> = state.apps.keys().cloned().collect();
    names.extend(inputs.desired.iter().flatten().map(|offer| offer.app.clone()));
    names.extend(inputs.observed.iter().flat_map(|apps| apps.keys().cloned()));
    for name in names {
        let mut app = state.apps.remove(&name).unwrap_or_default();
        let nothing = Observed::default();
        let mut decision = Decision {
            offer: inputs.desired.iter().flatten().find(|offer| offer.app == name),
            observed: inputs.observed.as_ref().map(|apps| apps.get(&name).unwrap_or(&nothing)),
            checks: inputs.checks.get(&name).unwrap_or(&Checks::Unknown),
            busy: inputs.busy.get(&name).copied().unwrap_or_default(),
            now,
            name: &name,
            app: &mut app,
            actions: &mut actions,
        };
        if inputs.restart.contains(&name) {
            decision.app.instance += 1;
        }
        if inputs.desired.is_some() && decision.offer.is_none() {
            decision.remove();
        } else {
            decision.go();
        }
        let phase = view::phase(&app, inputs, &name);
        if phase != app.phase {
            app.phase = phase;
            app.phase_since = now.wall;
        }
        // A floor and what failed are remembered even when the app is gone.
        let kept = app.floor.is_some()
            || app.resumed > 0
            || !app.given_up.is_empty()
            || app.phase != AppPhase::Absent
            || app.active.is_some();
        let wanted = inputs.desired.iter().flatten().any(|offer| offer.app == name);
        if kept || wanted {
            state.apps.insert(name, app);
        }
    }
    (state, actions)
}

fn take_outcome(state: &mut DeviceState, outcome: &Outcome, now: Now, actions: &mut Vec<Action>) {
    match outcome {
        Outcome::Staged { app, .. } => {
            if let Some(app) = state.apps.get_mut(app) {
                app.staging = Attempts::default();
            }
        }
        Outcome::StageFailed { app: name, manifest, refused, code, message } => {
            let Some(app) = state.apps.get_mut(name) else { return };
            let reason = Reason::new(code, message, now.wall);
            let again = app.staging.last.as_ref().is_some_and(|last| last.code == *code);
            app.staging.failures = app.staging.failures.saturating_add(1);
            let pause = STAGE_BACKOFF_MS
                .saturating_mul(1 << (app.staging.failures - 1).min(20))
                .min(STAGE_BACKOFF_MAX_MS);
            app.staging.retry_at = Some(now.mono.plus_ms(pause));
            app.staging.last = Some(reason.clone());
            app.staging.of = Some(*manifest);
            if !again {
                actions.push(Action::Emit(Event {
                    kind: if *refused { "release.refused" } else { "download.failed" },
                    app: name.clone(),
                    message: message.clone(),
                    release: None,
                    version: None,
                    code: Some(code.clone()),
                }));
            }
            if *refused {
                // Kept as refused and still tried again: the mirror may have lied, and may stop lying.
                app.refused = Some(Refused {
                    release: crate::id::ReleaseId(uuid::Uuid::nil()),
                    manifest: *manifest,
                    unsupported: false,
                    reason,
                });
            }
        }
        Outcome::StartFailed { app, instance, message } => {
            let Some(app) = state.apps.get_mut(app) else { return };
            if app.instance != *instance {
                return;
            }
            let Some(active) = &app.active else { return };
            let reason = Reason::new("StartFailed", message, now.wall);
            if let Some(trial) = &mut app.trial {
                trial.mishaps = trial.mishaps.saturating_add(1);
                trial.retry_at = Some(now.mono.plus_ms(active.terms.backoff(trial.mishaps - 1)));
            } else {
                let pause = active.terms.backoff(app.healing.failures);
                app.healing.failures = app.healing.failures.saturating_add(1);
                app.healing.retry_at = Some(now.mono.plus_ms(pause));
            }
            app.healing.last = Some(reason);
        }
    }
}

struct Decision<'a> {
    name: &'a Name,
    app: &'a mut AppState,
    offer: Option<&'a Offer>,
    observed: Option<&'a Observed>,
    checks: &'a Checks,
    busy: Busy,
    now: Now,
    actions: &'a mut Vec<Action>,
}

fn due(at: Option<MonoMs>, now: Now) -> bool {
    at.is_none_or(|at| now.mono >= at)
}

impl Decision<'_> {
    fn emit(&mut self, kind: &'static str, of: Option<&Installed>, code: Option<&str>, message: String) {
        self.actions.push(Action::Emit(Event {
            kind,
            app: self.name.clone(),
            message,
            release: of.map(|release| release.release),
            version: of.map(|release| release.version.clone()),
            code: code.map(str::to_owned),
        }));
    }

    /// The app is not desired (any more). Forgotten at once, so that an app that is desired again starts as a new one.
    fn remove(&mut self) {
        let Some(observed) = self.observed else { return };
        if self.busy.acting || self.busy.staging {
            return;
        }
        let app = &mut *self.app;
        let was = app.active.take();
        *app = AppState {
            floor: app.floor.take(),
            instance: app.instance,
            resumed: app.resumed,
            failed: app.failed.take(),
            given_up: std::mem::take(&mut app.given_up),
            phase: app.phase,
            phase_since: app.phase_since,
            ..AppState::default()
        };
        if was.is_some() {
            self.emit("app.removed", was.as_ref(), None, "no placement asks for it any more".to_owned());
        }
        if observed.running.is_some() || !observed.staged.is_empty() {
            self.actions.push(Action::Remove { app: self.name.clone() });
        }
    }

    fn go(&mut self) {
        self.adopt();
        self.tell();
        if let Some(offer) = self.offer {
            self.resume(offer);
            self.take_back(offer);
            self.reconfigure(offer);
            self.approach(offer);
        }
        self.run();
        self.discard();
    }

    /// The runner has a process that the state does not know: the state was lost, or is older than the process.
    fn adopt(&mut self) {
        let Some(running) = self.observed.and_then(|observed| observed.running.as_ref()) else { return };
        let app = &mut *self.app;
        let given_up = app.is_held(running.manifest);
        if app.active.is_some() || given_up || self.busy.acting {
            return;
        }
        let desired = self.offer.filter(|offer| offer.release.manifest == running.manifest);
        let terms = match desired.map(|offer| &offer.manifest) {
            Some(Offered::Verified(terms)) => terms.clone(),
            _ => Terms {
                floor: None,
                soak_ms: 0,
                start_timeout_ms: MINUTE_MS,
                max_restarts: 3,
                backoff_ms: 500,
                max_backoff_ms: MINUTE_MS,
            },
        };
        let installed = Installed {
            release: running.release,
            version: running.version.clone(),
            manifest: running.manifest,
            terms,
        };
        app.instance = app.instance.max(running.instance);
        if app.instance != running.instance {
            // A number of a lost past; what runs keeps its own.
            app.instance = running.instance;
        }
        app.config = Some(running.config);
        app.trial = desired.is_some().then(|| Trial { started: true, ..Trial::default() });
        app.active = Some(installed.clone());
        self.emit(
            "app.adopted",
            Some(&installed),
            None,
            format!("found version {} running", installed.version),
        );
    }

    /// Starts and ends of the app's process become events.
    fn tell(&mut self) {
        let Some(running) = self.observed.and_then(|observed| observed.running.as_ref()) else { return };
        let (true, Some(active)) = (self.is_target(running), self.app.active.clone()) else { return };
        let now = Some((running.instance, running.restarts));
        match self.app.told {
            Some((instance, restarts)) if instance == running.instance => {
                if running.restarts > restarts {
                    let exit = running.last_exit.as_deref().unwrap_or("it ended");
                    let message = format!("{exit}; restarted for the {}. time", running.restarts);
                    self.emit("app.exited", Some(&active), None, message);
                }
            }
            _ => self.emit("app.started", Some(&active), None, format!("version {} runs", active.version)),
        }
        self.app.told = now;
    }

    fn resume(&mut self, offer: &Offer) {
        if offer.resumed <= self.app.resumed {
            return;
        }
        self.app.resumed = offer.resumed;
        self.app.staging = Attempts::default();
        self.app.refused = None;
        self.app.given_up.clear();
        if let Some(trial) = &mut self.app.trial {
            trial.mishaps = 0;
        }
        if let Some(failed) = self.app.failed.take() {
            let message = format!("version {} may be tried again", failed.version);
            self.emit("app.resumed", None, None, message);
        }
    }

    /// A switch that was only intended ends with its permit: what ran before goes on running.
    fn take_back(&mut self, offer: &Offer) {
        let (Some(trial), Some(active)) = (&self.app.trial, &self.app.active) else { return };
        let Some(observed) = self.observed else { return };
        if trial.started || observed.running.as_ref().is_some_and(|running| self.is_target(running)) {
            return;
        }
        let live = offer.release.manifest == active.manifest
            && offer
                .permit
                .is_some_and(|permit| Some(permit.uid) == self.app.permit && permit.until > self.now.mono);
        if live || self.busy.acting {
            return;
        }
        let intended = self.app.active.take();
        let before = self.app.previous.take();
        self.app.trial = None;
        self.app.permit = None;
        self.app.instance += 1;
        if let (Some(before), Some(running)) = (&before, &observed.running)
            && running.manifest == before.manifest
        {
            self.app.instance = running.instance;
            self.app.config = Some(running.config);
        }
        self.app.active = before;
        let message = "the permit ended before the switch began; the release stays staged".to_owned();
        self.emit("release.deferred", intended.as_ref(), Some("PermitExpired"), message);
    }

    fn reconfigure(&mut self, offer: &Offer) {
        let app = &mut *self.app;
        if app.active.is_none() || app.config == Some(offer.config) || self.busy.acting {
            return;
        }
        let first = app.config.is_none();
        app.config = Some(offer.config);
        if first {
            return;
        }
        app.instance += 1;
        if let Some(trial) = &mut app.trial {
            trial.starting_since = None;
            trial.healthy_since = None;
            trial.restarts = 0;
        }
        let active = app.active.clone();
        self.emit("config.changed", active.as_ref(), None, "restarting with the new config".to_owned());
    }

    /// From the offer towards `active`: stage, then switch.
    fn approach(&mut self, offer: &Offer) {
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
            if !self.busy.staging && due(self.app.staging.retry_at, self.now) {
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
        {
            self.switch(release, permit.uid, offer);
        }
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
        }));
    }

    /// The intent to activate. The caller has seen a live permit and that the release is staged.
    fn switch(&mut self, to: Installed, permit: crate::id::PermitId, offer: &Offer) {
        let app = &mut *self.app;
        // Only what was committed is worth going back to.
        if app.trial.is_none()
            && let Some(before) = app.active.take()
        {
            app.previous = Some(before);
        }
        let known_good = app.previous.as_ref().is_some_and(|previous| previous.manifest == to.manifest);
        app.trial = (!known_good).then(Trial::default);
        if known_good {
            app.previous = None;
        }
        app.active = Some(to.clone());
        app.permit = Some(permit);
        app.instance += 1;
        app.config = Some(offer.config);
        app.staged = None;
        app.returning = false;
        app.healing = Attempts::default();
        app.healing_good_since = None;
        let from = app.previous.as_ref().map_or_else(String::new, |from| format!(" from {}", from.version));
        self.emit("release.activating", Some(&to), None, format!("switching to {}{from}", to.version));
    }

    fn is_target(&self, running: &Running) -> bool {
        self.app.active.as_ref().is_some_and(|active| active.manifest == running.manifest)
            && running.instance == self.app.instance
    }

    /// From `active` to what runs.
    fn run(&mut self) {
        let Some(observed) = self.observed else { return };
        let Some(active) = self.app.active.clone() else {
            if observed.running.is_some() && !self.busy.acting {
                self.actions.push(Action::Stop { app: self.name.clone() });
            }
            return;
        };
        if self.busy.acting {
            return;
        }
        if let Some(trial) = &self.app.trial
            && trial.mishaps > active.terms.max_restarts
        {
            let last =
                self.app.healing.last.as_ref().map_or("the device restarted", |last| last.message.as_str());
            let message = format!("it did not start {} times; last: {last}", trial.mishaps);
            return self.give_up("StartFailed", &message);
        }
        match &observed.running {
            Some(running) if self.is_target(running) => {
                if self.app.trial.is_some() {
                    self.prove(running, &active);
                } else {
                    self.heal(running, &active);
                }
            }
            Some(_) => self.actions.push(Action::Stop { app: self.name.clone() }),
            None => self.start(observed, active),
        }
    }

    fn start(&mut self, observed: &Observed, active: Installed) {
        if !observed.staged.contains(&active.manifest) {
            // Its folder is gone: fetch it again.
            if !self.busy.staging && due(self.app.staging.retry_at, self.now) {
                self.actions.push(Action::Stage { app: self.name.clone(), manifest: active.manifest });
            }
            return;
        }
        let retry_at = match &mut self.app.trial {
            Some(trial) => {
                trial.starting_since.get_or_insert(self.now.mono);
                trial.retry_at
            }
            None => self.app.healing.retry_at,
        };
        if !due(retry_at, self.now) {
            return;
        }
        let Some(config) = self.app.config.or(self.offer.map(|offer| offer.config)) else { return };
        self.app.config = Some(config);
        self.actions.push(Action::Start {
            app: self.name.clone(),
            release: active,
            instance: self.app.instance,
            config,
        });
    }

    /// A release on trial runs.
    fn prove(&mut self, running: &Running, active: &Installed) {
        let now = self.now.mono;
        let Some(trial) = &mut self.app.trial else { return };
        let first = !trial.started;
        trial.started = true;
        if running.restarts != trial.restarts {
            trial.restarts = running.restarts;
            trial.healthy_since = None;
            trial.starting_since = Some(now);
        }
        let since = *trial.starting_since.get_or_insert(now);
        if running.up && *self.checks == Checks::Good {
            trial.healthy_since.get_or_insert(now);
        }
        let healthy_since = trial.healthy_since;
        if first {
            self.emit(
                "release.activated",
                Some(active),
                None,
                format!("version {} was started", active.version),
            );
        }
        if running.restarts > active.terms.max_restarts {
            let exit = running.last_exit.as_deref().unwrap_or("it ended");
            let message = format!(
                "restarted {} times, more than {}; last: {exit}",
                running.restarts, active.terms.max_restarts
            );
            return self.give_up("RestartedTooOften", &message);
        }
        match healthy_since {
            None if now.since_ms(since) >= active.terms.start_timeout_ms => {
                let why = match self.checks {
                    Checks::Wavering { message } | Checks::Failed { message } => message.clone(),
                    _ if !running.up => {
                        running.last_exit.clone().unwrap_or_else(|| "it is not running".to_owned())
                    }
                    _ => "its checks have not answered".to_owned(),
                };
                let message = format!("not healthy within {} s: {why}", active.terms.start_timeout_ms / 1000);
                self.give_up("StartTimeout", &message);
            }
            Some(_) if matches!(self.checks, Checks::Failed { .. }) => {
                let Checks::Failed { message } = self.checks else { return };
                let message = message.clone();
                self.emit("health.failed", Some(active), Some("HealthCheckFailed"), message.clone());
                self.give_up("HealthCheckFailed", &message);
            }
            Some(good)
                if running.up
                    && *self.checks == Checks::Good
                    && now.since_ms(good) >= active.terms.soak_ms =>
            {
                self.commit(active);
            }
            _ => {}
        }
    }

    fn commit(&mut self, active: &Installed) {
        let app = &mut *self.app;
        app.trial = None;
        app.failed = None;
        app.given_up.clear();
        app.healing = Attempts::default();
        if let Some(floor) = &active.terms.floor
            && app.floor.as_ref().is_none_or(|old| old < floor)
        {
            app.floor = Some(floor.clone());
        }
        self.actions.push(Action::Commit { app: self.name.clone(), manifest: active.manifest });
        let message = format!("version {} stayed healthy for its soak time", active.version);
        self.emit("release.committed", Some(active), None, message);
    }

    /// The release on trial failed: back to the last good one, or to nothing.
    fn give_up(&mut self, code: &str, message: &str) {
        let app = &mut *self.app;
        let Some(active) = app.active.take() else { return };
        app.failed = Some(Failed {
            release: active.release,
            version: active.version.clone(),
            manifest: active.manifest,
            reason: Reason::new(code, message, self.now.wall),
        });
        app.given_up.push(active.manifest);
        if app.given_up.len() > MAX_GIVEN_UP {
            app.given_up.remove(0);
        }
        app.trial = None;
        app.permit = None;
        app.instance += 1;
        app.healing = Attempts::default();
        app.healing_good_since = None;
        app.active = app.previous.take();
        app.returning = app.active.is_some();
        let back = app.active.clone();
        match &back {
            Some(back) => {
                let text =
                    format!("version {} failed: {message}; going back to {}", active.version, back.version);
                self.emit("release.rolled-back", Some(&active), Some(code), text);
            }
            None => {
                let text = format!(
                    "version {} failed: {message}; there is no earlier release to go back to",
                    active.version
                );
                self.emit("release.failed", Some(&active), Some(code), text);
            }
        }
        self.run();
    }

    /// A committed release runs: its supervisor restarts it when it dies; failing checks restart it here.
    fn heal(&mut self, running: &Running, active: &Installed) {
        let now = self.now;
        let app = &mut *self.app;
        match self.checks {
            Checks::Good if running.up => {
                app.returning = false;
                let since = *app.healing_good_since.get_or_insert(now.mono);
                if now.mono.since_ms(since) >= HEALED_AFTER_MS {
                    app.healing = Attempts::default();
                }
            }
            Checks::Failed { message } if running.up => {
                app.healing_good_since = None;
                if !due(app.healing.retry_at, now) {
                    return;
                }
                let pause = active.terms.backoff(app.healing.failures).max(active.terms.start_timeout_ms);
                app.healing.failures = app.healing.failures.saturating_add(1);
                app.healing.retry_at = Some(now.mono.plus_ms(pause));
                app.healing.last = Some(Reason::new("HealthCheckFailed", message, now.wall));
                app.instance += 1;
                let message = format!("{message}; restarting it");
                self.emit("health.failed", Some(active), Some("HealthCheckFailed"), message);
                self.actions.push(Action::Stop { app: self.name.clone() });
            }
            _ => app.healing_good_since = None,
        }
    }

    /// Releases that nothing refers to are deleted.
    fn discard(&mut self) {
        let Some(observed) = self.observed else { return };
        if self.busy.acting || self.busy.staging {
            return;
        }
        let mut keep: Vec<_> = [&self.app.active, &self.app.previous]
            .into_iter()
            .flatten()
            .map(|installed| installed.manifest)
            .chain(self.offer.map(|offer| offer.release.manifest))
            .chain(observed.running.iter().map(|running| running.manifest))
            .collect();
        keep.sort();
        keep.dedup();
        let idle = !self.actions.iter().any(|action| {
            matches!(action, Action::Start { app, .. } | Action::Stop { app } | Action::Stage { app, .. } if app == self.name)
        });
        if idle && self.offer.is_some() && observed.staged.iter().any(|staged| !keep.contains(staged)) {
            self.actions.push(Action::Discard { app: self.name.clone(), keep });
        }
    }
}
