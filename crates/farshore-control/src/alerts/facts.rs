//! What rules look at, read from the database.

use std::collections::BTreeMap;

use farshore_domain::alert::{DeviceFacts, Disk, Facts, IncidentFacts, RolloutFacts, growth_per_hour};
use farshore_domain::device::Lifecycle;
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::rollout::{Phase, Rollout};
use farshore_domain::time::{HOUR_MS, MINUTE_MS, UnixMs};
use farshore_store::alerts::WatchedDevice;
use farshore_store::incidents::IncidentFilter;
use farshore_store::{StoreError, StoreResult, TenantDb};
use uuid::Uuid;

use crate::app::App;

/// The series that facts are made of.
const DISK_USED: &str = "disk_used";
const DISK_TOTAL: &str = "disk_total";
/// The pace of a disk is taken over so long, looked at so often, and only from this share on.
const PACE_OVER_MS: i64 = 6 * HOUR_MS;
const PACE_EVERY_MS: i64 = 5 * MINUTE_MS;
const PACE_FROM: f64 = 0.5;
const PACE_BLOCKS: u32 = 400;
/// At most so many disks are looked at closely in one evaluation; the others have their turn next.
const PACES: usize = 200;
/// Measurements that are older say nothing about now.
const FRESH_MS: i64 = 15 * MINUTE_MS;
const MAX_INCIDENTS: u32 = 1_000;
const MAX_GATEWAYS: u32 = 10_000;

/// The pace of each disk, as last looked at. Lost with the process, and found again from what is stored.
pub(super) type Paces = BTreeMap<(TenantId, Uuid), (UnixMs, Option<f64>)>;

/// Reads the facts of a tenant.
pub(super) async fn read(
    app: &App,
    db: &TenantDb,
    paces: &mut Paces,
    listening_since: UnixMs,
    now: UnixMs,
) -> StoreResult<Facts> {
    let mut tx = db.read().await?;
    let watched = db.watched_devices(&mut tx).await?;
    let rollouts = rollouts(db, &mut tx).await?;
    drop(tx);
    let gateways = db.gateways(None, None, MAX_GATEWAYS).await?;
    let backlogs: BTreeMap<Uuid, f64> = gateways
        .into_iter()
        .filter(|gateway| now.since_ms(gateway.reported_at) <= FRESH_MS)
        .filter_map(|gateway| Some((gateway.device.0, gateway.report.get("backlogPoints")?.as_f64()?)))
        .collect();
    let mut devices = Vec::with_capacity(watched.len());
    let mut looked = 0;
    for device in watched {
        let disk = disk(db, paces, &device, &mut looked, now).await?;
        let backlog = backlogs.get(&device.uid).copied();
        devices.push(facts(app, db.tenant(), device, disk, backlog, now));
    }
    paces.retain(|(tenant, _), (at, _)| *tenant != db.tenant() || now.since_ms(*at) < 4 * PACE_EVERY_MS);
    let open = IncidentFilter { open: Some(true), ..IncidentFilter::default() };
    let incidents = db.incidents(&open, None, MAX_INCIDENTS).await?;
    let incidents = incidents
        .into_iter()
        .map(|incident| IncidentFacts {
            uid: incident.uid.0,
            name: incident.name.to_string(),
            device: incident.device.0,
            app: incident.app,
            cause: incident.cause,
            signs: incident.signs,
            message: incident.message,
        })
        .collect();
    Ok(Facts { devices, incidents, rollouts, heartbeat_ms: app.hub().heartbeat_ms(), listening_since })
}

fn facts(
    app: &App,
    tenant: TenantId,
    device: WatchedDevice,
    disk: Option<Disk>,
    gateway_backlog: Option<f64>,
    now: UnixMs,
) -> DeviceFacts {
    let id = DeviceId(device.uid);
    // What is only in memory yet counts as well.
    let (_, last_seen) = app.hub().presence(tenant, id, device.last_seen, now);
    let away = matches!(
        device.lifecycle,
        Lifecycle::Pending | Lifecycle::Decommissioning | Lifecycle::Decommissioned | Lifecycle::Unknown
    );
    DeviceFacts {
        uid: device.uid,
        name: device.name,
        location: device.location,
        labels: device.labels,
        expected: !device.revoked && !away,
        last_seen,
        certificate_expires_at: device.certificate_expires_at,
        disk,
        gateway_backlog,
    }
}

async fn disk(
    db: &TenantDb,
    paces: &mut Paces,
    device: &WatchedDevice,
    looked: &mut usize,
    now: UnixMs,
) -> StoreResult<Option<Disk>> {
    let (Some(used), Some(total)) =
        (device.latest.get(DISK_USED).copied(), device.latest.get(DISK_TOTAL).copied())
    else {
        return Ok(None);
    };
    if device.latest_at.is_none_or(|at| now.since_ms(at) > FRESH_MS) || total <= 0.0 {
        return Ok(None);
    }
    if used / total < PACE_FROM {
        // There is time to see it coming.
        return Ok(Some(Disk { used, total, grows: Some(0.0) }));
    }
    let key = (db.tenant(), device.uid);
    let known = paces.get(&key).copied();
    let grows = match known {
        Some((at, grows)) if now.since_ms(at) < PACE_EVERY_MS || *looked >= PACES => grows,
        None if *looked >= PACES => None,
        _ => {
            *looked += 1;
            let from = now.plus_ms(-PACE_OVER_MS);
            let blocks = db.metric_blocks(&[DeviceId(device.uid)], "host", from, now, PACE_BLOCKS).await?;
            let points: Vec<(i64, f64)> = blocks
                .iter()
                .filter_map(|block| farshore_series::decode(&block.block).ok())
                .filter_map(|block| {
                    block.latest().find(|(name, ..)| *name == DISK_USED).map(|(_, at, value)| (at, value))
                })
                .collect();
            let grows = growth_per_hour(&points);
            paces.insert(key, (now, grows));
            grows
        }
    };
    Ok(Some(Disk { used, total, grows }))
}

async fn rollouts(db: &TenantDb, tx: &mut farshore_store::db::Tx) -> StoreResult<Vec<RolloutFacts>> {
    let mut all = Vec::new();
    for row in db.deciding_rollouts(tx).await? {
        let name = row.metadata.name.to_string();
        let rollout: Rollout = serde_json::from_value(row.state)
            .map_err(|error| StoreError::Corrupt(format!("rollout {name}: {error}")))?;
        let phase = rollout.phase();
        let since = rollout.history().last().map_or(row.metadata.created_at, |entry| entry.at);
        let stopped = matches!(phase, Phase::Paused | Phase::RollingBack | Phase::Failed);
        all.push(RolloutFacts {
            uid: row.metadata.uid,
            name,
            app: row.app.to_string(),
            channel: row.channel.to_string(),
            stopped: stopped.then(|| (phase.word().to_owned(), since)),
            ended: phase.is_final(),
        });
    }
    Ok(all)
}
