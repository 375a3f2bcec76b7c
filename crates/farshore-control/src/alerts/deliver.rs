//! The deliverer: sends messages that are due, tries again with growing pauses, and keeps what nobody takes as a dead letter.

use std::time::Duration;

use farshore_api::alert::{Alert, RouteKind, WebhookFormat};
use farshore_domain::id::TenantId;
use farshore_domain::time::{HOUR_MS, MINUTE_MS, UnixMs};
use farshore_store::alert_deliveries::{Attempt, DeliveryRow};
use farshore_store::objects::{ObjectKind, Stored};
use farshore_store::{Driver, StoreError, StoreResult, SystemDb};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::driver::Held;
use super::payload::Message;
use super::targets::StoredRoute;
use super::webhook::SendError;
use super::{email, webhook};
use crate::app::App;
use crate::clock::now;

const LEASE: &str = "alert-deliveries";
/// An attempt ends within this time: a mail server that drips must not hold the others' messages up.
const WITHIN: Duration = Duration::from_secs(30);
/// Longer than a round of attempts takes.
const LEASE_MS: i64 = 45_000;
/// Messages that are sent at the same time.
const AT_ONCE: u32 = 16;
/// Messages are looked for this often, and when one is known to be queued.
const EVERY_MS: i64 = 5_000;
/// The pauses between attempts; after the last one it is dead.
const PAUSES_MS: [i64; 9] =
    [2_000, 10_000, 30_000, MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS];

/// Why a message was not delivered, and whether to try again.
enum Trouble {
    Again(String),
    Dead(String),
}

pub(super) async fn run(app: &App, held: &Held) {
    let db = app.store().system(Driver::Alerts);
    let holder = Uuid::new_v4().to_string();
    let client = match webhook::client(app.settings().alert_targets) {
        Ok(client) => Some(client),
        Err(error) => {
            tracing::error!(
                error = crate::error::chain(&error),
                "webhooks can't be sent: the HTTP client can't be made"
            );
            None
        }
    };
    loop {
        let wait = match round(app, &db, held, &holder, client.as_ref()).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::error!(
                    error = crate::error::chain(&error),
                    "messages were not sent; it is tried again"
                );
                1_000
            }
        };
        let wait = Duration::from_millis(wait.clamp(0, EVERY_MS).unsigned_abs());
        // A timeout is as good as a wake: something is due by then.
        let _ = tokio::time::timeout(wait, app.alerts().deliver.notified()).await;
    }
}

/// Sends what is due. Returns in how many milliseconds the next message is.
async fn round(
    app: &App,
    db: &SystemDb,
    held: &Held,
    holder: &str,
    client: Option<&reqwest::Client>,
) -> StoreResult<i64> {
    let Some(lease) = held.take(db, LEASE, holder, LEASE_MS).await? else { return Ok(EVERY_MS) };
    let due = db.due_deliveries(now(), AT_ONCE).await?;
    let mut sending = JoinSet::new();
    for (tenant, row) in due {
        let (app, client) = (app.clone(), client.cloned());
        sending.spawn(async move {
            let sent = tokio::time::timeout(WITHIN, send(&app, client, tenant, &row)).await;
            let late = || Err(Trouble::Again(format!("it was not taken within {} s", WITHIN.as_secs())));
            (tenant, row, sent.unwrap_or_else(|_| late()))
        });
    }
    while let Some(done) = sending.join_next().await {
        let (tenant, row, sent) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "a task that sends a message failed");
                continue;
            }
        };
        let attempt = outcome(&row, sent, now());
        if let Attempt::Dead { error } = &attempt {
            tracing::warn!(tenant = %tenant, route = row.route_name, delivery = %row.uid, error, "nobody takes a message about alerts");
        }
        db.finish_attempt(&lease, tenant, row.uid, &attempt, now()).await?;
    }
    Ok(db.next_delivery().await?.map_or(EVERY_MS, |next| next.since_ms(now())))
}

