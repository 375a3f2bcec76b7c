//! What running operations say, for whoever looks: in memory, until the result with the whole of it is stored.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::response::sse::Event as SseEvent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_api::operation::OutputPiece;
use farshore_domain::id::{OperationId, TenantId};
use farshore_domain::operation::OUTPUT_BYTES;
use farshore_store::TenantDb;
use futures_util::Stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::chain;
use crate::events::stream::Reader;

type Key = (TenantId, OperationId);

/// At most so many operations' output is followed at once; of more, only the result is seen.
const MAX_LIVE: usize = 1_000;
/// What was missed is looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The output of running operations.
#[derive(Debug)]
pub(crate) struct Outputs {
    live: Mutex<HashMap<Key, Vec<u8>>>,
    changed: broadcast::Sender<Key>,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { live: Mutex::default(), changed: broadcast::channel(256).0 }
    }
}

impl Outputs {
    fn live(&self) -> MutexGuard<'_, HashMap<Key, Vec<u8>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn knows(&self, key: Key) -> bool {
        self.live().contains_key(&key)
    }

    /// Takes a piece that follows on what is there. A device that sends it again from the beginning adds nothing.
    pub(crate) fn push(&self, key: Key, offset: u64, bytes: &[u8]) {
        {
            let mut live = self.live();
            if !live.contains_key(&key) && live.len() >= MAX_LIVE {
                return;
            }
            let known = live.entry(key).or_default();
            let Ok(offset) = usize::try_from(offset) else { return };
            let Some(skip) = known.len().checked_sub(offset) else { return };
            let free = OUTPUT_BYTES.saturating_sub(known.len());
            let new = bytes.get(skip..).unwrap_or_default();
            known.extend_from_slice(new.get(..free.min(new.len())).unwrap_or_default());
        }
        // Nobody looks: fine.
        let _ = self.changed.send(key);
    }

    /// What comes after the first `from` bytes.
    pub(crate) fn after(&self, key: Key, from: usize) -> Vec<u8> {
        self.live().get(&key).and_then(|known| known.get(from..)).unwrap_or_default().to_vec()
    }

    /// It is over, or changed its state.
    pub(crate) fn ended(&self, key: Key) {
        self.live().remove(&key);
        let _ = self.changed.send(key);
    }
}

fn piece(offset: usize, bytes: &[u8]) -> Option<SseEvent> {
    let piece = OutputPiece { offset: offset as u64, bytes: STANDARD.encode(bytes) };
    SseEvent::default().event("output").json_data(piece).ok()
}

/// `event: output` for each piece, then `event: end` with the operation.
pub(super) fn stream(
    reader: Reader,
    db: TenantDb,
    uid: OperationId,
) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    async_stream::stream! {
        let key = (db.tenant(), uid);
        let app = reader.app().clone();
        let outputs = app.hub().outputs();
        let mut changed = outputs.changed.subscribe();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let over = reader.over();
        tokio::pin!(over);
        yield Ok(SseEvent::default().comment("open"));
        let mut told = 0;
        loop {
            // Read first, so that what it said at last is not missed.
            let row = match db.operation(uid.0).await {
                Ok(row) => row,
                Err(error) => {
                    tracing::error!(error = chain(&error), "an operation could not be read");
                    return;
                }
            };
            let done = row.state.is_final();
            let bytes = if done {
                let whole = db.operation_output(uid.0).await.unwrap_or_default();
                whole.get(told..).unwrap_or_default().to_vec()
            } else {
                outputs.after(key, told)
            };
            if !bytes.is_empty() {
                if let Some(event) = piece(told, &bytes) {
                    yield Ok(event);
                }
                told += bytes.len();
            }
            if done {
                if let Ok(event) = SseEvent::default().event("end").json_data(super::view(row)) {
                    yield Ok(event);
                }
                return;
            }
            loop {
                tokio::select! {
                    () = &mut over => return,
                    _ = ticks.tick() => break,
                    heard = changed.recv() => match heard {
                        Ok(other) if other != key => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn pieces_follow_on_one_another_whatever_is_sent_again() {
        let outputs = Outputs::default();
        let key = (TenantId(Uuid::nil()), OperationId(Uuid::nil()));
        outputs.push(key, 0, b"one");
        outputs.push(key, 3, b"two");
        outputs.push(key, 0, b"onetwo");
        outputs.push(key, 3, b"twothree");
        outputs.push(key, 99, b"lost");
        assert_eq!(outputs.after(key, 0), b"onetwothree");
        assert_eq!(outputs.after(key, 6), b"three");
        outputs.push(key, 11, &vec![b'x'; 2 * OUTPUT_BYTES]);
        assert_eq!(outputs.after(key, 0).len(), OUTPUT_BYTES);
        outputs.ended(key);
        assert!(!outputs.knows(key));
    }
}
