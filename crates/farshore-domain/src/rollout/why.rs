//! Why a rollout is where it is: what it waits for, who has to act, and until when.

use serde::{Deserialize, Serialize};

use super::judge;
use super::member::{Member, Progress};
use super::permits::STAGING_GRACE_MS;
use super::state::{Phase, Rollout, WaveState};
use super::view::{DeviceView, FleetView};
use crate::device::{AppPhase, OFFLINE_AFTER_MS};
use crate::object::Reason;
use crate::time::{SECOND_MS, UnixMs};
use crate::word_enum;

word_enum! {
    /// Who has to act.
    Owner {
        /// The rollout decides by itself when the time has come.
        Engine = "engine",
        Device = "device",
        /// A person.
        Operator = "operator",
    }
}

/// One thing that the rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    pub reason: Reason,
    pub owner: Owner,
    /// When it stops waiting, whatever happens.
    pub until: UnixMs,
}

fn seconds(seconds: u32) -> i64 {
    i64::from(seconds) * SECOND_MS
}

impl Rollout {
    /// When the gate of the wave that runs gives up.
    fn gate_end(&self) -> UnixMs {
        let wave = self.waves.get(self.current as usize);
        let since = wave.and_then(|wave| wave.news_at).unwrap_or(self.phase_since);
        since.plus_ms(seconds(self.spec.gate_timeout_seconds))
    }

    /// When somebody must have decided.
    fn operator_end(&self) -> UnixMs {
        self.phase_since.plus_ms(seconds(self.spec.operator_timeout_seconds))
    }

    fn soak_end(&self) -> Option<UnixMs> {
        let wave = self.waves.get(self.current as usize)?;
        if wave.state != WaveState::Soaking {
            return None;
        }
        let tallies = judge::tallies(self);
        judge::soak_end(wave, tallies.get(self.current as usize)?)
    }

    /// The next moment after `now` at which [`super::decide`] must be called even if nothing is reported. Always given while the rollout is not over, at most
    /// the operator's time limit ahead.
    #[must_use]
    pub fn deadline(&self, now: UnixMs) -> Option<UnixMs> {
        if self.phase.is_final() {
            return None;
        }
        let mut moments = Vec::new();
        match self.phase {
            Phase::Pending => moments.push(self.operator_end()),
            Phase::Paused => moments.push(self.operator_end()),
            _ => {
                // Reachability fades with time; look again at least this often.
                moments.push(now.plus_ms(OFFLINE_AFTER_MS));
                moments.push(self.gate_end());
                moments.extend(self.soak_end());
            }
        }
        let timeout = seconds(self.spec.device_timeout_seconds);
        for member in self.members.values() {
            match member.progress {
                Progress::Updating { since, expires_at, .. }
                | Progress::RollingBack { since, expires_at, .. } => {
                    moments.push(expires_at);
                    moments.push(since.plus_ms(timeout));
                }
                Progress::Waiting { since }
                    if self.phase == Phase::Running && member.wave == self.current =>
                {
                    let begun = self.waves.get(self.current as usize).and_then(|wave| wave.started_at);
                    moments.push(begun.unwrap_or(since).max(since).plus_ms(STAGING_GRACE_MS));
                }
                _ => {}
            }
        }
        let next = moments.into_iter().filter(|moment| *moment > now).min();
        Some(next.unwrap_or_else(|| now.plus_ms(SECOND_MS)))
    }

    /// Everything it waits for at this moment. Never empty while the rollout is not over.
    #[must_use]
    pub fn waiting_for(&self, view: &FleetView, now: UnixMs) -> Vec<Waiting> {
        match self.phase {
            Phase::Pending => vec![self.waits_for_a_person("WaitingForStart", "somebody to start it")],
            Phase::Paused => {
                vec![self.waits_for_a_person("WaitingForDecision", "somebody to resume or abort it")]
            }
            Phase::Running => self.waits_of_the_wave(view, now),
            Phase::RollingBack => self.waits_of_the_rollback(view, now),
            _ => Vec::new(),
        }
    }

    fn waits_for_a_person(&self, code: &str, whom: &str) -> Waiting {
        let message = format!("waits for {whom}; otherwise it is aborted and devices keep what they have");
        let reason = Reason::new(code, message, self.phase_since);
        Waiting { reason, owner: Owner::Operator, until: self.operator_end() }
    }

