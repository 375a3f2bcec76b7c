//! What the reconciler remembers of each app, and what it is shown of the world.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ladder::HealingPolicy;
use crate::desired::DesiredRelease;
use crate::device::AppPhase;
use crate::digest::Digest;
use crate::id::{PermitId, ReleaseId};
use crate::incident::{ActionKind, IncidentCause};
use crate::name::Name;
use crate::object::Reason;
use crate::release::Manifest;
use crate::release::isolation::Isolation;
use crate::release::slot::Slot;
use crate::schedule::{self, Shut, WindowKind};
use crate::time::UnixMs;
use crate::version::Version;

/// Milliseconds on a clock that only goes forward and also counts while the device sleeps (`CLOCK_BOOTTIME`). Means
/// something within one boot only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonoMs(pub i64);

impl MonoMs {
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    #[must_use]
    pub fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The moment of a decision: one clock for durations, one for stamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    pub mono: MonoMs,
    pub wall: UnixMs,
}

/// What a manifest asks of whoever runs it, as far as deciding needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Version>,
    pub soak_ms: i64,
    pub start_timeout_ms: i64,
    pub max_restarts: u32,
    pub backoff_ms: i64,
    pub max_backoff_ms: i64,
}

impl Terms {
    /// The terms of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            floor: manifest.floor.clone(),
            soak_ms: i64::from(manifest.soak_seconds) * 1000,
            start_timeout_ms: i64::from(manifest.start_timeout_seconds) * 1000,
            max_restarts: manifest.restart.max_restarts,
            backoff_ms: i64::from(manifest.restart.backoff_ms),
            max_backoff_ms: i64::from(manifest.restart.max_backoff_ms),
        }
    }

    /// The pause before the next try after `tries` tries: doubles up to the cap.
    #[must_use]
    pub fn backoff(&self, tries: u32) -> i64 {
        self.backoff_ms.max(1).saturating_mul(1 << tries.min(24)).min(self.max_backoff_ms.max(1))
    }
}

/// A release that was switched to, or may be switched back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Installed {
    pub release: ReleaseId,
    pub version: Version,
    pub manifest: Digest,
    pub terms: Terms,
}

/// The time during which a new release must prove itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// It was seen running once: from here on no permit is needed.
    pub started: bool,
    /// Since when the present start lasts.
    pub starting_since: Option<MonoMs>,
    /// Since when all checks are good.
    pub healthy_since: Option<MonoMs>,
    /// When it was first seen to have filled the disk. What makes room now and then has not proven itself either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled_since: Option<MonoMs>,
    pub restarts: u32,
    /// Failed attempts to start it, and reboots of the device, during this trial.
    pub mishaps: u32,
    pub retry_at: Option<MonoMs>,
}

/// An instance that is kept running beside the release on trial. It needs no new start to be gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warm {
    pub manifest: Digest,
    pub instance: u64,
    /// Digest of the config it was made with.
    pub config: Option<Digest>,
}

impl Warm {
    pub(super) fn is(&self, running: &Running) -> bool {
        running.manifest == self.manifest && running.instance == self.instance
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// A release that was tried and given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    pub release: ReleaseId,
    pub version: Version,
    pub manifest: Digest,
    pub reason: Reason,
}

/// A release that could not even be staged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    pub release: ReleaseId,
    pub manifest: Digest,
    pub unsupported: bool,
    pub reason: Reason,
}

/// Attempts that did not succeed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempts {
    pub failures: u32,
    pub retry_at: Option<MonoMs>,
    pub last: Option<Reason>,
    /// The manifest that was to be staged, where that is what was attempted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Digest>,
}

