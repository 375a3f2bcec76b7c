//! Which release each app of a device gets, and because of what.
//!
//! Placements say which apps a device has; its channel says which release; a pin overrides; a running rollout decides per device
//! between the channel's old and new release. Precedence: pin > rollout > channel.
//!
//! # Permits outside a rollout
//!
//! A device changes its release outside a rollout when a pin is set or lifted, when it changes its channel, or when it was away
//! while a rollout finished. It also installs an app for the first time. Nothing is activated without a permit, so the
//! assignment driver issues one wherever [`Assignment::needs_permit`] says so:
//!
//! - [`NeedsPermit::Install`]: the device runs nothing of this app, so nothing is disrupted. Issue it at once.
//! - [`NeedsPermit::Change`]: something that runs is replaced. Issue it as far as the driver's own limit of
//!   simultaneous changes allows, and show it to running rollouts as [`crate::rollout::DeviceView::busy_until`].
//!
//! A rollout issues the permits for its own devices; for those this is never set.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::desired::{Because, Permit};
use crate::device::{AppPhase, Lifecycle};
use crate::id::{DeviceId, ReleaseId};
use crate::label::Labels;
use crate::name::Name;
use crate::object::Reason;
use crate::rollout::{AppReport, Phase, Rollout};
use crate::selector::Selector;
use crate::time::UnixMs;

/// Which devices run an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub name: Name,
    pub app: Name,
    pub selector: Selector,
}

/// This device keeps this release of this app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub name: Name,
    pub app: Name,
    pub release: ReleaseId,
}

/// Everything that decides on one device's apps.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub device: DeviceId,
    pub labels: &'a Labels,
    pub lifecycle: Lifecycle,
    pub channel: &'a Name,
    /// What the device last reported, by app.
    pub reports: &'a BTreeMap<Name, AppReport>,
    /// All placements of the tenant.
    pub placements: &'a [Placement],
    /// What the device's channel points to, by app.
    pub pointers: &'a BTreeMap<Name, ReleaseId>,
    /// The pins of this device.
    pub pins: &'a [Pin],
    /// The newest rollout of each app in the device's channel, finished ones included (an aborted one may let devices keep what they have).
    pub rollouts: &'a [&'a Rollout],
    /// Permits that the driver itself has issued to this device, by app, with the release they are for.
    pub permits: &'a BTreeMap<Name, (ReleaseId, Permit)>,
}

/// What kind of permit the driver has to issue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NeedsPermit {
    /// Nothing of the app runs there yet: at once.
    Install,
    /// Something that runs is replaced: within the driver's limit.
    Change,
}

/// One app of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub app: Name,
    pub release: ReleaseId,
    pub because: Because,
    /// Live at `now`.
    pub permit: Option<Permit>,
    /// Set when the driver has to issue a permit.
    pub needs_permit: Option<NeedsPermit>,
    /// The chain of reasons, the nearest first.
    pub reasons: Vec<Reason>,
}

/// All apps of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignments {
    /// By app.
    pub apps: Vec<Assignment>,
    /// Apps that are placed on the device and get no release, with the reason.
    pub without: Vec<(Name, Reason)>,
}

/// Which releases a device should have at `now`. One assignment for each app, however many placements name it.
#[must_use]
pub fn assign(inputs: &Inputs<'_>, now: UnixMs) -> Assignments {
    match inputs.lifecycle {
        Lifecycle::Claimed => assign_claimed(inputs, now),
        Lifecycle::Cordoned | Lifecycle::Draining | Lifecycle::Drained => keep_what_runs(inputs, now),
        // Not in the fleet yet, or no longer; an unknown state of a newer version is treated as the safest one.
        Lifecycle::Pending | Lifecycle::Decommissioning | Lifecycle::Decommissioned | Lifecycle::Unknown => {
            Assignments::default()
        }
    }
}

fn assign_claimed(inputs: &Inputs<'_>, now: UnixMs) -> Assignments {
    let mut result = Assignments::default();
    let placed: BTreeSet<&Name> =
        inputs.placements.iter().filter(|p| p.selector.matches(inputs.labels)).map(|p| &p.app).collect();
    for app in placed {
        match assign_app(inputs, app, now) {
            Ok(assignment) => result.apps.push(assignment),
            Err(reason) => result.without.push((app.clone(), reason)),
        }
    }
    result
}

