//! Between the journal and the engine: a thread that takes points when they are durable, in the order in which the journal has them, carries out
//! what comes of them, and keeps what the engine remembers.
//!
//! Nothing is counted twice after a crash: what is kept names the places in the journal up to which it counts; a segment is not sealed (and so not
//! sent) before what is kept counts all of it; and what was written since then is read back and not written again. What is done besides (a message,
//! a call) may be done again after a crash.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use farshore_domain::digest::Digest;
use farshore_journal::{Append, Follower, Journal, PointBatch, SeriesKey, StreamName, Value};
use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};

use super::definition::Definition;
use super::delivered::Delivered;
use super::engine::{Engine, EngineCounts, PipelineStatus};
use super::keep::{KeepError, Kept, Position, Positions, Recovery, StateFile, Written};
use super::output::{ALERTS, Alert, AlertState, Output};
use super::processor::{DataProcessor, Processing};
use super::series::Context;
use super::source::{Change, Origin, Source};
use super::step::Now;
use crate::clock;
use crate::ingest::lock;
use crate::mqtt::Hub;

/// Points that wait to be processed; beyond that, producers wait for their answers.
const MAX_WAITING: usize = 200_000;
/// How long what is remembered may fail to be kept before readings and alerts go on without it.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(5 * 60);
const TICK: Duration = Duration::from_secs(1);
/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// What was written after a crash is known by for so long; later nothing repeats any more.
const WRITTEN_FOR: Duration = Duration::from_secs(48 * 3600);
/// Appends of outputs that are under way.
const MAX_APPENDS: usize = 256;
/// Times that an output is offered to a journal that does not take it.
const MAX_OFFERS: u32 = 20;
/// Alerts that are shown.
const MAX_SHOWN: usize = 50;
/// Calls that wait.
pub(crate) const MAX_CALLS: usize = 256;

/// What is processed, and how far it is.
#[derive(Debug)]
pub(crate) struct Runner {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Told when something was kept, or will never be.
    kept: Condvar,
    /// Told when there is room for points again.
    room: Notify,
    engine: Mutex<Engine>,
    counts: Counts,
    shown: Mutex<Shown>,
    settings: Settings,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// A test lets the thread die so many places later.
    #[cfg(test)]
    pub(super) dies_at: std::sync::atomic::AtomicI64,
}

/// What processing is set up with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) folder: PathBuf,
    pub(crate) source: Source,
    pub(crate) processor: Option<Arc<dyn DataProcessor>>,
    pub(crate) max_series: usize,
    /// [`GIVE_UP_AFTER`], or less in a test.
    pub(crate) give_up_after: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    points: usize,
    /// Up to where the journal has told.
    told: Positions,
    /// Up to where what is kept counts.
    kept: Positions,
    /// There is something to process with. Without, nothing waits for this.
    active: bool,
    /// Somebody waits for what is remembered to be kept.
    keep: bool,
    /// What was in the journal before the start is counted, and that is kept.
    caught_up: bool,
    /// The thread is gone for good, or what is remembered can't be kept for long: what is read of the journal goes on without it.
    given_up: bool,
    /// Since when what is remembered can't be kept.
    failing: Option<Instant>,
    state: State,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum State {
    #[default]
    Working,
    Closing,
    Ended,
}

#[derive(Debug)]
struct Chunk {
    stream: StreamName,
    sequence: u64,
    points: Arc<PointBatch>,
}

#[derive(Debug, Default)]
struct Counts {
    raised: AtomicU64,
    cleared: AtomicU64,
    published: AtomicU64,
    calls: AtomicU64,
    calls_failed: AtomicU64,
    outputs: AtomicU64,
    outputs_lost: AtomicU64,
    again: AtomicU64,
    replayed: AtomicU64,
    reloads: AtomicU64,
}

