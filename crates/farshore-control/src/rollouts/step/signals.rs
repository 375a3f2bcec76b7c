//! The past of devices, for conditions that compare them with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use farshore_domain::id::{DeviceId, RolloutId};
use farshore_domain::rollout::{FleetView, Progress, Rollout};
use farshore_domain::time::{HOUR_MS, SECOND_MS, UnixMs};
use farshore_store::{StoreError, StoreResult, TenantDb};

/// At most this many devices are compared with their own past: with more, an interval hardly gets narrower. The first in the rollout's order.
const MOST_COMPARED: usize = 300;
/// At most this many devices' pasts are read in one step; the others follow in the next ones.
const MOST_PASTS: usize = 25;
const MOST_BLOCKS: u32 = 4_000;
/// Pasts are kept for so many devices.
const MOST_KEPT: usize = 10_000;

type Past = Arc<BTreeMap<String, f64>>;

/// What devices measured before a rollout reached them. That never changes, and reading it again in each step would be dear.
static PASTS: LazyLock<Mutex<HashMap<(RolloutId, DeviceId), Past>>> = LazyLock::new(Mutex::default);

/// Adds what devices measured before to the signals that the snapshot has of them. Does nothing for a rollout whose conditions need none.
pub(in crate::rollouts) async fn fill(
    db: &TenantDb,
    view: &mut FleetView,
    rollout: &Rollout,
) -> StoreResult<()> {
    if rollout.phase().is_final() || !rollout.needs_signals() {
        return Ok(());
    }
    let mut members: Vec<_> = rollout.members().collect();
    members.sort_unstable_by_key(|(_, member)| member.rank());
    let updated: Vec<(DeviceId, UnixMs)> = members
        .iter()
        .filter_map(|(device, member)| match member.progress() {
            Progress::Updated { at } => Some((*device, *at)),
            _ => None,
        })
        .take(MOST_COMPARED)
        .collect();
    for (device, past) in pasts(db, rollout, &updated).await? {
        let Some(signals) = view.get_mut(device).and_then(|known| known.signals.as_mut()) else { continue };
        for (name, reading) in &mut signals.metrics {
            reading.baseline = past.get(name).copied();
        }
    }
    Ok(())
}

/// The means of the hour before each of these devices was touched, as far as they are known by now.
async fn pasts(
    db: &TenantDb,
    rollout: &Rollout,
    updated: &[(DeviceId, UnixMs)],
) -> StoreResult<BTreeMap<DeviceId, Past>> {
    let mut known = BTreeMap::new();
    let mut missing = Vec::new();
    {
        let kept = PASTS.lock().unwrap_or_else(PoisonError::into_inner);
        for (device, at) in updated {
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
