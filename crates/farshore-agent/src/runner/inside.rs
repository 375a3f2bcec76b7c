//! Commands from afar inside an app's container: as the app's user, with its environment and its limits.

use std::path::Path;
use std::time::Duration;

use farshore_domain::name::Name;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::apps::Apps;
use super::error::RunnerError;
use super::runbook::{self, Ended, Inside, MARK};
use super::runtime::{self, ContainerCommand, RuntimeError};
use super::users::Identity;
use crate::file;

/// containerd answers in this time, or what is asked of it is given up: beginning a command, and ending it.
const BEGIN_WITHIN: Duration = Duration::from_secs(15);
const END_WITHIN: Duration = Duration::from_secs(10);

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command<'a> {
    pub(super) operation: &'a str,
    pub(super) words: &'a [String],
    pub(super) seconds: u32,
    /// A folder of its own.
    pub(super) place: &'a Path,
}

/// Where it is written down what has to be ended.
const LEFT: &str = "inside.json";

/// Whether something of a command in a container could not be ended.
pub(super) fn is_left(place: &Path) -> bool {
    place.join(LEFT).exists()
}

/// What a runner that is killed leaves behind for the next one.
#[derive(Debug, Serialize, Deserialize)]
struct Left {
    command: ContainerCommand,
    user: Option<Identity>,
}

fn failed(what: &'static str) -> impl FnOnce(RuntimeError) -> RunnerError {
    move |source| RunnerError::Runtime { what, source }
}

/// Runs a command in the container of an app that is up.
pub(super) async fn run(
    apps: &Apps,
    stream: &mut UnixStream,
    inside: &Inside,
    work: Command<'_>,
) -> Result<Ended, RunnerError> {
    let (folder, spec) = apps.up(&inside.app, None).await?;
    let starting = "starting the command in the app's container";
    let command = runtime::inside(&folder, &spec, inside.service.as_ref(), work.operation);
    let command = command.map_err(failed(starting))?;
    let left = Left { command: command.clone(), user: spec.user };
    let bytes = serde_json::to_vec(&left).map_err(|e| RunnerError::io("writing the command", e.into()))?;
    file::write_atomically(&work.place.join(LEFT), &bytes, 0o600)
        .map_err(|e| RunnerError::io("writing the command", e))?;
    let mark = format!("{MARK}={}", work.operation);
    let beginning = command.begin(&folder, &spec, work.words, &mark, work.place);
    let ended = match timeout(BEGIN_WITHIN, beginning).await {
        Ok(Ok(pipes)) => follow(stream, &command, pipes, work.seconds).await,
        Ok(Err(error)) => Err(failed(starting)(error)),
        Err(_) => Err(RunnerError::Stuck { what: starting, after: BEGIN_WITHIN }),
    };
    end(&command, work.place).await;
    // What it has started and left behind.
    runbook::end(work.operation, spec.user, &[]).await;
    ended
}

/// Ends a command; what can't be ended now stays written down, and is ended before the next one or with its container.
async fn end(command: &ContainerCommand, place: &Path) {
    match timeout(END_WITHIN, command.end()).await {
        Ok(Ok(())) => {
            if let Err(error) = std::fs::remove_file(place.join(LEFT)) {
                tracing::warn!(%error, "a command in a container is over and still written down");
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::chain(&error), "a command in a container can't be ended");
        }
        Err(_) => tracing::warn!("a command in a container does not end"),
    }
}

async fn follow(
    stream: &mut UnixStream,
    command: &ContainerCommand,
    pipes: [tokio::net::unix::pipe::Receiver; 2],
    seconds: u32,
) -> Result<Ended, RunnerError> {
    let (sender, output) = mpsc::channel(4);
    let readers = pipes.map(|pipe| tokio::spawn(runbook::forward(pipe, sender.clone())));
    drop(sender);
    let waiting = async {
        let code = command.wait().await.map_err(failed("waiting for the command"))?;
        let said = if code == 0 { String::new() } else { format!("it ended with {code}") };
        Ok((i32::try_from(code).ok(), said))
    };
    let followed = runbook::follow(stream, output, waiting, seconds).await;
    for reader in readers {
        reader.abort();
    }
    followed.map(|(ended, _)| ended)
}

/// Ends what a runner that was killed has left of a command in a container.
pub(super) async fn clear(place: &Path, operation: &Name) {
    let read = file::read_capped(&place.join(LEFT), 64 * 1024);
    let Some(bytes) = read.ok().flatten() else { return };
    let Ok(left) = serde_json::from_slice::<Left>(&bytes) else {
        tracing::warn!("what was written down of a command in a container can't be read");
        drop(std::fs::remove_file(place.join(LEFT)));
        return;
    };
    end(&left.command, place).await;
    runbook::end(operation.as_str(), left.user, &[]).await;
}
