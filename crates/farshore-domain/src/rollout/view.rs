//! What the driver knows of the devices, as [`super::decide`] sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::roster::Roster;
use super::state::Phase;
use crate::device::{AppPhase, Lifecycle, OFFLINE_AFTER_MS, Reachability};
use crate::id::{DeviceId, ReleaseId};
use crate::label::Labels;
use crate::name::Name;
use crate::policy::DeviceHours;
use crate::time::UnixMs;

/// All devices that have the rollout's app by placement and are in its channel, by id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetView {
    devices: Roster,
    /// By label and value: how many devices that are *not* in this view are down on purpose: permits of other rollouts and of the assignment
    /// driver, drains, reboots. They take places of the budgets of groups (`groupBy`).
    pub group_load: BTreeMap<(String, String), u32>,
    /// Where the rollouts stand that this one depends on, by name. A name that is not there does not exist (any more).
    pub dependencies: BTreeMap<Name, Phase>,
}

/// One device. Times are on the control plane's clock, never on the device's.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceView {
    pub id: DeviceId,
    pub name: Name,
    pub labels: Labels,
    pub reachability: Reachability,
    /// When anything was last received from it, a heartbeat included.
    pub last_seen: Option<UnixMs>,
    pub lifecycle: Lifecycle,
    /// The IANA zone whose wall clock its windows follow; UTC when none.
    pub time_zone: Option<String>,
    /// When it may fetch and install, as its policies say; the windows of the rollout count as well. Devices with the same policies share it.
    pub hours: Option<Arc<DeviceHours>>,
    /// A pin decides on this app, not the rollout.
    pub pinned: bool,
    /// The release has slots, and the device has not said that it can keep two instances of an app.
    pub incapable: bool,
    /// Down on purpose until then, because of something else: a permit of a superseded rollout or of the assignment driver.
    /// Such a device uses one place of the budget.
    pub busy_until: Option<UnixMs>,
    /// What it last reported of the app.
    pub app: AppReport,
    /// What is measured and told of it; none when nothing is known. Filled in for rollouts whose conditions need it
    /// ([`super::Rollout::needs_signals`]).
    pub signals: Option<Box<Signals>>,
}

/// What conditions of gates and tripwires read of one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// By name, see [`crate::condition::device::METRICS`].
    pub metrics: BTreeMap<String, Reading>,
    /// Opened since it has the new release.
    pub incidents: u32,
    /// Told since it has the new release, by name, see [`crate::condition::device::EVENTS`].
    pub events: BTreeMap<String, u32>,
}

/// One metric of one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub latest: f64,
    /// The mean over the time before it got the new release, where that is known.
    pub baseline: Option<f64>,
}

/// What a device reported of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppReport {
    /// The release that is active, committed or not.
    pub active: Option<ReleaseId>,
    pub phase: AppPhase,
    /// Whether the active release has passed its checks and soak on the device.
    pub committed: bool,
    /// The release it last went back from by itself.
    pub failed_release: Option<ReleaseId>,
    /// The release it refuses or does not support.
    pub refused_release: Option<ReleaseId>,
    /// Why it failed, refuses or is held, in its words.
    pub reason: Option<String>,
    /// The highest `resumed` it has seen.
    pub resumed: u64,
    /// When this was received.
    pub reported_at: Option<UnixMs>,
}

impl Default for AppReport {
    /// Nothing reported yet.
    fn default() -> Self {
        Self {
            active: None,
            phase: AppPhase::Absent,
            committed: false,
            failed_release: None,
            refused_release: None,
            reason: None,
            resumed: 0,
            reported_at: None,
        }
    }
}

impl FleetView {
    /// A view of these devices; of two with one id the later one counts.
    pub fn new(devices: impl IntoIterator<Item = DeviceView>) -> Self {
        let devices = devices.into_iter().map(|device| (device.id, device)).collect();
        Self { devices, group_load: BTreeMap::new(), dependencies: BTreeMap::new() }
    }

