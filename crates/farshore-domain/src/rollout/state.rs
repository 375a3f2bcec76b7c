//! What is stored of a rollout. Fields are private; [`super::decide`] and the verbs are the only ways to change it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::member::{Member, Progress, is_false};
use super::spec::{RolloutSpec, SpecErrors};
use super::view::FleetView;
use super::wave::Wave;
use crate::desired::Permit;
use crate::device::AppPhase;
use crate::id::{DeviceId, PermitId, ReleaseId, RolloutId};
use crate::name::Name;
use crate::object::Reason;
use crate::release::slot::Activation;
use crate::time::{SECOND_MS, UnixMs};
use crate::version::Version;
use crate::word_enum;

/// At most this many history entries are kept; the oldest after the first are dropped and counted.
pub const MAX_HISTORY: usize = 200;

word_enum! {
    /// Where the rollout stands.
    Phase {
        /// Made, not started.
        Pending = "pending",
        Running = "running",
        /// Nothing is started until a person decides.
        Paused = "paused",
        /// Every device that was touched gets the old release back.
        RollingBack = "rolling-back",
        /// Final: the channel points to the new release.
        Succeeded = "succeeded",
        /// Final: halted, and everyone who can be reached has the old release again.
        Failed = "failed",
        /// Final: ended by a person, or nobody decided in time.
        Aborted = "aborted",
        /// Final: a newer rollout of the same channel and app took over.
        Superseded = "superseded",
    }
}

impl Phase {
    /// Whether nothing changes any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Aborted | Self::Superseded)
    }
}

word_enum! {
    /// Where a wave stands.
    WaveState {
        /// An earlier wave's gate is not open yet.
        Waiting = "waiting",
        Running = "running",
        /// Everyone who can be reached has reported; the wave must stay good for its soak.
        Soaking = "soaking",
        /// The soak is over; the gate's condition is not true.
        AtGate = "at-gate",
        /// Everything is good; people have to open the gate.
        AwaitingApproval = "awaiting-approval",
        /// The gate has opened.
        Passed = "passed",
        /// Too many failures.
        Halted = "halted",
    }
}

word_enum! {
    /// Why a rollout is paused.
    PauseReason {
        Operator = "operator",
        /// A wave halted and `onFailure` is `pause`, or there is nothing to go back to.
        Failures = "failures",
        /// A gate had too little evidence for too long.
        Inconclusive = "inconclusive",
        /// A wave halted that was too small for the promised error, and `onSmallWave` is `pause`.
        SmallWave = "small-wave",
        /// A tripwire's condition became true.
        Tripwire = "tripwire",
    }
}

/// A release with the version that people know it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct KnownRelease {
    pub uid: ReleaseId,
    pub version: Version,
}

/// A pause: since when, by whom, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    pub at: UnixMs,
    pub by: String,
    pub why: PauseReason,
}

/// One thing that happened, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    pub at: UnixMs,
    /// One CamelCase word, the kind of the event that goes with it.
    pub what: String,
    /// A user's name, or `engine`.
    pub who: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// The version of the stored state that this code writes.
const STATE_VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
struct StateVersion;

impl TryFrom<u32> for StateVersion {
    type Error = String;
    fn try_from(version: u32) -> Result<Self, String> {
        if version == STATE_VERSION {
            Ok(Self)
        } else {
            Err(format!("this version reads rollouts of state version {STATE_VERSION}, not {version}"))
        }
    }
}

impl From<StateVersion> for u32 {
    fn from(_: StateVersion) -> Self {
        STATE_VERSION
    }
}

/// A rollout with everything that was decided so far. Stored as JSON ([`Rollout::to_json`]) with the version of its shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rollout {
    state_version: StateVersion,
    pub(super) id: RolloutId,
    pub(super) name: Name,
    pub(super) spec: RolloutSpec,
    pub(super) from: Option<KnownRelease>,
    pub(super) to: KnownRelease,
    pub(super) phase: Phase,
    pub(super) phase_since: UnixMs,
    pub(super) created_at: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pause: Option<Pause>,
    /// How it ends when it has rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ends_as: Option<Phase>,
    /// The wave that goes back alone (`onFailure: rollback-wave`), while it does and until somebody decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wave_back: Option<u32>,
    /// The release has slots: only devices that can keep two instances of an app run it.
    #[serde(default, skip_serializing_if = "super::member::is_false")]
    pub(super) needs_slots: bool,
    /// Somebody said that the release is not good.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) rejected: bool,
    /// When everything that it depends on had succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unblocked_at: Option<UnixMs>,
    /// When the release was offered to the next channel, or that was found not to be wise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) promoted_at: Option<UnixMs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) superseded_by: Option<RolloutId>,
    /// When the next window opens that somebody waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next_opening: Option<UnixMs>,
    /// Whether the policies of any device say when something may be done, and whether they say when downloads begin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) policy_hours: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) policy_downloads: bool,
    /// How many devices it started with.
    pub(super) population: u32,
    /// The index of the wave that runs.
    pub(super) current: u32,
    pub(super) waves: Vec<Wave>,
    pub(super) members: BTreeMap<DeviceId, Member>,
    /// Why it is in its phase.
    pub(super) reasons: Vec<Reason>,
    pub(super) history: Vec<HistoryEntry>,
    #[serde(default)]
    pub(super) history_dropped: u32,
}

