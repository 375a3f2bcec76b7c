//! Whose turn it is: operations of one request are done a few at a time, and what disturbs a device keeps the budgets of its groups, those of
//! running rollouts included.

use std::collections::{BTreeMap, BTreeSet};

use super::{Budget, GroupBudget, Kind, group_of};
use crate::id::{DeviceId, OperationId};
use crate::label::Labels;

/// An operation that waits for its turn.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub uid: OperationId,
    pub device: DeviceId,
    pub kind: Kind,
    /// Operations that were asked for together, and how many they are.
    pub request: Option<uuid::Uuid>,
    pub request_size: u32,
    pub budget: Budget,
}

/// A device as far as turns are concerned.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub name: String,
    pub labels: Labels,
    pub location: String,
    pub online: bool,
    /// Something keeps it down on purpose: a drain, a permit, another operation.
    pub down: bool,
}

/// What waits now, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    Waits(String),
}

/// Decides in the given order. `under_way` counts operations of each request that are not over and whose turn it is; `rollouts` are the budgets of
/// running rollouts, kept besides each operation's own.
#[must_use]
pub fn admit(
    waiting: &[Waiting],
    devices: &BTreeMap<DeviceId, Candidate>,
    under_way: &BTreeMap<uuid::Uuid, u32>,
    rollouts: &[GroupBudget],
) -> Vec<(OperationId, Turn)> {
    let mut under_way = under_way.clone();
    let mut down: BTreeSet<DeviceId> =
        devices.iter().filter(|(_, device)| device.down).map(|(id, _)| *id).collect();
    let mut turns = Vec::with_capacity(waiting.len());
    for one in waiting {
        let turn = turn(one, devices, &under_way, rollouts, &down);
        if turn == Turn::Now {
            if let Some(request) = one.request {
                *under_way.entry(request).or_insert(0) += 1;
            }
            if one.kind.is_disruptive() {
                down.insert(one.device);
            }
        }
        turns.push((one.uid, turn));
    }
    turns
}

fn turn(
    one: &Waiting,
    devices: &BTreeMap<DeviceId, Candidate>,
    under_way: &BTreeMap<uuid::Uuid, u32>,
    rollouts: &[GroupBudget],
    down: &BTreeSet<DeviceId>,
) -> Turn {
    let Some(device) = devices.get(&one.device) else {
        return Turn::Waits("the device is not in the fleet".to_owned());
    };
    if !device.online {
        return Turn::Waits("the device is not connected".to_owned());
    }
    if let Some(request) = one.request {
        let most = one.budget.concurrent(one.kind, one.request_size);
        let now = under_way.get(&request).copied().unwrap_or(0);
        if now >= most {
            return Turn::Waits(format!("{now} of this request are under way, at most {most} at once"));
        }
    }
    // Nobody loses anything by what happens to a device that is down already.
    if !one.kind.is_disruptive() || down.contains(&one.device) {
        return Turn::Now;
    }
    for group in one.budget.groups(one.kind).iter().chain(rollouts) {
        let value = |device: &'_ Candidate| {
            group_of(&group.label, &device.labels, &device.location).map(str::to_owned)
        };
        let Some(own) = value(device) else { continue };
        let members: Vec<_> =
            devices.iter().filter(|(_, other)| value(other).as_deref() == Some(own.as_str())).collect();
        let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let most = group.max_unavailable.of(size);
        let gone: Vec<&str> = members
            .iter()
            .filter(|(id, _)| down.contains(id))
            .map(|(_, device)| device.name.as_str())
            .collect();
        if gone.len() as u64 >= u64::from(most) {
            let shown = gone.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            return Turn::Waits(format!(
                "the budget of {}={own}: {} of {size} down already ({shown}), at most {most}",
                group.label,
                gone.len()
            ));
        }
    }
    Turn::Now
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Amount;

    fn id(number: u128) -> DeviceId {
        DeviceId(uuid::Uuid::from_u128(number))
    }

    fn fleet(places: &[&str]) -> BTreeMap<DeviceId, Candidate> {
        let device = |(number, place): (usize, &&str)| {
            let candidate = Candidate {
                name: format!("d{number}"),
                labels: Labels::default(),
                location: (*place).to_owned(),
                online: true,
                down: false,
            };
            (id(number as u128), candidate)
        };
        places.iter().enumerate().map(device).collect()
    }

    fn waiting(number: u128, kind: Kind, budget: Budget) -> Waiting {
        Waiting {
            uid: OperationId(uuid::Uuid::from_u128(number)),
            device: id(number),
            kind,
            request: Some(uuid::Uuid::nil()),
            request_size: 4,
            budget,
        }
    }

    fn admitted(
        waiting: &[Waiting],
        fleet: &BTreeMap<DeviceId, Candidate>,
        rollouts: &[GroupBudget],
    ) -> Vec<bool> {
        let turns = admit(waiting, fleet, &BTreeMap::new(), rollouts);
        turns.iter().map(|(_, turn)| *turn == Turn::Now).collect()
    }

    #[test]
    fn never_more_than_one_of_a_location_is_drained_at_once_where_nobody_says() {
        let mut fleet = fleet(&["a", "a", "b", "b"]);
        let all = Budget { max_concurrent: Some(4), group_by: None };
        let drains: Vec<_> = (0..4).map(|number| waiting(number, Kind::Drain, all.clone())).collect();
        assert_eq!(admitted(&drains, &fleet, &[]), [true, false, true, false]);
        // One that is down already may be drained, and keeps the others of its place up.
        fleet.get_mut(&id(1)).expect("there").down = true;
        assert_eq!(admitted(&drains, &fleet, &[]), [false, true, true, false]);
        let none = Budget { max_concurrent: Some(4), group_by: Some(Vec::new()) };
        let drains: Vec<_> = (0..4).map(|number| waiting(number, Kind::Drain, none.clone())).collect();
        assert_eq!(admitted(&drains, &fleet, &[]), [true; 4]);
        // What a running rollout promised is kept all the same.
        let promised = GroupBudget { label: "location".to_owned(), max_unavailable: Amount::Count(1) };
        assert_eq!(admitted(&drains, &fleet, &[promised]), [false, true, true, false]);
    }

    #[test]
    fn one_request_is_done_a_few_at_a_time_and_not_by_who_is_away() {
        let mut fleet = fleet(&["", "", "", ""]);
        fleet.get_mut(&id(0)).expect("there").online = false;
        let two = Budget { max_concurrent: Some(2), group_by: None };
        let asked: Vec<_> = (0..4).map(|number| waiting(number, Kind::Exec, two.clone())).collect();
        assert_eq!(admitted(&asked, &fleet, &[]), [false, true, true, false]);
        // A tenth of a request that disturbs, at least one.
        let asked: Vec<_> = (0..4).map(|number| waiting(number, Kind::Rollback, Budget::default())).collect();
        assert_eq!(admitted(&asked, &fleet, &[]), [false, true, false, false]);
    }
}
