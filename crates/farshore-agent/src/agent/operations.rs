//! Operations: each imperative request is done once, and its result is kept until the control plane has acknowledged it.
//!
//! A request is taken (and kept) before anything else, kept as running before it is begun, and kept as answered together with its result, which
//! waits in a stream of its own like any other batch. An agent that dies in between does not do it again: it says that it was interrupted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_domain::digest::Digest;
use farshore_domain::name::Name;
use farshore_domain::operation::{Kind, OUTPUT_BYTES, State};
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::UnixMs;
use farshore_protocol::{self as wire, Operation, OperationBatch, OperationUpdate, agent_frame};
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{Agent, AgentError, to_json};
use crate::clock;
use crate::executor::Executor;
use crate::journal::{Journal, OPERATIONS};

/// The key of the ledger in the journal.
pub(super) const LEDGER: &str = "operations/v2";
/// So many operations are remembered after they were answered.
const REMEMBERED: usize = 512;
/// More than these are not taken; the control plane keeps them and sends them again.
const MAX_OPEN: usize = 64;
/// A piece of live output.
const PIECE: usize = 32 * 1024;

/// A request as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) app: String,
    pub(super) arguments: String,
    pub(super) reason: String,
    pub(super) expires_at: UnixMs,
    /// What a rollback goes to, once it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Digest>,
    /// The boot that a reboot is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "stage")]
pub(super) enum Stage {
    Taken(Request),
    Running(Request),
    Answered,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) stage: Stage,
}

/// Every operation that this device knows of, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger(pub(super) Vec<Entry>);

impl Ledger {
    fn knows(&self, uid: &str) -> bool {
        self.0.iter().any(|entry| entry.uid == uid)
    }

    fn open(&self) -> usize {
        self.0.iter().filter(|entry| entry.stage != Stage::Answered).count()
    }

    fn with(&self, uid: &str, stage: Stage) -> Self {
        let mut next = self.clone();
        match next.0.iter_mut().find(|entry| entry.uid == uid) {
            Some(entry) => entry.stage = stage,
            None => next.0.push(Entry { uid: uid.to_owned(), stage }),
        }
        let mut beyond = next.0.len().saturating_sub(next.open()).saturating_sub(REMEMBERED);
        next.0.retain(|entry| {
            let forgotten = beyond > 0 && entry.stage == Stage::Answered;
            beyond -= usize::from(forgotten);
            !forgotten
        });
        next
    }
}

/// What a running operation has said so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) bytes: Vec<u8>,
    pub(super) total: u64,
}

impl Said {
    pub(super) fn push(&mut self, bytes: &[u8], cap: usize) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let free = cap.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(bytes.get(..free).unwrap_or_default());
    }
}

/// An operation that is under way in a task of its own.
#[derive(Debug)]
pub(super) struct Doing {
    pub(super) kind: Kind,
    pub(super) said: Arc<Mutex<Said>>,
    pub(super) cancel: Arc<Notify>,
    /// How much of it was sent on this channel.
    sent: usize,
}

impl Doing {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, said: Arc::default(), cancel: Arc::default(), sent: 0 }
    }
}

/// An app that is disturbed because somebody asked for it. The operation is over when what it disturbed is up again: until then it keeps its
/// place in the budgets.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) app: Name,
    pub(super) goal: Goal,
    pub(super) until: MonoMs,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// This release runs again.
    Release(Digest),
    /// A later instance than this one is healthy.
    After(u64),
}

/// Everything about operations that the loop holds.
#[derive(Debug, Default)]
pub(super) struct Operations {
    pub(super) ledger: Ledger,
    pub(super) doing: BTreeMap<String, Doing>,
    pub(super) watched: BTreeMap<String, Watched>,
    /// The reboot that is under way, and when the device has to be down.
    pub(super) rebooting: BTreeMap<String, MonoMs>,
    /// Results that wait to be kept.
    pub(super) answers: Vec<OperationUpdate>,
    /// There is more output to be sent.
    pub(super) wake: Arc<Notify>,
}

/// How an operation stands, in the words of the channel.
pub(super) fn update(uid: &str, state: State, message: impl Into<String>) -> OperationUpdate {
    OperationUpdate {
        uid: uid.to_owned(),
        state: state.word().to_owned(),
        message: message.into(),
        output: Vec::new(),
        output_total: 0,
        exit_code: None,
        at_ms: clock::wall().0,
    }
}

