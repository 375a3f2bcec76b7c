//! What the conditions of a rollout need to know of its devices, filled into the view.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use farshore_domain::condition::device::EVENTS;
use farshore_domain::id::{DeviceId, RolloutId};
use farshore_domain::rollout::{FleetView, Progress, Reading, Rollout, Signals};
use farshore_domain::time::{HOUR_MS, MINUTE_MS, SECOND_MS, UnixMs};
use farshore_store::{StoreError, StoreResult, TenantDb};

/// At most this many devices of each side are compared: with more, an interval hardly gets narrower. The first in the rollout's order.
const MOST_COMPARED: usize = 300;
/// At most this many devices' pasts are read in one step; the others follow in the next ones.
const MOST_PASTS: usize = 25;
const MOST_BLOCKS: u32 = 4_000;
/// Older values of a device that has not got the release say nothing about now.
const STALE_MS: i64 = 15 * MINUTE_MS;
/// Pasts are kept for so many devices.
const MOST_KEPT: usize = 10_000;

type Past = Arc<BTreeMap<String, f64>>;

/// What devices measured before a rollout reached them. That never changes, and reading it again in each step would be dear.
static PASTS: LazyLock<Mutex<HashMap<(RolloutId, DeviceId), Past>>> = LazyLock::new(Mutex::default);

/// Fills in the signals of the devices that a rollout's conditions compare. Does nothing for a rollout whose conditions need none.
pub(in crate::rollouts) async fn fill(
    db: &TenantDb,
    view: &mut FleetView,
    rollout: &Rollout,
    now: UnixMs,
) -> StoreResult<()> {
    if rollout.phase().is_final() || !rollout.needs_signals() {
        return Ok(());
    }
    let mut members: Vec<_> = rollout.members().filter(|(device, _)| view.get(*device).is_some()).collect();
    members.sort_unstable_by_key(|(_, member)| member.rank());
    let updated: BTreeMap<DeviceId, UnixMs> = members
        .iter()
        .filter_map(|(device, member)| match member.progress() {
            Progress::Updated { at } => Some((*device, *at)),
            _ => None,
        })
        .collect();
    let waiting = members
        .iter()
        .filter(|(_, member)| matches!(member.progress(), Progress::Waiting { .. }) && !member.was_touched());
    let compared: Vec<DeviceId> = members
        .iter()
        .filter(|(device, _)| updated.contains_key(device))
        .take(MOST_COMPARED)
        .chain(waiting.take(MOST_COMPARED))
        .map(|(device, _)| *device)
        .collect();
    let mut signals: BTreeMap<DeviceId, Signals> =
        updated.keys().map(|device| (*device, Signals::default())).collect();
    let newest = db.newest_values(&compared).await?;
    let pasts =
        pasts(db, rollout, &newest.iter().map(|newest| newest.device).collect::<Vec<_>>(), &updated).await?;
    for newest in newest {
        let fresh = match updated.get(&newest.device) {
            Some(at) => newest.at > *at,
            None => now.since_ms(newest.at) <= STALE_MS,
        };
        if !fresh {
            continue;
        }
        let past = pasts.get(&newest.device);
        let readings = newest.values.into_iter().map(|(name, latest)| {
            let baseline = past.and_then(|past| past.get(&name).copied());
            (name, Reading { latest, baseline })
        });
        signals.entry(newest.device).or_default().metrics = readings.collect();
    }
    if let Some(since) = updated.values().min().copied() {
        let devices: Vec<DeviceId> = updated.keys().copied().collect();
        let after = |device: DeviceId, at: UnixMs| updated.get(&device).is_some_and(|begun| at >= *begun);
        for (device, at) in db.incidents_begun(&devices, since).await? {
            if after(device, at)
                && let Some(signals) = signals.get_mut(&device)
            {
                signals.incidents = signals.incidents.saturating_add(1);
            }
        }
        for (device, kind, at) in db.events_told(&devices, EVENTS, since).await? {
            if after(device, at)
                && let Some(signals) = signals.get_mut(&device)
            {
                let count = signals.events.entry(kind).or_insert(0);
                *count = count.saturating_add(1);
            }
        }
    }
    for (device, signals) in signals {
        if let Some(known) = view.get_mut(device) {
            known.signals = Some(Box::new(signals));
        }
    }
    Ok(())
}

/// The means of the hour before each of these devices was touched, as far as they are known by now.
async fn pasts(
    db: &TenantDb,
    rollout: &Rollout,
    devices: &[DeviceId],
    updated: &BTreeMap<DeviceId, UnixMs>,
) -> StoreResult<BTreeMap<DeviceId, Past>> {
    let mut known = BTreeMap::new();
    let mut missing = Vec::new();
    {
        let kept = PASTS.lock().unwrap_or_else(PoisonError::into_inner);
        for device in devices {
            let Some(at) = updated.get(device) else { continue };
            match kept.get(&(rollout.id(), *device)) {
                Some(past) => drop(known.insert(*device, Arc::clone(past))),
                None => missing.push((*device, *at)),
            }
        }
    }
    missing.truncate(MOST_PASTS);
    let Some(first) = missing.iter().map(|(_, at)| *at).min() else { return Ok(known) };
    let last = missing.iter().map(|(_, at)| *at).max().unwrap_or(first);
    // It had its permit at most this long before it had committed.
    let took = i64::from(rollout.spec().device_timeout_seconds) * SECOND_MS;
    let ids: Vec<_> = missing.iter().map(|(device, _)| *device).collect();
    let blocks = db
        .metric_blocks(&ids, "host", first.plus_ms(-took - HOUR_MS), last.plus_ms(-took), MOST_BLOCKS)
        .await?;
    let read = tokio::task::spawn_blocking(move || {
        let mut sums: HashMap<DeviceId, BTreeMap<String, (f64, f64)>> = HashMap::new();
        for row in &blocks {
            let Some((_, at)) = missing.iter().find(|(device, _)| *device == row.device) else { continue };
            let (from, to) = (at.plus_ms(-took - HOUR_MS).0, at.plus_ms(-took).0);
            // Stored blocks were read once before; one of a later version shows as a gap.
            let Ok(block) = farshore_series::decode(&row.block) else { continue };
            let of_device = sums.entry(row.device).or_default();
            for name in farshore_domain::condition::device::METRICS {
                for (at, value) in block.points_of(name) {
                    if at >= from && at < to {
                        let (sum, count) = of_device.entry((*name).to_owned()).or_insert((0.0, 0.0));
                        *sum += value;
                        *count += 1.0;
                    }
                }
            }
        }
        let mean = |(name, (sum, count)): (String, (f64, f64))| (name, sum / count);
        missing
            .into_iter()
            .map(|(device, _)| {
                let means = sums.remove(&device).unwrap_or_default().into_iter().map(mean);
                (device, Arc::new(means.collect()))
            })
            .collect::<Vec<(DeviceId, Past)>>()
    })
    .await
    .map_err(|error| StoreError::Corrupt(format!("the past of devices can't be read: {error}")))?;
    let mut kept = PASTS.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() + read.len() > MOST_KEPT {
        kept.clear();
    }
    for (device, past) in read {
        kept.insert((rollout.id(), device), Arc::clone(&past));
        known.insert(device, past);
    }
    Ok(known)
}
