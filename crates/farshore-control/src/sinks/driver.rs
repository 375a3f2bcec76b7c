//! The driver: looks which sinks have something to do, and does it, a few at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_api::sink::{SinkKind, SinkSpec, SinkStart};
use farshore_domain::id::{DeviceId, TenantId};
use farshore_domain::time::UnixMs;
use farshore_series::decode_columns;
use farshore_store::leases::Lease;
use farshore_store::objects::{ObjectKind, Stored};
use farshore_store::sinks::{Handed, SinkCursor, SinkName};
use farshore_store::sync::GatewayRow;
use farshore_store::{Driver, StoreError, StoreResult, SystemDb, TenantDb};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::files::{self, OfStream};
use super::points;
use super::push::{is_pushed, pause_ms, push};
use super::routes::StoredSink;
use crate::alerts::webhook;
use crate::app::App;
use crate::clock::now;

const LEASE: &str = "sinks";
const LEASE_MS: i64 = 30_000;
/// It is looked this often, and when something came.
const EVERY: Duration = Duration::from_secs(2);
/// A burst of batches is one look.
const COALESCE: Duration = Duration::from_millis(200);
/// Sinks that hand over at the same time.
const AT_ONCE: usize = 16;
/// Of these, so many of one tenant.
const OF_TENANT: usize = 4;
/// What is written into files at a time is in memory.
const FILE_POINTS: usize = 200_000;
const FILE_BYTES: i64 = 4 * 1024 * 1024;
const FILE_BLOCKS: u32 = 500;
/// The same, unpacked.
const FILE_UNPACKED: usize = 32 * 1024 * 1024;
/// Files are written as long as so much of the disk is free: the database may be on it.
const DISK_FREE: u64 = 1024 * 1024 * 1024;
/// In a stream that a sink does not take its cursor is moved on after so many batches, not for each.
const FAR: i64 = 20;
/// Cursors that are moved on in one transaction.
const PASSED: usize = 500;
const PAGE: u32 = 1_000;

/// One sink's work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) app: App,
    pub(super) tenant: TenantId,
    pub(super) uid: Uuid,
    pub(super) name: String,
    version: i64,
    pub(super) spec: SinkSpec,
    pub(super) secret: Option<String>,
    pub(super) lease: Lease,
    pub(super) client: reqwest::Client,
}

impl Job {
    pub(super) fn db(&self) -> TenantDb {
        self.app.store().system(Driver::Sinks).tenant(self.tenant)
    }

    pub(super) fn named(&self) -> SinkName<'_> {
        SinkName { uid: self.uid, name: &self.name }
    }

    /// Whether nobody has changed or deleted the sink since.
    pub(super) async fn is_current(&self) -> StoreResult<bool> {
        match self.db().object::<StoredSink>(ObjectKind::Sink, &self.uid.to_string()).await {
            Ok(sink) => Ok(sink.metadata.resource_version == self.version),
            Err(StoreError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the sink takes anything of this gateway.
    fn takes(&self, gateways: &BTreeMap<DeviceId, GatewayRow>, cursor: &SinkCursor) -> bool {
        gateways.get(&cursor.device).is_some_and(|gateway| {
            self.spec.selector.as_ref().is_none_or(|selector| selector.matches(&gateway.labels))
        })
    }
}

/// Where the files of a sink lie, below the folder of artifacts.
pub(super) fn folder(tenant: TenantId, sink: Uuid) -> PathBuf {
    PathBuf::from("parquet").join(tenant.to_string()).join(sink.to_string())
}

/// Starts the driver.
pub fn spawn(app: &App, shutdown: &CancellationToken) -> JoinHandle<()> {
    let (app, shutdown) = (app.clone(), shutdown.clone());
    tokio::spawn(async move {
        let db = app.store().system(Driver::Sinks);
        let holder = Uuid::new_v4().to_string();
        let client = match webhook::client(app.settings().alert_targets) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "sinks hand nothing over: the HTTP client can't be made"
                );
                return;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run(&app, &db, &holder, &client) => {}
        }
        // So that the next one need not wait for it to run out.
        if let Ok(Some(lease)) = db.acquire_lease(LEASE, &holder, 1_000, now()).await
            && let Err(error) = db.release_lease(&lease).await
        {
            tracing::warn!(error = crate::error::chain(&error), "the lease of the sinks was not given back");
        }
    })
}

