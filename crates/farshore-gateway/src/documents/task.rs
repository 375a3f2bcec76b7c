//! When documents are exchanged: at once when something was written here, and when the control plane says that something changed there.

use std::sync::Arc;
use std::time::Duration;

use farshore_domain::document::exchange::{Answer, MAX_WAIT_SECONDS, Request};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Documents, DocumentsError};
use crate::config::SyncStrategy;
use crate::sync::{Uplink, UplinkError};

/// Edits that come one soon after the other go together.
const GATHER: Duration = Duration::from_millis(50);
/// After a failure, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For a control plane that knows no documents, and for a device that is not registered.
const LONG_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Failed {
    Link(UplinkError),
    Disk(DocumentsError),
}

/// Exchanges documents with the control plane until it is told to stop.
#[derive(Debug)]
pub(crate) struct Exchanger {
    pub(crate) documents: Documents,
    pub(crate) uplink: Arc<dyn Uplink>,
    pub(crate) strategy: SyncStrategy,
    pub(crate) interval: Duration,
}

type Held = JoinHandle<Result<Answer, UplinkError>>;

/// When changes are sent again that were not taken.
struct Again {
    at: Option<Instant>,
    pause: Duration,
}

impl Again {
    const NONE: Self = Self { at: None, pause: FIRST_PAUSE };
}

impl Exchanger {
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        let mut held: Option<Held> = None;
        let mut again = Again::NONE;
        loop {
            if again.at.is_some_and(|at| at <= Instant::now()) {
                again.at = None;
                self.documents.try_again();
            }
            let round = async {
                self.drain().await?;
                if self.documents.put_off() == 0 {
                    again = Again::NONE;
                } else if again.at.is_none() {
                    again.at = Some(Instant::now() + again.pause);
                    again.pause = (again.pause * 2).min(LONGEST_PAUSE);
                }
                self.idle(&mut held, again.at).await
            };
            let result = tokio::select! {
                result = round => result,
                _ = stop.changed() => break,
            };
            let Err(failed) = result else {
                pause = FIRST_PAUSE;
                continue;
            };
            let wait = self.explain(&failed, pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! {
                // An edit is no reason to ask a control plane sooner that is not there.
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => break,
            }
        }
        if let Some(held) = held {
            held.abort();
        }
    }

    fn explain(&self, failed: &Failed, pause: Duration) -> Duration {
        let (text, wait) = match failed {
            Failed::Link(error @ UplinkError::Unclaimed(_)) => (error.to_string(), LONG_PAUSE),
            Failed::Link(UplinkError::NoSync) => {
                ("this control plane knows no documents; they are kept here".to_owned(), LONG_PAUSE)
            }
            Failed::Link(error @ UplinkError::Later { after, .. }) => {
                (error.to_string(), after.unwrap_or(pause).min(LONGEST_PAUSE))
            }
            Failed::Link(error) => (error.to_string(), pause),
            Failed::Disk(error) => (chain(error), LONGEST_PAUSE),
        };
        tracing::debug!(why = text, "documents were not exchanged");
        self.documents.failed(text);
        wait
    }

    /// Exchanges until nothing waits on either side, but for what the other side does not take now.
    async fn drain(&self) -> Result<(), Failed> {
        loop {
            let request = self.documents.request(0).await.map_err(Failed::Disk)?;
            let answer = self.uplink.documents(&request).await.map_err(Failed::Link)?;
            let done = !answer.more && answer.reset.is_none() && request.want.is_empty();
            self.documents.hear(answer).await.map_err(Failed::Disk)?;
            let (_, pending, _) =
                self.documents.on_disk(|store| store.counts()).await.map_err(Failed::Disk)?;
            if done && pending <= self.documents.put_off() as u64 {
                return Ok(());
            }
        }
    }

    /// Waits until something changed here or there, or until it is time to try again.
    async fn idle(&self, held: &mut Option<Held>, again: Option<Instant>) -> Result<(), Failed> {
        if self.strategy == SyncStrategy::FixedInterval {
            tokio::time::sleep(self.interval).await;
            return Ok(());
        }
        if held.is_none() {
            let request = self.documents.request(MAX_WAIT_SECONDS).await.map_err(Failed::Disk)?;
            // An edit came in between.
            if !request.changes.is_empty() {
                return Ok(());
            }
            *held = Some(tokio::spawn(ask(Arc::clone(&self.uplink), request)));
        }
        let Some(waiting) = held.as_mut() else { return Ok(()) };
        let again = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = again => Ok(()),
            () = self.documents.written() => {
                tokio::time::sleep(GATHER).await;
                Ok(())
            }
            answer = waiting => {
                *held = None;
                let answer = answer.map_err(|error| Failed::Link(UplinkError::Unreachable(error.to_string())))?;
                self.documents.hear(answer.map_err(Failed::Link)?).await.map_err(Failed::Disk)
            }
        }
    }
}

async fn ask(uplink: Arc<dyn Uplink>, request: Request) -> Result<Answer, UplinkError> {
    uplink.documents(&request).await
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