/// The same with what it produced, capped.
pub(super) fn with_output(update: OperationUpdate, mut output: Vec<u8>) -> OperationUpdate {
    let output_total = output.len() as u64;
    output.truncate(OUTPUT_BYTES);
    OperationUpdate { output, output_total, ..update }
}

fn batch(updates: Vec<OperationUpdate>) -> (String, Vec<u8>) {
    (OPERATIONS.to_owned(), OperationBatch { sequence: 0, updates }.encode_to_vec())
}

/// A kept batch with its number; `None` when it is damaged.
pub(super) fn numbered(bytes: &[u8], sequence: u64) -> Option<OperationBatch> {
    let mut batch = OperationBatch::decode(bytes).ok()?;
    batch.sequence = sequence;
    Some(batch)
}

impl<E: Executor, J: Journal> Agent<E, J> {
    /// Reads what was kept. What was under way when the agent ended is not begun again.
    pub(super) fn load_operations(&mut self) -> Result<(), AgentError> {
        self.operations.ledger = self.read(LEDGER)?.unwrap_or_default();
        for Entry { uid, stage } in self.operations.ledger.0.clone() {
            let Stage::Running(request) = stage else { continue };
            match (request.kind, request.target, Name::new(request.app.as_str())) {
                (Kind::Rollback, Some(target), Ok(app)) => {
                    let until = clock::mono().plus_ms(super::operate::BACK_WITHIN_MS);
                    self.operations.watched.insert(uid, Watched { app, goal: Goal::Release(target), until });
                }
                // The agent begins anew in the same boot: the device may be on its way down still.
                (Kind::Reboot, ..) if request.boot.as_ref() == Some(&self.settings.boot_id) => {
                    let until = clock::mono().plus_ms(super::operate::DOWN_WITHIN_MS);
                    self.operations.rebooting.insert(uid, until);
                }
                (Kind::Reboot, ..) => {
                    self.operations.answers.push(update(&uid, State::Succeeded, "it was rebooted"));
                }
                _ => {
                    let message = "the agent ended while it was under way; it is not done again";
                    self.operations.answers.push(update(&uid, State::Failed, message));
                }
            }
        }
        Ok(())
    }

    fn keep_operation(
        &mut self,
        uid: &str,
        stage: Stage,
        updates: Vec<OperationUpdate>,
    ) -> Result<(), AgentError> {
        let next = self.operations.ledger.with(uid, stage);
        let value = (LEDGER.to_owned(), Some(to_json(&next, "the operations")?));
        self.keep(vec![value], vec![batch(updates)])?;
        self.operations.ledger = next;
        Ok(())
    }

    /// A request came. Nothing is done that was not kept first.
    pub(super) fn take_operation(&mut self, operation: Operation) -> Result<(), AgentError> {
        let uid = operation.uid.chars().take(64).collect::<String>();
        if uid.is_empty() || self.operations.ledger.knows(&uid) {
            tracing::debug!(operation = %uid, "known already");
            return Ok(());
        }
        if self.operations.ledger.open() >= MAX_OPEN {
            tracing::warn!(operation = %uid, "too many operations wait; this one is not taken yet");
            return Ok(());
        }
        let kind = Kind::from_word(&operation.kind);
        if kind == Kind::Unknown {
            let word: String = operation.kind.chars().take(64).collect();
            let answer = update(&uid, State::Unsupported, format!("this agent does not know {word:?}"));
            return self.keep_operation(&uid, Stage::Answered, vec![answer]);
        }
        if operation.arguments_json.len() > 64 * 1024 || operation.reason.len() > 4_096 {
            let answer = update(&uid, State::Failed, "its arguments are too large");
            return self.keep_operation(&uid, Stage::Answered, vec![answer]);
        }
        let request = Request {
            kind,
            app: operation.app,
            arguments: operation.arguments_json,
            reason: operation.reason,
            expires_at: UnixMs(operation.expires_at_ms),
            target: None,
            boot: None,
        };
        self.keep_operation(&uid, Stage::Taken(request), vec![update(&uid, State::Delivered, "")])
    }

    /// Somebody does not want it any more.
    pub(super) fn cancel_operation(&mut self, cancel: &wire::OperationCancel) -> Result<(), AgentError> {
        let uid = &cancel.uid;
        if let Some(doing) = self.operations.doing.get(uid) {
            doing.cancel.notify_one();
            return Ok(());
        }
        let waits = |entry: &Entry| entry.uid == *uid && matches!(entry.stage, Stage::Taken(_));
        if self.operations.ledger.0.iter().any(waits) {
            let answer = update(uid, State::Cancelled, "cancelled before it began");
            return self.keep_operation(uid, Stage::Answered, vec![answer]);
        }
        Ok(())
    }

