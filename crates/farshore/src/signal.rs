//! Being asked to stop.

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Result};

/// SIGINT (Ctrl-C) and SIGTERM.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    /// Listens from now on; before that the process just ends.
    pub(crate) fn listen() -> Result<Self> {
        let what = "can't listen for signals";
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(|error| Failure::because(what, &error))?,
            terminate: signal(SignalKind::terminate()).map_err(|error| Failure::because(what, &error))?,
        })
    }

    /// The next request to stop.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