fn outcome(row: &DeliveryRow, sent: Result<(), Trouble>, now: UnixMs) -> Attempt {
    let short = |error: String| error.chars().filter(|c| !c.is_control()).take(500).collect::<String>();
    match sent {
        Ok(()) => Attempt::Delivered,
        Err(Trouble::Dead(error)) => Attempt::Dead { error: short(error) },
        Err(Trouble::Again(error)) => {
            let done = usize::try_from(row.attempts).unwrap_or(usize::MAX);
            match PAUSES_MS.get(done) {
                Some(pause) => Attempt::Again { at: now.plus_ms(*pause), error: short(error) },
                None => Attempt::Dead { error: short(error) },
            }
        }
    }
}

async fn send(
    app: &App,
    client: Option<reqwest::Client>,
    tenant: TenantId,
    row: &DeliveryRow,
) -> Result<(), Trouble> {
    let db = app.store().system(Driver::Alerts).tenant(tenant);
    let route: Stored<StoredRoute> = match db.object(ObjectKind::AlertRoute, &row.route.to_string()).await {
        Ok(route) => route,
        Err(StoreError::NotFound(_)) => return Err(Trouble::Dead("the route was deleted".to_owned())),
        Err(error) => return Err(Trouble::Again(crate::error::chain(&error))),
    };
    if !route.spec.spec.enabled {
        return Err(Trouble::Dead("the route is disabled".to_owned()));
    }
    let secret = route.spec.secret(app, route.metadata.uid).map_err(Trouble::Again)?;
    let alerts: Vec<Alert> = row
        .alerts
        .iter()
        .map(|alert| serde_json::from_value(alert.clone()))
        .collect::<Result<_, _>>()
        .map_err(|error| Trouble::Dead(format!("the stored message can't be read: {error}")))?;
    let message = Message {
        route: route.metadata.name.as_str(),
        group_key: &row.group_key,
        alerts: &alerts,
        page: &app.addresses().api_url,
        made_at: row.created_at,
    };
    let targets = app.settings().alert_targets;
    let spec = &route.spec.spec;
    match (spec.kind, &spec.webhook, &spec.email) {
        (RouteKind::Webhook, Some(target), _) => {
            let client = client.ok_or_else(|| {
                Trouble::Again("this server can't make HTTP requests; see its log".to_owned())
            })?;
            let secret = secret.as_deref().and_then(webhook::read_secret);
            let secret = secret.ok_or_else(|| Trouble::Dead("the route has no secret".to_owned()))?;
            let body = match target.format {
                WebhookFormat::Alertmanager => message.alertmanager(),
                WebhookFormat::Farshore | WebhookFormat::Unknown => message.farshore(),
            };
            let body = serde_json::to_vec(&body).map_err(|error| Trouble::Dead(error.to_string()))?;
            match webhook::send(&client, targets, &target.url, &secret, row.uid, body, now()).await {
                Ok(()) => Ok(()),
                Err(SendError::Gone) => Err(Trouble::Dead(SendError::Gone.to_string())),
                Err(SendError::Failed(why)) => Err(Trouble::Again(why)),
            }
        }
        (RouteKind::Email, _, Some(target)) => email::send(targets, target, secret, row.uid, message.mail())
            .await
            .map_err(|error| Trouble::Again(crate::error::chain(&*error))),
        _ => Err(Trouble::Dead("the route names no receiver".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tried_with_growing_pauses_and_then_dead() {
        let mut row = DeliveryRow {
            uid: Uuid::nil(),
            route: Uuid::nil(),
            route_name: "ops".to_owned(),
            group_key: String::new(),
            alerts: Vec::new(),
            state: "queued".to_owned(),
            attempts: 0,
            next_at: UnixMs(0),
            last_error: String::new(),
            created_at: UnixMs(0),
            finished_at: None,
        };
        let mut at = UnixMs(0);
        let mut pause = 0;
        loop {
            match outcome(&row, Err(Trouble::Again("no\nanswer".to_owned())), at) {
                Attempt::Again { at: next, error } => {
                    assert!(next.since_ms(at) > pause);
                    assert_eq!(error, "noanswer");
                    (pause, at) = (next.since_ms(at), next);
                    row.attempts += 1;
                }
                other => break assert_eq!(other, Attempt::Dead { error: "noanswer".to_owned() }),
            }
        }
        assert_eq!(row.attempts, 9);
        assert!(at.0 > 10 * HOUR_MS, "for half a day");
    }
}
