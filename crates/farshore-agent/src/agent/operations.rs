//! Operations: one imperative request, done once.

use std::sync::Arc;

use farshore_domain::name::Name;
use farshore_domain::policy::RemoteOperation;
use farshore_domain::time::UnixMs;
use farshore_protocol::{Operation, OperationUpdate, agent_frame};

use super::{Agent, AgentError, Done, to_json};
use crate::executor::Executor;
use crate::journal::Journal;

/// So many operations are remembered as done.
const REMEMBERED: usize = 256;
const LOG_BYTES: u32 = 256 * 1024;

fn update(uid: &str, state: &str, message: impl Into<String>, output: Vec<u8>) -> OperationUpdate {
    OperationUpdate { uid: uid.to_owned(), state: state.to_owned(), message: message.into(), output }
}

impl<E: Executor, J: Journal> Agent<E, J> {
    pub(super) fn operate(&mut self, operation: Operation) -> Result<(), AgentError> {
        let uid = operation.uid.chars().take(64).collect::<String>();
        if self.operations.contains(&uid) {
            tracing::debug!(operation = %uid, "done already");
            return Ok(());
        }
        if operation.expires_at_ms > 0 && self.identity.clock.now() > UnixMs(operation.expires_at_ms) {
            self.send(agent_frame::Body::OperationUpdate(update(
                &uid,
                "expired",
                "it came too late",
                Vec::new(),
            )));
            return Ok(());
        }
        // Remembered before it is done: sent twice, it takes effect once.
        self.operations.push(uid.clone());
        if self.operations.len() > REMEMBERED {
            self.operations.remove(0);
        }
        let bytes = to_json(&self.operations, "the operations")?;
        self.keep(vec![("operations".to_owned(), Some(bytes))], Vec::new())?;
        let app = Name::new(operation.app.as_str()).ok();
        let known = app.filter(|app| self.state.apps.contains_key(app));
        let asked = match operation.kind.as_str() {
            "restart-app" => Some(RemoteOperation::Restart),
            "logs" => Some(RemoteOperation::Logs),
            "diagnostics" => Some(RemoteOperation::Diagnostics),
            _ => None,
        };
        let answer = match (operation.kind.as_str(), known) {
            (kind, _) if asked.is_some_and(|asked| !self.policy.allows(asked)) => {
                update(&uid, "failed", format!("this device's policy does not allow {kind}"), Vec::new())
            }
            ("restart-app", Some(app)) => {
                self.restart.insert(app);
                update(&uid, "succeeded", "it is being restarted", Vec::new())
            }
            ("logs", Some(app)) => {
                let executor = Arc::clone(&self.executor);
                self.tasks.spawn(async move {
                    Done::Operation(match executor.logs(app, LOG_BYTES).await {
                        Ok(text) => update(&uid, "succeeded", "", text.into_bytes()),
                        Err(error) => update(&uid, "failed", error.to_string(), Vec::new()),
                    })
                });
                return Ok(());
            }
            ("restart-app" | "logs", None) => {
                update(&uid, "failed", "no such app is on this device", Vec::new())
            }
            ("diagnostics", _) => update(&uid, "succeeded", "", self.status_json()),
            (kind, _) => {
                let kind: String = kind.chars().take(64).collect();
                update(&uid, "unsupported", format!("this agent does not know {kind:?}"), Vec::new())
            }
        };
        self.send(agent_frame::Body::OperationUpdate(answer));
        Ok(())
    }
}
