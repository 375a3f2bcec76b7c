//! Who is down, and who may be taken down: the budget of the population and those of the groups.
//!
//! - *Down on purpose* is who is in flight (permits that unreachable devices hold included), whom something else keeps down
//!   ([`DeviceView::is_busy`]: other permits, drains, reboots), and, in a group, the load from outside the view. `maxUnavailable` limits these.
//!   So is who waits to go back in the middle of the new release. To let it go back disturbs nothing more, and nobody else may have its place.
//! - `minAvailable` is a promise about what stays up, so that a device that can't be reached, or whose checks fail, is not up either
//!   ([`DeviceView::is_up`]). Taking down a device that is not up costs nobody anything: such devices may be repaired one after the other.

use std::collections::BTreeMap;

use super::member::{Member, Progress};
use super::spec::Limit;
use super::state::Rollout;
use super::view::{DeviceView, FleetView};
use crate::time::UnixMs;

/// One budget as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    limit: Limit,
    size: u32,
    down: u32,
    /// Of those that are down, who waits to go back in the middle of the new release.
    tries: u32,
    up: u32,
}

impl Line {
    const fn new(limit: Limit, size: u32) -> Self {
        Self { limit, size, down: 0, tries: 0, up: 0 }
    }

    fn add(&mut self, flies: bool, tries: bool, device: Option<&DeviceView>, now: UnixMs) {
        let busy = device.is_some_and(|device| device.is_busy(now));
        // What is up counts for that limit alone, and asks for most of what is known of a device.
        let counts_up = matches!(self.limit, Limit::MinAvailable(_));
        let up = counts_up && device.is_some_and(|device| device.is_up(now));
        self.down += u32::from(flies || tries || busy);
        self.tries += u32::from(tries);
        self.up += u32::from(!flies && !tries && up);
    }

    /// How many may be down at once; one even where nothing may, for a device that is down anyway.
    fn places(&self, up: bool) -> u32 {
        match self.limit {
            Limit::MaxUnavailable(_) => self.limit.places(self.size),
            Limit::MinAvailable(_) => self.limit.places(self.size).max(u32::from(!up)),
        }
    }

    /// Whether one more may be taken down.
    fn admits(&self, up: bool) -> bool {
        let keeps = match self.limit {
            Limit::MinAvailable(least) if up => self.up > least.at_least(self.size),
            _ => true,
        };
        keeps && self.down < self.places(up)
    }

    /// Whether one more of those that try the new release may go back: nobody else is taken down.
    fn admits_back(&self) -> bool {
        self.down.saturating_sub(self.tries) < self.places(false)
    }

    /// Whether more are down than may be, one that is counted as down and would be `up` otherwise among them.
    fn is_over(&self, up: bool) -> bool {
        let short = match self.limit {
            Limit::MinAvailable(least) if up => self.up < least.at_least(self.size),
            _ => false,
        };
        short || self.down > self.places(up)
    }
}

#[derive(Debug)]
struct Group<'a> {
    label: String,
    lines: BTreeMap<&'a str, Line>,
}

/// All budgets of a rollout.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    all: Line,
    groups: Vec<Group<'a>>,
    in_flight: u32,
}

/// The budget that keeps a device waiting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blocked {
    Population,
    /// Label and value.
    Group(String, String),
}

impl std::fmt::Display for Blocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Population => f.write_str("the budget of the population"),
            Self::Group(label, value) => write!(f, "the budget of {label}={value}"),
        }
    }
}

impl<'a> Ledger<'a> {
    pub(super) fn of(rollout: &Rollout, view: &'a FleetView, now: UnixMs) -> Self {
        let mut all = Line::new(rollout.spec.limit(), rollout.size());
        let mut in_flight = 0;
        for (device, member) in &rollout.members {
            let known = view.get(*device);
            let flies = member.progress.is_in_flight();
            in_flight += u32::from(flies);
            all.add(flies, known.is_some_and(|known| tries(rollout, member, known)), known, now);
        }
        let groups = rollout.spec.group_by.iter();
        let groups =
            groups.map(|group| Self::group(rollout, &group.label, group.limit(), view, now)).collect();
        Self { all, groups, in_flight }
    }

