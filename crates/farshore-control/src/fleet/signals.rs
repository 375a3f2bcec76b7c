//! What conditions of rollouts read of devices, read only when a rollout that is not over has such conditions.

use std::collections::BTreeMap;

use farshore_domain::condition::device::EVENTS;
use farshore_domain::id::DeviceId;
use farshore_domain::rollout::{Progress, Reading, Rollout, Signals};
use farshore_domain::time::{MINUTE_MS, UnixMs};
use farshore_store::db::Tx;
use farshore_store::signals::LatestReadings;
use farshore_store::{StoreResult, TenantDb};

/// A measurement of a device that has not changed yet counts for so long.
const FRESH_MS: i64 = 15 * MINUTE_MS;

/// When something was told, by device.
type Moments = BTreeMap<DeviceId, Vec<UnixMs>>;

/// Everything that was measured and told since the first of the rollouts that ask for it has started.
#[derive(Debug, Default)]
pub(super) struct FleetSignals {
    latest: BTreeMap<DeviceId, LatestReadings>,
    incidents: Moments,
    /// By the event's name.
    events: BTreeMap<&'static str, Moments>,
}

impl FleetSignals {
    /// Reads what these rollouts need: nothing for most.
    pub(super) async fn load<'a>(
        db: &TenantDb,
        tx: &mut Tx,
        rollouts: impl Iterator<Item = &'a Rollout>,
    ) -> StoreResult<Self> {
        let asking = rollouts.filter(|rollout| !rollout.phase().is_final() && rollout.needs_signals());
        let Some(since) = asking.filter_map(Rollout::started_at).min() else { return Ok(Self::default()) };
        let mut events = BTreeMap::new();
        for kind in EVENTS {
            let told = db.device_events_since(tx, kind, since).await?;
            if !told.is_empty() {
                events.insert(*kind, told);
            }
        }
        Ok(Self {
            latest: db.latest_readings(tx).await?,
            incidents: db.incidents_since(tx, since).await?,
            events,
        })
    }

    /// What is known of one device for this rollout. Of a device that has the new release only what came after it counts.
    pub(super) fn of(&self, rollout: &Rollout, device: DeviceId, now: UnixMs) -> Option<Box<Signals>> {
        let since = match rollout.member(device)?.progress() {
            Progress::Updated { at } => *at,
            _ => now.plus_ms(-FRESH_MS),
        };
        let latest = self.latest.get(&device).filter(|latest| latest.at >= since);
        let metrics = latest
            .into_iter()
            .flat_map(|latest| &latest.values)
            .map(|(name, value)| (name.clone(), Reading { latest: *value, baseline: None }))
            .collect();
        let count = |moments: &Moments| {
            let moments = moments.get(&device).map_or(&[] as &[UnixMs], Vec::as_slice);
            u32::try_from(moments.iter().filter(|at| **at >= since).count()).unwrap_or(u32::MAX)
        };
        let events = self.events.iter().map(|(kind, moments)| ((*kind).to_owned(), count(moments)));
        Some(Box::new(Signals { metrics, incidents: count(&self.incidents), events: events.collect() }))
    }
}
