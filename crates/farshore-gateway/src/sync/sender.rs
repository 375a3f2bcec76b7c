//! Sends what the journal has, as long as the gateway runs.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_journal::{Class, Journal, JournalError, Outgoing, PeerMark, StreamName};
use farshore_trust::sealed::{IngestPublicKey, random_bytes};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::metered::Metered;
use super::pace::{Backoff, Link, Throttle};
use super::turn::{LOOK_UP, Seen, Turn, turn};
use super::uplink::{ConfigSeen, DeviceConfig, ForcedSync, SyncAnswer, SyncRequest, Uplink, UplinkError};
use crate::clock;
use crate::config::SyncStrategy;
use crate::gateway::Shared;
use crate::status::SyncResult;

/// Batches under way at once, where the link has room for them: while one is stored, the next is on the link.
const LANES: usize = 2;
/// The control plane is told how the gateway stands at least this often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked for news under [`SyncStrategy::OnChange`].
const LOOK: Duration = Duration::from_millis(250);
/// What could not be sealed is looked at again after this long.
const UNSEALED: Duration = Duration::from_secs(5);
/// Whoever waits for an answer waits no longer for another attempt.
const ASKED_FOR: Duration = Duration::from_secs(2);
/// A longer name of an operation is none.
const MAX_OPERATION: usize = 64;
/// What came of pipelines that were given is told after this long.
const TELL: Duration = Duration::from_secs(3);
/// Alerts leave at once, and those of a flood together.
const BETWEEN_ALERTS: Duration = Duration::from_secs(1);
/// The tenant's key from the last exchange, in the journal's folder: what is sealed before the next one is sealed for it, too.
const INGEST_KEY_FILE: &str = "ingest.pub";

/// Somebody wants everything sent now, and to know what came of it.
pub(crate) type Forced = oneshot::Sender<SyncResult>;

/// Somebody who waits for that.
struct Waiting {
    asked: Forced,
    /// How many points had gone before.
    from: u64,
}

#[derive(Debug)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
    uplink: Arc<dyn Uplink>,
    backoff: Backoff,
    throttle: Throttle,
    link: Link,
    /// What has arrived was asked since the start and since the last failure.
    met: bool,
    reported: Option<Instant>,
    metered: Metered,
    /// When alerts were last sent before their time.
    hurried: Option<Instant>,
    key: Option<IngestPublicKey>,
    /// Ids of ingest keys that the control plane does not have.
    strange: HashSet<[u8; 8]>,
    /// Why the last round could not seal everything.
    unsealed: Option<String>,
    /// Pipelines were given, and what came of them was not told yet.
    given: bool,
    remote: Remote,
}

/// Syncs that the control plane asks for.
#[derive(Debug, Default)]
struct Remote {
    /// Asked for, and not begun.
    wanted: Option<String>,
    /// Under way.
    doing: Option<(String, oneshot::Receiver<SyncResult>)>,
    /// Done, and not told yet.
    done: Vec<ForcedSync>,
    /// The last that was told, so that it is not done again when the question crosses the answer.
    told: Option<String>,
}

impl Remote {
    /// Takes in what the control plane wants.
    fn hear(&mut self, wanted: Option<String>) {
        let Some(wanted) = wanted.filter(|name| name.len() <= MAX_OPERATION) else { return };
        let known = self.doing.as_ref().is_some_and(|(doing, _)| *doing == wanted)
            || self.done.iter().any(|done| done.operation == wanted)
            || self.told.as_ref() == Some(&wanted);
        if !known {
            self.wanted = Some(wanted);
        }
    }

    /// Something is wanted that can begin.
    fn waits(&self) -> bool {
        self.wanted.is_some() && self.doing.is_none()
    }

    /// Begins what is wanted: somebody more who waits.
    fn begin(&mut self) -> Option<Forced> {
        if self.doing.is_some() {
            return None;
        }
        let operation = self.wanted.take()?;
        tracing::info!(operation, "the control plane wants everything sent now");
        let (asked, answer) = oneshot::channel();
        self.doing = Some((operation, answer));
        Some(asked)
    }

    /// Takes what came of it. Whether there is something to tell.
    fn finish(&mut self) -> bool {
        if let Some((operation, mut answer)) = self.doing.take() {
            match answer.try_recv() {
                Ok(SyncResult { points_sent, points_pending, error, .. }) => {
                    self.done.push(ForcedSync { operation, points_sent, points_pending, error });
                }
                Err(_) => self.doing = Some((operation, answer)),
            }
        }
        !self.done.is_empty()
    }
}