async fn run(app: &App, db: &SystemDb, holder: &str, client: &reqwest::Client) {
    let mut working: JoinSet<(Uuid, bool)> = JoinSet::new();
    let mut busy: BTreeMap<Uuid, TenantId> = BTreeMap::new();
    let mut round = 0;
    loop {
        round += 1;
        match db.acquire_lease(LEASE, holder, LEASE_MS, now()).await {
            Ok(Some(lease)) => {
                if let Err(error) = begin(app, db, &lease, client, (&mut working, &mut busy), round).await {
                    tracing::error!(
                        error = crate::error::chain(&error),
                        "sinks were not looked at; it is tried again"
                    );
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "the lease of the sinks could not be taken"
                );
            }
        }
        let wait = tokio::time::sleep(EVERY);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                () = app.sinks().wake.notified() => {
                    tokio::time::sleep(COALESCE).await;
                    break;
                }
                Some(done) = working.join_next(), if !working.is_empty() => match done {
                    Ok((sink, more)) => {
                        busy.remove(&sink);
                        if more {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "a task that hands readings over failed");
                        busy.clear();
                        working.abort_all();
                    }
                }
            }
        }
    }
}

/// Begins the work of sinks that have some.
async fn begin(
    app: &App,
    db: &SystemDb,
    lease: &Lease,
    client: &reqwest::Client,
    (working, busy): (&mut JoinSet<(Uuid, bool)>, &mut BTreeMap<Uuid, TenantId>),
    round: usize,
) -> StoreResult<()> {
    let mut tenants = db.tenants_with_sinks().await?;
    // Each is the first one once.
    let first = round % tenants.len().max(1);
    tenants.rotate_left(first);
    for tenant in tenants {
        for sink in db.all_objects::<StoredSink>(tenant.0, ObjectKind::Sink).await? {
            let uid = sink.metadata.uid;
            if !sink.spec.spec.enabled || busy.contains_key(&uid) {
                continue;
            }
            if working.len() >= AT_ONCE {
                return Ok(());
            }
            if busy.values().filter(|other| **other == tenant).count() >= OF_TENANT {
                break;
            }
            let of_tenant = db.tenant(tenant);
            let state = match of_tenant.sink_state(uid).await? {
                Some(state) => state,
                None => {
                    of_tenant.begin_sink(uid, sink.spec.spec.start != SinkStart::Earliest).await?;
                    continue;
                }
            };
            let takes = points::takes(&sink.spec.spec);
            if UnixMs(state.next_at) > now() || !of_tenant.sink_has_work(uid, &takes, FAR, now()).await? {
                continue;
            }
            let Some(job) = job(app, tenant, sink, lease, client) else { continue };
            busy.insert(uid, tenant);
            working.spawn(async move {
                let more = match work(&Arc::new(job)).await {
                    Ok(more) => more,
                    // Deleted in the meantime, or another replica does it now.
                    Err(StoreError::NotFound(_) | StoreError::LeaseLost) => false,
                    Err(error) => {
                        tracing::error!(sink = %uid, error = crate::error::chain(&error), "a sink got no further; it is tried again");
                        false
                    }
                };
                (uid, more)
            });
        }
    }
    Ok(())
}

fn job(
    app: &App,
    tenant: TenantId,
    sink: Stored<StoredSink>,
    lease: &Lease,
    client: &reqwest::Client,
) -> Option<Job> {
    let uid = sink.metadata.uid;
    let secret = match sink.spec.secret(app, uid) {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(sink = %uid, error, "a sink's secret can't be read");
            return None;
        }
    };
    Some(Job {
        app: app.clone(),
        tenant,
        uid,
        name: sink.metadata.name.to_string(),
        version: sink.metadata.resource_version,
        spec: sink.spec.spec,
        secret,
        lease: lease.clone(),
        client: client.clone(),
    })
}

async fn work(job: &Arc<Job>) -> StoreResult<bool> {
    let db = job.db();
    let mut gateways = BTreeMap::new();
    let mut after = None;
    loop {
        // What a gateway sent before it was decommissioned goes on as well.
        let page = db.gateways_ever(after, PAGE).await?;
        let full = page.len() == PAGE as usize;
        after = page.last().map(|row| row.device);
        gateways.extend(page.into_iter().map(|row| (row.device, row)));
        if !full {
            break;
        }
    }
    let takes = points::takes(&job.spec);
    let (waiting, mut others): (Vec<_>, Vec<_>) =
        db.sink_waiting(job.uid, &takes).await?.into_iter().partition(|cursor| job.takes(&gateways, cursor));
    others.retain(|cursor| cursor.newest - cursor.arrived >= FAR);
    others.extend(db.sink_others(job.uid, &takes, FAR).await?);
    if !others.is_empty() {
        others
            .iter_mut()
            .for_each(|cursor| (cursor.arrived, cursor.part, cursor.attempts) = (cursor.newest, 0, 0));
        for some in others.chunks(PASSED) {
            db.sink_passed(&job.lease, job.uid, some).await?;
        }
    }
    if waiting.is_empty() {
        return Ok(false);
    }
    if is_pushed(&job.spec) {
        return push(job, &gateways, waiting).await;
    }
    if job.spec.kind == SinkKind::Parquet {
        return write_files(job, &gateways, waiting).await;
    }
    Ok(false)
}

