//! The journal as producers and senders see it: a handle, a queue, one thread that writes and one that seals.

use std::collections::HashSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use farshore_series::PointBatch;
use farshore_trust::sealed::IngestPublicKey;
use tokio::sync::{Notify, oneshot};

use crate::clock;
use crate::config::{Class, Config, Durability};
use crate::core::{Core, Keys, Outgoing, PeerMark, Rows};
use crate::error::JournalError;
use crate::files::{Files, RealFiles};
use crate::follow::Follower;
use crate::frame::MAX_PAYLOAD_BYTES;
use crate::gather::{Gather, Producer};
use crate::key::KeySource;
use crate::stats::Stats;
use crate::stream::StreamName;

/// How long sealing may wait, once in a pass, for the one who follows.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle to an open journal; cheap to clone. When the last one goes, what waits is written and the threads end.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    ends: Arc<EndsThreads>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    core: Mutex<Core>,
    stats: Mutex<Arc<Stats>>,
    config: Config,
    /// Whether the thread that seals has something to look at, or has to end.
    sealer: Mutex<Sealer>,
    wake_sealer: Condvar,
    sealing: Mutex<()>,
    probing: Mutex<()>,
    future_times: AtomicU64,
    producers: AtomicU64,
    files: Arc<dyn Files>,
    /// Told while alerts wait that are not sealed.
    alerted: Notify,
    follower: Option<Arc<dyn Follower>>,
}

#[derive(Debug, Default)]
struct Sealer {
    look: bool,
    closing: bool,
}

#[derive(Debug, Default)]
struct Queue {
    entries: Vec<Entry>,
    bytes: usize,
    gather: Gather,
    /// The thread that writes waits, until then or for ever.
    waits: Option<Option<Instant>>,
    closing: bool,
}

