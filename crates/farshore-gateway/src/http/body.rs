//! Bodies as they come: no more of them is in memory at once than there is room for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Kilobytes of bodies in memory at once, as they were sent; beyond that, clients are told to wait.
const ARRIVING_KB: usize = 32 * 1024;
/// Bytes of each that are not counted: small bodies go on whatever large ones do, and there are no more of them than connections.
const FREE: usize = 32 * 1024;
/// Kilobytes that may be needed at once to read large bodies; beyond that, they wait for their turn.
const READING_KB: u32 = 96 * 1024;
/// How many times its bytes a body may take while it is read: a value of six bytes takes forty, twice that while the list of them grows, and what is
/// handed to the journal a third.
const READING_TIMES: usize = 12;

/// What the bodies of a server share.
#[derive(Debug)]
pub(super) struct Rooms {
    arriving: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

/// Room for one body, for as long as this lives.
pub(super) struct Room {
    of: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// Why a body did not arrive.
#[derive(Debug)]
pub(super) enum Unread {
    TooLarge,
    NoRoom,
    Late,
    BrokeOff(hyper::Error),
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            arriving: Arc::new(Semaphore::new(ARRIVING_KB)),
            reading: Arc::new(Semaphore::new(READING_KB as usize)),
        }
    }
}

impl Rooms {
    /// Room for a body that is about to come: it grows with what has come, whatever was announced.
    pub(super) fn arriving(&self) -> Room {
        Room { of: Arc::clone(&self.arriving), held: None }
    }

    /// Waits until a body of so many bytes, unpacked, may be read. Nothing when the server ends.
    pub(super) async fn turn(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kilobytes = kilobytes(bytes.saturating_mul(READING_TIMES)).min(READING_KB);
        Arc::clone(&self.reading).acquire_many_owned(kilobytes).await.ok()
    }
}

fn kilobytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl Room {
    /// Whether there is room for so many bytes in all.
    fn grow_to(&mut self, bytes: usize) -> bool {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more =
            kilobytes(bytes.saturating_sub(FREE)).saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        if more == 0 {
            return true;
        }
        let Ok(more) = Arc::clone(&self.of).try_acquire_many_owned(more) else { return false };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }

    /// A body of at most so many bytes, once all of it is there.
    pub(super) async fn read(
        &mut self,
        body: Incoming,
        most: usize,
        patience: Duration,
    ) -> Result<Bytes, Unread> {
        timeout(patience, self.gather(body, most)).await.unwrap_or(Err(Unread::Late))
    }

    async fn gather(&mut self, mut body: Incoming, most: usize) -> Result<Bytes, Unread> {
        // Most bodies come in one piece, which is not copied.
        let mut piece = Bytes::new();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Unread::BrokeOff)?.into_data() else { continue };
            let length = piece.len() + whole.len() + data.len();
            if length > most {
                return Err(Unread::TooLarge);
            }
            if !self.grow_to(length) {
                return Err(Unread::NoRoom);
            }
            if length == data.len() {
                piece = data;
            } else {
                whole.extend_from_slice(&std::mem::take(&mut piece));
                whole.extend_from_slice(&data);
            }
        }
        Ok(if whole.is_empty() { piece } else { whole.into() })
    }
}
