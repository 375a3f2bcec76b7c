//! The decision.

use std::collections::BTreeSet;

use super::fellows::Fellows;
use super::ladder::HealingPolicy;
use super::room::{NO_ROOM, ROOM_AGAIN_MS};
use super::state::{
    Action, AppState, Attempts, Busy, Checks, DeviceState, Event, Healing, Inputs, Installed, LocalHours,
    MonoMs, Now, Observed, Offer, Offered, Outcome, Refused, Terms, Trial,
};
use super::view;
use crate::device::AppPhase;
use crate::incident::{ActionKind, IncidentCause};
use crate::name::Name;
use crate::object::Reason;
use crate::time::{DAY_MS, MINUTE_MS, UnixMs};

/// Pauses between attempts to stage: from one second to five minutes.
const STAGE_BACKOFF_MS: i64 = 1_000;
const STAGE_BACKOFF_MAX_MS: i64 = 5 * MINUTE_MS;

/// Decides for all apps of a device. Equal state and inputs give equal decisions; an action that is still under way
/// (`busy`) is not asked for again.
#[must_use]
pub fn decide(mut state: DeviceState, inputs: &Inputs, now: Now) -> (DeviceState, Vec<Action>) {
    let mut actions = Vec::new();
    for outcome in &inputs.outcomes {
        take_outcome(&mut state, outcome, &inputs.policy, now, &mut actions);
    }
    let mut names: BTreeSet<Name> = state.apps.keys().cloned().collect();
    names.extend(inputs.desired.iter().flatten().map(|offer| offer.app.clone()));
    names.extend(inputs.observed.iter().flat_map(|apps| apps.keys().cloned()));
    let fellows = Fellows::of(&state, inputs);
    let day_ago = |at: UnixMs| now.wall.since_ms(at) >= DAY_MS || at > now.wall;
    let mut may_reboot = state.rebooted_at.is_none_or(day_ago);
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
            policy: &inputs.policy,
            hours: &inputs.hours,
            disk_short: inputs.disk_short,
            fellows: &fellows,
            may_reboot,
        };
        if inputs.restart.contains(&name) {
            decision.app.renew();
        }
        if let Some(reason) = inputs.rollback.get(&name) {
            decision.go_back(reason);
        }
        if inputs.stopped {
            decision.halt();
        } else if inputs.desired.is_some() && decision.offer.is_none() {
            decision.remove();
        } else {
            decision.go();
        }
        may_reboot &= !actions.iter().any(|action| matches!(action, Action::Reboot { .. }));
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
    if let Some(at) = actions.iter().position(|action| matches!(action, Action::Reboot { .. })) {
        // One reboot is enough for every app, and everything that was noted before it is kept first.
        let reboot = actions.remove(at);
        actions.retain(|action| matches!(action, Action::Emit(_)));
        actions.push(reboot);
        state.rebooted_at = Some(now.wall);
    }
    (state, actions)
}

fn take_outcome(
    state: &mut DeviceState,
    outcome: &Outcome,
    policy: &HealingPolicy,
    now: Now,
    actions: &mut Vec<Action>,
) {
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
                    healing: None,
                }));
            }
            if *refused {
                // Kept as refused and still tried again: the mirror may have lied, and may stop lying.
                app.refused = Some(Refused {
                    release: crate::id::ReleaseId(uuid::Uuid::nil()),
                    manifest: *manifest,
                    unsupported: code == "Unsupported",
                    reason,
                });
            }
        }
        Outcome::StartFailed { app, instance, message } => {
            let Some(app) = state.apps.get_mut(app) else { return };
            let reason = Reason::new("StartFailed", message, now.wall);
            if app.instance != *instance {
                if app.warm.is_some_and(|warm| warm.instance == *instance) {
                    // Nothing is left to be kept running: it is a plain activation from now on.
                    app.warm = None;
                    app.healing.last = Some(reason);
                }
                return;
            }
            let Some(active) = &app.active else { return };
            if let Some(trial) = &mut app.trial {
                trial.mishaps = trial.mishaps.saturating_add(1);
                trial.retry_at = Some(now.mono.plus_ms(policy.backoff(&active.terms, trial.mishaps - 1)));
            } else {
                let pause = policy.backoff(&active.terms, app.healing.failures);
                app.healing.failures = app.healing.failures.saturating_add(1);
                app.healing.retry_at = Some(now.mono.plus_ms(pause));
                app.restarted(1, now.mono);
            }
            app.healing.last = Some(reason);
        }
        Outcome::NoRoom { app, instance, message } => {
            let Some(app) = state.apps.get_mut(app) else { return };
            if app.instance != *instance && app.warm.is_none_or(|warm| warm.instance != *instance) {
                return;
            }
            let again = Some(now.mono.plus_ms(ROOM_AGAIN_MS));
            match &mut app.trial {
                Some(trial) => (trial.starting_since, trial.retry_at) = (None, again),
                None => app.healing.retry_at = again,
            }
            app.healing.last = Some(Reason::new(NO_ROOM, message, now.wall));
        }
        Outcome::SwitchFailed { app, instance, message } => {
            let Some(app) = state.apps.get_mut(app) else { return };
            if app.warm.is_some_and(|warm| warm.instance == *instance) {
                // It can't be gone back to without a start.
                app.warm = None;
                app.healing.last = Some(Reason::new("SwitchFailed", message, now.wall));
            }
            if app.instance != *instance {
                return;
            }
            let Some(active) = &app.active else { return };
            let pause = |failures| Some(now.mono.plus_ms(policy.backoff(&active.terms, failures)));
            if let Some(trial) = &mut app.trial {
                trial.retry_at = pause(0);
            } else {
                app.healing.retry_at = pause(app.healing.failures);
            }
            app.healing.last = Some(Reason::new("SwitchFailed", message, now.wall));
        }
    }
}

