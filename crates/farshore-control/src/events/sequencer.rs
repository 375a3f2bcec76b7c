//! The sequencer: numbers committed events per tenant and publishes them. One replica holds the lease; the others read what it numbered.

use std::collections::HashMap;
use std::time::Duration;

use farshore_domain::id::TenantId;
use farshore_domain::time::UnixMs;
use farshore_store::events::EventFilter;
use farshore_store::leases::Lease;
use farshore_store::{Driver, StoreResult, SystemDb};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::app::App;
use crate::clock::now;

const LEASE: &str = "sequencer";
const LEASE_MS: i64 = 15_000;
/// The lease is renewed when less than this is left of it.
const RENEW_MS: i64 = 10_000;
/// Events that are written within this time get their numbers together.
const COALESCE: Duration = Duration::from_millis(20);
/// Written events are looked for this often even when nobody said so: another replica may have written them.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Old events are deleted this often, in chunks.
const RETENTION_EVERY_MS: i64 = 10 * 60 * 1_000;
const RETENTION_CHUNK: u32 = 1_000;
/// How much a replica without the lease reads at once.
const PAGE: u32 = 1_000;

/// Starts the sequencer. It ends when the app shuts down.
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

/// What the sequencer remembers between rounds.
#[derive(Debug)]
struct Round {
    holder: String,
    lease: Option<Lease>,
    /// The last published number of each tenant that somebody follows; for a replica without the lease.
    published: HashMap<TenantId, i64>,
    cleaned_at: UnixMs,
}

async fn run(app: &App) {
    let db = app.store().system(Driver::Sequencer);
    let holder = Uuid::new_v4().to_string();
    let mut round = Round { holder, lease: None, published: HashMap::new(), cleaned_at: UnixMs(0) };
    loop {
        if let Err(error) = work(app, &db, &mut round).await {
            tracing::error!(
                error = crate::error::chain(&error),
                "events were not numbered; it is tried again"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // A timeout is as good as a wake: somebody else may have written.
        if tokio::time::timeout(LOOK_EVERY, app.events_wake().notified()).await.is_ok() {
            tokio::time::sleep(COALESCE).await;
        }
    }
}

async fn work(app: &App, db: &SystemDb, round: &mut Round) -> StoreResult<()> {
    let at = now();
    if round.lease.as_ref().is_none_or(|lease| lease.expires_at.since_ms(at) < RENEW_MS) {
        round.lease = db.acquire_lease(LEASE, &round.holder, LEASE_MS, at).await?;
    }
    if round.lease.is_none() {
        return follow(app, db, round).await;
    }
    round.published.clear();
    loop {
        let numbered = db.sequence_events().await?;
        if numbered.is_empty() {
            break;
        }
        for (tenant, events) in numbered {
            app.hub().feed().publish(tenant, events);
        }
    }
    if at.since_ms(round.cleaned_at) >= RETENTION_EVERY_MS {
        round.cleaned_at = at;
        let cutoff = at.plus_ms(-app.settings().retention.events_ms);
        // One chunk now; the rest in the next rounds, so that numbering never waits for it.
        if db.delete_events_before(cutoff, RETENTION_CHUNK).await? > 0 {
            round.cleaned_at = at.plus_ms(1_000 - RETENTION_EVERY_MS);
        }
    }
    Ok(())
}

/// Another replica numbers: publish here what it numbered.
async fn follow(app: &App, db: &SystemDb, round: &mut Round) -> StoreResult<()> {
    for tenant in app.hub().feed().followed() {
        let db = db.tenant(tenant);
        let last = match round.published.get(&tenant) {
            Some(last) => *last,
            None => db.event_span().await?.last,
        };
        let events = db.events_after(last, &EventFilter::default(), PAGE).await?;
        round.published.insert(tenant, events.last().map_or(last, |event| event.sequence));
        if !events.is_empty() {
            app.hub().feed().publish(tenant, events);
        }
    }
    Ok(())
}