    #[must_use]
    pub fn get(&self, device: DeviceId) -> Option<&DeviceView> {
        self.devices.get(&device)
    }

    #[must_use]
    pub fn get_mut(&mut self, device: DeviceId) -> Option<&mut DeviceView> {
        self.devices.get_mut(&device)
    }

    pub fn insert(&mut self, device: DeviceView) {
        self.devices.insert(device.id, device);
    }

    pub fn remove(&mut self, device: DeviceId) -> Option<DeviceView> {
        self.devices.remove(&device)
    }

    /// All devices, by id.
    pub fn iter(&self) -> impl Iterator<Item = &DeviceView> {
        self.devices.values()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// How many devices have each value of a label.
    #[must_use]
    pub fn group_sizes(&self, label: &str) -> BTreeMap<&str, u32> {
        let mut sizes = BTreeMap::new();
        for value in
            self.iter().filter(|device| device.counts()).filter_map(|device| device.labels.get(label))
        {
            *sizes.entry(value).or_insert(0) += 1;
        }
        sizes
    }

    /// The devices that may become the population of a rollout: claimed and not pinned.
    pub fn eligible(&self) -> impl Iterator<Item = DeviceId> {
        self.iter().filter(|device| device.may_change()).map(|d| d.id)
    }
}

impl DeviceView {
    /// A claimed, online device that has reported nothing of the app yet.
    #[must_use]
    pub fn new(id: DeviceId, name: Name) -> Self {
        Self {
            id,
            name,
            labels: Labels::default(),
            reachability: Reachability::Online,
            last_seen: None,
            lifecycle: Lifecycle::Claimed,
            time_zone: None,
            hours: None,
            pinned: false,
            incapable: false,
            busy_until: None,
            app: AppReport::default(),
            signals: None,
        }
    }

    /// Whether a permit would reach it now.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.reachability == Reachability::Online
    }

    /// Whether it does not have this release and can't run it.
    #[must_use]
    pub fn is_unable(&self, release: ReleaseId) -> bool {
        self.incapable && self.app.active != Some(release)
    }

    /// Whether it is a rollout's to change: claimed and not pinned.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.lifecycle == Lifecycle::Claimed && !self.pinned
    }

    /// Whether nobody waits for it any more: offline, or stale for as long as it takes to be offline. Between the two it may come back at any moment.
    #[must_use]
    pub fn is_away(&self, now: UnixMs) -> bool {
        match self.reachability {
            Reachability::Online => false,
            Reachability::Stale => self.last_seen.is_none_or(|seen| now.since_ms(seen) >= OFFLINE_AFTER_MS),
            Reachability::Offline | Reachability::Unknown => true,
        }
    }

    /// Whether something else keeps it down on purpose now: a permit of something else, a drain.
    #[must_use]
    pub fn is_busy(&self, now: UnixMs) -> bool {
        self.busy_until.is_some_and(|until| until > now)
            || matches!(self.lifecycle, Lifecycle::Draining | Lifecycle::Drained)
    }

    /// Whether it does its work: reachable, the app active and its checks good. What can't be seen is not up.
    #[must_use]
    pub fn is_up(&self, now: UnixMs) -> bool {
        let works = self.app.active.is_some() && self.app.phase != AppPhase::Failing;
        self.is_online() && works && !self.is_busy(now)
    }

    /// Whether it is one of the devices that a group consists of.
    #[must_use]
    pub fn counts(&self) -> bool {
        !matches!(self.lifecycle, Lifecycle::Pending | Lifecycle::Decommissioning | Lifecycle::Decommissioned)
    }

    /// Whether it is in the middle of activating this release: active, and neither committed nor given up.
    #[must_use]
    pub fn is_trying(&self, release: ReleaseId) -> bool {
        self.app.active == Some(release) && !self.app.committed && self.app.phase != AppPhase::Failing
    }

    /// Whether it runs this release for good.
    #[must_use]
    pub fn has_committed(&self, release: ReleaseId) -> bool {
        self.app.active == Some(release) && self.app.committed && self.app.phase != AppPhase::Failing
    }
}
