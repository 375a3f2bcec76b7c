//! What must hold after every step: shared by property tests, virtual fleets and production checks.
//!
//! Numbers are those of the blueprint's section 7.

use std::collections::BTreeMap;

use super::decide::{Action, Decision};
use super::member::{Member, Progress};
use super::spec::Limit;
use super::state::{Phase, Rollout};
use super::view::{DeviceView, FleetView};
use crate::schedule::{Calendar, Look, Purpose, Zone};
use crate::time::UnixMs;

/// What was found broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Broken {
    pub invariant: &'static str,
    pub what: String,
}

fn holds(good: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if good { Ok(()) } else { Err(Broken { invariant, what: what() }) }
}

/// 2: what may be down at this moment, permits that unreachable devices hold included, is within the budget.
pub fn live_permits_are_within_the_budget(rollout: &Rollout, now: UnixMs) -> Result<(), Broken> {
    let live = rollout.members().filter(|(_, member)| member.live_permit(now).is_some()).count();
    holds(live <= rollout.budget() as usize, "live_permits_are_within_the_budget", || {
        format!("{live} live permits, budget {}", rollout.budget())
    })
}

/// One budget after a decision: how many devices it is over, how many of them are down on purpose, how many are up.
#[derive(Clone, Copy, Default)]
struct Stand {
    size: u32,
    down: u32,
    up: u32,
}

impl Stand {
    fn add(&mut self, next: &Rollout, member: Option<&Member>, device: Option<&DeviceView>, now: UnixMs) {
        let flies = member.is_some_and(|member| member.progress().is_in_flight());
        let due = member.is_some_and(|member| matches!(member.progress(), Progress::RollbackDue { .. }));
        let tries = due && device.is_some_and(|device| device.is_trying(next.to().uid));
        self.size += 1;
        self.down += u32::from(flies || tries || device.is_some_and(|device| device.is_busy(now)));
        self.up += u32::from(!flies && !tries && device.is_some_and(|device| device.is_up(now)));
    }

    /// Whether a device that was `up` until then may have been taken down, with this as the result.
    fn allows(self, limit: Limit, up: bool) -> bool {
        let places = limit.places(self.size);
        match limit {
            Limit::MaxUnavailable(_) => self.down <= places,
            Limit::MinAvailable(least) if up => self.down <= places && self.up >= least.at_least(self.size),
            // What is not up can't be taken down: it may be repaired, one after the other.
            Limit::MinAvailable(_) => self.down <= places.max(1),
        }
    }
}

/// The devices that a decision gives permits to; with whether each was down already, in the middle of the new release, and goes back.
fn started<'a>(decision: &'a Decision, view: &'a FleetView) -> impl Iterator<Item = (&'a DeviceView, bool)> {
    let to = decision.next.to().uid;
    decision.actions.iter().filter_map(move |action| match action {
        Action::Permit { device, forward, .. } => {
            let known = view.get(*device)?;
            Some((known, !forward && known.is_trying(to)))
        }
        _ => None,
    })
}

/// 2: no decision *starts* a disruption above the budget. Devices that come back in the middle of an activation may exceed it; then nothing more is started.
pub fn nothing_is_started_above_the_budget(
    decision: &Decision,
    view: &FleetView,
    now: UnixMs,
) -> Result<(), Broken> {
    let mut stand = Stand::default();
    for (device, member) in decision.next.members() {
        stand.add(&decision.next, Some(member), view.get(device), now);
    }
    let limit = decision.next.spec().limit();
    let allows = |device: &DeviceView, tries| {
        // It was down already; how many have a permit at once is checked on its own.
        tries || stand.allows(limit, device.is_up(now))
    };
    let bad = started(decision, view).find(|(device, tries)| !allows(device, *tries));
    holds(bad.is_none(), "nothing_is_started_above_the_budget", || {
        let Stand { size, down, up } = stand;
        format!("{down} down and {up} up of {size} with {limit}, and more was started")
    })
}