    /// One entry for all members that `of` names, with the earliest beginning.
    fn crowd(
        &self,
        view: &FleetView,
        (code, message, owner, until): (&str, &str, Owner, UnixMs),
        of: impl Fn(&Member, Option<&DeviceView>) -> bool,
    ) -> Option<Waiting> {
        let mut number = 0_u32;
        let mut since = None;
        for (device, member) in &self.members {
            if of(member, view.get(*device)) {
                number += 1;
                let began = member.progress.since();
                since = Some(since.map_or(began, |earliest: UnixMs| earliest.min(began)));
            }
        }
        let devices = if number == 1 { "device" } else { "devices" };
        let text = format!("{number} {devices} {message}");
        since.map(|since| Waiting { reason: Reason::new(code, text, since), owner, until })
    }

    fn waits_of_the_wave(&self, view: &FleetView, now: UnixMs) -> Vec<Waiting> {
        let current = self.current;
        if let Some(until) = self.soak_end() {
            let message = format!("wave {} must stay good for its soak", current + 1);
            let since =
                self.waves.get(current as usize).and_then(|wave| wave.news_at).unwrap_or(self.phase_since);
            return vec![Waiting {
                reason: Reason::new("Soaking", message, since),
                owner: Owner::Engine,
                until,
            }];
        }
        let gate = self.gate_end();
        let in_wave = |member: &Member| member.wave == current;
        let waits = |member: &Member| in_wave(member) && matches!(member.progress, Progress::Waiting { .. });
        let loads =
            |device: Option<&DeviceView>| device.is_some_and(|d| d.app.phase == AppPhase::Downloading);
        let full = self.in_flight() >= self.budget();
        let budget = format!("wait for a place: {} of {} are taken", self.in_flight(), self.budget());
        let staging = "are given time to stage before they get a permit";
        let (code, text) = if full { ("Budget", budget.as_str()) } else { ("Staging", staging) };
        let latest =
            self.members.values().filter(|m| m.progress.is_in_flight()).map(|m| m.progress.since()).max();
        let flight_end = latest.unwrap_or(now).plus_ms(seconds(self.spec.device_timeout_seconds));
        let found = [
            self.crowd(
                view,
                ("Updating", "have a permit and must report", Owner::Device, flight_end),
                |m, _| matches!(m.progress, Progress::Updating { .. }),
            ),
            self.crowd(view, ("Downloading", "still download", Owner::Device, gate), |m, d| {
                waits(m) && loads(d)
            }),
            self.crowd(
                view,
                (
                    "Stale",
                    "are silent and are waited for until they count as unreachable",
                    Owner::Engine,
                    gate,
                ),
                |m, d| waits(m) && d.is_some_and(|d| !d.is_online()),
            ),
            self.crowd(view, (code, text, Owner::Engine, gate), |m, d| {
                waits(m) && !loads(d) && d.is_some_and(DeviceView::is_online)
            }),
            self.crowd(
                view,
                (
                    "Unreachable",
                    "are unreachable; the gate opens without them once enough others have reported",
                    Owner::Device,
                    gate,
                ),
                |m, _| in_wave(m) && matches!(m.progress, Progress::Unreachable { .. }),
            ),
            self.crowd(
                view,
                ("LeftOut", "are pinned, cordoned, held or gone and can't be judged", Owner::Operator, gate),
                |m, _| in_wave(m) && matches!(m.progress, Progress::Excluded { .. }),
            ),
        ];
        let mut list: Vec<_> = found.into_iter().flatten().collect();
        if list.is_empty() {
            let message = format!("wave {} waits for its first report", current + 1);
            list.push(Waiting {
                reason: Reason::new("Gate", message, self.phase_since),
                owner: Owner::Engine,
                until: gate,
            });
        }
        list
    }

    fn waits_of_the_rollback(&self, view: &FleetView, now: UnixMs) -> Vec<Waiting> {
        let end = now.plus_ms(seconds(self.spec.device_timeout_seconds));
        let budget =
            format!("wait for a place to go back: {} of {} are taken", self.in_flight(), self.budget());
        let found = [
            self.crowd(view, ("RollingBack", "go back to the old release", Owner::Device, end), |m, _| {
                matches!(m.progress, Progress::RollingBack { .. })
            }),
            self.crowd(
                view,
                ("PermitOutstanding", "may still use a permit of the new release", Owner::Device, end),
                |m, _| matches!(m.progress, Progress::Updating { .. }),
            ),
            self.crowd(view, ("Budget", &budget, Owner::Engine, end), |m, _| {
                matches!(m.progress, Progress::RollbackDue { .. })
            }),
        ];
        let mut list: Vec<_> = found.into_iter().flatten().collect();
        if list.is_empty() {
            let reason =
                Reason::new("Ending", "everybody is back; it ends with the next decision", self.phase_since);
            list.push(Waiting { reason, owner: Owner::Engine, until: now });
        }
        list
    }
}
