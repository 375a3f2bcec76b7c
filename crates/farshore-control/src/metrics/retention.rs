//! Measurements that are older than they are kept for are deleted, a bounded number at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_domain::id::DeviceId;
use farshore_domain::policy::PolicySpec;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::objects::{self, ObjectKind};
use farshore_store::{Driver, StoreResult};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::clock::now;

const EVERY: Duration = Duration::from_secs(10 * 60);
/// One chunk holds the writer of a small database for some milliseconds.
const CHUNK: u32 = 1_000;
/// So many devices are looked at in one transaction.
const DEVICES: usize = 100;
/// Between two chunks others get to write.
const PAUSE: Duration = Duration::from_millis(50);
/// Losses, and which batches have arrived, are kept at least as long as measurements and hours, and not for less than this.
const SYNC_MS: i64 = 400 * DAY_MS;
/// Deletions of documents, old revisions and settled conflicts.
const DOCUMENTS_MS: i64 = 30 * DAY_MS;

/// Starts the driver. It ends when the app shuts down.
pub fn spawn(app: &App) -> JoinHandle<()> {
    let app = app.clone();
    tokio::spawn(async move {
        let shutdown = app.shutdown().clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run(&app) => {}
        }
    })
}

async fn run(app: &App) {
    let db = app.store().system(Driver::Retention);
    loop {
        tokio::time::sleep(EVERY).await;
        let cutoff = now().plus_ms(-app.settings().retention.metrics_ms);
        let mut deleted = 0;
        loop {
            match db.delete_blocks_before(cutoff, CHUNK).await {
                Ok(0) => break,
                Ok(count) => deleted += count,
                Err(error) => {
                    tracing::error!(error = crate::error::chain(&error), "old measurements were not deleted");
                    break;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        let hours_cutoff = now().plus_ms(-app.settings().retention.hours_ms);
        loop {
            match db.delete_hours_before(hours_cutoff, CHUNK).await {
                Ok(0) => break,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(error = crate::error::chain(&error), "old hours were not deleted");
                    break;
                }
            }
        }
        let retention = &app.settings().retention;
        let sync_cutoff = now().plus_ms(-retention.metrics_ms.max(retention.hours_ms).max(SYNC_MS));
        loop {
            match db.delete_old_sync(sync_cutoff, cutoff, CHUNK).await {
                Ok(0) => break,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(
                        error = crate::error::chain(&error),
                        "old marks of gateways were not deleted"
                    );
                    break;
                }
            }
        }
        let (settled, open) = (now().plus_ms(-DOCUMENTS_MS), now().plus_ms(-SYNC_MS));
        loop {
            match db.delete_old_documents(settled, open, CHUNK).await {
                Ok(0) => break,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(error = crate::error::chain(&error), "old documents were not deleted");
                    break;
                }
            }
        }
        loop {
            match db.delete_old_conflicts(now(), CHUNK).await {
                Ok(0) => break,
                Ok(_) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::error!(
                        error = crate::error::chain(&error),
                        "old conflicts of documents were not deleted"
                    );
                    break;
                }
            }
        }
        match by_policy(app, now()).await {
            Ok(more) => deleted += more,
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "measurements were not deleted by policy"
                );
            }
        }
        if deleted > 0 {
            tracing::info!(blocks = deleted, "old measurements were deleted");
        }
    }
}

/// Deletes what policies say is kept for less long than the control plane keeps measurements. Returns how many blocks there were.
pub async fn by_policy(app: &App, at: UnixMs) -> StoreResult<u64> {
    let system = app.store().system(Driver::Retention);
    let mut deleted = 0;
    for (tenant, _) in system.tenant_ids().await? {
        let db = system.tenant(tenant);
        let mut tx = db.read().await?;
        let policies = objects::all_in::<PolicySpec>(&mut tx, tenant.0, ObjectKind::Policy).await?;
        if policies.iter().all(|policy| policy.spec.rules.retention.measurement_days.is_none()) {
            continue;
        }
        let mut devices: BTreeMap<u32, Vec<DeviceId>> = BTreeMap::new();
        for device in db.fleet_devices(&mut tx).await? {
            let rules = crate::fleet::merged(&policies, &device.labels)?.rules;
            if let Some(days) = rules.retention.measurement_days {
                devices.entry(days).or_default().push(device.id);
            }
        }
        drop(tx);
        for (days, devices) in devices {
            let cutoff = at.plus_ms(-i64::from(days) * DAY_MS);
            for some in devices.chunks(DEVICES) {
                loop {
                    let count = system.delete_blocks_of(tenant, some, cutoff, CHUNK).await?;
                    deleted += count;
                    if count < u64::from(CHUNK) {
                        break;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    Ok(deleted)
}
