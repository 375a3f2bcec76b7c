//! The journal as producers see it: a handle, a queue, one thread that writes.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use farshore_series::PointBatch;
use tokio::sync::oneshot;

use crate::clock;
use crate::config::{Config, Durability};
use crate::core::{Core, Rows};
use crate::error::JournalError;
use crate::files::RealFiles;
use crate::frame::{MAX_PAYLOAD_BYTES, Span};
use crate::stats::Stats;
use crate::stream::StreamName;

/// A handle to an open journal; cheap to clone. When the last one goes, what waits is written and the thread ends.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    _ends: Arc<EndsWriter>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    core: Mutex<Core>,
    stats: Mutex<Arc<Stats>>,
    config: Config,
}

#[derive(Debug, Default)]
struct Queue {
    entries: Vec<Entry>,
    bytes: usize,
    /// When the first of the entries has to be written.
    due: Option<Instant>,
    closing: bool,
}

#[derive(Debug)]
struct Entry {
    rows: Rows,
    done: oneshot::Sender<Result<Receipt, JournalError>>,
}

/// What an acknowledged append got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence of the batch that the points will travel in. Zero under [`Durability::Memory`].
    pub sequence: u64,
    /// How many points it were.
    pub points: u32,
}

/// An append on its way. Done when its stream's [`Durability`] holds; dropping it does not undo it.
#[derive(Debug)]
#[must_use = "an append is acknowledged when this is done"]
pub struct Append(oneshot::Receiver<Result<Receipt, JournalError>>);

impl Append {
    /// Waits on this thread. Within a runtime, `.await` instead.
    ///
    /// # Errors
    /// [`JournalError`]; the points may then not be counted on.
    pub fn wait(self) -> Result<Receipt, JournalError> {
        self.0.blocking_recv().unwrap_or(Err(JournalError::Closed))
    }

    fn ready(answer: Result<Receipt, JournalError>) -> Self {
        let (done, receiver) = oneshot::channel();
        // The receiver is right here.
        let _ = done.send(answer);
        Self(receiver)
    }
}

impl Future for Append {
    type Output = Result<Receipt, JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(JournalError::Closed)))
    }
}

impl Journal {
    /// Opens the journal in a folder, or makes one. One process at a time may have it open.
    ///
    /// # Errors
    /// [`JournalError::InUse`], or what the disk says. Damaged contents are no error: they are counted and set aside.
    pub fn open(folder: impl AsRef<Path>, config: Config) -> Result<Self, JournalError> {
        let folder = folder.as_ref();
        let files = RealFiles::open(folder)
            .map_err(|error| JournalError::io("open its folder", error))?
            .ok_or_else(|| JournalError::InUse { path: folder.to_owned() })?;
        let core = Core::open(Arc::new(files), config.clone())?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            stats: Mutex::new(Arc::new(core.stats())),
            core: Mutex::new(core),
            config,
        });
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_groups(&for_writer))
            .map_err(|error| JournalError::io("start its thread", error))?;
        let ends = EndsWriter { shared: Arc::clone(&shared), writer: Mutex::new(Some(writer)) };
        Ok(Self { shared, _ends: Arc::new(ends) })
    }

    /// Hands points over. What the future says is final: after an error nothing of the batch may be counted on.
    pub fn append(&self, stream: &StreamName, points: &PointBatch) -> Append {
        let Some((earliest_ns, latest_ns)) = points.span_ns() else {
            return Append::ready(Ok(Receipt { sequence: 0, points: 0 }));
        };
        let count = u32::try_from(points.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::new();
        points.write_rows(&mut bytes);
        if bytes.len() > MAX_PAYLOAD_BYTES {
            return Append::ready(Err(JournalError::TooLarge { bytes: bytes.len(), max: MAX_PAYLOAD_BYTES }));
        }
        let rows =
            Rows { stream: stream.clone(), bytes, span: Span { points: count, earliest_ns, latest_ns } };
        self.shared.enqueue(rows)
    }

    /// Figures, a moment old at most.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&lock(&self.shared.stats))
    }

    /// Writes what waits and ends the thread; appends that come later get [`JournalError::Closed`].
    pub fn close(&self) {
        self._ends.end();
    }
}

