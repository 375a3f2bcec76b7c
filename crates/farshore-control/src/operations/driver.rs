//! Whose turn it is. A part of the fleet driver's step, so that rollouts and operations never spend the same budget twice.

use std::collections::{BTreeMap, BTreeSet};

use farshore_domain::device::Lifecycle;
use farshore_domain::id::DeviceId;
use farshore_domain::operation::{Candidate, GroupBudget, Kind, State, Turn, Waiting, admit};
use farshore_domain::rollout::{Amount, Limit};
use farshore_domain::time::{SECOND_MS, UnixMs};
use farshore_store::operations::OperationRow;
use farshore_store::{StoreResult, TenantDb};

use crate::app::App;
use crate::fleet::Snapshot;

/// What waits is looked at again after this long, whatever was heard.
const LOOK_AGAIN_MS: i64 = 5 * SECOND_MS;

/// What a step did.
#[derive(Debug)]
pub(crate) struct Stepped {
    /// Devices that should have another desired state now.
    pub(crate) devices: BTreeSet<DeviceId>,
    /// Devices that have something to do, as soon as they have heard of what their policies say now.
    pub(crate) begun: BTreeSet<DeviceId>,
    pub(crate) wrote: bool,
    pub(crate) deadline: UnixMs,
}

/// Ends drains that are done, and lets begin whose turn it is.
pub(crate) async fn step(
    app: &App,
    db: &TenantDb,
    snapshot: &mut Snapshot,
    now: UnixMs,
) -> StoreResult<Stepped> {
    let mut stepped = Stepped {
        devices: BTreeSet::new(),
        begun: BTreeSet::new(),
        wrote: false,
        deadline: UnixMs(i64::MAX),
    };
    let rows = std::mem::take(&mut snapshot.operations);
    if rows.is_empty() {
        return Ok(stepped);
    }
    end_drains(db, snapshot, &rows, now, &mut stepped).await?;
    let queued: Vec<&OperationRow> =
        rows.iter().filter(|row| row.state == State::Queued && row.admitted_at.is_none()).collect();
    if queued.is_empty() {
        return Ok(stepped);
    }
    stepped.deadline = now.plus_ms(LOOK_AGAIN_MS);
    let online = |device: DeviceId| app.hub().is_connected(db.tenant(), device);
    let mut under_way: BTreeMap<uuid::Uuid, u32> = BTreeMap::new();
    let mut down: BTreeSet<DeviceId> = snapshot.down_on_purpose(now);
    for row in rows.iter().filter(|row| row.admitted_at.is_some() && !row.state.is_final()) {
        // Who went away in the middle must not keep the others waiting until it expires.
        if let Some(request) = row.request.filter(|_| online(row.device)) {
            *under_way.entry(request).or_insert(0) += 1;
        }
        if row.kind.is_disruptive() {
            down.insert(row.device);
        }
    }
    let candidates: BTreeMap<DeviceId, Candidate> = snapshot
        .devices
        .values()
        .filter(|device| device.lifecycle.may_connect())
        .map(|device| {
            let candidate = Candidate {
                name: device.name.to_string(),
                labels: device.labels.clone(),
                location: device.location.clone(),
                online: online(device.id),
                down: down.contains(&device.id)
                    || matches!(device.lifecycle, Lifecycle::Draining | Lifecycle::Drained),
            };
            (device.id, candidate)
        })
        .collect();
    let waiting: Vec<Waiting> = queued
        .iter()
        .map(|row| Waiting {
            uid: row.uid,
            device: row.device,
            kind: row.kind,
            request: row.request,
            request_size: row.request_size,
            budget: row.budget.clone(),
        })
        .collect();
    let turns = admit(&waiting, &candidates, &under_way, &promised(snapshot, &candidates));
    let mut tx = db.begin().await?;
    let mut begun = Vec::new();
    for (row, (_, turn)) in queued.iter().zip(turns) {
        match turn {
            Turn::Now => {
                db.admit_operation(&mut tx, row, now).await?;
                begun.push(*row);
            }
            Turn::Waits(what) if what != row.waits => db.operation_waits(&mut tx, row.uid, &what).await?,
            Turn::Waits(_) => {}
        }
    }
    tx.commit().await?;
    for row in begun {
        stepped.wrote = true;
        stepped.devices.insert(row.device);
        if row.kind == Kind::Drain {
            snapshot.set_lifecycle(row.device, Lifecycle::Draining);
            app.hub().changed(db.tenant(), row.device);
        } else {
            stepped.begun.insert(row.device);
        }
    }
    Ok(stepped)
}

/// A drain is done when the device has said that nothing of it runs any more.
async fn end_drains(
    db: &TenantDb,
    snapshot: &mut Snapshot,
    rows: &[OperationRow],
    now: UnixMs,
    stepped: &mut Stepped,
) -> StoreResult<()> {
    for row in rows.iter().filter(|row| row.kind == Kind::Drain && row.state == State::Running) {
        let draining =
            snapshot.devices.get(&row.device).is_some_and(|device| device.lifecycle == Lifecycle::Draining);
        let Some(stopped) = snapshot.stopped_apps(row.device).filter(|_| draining) else { continue };
        let mut tx = db.begin().await?;
        let message = format!("{stopped} apps are stopped");
        if db.end_operation(&mut tx, row, State::Succeeded, &message, now).await? {
            tx.commit().await?;
            snapshot.set_lifecycle(row.device, Lifecycle::Drained);
            stepped.devices.insert(row.device);
            stepped.wrote = true;
        }
    }
    Ok(())
}

/// What running rollouts have promised to the groups of their devices.
fn promised(snapshot: &Snapshot, devices: &BTreeMap<DeviceId, Candidate>) -> Vec<GroupBudget> {
    let running = snapshot.rollouts.iter().map(|read| &read.rollout).filter(|r| !r.phase().is_final());
    running
        .flat_map(|rollout| &rollout.spec().group_by)
        .map(|group| {
            let max_unavailable = match group.limit() {
                Limit::MaxUnavailable(most) => most,
                Limit::MinAvailable(Amount::Percent(least)) => {
                    Amount::Percent(100_u8.saturating_sub(least).max(1))
                }
                // So many must stay; of the smallest group that is so many fewer.
                Limit::MinAvailable(Amount::Count(least)) => {
                    let mut sizes: BTreeMap<&str, u32> = BTreeMap::new();
                    for device in devices.values() {
                        if let Some(value) = device.labels.get(&group.label) {
                            *sizes.entry(value).or_insert(0) += 1;
                        }
                    }
                    let smallest = sizes.values().copied().min().unwrap_or(1);
                    Amount::Count(smallest.saturating_sub(least).max(1))
                }
            };
            GroupBudget { label: group.label.clone(), max_unavailable }
        })
        .collect()
}