fn assign_app(inputs: &Inputs<'_>, app: &Name, now: UnixMs) -> Result<Assignment, Reason> {
    let report = inputs.reports.get(app);
    let active = report.and_then(|report| report.active);
    if let Some(pin) = inputs.pins.iter().find(|pin| pin.app == *app) {
        let because = Because::Pin { pin: pin.name.clone() };
        let reason = Reason::new("Pinned", format!("pin {} keeps this release", pin.name), now);
        return Ok(outside_a_rollout(inputs, app, pin.release, because, reason, now));
    }
    let pointer = inputs.pointers.get(app).copied();
    let rollout = inputs.rollouts.iter().find(|rollout| {
        let spec = rollout.spec();
        // An aborted rollout speaks only as long as the pointer is where it left it.
        let speaks = rollout.phase() != Phase::Aborted || rollout.from().map(|from| from.uid) == pointer;
        spec.app == *app && spec.channel == *inputs.channel && speaks
    });
    if let Some(rollout) = rollout
        && let Some(told) = rollout.assignment(inputs.device, active)
    {
        let name = rollout.name();
        let Some(release) = told.release else {
            let why = format!(
                "rollout {name}: the channel has no earlier release, and this device does not have the new one"
            );
            return Err(Reason::new("NoRelease", why, now));
        };
        let because = Because::Rollout {
            rollout: rollout.id(),
            name: name.clone(),
            wave: told.wave,
            forward: told.forward,
        };
        let what = if told.forward { "the new release" } else { "the old release" };
        let reason = Reason::new(
            "Rollout",
            format!("rollout {name}, wave {}: {what} ({})", told.wave, release.version),
            now,
        );
        if told.forward || told.permit.is_some() {
            return Ok(Assignment {
                app: app.clone(),
                release: release.uid,
                because,
                permit: told.permit.filter(|permit| permit.expires_at > now),
                needs_permit: None,
                reasons: vec![reason],
            });
        }
        let mut assignment = outside_a_rollout(inputs, app, release.uid, because, reason, now);
        // Going back from the new release is the rollout's to permit.
        if active == Some(rollout.to().uid) {
            assignment.needs_permit = None;
            assignment.permit = None;
        }
        return Ok(assignment);
    }
    let Some(release) = pointer else {
        let why = format!("channel {} has no release of {app}; start a rollout", inputs.channel);
        return Err(Reason::new("NoRelease", why, now));
    };
    let because = Because::Channel { channel: inputs.channel.clone() };
    let reason = Reason::new("Channel", format!("channel {} points to this release", inputs.channel), now);
    Ok(outside_a_rollout(inputs, app, release, because, reason, now))
}

fn outside_a_rollout(
    inputs: &Inputs<'_>,
    app: &Name,
    release: ReleaseId,
    because: Because,
    reason: Reason,
    now: UnixMs,
) -> Assignment {
    let report = inputs.reports.get(app);
    let active = report.and_then(|report| report.active);
    let held = report.is_some_and(|report| report.phase == AppPhase::Held);
    let permit = inputs
        .permits
        .get(app)
        .filter(|(of, permit)| *of == release && permit.expires_at > now)
        .map(|(_, permit)| *permit);
    let mut reasons = vec![reason];
    let needs_permit = if held {
        let why = "the device went back by itself and keeps what it has until somebody resumes it";
        reasons.insert(0, Reason::new("Held", why, now));
        None
    } else if active == Some(release) || permit.is_some() {
        None
    } else if active.is_none() {
        Some(NeedsPermit::Install)
    } else {
        Some(NeedsPermit::Change)
    };
    let permit = permit.filter(|_| !held && active != Some(release));
    Assignment { app: app.clone(), release, because, permit, needs_permit, reasons }
}

/// A cordoned or draining device keeps what it runs; nothing new comes, nothing is taken away.
fn keep_what_runs(inputs: &Inputs<'_>, now: UnixMs) -> Assignments {
    let apps = inputs
        .reports
        .iter()
        .filter_map(|(app, report)| {
            let release = report.active?;
            let pin = inputs.pins.iter().find(|pin| pin.app == *app && pin.release == release);
            let because = match pin {
                Some(pin) => Because::Pin { pin: pin.name.clone() },
                None => Because::Channel { channel: inputs.channel.clone() },
            };
            let why = format!("the device is {} and keeps what it runs", inputs.lifecycle);
            let reasons = vec![Reason::new("NothingNew", why, now)];
            Some(Assignment { app: app.clone(), release, because, permit: None, needs_permit: None, reasons })
        })
        .collect();
    Assignments { apps, without: Vec::new() }
}
