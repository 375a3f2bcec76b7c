//! Forgets what has ended: sessions, links, failed logins, answers to repeated requests, expired certificates.

use std::time::Duration;

use farshore_store::Driver;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::clock::now;

const EVERY: Duration = Duration::from_secs(15 * 60);

/// Starts the driver. What it does may be done by several replicas at once.
pub fn spawn(app: &App, shutdown: CancellationToken) -> tokio::task::JoinHandle<()> {
    let app = app.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match app.store().system(Driver::Retention).forget_ended(now()).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "forgot what has ended"),
                Err(error) => {
                    tracing::error!(error = crate::error::chain(&error), "what has ended was not forgotten")
                }
            }
        }
    })
}
