//! Completion that knows the names on the server. Silent and quick: whoever presses Tab does not wait for a dead server.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use serde_json::Value;

use crate::client::Client;
use crate::context::ServerArguments;
use crate::kind::{self, KINDS, Kind};

/// How long the server may take.
const PATIENCE: Duration = Duration::from_millis(1500);

/// `TYPE` or `TYPE/NAME`.
pub(crate) fn objects(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    match current.split_once('/') {
        None => KINDS
            .iter()
            .flat_map(|kind| [kind.plural.to_owned(), format!("{}/", kind.singular)])
            .filter(|word| word.starts_with(current))
            .map(CompletionCandidate::new)
            .collect(),
        Some((word, prefix)) => match kind::find(word) {
            Ok(kind) => names(kind, prefix)
                .into_iter()
                .map(|name| CompletionCandidate::new(format!("{word}/{name}")))
                .collect(),
            Err(_) => Vec::new(),
        },
    }
}

/// Names of devices.
pub(crate) fn devices(current: &OsStr) -> Vec<CompletionCandidate> {
    by_name("device", current)
}

/// Names of rollouts.
pub(crate) fn rollouts(current: &OsStr) -> Vec<CompletionCandidate> {
    by_name("rollout", current)
}

fn by_name(kind: &str, current: &OsStr) -> Vec<CompletionCandidate> {
    match (kind::find(kind), current.to_str()) {
        (Ok(kind), Some(prefix)) => names(kind, prefix).into_iter().map(CompletionCandidate::new).collect(),
        _ => Vec::new(),
    }
}

/// The names of a kind that start with `prefix`; none when the server can't be asked. The flags of the line that is being completed are not
/// seen here: the context and the environment decide.
fn names(kind: &'static Kind, prefix: &str) -> Vec<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let server = ServerArguments {
        context: variable("FARSHORE_CONTEXT"),
        server: variable("FARSHORE_SERVER"),
        ca_file: variable("FARSHORE_CA_FILE").map(Into::into),
        token: variable("FARSHORE_TOKEN"),
        tenant: variable("FARSHORE_TENANT"),
        config: variable("FARSHORE_CONFIG").map(Into::into),
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let list = runtime.block_on(async {
        let client = Client::new(server.resolve().ok()?, false).ok()?;
        let list = client.get("", kind.path, &[]);
        tokio::time::timeout(PATIENCE, list).await.ok()?.ok()
    });
    kind.items(&list.unwrap_or(Value::Null))
        .iter()
        .map(|item| kind.name_of(item))
        .filter(|name| name.starts_with(prefix))
        .collect()
}