impl Shared {
    fn enqueue(&self, rows: Rows) -> Append {
        let durability = self.config.stream(&rows.stream).durability;
        let mut queue = lock(&self.queue);
        if queue.closing {
            return Append::ready(Err(JournalError::Closed));
        }
        if queue.bytes + rows.bytes.len() > self.config.max_waiting_bytes && !queue.entries.is_empty() {
            return Append::ready(Err(JournalError::Busy));
        }
        let gather = match durability {
            Durability::Group(_) | Durability::Strict | Durability::Os => Duration::ZERO,
            Durability::Memory => Duration::from_millis(20),
        };
        let due = Instant::now() + gather;
        queue.due = Some(queue.due.map_or(due, |before| before.min(due)));
        queue.bytes += rows.bytes.len();
        let (done, receiver) = oneshot::channel();
        let points = rows.span.points;
        queue.entries.push(Entry { rows, done });
        drop(queue);
        self.wake.notify_one();
        if durability == Durability::Memory {
            return Append::ready(Ok(Receipt { sequence: 0, points }));
        }
        Append(receiver)
    }

    /// The next group, as soon as it is due; `None` when the journal is closed and nothing waits.
    fn next_group(&self) -> Option<Vec<Entry>> {
        let mut queue = lock(&self.queue);
        loop {
            let now = Instant::now();
            match queue.due {
                Some(due) if due <= now || queue.closing => {
                    queue.due = None;
                    queue.bytes = 0;
                    return Some(std::mem::take(&mut queue.entries));
                }
                Some(due) => {
                    let (next, _) =
                        self.wake.wait_timeout(queue, due - now).unwrap_or_else(PoisonError::into_inner);
                    queue = next;
                }
                None if queue.closing => return None,
                None => queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn write_groups(shared: &Shared) {
    while let Some(group) = shared.next_group() {
        let (rows, senders): (Vec<Rows>, Vec<_>) =
            group.into_iter().map(|entry| (entry.rows, entry.done)).unzip();
        let (answers, stats) = {
            let mut core = lock(&shared.core);
            (core.commit(clock::now(), &rows), core.stats())
        };
        *lock(&shared.stats) = Arc::new(stats);
        for ((answer, done), rows) in answers.into_iter().zip(senders).zip(&rows) {
            // A producer that no longer waits is no fault.
            let _ = done.send(answer.map(|sequence| Receipt { sequence, points: rows.span.points }));
        }
    }
}

#[derive(Debug)]
struct EndsWriter {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl EndsWriter {
    fn end(&self) {
        lock(&self.shared.queue).closing = true;
        self.shared.wake.notify_all();
        if let Some(writer) = lock(&self.writer).take()
            && writer.join().is_err()
        {
            tracing::error!("the journal's thread ended with a panic");
        }
    }
}

impl Drop for EndsWriter {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use farshore_series::Value;

    use super::*;

    fn batch(points: i64) -> PointBatch {
        let mut batch = PointBatch::new();
        let series = batch.series("t", "v", []).unwrap();
        for at in 0..points {
            batch.push(series, at, Value::Integer(at)).unwrap();
        }
        batch
    }

    #[test]
    fn what_was_acknowledged_is_there_when_the_journal_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let stream: StreamName = "data/a".parse().unwrap();
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        assert!(matches!(Journal::open(folder.path(), Config::default()), Err(JournalError::InUse { .. })));
        let waiting: Vec<Append> = (0..10).map(|_| journal.append(&stream, &batch(100))).collect();
        for append in waiting {
            assert_eq!(append.wait().unwrap().points, 100);
        }
        assert_eq!(journal.stats().pending_points(), 1000);
        journal.close();
        assert!(matches!(journal.append(&stream, &batch(1)).wait(), Err(JournalError::Closed)));
        drop(journal);
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        assert_eq!(journal.stats().pending_points(), 1000);
        assert_eq!(journal.append(&stream, &batch(1)).wait().unwrap().sequence, 2);
    }

    #[test]
    fn an_append_can_be_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let receipt = runtime.block_on(journal.append(&"events".parse().unwrap(), &batch(3))).unwrap();
        assert_eq!(receipt, Receipt { sequence: 1, points: 3 });
    }
}