/// Everything remembered of one app. Persisted before any action is carried out: `active` is the *intent*, and a
/// restart goes on from it with what the runner says is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppState {
    /// The release that should be running.
    pub active: Option<Installed>,
    /// The last release that was committed before `active`; what a local rollback takes.
    pub previous: Option<Installed>,
    /// Counts up whenever the app must be started anew. The runner labels the process with it.
    pub instance: u64,
    /// The highest number an instance ever had here: one that is gone back to keeps its own, and no later one gets a number twice.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub highest: u64,
    /// What ran before, and goes on running until the release that was started beside it has proven itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<Warm>,
    /// Digest of the config that the instance was made with.
    pub config: Option<Digest>,
    /// `None`: `active` is committed.
    pub trial: Option<Trial>,
    /// The permit under which `active` was activated.
    pub permit: Option<PermitId>,
    /// No release below this is ever activated again; outlives the app's removal.
    pub floor: Option<Version>,
    /// The release that failed last.
    pub failed: Option<Failed>,
    /// Every manifest that failed since the last commit or resume, at most 32; none is tried again by itself.
    #[serde(default)]
    pub given_up: Vec<Digest>,
    pub refused: Option<Refused>,
    /// The manifest that was last reported as staged.
    pub staged: Option<Installed>,
    pub staging: Attempts,
    /// Restarts of a committed release because of failing checks or failing starts.
    pub healing: Attempts,
    pub healing_good_since: Option<MonoMs>,
    /// When a committed release was restarted, oldest first, at most 64 of them.
    #[serde(default)]
    pub restarts: Vec<MonoMs>,
    /// It was set up anew within this budget of restarts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recreated: bool,
    /// Releases that were committed before `previous`, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<Digest>,
    /// When its logs were last cut back because the disk was short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs_cut_at: Option<MonoMs>,
    /// It was told that it waits for room on the disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub told_no_room: bool,
    /// Instance and restarts that were last told as events.
    #[serde(default)]
    pub told: Option<(u64, u32)>,
    /// On the way back to `active` after a failed release.
    pub returning: bool,
    /// The highest `resumed` seen.
    pub resumed: u64,
    pub phase: AppPhase,
    pub phase_since: UnixMs,
}

/// At most this many failed manifests are remembered for an app; the oldest is forgotten first.
pub(super) const MAX_GIVEN_UP: usize = 32;
/// More restarts than this within a window are not told apart; a policy can't ask for more.
const MAX_RESTARTS: usize = 64;

impl AppState {
    /// Whether this release failed here and waits for somebody to resume it.
    #[must_use]
    pub fn is_held(&self, manifest: Digest) -> bool {
        self.given_up.contains(&manifest)
    }

    /// What runs now must be started anew.
    pub(super) fn renew(&mut self) {
        self.highest = self.highest.max(self.instance).saturating_add(1);
        self.instance = self.highest;
    }

    /// The instance of before is the one that should run again, just as it is.
    pub(super) fn return_to(&mut self, warm: Warm) {
        self.highest = self.highest.max(self.instance);
        self.instance = warm.instance;
        self.config = warm.config;
    }

    /// Whether this process is the one that should run.
    pub(super) fn is_target(&self, running: &Running) -> bool {
        self.active.as_ref().is_some_and(|active| active.manifest == running.manifest)
            && running.instance == self.instance
    }

    /// Takes note of restarts.
    pub(super) fn restarted(&mut self, times: u32, now: MonoMs) {
        let times = usize::try_from(times).unwrap_or(MAX_RESTARTS).min(MAX_RESTARTS);
        self.restarts.extend(std::iter::repeat_n(now, times));
        let beyond = self.restarts.len().saturating_sub(MAX_RESTARTS);
        self.restarts.drain(..beyond);
    }

    /// How many restarts lie within the last `window_ms`.
    #[must_use]
    pub fn restarts_within(&self, window_ms: i64, now: MonoMs) -> u32 {
        let within = self.restarts.iter().filter(|at| now.since_ms(**at) < window_ms).count();
        u32::try_from(within).unwrap_or(u32::MAX)
    }
}

impl Default for AppState {
    fn default() -> Self {
        Self {
            active: None,
            previous: None,
            instance: 0,
            highest: 0,
            warm: None,
            config: None,
            trial: None,
            permit: None,
            floor: None,
            failed: None,
            given_up: Vec::new(),
            refused: None,
            staged: None,
            staging: Attempts::default(),
            healing: Attempts::default(),
            healing_good_since: None,
            restarts: Vec::new(),
            recreated: false,
            older: Vec::new(),
            logs_cut_at: None,
            told_no_room: false,
            told: None,
            returning: false,
            resumed: 0,
            phase: AppPhase::Absent,
            phase_since: UnixMs(0),
        }
    }
}

/// Everything remembered of all apps of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    pub apps: BTreeMap<Name, AppState>,
    /// When the healing ladder last rebooted the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebooted_at: Option<UnixMs>,
}

