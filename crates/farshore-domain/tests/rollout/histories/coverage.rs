//! What the histories came by, so that they can't quietly stop testing something.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::id::{DeviceId, PermitId};
use farshore_domain::rollout::{Action, Decision, FleetView, Phase, Progress};
use farshore_domain::time::UnixMs;

/// What one history came by.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) superseded: bool,
    words: BTreeSet<&'static str>,
    permits: BTreeMap<DeviceId, (PermitId, UnixMs)>,
}

impl Seen {
    pub(super) fn see(&mut self, word: &'static str) {
        self.words.insert(word);
    }

    pub(super) fn words(&self) -> impl Iterator<Item = &'static str> {
        let superseded = self.superseded.then_some("superseded rollouts");
        self.words.iter().copied().chain(superseded)
    }

    pub(super) fn action(&mut self, action: &Action) {
        match action {
            Action::Event { kind: "WaveHalted", message, .. } => {
                self.see("halts");
                if message.contains("evidence") {
                    self.see("halts by the test");
                }
            }
            Action::Event { kind: "RollbackStarted", .. } => self.see("fleet rollbacks"),
            Action::Event { kind: "RolloutPaused", message, .. } if message.contains("inconclusive") => {
                self.see("inconclusive gates");
            }
            Action::Event { kind: "RolloutSucceeded", .. } => self.see("succeeded"),
            Action::Event { kind: "WaveApproved", .. } => self.see("approvals"),
            Action::Event { kind: "WaveRejected", .. } => self.see("rejections"),
            Action::Event { kind: "WaveSkipped", .. } => self.see("skipped waves"),
            Action::Event { kind: "WaveRetried", .. } => self.see("waves tried elsewhere"),
            Action::Event { kind: "FailedRetried", .. } => self.see("failed devices tried again"),
            Action::Event { kind: "RolloutAborted", .. } => self.see("aborted"),
            Action::Event { kind: "RolloutResumed", .. } => self.see("resumed"),
            Action::Event { kind: "RolloutRolledBack", .. } => self.see("rolled back"),
            Action::Event { kind: "RolloutDeviceFailed", detail, .. } if detail["kind"] == "stuck" => {
                self.see("stuck devices");
            }
            Action::Event { kind: "WavePassed", message, .. } if message.contains("unreachable") => {
                self.see("gates without the unreachable");
            }
            _ => {}
        }
    }

    pub(super) fn decided(&mut self, decision: &Decision, view: &FleetView, now: UnixMs) {
        let next = &decision.next;
        for action in &decision.actions {
            match action {
                Action::Permit { device, permit, expires_at, .. } => {
                    self.permits.insert(*device, (*permit, *expires_at));
                }
                Action::RevokePermit { device, .. } => {
                    self.permits.remove(device);
                    self.see("revoked permits");
                }
                _ => {}
            }
        }
        let mut waits = false;
        let mut flying = 0;
        let mut held = BTreeMap::new();
        for (device, member) in next.members() {
            match member.progress() {
                Progress::Waiting { .. } if next.phase() == Phase::Running => waits = true,
                Progress::RollbackDue { .. } => waits = true,
                Progress::Updating { permit: Some(permit), .. } | Progress::RollingBack { permit, .. } => {
                    held.insert(device, *permit);
                }
                _ => {}
            }
            flying += u32::from(member.progress().is_in_flight());
            if member.live_permit(now).is_some() && view.get(device).is_some_and(|known| !known.is_online()) {
                self.see("permits out of reach");
            }
            if member.is_late() {
                self.see("late joiners");
            }
            if !member.is_late() && member.wave() > next.wave_of(member.rank()) {
                self.see("stragglers");
            }
        }
        if waits && flying >= next.budget() {
            self.see("saturated budgets");
        }
        let expired: Vec<_> = self
            .permits
            .iter()
            .filter(|(device, (permit, expires_at))| *expires_at <= now && held.get(device) != Some(permit))
            .map(|(device, _)| *device)
            .collect();
        for (device, (permit, expires_at)) in &self.permits {
            if *expires_at <= now && held.get(device) == Some(permit) {
                self.words.insert("expired permits");
            }
        }
        for device in expired {
            self.permits.remove(&device);
        }
    }
}

/// How many histories came by each.
#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    pub(super) histories: u32,
    seen: BTreeMap<&'static str, u32>,
}

/// Of ten thousand histories, each of these at least so many.
const LEAST: [(&str, u32); 16] = [
    ("halts", 500),
    ("fleet rollbacks", 500),
    ("inconclusive gates", 500),
    ("saturated budgets", 500),
    ("expired permits", 500),
    ("superseded rollouts", 500),
    ("succeeded", 500),
    ("aborted", 500),
    ("resumed", 500),
    ("rolled back", 500),
    ("stuck devices", 200),
    ("gates without the unreachable", 100),
    ("revoked permits", 300),
    ("permits out of reach", 100),
    ("late joiners", 500),
    ("stragglers", 50),
];

impl Coverage {
    pub(super) fn add(&mut self, seen: &Seen) {
        self.histories += 1;
        for word in seen.words() {
            *self.seen.entry(word).or_insert(0) += 1;
        }
    }

    /// Fails when something was seen too seldom for so many histories.
    pub(super) fn check(&self) {
        println!("{} histories came by {:#?}", self.histories, self.seen);
        // Fewer than a quarter of ten thousand say nothing about what is rare.
        if self.histories < 2_500 {
            return;
        }
        for (word, least) in LEAST {
            let seen = self.seen.get(word).copied().unwrap_or_default();
            let due = u64::from(least) * u64::from(self.histories) / 10_000;
            assert!(u64::from(seen) >= due, "{word}: {seen} of {} histories, at least {due}", self.histories);
        }
    }
}
