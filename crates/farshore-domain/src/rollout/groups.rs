//! The budgets of groups as figures: who is down in each, because of what, and who waits for a place there.

use serde::{Deserialize, Serialize};

use super::ledger::{self, Ledger};
use super::member::Progress;
use super::spec::{Amount, Limit};
use super::state::{Phase, Rollout};
use super::view::FleetView;
use crate::time::UnixMs;

/// At most this many groups are shown, those that keep most devices waiting first.
pub const MAX_GROUPS_SHOWN: usize = 100;

/// One value of a label with a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct GroupStand {
    #[cfg_attr(feature = "openapi", schema(example = "location"))]
    pub label: String,
    #[cfg_attr(feature = "openapi", schema(example = "riga-3"))]
    pub value: String,
    /// Devices of the app and channel in it.
    pub size: u32,
    /// As it was asked for; the other one of the two is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Amount>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_available: Option<Amount>,
    /// How many may be down at once.
    pub budget: u32,
    /// Down on purpose now: the sum of the next two.
    pub down: u32,
    pub down_by_rollout: u32,
    /// By other rollouts, the assignment driver, drains; also devices with this label outside of the app and channel.
    pub down_by_others: u32,
    /// Of those that this rollout keeps down, the ones out of reach: their permits count until they expire.
    pub down_unreachable: u32,
    /// Reachable, with the app running and its checks good, and not down on purpose.
    pub up: u32,
    /// Members whose turn it is and that this budget, or the one of another group, keeps waiting.
    pub waiting: u32,
    /// Nobody of it may be taken down now.
    pub full: bool,
}

impl Rollout {
    /// How the budget of each group stands. Empty without `groupBy`.
    #[must_use]
    pub fn group_stands(&self, view: &FleetView, now: UnixMs) -> Vec<GroupStand> {
        if self.spec.group_by.is_empty() {
            return Vec::new();
        }
        let ledger = Ledger::of(self, view, now);
        let mut stands: Vec<GroupStand> = Vec::new();
        for group in &self.spec.group_by {
            let limit = group.limit();
            let mut of_label = view.group_sizes(&group.label);
            let first = stands.len();
            stands.extend(of_label.iter().map(|(value, size)| GroupStand {
                label: group.label.clone(),
                value: (*value).to_owned(),
                size: *size,
                max_unavailable: group.max_unavailable,
                min_available: group.min_available,
                budget: limit.places(*size),
                down: 0,
                down_by_rollout: 0,
                down_by_others:
                    view.group_load.get(&(group.label.clone(), (*value).to_owned())).copied().unwrap_or(0),
                down_unreachable: 0,
                up: 0,
                waiting: 0,
                full: false,
            }));
            // From here on the place of each value among them.
            for (place, index) in of_label.values_mut().zip(0..) {
                *place = index;
            }
            for device in view.iter() {
                let place = device.labels.get(&group.label).and_then(|value| of_label.get(value));
                let Some(stand) = place.and_then(|place| stands.get_mut(first + *place as usize)) else {
                    continue;
                };
                let member = self.members.get(&device.id);
                let ours = member.is_some_and(|member| {
                    member.progress.is_in_flight() || ledger::tries(self, member, device)
                });
                if ours {
                    stand.down_by_rollout += 1;
                    stand.down_unreachable += u32::from(!device.is_online());
                } else if device.is_busy(now) {
                    stand.down_by_others += 1;
                } else if device.is_up(now) {
                    stand.up += 1;
                }
                let in_turn = member.is_some_and(|member| match member.progress {
                    Progress::Waiting { .. } => self.phase == Phase::Running && member.wave == self.current,
                    Progress::RollbackDue { .. } => self.phase == Phase::RollingBack && !ours,
                    _ => false,
                });
                let blocked = in_turn
                    && device.is_online()
                    && matches!(ledger.blocks(device, now), Some(ledger::Blocked::Group(..)));
                stand.waiting += u32::from(blocked);
            }
        }
        for stand in &mut stands {
            stand.down = stand.down_by_rollout + stand.down_by_others;
            let keeps = match stand.min_available.map(Limit::MinAvailable) {
                Some(Limit::MinAvailable(least)) => stand.up > least.at_least(stand.size),
                _ => true,
            };
            stand.full = !keeps || stand.down >= stand.budget;
        }
        stands.sort_by(|a, b| {
            let key = |stand: &GroupStand| std::cmp::Reverse((stand.waiting, stand.full, stand.down));
            key(a).cmp(&key(b)).then_with(|| (&a.label, &a.value).cmp(&(&b.label, &b.value)))
        });
        stands.truncate(MAX_GROUPS_SHOWN);
        stands
    }
}