impl DeviceState {
    /// The device booted: monotonic times of the last boot mean nothing now. A release on trial that takes the device
    /// down with it must not get a fresh start each time, so the boot counts against it.
    pub fn rebooted(&mut self) {
        for app in self.apps.values_mut() {
            if let Some(trial) = &mut app.trial {
                trial.starting_since = None;
                trial.healthy_since = None;
                trial.filled_since = None;
                trial.retry_at = None;
                trial.restarts = 0;
                if trial.started {
                    trial.mishaps = trial.mishaps.saturating_add(1);
                }
            }
            app.staging.retry_at = None;
            app.healing.retry_at = None;
            app.healing_good_since = None;
            app.logs_cut_at = None;
            // A boot does not forgive: they count as restarts of this boot's first moment.
            app.restarts.fill(MonoMs(0));
        }
    }
}

/// One app of the desired state, with what is known of its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub app: Name,
    pub release: DesiredRelease,
    pub manifest: Offered,
    /// A permit with its end on this device's monotonic clock.
    pub permit: Option<LivePermit>,
    pub resumed: u64,
    /// Digest of the values the app is to get.
    pub config: Digest,
    /// Apps of this device that are started before it, and stopped after it.
    pub needs: Vec<Name>,
    /// It has slots, and may be started beside what runs.
    pub beside: bool,
}

/// What is known of the manifest an offer refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Signature, tenant, app, version, platform are good.
    Verified(Terms),
    Refused {
        code: String,
        message: String,
    },
    Unsupported {
        message: String,
    },
}

/// The right to activate, until a moment on this device's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivePermit {
    pub uid: PermitId,
    pub until: MonoMs,
}

/// What the runner says of one app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// Manifests whose release lies verified and unpacked.
    pub staged: BTreeSet<Digest>,
    /// The process that is supervised now; of an app with slots, the one in the current slot. There is never more than one in a slot.
    pub running: Option<Running>,
    /// The process in the other slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Running>,
    /// The traffic was to go to the current slot, and it is not known that it does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub switching: bool,
    /// An instance in the other slot that nobody supervises any more. It can only be ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stray: Option<u64>,
    /// The disk is full where it is kept or writes: what is stopped now might not be started again, and what fails may fail for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// The disk is full, and would not be without what the release that runs has written since it was first started here, which is not little. Never so
    /// of one that was committed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub filled: bool,
}

impl Observed {
    /// Whether nothing of the app is there.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.beside.is_none() && self.stray.is_none()
    }

    /// Everything that is supervised.
    pub fn all(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().chain(&self.beside)
    }

    /// What is judged: the process that should run, in whichever slot it is, else the one in the current slot.
    #[must_use]
    pub fn judged(&self, app: &AppState) -> Option<&Running> {
        self.all().find(|running| app.is_target(running)).or(self.running.as_ref())
    }
}

/// A supervised process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub manifest: Digest,
    pub release: ReleaseId,
    pub version: Version,
    pub instance: u64,
    pub config: Digest,
    /// False while it waits to be restarted.
    pub up: bool,
    /// How often it was restarted within this instance.
    pub restarts: u32,
    /// How the last process of this instance ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Of an app with slots: where it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// What this instance is kept apart from. `None`: no policy says that of its kind of app, or a runner of before does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
}

/// What the health checks of an instance say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Checks {
    /// Not every check has answered since the instance came up.
    #[default]
    Unknown,
    Good,
    /// At least one fails, and has not reached its threshold.
    Wavering {
        message: String,
    },
    /// At least one reached its threshold.
    Failed {
        message: String,
    },
    /// The checks say nothing against it, but a condition of the policy was true for long enough.
    Breached {
        message: String,
    },
}

/// What is under way for an app and must not be begun a second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// A release is being fetched or unpacked.
    pub staging: bool,
    /// A start, stop, discard or removal has not answered.
    pub acting: bool,
}