    /// Takes what can be begun now, and keeps that it was begun.
    pub(super) fn begin_operations(&mut self) -> Result<(), AgentError> {
        loop {
            // What begins now would be cut off.
            if !self.operations.rebooting.is_empty() {
                return Ok(());
            }
            let exec = self.operations.doing.values().any(|doing| doing.kind == Kind::Exec);
            let busy = !self.operations.doing.is_empty() || !self.operations.watched.is_empty();
            let must_wait = |kind: Kind| (exec && kind == Kind::Exec) || (busy && kind == Kind::Reboot);
            let next = self.operations.ledger.0.iter().find_map(|entry| match &entry.stage {
                Stage::Taken(request) if !must_wait(request.kind) => {
                    Some((entry.uid.clone(), request.clone()))
                }
                _ => None,
            });
            let Some((uid, mut request)) = next else { return Ok(()) };
            if request.expires_at.0 > 0 && self.identity.clock.now() > request.expires_at {
                let answer = update(&uid, State::Expired, "it came too late");
                self.keep_operation(&uid, Stage::Answered, vec![answer])?;
                continue;
            }
            if let Err(answer) = self.ready(&uid, &mut request) {
                self.keep_operation(&uid, Stage::Answered, vec![answer])?;
                continue;
            }
            let running = vec![update(&uid, State::Running, "")];
            self.keep_operation(&uid, Stage::Running(request.clone()), running)?;
            self.begin(&uid, &request);
        }
    }

    /// Keeps results, each together with the fact that it is answered.
    pub(super) fn keep_answers(&mut self) -> Result<(), AgentError> {
        while let Some(answer) = self.operations.answers.last().cloned() {
            let uid = answer.uid.clone();
            self.keep_operation(&uid, Stage::Answered, vec![answer])?;
            self.operations.answers.pop();
            self.operations.doing.remove(&uid);
            self.operations.watched.remove(&uid);
            self.operations.rebooting.remove(&uid);
        }
        Ok(())
    }

    /// Sends what running operations have said since, to whoever looks.
    pub(super) fn send_output(&mut self) {
        if !self.session.as_ref().is_some_and(|session| session.welcomed && session.operations) {
            return;
        }
        let mut doing = std::mem::take(&mut self.operations.doing);
        for (uid, one) in &mut doing {
            loop {
                let bytes = {
                    let said = one.said.lock().unwrap_or_else(PoisonError::into_inner);
                    let until = said.bytes.len().min(one.sent.saturating_add(PIECE));
                    said.bytes.get(one.sent..until).unwrap_or_default().to_vec()
                };
                if bytes.is_empty() {
                    break;
                }
                let count = bytes.len();
                let offset = one.sent as u64;
                let piece = wire::OperationOutput { uid: uid.clone(), offset, bytes };
                if !self.send(agent_frame::Body::OperationOutput(piece)) {
                    break;
                }
                one.sent += count;
            }
        }
        self.operations.doing = doing;
    }

    /// A new channel has heard nothing yet.
    pub(super) fn tell_output_again(&mut self) {
        for doing in self.operations.doing.values_mut() {
            doing.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_forgets_only_what_was_answered() {
        let request = Request {
            kind: Kind::Exec,
            app: String::new(),
            arguments: "{}".to_owned(),
            reason: String::new(),
            expires_at: UnixMs(0),
            target: None,
            boot: None,
        };
        let mut ledger = Ledger::default().with("first", Stage::Running(request.clone()));
        for number in 0..2 * REMEMBERED {
            ledger = ledger.with(&number.to_string(), Stage::Answered);
        }
        assert!(ledger.knows("first"), "it is still under way");
        assert!(!ledger.knows("0") && ledger.knows(&(2 * REMEMBERED - 1).to_string()));
        assert_eq!((ledger.0.len(), ledger.open()), (REMEMBERED + 1, 1));
        let read: Ledger = serde_json::from_slice(&serde_json::to_vec(&ledger).unwrap()).unwrap();
        assert_eq!(read, ledger);
    }

    #[test]
    fn output_is_capped_and_counted() {
        let mut said = Said::default();
        said.push(&[1; 70], 100);
        said.push(&[2; 70], 100);
        assert_eq!((said.bytes.len(), said.total), (100, 140));
    }
}