#[derive(Debug)]
struct Entry {
    rows: Rows,
    /// For the one who follows.
    points: Option<Arc<PointBatch>>,
    producer: Option<Producer>,
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
        Self::open_with(folder.as_ref(), config, None)
    }

    /// The same, with one who is told of every append in the order in which the journal has them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_followed(
        folder: impl AsRef<Path>,
        config: Config,
        follower: Arc<dyn Follower>,
    ) -> Result<Self, JournalError> {
        Self::open_with(folder.as_ref(), config, Some(follower))
    }

    fn open_with(
        folder: &Path,
        config: Config,
        follower: Option<Arc<dyn Follower>>,
    ) -> Result<Self, JournalError> {
        let files = RealFiles::open(folder)
            .map_err(|error| JournalError::io("open its folder", error))?
            .ok_or_else(|| JournalError::InUse { path: folder.to_owned() })?;
        let device = KeySource::of(folder).get_or_make(&files)?;
        let keys = Keys::new(device, config.ingest_key.as_ref()).map_err(JournalError::seal)?;
        let files: Arc<dyn Files> = Arc::new(files);
        let core = Core::open(Arc::clone(&files), config.clone(), keys, clock::boot_id(), clock::now())?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            stats: Mutex::new(Arc::new(core.stats())),
            core: Mutex::new(core),
            config,
            sealer: Mutex::default(),
            wake_sealer: Condvar::new(),
            sealing: Mutex::new(()),
            probing: Mutex::new(()),
            future_times: AtomicU64::new(0),
            producers: AtomicU64::new(0),
            files,
            alerted: Notify::new(),
            follower,
        });
        let mut ends = EndsThreads { shared: Arc::clone(&shared), threads: Mutex::default() };
        for (name, work) in [("journal", write_groups as fn(&Shared)), ("journal-seal", seal_segments)] {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || work(&shared))
                .map_err(|error| JournalError::io("start its threads", error))?;
            ends.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(Self { shared, ends: Arc::new(ends) })
    }

    /// Someone who sends and waits for the answer, such as a connection: what is known of its habits decides how long others wait
    /// for it. One that is never heard of again is forgotten by itself.
    #[must_use]
    pub fn producer(&self) -> Producer {
        Producer(self.shared.producers.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands points over. What the future says is final: after an error nothing of the batch may be counted on.
    pub fn append(&self, stream: &StreamName, points: &PointBatch) -> Append {
        self.append_from(None, stream, points)
    }

    /// Hands points over, for a producer that [`producer`](Self::producer) named.
    pub fn append_from(
        &self,
        producer: Option<Producer>,
        stream: &StreamName,
        points: &PointBatch,
    ) -> Append {
        let kept = self.shared.follower.is_some().then(|| Arc::new(points.clone()));
        self.hand_over(producer, stream, points, kept)
    }

    /// The same without a copy for the one who follows.
    pub fn append_shared(
        &self,
        producer: Option<Producer>,
        stream: &StreamName,
        points: &Arc<PointBatch>,
    ) -> Append {
        let kept = self.shared.follower.is_some().then(|| Arc::clone(points));
        self.hand_over(producer, stream, points, kept)
    }

    fn hand_over(
        &self,
        producer: Option<Producer>,
        stream: &StreamName,
        points: &PointBatch,
        mut kept: Option<Arc<PointBatch>>,
    ) -> Append {
        let nothing = || Append::ready(Ok(Receipt { sequence: 0, points: 0 }));
        let Some((_, latest_ns)) = points.span_ns() else { return nothing() };
        let mut guarded = None;
        let now = clock::now().wall_ns;
        let ahead = i64::try_from(self.shared.config.max_ahead.as_nanos()).unwrap_or(i64::MAX);
        // A clock that stands before this program was written knows nothing of the future.
        if latest_ns > now.saturating_add(ahead) && now > clock::PLAUSIBLE_NS {
            let mut batch = points.clone();
            let mut changed = 0;
            batch.change_times(|at| {
                let early = at > now.saturating_add(ahead);
                changed += u64::from(early);
                if early { now } else { at }
            });
            self.shared.future_times.fetch_add(changed, Ordering::Relaxed);
            kept = kept.map(|_| Arc::new(batch.clone()));
            guarded = Some(batch);
        }
        let points = guarded.as_ref().unwrap_or(points);
        let Some(rows) = Rows::of(stream.clone(), points) else { return nothing() };
        if rows.bytes.len() > MAX_PAYLOAD_BYTES {
            return Append::ready(Err(JournalError::TooLarge {
                bytes: rows.bytes.len(),
                max: MAX_PAYLOAD_BYTES,
            }));
        }
        self.shared.enqueue(rows, kept, producer)
    }

    /// Writes a little to the disk and makes it durable, to see whether that is possible. Leaves nothing behind.
    ///
    /// # Errors
    /// [`JournalError`]: why it isn't; [`JournalError::Closed`] when the journal is closed.
    pub fn probe(&self) -> Result<(), JournalError> {
        if lock(&self.shared.queue).closing {
            return Err(JournalError::Closed);
        }
        let _one = lock(&self.shared.probing);
        let io = |e| JournalError::io("write to its disk", e);
        let files = &self.shared.files;
        files.remove("probe.new").map_err(io)?;
        let mut file = files.create("probe.new").map_err(io)?;
        let written = file.append(&[0x55; 8 * 1024]).and_then(|()| file.sync());
        drop(file);
        files.remove("probe.new").map_err(io)?;
        written.map_err(io)
    }

    /// Figures, a moment old at most.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&lock(&self.shared.stats))
    }

    /// Writes what waits and ends the threads; appends that come later get [`JournalError::Closed`].
    pub fn close(&self) {
        self.ends.end();
    }

    /// Seals everything that is there, whatever its age: before a transfer by hand, or to send all at once. How many streams have points
    /// that can't be sealed yet, because the one who follows is not settled.
    ///
    /// # Errors
    /// [`JournalError`]; what could not be sealed stays where it is.
    pub fn seal_all(&self) -> Result<usize, JournalError> {
        lock(&self.shared.core).close_segments();
        let result = self.shared.seal_waiting();
        self.shared.publish();
        result
    }

    /// Seals the alerts that are there, whatever their age: they wait for nobody. Says the same as [`seal_all`](Self::seal_all).
    ///
    /// # Errors
    /// [`JournalError`]; what could not be sealed stays where it is.
    pub fn seal_alerts(&self) -> Result<usize, JournalError> {
        lock(&self.shared.core).close_segments_of(&[Class::Alert]);
        let result = self.shared.seal_waiting();
        self.shared.publish();
        result
    }

    /// Done when alerts wait that are not sealed. For one sender.
    pub async fn alerted(&self) {
        self.shared.alerted.notified().await;
    }

    /// The next batch of at most `budget` bytes: alerts first, the other classes by their shares. It counts as on its way until it
    /// is acknowledged, refused or released. `None`: nothing (that fits) waits. Reads from disk: from a runtime, call it where
    /// blocking is allowed.
    ///
    /// # Errors
    /// [`JournalError`] when the disk fails. A damaged batch is set aside and said, and the next one is taken.
    pub fn next_batch(&self, budget: u64) -> Result<Option<Outgoing>, JournalError> {
        self.next_batch_of(budget, &Class::ALL)
    }

    /// The same of streams of these classes only.
    ///
    /// # Errors
    /// As [`Journal::next_batch`].
    pub fn next_batch_of(&self, budget: u64, classes: &[Class]) -> Result<Option<Outgoing>, JournalError> {
        let next = lock(&self.shared.core).next_batch_of(clock::now(), budget, classes);
        if !matches!(&next, Ok(Some(_))) {
            // Nothing is ready: perhaps something is old enough now.
            self.shared.wake_sealer();
        }
        next
    }

    /// The other side has stored the batch: it goes. Twice is as good as once.
    ///
    /// # Errors
    /// [`JournalError`] when it cannot be removed; it is then sent again, which does no harm.
    pub fn acknowledge(&self, stream: &StreamName, sequence: u64) -> Result<(), JournalError> {
        let result = lock(&self.shared.core).acknowledge(clock::now(), stream, sequence);
        self.shared.publish();
        result
    }

    /// The other side will never take the batch: it is set aside, said as a loss, and the stream goes on.
    ///
    /// # Errors
    /// [`JournalError`] when the loss cannot be written down; the batch then stays.
    pub fn refuse(&self, stream: &StreamName, sequence: u64) -> Result<(), JournalError> {
        let result = lock(&self.shared.core).refuse(clock::now(), stream, sequence);
        self.shared.publish();
        result
    }

    /// The batch did not arrive, or nobody knows: it may go again.
    pub fn release(&self, stream: &StreamName, sequence: u64) {
        lock(&self.shared.core).release(stream, sequence);
    }

    /// The link is gone: all batches that were on their way may go again.
    pub fn release_all(&self) {
        lock(&self.shared.core).release_all();
    }

    /// Batches that are sealed from now on can be opened with this ingest key, too. Those that were sealed before are not touched; see
    /// [`Journal::reseal`].
    ///
    /// # Errors
    /// [`JournalError`] for a key that is none.
    pub fn seal_for(&self, ingest: &IngestPublicKey) -> Result<(), JournalError> {
        lock(&self.shared.core).seal_for(ingest).map_err(JournalError::seal)
    }

    /// The same batch, sealed for the present ingest key, to be sent in its place: for what was sealed before there was one.
    ///
    /// # Errors
    /// [`JournalError`] when it can't be opened here.
    pub fn reseal(&self, outgoing: Outgoing) -> Result<Outgoing, JournalError> {
        let bytes = lock(&self.shared.core).reseal(&outgoing).map_err(JournalError::seal)?;
        Ok(Outgoing { bytes, ..outgoing })
    }

    /// After a reconnect: what the other side has of a stream, in this epoch: everything below `floor`, and the ranges `seen` above it, both ends
    /// included.
    ///
    /// # Errors
    /// [`JournalError`] when the disk fails.
    pub fn peer_mark(
        &self,
        stream: &StreamName,
        floor: u64,
        seen: &[(u64, u64)],
    ) -> Result<PeerMark, JournalError> {
        let result = lock(&self.shared.core).peer_mark(clock::now(), stream, floor, seen);
        self.shared.publish();
        result
    }
}