/// The stored text is no rollout of this version.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the stored rollout")]
pub struct LoadError(#[source] serde_json::Error);

/// The state could not be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the rollout's state")]
pub struct SaveError(#[source] serde_json::Error);

/// What the rollout says one device should have of its app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutAssignment {
    /// None: the device should not have the app (a first rollout that went back).
    pub release: Option<KnownRelease>,
    /// Whether this is the new release.
    pub forward: bool,
    /// The number of its wave, from 1.
    pub wave: u32,
    pub permit: Option<Permit>,
}

/// A permit that a device may still use, as far as anyone knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPermit {
    pub device: DeviceId,
    pub permit: PermitId,
    pub expires_at: UnixMs,
    pub revoked: bool,
}

/// The order of devices in a rollout: the SHA-256 of both ids.
#[must_use]
pub fn order_key(rollout: RolloutId, device: DeviceId) -> [u8; 32] {
    Sha256::new().chain_update(rollout.0.as_bytes()).chain_update(device.0.as_bytes()).finalize().into()
}

/// The population in its order.
#[must_use]
pub fn in_order(rollout: RolloutId, devices: impl IntoIterator<Item = DeviceId>) -> Vec<DeviceId> {
    let mut keyed: Vec<_> = devices.into_iter().map(|device| (order_key(rollout, device), device)).collect();
    keyed.sort_unstable();
    keyed.dedup();
    keyed.into_iter().map(|(_, device)| device).collect()
}

impl Rollout {
    /// A rollout that has not started. `to` is what `spec.release` was resolved to, `from` what the channel points to now (it is read again at
    /// the start); `by` is who made it.
    pub fn new(
        id: RolloutId,
        name: Name,
        spec: RolloutSpec,
        from: Option<KnownRelease>,
        to: KnownRelease,
        by: &str,
        now: UnixMs,
    ) -> Result<Self, SpecErrors> {
        spec.validate()?;
        let spec = spec.resolved();
        let mut rollout = Self {
            state_version: StateVersion,
            id,
            name,
            spec,
            from,
            to,
            phase: Phase::Pending,
            phase_since: now,
            created_at: now,
            started_at: None,
            pause: None,
            ends_as: None,
            wave_back: None,
            needs_slots: false,
            rejected: false,
            unblocked_at: None,
            promoted_at: None,
            superseded_by: None,
            next_opening: None,
            policy_hours: false,
            policy_downloads: false,
            population: 0,
            current: 0,
            waves: Vec::new(),
            members: BTreeMap::new(),
            reasons: vec![Reason::new("NotStarted", "waits for somebody to start it", now)],
            history: Vec::new(),
            history_dropped: 0,
        };
        let message = format!(
            "rollout of {} {} to {} made",
            rollout.spec.app, rollout.to.version, rollout.spec.channel
        );
        rollout.remember("RolloutCreated", by, message, None, now);
        Ok(rollout)
    }

    /// The same for a release that has slots.
    #[must_use]
    pub fn with_slots(mut self, has_slots: bool) -> Self {
        self.needs_slots = has_slots;
        self
    }

    /// Whether the release has slots, so that only devices that can keep two instances of an app run it.
    #[must_use]
    pub const fn needs_slots(&self) -> bool {
        self.needs_slots
    }

    /// How devices go to the new release: what the specification says, else `blue-green` where the release has slots.
    #[must_use]
    pub fn activation(&self) -> Activation {
        let usual = if self.needs_slots { Activation::BlueGreen } else { Activation::Replace };
        self.spec.activation.unwrap_or(usual)
    }

    /// The same without conditions of gates and tripwires, for a virtual fleet, which measures nothing. And whether there were any.
    #[must_use]
    pub fn without_conditions(mut self) -> (Self, bool) {
        let waves = self.spec.waves.iter_mut().filter_map(|wave| wave.gate.take()).count();
        let any = waves > 0 || self.spec.gate.take().is_some() || !self.spec.tripwires.is_empty();
        self.spec.gate = None;
        self.spec.tripwires.clear();
        (self, any)
    }

    /// Reads a stored state.
    pub fn from_json(text: &str) -> Result<Self, LoadError> {
        serde_json::from_str(text).map_err(LoadError)
    }

    /// Writes the state to store.
    pub fn to_json(&self) -> Result<String, SaveError> {
        serde_json::to_string(self).map_err(SaveError)
    }

    #[must_use]
    pub const fn id(&self) -> RolloutId {
        self.id
    }

    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    #[must_use]
    pub const fn spec(&self) -> &RolloutSpec {
        &self.spec
    }

    /// The release the channel pointed to at the start; none when this is the first.
    #[must_use]
    pub const fn from(&self) -> Option<&KnownRelease> {
        self.from.as_ref()
    }

