//! Why a rollout is where it is: what it waits for, who has to act, and until when.

use serde::{Deserialize, Serialize};

use std::collections::BTreeSet;

use super::judge;
use super::member::{Member, Progress};
use super::permits::STAGING_GRACE_MS;
use super::state::{Phase, Rollout, WaveState};
use super::view::{DeviceView, FleetView};
use crate::condition::Verdict;
use crate::device::{AppPhase, OFFLINE_AFTER_MS};
use crate::id::DeviceId;
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

/// What is said of many, said of one.
fn of_one(message: &str) -> String {
    let (verb, rest) = message.split_once(' ').unwrap_or((message, ""));
    match verb {
        "are" => format!("is {}", rest.replacen(" are ", " is ", 1)),
        "have" => format!("has {rest}"),
        "wait" => format!("waits {rest}"),
        "still" => format!("still {}", rest.replacen("download", "downloads", 1)),
        _ => message.replacen(" and wait ", " and waits ", 1),
    }
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

    /// When the wait at a gate ends whose devices are good: for its condition, or for people.
    fn at_gate_end(&self) -> Option<UnixMs> {
        let wave = self.waves.get(self.current as usize)?;
        let limit = match wave.state {
            WaveState::AtGate => self.spec.gate_timeout_seconds,
            WaveState::AwaitingApproval => self.spec.operator_timeout_seconds,
            _ => return None,
        };
        Some(wave.at_gate_since?.plus_ms(seconds(limit)))
    }

    /// When it gives up waiting for what it depends on; none when it does not wait.
    fn blocked_end(&self) -> Option<UnixMs> {
        let waits =
            self.phase == Phase::Running && self.unblocked_at.is_none() && !self.spec.depends_on.is_empty();
        let since = self.started_at.filter(|_| waits)?;
        Some(since.plus_ms(seconds(self.spec.operator_timeout_seconds)))
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
            // A promotion that was missed while nothing ran is made up for at once.
            return self.promotion_due().map(|due| due.max(now.plus_ms(1)));
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
                moments.extend(self.at_gate_end());
                moments.extend(self.blocked_end());
                moments.extend(self.next_opening);
                moments.extend(self.waits_for_away_until());
            }
        }
        let timeout = seconds(self.spec.device_timeout_seconds);
        for member in self.members.values() {
            moments.extend(self.skips_at(member));
            match member.progress {
                Progress::Updating { since, expires_at, .. }
                | Progress::RollingBack { since, expires_at, .. } => {
                    moments.push(expires_at);
                    moments.push(since.plus_ms(timeout));
                }
                // When somebody who was cordoned or pinned in the middle of it is waited for no longer.
                Progress::RollbackDue { since } => moments.push(since.plus_ms(timeout)),
                Progress::Waiting { since }
                    if self.phase == Phase::Running && member.wave == self.current =>
                {
                    let begun = self.waves.get(self.current as usize).and_then(|wave| wave.started_at);
                    moments.push(begun.unwrap_or(since).max(since).plus_ms(STAGING_GRACE_MS));
                    moments.extend(member.not_before);
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
        let mut list = self.waits(view, now);
        list.extend(self.waits_for_agents(view));
        list
    }

    /// Devices that are left out because their agents can't do what the release needs.
    fn waits_for_agents(&self, view: &FleetView) -> Option<Waiting> {
        const NAMED: usize = 5;
        if self.phase.is_final() || !self.needs_slots {
            return None;
        }
        let of_ours = |device: &&DeviceView| self.members.is_empty() || self.members.contains_key(&device.id);
        let unable: Vec<_> =
            view.iter().filter(of_ours).filter(|device| device.is_unable(self.to.uid)).collect();
        let mut names: Vec<_> = unable.iter().take(NAMED).map(|device| device.name.as_str()).collect();
        if unable.len() > NAMED {
            names.push("…");
        }
        let devices = if unable.len() == 1 { "device" } else { "devices" };
        let message = format!(
            "{} {devices} can't keep two instances of an app and get nothing: {}; update their agents",
            unable.len(),
            names.join(", ")
        );
        (!unable.is_empty()).then(|| Waiting {
            reason: Reason::new("Incapable", message, self.phase_since),
            owner: Owner::Operator,
            until: self.operator_end(),
        })
    }

    fn waits(&self, view: &FleetView, now: UnixMs) -> Vec<Waiting> {
        match self.phase {
            Phase::Pending => vec![self.waits_for_a_person("WaitingForStart", "somebody to start it")],
            Phase::Paused => {
                vec![self.waits_for_a_person("WaitingForDecision", "somebody to resume or abort it")]
            }
            Phase::Running => match self.blocked_end() {
                Some(until) if !self.missing_dependencies(view).is_empty() => {
                    self.waits_for_others(view, until)
                }
                _ => self.waits_of_the_wave(view, now),
            },
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
        self.crowd_without(&BTreeSet::new(), view, (code, message, owner, until), of)
    }

    /// The same, without those for whom something else is said already.
    fn crowd_without(
        &self,
        kept: &BTreeSet<DeviceId>,
        view: &FleetView,
        (code, message, owner, until): (&str, &str, Owner, UnixMs),
        of: impl Fn(&Member, Option<&DeviceView>) -> bool,
    ) -> Option<Waiting> {
        let mut number = 0_u32;
        let mut since = None;
        for (device, member) in &self.members {
            if !kept.contains(device) && of(member, view.get(*device)) {
                number += 1;
                let began = member.progress.since();
                since = Some(since.map_or(began, |earliest: UnixMs| earliest.min(began)));
            }
        }
        let text = if number == 1 {
            format!("1 device {}", of_one(message))
        } else {
            format!("{number} devices {message}")
        };
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
        if let Some(until) = self.at_gate_end() {
            return vec![self.waits_at_gate(view, until)];
        }
        let gate = self.gate_end();
        let (mut list, kept) = self.waits_for_hours_and_groups(view, now, gate);
        let in_wave = |member: &Member| member.wave == current;
        let too_late = |member: &Member| {
            in_wave(member) && self.waves.get(current as usize).is_some_and(|wave| wave.is_too_late(member))
        };
        let waits = |member: &Member| {
            in_wave(member) && matches!(member.progress, Progress::Waiting { .. }) && !too_late(member)
        };
        let loads =
            |device: Option<&DeviceView>| device.is_some_and(|d| d.app.phase == AppPhase::Downloading);
        let (in_flight, allowed) = (self.in_flight(), self.in_flight_limit(&judge::tallies(self)));
        let (code, text) = if in_flight >= self.budget() {
            ("Budget", format!("wait for a place: {in_flight} of {} are taken", self.budget()))
        } else if in_flight >= allowed {
            ("SlowStart", format!("wait for the reports of others: {allowed} at a time until more are good"))
        } else {
            ("Staging", "are given time to stage before they get a permit".to_owned())
        };
        let text = text.as_str();
        let latest =
            self.members.values().filter(|m| m.progress.is_in_flight()).map(|m| m.progress.since()).max();
        let flight_end = latest.unwrap_or(now).plus_ms(seconds(self.spec.device_timeout_seconds));
        let waited = self.waits_for_away_until().filter(|until| *until > now);
        let (away, away_until) = match waited {
            Some(until) => ("are unreachable; the gate waits for them until the deadline", until),
            None => ("are unreachable; the gate opens without them once enough others have reported", gate),
        };
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
            self.crowd_without(&kept, view, (code, text, Owner::Engine, gate), |m, d| {
                waits(m) && m.may_try(now) && !loads(d) && d.is_some_and(DeviceView::is_online)
            }),
            self.crowd(
                view,
                (
                    "Penalty",
                    "failed more than once and wait before they are tried again",
                    Owner::Engine,
                    gate,
                ),
                |m, _| waits(m) && !m.may_try(now),
            ),
            self.crowd(
                view,
                (
                    "CameLate",
                    "came back after the wave's last call and take the release with the next one",
                    Owner::Engine,
                    gate,
                ),
                |m, _| too_late(m),
            ),
            self.crowd(view, ("Unreachable", away, Owner::Device, away_until), |m, _| {
                in_wave(m) && matches!(m.progress, Progress::Unreachable { .. })
            }),
            self.crowd(
                view,
                ("LeftOut", "are pinned, cordoned, held or gone and can't be judged", Owner::Operator, gate),
                |m, _| in_wave(m) && matches!(m.progress, Progress::Excluded { .. }),
            ),
        ];
        list.extend(found.into_iter().flatten());
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

    /// What keeps a gate shut whose wave is good.
    fn waits_at_gate(&self, view: &FleetView, until: UnixMs) -> Waiting {
        let index = self.current as usize;
        let (number, wave) = (index + 1, self.waves.get(index));
        let since = wave.and_then(|wave| wave.at_gate_since).unwrap_or(self.phase_since);
        if wave.is_some_and(|wave| wave.state == WaveState::AwaitingApproval) {
            let given: Vec<_> =
                wave.iter().flat_map(|wave| &wave.approvals).map(|approved| approved.by.as_str()).collect();
            let missing = self.spec.approval_of(index).people().saturating_sub(given.len());
            let whom = match (missing, given.first()) {
                (1, Some(by)) => format!("a second person, other than {by}, to approve it"),
                (1, None) => "somebody to approve it".to_owned(),
                _ => "two different people to approve it".to_owned(),
            };
            let message = format!(
                "wave {number} is good and waits for {whom}; otherwise it is aborted and devices keep what they have"
            );
            let reason = Reason::new("AwaitingApproval", message, since);
            return Waiting { reason, owner: Owner::Operator, until };
        }
        let message = match self.spec.gate_of(index).map(|text| (self.evaluate(view, text), text)) {
            Some((Verdict::Unknown(why), _)) => {
                format!("the gate of wave {number} waits for data that its condition needs: {why}")
            }
            Some((_, text)) => format!("the gate of wave {number} waits until its condition is true: {text}"),
            None => format!("the gate of wave {number} opens with the next decision"),
        };
        Waiting { reason: Reason::new("GateCondition", message, since), owner: Owner::Engine, until }
    }

    /// The rollouts that must have succeeded first.
    fn waits_for_others(&self, view: &FleetView, until: UnixMs) -> Vec<Waiting> {
        let since = self.started_at.unwrap_or(self.phase_since);
        let missing = self.missing_dependencies(view).into_iter().map(|(name, phase)| {
            let (owner, message) = match phase {
                None => (Owner::Operator, format!("waits for rollout {name}, which does not exist")),
                Some(phase) if phase.is_final() => {
                    (Owner::Operator, format!("waits for rollout {name} to succeed, but it has {phase}"))
                }
                Some(phase) => (Owner::Engine, format!("waits for rollout {name} to succeed; it is {phase}")),
            };
            Waiting { reason: Reason::new("Dependency", message, since), owner, until }
        });
        missing.collect()
    }

    fn waits_of_the_rollback(&self, view: &FleetView, now: UnixMs) -> Vec<Waiting> {
        let end = now.plus_ms(seconds(self.spec.device_timeout_seconds));
        let budget =
            format!("wait for a place to go back: {} of {} are taken", self.in_flight(), self.budget());
        let (mut list, kept) = self.waits_for_hours_and_groups(view, now, end);
        let found = [
            self.crowd(view, ("RollingBack", "go back to the old release", Owner::Device, end), |m, _| {
                matches!(m.progress, Progress::RollingBack { .. })
            }),
            self.crowd(
                view,
                ("PermitOutstanding", "may still use a permit of the new release", Owner::Device, end),
                |m, _| matches!(m.progress, Progress::Updating { .. }),
            ),
            self.crowd_without(&kept, view, ("Budget", &budget, Owner::Engine, end), |m, _| {
                matches!(m.progress, Progress::RollbackDue { .. })
            }),
        ];
        list.extend(found.into_iter().flatten());
        if list.is_empty() {
            let reason =
                Reason::new("Ending", "everybody is back; it ends with the next decision", self.phase_since);
            list.push(Waiting { reason, owner: Owner::Engine, until: now });
        }
        list
    }
}