impl Shared {
    fn enqueue(&self, rows: Rows, kept: Option<Arc<PointBatch>>, producer: Option<Producer>) -> Append {
        let durability = self.config.stream(&rows.stream).durability;
        let mut queue = lock(&self.queue);
        if queue.closing {
            return Append::ready(Err(JournalError::Closed));
        }
        if queue.bytes + rows.bytes.len() > self.config.max_waiting_bytes && !queue.entries.is_empty() {
            return Append::ready(Err(JournalError::Busy));
        }
        let (now, window, bytes) = (Instant::now(), window(durability), rows.bytes.len());
        match durability {
            Durability::Memory => queue.gather.add(now, window, bytes),
            _ => queue.gather.arrive(now, producer, window, bytes),
        }
        queue.bytes += bytes;
        let (done, receiver) = oneshot::channel();
        let points = rows.span.points;
        queue.entries.push(Entry { rows, points: kept, producer, done });
        let due = queue.gather.due(now);
        let sooner = queue.waits.is_some_and(|until| until.is_none() || due < until);
        if sooner {
            queue.waits = Some(due);
        }
        drop(queue);
        if sooner {
            self.wake.notify_one();
        }
        if durability == Durability::Memory {
            return Append::ready(Ok(Receipt { sequence: 0, points }));
        }
        Append(receiver)
    }

