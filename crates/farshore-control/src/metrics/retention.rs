//! Measurements that are older than they are kept for are deleted, a bounded number at a time.

use std::time::Duration;

use farshore_store::Driver;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::clock::now;

const EVERY: Duration = Duration::from_secs(10 * 60);
/// One chunk holds the writer of a small database for some milliseconds.
const CHUNK: u32 = 1_000;
/// Between two chunks others get to write.
const PAUSE: Duration = Duration::from_millis(50);

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
        if deleted > 0 {
            tracing::info!(blocks = deleted, "old measurements were deleted");
        }
    }
}
