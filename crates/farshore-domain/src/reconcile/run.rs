//! From the release that should run to what runs: start, prove, heal, give up.

use super::decide::{Decision, due};
use super::ladder::{Rungs, Step};
use super::state::{Action, Attempts, Checks, Failed, Healing, Installed, MAX_GIVEN_UP, Observed, Running};
use crate::incident::{ActionKind, cause_of};
use crate::object::Reason;
use crate::time::MINUTE_MS;

/// The reason code of a release that somebody took back.
const ASKED: &str = "RolledBackOnRequest";
/// That of one that has filled the disk itself.
const DISK_FILLED: &str = "DiskFilled";
/// After this long in good health a committed release's restarts are forgotten.
const HEALED_AFTER_MS: i64 = 10 * MINUTE_MS;
/// Logs are cut back at most this often while the disk is short.
const CUT_AGAIN_MS: i64 = 10 * MINUTE_MS;
/// At most this many releases from before the last one are remembered.
const MAX_OLDER: usize = 10;

impl Decision<'_> {
    pub(super) fn is_target(&self, running: &Running) -> bool {
        self.app.is_target(running)
    }

    /// From `active` to what runs.
    pub(super) fn run(&mut self) {
        let Some(observed) = self.observed else { return };
        let Some(active) = self.app.active.clone() else {
            if !observed.is_idle() && !self.busy.acting {
                self.actions.push(Action::Stop { app: self.name.clone() });
            }
            return;
        };
        if self.busy.acting {
            return;
        }
        if let Some(trial) = &self.app.trial
            && trial.mishaps > active.terms.max_restarts
            && !observed.full
        {
            let last =
                self.app.healing.last.as_ref().map_or("the device restarted", |last| last.message.as_str());
            let message = format!("it did not start {} times; last: {last}", trial.mishaps);
            return self.give_up("StartFailed", &message);
        }
        if self.app.trial.as_ref().is_some_and(|trial| trial.started)
            && observed.is_idle()
            && self.has_filled()
        {
            return self.give_up(DISK_FILLED, "it has filled the disk, and does not run any more");
        }
        match &observed.running {
            Some(running) if self.is_target(running) => {
                if self.app.trial.is_some() {
                    self.prove(running, &active);
                } else if !self.step_down() {
                    self.heal(running, &active);
                }
                self.settle(observed, &active);
            }
            _ if self.beside(observed, &active) => {}
            _ if !observed.is_idle() => self.make_way(observed),
            _ if self.app.trial.is_none() && self.step_down() => {}
            _ => self.start(observed, active, false),
        }
    }

    /// What needs this app is stopped before it, and started after it again.
    pub(super) fn stop(&mut self) {
        let first = self.fellows.stop_first(self.name);
        if first.is_empty() {
            self.actions.push(Action::Stop { app: self.name.clone() });
            return;
        }
        for app in first {
            let stop = Action::Stop { app };
            if !self.actions.contains(&stop) {
                self.actions.push(stop);
            }
        }
    }

    pub(super) fn start(&mut self, observed: &Observed, active: Installed, beside: bool) {
        if !observed.staged.contains(&active.manifest) {
            // Its folder is gone: fetch it again.
            if !self.busy.staging && due(self.app.staging.retry_at, self.now) {
                self.actions.push(Action::Stage { app: self.name.clone(), manifest: active.manifest });
            }
            return;
        }
        if self.fellows.waits_for(self.name).is_some() {
            return;
        }
        let retry_at = match &mut self.app.trial {
            Some(trial) => {
                if !observed.full {
                    trial.starting_since.get_or_insert(self.now.mono);
                }
                trial.retry_at
            }
            None => self.app.healing.retry_at,
        };
        // What has proven itself here may get a little that is kept back for it; whoever carries it out says so where that is gone.
        if observed.full && self.app.trial.is_some() || !due(retry_at, self.now) {
            return;
        }
        let Some(config) = self.app.config.or(self.offer.map(|offer| offer.config)) else { return };
        self.app.config = Some(config);
        self.actions.push(Action::Start {
            app: self.name.clone(),
            release: active,
            instance: self.app.instance,
            config,
            beside,
        });
    }

    /// A release on trial runs.
    pub(super) fn prove(&mut self, running: &Running, active: &Installed) {
        let now = self.now.mono;
        let has_traffic = self.has_traffic(running);
        let (full, filled) = (self.is_full(), self.has_filled());
        let Some(trial) = &mut self.app.trial else { return };
        let first = !trial.started;
        trial.started = true;
        if running.restarts != trial.restarts {
            trial.restarts = running.restarts;
            trial.healthy_since = None;
            trial.starting_since = Some(now);
        }
        let since = if filled {
            // It may make room again, in the time that a start may take, once.
            (trial.starting_since, trial.healthy_since) = (None, None);
            *trial.filled_since.get_or_insert(now)
        } else {
            *trial.starting_since.get_or_insert(now)
        };
        let fit = running.up && *self.checks == Checks::Good && !filled;
        // The soak begins with the traffic.
        let gets_it = fit && has_traffic && trial.healthy_since.is_none();
        if gets_it {
            trial.healthy_since = Some(now);
        }
        // Whatever is wrong with it may be the want of room, unless that is its own doing: it is judged from the moment there is some.
        let waits = full && !filled && !(fit && trial.healthy_since.is_some());
        if waits {
            (trial.starting_since, trial.healthy_since) = (None, None);
        }
        let healthy_since = trial.healthy_since;
        let retry_at = trial.retry_at;
        if first {
            self.emit(
                "release.activated",
                Some(active),
                None,
                format!("version {} was started", active.version),
            );
        }
        if waits {
            return;
        }
        if running.restarts > active.terms.max_restarts {
            let exit = running.last_exit.as_deref().unwrap_or("it ended");
            let message = format!(
                "restarted {} times, more than {}; last: {exit}",
                running.restarts, active.terms.max_restarts
            );
            return self.give_up("RestartedTooOften", &message);
        }
        if gets_it && let (Some(_), Some(slot)) = (self.app.warm, running.slot) {
            let text = format!("version {} is healthy and has the traffic, in slot {slot}", active.version);
            self.emit("release.switched", Some(active), None, text);
        }
        match healthy_since {
            None if fit && now.since_ms(since) >= active.terms.start_timeout_ms => {
                let last = self.app.healing.last.as_ref().map_or("it was not done", |last| &last.message);
                let message = format!(
                    "healthy, but the traffic was not switched within {} s: {last}",
                    active.terms.start_timeout_ms / 1000
                );
                self.give_up("SwitchFailed", &message);
            }
            None if fit && due(retry_at, self.now) => {
                self.actions.push(Action::Switch { app: self.name.clone(), instance: running.instance });
            }
            None if now.since_ms(since) >= active.terms.start_timeout_ms => {
                let why = match self.checks {
                    Checks::Wavering { message }
                    | Checks::Failed { message }
                    | Checks::Breached { message } => message.clone(),
                    _ if !running.up => {
                        running.last_exit.clone().unwrap_or_else(|| "it is not running".to_owned())
                    }
                    Checks::Good => "its checks are good".to_owned(),
                    Checks::Unknown => "its checks have not answered".to_owned(),
                };
                let seconds = active.terms.start_timeout_ms / 1000;
                if filled {
                    let message =
                        format!("it has filled the disk, and made no room within {seconds} s: {why}");
                    return self.give_up(DISK_FILLED, &message);
                }
                self.give_up("StartTimeout", &format!("not healthy within {seconds} s: {why}"));
            }
            Some(_) if self.failing().is_some() => {
                let Some((code, message)) = self.failing() else { return };
                self.emit("health.failed", Some(active), Some(code), message.clone());
                self.give_up(code, &message);
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
        app.warm = None;
        app.failed = None;
        app.given_up.clear();
        app.healing = Attempts::default();
        app.recreated = false;
        if let Some(floor) = &active.terms.floor
            && app.floor.as_ref().is_none_or(|old| old < floor)
        {
            app.floor = Some(floor.clone());
        }
        self.actions.push(Action::Commit { app: self.name.clone(), manifest: active.manifest });
        let message = format!("version {} stayed healthy for its soak time", active.version);
        self.emit("release.committed", Some(active), None, message);
    }

    /// What the checks and conditions say against it: a code and a sentence.
    fn failing(&self) -> Option<(&'static str, String)> {
        match self.checks {
            Checks::Failed { message } => Some(("HealthCheckFailed", message.clone())),
            Checks::Breached { message } => Some(("PolicyBreach", message.clone())),
            _ => None,
        }
    }

    /// The safe-mode release, where it can be gone to: it lies on the device, is not below the floor and did not fail.
    fn safe(&self) -> Option<Installed> {
        let safe = self.policy.safe.get(self.name)?;
        let active = self.app.active.as_ref().map(|active| active.manifest);
        let there = self.observed.is_some_and(|observed| observed.staged.contains(&safe.manifest));
        let fits = there && active != Some(safe.manifest) && self.is_open_to(safe);
        fits.then(|| safe.clone())
    }

    fn is_open_to(&self, release: &Installed) -> bool {
        !self.app.is_held(release.manifest)
            && self.app.floor.as_ref().is_none_or(|floor| release.version >= *floor)
    }

    /// The safe-mode release is fetched once the app's own one is good, and kept.
    pub(super) fn keep_safe(&mut self) {
        let Some(observed) = self.observed else { return };
        let Some(safe) = self.policy.safe.get(self.name) else { return };
        let settled = self.app.active.is_some() && self.app.trial.is_none() && self.app.staged.is_none();
        let needed = !observed.staged.contains(&safe.manifest) && self.is_open_to(safe);
        let asked = self.actions.iter().any(|a| matches!(a, Action::Stage { app, .. } if app == self.name));
        if settled
            && needed
            && !asked
            && self.may_fetch()
            && !self.busy.staging
            && due(self.app.staging.retry_at, self.now)
        {
            self.actions.push(Action::Stage { app: self.name.clone(), manifest: safe.manifest });
        }
    }

    /// One step down the ladder, where the restarts of a committed release have used up what the policy allows. Says whether
    /// a step was taken.
    fn step_down(&mut self) -> bool {
        if self.is_full() {
            return false;
        }
        let restarts = self.app.restarts_within(self.policy.window_ms(), self.now.mono);
        let previous = self.app.previous.as_ref().filter(|previous| self.is_open_to(previous));
        let rungs = Rungs {
            previous: previous.is_some(),
            safe: self.safe().is_some(),
            recreated: self.app.recreated,
            may_reboot: self.may_reboot,
        };
        let step = self.policy.step(restarts, rungs);
        if step == Step::Restart {
            return false;
        }
        let minutes = self.policy.window_ms() / MINUTE_MS;
        let last = self.app.healing.last.as_ref().map_or("its process ended", |last| last.message.as_str());
        let why = self.failing().map_or_else(|| last.to_owned(), |(_, message)| message);
        let code = match &self.app.healing.last {
            Some(last) if ["HealthCheckFailed", "PolicyBreach"].contains(&last.code.as_str()) => {
                last.code.clone()
            }
            _ => "RestartedTooOften".to_owned(),
        };
        let message = format!("restarted {restarts} times within {minutes} min; last: {why}");
        match step {
            Step::Recreate => self.recreate(&code, &message),
            Step::Reboot => self.reboot(&code, &message),
            step => self.fall_to(step, &code, &message),
        }
        true
    }

    /// Everything of the app is stopped, and a new instance made. Its restarts go on counting.
    fn recreate(&mut self, code: &str, message: &str) {
        self.app.recreated = true;
        self.app.renew();
        self.app.healing.retry_at = None;
        let active = self.app.active.clone();
        let healing = Healing { cause: cause_of(Some(code)), step: ActionKind::Recreate };
        let text = format!("{message}; setting it up anew");
        self.tell_of("app.recreated", active.as_ref(), Some(code), text, Some(healing));
        if self.observed.is_some_and(|observed| !observed.is_idle()) {
            self.stop();
        }
    }

    /// The last resort: the device is rebooted, and its apps get a new budget.
    fn reboot(&mut self, code: &str, message: &str) {
        self.app.restarts.clear();
        self.app.recreated = false;
        self.app.healing = Attempts::default();
        let active = self.app.active.clone();
        let healing = Healing { cause: cause_of(Some(code)), step: ActionKind::Reboot };
        let text = format!("{message}; nothing is left to go back to: rebooting the device");
        self.tell_of("device.rebooting", active.as_ref(), Some(code), text, Some(healing));
        self.actions.push(Action::Reboot { app: self.name.clone() });
    }

    /// The release failed: one step down, to a release that was good or to nothing.
    fn give_up(&mut self, code: &str, message: &str) {
        let previous = self.app.previous.as_ref().is_some_and(|previous| self.is_open_to(previous));
        let step = match code {
            // Without room only what was good here is started.
            DISK_FILLED if previous => Step::Previous,
            _ => self.policy.fallback(previous, self.safe().is_some()),
        };
        self.fall_to(step, code, message);
    }

    fn fall_to(&mut self, step: Step, code: &str, message: &str) {
        self.fall(step, code, message);
        self.run();
    }

    /// Somebody asked that it goes back. Held from then on, like a release that failed.
    pub(super) fn go_back(&mut self, reason: &str) {
        if self.app.previous.as_ref().is_some_and(|previous| self.is_open_to(previous)) {
            let reason = if reason.is_empty() { "no reason was given" } else { reason };
            self.fall(Step::Previous, ASKED, reason);
        }
    }

    fn fall(&mut self, step: Step, code: &str, message: &str) {
        let safe = self.safe();
        let app = &mut *self.app;
        let Some(active) = app.active.take() else { return };
        // What was asked was the release that failed.
        self.checks = &Checks::Unknown;
        app.failed = Some(Failed {
            release: active.release,
            version: active.version.clone(),
            manifest: active.manifest,
            reason: Reason::new(code, message, self.now.wall),
        });
        if !app.given_up.contains(&active.manifest) {
            app.given_up.push(active.manifest);
        }
        if app.given_up.len() > MAX_GIVEN_UP {
            app.given_up.remove(0);
        }
        app.trial = None;
        app.permit = None;
        let previous = app.previous.take();
        let warm = app.warm.take().filter(|warm| {
            step == Step::Previous && previous.as_ref().is_some_and(|before| before.manifest == warm.manifest)
        });
        match warm {
            // It was not touched, or is still there: nothing has to be started.
            Some(warm) => app.return_to(warm),
            None => app.renew(),
        }
        app.healing = Attempts::default();
        app.healing_good_since = None;
        app.restarts.clear();
        app.recreated = false;
        app.active = match step {
            Step::Previous => previous,
            Step::SafeMode => safe,
            Step::Restart | Step::Recreate | Step::Reboot | Step::Hold => None,
        };
        app.returning = app.active.is_some();
        let back = app.active.clone();
        let taken = match (&back, step) {
            (None, _) => ActionKind::Hold,
            (Some(_), Step::SafeMode) => ActionKind::SafeMode,
            (Some(_), _) => ActionKind::Rollback,
        };
        // What somebody asked for is no incident.
        let healing = (code != ASKED).then(|| Healing { cause: cause_of(Some(code)), step: taken });
        match &back {
            Some(back) => {
                let what = if code == ASKED { "is taken back" } else { "failed" };
                let text =
                    format!("version {} {what}: {message}; going back to {}", active.version, back.version);
                self.tell_of("release.rolled-back", Some(&active), Some(code), text, healing);
            }
            None => {
                let text = format!(
                    "version {} failed: {message}; there is no earlier release to go back to",
                    active.version
                );
                self.tell_of("release.failed", Some(&active), Some(code), text, healing);
            }
        }
    }

    /// A committed release runs: its supervisor restarts it when it dies; failing checks restart it here.
    fn heal(&mut self, running: &Running, active: &Installed) {
        let now = self.now;
        let failing = self.failing();
        let full = self.is_full();
        let app = &mut *self.app;
        if running.up && app.found_no_room() {
            app.healing.last = None;
        }
        match self.checks {
            Checks::Good if running.up => {
                app.returning = false;
                let since = *app.healing_good_since.get_or_insert(now.mono);
                if now.mono.since_ms(since) >= HEALED_AFTER_MS.max(self.policy.window_ms()) {
                    app.healing = Attempts::default();
                    app.restarts.clear();
                    app.recreated = false;
                }
            }
            // A restart would not help, and might leave nothing.
            Checks::Failed { .. } | Checks::Breached { .. } if full => app.healing_good_since = None,
            Checks::Failed { .. } | Checks::Breached { .. } if running.up => {
                let Some((code, message)) = failing else { return };
                app.healing_good_since = None;
                if !due(app.healing.retry_at, now) {
                    return;
                }
                let pause = self
                    .policy
                    .backoff(&active.terms, app.healing.failures)
                    .max(active.terms.start_timeout_ms);
                app.healing.failures = app.healing.failures.saturating_add(1);
                app.healing.retry_at = Some(now.mono.plus_ms(pause));
                app.healing.last = Some(Reason::new(code, &message, now.wall));
                app.restarted(1, now.mono);
                app.renew();
                let text = format!("{message}; restarting it");
                let healing = Healing { cause: cause_of(Some(code)), step: ActionKind::AutoRestart };
                self.tell_of("health.failed", Some(active), Some(code), text, Some(healing));
                self.stop();
            }
            _ => app.healing_good_since = None,
        }
    }

    /// Releases that nothing refers to are deleted.
    pub(super) fn discard(&mut self) {
        let Some(observed) = self.observed else { return };
        if self.busy.acting || self.busy.staging {
            return;
        }
        let mut keep: Vec<_> = [&self.app.active, &self.app.previous]
            .into_iter()
            .flatten()
            .map(|installed| installed.manifest)
            .chain(self.offer.map(|offer| offer.release.manifest))
            .chain(observed.all().map(|running| running.manifest))
            .chain(self.policy.safe.get(self.name).map(|safe| safe.manifest))
            .collect();
        let others = self.policy.releases.unwrap_or(1).saturating_sub(1);
        let most = usize::try_from(others).unwrap_or(usize::MAX).min(MAX_OLDER);
        self.app.older.truncate(MAX_OLDER);
        if !self.disk_short {
            keep.extend(self.app.older.iter().take(most));
        }
        keep.sort();
        keep.dedup();
        let staging = |action: &Action| matches!(action, Action::Stage { app, .. } if app == self.name);
        let idle = !self.is_acting() && !self.actions.iter().any(staging);
        if idle && self.offer.is_some() && observed.staged.iter().any(|staged| !keep.contains(staged)) {
            if self.disk_short {
                let gone = observed.staged.iter().filter(|staged| !keep.contains(staged)).count();
                let text = format!("the disk is short: {gone} old releases are deleted");
                self.emit("disk.pruned", None, Some("DiskShort"), text);
            }
            self.actions.push(Action::Discard { app: self.name.clone(), keep });
        } else if idle && self.disk_short && self.offer.is_some() {
            self.cut_logs();
        }
    }

    /// With no release left to delete, logs are cut back; not again for a while.
    fn cut_logs(&mut self) {
        let now = self.now.mono;
        if self.app.logs_cut_at.is_some_and(|at| now.since_ms(at) < CUT_AGAIN_MS) {
            return;
        }
        self.app.logs_cut_at = Some(now);
        let text = "the disk is short: old log files of it are deleted".to_owned();
        self.emit("disk.pruned", None, Some("DiskShort"), text);
        self.actions.push(Action::CutLogs { app: self.name.clone() });
    }
}