    fn group(rollout: &Rollout, label: &str, limit: Limit, view: &'a FleetView, now: UnixMs) -> Group<'a> {
        let mut lines: BTreeMap<&str, Line> = view
            .group_sizes(label)
            .into_iter()
            .map(|(value, size)| (value, Line::new(limit, size)))
            .collect();
        // Both are in the order of ids: one pass finds the members.
        let mut members = rollout.members.iter().peekable();
        for device in view.iter() {
            while members.next_if(|(member, _)| **member < device.id).is_some() {}
            let member = members.next_if(|(member, _)| **member == device.id);
            let flies = member.is_some_and(|(_, member)| member.progress.is_in_flight());
            if let Some(line) = device.labels.get(label).and_then(|value| lines.get_mut(value)) {
                let tries = member.is_some_and(|(_, member)| tries(rollout, member, device));
                line.add(flies, tries, Some(device), now);
            }
        }
        for (value, line) in &mut lines {
            let outside = view.group_load.get(&(label.to_owned(), (*value).to_owned()));
            line.down += outside.copied().unwrap_or(0);
        }
        Group { label: label.to_owned(), lines }
    }

    pub(super) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The budget of the population and those of the device's groups.
    fn lines(&self, device: &DeviceView) -> impl Iterator<Item = (Option<&str>, &Line)> {
        let of_groups = self.groups.iter().filter_map(|group| {
            let line = group.lines.get(device.labels.get(&group.label)?)?;
            Some((Some(group.label.as_str()), line))
        });
        std::iter::once((None, &self.all)).chain(of_groups)
    }

    fn lines_mut(&mut self, device: &DeviceView) -> impl Iterator<Item = &mut Line> {
        let of_groups =
            self.groups.iter_mut().filter_map(|group| group.lines.get_mut(device.labels.get(&group.label)?));
        std::iter::once(&mut self.all).chain(of_groups)
    }

    /// What keeps this device from being taken down now.
    pub(super) fn blocks(&self, device: &DeviceView, now: UnixMs) -> Option<Blocked> {
        let up = device.is_up(now);
        let (label, _) = self.lines(device).find(|(_, line)| !line.admits(up))?;
        Some(match label {
            None => Blocked::Population,
            Some(label) => {
                let value = device.labels.get(label).unwrap_or_default();
                Blocked::Group(label.to_owned(), value.to_owned())
            }
        })
    }

    pub(super) fn admits(&self, device: &DeviceView, now: UnixMs) -> bool {
        let up = device.is_up(now);
        self.lines(device).all(|(_, line)| line.admits(up))
    }

    /// Whether a device may go back; `tries` when it is in the middle of the new release.
    pub(super) fn admits_back(&self, device: &DeviceView, tries: bool, now: UnixMs) -> bool {
        if tries { self.lines(device).all(|(_, line)| line.admits_back()) } else { self.admits(device, now) }
    }

    /// The device takes a place to go back, or keeps its own.
    pub(super) fn take_back(&mut self, device: &DeviceView, tries: bool, now: UnixMs) {
        if !tries {
            self.take(device, now);
            return;
        }
        self.in_flight += 1;
        for line in self.lines_mut(device) {
            line.tries = line.tries.saturating_sub(1);
        }
    }

    /// A device whose permit to go back ran out waits in the middle of the new release: it keeps its place.
    pub(super) fn wait_in_place(&mut self, device: &DeviceView) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for line in self.lines_mut(device) {
            line.tries += 1;
        }
    }

    /// Whether nobody at all can be taken down now.
    pub(super) fn is_full(&self) -> bool {
        !self.all.admits(false)
    }

    /// Whether a device that is in flight takes a place too many.
    pub(super) fn is_over(&self, device: &DeviceView, now: UnixMs) -> bool {
        let up = device.is_up(now);
        self.lines(device).any(|(_, line)| line.is_over(up))
    }

    /// The device takes a place.
    pub(super) fn take(&mut self, device: &DeviceView, now: UnixMs) {
        let up = u32::from(device.is_up(now));
        self.in_flight += 1;
        for line in self.lines_mut(device) {
            line.down += 1;
            line.up = line.up.saturating_sub(up);
        }
    }

    /// The device gives its place back.
    pub(super) fn give_back(&mut self, device: &DeviceView, now: UnixMs) {
        let (busy, up) = (u32::from(device.is_busy(now)), u32::from(device.is_up(now)));
        self.in_flight = self.in_flight.saturating_sub(1);
        for line in self.lines_mut(device) {
            line.down = line.down.saturating_sub(1) + busy;
            line.up += up;
        }
    }
}

/// Whether a member waits to go back in the middle of the new release.
pub(super) fn tries(rollout: &Rollout, member: &Member, device: &DeviceView) -> bool {
    matches!(member.progress, Progress::RollbackDue { .. }) && device.is_trying(rollout.to.uid)
}

#[cfg(test)]
mod tests {
    use super::super::spec::Amount;
    use super::*;

    fn line(limit: Limit, size: u32, down: u32, up: u32) -> Line {
        Line { limit, size, down, tries: 0, up }
    }

    #[test]
    fn at_most_so_many_are_down_whoever_is_out_of_reach() {
        let limit = Limit::MaxUnavailable(Amount::Count(2));
        assert!(line(limit, 10, 1, 3).admits(true));
        assert!(!line(limit, 10, 2, 8).admits(true));
        assert!(!line(limit, 10, 2, 8).admits(false));
        assert!(line(limit, 10, 3, 7).is_over(true) && !line(limit, 10, 2, 8).is_over(true));
    }

    #[test]
    fn who_tries_the_new_release_may_go_back_in_its_own_place_and_nobody_else_has_it() {
        let limit = Limit::MaxUnavailable(Amount::Count(1));
        let stuck = Line { limit, size: 5, down: 2, tries: 2, up: 3 };
        assert!(stuck.admits_back() && !stuck.admits(true));
        let flies = Line { limit, size: 5, down: 2, tries: 1, up: 3 };
        assert!(!flies.admits_back(), "one after the other");
    }

    #[test]
    fn what_is_out_of_reach_is_not_up_and_what_is_not_up_may_be_repaired_one_by_one() {
        let pair = Limit::MinAvailable(Amount::Count(1));
        assert!(line(pair, 2, 0, 2).admits(true));
        assert!(!line(pair, 2, 0, 1).admits(true), "the other one is not up");
        assert!(line(pair, 2, 0, 1).admits(false), "this one is not up itself");
        assert!(line(pair, 2, 0, 0).admits(false), "both are broken: one may be repaired");
        assert!(!line(pair, 2, 1, 0).admits(false), "and the other one after it");
        let alone = Limit::MinAvailable(Amount::Count(1));
        assert!(!line(alone, 1, 0, 1).admits(true));
        assert!(line(alone, 1, 0, 0).admits(false));
    }
}
