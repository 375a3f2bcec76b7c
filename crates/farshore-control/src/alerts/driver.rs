//! The evaluator: looks at all rules of all tenants, stores what changed and queues what is to be told, in one transaction.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farshore_api::alert::{AlertState, SilenceSpec, SilenceState};
use farshore_domain::alert::{Active, AlertRuleSpec, Change, Matcher, evaluate, silenced_by, step};
use farshore_domain::id::TenantId;
use farshore_domain::time::{HOUR_MS, UnixMs};
use farshore_store::leases::Lease;
use farshore_store::objects::ObjectKind;
use farshore_store::{Driver, StoreError, StoreResult, SystemDb, TenantDb};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::facts::{self, Paces};
use super::targets::StoredRoute;
use super::{rules, tell};
use crate::app::App;
use crate::clock::now;

const LEASE: &str = "alerts";
const LEASE_MS: i64 = 30_000;
/// Rules are looked at this often, and when something is known to have changed.
const EVERY: Duration = Duration::from_secs(5);
/// A burst of changes is one look.
const COALESCE: Duration = Duration::from_millis(100);
/// At least this many times as long as an evaluation takes is between two.
const REST: u32 = 5;
/// Old alerts, messages and incidents are deleted this often.
const CLEAN_EVERY_MS: i64 = HOUR_MS;

/// The lease a driver works under. Given back at the end, so that the next one need not wait for it to run out.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Option<Lease>>);

impl Held {
    /// Takes the lease, or renews it. `None`: another replica has it.
    pub(super) async fn take(
        &self,
        db: &SystemDb,
        name: &str,
        holder: &str,
        ttl_ms: i64,
    ) -> StoreResult<Option<Lease>> {
        let lease = db.acquire_lease(name, holder, ttl_ms, now()).await?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&lease);
        Ok(lease)
    }

    async fn give_back(&self, app: &App) {
        let lease = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(lease) = lease else { return };
        if let Err(error) = app.store().system(Driver::Alerts).release_lease(&lease).await {
            tracing::warn!(
                lease = lease.name,
                error = crate::error::chain(&error),
                "a lease was not given back"
            );
        }
    }
}

/// Starts both drivers.
pub fn spawn(app: &App, shutdown: &CancellationToken) -> Vec<JoinHandle<()>> {
    let (evaluator, deliverer) = (app.clone(), app.clone());
    let (first, second) = (shutdown.clone(), shutdown.clone());
    vec![
        tokio::spawn(async move {
            let held = Held::default();
            tokio::select! {
                () = first.cancelled() => {}
                () = run(&evaluator, &held) => {}
            }
            held.give_back(&evaluator).await;
        }),
        tokio::spawn(async move {
            let held = Held::default();
            tokio::select! {
                () = second.cancelled() => {}
                () = super::deliver::run(&deliverer, &held) => {}
            }
            held.give_back(&deliverer).await;
        }),
    ]
}

async fn run(app: &App, held: &Held) {
    let db = app.store().system(Driver::Alerts);
    let holder = Uuid::new_v4().to_string();
    let listening_since = now();
    let mut paces = Paces::new();
    let mut cleaned_at = UnixMs(0);
    loop {
        let began = tokio::time::Instant::now();
        match held.take(&db, LEASE, &holder, LEASE_MS).await {
            Ok(Some(lease)) => {
                if let Err(error) =
                    round(app, &db, &lease, &mut paces, listening_since, &mut cleaned_at).await
                {
                    tracing::error!(
                        error = crate::error::chain(&error),
                        "rules were not looked at; it is tried again"
                    );
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "the lease of the alerts could not be taken"
                )
            }
        }
        let rest = began.elapsed() * REST;
        tokio::time::sleep(rest.clamp(COALESCE, Duration::from_secs(60))).await;
        // A timeout is as good as a wake: time alone makes rules hold.
        let _ = tokio::time::timeout(EVERY, app.alerts().evaluate.notified()).await;
        tokio::time::sleep(COALESCE).await;
    }
}

async fn round(
    app: &App,
    db: &SystemDb,
    lease: &Lease,
    paces: &mut Paces,
    listening_since: UnixMs,
    cleaned_at: &mut UnixMs,
) -> StoreResult<()> {
    let clean = now().since_ms(*cleaned_at) >= CLEAN_EVERY_MS;
    for (tenant, _) in db.tenant_ids().await? {
        match look(app, db, lease, tenant, paces, listening_since).await {
            Ok(()) => {}
            Err(StoreError::LeaseLost) => return Err(StoreError::LeaseLost),
            // What one tenant stored must not keep the others' rules from being looked at.
            Err(error) => {
                tracing::error!(tenant = %tenant, error = crate::error::chain(&error), "a tenant's rules were not looked at");
            }
        }
        if clean {
            sweep(app, &db.tenant(tenant), lease).await?;
        }
    }
    if clean {
        let cutoff = now().plus_ms(-app.settings().retention.events_ms);
        db.delete_incidents_before(cutoff, 1_000).await?;
        *cleaned_at = now();
    }
    Ok(())
}

