//! A device as the oracle believes one to be: it stages what it is told, activates only with a live permit, tries, and says how it went.
//! It knows nothing of rollouts.

use farshore_domain::desired::{DESIRED_SCHEMA, DesiredState, Generation, Permit};
use farshore_domain::device::AppPhase;
use farshore_domain::id::{DeviceId, PermitId, ReleaseId, TenantId};
use farshore_domain::rollout::AppReport;
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::fleet::{Nature, name, release};

/// How long a new release is on trial.
pub(super) const TRIAL_MS: i64 = 4_000;
/// How long a download takes.
const STAGING_MS: i64 = 2_000;
/// How long a release that goes bad stays good after it has committed.
const GOOD_MS: i64 = 6_000;

const TENANT: TenantId = TenantId(Uuid::nil());

/// What one desired state says about the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) at: Generation,
    /// None removes the app.
    pub(super) release: Option<ReleaseId>,
    pub(super) permit: Option<Permit>,
}

/// One activation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activation {
    pub(super) at: UnixMs,
    pub(super) release: ReleaseId,
    pub(super) permit: PermitId,
    /// Until when the desired state that it follows was what the control plane wanted: one that arrives late or twice is older than that it was heard.
    pub(super) meant: UnixMs,
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) nature: Nature,
    pub(super) online: bool,
    /// When the control plane heard it last.
    pub(super) last_heard: UnixMs,
    /// What it says does not arrive before this.
    pub(super) mute_until: UnixMs,
    /// What it is told does not arrive before this.
    pub(super) deaf_until: UnixMs,
    /// Its clock runs this far behind: it uses permits longer than it may.
    pub(super) slow_ms: i64,
    pub(super) desired: Option<Desired>,
    meant: UnixMs,
    pub(super) app: AppReport,
    previous: Option<ReleaseId>,
    staged: Option<ReleaseId>,
    staging: Option<(ReleaseId, UnixMs)>,
    pub(super) trial: Option<(UnixMs, PermitId)>,
    turns: Option<UnixMs>,
    given_up: Option<ReleaseId>,
    /// Activations that nobody has looked at yet.
    pub(super) fresh: Vec<Activation>,
    pub(super) ran: Vec<ReleaseId>,
}

impl Device {
    pub(super) fn new(id: DeviceId, nature: Nature, runs: Option<ReleaseId>, now: UnixMs) -> Self {
        let phase = if runs.is_some() { AppPhase::Running } else { AppPhase::Absent };
        Self {
            id,
            nature,
            online: true,
            last_heard: now,
            mute_until: now,
            deaf_until: now,
            slow_ms: 0,
            desired: None,
            meant: now,
            app: AppReport { active: runs, committed: runs.is_some(), phase, ..AppReport::default() },
            previous: None,
            staged: None,
            staging: None,
            trial: None,
            turns: None,
            given_up: None,
            fresh: Vec::new(),
            ran: Vec::new(),
        }
    }

    /// Hears a desired state that was meant until `meant`; says whether it took it. An older one than it has is refused, by the agent's own rule.
    pub(super) fn hear(&mut self, desired: Desired, meant: UnixMs, now: UnixMs) -> bool {
        let accepted = self.desired.map(|desired| desired.at).unwrap_or_default();
        let state = DesiredState {
            schema: DESIRED_SCHEMA.to_owned(),
            tenant: TENANT,
            tenant_name: name("acme"),
            device: self.id,
            epoch: desired.at.epoch,
            generation: desired.at.generation,
            issued_at: now,
            apps: Vec::new(),
            policy: None,
            stopped: false,
        };
        let good = state.check_for(TENANT, self.id, accepted).is_ok();
        if good {
            self.desired = Some(desired);
            self.meant = meant;
        }
        good
    }

    /// When something happens on it next, without anybody telling it anything.
    pub(super) fn next_moment(&self) -> Option<UnixMs> {
        let trial = self.trial.map(|(until, _)| until);
        let staging = self.staging.map(|(_, until)| until);
        [trial, staging, self.turns].into_iter().flatten().min()
    }

    fn is_new(of: ReleaseId) -> bool {
        of != release(0).uid
    }

    /// Whether this release does on this device what its nature says. The second release mends the first one's faults.
    fn shows(&self, nature: Nature, of: ReleaseId) -> bool {
        let mends = of == release(2).uid && matches!(self.nature, Nature::Bad | Nature::GoesBad);
        self.nature == nature && Self::is_new(of) && !mends
    }

    /// Does what is due now.
    pub(super) fn act(&mut self, now: UnixMs) {
        if let Some((until, _)) = self.trial {
            let stuck = self.app.active.is_some_and(|active| self.shows(Nature::Stuck, active));
            if now >= until || stuck {
                self.end_trial(now);
            }
            if self.trial.is_some() {
                return;
            }
        }
        if self.turns.is_some_and(|at| now >= at) {
            self.turns = None;
            if self.app.active.is_some_and(|active| self.shows(Nature::GoesBad, active)) {
                self.app.phase = AppPhase::Failing;
                self.app.reason = Some("web: checks fail".to_owned());
            }
        }
        let Some(desired) = self.desired else { return };
        match desired.release {
            None => self.remove(),
            Some(wanted) if self.app.active == Some(wanted) => {
                self.staging = None;
                self.app.refused_release = None;
                if self.app.phase != AppPhase::Failing {
                    self.app.phase = AppPhase::Running;
                }
            }
            Some(wanted) => self.want(wanted, desired.permit, now),
        }
    }