#[derive(Debug, Default)]
struct Shown {
    alerts: VecDeque<Alert>,
    /// Why the newest pipelines are not taken.
    refused: Option<String>,
    /// Why what is remembered could not be kept.
    trouble: Option<String>,
}

/// Pipelines that the control plane gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigStatus {
    pub name: String,
    pub digest: Digest,
}

/// How processing stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProcessingStatus {
    /// Where the pipelines are from: `control-plane`, `file`, `aggregates`, `program` or `nothing`.
    pub source: &'static str,
    /// The file; nothing where the pipelines are not of one.
    pub file: Option<String>,
    /// Where the pipelines are of the control plane: of which of its configs, and the digest of their text.
    pub config: Option<ConfigStatus>,
    /// Why the newest pipelines are not taken; those before go on.
    pub refused: Option<String>,
    /// Why what is remembered can't be kept at present.
    pub trouble: Option<String>,
    /// Points that are durable and wait to be processed.
    pub backlog: u64,
    pub series: usize,
    #[serde(flatten)]
    pub engine: EngineCounts,
    /// Points that came too late to count, in all steps.
    pub late: u64,
    /// Points that were dropped: no room, no value, no plausible time.
    pub dropped: u64,
    pub alerts_raised: u64,
    pub alerts_cleared: u64,
    pub messages_published: u64,
    pub webhook_calls: u64,
    pub webhook_failures: u64,
    /// Points that pipelines wrote.
    pub points_written: u64,
    /// Points that pipelines made and the journal did not take.
    pub points_lost: u64,
    /// Points that were processed again after the last start, because what they had led to was not kept yet.
    pub points_replayed: u64,
    /// Outputs that were in the journal already when they were made again.
    pub outputs_known: u64,
    pub reloads: u64,
    pub pipelines: Vec<PipelineStatus>,
    /// The newest alerts, raised and ended.
    pub alerts: Vec<Alert>,
}

impl Runner {
    /// Without a definition it waits for one, and costs next to nothing until then.
    pub(crate) fn new(settings: Settings, definition: Option<&Definition>) -> Self {
        let context = settings.source.context();
        let active = definition.is_some() || settings.processor.is_some();
        let nothing = Definition::default();
        let engine = Engine::new(definition.unwrap_or(&nothing), context, settings.max_series);
        Self {
            queue: Mutex::new(Queue { active, ..Queue::default() }),
            wake: Condvar::new(),
            kept: Condvar::new(),
            room: Notify::new(),
            engine: Mutex::new(engine),
            counts: Counts::default(),
            shown: Mutex::default(),
            settings,
            thread: Mutex::default(),
            #[cfg(test)]
            dies_at: std::sync::atomic::AtomicI64::new(i64::MAX),
        }
    }

    /// Whether there is something to process with.
    pub(crate) fn is_active(&self) -> bool {
        lock(&self.queue).active
    }

