//! The driver that makes each device's desired state of placements, channels, pins, rollouts and config.
//!
//! One task. It is woken by a change ([`Fleet::changed`]), a report ([`Fleet::reported`]), or a deadline of a rollout or permit.
//! A wake is followed by a short pause, so that a burst of reports is one step. A step reads the tenant's fleet, lets each open rollout
//! [`decide`](farshore_domain::rollout), stores the next states with their permits, pointers and events in one transaction, then
//! writes the desired states that changed in a second one and wakes their channels. A crash between the two is mended by
//! the next step, which compares contents: whatever is done twice takes effect once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use farshore_domain::desired::{DESIRED_SCHEMA, DesiredApp, DesiredState};
use farshore_domain::digest::Digest;
use farshore_domain::id::{DeviceId, PermitId, TenantId};
use farshore_domain::name::Name;
use farshore_domain::policy::DesiredPolicy;
use farshore_domain::schedule::Look;
use farshore_domain::time::{MINUTE_MS, UnixMs};
use farshore_store::fleet::{DesiredRow, PermitRow};
use farshore_store::{Driver, StoreError, StoreResult, TenantDb};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::snapshot::Snapshot;
use crate::app::App;
use crate::clock::now;

/// Bursts of reports within this time are one step.
const COALESCE: Duration = Duration::from_millis(50);
/// A step comes at least this often, whatever else happens: lost wakes are mended, permits expire.
const LONGEST_SLEEP_MS: i64 = 15_000;
/// How long a permit of the driver itself (not of a rollout) is good.
const PERMIT_MS: i64 = 5 * MINUTE_MS;
/// How many devices may change something outside a rollout at the same time: a tenth of the fleet, at least one.
const CHANGING_SHARE: usize = 10;

/// The driver's ear.
#[derive(Debug, Default)]
pub struct Fleet {
    dirty: Mutex<BTreeMap<TenantId, Dirty>>,
    /// Tenants with configs that refer to twins.
    following: Mutex<BTreeSet<TenantId>>,
    wake: Notify,
}

/// What has to be looked at again in a tenant.
#[derive(Debug, Default)]
struct Dirty {
    all: bool,
    devices: BTreeSet<DeviceId>,
}

impl Fleet {
    fn mark(&self, tenant: TenantId, mark: impl FnOnce(&mut Dirty)) {
        if let Ok(mut dirty) = self.dirty.lock() {
            mark(dirty.entry(tenant).or_default());
        }
        self.wake.notify_one();
    }

    /// Something that may concern every device of the tenant has changed.
    pub fn changed(&self, tenant: TenantId) {
        self.mark(tenant, |dirty| dirty.all = true);
    }

    /// A device reported, came, went, or was changed.
    pub fn reported(&self, tenant: TenantId, device: DeviceId) {
        self.mark(tenant, |dirty| {
            dirty.devices.insert(device);
        });
    }

    /// A device's twin was changed. Nothing to do where no config refers to twins; what is missed is seen by the next step.
    pub fn twin_changed(&self, tenant: TenantId, device: DeviceId) {
        if self.following.lock().is_ok_and(|following| following.contains(&tenant)) {
            self.reported(tenant, device);
        }
    }

    fn follow_twins(&self, tenant: TenantId, follow: bool) {
        if let Ok(mut following) = self.following.lock() {
            if follow {
                following.insert(tenant);
            } else {
                following.remove(&tenant);
            }
        }
    }

    fn take(&self) -> BTreeMap<TenantId, Dirty> {
        self.dirty.lock().map(|mut dirty| std::mem::take(&mut *dirty)).unwrap_or_default()
    }
}

/// Starts the driver.
pub fn spawn(app: &App, shutdown: CancellationToken) -> tokio::task::JoinHandle<()> {
    let app = app.clone();
    tokio::spawn(async move {
        let work = run(&app);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    })
}