/// Why nothing more may be written to a disk; `None`: it may.
fn full(folder: &std::path::Path) -> Option<String> {
    match rustix::fs::statvfs(folder) {
        Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < DISK_FREE => {
            Some(format!("less than {} MiB of the disk are free", DISK_FREE / 1024 / 1024))
        }
        Ok(_) => None,
        Err(error) => Some(format!("the room on the disk can't be read: {error}")),
    }
}

/// Writes what waits into files. Says whether there is more.
async fn write_files(
    job: &Job,
    gateways: &BTreeMap<DeviceId, GatewayRow>,
    waiting: Vec<SinkCursor>,
) -> StoreResult<bool> {
    let db = job.db();
    let Some(target) = job.spec.parquet.clone() else { return Ok(false) };
    let Some(state) = db.sink_state(job.uid).await? else { return Ok(false) };
    let (mut cursors, mut all) = (Vec::new(), Vec::new());
    let (mut points, mut batches, mut bytes, mut unpacked) = (0, 0, FILE_BYTES, 0);
    let mut more = false;
    let root = job.app.settings().data.folder.join("artifacts").join(folder(job.tenant, job.uid));
    if let Some(why) = full(&job.app.settings().data.folder) {
        let at = now().plus_ms(pause_ms(state.attempts));
        db.sink_failed(&job.lease, job.named(), None, at, &why, now()).await?;
        return Ok(false);
    }
    let _room = job.app.sinks().room(FILE_UNPACKED).await;
    for mut cursor in waiting {
        if points >= FILE_POINTS || bytes <= 0 || unpacked >= FILE_UNPACKED {
            more = true;
            break;
        }
        let Some(gateway) = gateways.get(&cursor.device) else { continue };
        let blocks = db.sink_blocks(&cursor, FILE_BLOCKS, bytes).await?;
        if blocks.is_empty() {
            cursor.arrived = cursor.newest;
        }
        let mut begun = false;
        for block in blocks {
            bytes -= i64::try_from(block.block.len()).unwrap_or(i64::MAX);
            let read = tokio::task::spawn_blocking(move || decode_columns(&block.block)).await;
            match read.map_err(|error| StoreError::Corrupt(error.to_string()))? {
                Ok(columns) => {
                    points += columns.len();
                    unpacked += columns.memory();
                    batches += 1;
                    cursor.arrived = block.arrived;
                    begun = true;
                    all.push(OfStream {
                        device: cursor.device.to_string(),
                        device_name: gateway.name.to_string(),
                        location: gateway.location.clone(),
                        stream: cursor.stream.clone(),
                        columns,
                    });
                }
                // Passed over once what is before it is in a file.
                Err(_) if begun => {
                    more = true;
                    break;
                }
                Err(error) => {
                    let why = format!("the stored batch can't be read: {error}");
                    cursor.arrived = block.arrived;
                    db.sink_skipped(&job.lease, job.named(), &cursor, &why, now()).await?;
                }
            }
            if points >= FILE_POINTS || unpacked >= FILE_UNPACKED {
                break;
            }
        }
        more |= cursor.arrived < cursor.newest;
        cursors.push(cursor);
    }
    let every = i64::from(target.every_seconds.max(1)) * 1_000;
    let next = UnixMs(now().0.div_euclid(every).saturating_add(1).saturating_mul(every));
    let (round, measurements, days) = (state.round + 1, job.spec.measurements.clone(), target.keep_days);
    let folder = root.clone();
    let written = tokio::task::spawn_blocking(move || {
        let points = files::write(&root, round, &measurements, &all, files::window(days, now()))?;
        files::clean(&root, days, now()).map_err(|error| files::FileError::Io(root, error))?;
        Ok::<u64, files::FileError>(points)
    });
    match written.await.map_err(|error| StoreError::Corrupt(error.to_string()))? {
        Ok(points) => {
            let handed = Handed {
                cursors,
                batches,
                points: i64::try_from(points).unwrap_or(i64::MAX),
                next_round: true,
                next_at: if more { UnixMs(0) } else { next },
            };
            db.sink_handed(&job.lease, job.named(), &handed, now()).await?;
            let ended = tokio::task::spawn_blocking(move || files::end(&folder)).await;
            if let Err(error) = ended.map_err(|error| StoreError::Corrupt(error.to_string()))? {
                // Nothing is lost by it: the next round has another number.
                tracing::warn!(sink = %job.uid, %error, "the marker of a round that is over could not be deleted");
            }
            Ok(more)
        }
        Err(error) => {
            let why = crate::error::chain(&error);
            let at = now().plus_ms(pause_ms(state.attempts));
            db.sink_failed(&job.lease, job.named(), None, at, &why, now()).await?;
            Ok(false)
        }
    }
}