/// Batches under way.
type Lanes = FuturesUnordered<Pin<Box<dyn Future<Output = Delivery> + Send>>>;

/// What came of a round.
struct Drained {
    points: u64,
    /// Nothing waits any more; otherwise somebody asked, and is to be heard first.
    whole: bool,
}

/// A batch, and what came of it.
struct Delivery {
    batch: Outgoing,
    took: Duration,
    result: Result<bool, UplinkError>,
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>, uplink: Arc<dyn Uplink>) -> Self {
        let throttle = Throttle::new(shared.config.sync_bytes_per_second);
        let config = &shared.config;
        let metered = Metered::read(&config.metered_interfaces, config.metered_zone.as_deref());
        let metered = metered.unwrap_or_else(|wrong| {
            // Of a program that did not ask: rather too little is sent than too much paid.
            tracing::error!(wrong, "which interfaces cost can't be read: all of them do");
            Metered::all()
        });
        Self {
            shared,
            uplink,
            backoff: Backoff::default(),
            throttle,
            link: Link::default(),
            met: false,
            reported: None,
            metered,
            hurried: None,
            key: None,
            strange: HashSet::new(),
            unsealed: None,
            remote: Remote::default(),
            given: false,
        }
    }

    /// Works until it is told to stop.
    pub(crate) async fn run(
        mut self,
        mut stopped: watch::Receiver<bool>,
        mut forced: mpsc::Receiver<Forced>,
    ) {
        let mut waiting: Vec<Waiting> = Vec::new();
        // Since the start: each who waits knows where it began.
        let (mut attempts, mut sent) = (0, 0);
        loop {
            let asked_for = !waiting.is_empty();
            if asked_for {
                // Whoever asks for it also wants to be told of, and to hear what is new.
                self.reported = None;
            }
            let seal = asked_for || self.shared.config.sync_strategy != SyncStrategy::Adaptive;
            let round = tokio::select! {
                // Whoever told it is gone: the gateway ends.
                _ = stopped.wait_for(|stop| *stop) => return,
                round = self.round(seal, asked_for, &forced) => round,
            };
            let (points, pause, failure) = match round {
                Ok(Drained { points, whole: false }) => {
                    self.backoff.reset();
                    (attempts, sent) = (0, sent + points);
                    let asked =
                        self.remote.begin().into_iter().chain(std::iter::from_fn(|| forced.try_recv().ok()));
                    waiting.extend(asked.map(|asked| Waiting { asked, from: sent }));
                    continue;
                }
                Ok(Drained { points, .. }) => {
                    self.backoff.reset();
                    // What is not sealed is not sent either, though nothing else went wrong.
                    let soon = self.unsealed.as_ref().map(|_| UNSEALED);
                    let tell = if self.given { TELL } else { Duration::MAX };
                    let pause = self.pause().min(soon.unwrap_or(Duration::MAX)).min(tell);
                    (points, pause, self.unsealed.clone().map(|why| (why, false)))
                }
                Err((points, error)) => {
                    (points, self.failed(&error), Some((error.to_string(), is_final(&error))))
                }
            };
            sent += points;
            attempts = if failure.is_some() { attempts + 1 } else { 0 };
            let answers = failure
                .as_ref()
                .is_none_or(|(_, last)| *last || attempts > self.shared.config.max_retry_attempts);
            if answers {
                self.answer(&mut waiting, sent, failure.as_ref().map(|(why, _)| why.clone()));
            }
            let tell = self.remote.finish();
            if let Some(asked) = self.remote.begin() {
                attempts = 0;
                waiting.push(Waiting { asked, from: sent });
                continue;
            }
            if tell && failure.is_none() {
                // By an exchange of its own, and once: what is told is no longer to be told.
                self.reported = None;
                continue;
            }
            let pause = if waiting.is_empty() { pause } else { pause.min(ASKED_FOR) };
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = self.rest(pause) => {}
                Some(asked) = forced.recv() => {
                    attempts = 0;
                    waiting.push(Waiting { asked, from: sent });
                }
            }
            while let Ok(asked) = forced.try_recv() {
                waiting.push(Waiting { asked, from: sent });
            }
        }
    }

    fn answer(&self, waiting: &mut Vec<Waiting>, sent: u64, error: Option<String>) {
        let points_pending = self.shared.journal.stats().pending_points();
        for Waiting { asked, from } in waiting.drain(..) {
            let points_sent = sent - from;
            let success = error.is_none();
            // Who asked may be gone.
            let _ = asked.send(SyncResult { success, points_sent, points_pending, error: error.clone() });
        }
    }

    /// Until the next round, when all goes well.
    fn pause(&self) -> Duration {
        let config = &self.shared.config;
        match config.sync_strategy {
            SyncStrategy::Adaptive => self.link.interval(config.sync_interval),
            SyncStrategy::FixedInterval => config.sync_interval,
            SyncStrategy::OnChange => REPORT_EVERY,
        }
    }

    /// The pause, or less where something new ends it.
    async fn rest(&mut self, pause: Duration) {
        let rest = tokio::time::sleep(pause);
        let strategy = self.shared.config.sync_strategy;
        // After a failure the pause is what it is, and an interval that was asked for is kept.
        if strategy == SyncStrategy::FixedInterval || !self.met {
            return rest.await;
        }
        let (journal, hurried) = (self.shared.journal.clone(), self.hurried);
        let costs = self.shared.sync.seen(0).costs.is_some();
        let alerts = async {
            if let Some(at) = hurried {
                tokio::time::sleep(BETWEEN_ALERTS.saturating_sub(at.elapsed())).await;
            }
            journal.alerted().await;
        };
        let news = async {
            if strategy != SyncStrategy::OnChange {
                return std::future::pending::<()>().await;
            }
            // While the link costs, readings are no news.
            while costs || journal.stats().pending_points() == 0 {
                tokio::time::sleep(LOOK).await;
            }
            // Readings come in company.
            tokio::time::sleep(LOOK).await;
        };
        tokio::select! {
            () = rest => {}
            () = news => {}
            () = alerts => self.hurried = Some(Instant::now()),
        }
    }

    fn failed(&mut self, error: &UplinkError) -> Duration {
        self.met = false;
        self.shared.journal.release_all();
        // Nobody was asked: there is no exchange that could have failed.
        if !matches!(error, UplinkError::Unclaimed(_)) {
            self.shared.counters.sync_failures.add(1);
        }
        self.link.failed();
        let asked = match error {
            UplinkError::Later { after, .. } => *after,
            _ => None,
        };
        let random = random_bytes::<8>().map_or(u64::MAX / 2, u64::from_le_bytes);
        let pause = self.backoff.next(random, asked);
        let why = error.to_string();
        // The same again and again is said once.
        if self.shared.sync.seen(0).last_error.as_ref() != Some(&why) {
            tracing::warn!(error = %why, retry_ms = pause.as_millis(), "readings are not sent and are kept here");
        }
        self.shared.sync.failed(why);
        pause
    }

    async fn seal(&mut self, what: fn(&Journal) -> Result<usize, JournalError>) {
        let unsealed = match self.on_disk(what).await {
            Ok(0) => None,
            Ok(streams) => Some(format!(
                "points of {streams} streams wait until processing has kept what it remembers of them"
            )),
            Err(error) => Some(error.to_string()),
        };
        // The same again and again is said once.
        if let Some(why) = unsealed.as_ref().filter(|_| unsealed != self.unsealed) {
            tracing::warn!(why, "not everything could be sealed; what is, is sent");
        }
        self.unsealed = unsealed;
    }

    /// Asks where it was if it has to, sends what waits, and says how it stands. How many points went, in either case.
    async fn round(
        &mut self,
        seal: bool,
        asked_for: bool,
        forced: &mpsc::Receiver<Forced>,
    ) -> Result<Drained, (u64, UplinkError)> {
        self.seal(if seal { Journal::seal_all } else { Journal::seal_alerts }).await;
        if !self.met {
            self.ask().await.map_err(|error| (0, error))?;
        }
        let drained = self.drain(asked_for, forced).await?;
        let due = self.reported.is_none_or(|at| at.elapsed() >= self.tell_every());
        if drained.points > 0 || due {
            self.ask().await.map_err(|error| (drained.points, error))?;
        }
        Ok(drained)
    }

    /// After how long the control plane is told again how the gateway stands.
    fn tell_every(&self) -> Duration {
        if self.given { TELL } else { REPORT_EVERY }
    }

    /// Whether only alerts go. Who asks for it has everything sent.
    fn costs(&self, asked_for: bool) -> bool {
        let costs = self.metered.now(clock::wall_ns());
        if self.shared.sync.costs(costs.clone()) {
            tracing::info!(
                interface = costs.as_deref().unwrap_or("none"),
                "only alerts are sent while the link costs money"
            );
        }
        costs.is_some() && !asked_for
    }

    /// Whether alerts wait that are not sealed, and those before were sealed long enough ago. What is not taken here ends the rest.
    fn alerted(&mut self) -> bool {
        let soon = self.hurried.is_some_and(|at| at.elapsed() < BETWEEN_ALERTS);
        if soon || self.shared.journal.alerted().now_or_never().is_none() {
            return false;
        }
        self.hurried = Some(Instant::now());
        true
    }

    async fn drain(
        &mut self,
        asked_for: bool,
        forced: &mpsc::Receiver<Forced>,
    ) -> Result<Drained, (u64, UplinkError)> {
        let (began, mut tried) = (Instant::now(), None);
        self.shared.sync.begins(clock::mono_ns());
        let mut drained = Drained { points: 0, whole: true };
        let mut seen = Seen::default();
        let mut failure = None;
        let mut lanes = Lanes::new();
        let mut bytes_under_way = 0;
        // Chosen, and waiting for the bandwidth.
        let mut held = None;
        loop {
            let mut pause = LOOK_UP;
            seen.told = self.reported.max(tried).unwrap_or(began).elapsed();
            seen.tell_every = self.tell_every();
            seen.asked = !forced.is_empty() || self.remote.waits();
            seen.alerts = seen.alerts || self.alerted();
            seen.costs = self.costs(asked_for);
            match turn(&seen) {
                _ if failure.is_some() => self.put_back(held.take()),
                Turn::Tell => {
                    tried = Some(Instant::now());
                    match self.tell(&mut lanes).await {
                        // A link that is full of batches fails with them, or not at all.
                        Err(error) if !lanes.is_empty() => {
                            tracing::info!(%error, "how the gateway stands could not be told; batches are still under way");
                        }
                        told => failure = told.err(),
                    }
                    continue;
                }
                Turn::Leave => {
                    drained.whole = false;
                    self.put_back(held.take());
                }
                Turn::Seal => {
                    self.seal(Journal::seal_alerts).await;
                    seen.alerts = false;
                    continue;
                }
                Turn::Send(classes) if lanes.len() < LANES => {
                    // Alerts, which are small, wait for no large batch.
                    let room = self.link.has_room(bytes_under_way);
                    held = self.choose(held, if room { classes } else { &[Class::Alert] }).await;
                    let now = clock::mono_ns();
                    pause = self.throttle.wait(now).min(LOOK_UP);
                    if pause.is_zero()
                        && let Some(next) = held.take()
                    {
                        self.throttle.take(now, next.bytes.len());
                        bytes_under_way += next.bytes.len();
                        lanes.push(Box::pin(deliver(Arc::clone(&self.uplink), next)));
                        seen.begun = true;
                        continue;
                    }
                }
                Turn::Send(_) => {}
            }
            if lanes.is_empty() && held.is_none() {
                break;
            }
            // With nothing chosen there is nothing that could go when the bandwidth is free.
            let pause = if held.is_some() { pause } else { LOOK_UP };
            tokio::select! {
                Some(delivery) = lanes.next() => {
                    bytes_under_way -= delivery.batch.bytes.len();
                    match self.settle(delivery).await {
                        Ok(sent) => drained.points += sent,
                        Err(error) => failure = failure.or(Some(error)),
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        match failure {
            None => Ok(drained),
            Some(error) => Err((drained.points, error)),
        }
    }

    /// The batch that goes next: alerts rather than one that was chosen before they came.
    async fn choose(&self, held: Option<Outgoing>, classes: &'static [Class]) -> Option<Outgoing> {
        let (held, classes): (_, &'static [Class]) = match held {
            Some(held) if !classes.contains(&held.class) => {
                self.put_back(Some(held));
                (None, classes)
            }
            Some(held) if held.class == Class::Alert => return Some(held),
            Some(held) => (Some(held), &[Class::Alert]),
            None => (None, classes),
        };
        match self.on_disk(|journal| journal.next_batch_of(u64::MAX, classes)).await {
            Ok(Some(next)) => {
                self.put_back(held);
                Some(self.for_this_key(next).await)
            }
            Ok(None) => held,
            Err(error) => {
                tracing::error!(%error, "a batch could not be read");
                held
            }
        }
    }

    fn put_back(&self, held: Option<Outgoing>) {
        if let Some(held) = held {
            self.shared.journal.release(&held.stream, held.sequence);
        }
    }

    /// Tells how the gateway stands, while batches are under way.
    async fn tell(&mut self, lanes: &mut Lanes) -> Result<(), UplinkError> {
        let mut landed = Vec::new();
        let told = {
            let mut told = pin!(self.ask());
            loop {
                tokio::select! {
                    told = &mut told => break told,
                    Some(delivery) = lanes.next() => landed.push(delivery),
                }
            }
        };
        for delivery in landed {
            lanes.push(Box::pin(std::future::ready(delivery)));
        }
        told
    }

    async fn settle(&mut self, delivery: Delivery) -> Result<u64, UplinkError> {
        let Delivery { batch, took, result } = delivery;
        self.link.tried(batch.bytes.len(), took, result.is_ok());
        let points = u64::from(batch.points);
        let (stream, sequence) = (batch.stream.clone(), batch.sequence);
        match result {
            Ok(_) => {
                let acknowledged = self.on_disk(move |journal| journal.acknowledge(&stream, sequence)).await;
                if let Err(error) = acknowledged {
                    // It is sent again, and known there.
                    tracing::error!(%error, "a batch that has arrived could not be removed");
                }
                self.link.took(took);
                let now = clock::mono_ns();
                self.shared.sync.sent(now, points, self.throttle.wait(now));
                self.shared.sync.went_well(clock::wall_ns());
                self.shared.counters.sync_success.add(1);
                Ok(points)
            }
            Err(UplinkError::BadBatch(why)) => {
                tracing::error!(%stream, sequence, why, "the control plane refused a batch for good: it is set aside");
                match self.on_disk(move |journal| journal.refuse(&stream, sequence)).await {
                    Ok(()) => self.shared.sync.refused(),
                    Err(error) => {
                        tracing::error!(%error, "a refused batch could not be set aside");
                        return Err(UplinkError::BadBatch(why));
                    }
                }
                Ok(0)
            }
            Err(UplinkError::OtherKey) => {
                self.shared.journal.release(&stream, sequence);
                let present = self.key.map(|key| key.id());
                match batch.sealed_for() {
                    // Once more, sealed for the key that it named.
                    Some(id) if Some(id) != present && self.strange.insert(id) => Ok(0),
                    _ => Err(UplinkError::OtherKey),
                }
            }
            Err(error) => {
                self.shared.journal.release(&stream, sequence);
                Err(error)
            }
        }
    }

    /// The batch as the control plane can open it. One that nobody can open, not even this device, goes as it is, to be refused and set aside.
    async fn for_this_key(&self, batch: Outgoing) -> Outgoing {
        let fits = batch.sealed_for().is_some_and(|id| !self.strange.contains(&id));
        if fits || self.key.is_none() {
            return batch;
        }
        let kept = batch.clone();
        match self.on_disk(move |journal| journal.reseal(batch)).await {
            Ok(resealed) => resealed,
            Err(error) => {
                tracing::error!(%error, stream = %kept.stream, "a batch could not be sealed again");
                kept
            }
        }
    }

    /// Says how the gateway stands and takes in what has arrived.
    async fn ask(&mut self) -> Result<(), UplinkError> {
        let stats = self.shared.journal.stats();
        let request = SyncRequest {
            epoch: format!("{:016x}", stats.epoch),
            report: self.shared.sync.report(clock::mono_ns(), &stats, self.shared.processing_report()),
            config: Some(ConfigSeen { pipelines: self.shared.delivered.seen() }),
            forced: self.remote.done.clone(),
        };
        let begun = Instant::now();
        let mut answer = self.uplink.ask(&request).await?;
        if let Some(last) = self.remote.done.drain(..).next_back() {
            self.remote.told = Some(last.operation);
        }
        self.remote.hear(answer.force_sync.take());
        self.link.took(begun.elapsed());
        if !self.met {
            tracing::info!(backlog_points = stats.pending_points(), "the control plane takes batches");
        }
        self.take_key(&answer)?;
        self.given = match answer.config.take() {
            Some(config) => self.take_config(config).await,
            None => false,
        };
        if !self.met {
            self.take_marks(answer).await?;
        }
        self.met = true;
        self.reported = Some(Instant::now());
        self.shared.sync.went_well(clock::wall_ns());
        self.shared.counters.sync_success.add(1);
        Ok(())
    }

    /// Takes what the control plane says is this device's. Whether there is something to be told of that.
    async fn take_config(&self, config: DeviceConfig) -> bool {
        let delivered = Arc::clone(&self.shared.delivered);
        let taken = tokio::task::spawn_blocking(move || delivered.take(config)).await;
        match taken {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what the control plane gave can't be kept, and is asked for again");
                false
            }
            Err(error) => {
                tracing::error!(%error, "what the control plane gave could not be taken");
                false
            }
        }
    }

    fn take_key(&mut self, answer: &SyncAnswer) -> Result<(), UplinkError> {
        let key = read_key(&answer.ingest_key.public_key)
            .ok_or_else(|| UplinkError::Answer("its ingest key is none".to_owned()))?;
        if self.key == Some(key) {
            return Ok(());
        }
        self.shared.journal.seal_for(&key).map_err(|error| UplinkError::Answer(error.to_string()))?;
        self.key = Some(key);
        if let Err(error) = keep_key(&self.shared.config.folder, &key) {
            // What is sealed before the next exchange after a restart will be sealed again.
            tracing::warn!(%error, "the tenant's ingest key could not be kept");
        }
        Ok(())
    }

    async fn take_marks(&self, answer: SyncAnswer) -> Result<(), UplinkError> {
        for mark in answer.streams {
            let stream: StreamName = mark
                .stream
                .parse()
                .map_err(|error: farshore_journal::StreamNameError| UplinkError::Answer(error.to_string()))?;
            let name = stream.clone();
            let taken = self.on_disk(move |journal| journal.peer_mark(&name, mark.floor, &mark.above)).await;
            match taken {
                Ok(PeerMark::Settled(0)) => {}
                Ok(PeerMark::Settled(batches)) => {
                    tracing::info!(%stream, batches, "batches had arrived whose acknowledgement had not");
                }
                Ok(PeerMark::Ahead) => {
                    tracing::warn!(%stream, "the control plane has batches that this journal never wrote: it was set back");
                }
                Err(error) => tracing::error!(%error, %stream, "what has arrived could not be removed"),
            }
        }
        Ok(())
    }

    /// Work on the journal that may wait for the disk.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = self.shared.journal.clone();
        match tokio::task::spawn_blocking(move || work(&journal)).await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "work on the journal broke off");
                Err(JournalError::Closed)
            }
        }
    }
}

