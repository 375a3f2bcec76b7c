//! What windows and the budgets of groups keep members waiting for, in words.

use std::collections::{BTreeMap, BTreeSet};

use super::hours::{Hours, wants};
use super::ledger::{Blocked, Ledger};
use super::member::Progress;
use super::state::Rollout;
use super::view::FleetView;
use super::why::{Owner, Waiting};
use crate::id::DeviceId;
use crate::name::Name;
use crate::object::Reason;
use crate::schedule::{self, Look, Shut, WindowKind};
use crate::time::UnixMs;

/// At most this many groups are named.
const NAMED_GROUPS: usize = 8;

/// Members with one thing in common: how many, and since when the first of them.
#[derive(Clone, Copy)]
struct Crowd {
    number: u32,
    since: UnixMs,
}

impl Crowd {
    fn add<K: Ord>(crowds: &mut BTreeMap<K, Self>, key: K, since: UnixMs) {
        let crowd = crowds.entry(key).or_insert(Self { number: 0, since });
        crowd.number += 1;
        crowd.since = crowd.since.min(since);
    }

    fn devices(self) -> String {
        format!("{} {}", self.number, if self.number == 1 { "device waits" } else { "devices wait" })
    }
}

/// The code of the reason, and what is waited for.
const fn words(shut: Shut) -> (&'static str, &'static str) {
    match shut {
        Shut::Window(WindowKind::Maintenance) => ("MaintenanceWindow", "for a maintenance window"),
        Shut::Window(WindowKind::Download) => ("DownloadWindow", "for a download window"),
        Shut::Window(WindowKind::Energy) => ("EnergyWindow", "for cheap hours"),
        Shut::Blackout => ("Blackout", "for the end of a blackout"),
    }
}

impl Rollout {
    /// What windows and groups keep members from changing, and which members these are. `until` is the deadline of what never comes.
    pub(super) fn waits_for_hours_and_groups(
        &self,
        view: &FleetView,
        now: UnixMs,
        until: UnixMs,
    ) -> (Vec<Waiting>, BTreeSet<DeviceId>) {
        let mut hours = Hours::of(&self.spec, now);
        let ledger = (!self.spec.group_by.is_empty()).then(|| Ledger::of(self, view, now));
        let mut kept = BTreeSet::new();
        let mut shut: BTreeMap<(Shut, Option<&Name>, Option<UnixMs>), Crowd> = BTreeMap::new();
        let mut full: BTreeMap<(String, String), Crowd> = BTreeMap::new();
        if ledger.is_none() && !self.has_windows() {
            return (Vec::new(), kept);
        }
        for (device, member) in &self.members {
            let in_turn =
                member.wave == self.current || matches!(member.progress, Progress::RollbackDue { .. });
            let Some(known) = view.get(*device).filter(|known| in_turn && known.is_online()) else {
                continue;
            };
            let since = member.progress.since();
            if let Some(purpose) = wants(self, member, known)
                && let (Look::Shut { next, by }, whose) = hours.look_with_policy(purpose, known)
            {
                Crowd::add(&mut shut, (by, whose, next), since);
                kept.insert(*device);
            } else if matches!(member.progress, Progress::Waiting { .. } | Progress::RollbackDue { .. })
                && let Some(Blocked::Group(label, value)) =
                    ledger.as_ref().and_then(|ledger| ledger.blocks(known, now))
            {
                Crowd::add(&mut full, (label, value), since);
                kept.insert(*device);
            }
        }
        let mut list: Vec<_> = shut
            .into_iter()
            .map(|((by, whose, next), crowd)| {
                let (code, what) = words(by);
                let whose = whose.map(|policy| format!(" of policy {policy}")).unwrap_or_default();
                let opens = match next {
                    Some(next) => format!("opens {}", schedule::text(next)),
                    None => "none opens within a year".to_owned(),
                };
                let text = format!("{} {what}{whose}; {opens}", crowd.devices());
                let reason = Reason::new(code, text, crowd.since);
                Waiting { reason, owner: Owner::Engine, until: next.unwrap_or(until) }
            })
            .collect();
        let more = full.len().saturating_sub(NAMED_GROUPS);
        for (place, ((label, value), crowd)) in full.into_iter().enumerate().take(NAMED_GROUPS) {
            let limit =
                self.spec.group_by.iter().find(|group| group.label == label).map(|group| group.limit());
            let limit = limit.map(|limit| limit.to_string()).unwrap_or_default();
            let others = if place + 1 == NAMED_GROUPS && more > 0 {
                format!("; {more} more groups are full")
            } else {
                String::new()
            };
            let text = format!("{} for a place in {label}={value} ({limit}){others}", crowd.devices());
            let reason = Reason::new("GroupBudget", text, crowd.since);
            list.push(Waiting { reason, owner: Owner::Engine, until });
        }
        (list, kept)
    }
}