/// Everything a decision is made from, besides state and time.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `None`: no desired state was ever accepted; what is there is kept.
    pub desired: Option<Vec<Offer>>,
    /// `None`: the runner does not answer; nothing is started or stopped, and nothing is held against a release.
    pub observed: Option<BTreeMap<Name, Observed>>,
    /// Checks of the instance that `observed` shows.
    pub checks: BTreeMap<Name, Checks>,
    pub busy: BTreeMap<Name, Busy>,
    /// How actions ended since the last decision.
    pub outcomes: Vec<Outcome>,
    /// An operation asks for a restart of these apps.
    pub restart: BTreeSet<Name>,
    /// The device is drained: nothing runs, nothing is begun.
    pub stopped: bool,
    /// An operation asks that these apps go back to the release before, and why.
    pub rollback: BTreeMap<Name, String>,
    /// What the device's policy says about healing.
    pub policy: HealingPolicy,
    /// What the device's policy demands that apps are kept apart from.
    pub isolation: Isolation,
    /// What the windows of the device's policy say at this moment.
    pub hours: LocalHours,
    /// Less of the disk is free than the policy asks for.
    pub disk_short: bool,
}

/// When the device may begin by itself to fetch and to activate. Healing asks for no window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalHours {
    /// Shut for downloads; none when open.
    pub download: Option<Closed>,
    /// Shut for installs.
    pub install: Option<Closed>,
    /// Apps that are told to go back to an earlier release: at any hour.
    pub going_back: BTreeSet<Name>,
}

/// What keeps it shut, and until when where that is within a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub by: Shut,
    pub next: Option<UnixMs>,
}

impl Closed {
    /// A code, and what is waited for, in words.
    #[must_use]
    pub fn reason(&self) -> (&'static str, String) {
        let (code, what) = match self.by {
            Shut::Window(WindowKind::Maintenance) => ("MaintenanceWindow", "a maintenance window"),
            Shut::Window(WindowKind::Download) => ("DownloadWindow", "a download window"),
            Shut::Window(WindowKind::Energy) => ("EnergyWindow", "cheap hours"),
            Shut::Blackout => ("Blackout", "the end of a blackout"),
        };
        let next = match self.next {
            Some(next) => format!("it opens {}", schedule::text(next)),
            None => "none opens within a year".to_owned(),
        };
        (code, format!("{what} of its policy; {next}"))
    }
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Staged {
        app: Name,
        manifest: Digest,
    },
    /// `refused`: the bytes or their description are bad, not the way to them.
    StageFailed {
        app: Name,
        manifest: Digest,
        refused: bool,
        code: String,
        message: String,
    },
    StartFailed {
        app: Name,
        instance: u64,
        message: String,
    },
    SwitchFailed {
        app: Name,
        instance: u64,
        message: String,
    },
    /// It could not be started, or not get the traffic, because the disk is full. Says nothing about the release.
    NoRoom {
        app: Name,
        instance: u64,
        message: String,
    },
}

/// What to do. Carried out after the state was persisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch, verify, unpack beside what runs.
    Stage {
        app: Name,
        manifest: Digest,
    },
    /// Start a staged release. Refused by the runner while anything of the app runs, unless it has slots and its slot is free.
    Start {
        app: Name,
        release: Installed,
        instance: u64,
        config: Digest,
        /// In the slot that is not the current one.
        beside: bool,
    },
    /// Stop everything of the app.
    Stop {
        app: Name,
    },
    /// Stop this instance, and not what runs beside it.
    StopOne {
        app: Name,
        instance: u64,
    },
    /// Make the slot of this instance the current one, and send the traffic to it. Fine when that was done.
    Switch {
        app: Name,
        instance: u64,
    },
    /// The release has proven itself: the runner raises its floor.
    Commit {
        app: Name,
        manifest: Digest,
    },
    /// Delete releases other than these.
    Discard {
        app: Name,
        keep: Vec<Digest>,
    },
    /// Delete what its logs hold beyond the newest bytes: the disk is short.
    CutLogs {
        app: Name,
    },
    /// Reboot the device. The last action of a decision.
    Reboot {
        app: Name,
    },
    /// Stop it and delete everything of it but its floor.
    Remove {
        app: Name,
    },
    Emit(Event),
}

/// Something that happened, for the event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `release.staged`, `release.activated`, …
    pub kind: &'static str,
    pub app: Name,
    pub message: String,
    pub release: Option<ReleaseId>,
    pub version: Option<Version>,
    pub code: Option<String>,
    /// The step of the healing ladder that this tells of.
    pub healing: Option<Healing>,
}

/// A step that the device took by itself, and because of what. The event that carries it names the release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Healing {
    pub cause: IncidentCause,
    pub step: ActionKind,
}