async fn run(app: &App) {
    let mut deadlines: BTreeMap<TenantId, UnixMs> = BTreeMap::new();
    // After a start everything is looked at once.
    mark_all_tenants(app).await;
    loop {
        let next = deadlines.values().min().copied().unwrap_or(UnixMs(i64::MAX));
        let sleep_ms = next.since_ms(now()).clamp(0, LONGEST_SLEEP_MS);
        let timed_out =
            tokio::time::timeout(Duration::from_millis(sleep_ms.unsigned_abs()), app.fleet().wake.notified())
                .await
                .is_err();
        if timed_out {
            mark_due(app, &deadlines);
        } else {
            tokio::time::sleep(COALESCE).await;
        }
        for (tenant, dirty) in app.fleet().take() {
            match step(app, tenant, &dirty).await {
                Ok(deadline) => {
                    deadlines.insert(tenant, deadline.min(now().plus_ms(LONGEST_SLEEP_MS)));
                }
                Err(StoreError::Conflict(why)) => {
                    // Somebody changed a rollout at the same moment; look again.
                    tracing::debug!(tenant = %tenant, why, "fleet step is repeated");
                    app.fleet().changed(tenant);
                }
                Err(error) => {
                    tracing::error!(tenant = %tenant, error = crate::error::chain(&error), "fleet step failed; it is tried again");
                    deadlines.insert(tenant, now().plus_ms(1_000));
                }
            }
        }
    }
}

async fn mark_all_tenants(app: &App) {
    match app.store().system(Driver::Assignments).tenant_ids().await {
        Ok(tenants) => tenants.into_iter().for_each(|(tenant, _)| app.fleet().changed(tenant)),
        Err(error) => tracing::error!(error = crate::error::chain(&error), "tenants could not be read"),
    }
}

/// A deadline has come, or the longest sleep is over: tenants that are due are looked at as a whole.
fn mark_due(app: &App, deadlines: &BTreeMap<TenantId, UnixMs>) {
    let now = now();
    for (tenant, deadline) in deadlines {
        if *deadline <= now {
            app.fleet().changed(*tenant);
        }
    }
}

/// One step for one tenant. Returns when the next one is due.
async fn step(app: &App, tenant: TenantId, dirty: &Dirty) -> StoreResult<UnixMs> {
    let db = app.store().system(Driver::Assignments).tenant(tenant);
    let now = now();
    let mut tx = db.read().await?;
    let mut snapshot = Snapshot::load(&db, &mut tx, now).await?;
    drop(tx);
    app.fleet().follow_twins(tenant, snapshot.follows_twins());
    let outcome = crate::rollouts::step(app, &db, &mut snapshot, now).await?;
    let operated = crate::operations::driver::step(app, &db, &mut snapshot, now).await?;
    let all = dirty.all || outcome.all;
    let devices: Vec<DeviceId> = if all {
        snapshot.devices.keys().copied().collect()
    } else {
        let told: BTreeSet<DeviceId> = dirty.devices.union(&outcome.devices).copied().collect();
        told.union(&operated.devices).copied().collect()
    };
    snapshot.read_twins(&db, &devices).await?;
    let permit_deadline = assign(app, &db, &mut snapshot, &devices, now).await?;
    // The policy that allows it goes first.
    for device in operated.begun {
        app.hub().push_operations(tenant, device);
    }
    if outcome.wrote || operated.wrote {
        app.events_written();
    }
    let soon = outcome.deadline.min(permit_deadline).min(operated.deadline);
    Ok(soon.max(now.plus_ms(20)).min(now.plus_ms(10 * MINUTE_MS)))
}