    /// Writes a group, and tells the one who follows before anything else can happen to its segments.
    fn commit(&self, rows: &[Rows], kept: Vec<Option<Arc<PointBatch>>>) -> Vec<Result<u64, JournalError>> {
        let mut core = lock(&self.core);
        let answers = core.commit(clock::now(), rows);
        if let Some(follower) = &self.follower {
            for ((answer, rows), points) in answers.iter().zip(rows).zip(kept) {
                // Zero: taken and thrown away, as the stream is set.
                if let (Ok(sequence @ 1..), Some(points)) = (answer, points) {
                    follower.committed(&rows.stream, *sequence, points);
                }
            }
        }
        drop(core);
        answers
    }

    /// The next group, as soon as it is due; `None` when the journal is closed and nothing waits.
    fn next_group(&self) -> Option<Vec<Entry>> {
        let mut queue = lock(&self.queue);
        loop {
            let now = Instant::now();
            let due = queue.gather.due(now);
            match due {
                Some(due) if due <= now || queue.closing => {
                    queue.gather.taken();
                    queue.bytes = 0;
                    return Some(std::mem::take(&mut queue.entries));
                }
                None if queue.closing => return None,
                _ => {}
            }
            queue.waits = Some(due);
            queue = match due {
                Some(due) => {
                    self.wake.wait_timeout(queue, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            queue.waits = None;
        }
    }
}

/// How long an append may wait for company.
fn window(durability: Durability) -> Duration {
    match durability {
        Durability::Group(window) => window,
        Durability::Strict | Durability::Os => Duration::ZERO,
        Durability::Memory => Duration::from_millis(20),
    }
}

fn write_groups(shared: &Shared) {
    while let Some(group) = shared.next_group() {
        let begun = Instant::now();
        let mut producers = Vec::with_capacity(group.len());
        let mut kept = Vec::with_capacity(group.len());
        let (rows, senders): (Vec<Rows>, Vec<_>) = group
            .into_iter()
            .map(|entry| {
                producers.push(entry.producer);
                kept.push(entry.points);
                (entry.rows, entry.done)
            })
            .unzip();
        let answers = shared.commit(&rows, kept);
        shared.publish();
        let now = Instant::now();
        let mut queue = lock(&shared.queue);
        queue.gather.committed(now.duration_since(begun));
        for (producer, rows) in producers.into_iter().zip(&rows) {
            let durability = shared.config.stream(&rows.stream).durability;
            queue.gather.answered(now, producer, window(durability));
        }
        drop(queue);
        for ((answer, done), rows) in answers.into_iter().zip(senders).zip(&rows) {
            // A producer that no longer waits is no fault.
            let _ = done.send(answer.map(|sequence| Receipt { sequence, points: rows.span.points }));
        }
    }
}

fn seal_segments(shared: &Shared) {
    loop {
        let mut sealer = lock(&shared.sealer);
        if !sealer.look && !sealer.closing {
            (sealer, _) = shared
                .wake_sealer
                .wait_timeout(sealer, Duration::from_secs(1))
                .unwrap_or_else(PoisonError::into_inner);
        }
        if sealer.closing {
            return;
        }
        sealer.look = false;
        drop(sealer);
        lock(&shared.core).maintain(clock::now());
        if let Err(error) = shared.seal_waiting() {
            // Nothing is lost: the segment stays and is tried again.
            tracing::warn!(%error, "a segment could not be sealed");
        }
        shared.publish();
    }
}

impl Shared {
    /// Seals the closed segments, one after another; the work is done without the lock. A stream that can't be sealed now keeps no other
    /// one from it. How many streams wait for the one who follows.
    fn seal_waiting(&self) -> Result<usize, JournalError> {
        // Two at once would write the same file.
        let _one = lock(&self.sealing);
        let mut passed_over = HashSet::new();
        let (mut waiting, mut failure) = (0, None);
        loop {
            let Some(job) = lock(&self.core).seal_job(&passed_over) else { break };
            // A batch is in columns, and may go: what follows the journal must be able to do without it. What was waited for in vain once
            // is not waited for again by each stream.
            let patience = if waiting == 0 { PATIENCE } else { Duration::ZERO };
            if let Some(follower) = &self.follower
                && !follower.settled(job.stream(), job.sequence(), patience)
            {
                waiting += 1;
                passed_over.insert(job.stream().clone());
                continue;
            }
            let made = job.run(clock::now());
            let sealed = made.and_then(|made| lock(&self.core).finish_seal(clock::now(), &job, made));
            match sealed {
                Ok(()) => {}
                // It is full for the others, too, and they are behind in urgency.
                Err(JournalError::DiskFull) => return Err(JournalError::DiskFull),
                Err(error) => {
                    passed_over.insert(job.stream().clone());
                    failure = failure.or(Some(error));
                }
            }
        }
        while lock(&self.core).rebase_next(clock::now())? {}
        failure.map_or(Ok(waiting), Err)
    }

    fn wake_sealer(&self) {
        lock(&self.sealer).look = true;
        self.wake_sealer.notify_one();
    }

    fn publish(&self) {
        let core = lock(&self.core);
        let mut stats = core.stats();
        let alerts = core.has_open_alerts();
        drop(core);
        if alerts {
            // Kept until somebody waits for it.
            self.alerted.notify_one();
        }
        stats.future_times = self.future_times.load(Ordering::Relaxed);
        *lock(&self.stats) = Arc::new(stats);
    }
}

#[derive(Debug)]
struct EndsThreads {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl EndsThreads {
    fn end(&self) {
        lock(&self.shared.queue).closing = true;
        self.shared.wake.notify_all();
        lock(&self.shared.sealer).closing = true;
        self.shared.wake_sealer.notify_all();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the journal ended with a panic");
            }
        }
        lock(&self.shared.core).give_room_back();
    }
}

impl Drop for EndsThreads {
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
    fn points_travel_as_batches_that_device_and_tenant_can_open() {
        use farshore_trust::sealed::{Batch, IngestKey};
        let folder = tempfile::tempdir().unwrap();
        let ingest = IngestKey::generate().unwrap();
        let config = Config { ingest_key: Some(ingest.public()), ..Config::default() };
        let journal = Journal::open(folder.path(), config).unwrap();
        let (data, alarms): (StreamName, StreamName) = ("data/a".parse().unwrap(), "events".parse().unwrap());
        journal.append(&data, &batch(1000)).wait().unwrap();
        journal.append(&alarms, &batch(5)).wait().unwrap();
        assert_eq!(journal.next_batch(u64::MAX).unwrap(), None);
        journal.seal_all().unwrap();
        let mut arrived = 0;
        while let Some(outgoing) = journal.next_batch(u64::MAX).unwrap() {
            let contents = Batch::read(&outgoing.bytes).unwrap().open(&ingest).unwrap();
            let columns = farshore_series::decode_columns(&contents).unwrap();
            assert_eq!(columns.len(), outgoing.points as usize);
            arrived += columns.len();
            journal.acknowledge(&outgoing.stream, outgoing.sequence).unwrap();
            journal.acknowledge(&outgoing.stream, outgoing.sequence).unwrap();
        }
        assert_eq!(arrived, 1005);
        assert_eq!(journal.stats().pending_points(), 0);
        let epoch = journal.stats().epoch;
        drop(journal);
        // The numbers go on where they were, though nothing is left.
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        assert_eq!(journal.stats().epoch, epoch);
        assert!(journal.append(&data, &batch(1)).wait().unwrap().sequence > 1);
    }

    #[test]
    fn what_was_sealed_before_there_was_an_ingest_key_is_sealed_again_for_it() {
        use farshore_trust::sealed::{Batch, IngestKey};
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        let stream: StreamName = "data/a".parse().unwrap();
        let sent = |journal: &Journal| {
            journal.append(&stream, &batch(10)).wait().unwrap();
            journal.seal_all().unwrap();
            journal.next_batch(u64::MAX).unwrap().unwrap()
        };
        let before = sent(&journal);
        assert_eq!(before.sealed_for(), None);
        let (first, second) = (IngestKey::generate().unwrap(), IngestKey::generate().unwrap());
        journal.seal_for(&first.public()).unwrap();
        let mine = sent(&journal);
        journal.seal_for(&second.public()).unwrap();
        // What was sealed for the key before stays as it is, and is still read with it.
        assert_eq!(mine.sealed_for(), Some(first.public().id()));
        let points = |outgoing: &Outgoing, key| {
            let contents = Batch::read(&outgoing.bytes).unwrap().open(key).unwrap();
            farshore_series::decode_columns(&contents).unwrap().len()
        };
        assert_eq!(points(&mine, &first), 10);
        drop(journal);
        // Also by another start of the journal, with another data key.
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        journal.seal_for(&second.public()).unwrap();
        let again = journal.reseal(before.clone()).unwrap();
        assert_eq!((again.sequence, points(&again, &second)), (before.sequence, 10));
        assert_eq!(Batch::read(&again.bytes).unwrap().header().epoch, before.epoch);
    }

    #[test]
    fn of_some_classes_only_those_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let (data, alarms): (StreamName, StreamName) = ("data/a".parse().unwrap(), "alarms".parse().unwrap());
        let alert = crate::config::StreamConfig::of(Class::Alert);
        let config = Config { streams: vec![(alarms.clone(), alert)], ..Config::default() };
        let journal = Journal::open(folder.path(), config).unwrap();
        for stream in [&data, &alarms] {
            journal.append(stream, &batch(5)).wait().unwrap();
        }
        journal.seal_all().unwrap();
        let next = journal.next_batch_of(u64::MAX, &[Class::Alert]).unwrap().unwrap();
        assert_eq!(next.stream, alarms);
        assert_eq!(journal.next_batch_of(u64::MAX, &[Class::Alert]).unwrap(), None);
        assert_eq!(journal.next_batch(u64::MAX).unwrap().unwrap().stream, data);
    }

    #[test]
    fn what_is_set_aside_is_bounded_and_was_told_when_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let stream: StreamName = "data/a".parse().unwrap();
        let config = Config { quarantine_bytes: 2_000, ..Config::default() };
        let journal = Journal::open(folder.path(), config).unwrap();
        let aside = || {
            let entries = std::fs::read_dir(folder.path().join("quarantine")).unwrap();
            let mut files: Vec<_> = entries.map(|entry| entry.unwrap()).collect();
            files.sort_by_key(std::fs::DirEntry::file_name);
            let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
            (files.last().map(std::fs::DirEntry::file_name), bytes)
        };
        let mut refused = 0;
        for _ in 0..20 {
            journal.append(&stream, &batch(10)).wait().unwrap();
            journal.seal_all().unwrap();
            while let Some(outgoing) = journal.next_batch(u64::MAX).unwrap() {
                if outgoing.stream == stream {
                    journal.refuse(&outgoing.stream, outgoing.sequence).unwrap();
                    refused += u64::from(outgoing.points);
                    let (newest, bytes) = aside();
                    let name = format!("data+a-{:016x}.batch", outgoing.sequence);
                    assert_eq!(newest.unwrap().to_str(), Some(name.as_str()), "the newest stays");
                    assert!(bytes <= 2_000, "{bytes} bytes");
                } else {
                    journal.acknowledge(&outgoing.stream, outgoing.sequence).unwrap();
                }
            }
        }
        assert_eq!(refused, 200);
        assert_eq!(journal.stats().streams[&stream].lost.values().sum::<u64>(), 200);
    }