    fn remove(&mut self) {
        if self.app.active.is_some() || self.app.phase != AppPhase::Absent {
            let (failed_release, resumed) = (self.app.failed_release, self.app.resumed);
            self.app = AppReport { failed_release, resumed, ..AppReport::default() };
        }
        (self.staged, self.staging, self.previous, self.turns) = (None, None, None, None);
    }

    fn want(&mut self, wanted: ReleaseId, permit: Option<Permit>, now: UnixMs) {
        if self.given_up == Some(wanted) {
            self.app.phase = if self.app.active.is_some() { AppPhase::Held } else { AppPhase::Failing };
            return;
        }
        if self.shows(Nature::Refuses, wanted) {
            self.app.refused_release = Some(wanted);
            self.app.reason = Some("the signature is wrong".to_owned());
            return;
        }
        if self.staged != Some(wanted) && self.previous != Some(wanted) {
            match self.staging {
                Some((of, until)) if of == wanted && now >= until => {
                    self.staging = None;
                    self.staged = Some(wanted);
                }
                Some((of, _)) if of == wanted => return,
                _ => {
                    self.staging = Some((wanted, now.plus_ms(STAGING_MS)));
                    self.app.phase = AppPhase::Downloading;
                    return;
                }
            }
        }
        let terse = self.nature == Nature::Terse;
        let was_bad = self.app.phase == AppPhase::Failing;
        self.app.phase = match (terse, was_bad, self.app.active) {
            (_, true, _) => AppPhase::Failing,
            (true, _, Some(_)) => AppPhase::Running,
            _ => AppPhase::Staged,
        };
        if let Some(permit) = permit.filter(|permit| permit.expires_at.plus_ms(self.slow_ms) > now) {
            self.activate(wanted, permit.uid, now);
        }
    }

    fn activate(&mut self, wanted: ReleaseId, permit: PermitId, now: UnixMs) {
        self.ran.push(wanted);
        self.fresh.push(Activation { at: now, release: wanted, permit, meant: self.meant });
        let known_good = self.previous == Some(wanted);
        self.previous = self.app.active.filter(|_| self.app.committed);
        self.app.active = Some(wanted);
        self.app.committed = known_good;
        self.app.phase = if known_good { AppPhase::Running } else { AppPhase::Soaking };
        self.app.reason = None;
        self.turns = None;
        self.trial = (!known_good).then(|| (now.plus_ms(TRIAL_MS), permit));
    }

    fn end_trial(&mut self, now: UnixMs) {
        let Some(active) = self.app.active else { return };
        if self.shows(Nature::Stuck, active) {
            let told_otherwise = self.desired.is_some_and(|desired| {
                desired.release != Some(active) && (desired.permit.is_some() || desired.release.is_none())
            });
            // It never gets done, until it is told to go back.
            if let Some((until, _)) = &mut self.trial {
                *until = now.plus_ms(24 * 3_600_000);
            }
            if told_otherwise {
                self.trial = None;
            }
            return;
        }
        self.trial = None;
        if self.shows(Nature::Bad, active) {
            self.given_up = Some(active);
            self.app.failed_release = Some(active);
            self.app.reason = Some("web: 503".to_owned());
            self.app.active = self.previous;
            self.app.committed = self.previous.is_some();
            self.app.phase = AppPhase::RollingBack;
        } else {
            self.app.committed = true;
            self.app.phase = AppPhase::Running;
            self.app.failed_release = None;
            if self.shows(Nature::GoesBad, active) {
                self.turns = Some(now.plus_ms(GOOD_MS));
            }
        }
    }

    /// The control plane's clock has jumped; what the device is at takes as long as before.
    pub(super) fn shift(&mut self, ms: i64) {
        let moments = [
            self.trial.as_mut().map(|(until, _)| until),
            self.staging.as_mut().map(|(_, until)| until),
            self.turns.as_mut(),
        ];
        for moment in moments.into_iter().flatten() {
            *moment = moment.plus_ms(ms);
        }
    }

    /// Somebody repaired it and resumes the app.
    pub(super) fn resume(&mut self, nature: Nature) {
        self.nature = nature;
        // A trial that was stuck ends now, one way or the other.
        if let Some((until, _)) = &mut self.trial {
            *until = UnixMs(0);
        }
        self.given_up = None;
        self.app.failed_release = None;
        self.app.refused_release = None;
        self.app.resumed += 1;
    }

    /// The permit because of which it is down at this moment.
    pub(super) fn tries_with(&self) -> Option<PermitId> {
        self.trial.map(|(_, permit)| permit)
    }
}
