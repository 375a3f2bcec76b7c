//! What a device says of itself: phases, health, conformance, and why.

use super::fellows::Fellows;
use super::room::waits_for_room;
use super::state::{AppState, Checks, Closed, DeviceState, Inputs, Offer, Running};
use crate::device::{AppPhase, Conformance, Health};
use crate::id::{PermitId, ReleaseId};
use crate::name::Name;
use crate::object::Reason;
use crate::release::isolation::Isolation;
use crate::time::UnixMs;
use crate::version::Version;

/// The reason code of an app that runs with less isolation than its device's policy demands by now.
const OLD_ISOLATION: &str = "OldIsolation";

/// One app as reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppView {
    pub app: Name,
    pub phase: AppPhase,
    pub health: Health,
    pub conformance: Conformance,
    pub active: Option<(ReleaseId, Version)>,
    pub staged: Option<ReleaseId>,
    pub previous: Option<ReleaseId>,
    pub failed: Option<ReleaseId>,
    pub refused: Option<ReleaseId>,
    pub committed: bool,
    pub permit: Option<PermitId>,
    pub restarts: u32,
    pub resumed: u64,
    pub reasons: Vec<Reason>,
    /// What the running instance is kept apart from, where that is known.
    pub isolation: Option<Isolation>,
}

/// The whole device as reported; the worst app counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    pub health: Health,
    pub conformance: Conformance,
    pub reasons: Vec<Reason>,
    pub apps: Vec<AppView>,
}

fn offer_of<'a>(inputs: &'a Inputs, name: &Name) -> Option<&'a Offer> {
    inputs.desired.iter().flatten().find(|offer| offer.app == *name)
}

fn running_of<'a>(app: &AppState, inputs: &'a Inputs, name: &Name) -> Option<&'a Running> {
    inputs.observed.as_ref()?.get(name)?.judged(app)
}

fn checks_of<'a>(inputs: &'a Inputs, name: &Name) -> &'a Checks {
    inputs.checks.get(name).unwrap_or(&Checks::Unknown)
}

/// Whether a committed release restarts so often that it counts as failing.
fn restarts_too_often(app: &AppState, running: Option<&Running>) -> bool {
    let max = app.active.as_ref().map_or(0, |active| active.terms.max_restarts);
    running.map_or(0, |running| running.restarts).max(app.healing.failures) > max
}

pub(super) fn phase(app: &AppState, inputs: &Inputs, name: &Name) -> AppPhase {
    let running = running_of(app, inputs, name);
    if inputs.stopped && inputs.observed.is_some() && app.active.is_some() {
        return if running.is_some() { AppPhase::Stopping } else { AppPhase::Stopped };
    }
    let Some(offer) = offer_of(inputs, name) else {
        return match (inputs.desired.is_some(), running.is_some() || app.active.is_some()) {
            (true, true) => AppPhase::Stopping,
            (false, true) => AppPhase::Running,
            (_, false) => AppPhase::Absent,
        };
    };
    let wanted = offer.release.manifest;
    let up = running.is_some_and(|running| app.is_target(running));
    if let Some(trial) = &app.trial {
        return if trial.healthy_since.is_some() && up { AppPhase::Soaking } else { AppPhase::Starting };
    }
    if app.active.is_some() && app.returning {
        return AppPhase::RollingBack;
    }
    let held = app.is_held(wanted);
    match &app.active {
        Some(active) if active.manifest == wanted => active_phase(app, running, checks_of(inputs, name)),
        Some(_) if held => AppPhase::Held,
        None if held => AppPhase::Failing,
        active => match &app.refused {
            Some(refused) if active.is_none() && refused.manifest == wanted => {
                if refused.unsupported {
                    AppPhase::Unsupported
                } else {
                    AppPhase::Refused
                }
            }
            Some(refused) if refused.manifest == wanted => {
                active_phase(app, running, checks_of(inputs, name))
            }
            _ if app.staged.is_some() => AppPhase::Staged,
            _ if inputs.observed.is_none() && active.is_none() => AppPhase::Absent,
            _ => AppPhase::Downloading,
        },
    }
}

fn active_phase(app: &AppState, running: Option<&Running>, checks: &Checks) -> AppPhase {
    let failed = matches!(checks, Checks::Failed { .. } | Checks::Breached { .. });
    match running {
        Some(running) if app.is_target(running) && running.up && !failed => AppPhase::Running,
        running if failed || restarts_too_often(app, running) => AppPhase::Failing,
        _ => AppPhase::Starting,
    }
}