    /// Is not settled on some streams.
    #[derive(Debug, Default)]
    struct Unsettled(Mutex<Vec<StreamName>>);

    impl Follower for Unsettled {
        fn committed(&self, _: &StreamName, _: u64, _: Arc<PointBatch>) {}

        fn settled(&self, stream: &StreamName, _: u64, _: Duration) -> bool {
            !lock(&self.0).contains(stream)
        }
    }

    #[test]
    fn a_stream_that_can_not_be_sealed_yet_is_told_and_keeps_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let [alarms, early, late] =
            ["alarms", "data/a", "data/b"].map(|name| name.parse::<StreamName>().unwrap());
        let alert = crate::config::StreamConfig::of(Class::Alert);
        let config = Config { streams: vec![(alarms.clone(), alert)], ..Config::default() };
        let follower = Arc::new(Unsettled::default());
        let journal = Journal::open_followed(folder.path(), config, Arc::clone(&follower) as _).unwrap();
        let next = |journal: &Journal| {
            let next = journal.next_batch(u64::MAX).unwrap()?;
            journal.acknowledge(&next.stream, next.sequence).unwrap();
            Some(next.stream)
        };
        for held_up in [&alarms, &early] {
            *lock(&follower.0) = vec![held_up.clone()];
            for stream in [&alarms, &early, &late] {
                journal.append(stream, &batch(5)).wait().unwrap();
            }
            assert_eq!(journal.seal_all().unwrap(), 1);
            let sent: HashSet<StreamName> = std::iter::from_fn(|| next(&journal)).collect();
            assert_eq!((sent.len(), sent.contains(held_up)), (2, false), "{held_up}: {sent:?}");
            lock(&follower.0).clear();
            assert_eq!(journal.seal_all().unwrap(), 0);
            assert_eq!(next(&journal).as_ref(), Some(held_up));
            assert_eq!(journal.stats().pending_points(), 0);
        }
    }

    #[tokio::test]
    async fn an_alert_in_a_closed_segment_is_told_until_it_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let alarms: StreamName = "alarms".parse().unwrap();
        let alert = crate::config::StreamConfig::of(Class::Alert);
        let config = Config { streams: vec![(alarms.clone(), alert)], ..Config::default() };
        let follower = Arc::new(Unsettled(Mutex::new(vec![alarms.clone()])));
        let journal = Journal::open_followed(folder.path(), config, follower).unwrap();
        journal.append(&alarms, &batch(5)).await.unwrap();
        let sealing = journal.clone();
        assert_eq!(tokio::task::spawn_blocking(move || sealing.seal_alerts()).await.unwrap().unwrap(), 1);
        // The first one may have been told before the segment was closed.
        for _ in 0..2 {
            tokio::time::timeout(Duration::from_secs(30), journal.alerted()).await.expect("it waits");
        }
    }

    #[test]
    fn a_segment_with_enough_points_does_not_wait_for_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let (many, few): (StreamName, StreamName) =
            ("data/many".parse().unwrap(), "data/few".parse().unwrap());
        let config =
            Config { segment_points: Some(10), segment_age: Duration::from_secs(3_600), ..Config::default() };
        let journal = Journal::open(folder.path(), config).unwrap();
        journal.append(&many, &batch(10)).wait().unwrap();
        journal.append(&few, &batch(9)).wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let next = loop {
            if let Some(next) = journal.next_batch(u64::MAX).unwrap() {
                break next;
            }
            assert!(Instant::now() < deadline, "it waits for its age");
            std::thread::yield_now();
        };
        assert_eq!((next.stream, next.points), (many, 10));
        assert_eq!(journal.next_batch(u64::MAX).unwrap(), None);
    }

    #[test]
    fn a_time_far_ahead_becomes_the_clocks_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), Config::default()).unwrap();
        let mut points = batch(3);
        let series = points.series("t", "v", []).unwrap();
        points.push(series, i64::MAX, Value::Integer(9)).unwrap();
        journal.append(&"data/a".parse().unwrap(), &points).wait().unwrap();
        journal.seal_all().unwrap();
        assert_eq!(journal.stats().future_times, 1);
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
