//! The presence driver: flushes who was heard from, tells when a device has gone or is back, and ends operations whose time is over.

use std::sync::OnceLock;
use std::time::Duration;

use farshore_domain::device::OFFLINE_AFTER_MS;
use farshore_domain::id::TenantId;
use farshore_domain::time::UnixMs;
use farshore_store::events::NewEvent;
use farshore_store::presence::{Opened, Seen, Silent};
use farshore_store::{Driver, StoreResult, SystemDb};
use uuid::Uuid;

use super::hub::Session;
use crate::app::App;
use crate::clock::now;

/// This replica's name in `device_sessions`. There is one replica.
pub(crate) const REPLICA: &str = "main";

/// How often who was heard from is written.
const FLUSH: Duration = Duration::from_secs(5);
/// Every how many flushes silent devices are looked for.
const LOOK_EVERY: u32 = 3;

/// When this replica did not listen: devices that fall silent then are not to blame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// A device was last heard by the replica before.
    pub(crate) from: UnixMs,
    pub(crate) until: UnixMs,
}

/// What is known about the pause before this start.
#[derive(Debug, Default)]
pub(crate) struct Pauses(OnceLock<Pause>);

impl Pauses {
    /// Whether a device that was last heard then had been offline without our doing.
    pub(crate) fn was_offline(&self, last_seen: UnixMs, at: UnixMs) -> bool {
        if at.since_ms(last_seen) < OFFLINE_AFTER_MS {
            return false;
        }
        self.0.get().is_none_or(|pause| {
            last_seen >= pause.until || last_seen <= pause.from.plus_ms(-OFFLINE_AFTER_MS)
        })
    }
}

pub(super) async fn run(app: App) {
    let db = app.store().system(Driver::Presence);
    let started = now();
    app.hub().set_heartbeat_ms(i64::from(app.settings().heartbeat_seconds) * 1_000);
    let heard = db.last_heard(started).await.unwrap_or_else(|error| {
        tracing::error!(
            error = crate::error::chain(&error),
            "who was heard before this start could not be read"
        );
        None
    });
    let pause = Pause { from: heard.unwrap_or(started), until: started };
    // Set once, by the one presence driver.
    let _ = app.hub().pauses.0.set(pause);
    if let Err(error) = db.forget_sessions(REPLICA, started).await {
        tracing::error!(
            error = crate::error::chain(&error),
            "sessions of the run before this could not be removed"
        );
    }
    let mut looked_until = pause.from.plus_ms(-OFFLINE_AFTER_MS);
    let mut ticks = tokio::time::interval(FLUSH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0_u32;
    loop {
        tokio::select! {
            () = app.shutdown().cancelled() => break,
            _ = ticks.tick() => {}
        }
        if let Err(error) = flush(&app, &db).await {
            tracing::error!(
                error = crate::error::chain(&error),
                "presence was not written; it is tried again"
            );
        }
        count = count.wrapping_add(1);
        if !count.is_multiple_of(LOOK_EVERY) {
            continue;
        }
        match db.expire_operations(now()).await {
            Ok(ended) => {
                for (tenant, device, uid) in &ended {
                    app.hub().outputs().ended((*tenant, *uid));
                    app.hub().changed(*tenant, *device);
                    app.fleet().reported(*tenant, *device);
                }
                if !ended.is_empty() {
                    app.events_written();
                }
            }
            Err(error) => {
                tracing::error!(error = crate::error::chain(&error), "old operations were not ended")
            }
        }
        // In the first minutes everybody is still coming back.
        let until = now().plus_ms(-OFFLINE_AFTER_MS);
        if until < started {
            continue;
        }
        match tell_silent(&app, &db, looked_until, until).await {
            Ok(()) => looked_until = until,
            Err(error) => {
                tracing::error!(error = crate::error::chain(&error), "silent devices were not told of")
            }
        }
    }
    for session in app.hub().all() {
        app.hub().disconnect(session.key.0, session.key.1, "shutting-down");
    }
    if let Err(error) = flush(&app, &db).await {
        tracing::error!(error = crate::error::chain(&error), "presence was not written at the end");
    }
}

/// Writes who was heard from since the last time.
async fn flush(app: &App, db: &SystemDb) -> StoreResult<()> {
    let seen: Vec<Seen> = app
        .hub()
        .all()
        .iter()
        .filter_map(|session| {
            let at = session.unflushed()?;
            Some(Seen { tenant: session.key.0, device: session.key.1, at })
        })
        .collect();
    db.record_seen(&seen).await
}

async fn tell_silent(app: &App, db: &SystemDb, after: UnixMs, until: UnixMs) -> StoreResult<()> {
    let silent = db.silent_devices(after, until).await?;
    let events: Vec<(TenantId, NewEvent)> = silent
        .iter()
        .filter(|device| !app.hub().is_connected(device.tenant, device.device))
        .map(|device| (device.tenant, gone(device, &db.actor().0)))
        .collect();
    db.append_events(&events).await?;
    if !events.is_empty() {
        app.events_written();
    }
    for device in silent {
        app.hub().changed(device.tenant, device.device);
        app.fleet().reported(device.tenant, device.device);
    }
    Ok(())
}

fn gone(device: &Silent, actor: &str) -> NewEvent {
    NewEvent {
        uid: Uuid::now_v7(),
        at: now(),
        kind: "device.offline".to_owned(),
        subject_kind: "Device".to_owned(),
        subject: device.device.0,
        subject_name: device.name.clone(),
        actor: actor.to_owned(),
        message: format!("device {} was not heard from for five minutes", device.name),
        payload: serde_json::json!({ "lastSeenAt": device.last_seen_at }),
    }
}

/// The event of a device that is back after it was offline; none when it was not.
pub(super) fn back(app: &App, session: &Session, opened: &Opened) -> Option<NewEvent> {
    let at = now();
    let last = opened.last_seen_before?;
    app.hub().pauses.was_offline(last, at).then(|| NewEvent {
        uid: Uuid::now_v7(),
        at,
        kind: "device.online".to_owned(),
        subject_kind: "Device".to_owned(),
        subject: session.key.1.0,
        subject_name: opened.name.clone(),
        actor: format!("device:{}", opened.name),
        message: format!("device {} is back", opened.name),
        payload: serde_json::json!({ "lastSeenAt": last }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_downtime_does_not_make_devices_come_back() {
        let pauses = Pauses::default();
        pauses.0.set(Pause { from: UnixMs(1_000_000), until: UnixMs(9_000_000) }).unwrap();
        let check = |last_seen: i64, at: i64| pauses.was_offline(UnixMs(last_seen), UnixMs(at));
        assert!(!check(999_000, 9_000_100), "it was there when we went");
        assert!(check(1_000_000 - OFFLINE_AFTER_MS, 9_000_100), "it was offline before we went");
        assert!(check(9_000_500, 9_000_500 + OFFLINE_AFTER_MS), "it went while we listened");
        assert!(!check(9_000_500, 9_000_500 + OFFLINE_AFTER_MS - 1));
    }
}