fn health(app: &AppState, inputs: &Inputs, name: &Name) -> Health {
    let running = running_of(app, inputs, name);
    if app.active.is_none() {
        let failing = app.failed.is_some() && offer_of(inputs, name).is_some();
        return if failing { Health::Failing } else { Health::Unknown };
    }
    if inputs.observed.is_none() || inputs.stopped {
        return Health::Unknown;
    }
    let up = running.is_some_and(|running| running.up && app.is_target(running));
    match checks_of(inputs, name) {
        Checks::Failed { .. } | Checks::Breached { .. } => Health::Failing,
        _ if restarts_too_often(app, running) && !up => Health::Failing,
        Checks::Good if up => Health::Healthy,
        Checks::Wavering { .. } => Health::Degraded,
        Checks::Unknown if app.trial.is_some() => Health::Unknown,
        Checks::Unknown if up => Health::Unknown,
        _ => Health::Degraded,
    }
}

fn conformance(app: &AppState, offer: Option<&Offer>) -> Conformance {
    let Some(offer) = offer else { return Conformance::Converging };
    let wanted = offer.release.manifest;
    let active = app.active.as_ref().is_some_and(|active| active.manifest == wanted);
    if active && app.trial.is_none() {
        return Conformance::Conforming;
    }
    if app.is_held(wanted) {
        return Conformance::Held;
    }
    match &app.refused {
        Some(refused) if refused.manifest == wanted && refused.unsupported => Conformance::Unsupported,
        Some(refused) if refused.manifest == wanted => Conformance::Diverged,
        _ => Conformance::Converging,
    }
}

fn reasons(app: &AppState, inputs: &Inputs, name: &Name) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let offer = offer_of(inputs, name);
    let since = app.phase_since;
    if let Some(failed) = &app.failed {
        let kept = app.active.as_ref().map_or_else(
            || "nothing runs".to_owned(),
            |active| format!("version {} is kept", active.version),
        );
        let text = format!("version {} failed here: {}; {kept}", failed.version, failed.reason.message);
        reasons.push(Reason::new(&failed.reason.code, text, failed.reason.since));
    }
    if let Some(refused) =
        app.refused.as_ref().filter(|r| offer.is_some_and(|o| o.release.manifest == r.manifest))
    {
        reasons.push(refused.reason.clone());
    }
    match (app.phase, offer) {
        (AppPhase::Downloading, Some(offer))
            if inputs.hours.download.is_some()
                && !inputs.hours.going_back.contains(name)
                && !inputs.busy.get(name).is_some_and(|busy| busy.staging) =>
        {
            let waits = inputs.hours.download.as_ref().map(Closed::reason);
            reasons.extend(waits.map(|(code, what)| {
                let text = format!("version {} is fetched in {what}", offer.release.version);
                Reason::new(code, text, since)
            }));
        }
        (AppPhase::Downloading, Some(offer)) => {
            let text = format!("fetching and verifying version {}", offer.release.version);
            reasons.push(Reason::new("Downloading", text, since));
            if app.refused.is_none()
                && let Some(last) = &app.staging.last
            {
                reasons.push(last.clone());
            }
        }
        (AppPhase::Staged, Some(offer)) => {
            let closed = inputs.hours.install.as_ref().filter(|_| !inputs.hours.going_back.contains(name));
            let (code, what) =
                closed.map_or_else(|| ("WaitingForPermit", "a permit".to_owned()), Closed::reason);
            let text = format!("version {} is ready and waits for {what}", offer.release.version);
            reasons.push(Reason::new(code, text, since));
        }
        (AppPhase::Starting | AppPhase::Soaking, _) if app.trial.is_some() => {
            let version = app.active.as_ref().map_or("?", |active| active.version.as_str());
            let kept = app.warm.and(app.previous.as_ref()).map(|before| &before.version);
            let (code, text) = if let (AppPhase::Soaking, Some(kept)) = (app.phase, kept) {
                (
                    "Soaking",
                    format!("version {version} has the traffic; {kept} is kept running for its soak time"),
                )
            } else if let Some(kept) = kept {
                ("StartingBeside", format!("version {version} runs beside {kept} and is not healthy yet"))
            } else if app.phase == AppPhase::Soaking {
                ("Soaking", format!("version {version} is healthy and must stay so for its soak time"))
            } else {
                ("Starting", format!("version {version} was activated and is not healthy yet"))
            };
            reasons.push(Reason::new(code, text, since));
        }
        (AppPhase::Stopping, _) => {
            reasons.push(Reason::new("NotPlaced", "no placement asks for this app any more", since));
        }
        _ => {}
    }
    if let Checks::Failed { message } | Checks::Wavering { message } = checks_of(inputs, name) {
        reasons.push(Reason::new("HealthCheckFailed", message, since));
    }
    if let Checks::Breached { message } = checks_of(inputs, name) {
        reasons.push(Reason::new("PolicyBreach", message, since));
    }
    if let Some(running) = running_of(app, inputs, name).filter(|running| !running.up) {
        let exit = running.last_exit.as_deref().unwrap_or("it ended");
        let text = format!("waits to be restarted (restart {}): {exit}", running.restarts + 1);
        reasons.push(Reason::new("Restarting", text, since));
    } else if app.trial.is_none()
        && let Some(last) = &app.healing.last
    {
        reasons.push(last.clone());
    }
    // A policy restarts nothing: that is for whoever knows how many may be disturbed at once.
    if let Some(running) = running_of(app, inputs, name)
        && running.isolation.as_ref().is_some_and(|isolation| isolation.falls_short_of(&inputs.isolation))
    {
        let text = "it was started before the device's policy demanded more isolation, and has it from its next start on";
        reasons.push(Reason::new(OLD_ISOLATION, text, since));
    }
    reasons
}

