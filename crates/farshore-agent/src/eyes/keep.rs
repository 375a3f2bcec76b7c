//! `run`'s side: keeps a watch open with the runner, for ever.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farshore_domain::reconcile::MonoMs;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::{Glance, Look, Source, Sources, Tally};
use crate::clock;
use crate::runner::{ClientError, Reply, Request, RunnerClient};

/// Before the watch is opened again.
const AGAIN: Duration = Duration::from_secs(2);
/// The same, when the runner does not know what is asked for.
const AGAIN_OLD: Duration = Duration::from_secs(60);

/// What was counted last, and when: for everybody who samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct Eyes(Arc<Mutex<Option<(MonoMs, Tally)>>>);

impl Eyes {
    pub(crate) fn take(&self, tally: Option<Tally>) {
        let tally = tally.map(|tally| (clock::mono(), tally));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tally;
    }

    pub(crate) fn tally(&self) -> Option<(MonoMs, Tally)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn blind(reason: &str) -> Sources {
    let none = || Source { by: "none".to_owned(), reason: reason.to_owned() };
    farshore_collect::kernel::Kind::ALL.iter().map(|kind| (kind.name().to_owned(), none())).collect()
}

/// Watches until the receiver of `glances` is gone. A change of `look` begins anew.
pub(crate) async fn keep_watching(
    runner: RunnerClient,
    mut look: watch::Receiver<Look>,
    glances: mpsc::Sender<Glance>,
) {
    loop {
        let wanted = *look.borrow_and_update();
        let pause = tokio::select! {
            changed = look.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = glances.closed() => return,
            ended = follow(&runner, wanted, &glances) => {
                let (reason, pause) = ended;
                tracing::debug!(%reason, "the watch ended");
                if glances.send(Glance::Sources { sources: blind(&reason) }).await.is_err() {
                    return;
                }
                pause
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = glances.closed() => return,
        }
    }
}

/// Who tells what on this device: as `run` is told, or, where nobody watches, as it would be.
///
/// # Errors
/// A [`ClientError`].
pub async fn sources(runner: &RunnerClient) -> Result<Sources, ClientError> {
    match runner.ask(&Request::Sources {}).await? {
        Reply::Sources { sources } => Ok(sources),
        _ => Err(ClientError::Confused),
    }
}

async fn follow(runner: &RunnerClient, look: Look, glances: &mpsc::Sender<Glance>) -> (String, Duration) {
    let mut stream = match runner.open(&Request::Watch { look }).await {
        Ok(stream) => stream,
        Err(error) => return (crate::chain(&error), AGAIN),
    };
    loop {
        match crate::runner::wire::read::<Glance>(&mut stream).await {
            Ok(Some(glance)) => {
                if glances.send(glance).await.is_err() {
                    return ("the agent ends".to_owned(), AGAIN);
                }
            }
            Ok(None) => return ("the runner is gone".to_owned(), AGAIN),
            Err(crate::runner::WireError::Garbage(_)) => {
                return ("the runner is of an older version and does not watch".to_owned(), AGAIN_OLD);
            }
            Err(error) => return (crate::chain(&error), AGAIN),
        }
    }
}