    /// Begins to work, with what was remembered. Nothing is sealed before the points of before a crash are counted.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(
        self: &Arc<Self>,
        journal: Journal,
        hub: Arc<Hub>,
        calls: mpsc::Sender<(String, String)>,
        recovery: Recovery,
    ) -> std::io::Result<()> {
        let worker = Worker {
            runner: Arc::clone(self),
            file: StateFile::new(&self.settings.folder),
            epoch: recovery.epoch.unwrap_or_else(|| journal.stats().epoch),
            journal,
            hub,
            calls,
            positions: recovery.positions.clone(),
            written: Written::default(),
            under_way: VecDeque::new(),
            ticked: None,
            looked: None,
            began: Instant::now(),
            alerts: ALERTS.parse().ok(),
        };
        let thread =
            std::thread::Builder::new().name("pipeline".to_owned()).spawn(move || worker.work(recovery))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Processes what waits, keeps what is remembered and ends. Windows stay open: they go on with the next start.
    pub(crate) fn close(&self) {
        {
            let mut queue = lock(&self.queue);
            if queue.state != State::Ended {
                queue.state = State::Closing;
            }
        }
        self.wake.notify_all();
        if !self.ended() {
            tracing::error!("the thread of the pipelines ended with a panic");
        }
    }

    /// Waits for the thread; whether it ended in order.
    fn ended(&self) -> bool {
        let thread = lock(&self.thread).take();
        thread.is_none_or(|thread| thread.join().is_ok())
    }

    /// Waits while more points wait than may.
    pub(crate) async fn room(&self) {
        loop {
            let told = self.room.notified();
            {
                let queue = lock(&self.queue);
                if queue.points <= MAX_WAITING || queue.state == State::Ended {
                    return;
                }
            }
            told.await;
        }
    }

    pub(super) fn count_call(&self, failed: bool) {
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        self.counts.calls_failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// Nothing where there is nothing to process with, and nothing to be said of that.
    pub(crate) fn status(&self) -> Option<ProcessingStatus> {
        let origin = self.settings.source.origin();
        let given = self.settings.source.given().and_then(Delivered::refused);
        let refused = given.map(|refused| refused.why).or_else(|| lock(&self.shown).refused.clone());
        if !self.is_active() && refused.is_none() {
            return None;
        }
        let (pipelines, engine, series) = {
            let engine = lock(&self.engine);
            (engine.status(), engine.counts(), engine.series())
        };
        let steps = || pipelines.iter().flat_map(|pipeline| &pipeline.steps);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        let shown = lock(&self.shown);
        let program = self.settings.processor.is_some();
        let (source, file, config) = match origin {
            Origin::Nothing => (if program { "program" } else { "nothing" }, None, None),
            Origin::Aggregates => ("aggregates", None, None),
            Origin::File(file) => ("file", Some(file.display().to_string()), None),
            Origin::ControlPlane { from, digest } => {
                ("control-plane", None, Some(ConfigStatus { name: from, digest }))
            }
        };
        Some(ProcessingStatus {
            source,
            file,
            config,
            refused,
            trouble: shown.trouble.clone(),
            backlog: lock(&self.queue).points as u64,
            series,
            late: steps().map(|step| step.counts.late).sum(),
            dropped: engine.no_room
                + steps().map(|step| step.counts.no_room + step.counts.unknown).sum::<u64>(),
            engine,
            alerts_raised: get(&counts.raised),
            alerts_cleared: get(&counts.cleared),
            messages_published: get(&counts.published),
            webhook_calls: get(&counts.calls),
            webhook_failures: get(&counts.calls_failed),
            points_written: get(&counts.outputs),
            points_lost: get(&counts.outputs_lost),
            points_replayed: get(&counts.replayed),
            outputs_known: get(&counts.again),
            reloads: get(&counts.reloads),
            pipelines,
            alerts: shown.alerts.iter().rev().cloned().collect(),
        })
    }
}

impl Follower for Runner {
    fn committed(&self, stream: &StreamName, sequence: u64, points: Arc<PointBatch>) {
        let mut queue = lock(&self.queue);
        match queue.told.get_mut(stream) {
            Some(told) => told.advance(sequence, points.len() as u64),
            None => {
                let told = Position { sequence, points: points.len() as u64 };
                queue.told.insert(stream.clone(), told);
            }
        }
        if queue.state == State::Ended || !queue.active {
            return;
        }
        queue.points += points.len();
        queue.chunks.push_back(Chunk { stream: stream.clone(), sequence, points });
        drop(queue);
        self.wake.notify_one();
    }

    fn settled(&self, stream: &StreamName, sequence: u64, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = lock(&self.queue);
        loop {
            let covers = |position: Option<&Position>| match (position, queue.told.get(stream)) {
                (Some(kept), _) if kept.sequence > sequence => true,
                (Some(kept), Some(told)) if told.sequence == sequence => kept == told,
                // Nothing was told of it since the start: it was there before, and counted then.
                (_, Some(told)) => told.sequence < sequence,
                (_, None) => true,
            };
            if !queue.active || (queue.caught_up && covers(queue.kept.get(stream))) {
                return true;
            }
            // Also where nobody waits for it: once it can be kept again, it is.
            queue.keep = true;
            self.wake.notify_all();
            if queue.given_up {
                return true;
            }
            let now = Instant::now();
            if queue.state == State::Ended || now >= until {
                return false;
            }
            queue = self.kept.wait_timeout(queue, until - now).unwrap_or_else(PoisonError::into_inner).0;
            // It was tried and failed. Trying without a pause would only wear the disk.
            if queue.failing.is_some() && !queue.keep && !queue.given_up {
                return false;
            }
        }
    }
}

/// An output on its way into the journal.
#[derive(Debug)]
struct UnderWay {
    stream: StreamName,
    points: Arc<PointBatch>,
    append: Append,
    offers: u32,
}

/// What the thread has for itself.
#[derive(Debug)]
struct Worker {
    runner: Arc<Runner>,
    journal: Journal,
    hub: Arc<Hub>,
    calls: mpsc::Sender<(String, String)>,
    file: StateFile,
    epoch: u64,
    positions: Positions,
    written: Written,
    under_way: VecDeque<UnderWay>,
    ticked: Option<Instant>,
    looked: Option<Instant>,
    began: Instant,
    alerts: Option<StreamName>,
}

/// Whatever becomes of the thread, nobody waits for it for ever, and readings are kept and sent.
impl Drop for Worker {
    fn drop(&mut self) {
        // In tests, a thread that dies stands for a process that does.
        if std::thread::panicking() && !cfg!(test) {
            let trouble = "processing has stopped by a fault of its own, and begins anew when the gateway is started again";
            tracing::error!("{trouble}");
            lock(&self.runner.shown).trouble = Some(trouble.to_owned());
            lock(&self.runner.queue).given_up = self.file.remove().is_ok();
        }
        lock(&self.runner.queue).state = State::Ended;
        self.runner.kept.notify_all();
        self.runner.room.notify_waiters();
    }
}

fn now() -> Now {
    Now { wall_ns: clock::wall_ns(), mono_ns: clock::mono_ns() }
}

impl Worker {
    fn work(mut self, recovery: Recovery) {
        if self.runner.is_active() {
            self.recover(recovery);
        }
        loop {
            let (chunks, mut keep, closing) = self.next();
            for chunk in &chunks {
                self.process(&chunk.stream, chunk.sequence, &chunk.points, 0);
                let mut queue = lock(&self.runner.queue);
                queue.points -= chunk.points.len();
                drop(queue);
                self.runner.room.notify_waiters();
            }
            self.look_at_appends(false);
            // Readings that wait here are no silence.
            let caught_up = lock(&self.runner.queue).chunks.is_empty();
            if caught_up && self.ticked.is_none_or(|at| at.elapsed() >= TICK) {
                self.ticked = Some(Instant::now());
                let mut out = Vec::new();
                lock(&self.runner.engine).tick(now(), &mut out);
                // An alert that came of a silence does not come of the points again: what comes late would be judged otherwise after a crash.
                keep |= out.iter().any(|output| matches!(output, Output::Alert(_)));
                self.carry_out(out);
                self.look_for_changes();
                if self.began.elapsed() > WRITTEN_FOR {
                    self.written.clear();
                }
            }
            if (keep || (closing && chunks.is_empty())) && self.runner.is_active() {
                self.keep();
            }
            if closing && chunks.is_empty() {
                break;
            }
        }
    }

    /// A place at which a crash would leave the least or the most behind.
    fn place(&self) {
        #[cfg(test)]
        assert!(self.runner.dies_at.fetch_sub(1, Ordering::Relaxed) != 0, "the test lets it die here");
    }

    /// What is to be done next; waits for it.
    fn next(&self) -> (VecDeque<Chunk>, bool, bool) {
        let mut queue = lock(&self.runner.queue);
        let until =
            Instant::now() + if self.under_way.is_empty() { TICK } else { Duration::from_millis(100) };
        loop {
            let closing = queue.state == State::Closing;
            let now = Instant::now();
            if !queue.chunks.is_empty() || queue.keep || closing || now >= until {
                let keep = std::mem::take(&mut queue.keep);
                return (std::mem::take(&mut queue.chunks), keep, closing);
            }
            queue =
                self.runner.wake.wait_timeout(queue, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes over what was remembered, and counts what the journal has behind it.
    fn recover(&mut self, recovery: Recovery) {
        if let Some(why) = &recovery.fresh_because {
            tracing::warn!(why, "processing begins anew: what was remembered is not used");
        }
        self.written = recovery.written;
        lock(&self.runner.engine).load(&recovery.engine, now());
        if !recovery.unread.is_empty()
            && let Err(error) = self.file.begin_replay()
        {
            tracing::warn!(%error, "it can't be told that points are processed again");
        }
        let mut points = 0;
        for unread in &recovery.unread {
            points += unread.points.len() - unread.skip;
            self.process(&unread.stream, unread.sequence, &unread.points, unread.skip);
        }
        if points > 0 {
            self.runner.counts.replayed.store(points as u64, Ordering::Relaxed);
            tracing::info!(points, "points of before the start were processed again");
        }
        self.keep();
        if let Err(error) = self.file.end_replay() {
            tracing::warn!(%error, "it can't be told that points were processed again");
        }
    }

    fn process(&mut self, stream: &StreamName, sequence: u64, points: &PointBatch, skip: usize) {
        let mut out = Vec::new();
        let is_output = {
            let mut engine = lock(&self.runner.engine);
            let is_output = engine.writes(stream);
            if !is_output {
                engine.feed_from(stream, points, skip, now(), &mut out);
            }
            is_output
        };
        self.place();
        self.positions.entry(stream.clone()).or_default().advance(sequence, (points.len() - skip) as u64);
        if !is_output && let Some(processor) = self.runner.settings.processor.clone() {
            Processing::run(&*processor, points, skip, &mut out);
        }
        self.carry_out(out);
    }

    /// Does what came out: messages and calls first, they are waited for.
    fn carry_out(&mut self, out: Vec<Output>) {
        let counts = &self.runner.counts;
        let mut batches: BTreeMap<StreamName, PointBatch> = BTreeMap::new();
        for output in out {
            match output {
                Output::Publish { topic, payload } => {
                    counts.published.fetch_add(1, Ordering::Relaxed);
                    self.hub.publish(&topic, payload.as_bytes());
                }
                Output::Webhook { url, body } => {
                    if self.calls.try_send((url, body)).is_err() {
                        self.runner.count_call(true);
                    }
                }
                Output::Point { stream, series, at_ns, value } => {
                    Self::put(counts, &mut self.written, &mut batches, &stream, &series, at_ns, value);
                }
                Output::Alert(alert) => {
                    let counter =
                        if alert.state == AlertState::Raised { &counts.raised } else { &counts.cleared };
                    counter.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(rule = alert.rule, series = alert.series, state = ?alert.state, message = alert.message, "a local alert");
                    if let Some(stream) = &self.alerts {
                        match alert.points() {
                            Ok(points) => {
                                for (series, value) in points {
                                    Self::put(
                                        counts,
                                        &mut self.written,
                                        &mut batches,
                                        stream,
                                        &series,
                                        alert.at_ns,
                                        value,
                                    );
                                }
                            }
                            Err(error) => {
                                tracing::warn!(%error, "an alert can't be kept: its names are too long")
                            }
                        }
                    }
                    let mut shown = lock(&self.runner.shown);
                    while shown.alerts.len() >= MAX_SHOWN {
                        shown.alerts.pop_front();
                    }
                    shown.alerts.push_back(*alert);
                }
            }
        }
        for (stream, points) in batches {
            while self.under_way.len() >= MAX_APPENDS {
                self.look_at_appends(true);
            }
            let points = Arc::new(points);
            let append = self.journal.append_shared(None, &stream, &points);
            self.under_way.push_back(UnderWay { stream, points, append, offers: 1 });
            self.place();
        }
    }

    fn put(
        counts: &Counts,
        written: &mut Written,
        batches: &mut BTreeMap<StreamName, PointBatch>,
        stream: &StreamName,
        series: &SeriesKey,
        at_ns: i64,
        value: Value,
    ) {
        if written.take(stream, series, at_ns) {
            counts.again.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let batch = batches.entry(stream.clone()).or_default();
        match batch.series_of(series).and_then(|id| batch.push(id, at_ns, value)) {
            Ok(()) => drop(counts.outputs.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                counts.outputs_lost.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "a point of a pipeline can't be kept");
            }
        }
    }

    /// Settles outputs that have become durable, and offers those again that have not; `wait`: for the oldest at least.
    fn look_at_appends(&mut self, wait: bool) {
        let mut again = VecDeque::new();
        let mut wait = wait;
        while let Some(mut one) = self.under_way.pop_front() {
            let answer = if wait {
                wait = false;
                Some(one.append.wait())
            } else {
                match (&mut one.append).now_or_never() {
                    Some(answer) => Some(answer),
                    None => {
                        again.push_back(one);
                        continue;
                    }
                }
            };
            let Some(Err(error)) = answer else { continue };
            if one.offers >= MAX_OFFERS || matches!(error, farshore_journal::JournalError::Closed) {
                let points = one.points.len() as u64;
                self.runner.counts.outputs_lost.fetch_add(points, Ordering::Relaxed);
                tracing::warn!(%error, stream = %one.stream, points, "points of pipelines are lost");
                continue;
            }
            // The journal may have no room for a moment.
            std::thread::park_timeout(Duration::from_millis(20));
            let append = self.journal.append_shared(None, &one.stream, &one.points);
            let UnderWay { stream, points, offers, .. } = one;
            again.push_back(UnderWay { stream, points, append, offers: offers + 1 });
        }
        self.under_way = again;
    }

    /// Keeps what is remembered, when all that came of it is durable.
    fn keep(&mut self) {
        while !self.under_way.is_empty() {
            self.look_at_appends(true);
        }
        self.read_own();
        let (saved, outputs) = {
            let engine = lock(&self.runner.engine);
            (engine.save(), engine.outputs().to_vec())
        };
        let kept = Kept::new(self.epoch, &self.positions, &outputs, &self.written, saved);
        self.place();
        let result = self.file.write(&kept);
        self.place();
        {
            let mut queue = lock(&self.runner.queue);
            if result.is_ok() {
                queue.kept = self.positions.clone();
                queue.caught_up = true;
                (queue.failing, queue.given_up) = (None, false);
            } else if !queue.given_up {
                let since = *queue.failing.get_or_insert_with(Instant::now);
                // The old state must not stay: a later start would go on from it without what is sent until then.
                queue.given_up =
                    since.elapsed() >= self.runner.settings.give_up_after && self.file.remove().is_ok();
            }
        }
        self.say_trouble(result.as_ref().err());
        self.runner.kept.notify_all();
    }

    /// What the pipelines wrote has been counted by those who wrote it: it is read over, so that it is not taken for something that a crash left.
    fn read_own(&mut self) {
        let engine = lock(&self.runner.engine);
        let mut queue = lock(&self.runner.queue);
        let (own, others) =
            std::mem::take(&mut queue.chunks).into_iter().partition(|c| engine.writes(&c.stream));
        queue.chunks = others;
        let own: VecDeque<Chunk> = own;
        for chunk in own {
            queue.points -= chunk.points.len();
            let position = self.positions.entry(chunk.stream).or_default();
            position.advance(chunk.sequence, chunk.points.len() as u64);
        }
    }

    fn say_trouble(&self, error: Option<&KeepError>) {
        let given_up = lock(&self.runner.queue).given_up;
        let what_then = if given_up {
            "readings and alerts are sent without it; after a crash now, processing would begin anew"
        } else {
            "processing goes on; after a crash now, points would be counted from the last state that was kept"
        };
        let trouble = error.map(|error| format!("{error}; {what_then}"));
        let mut shown = lock(&self.runner.shown);
        if trouble.is_some() && trouble != shown.trouble {
            tracing::warn!(trouble, "what processing remembers is not kept");
        }
        shown.trouble = trouble;
    }

    /// Takes changed pipelines, when they are good, and what is newly known of the device.
    fn look_for_changes(&mut self) {
        let files = self.looked.is_none_or(|at| at.elapsed() >= LOOK);
        if files {
            self.looked = Some(Instant::now());
        }
        let runner = Arc::clone(&self.runner);
        let source = &runner.settings.source;
        match source.changed(files) {
            Ok(Change::Same) => {}
            Ok(Change::To(definition)) => {
                self.redefine(definition.as_ref());
                self.runner.counts.reloads.fetch_add(1, Ordering::Relaxed);
                lock(&self.runner.shown).refused = None;
                match definition {
                    Some(definition) => {
                        tracing::info!(pipelines = %definition, "the changed pipelines are taken");
                    }
                    None => tracing::info!("there are no pipelines any more"),
                }
            }
            Err(error) => {
                let mut shown = lock(&self.runner.shown);
                if shown.refused.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the changed pipelines are not taken; those before go on");
                }
                shown.refused = Some(error);
            }
        }
        if let Some(context) = source.changed_context(files) {
            self.set_context(context);
        }
    }

    /// Goes on by other pipelines, or by none.
    fn redefine(&mut self, definition: Option<&Definition>) {
        let nothing = Definition::default();
        {
            let mut engine = lock(&self.runner.engine);
            *engine = engine.redefined(definition.unwrap_or(&nothing), now());
        }
        let active = definition.is_some() || self.runner.settings.processor.is_some();
        let begins = {
            let mut queue = lock(&self.runner.queue);
            let was = std::mem::replace(&mut queue.active, active);
            if was && !active {
                *queue =
                    Queue { told: std::mem::take(&mut queue.told), state: queue.state, ..Queue::default() };
            }
            if active && !was {
                // What is in the journal already was there before there was anything to process with.
                for (stream, told) in &queue.told {
                    self.positions.insert(stream.clone(), *told);
                }
            }
            active && !was
        };
        if begins {
            self.keep();
        } else if !active {
            self.written.clear();
            self.runner.room.notify_waiters();
            self.runner.kept.notify_all();
            if let Err(error) = self.file.remove() {
                tracing::warn!(%error, "what processing remembered can't be removed");
            }
        }
    }

    fn set_context(&self, context: Context) {
        lock(&self.runner.engine).set_context(context);
    }
}

/// Calls local addresses, one after another, until it is told to stop and nothing waits.
pub(crate) async fn call_webhooks(
    runner: Arc<Runner>,
    mut calls: mpsc::Receiver<(String, String)>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let call = tokio::select! {
            biased;
            call = calls.recv() => call,
            _ = stop.changed() => break,
        };
        let Some((url, body)) = call else { break };
        let result = super::webhook::call(runner.settings.source.allow(), &url, body).await;
        runner.count_call(result.is_err());
        if let Err(error) = result {
            tracing::warn!(url, error, "a webhook was not taken");
        }
    }
}

/// A place for the state, and whether there is any: for [`crate::EdgeGateway`] that processes nothing.
pub(crate) fn forget(folder: &Path) {
    super::keep::forget(folder);
}