/// An app that is to be started after another one, which is not up.
fn waits_for_others(
    app: &AppState,
    running: Option<&Running>,
    fellows: &Fellows,
    name: &Name,
) -> Option<Reason> {
    app.active.as_ref().filter(|_| running.is_none())?;
    let need = fellows.waits_for(name)?;
    Some(Reason::new(
        "WaitingForApp",
        format!("it is started after {need}, which is not up"),
        app.phase_since,
    ))
}

/// What to report, from the state after a decision and the inputs it was made from. `since` stamps what concerns the
/// device itself: when the agent started or lost its runner.
#[must_use]
pub fn view(state: &DeviceState, inputs: &Inputs, since: UnixMs) -> DeviceView {
    let mut apps = Vec::new();
    let fellows = Fellows::of(state, inputs);
    for (name, app) in &state.apps {
        let offer = offer_of(inputs, name);
        if offer.is_none() && app.active.is_none() && app.phase == AppPhase::Absent {
            continue;
        }
        let committed = app.active.is_some() && app.trial.is_none();
        let running = running_of(app, inputs, name);
        let observed = inputs.observed.as_ref().and_then(|apps| apps.get(name));
        let halted = inputs.stopped || offer.is_none() && inputs.desired.is_some();
        let room = waits_for_room(app, observed, offer).filter(|_| !halted);
        apps.push(AppView {
            app: name.clone(),
            phase: app.phase,
            health: health(app, inputs, name),
            conformance: conformance(app, offer),
            active: app.active.as_ref().map(|active| (active.release, active.version.clone())),
            staged: app.staged.as_ref().map(|staged| staged.release),
            previous: app.previous.as_ref().map(|previous| previous.release),
            failed: app.failed.as_ref().map(|failed| failed.release),
            refused: app
                .refused
                .as_ref()
                .filter(|refused| offer.is_some_and(|offer| offer.release.manifest == refused.manifest))
                .and_then(|_| offer.map(|offer| offer.release.uid)),
            committed,
            permit: app.permit,
            restarts: running.map_or(0, |running| running.restarts).saturating_add(app.healing.failures),
            resumed: app.resumed,
            reasons: waits_for_others(app, running, &fellows, name)
                .into_iter()
                .chain(room)
                .chain(reasons(app, inputs, name))
                .collect(),
            isolation: running.and_then(|running| running.isolation.clone()),
        });
    }
    let worst = |of: fn(&AppView) -> u8| apps.iter().map(of).max().unwrap_or(0);
    let health = match worst(|app| match app.health {
        Health::Healthy => 1,
        Health::Unknown => 2,
        Health::Degraded => 3,
        Health::Failing => 4,
    }) {
        4 => Health::Failing,
        3 => Health::Degraded,
        2 => Health::Unknown,
        _ => Health::Healthy,
    };
    let conformance = match worst(|app| match app.conformance {
        Conformance::Unsupported => 5,
        Conformance::Held => 4,
        Conformance::Diverged => 3,
        Conformance::Converging => 2,
        Conformance::Conforming | Conformance::Unknown => 1,
    }) {
        5 => Conformance::Unsupported,
        4 => Conformance::Held,
        3 => Conformance::Diverged,
        2 => Conformance::Converging,
        _ if inputs.desired.is_none() => Conformance::Converging,
        _ => Conformance::Conforming,
    };
    let mut reasons = Vec::new();
    if inputs.observed.is_none() {
        let text = "the runner does not answer; apps are neither started nor stopped";
        reasons.push(Reason::new("RunnerUnreachable", text, since));
    }
    if inputs.desired.is_none() {
        reasons.push(Reason::new("NoDesiredState", "no desired state was received yet", since));
    }
    for app in &apps {
        let unwell = app.health != Health::Healthy || app.conformance != Conformance::Conforming;
        let old = || app.reasons.iter().find(|reason| reason.code == OLD_ISOLATION);
        if let Some(reason) = app.reasons.first().filter(|_| unwell).or_else(old) {
            let text = format!("{}: {}", app.app, reason.message);
            reasons.push(Reason::new(&reason.code, text, reason.since));
        }
    }
    DeviceView { health, conformance, reasons, apps }
}