/// Writes the desired states of `devices` that changed. Returns when the next permit expires.
async fn assign(
    app: &App,
    db: &TenantDb,
    snapshot: &mut Snapshot,
    devices: &[DeviceId],
    now: UnixMs,
) -> StoreResult<UnixMs> {
    let system = app.store().system(Driver::Assignments);
    let epoch = system.epoch().await?;
    let tenant_name = app.tenant_name(db.tenant()).await?;
    let mut tx = db.read().await?;
    let marks = db.desired_marks(&mut tx).await?;
    drop(tx);
    let mut rows = Vec::new();
    let mut permits = Vec::new();
    let mut deadline = UnixMs(i64::MAX);
    let mut changing = snapshot.changing();
    let limit = (snapshot.devices.len() / CHANGING_SHARE).max(1);
    for id in devices {
        let Some(device) = snapshot.devices.get(id).cloned() else { continue };
        let mut assignments = snapshot.assign(&device, now);
        let mut issued = false;
        for assignment in &assignments.apps {
            if assignment.needs_permit.is_none() {
                continue;
            }
            let expires_at = match snapshot.may_install(&device, now, now.plus_ms(PERMIT_MS)) {
                Look::Open { until } => until,
                Look::Shut { next, .. } => {
                    deadline = next.map_or(deadline, |next| deadline.min(next));
                    continue;
                }
            };
            let allowed = match assignment.needs_permit {
                None => false,
                Some(farshore_domain::assign::NeedsPermit::Install) => true,
                Some(farshore_domain::assign::NeedsPermit::Change) => {
                    let free = changing < limit;
                    changing += usize::from(free);
                    if !free {
                        // Its turn comes when another one has finished.
                        deadline = deadline.min(now.plus_ms(2_000));
                    }
                    free
                }
            };
            if allowed {
                let permit = driver_permit(*id, &assignment.app, assignment.release, (now, expires_at));
                snapshot.add_permit(permit.clone());
                permits.push(permit);
                issued = true;
            }
        }
        if issued {
            assignments = snapshot.assign(&device, now);
        }
        for permit in assignments.apps.iter().filter_map(|a| a.permit) {
            deadline = deadline.min(permit.expires_at);
        }
        let apps = snapshot.desired_apps(&device, &assignments);
        let policy = snapshot.desired_policy(&device, &apps);
        let stopped = Snapshot::is_stopped(&device);
        let content = content_of(&apps, policy.as_ref(), stopped).map_err(unwritable)?;
        let mark = marks.get(id);
        if mark.is_some_and(|(e, _, c)| *e == epoch && *c == content) {
            continue;
        }
        let generation = mark.map_or(1, |(_, generation, _)| generation + 1);
        let state = DesiredState {
            schema: DESIRED_SCHEMA.to_owned(),
            tenant: db.tenant(),
            tenant_name: tenant_name.clone(),
            device: *id,
            epoch,
            generation,
            issued_at: now,
            apps,
            policy,
            stopped,
        };
        let body = serde_json::to_vec(&state).map_err(unwritable)?;
        rows.push(DesiredRow { device: *id, epoch, generation, body, content });
    }
    if !rows.is_empty() || !permits.is_empty() {
        let mut tx = db.begin().await?;
        for permit in &permits {
            db.add_permit(&mut tx, permit).await?;
        }
        db.write_desired(&mut tx, &rows, now).await?;
        db.forget_permits(&mut tx, now.plus_ms(-24 * 60 * MINUTE_MS)).await?;
        tx.commit().await?;
        for row in &rows {
            app.hub().push_desired(db.tenant(), row.device);
        }
        tracing::debug!(tenant = %db.tenant(), devices = rows.len(), permits = permits.len(), "desired states written");
    }
    Ok(deadline)
}

/// The digest of everything but epoch, generation and time. Without a policy it is the one of the apps alone, as it was before
/// there were policies, so that an update of the control plane writes nothing anew.
fn content_of(
    apps: &[DesiredApp],
    policy: Option<&DesiredPolicy>,
    stopped: bool,
) -> Result<Digest, serde_json::Error> {
    let bytes = match policy {
        _ if stopped => serde_json::to_vec(&(apps, policy, "stopped"))?,
        None => serde_json::to_vec(apps)?,
        Some(policy) => serde_json::to_vec(&(apps, policy))?,
    };
    Ok(Digest::of(&bytes))
}

fn unwritable(error: serde_json::Error) -> StoreError {
    StoreError::Corrupt(format!("desired state can't be written: {error}"))
}

fn driver_permit(
    device: DeviceId,
    app: &Name,
    release: farshore_domain::id::ReleaseId,
    (issued_at, expires_at): (UnixMs, UnixMs),
) -> PermitRow {
    PermitRow {
        uid: PermitId(Uuid::now_v7()),
        device,
        app: app.clone(),
        release,
        rollout: None,
        issued_at,
        expires_at,
    }
}