    #[must_use]
    pub const fn to(&self) -> &KnownRelease {
        &self.to
    }

    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Since when it is in its phase.
    #[must_use]
    pub const fn phase_since(&self) -> UnixMs {
        self.phase_since
    }

    #[must_use]
    pub const fn created_at(&self) -> UnixMs {
        self.created_at
    }

    #[must_use]
    pub const fn started_at(&self) -> Option<UnixMs> {
        self.started_at
    }

    #[must_use]
    pub const fn pause_state(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    #[must_use]
    pub const fn superseded_by(&self) -> Option<RolloutId> {
        self.superseded_by
    }

    /// How many devices it started with.
    #[must_use]
    pub const fn population(&self) -> u32 {
        self.population
    }

    /// The index of the wave that runs, from 0.
    #[must_use]
    pub const fn current_wave(&self) -> u32 {
        self.current
    }

    #[must_use]
    pub fn waves(&self) -> &[Wave] {
        &self.waves
    }

    /// Why it is in its phase, the nearest reason first.
    #[must_use]
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// What happened, oldest first.
    #[must_use]
    pub fn history(&self) -> &[HistoryEntry] {
        &self.history
    }

    #[must_use]
    pub fn member(&self, device: DeviceId) -> Option<&Member> {
        self.members.get(&device)
    }

    /// All members, by device id.
    pub fn members(&self) -> impl Iterator<Item = (DeviceId, &Member)> {
        self.members.iter().map(|(device, member)| (*device, member))
    }

    /// How many devices may be in flight at once.
    #[must_use]
    pub fn budget(&self) -> u32 {
        self.spec.limit().places(self.size())
    }

    /// How many members are in flight: permits held by unreachable devices count until they expire.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        count(self.members.values().filter(|member| member.progress.is_in_flight()))
    }

    /// Every permit that a device may still use, revoked ones included: until they expire, nothing else may take that
    /// device's place in a budget. The driver shows them to a superseding rollout as [`super::DeviceView::busy_until`].
    pub fn held_permits(&self, now: UnixMs) -> impl Iterator<Item = HeldPermit> {
        self.members.iter().filter_map(move |(device, member)| match member.progress {
            Progress::Updating { permit: Some(permit), expires_at, revoked, .. }
            | Progress::RollingBack { permit, expires_at, revoked, .. }
                if expires_at > now =>
            {
                Some(HeldPermit { device: *device, permit, expires_at, revoked })
            }
            _ => None,
        })
    }

    /// The rollouts that it depends on and that have not succeeded, with their phase where it is known.
    pub(super) fn missing_dependencies(&self, view: &FleetView) -> Vec<(Name, Option<Phase>)> {
        let phase = |name: &Name| view.dependencies.get(name).copied();
        let names = self.spec.depends_on.iter().map(|name| (name.clone(), phase(name)));
        names.filter(|(_, phase)| *phase != Some(Phase::Succeeded)).collect()
    }

    /// When the release is offered to the next channel; none when it is not, or was already.
    #[must_use]
    pub fn promotion_due(&self) -> Option<UnixMs> {
        let promotion = self.spec.promotion.as_ref()?;
        let waits = self.phase == Phase::Succeeded && self.promoted_at.is_none();
        waits.then(|| self.phase_since.plus_ms(i64::from(promotion.after_soak_seconds) * SECOND_MS))
    }

    /// Whether [`super::decide`] has nothing left to do. A rollout that has succeeded may still have to offer its release to the next channel.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase.is_final() && self.promotion_due().is_none()
    }

    /// Of the devices that took the release and are still there: how many are good, and how many are not any more.
    pub(super) fn still_good(&self, view: &FleetView) -> (u32, u32) {
        let to = self.to.uid;
        let (mut good, mut bad) = (0, 0);
        for (device, member) in &self.members {
            let Some(known) = view.get(*device) else { continue };
            if matches!(member.progress, Progress::Updated { .. }) {
                let fails = known.app.failed_release == Some(to) || known.app.phase == AppPhase::Failing;
                *(if fails { &mut bad } else { &mut good }) += 1;
            }
        }
        (good, bad)
    }

    /// Members, late joiners included.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn remember(
        &mut self,
        what: &str,
        who: &str,
        message: String,
        comment: Option<&str>,
        now: UnixMs,
    ) {
        if self.history.len() >= MAX_HISTORY {
            // The first entry says who made it; keep that one.
            self.history.remove(1);
            self.history_dropped = self.history_dropped.saturating_add(1);
        }
        self.history.push(HistoryEntry {
            at: now,
            what: what.to_owned(),
            who: who.to_owned(),
            message,
            comment: comment.map(str::to_owned),
        });
    }

    pub(super) fn enter(&mut self, phase: Phase, now: UnixMs) {
        self.phase = phase;
        self.phase_since = now;
        if phase != Phase::Paused {
            self.pause = None;
        }
    }
}

/// The number of items, as the state stores it.
pub(super) fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