/// Deletes what is older than events are kept.
async fn sweep(app: &App, db: &TenantDb, lease: &Lease) -> StoreResult<()> {
    let cutoff = now().plus_ms(-app.settings().retention.events_ms);
    let mut tx = db.begin().await?;
    lease.check(&mut tx).await?;
    db.delete_alerts_before(&mut tx, cutoff).await?;
    db.delete_deliveries_before(&mut tx, cutoff).await?;
    tx.commit().await
}

/// Looks at one tenant.
async fn look(
    app: &App,
    system: &SystemDb,
    lease: &Lease,
    tenant: TenantId,
    paces: &mut Paces,
    listening_since: UnixMs,
) -> StoreResult<()> {
    let now = now();
    let db = system.tenant(tenant);
    let rules: Vec<(String, AlertRuleSpec)> = rules::all(app, tenant)
        .await?
        .into_iter()
        .map(|rule| (rule.metadata.name.to_string(), rule.spec))
        .collect();
    let facts = facts::read(app, &db, paces, listening_since, now).await?;
    let found = evaluate(&rules, &facts, now);
    let silences = active_silences(system, tenant, now).await?;
    let mut read = db.read().await?;
    let before = db.active_alerts(&mut read).await?;
    drop(read);
    let active: Vec<Active> = before
        .iter()
        .map(|row| Active {
            uid: row.uid,
            fingerprint: row.fingerprint.clone(),
            summary: row.summary.clone(),
            severity: row.severity,
        })
        .collect();
    let changes = step(&active, &found);
    let silenced = |labels: &_| {
        let all = silences.iter().map(|(name, matchers)| (name.as_str(), matchers.as_slice()));
        silenced_by(all, labels)
    };
    let waiting = before.iter().any(|row| !row.told && silenced(&row.labels).is_empty());
    if changes.is_empty() && !waiting {
        return Ok(());
    }
    let routes: Vec<(Uuid, String, _)> = system
        .all_objects::<StoredRoute>(tenant.0, ObjectKind::AlertRoute)
        .await?
        .into_iter()
        .map(|route| (route.metadata.uid, route.metadata.name.to_string(), route.spec.spec))
        .collect();
    let mut tx = db.begin().await?;
    lease.check(&mut tx).await?;
    db.change_alerts(&mut tx, &changes, now).await?;
    let ended: Vec<Uuid> = changes
        .iter()
        .filter_map(|change| if let Change::End(uid) = change { Some(*uid) } else { None })
        .collect();
    let mut told = Vec::new();
    let mut news = Vec::new();
    for row in db.active_alerts(&mut tx).await? {
        // An alert that somebody looks after before it could be told needs no telling.
        if row.told || row.acknowledged_at.is_some() || !silenced(&row.labels).is_empty() {
            continue;
        }
        told.push(row.uid);
        news.push(tell::show(row, Vec::new()));
    }
    for row in before.into_iter().filter(|row| row.told && ended.contains(&row.uid)) {
        if silenced(&row.labels).is_empty() {
            let mut over = tell::show(row, Vec::new());
            over.state = AlertState::Ended;
            over.ended_at = Some(now);
            news.push(over);
        }
    }
    db.mark_told(&mut tx, &told).await?;
    let mut queued = false;
    for ((route, group), (name, spec, alerts)) in tell::messages(&routes, &news) {
        let alerts: Vec<Value> = alerts
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()
            .map_err(|error| farshore_store::StoreError::Corrupt(error.to_string()))?;
        let at = now.plus_ms(i64::from(spec.group_wait_seconds) * 1_000);
        db.queue_delivery(&mut tx, (route, name), &group, &alerts, (at, now)).await?;
        queued = true;
    }
    tx.commit().await?;
    app.events_written();
    if queued {
        app.alerts().queued();
    }
    Ok(())
}

/// Names and matchers of the silences that hold now.
pub(super) async fn active_silences(
    system: &SystemDb,
    tenant: TenantId,
    now: UnixMs,
) -> StoreResult<Vec<(String, Vec<Matcher>)>> {
    let all = system.all_objects::<SilenceSpec>(tenant.0, ObjectKind::Silence).await?;
    let active = all.into_iter().filter(|silence| rules::state(&silence.spec, now) == SilenceState::Active);
    Ok(active.map(|silence| (silence.metadata.name.to_string(), silence.spec.matchers)).collect())
}