fn is_final(error: &UplinkError) -> bool {
    matches!(error, UplinkError::Unclaimed(_) | UplinkError::NoSync | UplinkError::Refused(_))
}

async fn deliver(uplink: Arc<dyn Uplink>, batch: Outgoing) -> Delivery {
    let begun = Instant::now();
    let result = uplink.put(&batch).await;
    Delivery { batch, took: begun.elapsed(), result }
}

fn read_key(text: &str) -> Option<IngestPublicKey> {
    let text = text.trim();
    let byte = |at: usize| text.get(at * 2..at * 2 + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    let bytes: Vec<u8> = (text.len() == 64).then(|| (0..32).map_while(byte).collect())?;
    Some(IngestPublicKey::from_bytes(bytes.try_into().ok()?))
}

/// The tenant's key as the last exchange left it.
pub(crate) fn ingest_key_on_disk(folder: &Path) -> Option<IngestPublicKey> {
    read_key(&fs::read_to_string(folder.join(INGEST_KEY_FILE)).ok()?)
}

fn keep_key(folder: &Path, key: &IngestPublicKey) -> std::io::Result<()> {
    let passing = folder.join(format!("{INGEST_KEY_FILE}.new"));
    let mut file = fs::File::create(&passing)?;
    for byte in key.as_bytes() {
        write!(file, "{byte:02x}")?;
    }
    file.sync_all()?;
    fs::rename(&passing, folder.join(INGEST_KEY_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_on_disk_is_the_key_that_was_kept_or_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ingest_key_on_disk(folder.path()), None);
        let key = IngestPublicKey::from_bytes([0xa7; 32]);
        keep_key(folder.path(), &key).unwrap();
        assert_eq!(ingest_key_on_disk(folder.path()), Some(key));
        for bad in ["", "a7", &"a".repeat(63), &"x".repeat(64), &"é".repeat(32)] {
            fs::write(folder.path().join(INGEST_KEY_FILE), bad).unwrap();
            assert_eq!(ingest_key_on_disk(folder.path()), None, "{bad}");
        }
    }
}