/// 2: the same for each group, with the load from outside this rollout.
pub fn no_group_is_taken_below_its_budget(
    decision: &Decision,
    view: &FleetView,
    now: UnixMs,
) -> Result<(), Broken> {
    for group in &decision.next.spec().group_by {
        let mut stands: BTreeMap<&str, Stand> = BTreeMap::new();
        for device in view.iter().filter(|device| device.counts()) {
            if let Some(value) = device.labels.get(&group.label) {
                stands.entry(value).or_default().add(
                    &decision.next,
                    decision.next.member(device.id),
                    Some(device),
                    now,
                );
            }
        }
        for ((label, value), load) in &view.group_load {
            if *label == group.label
                && let Some(stand) = stands.get_mut(value.as_str())
            {
                stand.down += load;
            }
        }
        for (device, tries) in started(decision, view) {
            let Some(value) = device.labels.get(&group.label) else { continue };
            let stand = stands.get(value).copied().unwrap_or_default();
            let limit = group.limit();
            holds(
                tries || stand.allows(limit, device.is_up(now)),
                "no_group_is_taken_below_its_budget",
                || {
                    let Stand { size, down, up } = stand;
                    format!(
                        "{}={value}: {down} down and {up} up of {size} with {limit}, and more was started",
                        group.label
                    )
                },
            )?;
        }
    }
    Ok(())
}

/// 3: permits are issued only inside the windows of the device's zone, and end with them. What is broken may go back at any hour.
pub fn permits_stay_in_their_windows(
    decision: &Decision,
    view: &FleetView,
    now: UnixMs,
) -> Result<(), Broken> {
    const NAME: &str = "permits_stay_in_their_windows";
    let spec = decision.next.spec();
    let calendar = Calendar::new(&spec.windows, &spec.blackouts, spec.energy);
    let calendar = calendar.map_err(|_| Broken { invariant: NAME, what: "unreadable windows".to_owned() })?;
    for action in &decision.actions {
        let Action::Permit { device, expires_at, forward, .. } = action else { continue };
        let (Some(known), Some(member)) = (view.get(*device), decision.next.member(*device)) else {
            continue;
        };
        let broken = member.failure().is_some() || !known.has_committed(decision.next.to().uid);
        let zone = Zone::of_device(known.time_zone.as_deref());
        let policy = known.hours.as_deref().map(|hours| hours.calendar().ok_or("unreadable windows"));
        let policy = policy.transpose().map_err(|what| Broken { invariant: NAME, what: what.to_owned() })?;
        let calendars: Vec<_> = std::iter::once(&calendar).chain(policy).collect();
        let (look, _) = Calendar::look_at_all(&calendars, Purpose::Install, &zone, now, *expires_at);
        let inside = matches!(look, Look::Open { until } if until >= *expires_at);
        holds(inside || (!forward && broken), NAME, || format!("{device} got a permit outside its windows"))?;
    }
    Ok(())
}

/// 3: going forward, only devices that are judged with the wave that runs have a permit.
pub fn permits_stay_in_their_wave(rollout: &Rollout, now: UnixMs) -> Result<(), Broken> {
    for (device, member) in rollout.members() {
        let forward = matches!(member.progress(), Progress::Updating { .. });
        if forward && member.live_permit(now).is_some() {
            holds(member.wave() == rollout.current_wave(), "permits_stay_in_their_wave", || {
                format!("{device} of wave {} has a permit in wave {}", member.wave(), rollout.current_wave())
            })?;
        }
    }
    Ok(())
}

/// 3: permits go forward while it runs, back while it rolls back, and in no other phase.
pub fn permits_fit_the_phase(rollout: &Rollout, now: UnixMs) -> Result<(), Broken> {
    for (device, member) in rollout.members() {
        if member.live_permit(now).is_none() {
            continue;
        }
        let fits = match member.progress() {
            Progress::Updating { .. } => rollout.phase() == Phase::Running,
            Progress::RollingBack { .. } => rollout.phase() == Phase::RollingBack,
            _ => false,
        };
        holds(fits, "permits_fit_the_phase", || format!("{device} has a permit while {}", rollout.phase()))?;
    }
    Ok(())
}