pub(super) struct Decision<'a> {
    pub(super) name: &'a Name,
    pub(super) app: &'a mut AppState,
    pub(super) offer: Option<&'a Offer>,
    pub(super) observed: Option<&'a Observed>,
    pub(super) checks: &'a Checks,
    pub(super) busy: Busy,
    pub(super) now: Now,
    pub(super) actions: &'a mut Vec<Action>,
    pub(super) policy: &'a HealingPolicy,
    pub(super) hours: &'a LocalHours,
    pub(super) disk_short: bool,
    pub(super) fellows: &'a Fellows,
    pub(super) may_reboot: bool,
}

pub(super) fn due(at: Option<MonoMs>, now: Now) -> bool {
    at.is_none_or(|at| now.mono >= at)
}

impl Decision<'_> {
    pub(super) fn emit(
        &mut self,
        kind: &'static str,
        of: Option<&Installed>,
        code: Option<&str>,
        message: String,
    ) {
        self.tell_of(kind, of, code, message, None);
    }

    /// Like [`Self::emit`], with the step of the healing ladder that it is.
    pub(super) fn tell_of(
        &mut self,
        kind: &'static str,
        of: Option<&Installed>,
        code: Option<&str>,
        message: String,
        healing: Option<Healing>,
    ) {
        self.actions.push(Action::Emit(Event {
            kind,
            app: self.name.clone(),
            message,
            release: of.map(|release| release.release),
            version: of.map(|release| release.version.clone()),
            code: code.map(str::to_owned),
            healing,
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
            highest: app.highest,
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
        if !observed.is_idle() || !observed.staged.is_empty() {
            self.actions.push(Action::Remove { app: self.name.clone() });
        }
    }

    /// The device is drained. What is there stays; a trial goes on where it was.
    fn halt(&mut self) {
        let runs = self.observed.is_some_and(|observed| !observed.is_idle());
        if runs && !self.busy.acting {
            self.actions.push(Action::Stop { app: self.name.clone() });
        }
        if let Some(trial) = &mut self.app.trial {
            (trial.starting_since, trial.healthy_since) = (None, None);
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
        self.keep_safe();
        self.run();
        self.tell_room();
        self.discard();
    }

    /// The runner has a process that the state does not know: the state was lost, or is older than the process.
    fn adopt(&mut self) {
        let running = self.observed.and_then(|observed| observed.all().next());
        let Some(running) = running else { return };
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
        let Some(running) = self.observed.and_then(|observed| observed.judged(self.app)) else { return };
        let (true, Some(active)) = (self.is_target(running), self.app.active.clone()) else { return };
        let now = Some((running.instance, running.restarts));
        match self.app.told {
            Some((instance, restarts)) if instance == running.instance => {
                if running.restarts > restarts {
                    if self.app.trial.is_none() && !self.is_full() {
                        self.app.restarted(running.restarts - restarts, self.now.mono);
                    }
                    let exit = running.last_exit.as_deref().unwrap_or("it ended");
                    let message = format!("{exit}; restarted for the {}. time", running.restarts);
                    let healing =
                        Healing { cause: IncidentCause::ProcessExit, step: ActionKind::AutoRestart };
                    self.tell_of("app.exited", Some(&active), None, message, Some(healing));
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
        self.app.restarts.clear();
        self.app.recreated = false;
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
        if trial.started || observed.all().any(|running| self.is_target(running)) {
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
        self.app.warm = None;
        self.app.renew();
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
        app.renew();
        if let Some(trial) = &mut app.trial {
            trial.starting_since = None;
            trial.healthy_since = None;
            trial.filled_since = None;
            trial.restarts = 0;
        }
        let active = app.active.clone();
        self.emit("config.changed", active.as_ref(), None, "restarting with the new config".to_owned());
    }
}