/// Waves are cumulative and reach everybody; ranks are whole, late joiners at the end; nobody is judged before its own wave.
pub fn membership_is_sound(rollout: &Rollout) -> Result<(), Broken> {
    const NAME: &str = "membership_is_sound";
    if rollout.waves().is_empty() {
        return holds(rollout.members().next().is_none(), NAME, || "members without waves".to_owned());
    }
    let mut before = 0;
    for wave in rollout.waves() {
        holds(wave.upto() >= before, NAME, || "a wave reaches less than the one before".to_owned())?;
        before = wave.upto();
    }
    holds(before == rollout.population(), NAME, || "the last wave does not reach everybody".to_owned())?;
    let mut ranked: Vec<_> = rollout.members().collect();
    ranked.sort_by_key(|(_, member)| member.rank());
    for (expected, (device, member)) in (0..).zip(ranked) {
        holds(member.rank() == expected, NAME, || format!("no member has rank {expected}"))?;
        holds(member.is_late() == (expected >= rollout.population()), NAME, || {
            format!("{device} is late and not at the end, or at the end and not late")
        })?;
        let own = member.was_called_in() || member.wave() >= rollout.wave_of(member.rank());
        holds(own, NAME, || format!("{device} is judged before its own wave"))?;
    }
    Ok(())
}

/// From one step to the next: nobody leaves the population or changes rank, nobody moves to an earlier wave, waves do not change.
pub fn membership_is_stable(before: &Rollout, after: &Rollout) -> Result<(), Broken> {
    const NAME: &str = "membership_is_stable";
    if before.phase() == Phase::Pending {
        return Ok(());
    }
    for (device, member) in before.members() {
        let Some(later) = after.member(device) else {
            return holds(false, NAME, || format!("{device} was lost"));
        };
        // Called in, to be tried in place of others: once, to an earlier wave.
        let called = later.was_called_in() && !member.was_called_in();
        let stays = called || later.wave() >= member.wave();
        holds(later.rank() == member.rank() && stays, NAME, || {
            format!("{device} moved from wave {} to wave {}", member.wave(), later.wave())
        })?;
    }
    let reach = |rollout: &Rollout| rollout.waves().iter().map(super::Wave::upto).collect::<Vec<_>>();
    holds(reach(before) == reach(after), NAME, || "the waves have changed".to_owned())?;
    holds(after.current_wave() >= before.current_wave(), NAME, || "it went back a wave".to_owned())
}

/// A final phase stays, and leaves no usable permit behind.
pub fn final_is_final(before: &Rollout, after: &Rollout, now: UnixMs) -> Result<(), Broken> {
    const NAME: &str = "final_is_final";
    holds(!before.phase().is_final() || before.phase() == after.phase(), NAME, || {
        format!("{} became {}", before.phase(), after.phase())
    })?;
    if after.phase().is_final() {
        let live = after.members().filter(|(_, member)| member.live_permit(now).is_some()).count();
        holds(live == 0, NAME, || format!("{live} permits are live after the end"))?;
    }
    Ok(())
}

/// 4: whatever is not final has a deadline ahead of now, and says what it waits for and who has to act.
pub fn nothing_waits_for_ever(rollout: &Rollout, view: &FleetView, now: UnixMs) -> Result<(), Broken> {
    const NAME: &str = "nothing_waits_for_ever";
    if rollout.is_done() {
        return holds(rollout.deadline(now).is_none(), NAME, || "a final state has a deadline".to_owned());
    }
    holds(rollout.deadline(now).is_some_and(|end| end > now), NAME, || "no deadline ahead".to_owned())?;
    holds(rollout.phase().is_final() || !rollout.waiting_for(view, now).is_empty(), NAME, || {
        "it waits for nothing".to_owned()
    })
}

/// 11: every phase has a reason.
pub fn every_phase_has_a_reason(rollout: &Rollout) -> Result<(), Broken> {
    holds(!rollout.reasons().is_empty(), "every_phase_has_a_reason", || {
        format!("{} has none", rollout.phase())
    })
}

/// All of them, for one decision.
pub fn check(before: &Rollout, decision: &Decision, view: &FleetView, now: UnixMs) -> Result<(), Broken> {
    let after = &decision.next;
    live_permits_are_within_the_budget(after, now)?;
    nothing_is_started_above_the_budget(decision, view, now)?;
    no_group_is_taken_below_its_budget(decision, view, now)?;
    permits_stay_in_their_windows(decision, view, now)?;
    permits_stay_in_their_wave(after, now)?;
    permits_fit_the_phase(after, now)?;
    membership_is_sound(after)?;
    membership_is_stable(before, after)?;
    final_is_final(before, after, now)?;
    nothing_waits_for_ever(after, view, now)?;
    every_phase_has_a_reason(after)
}
