//! The journal without threads: streams, their segments and batches, and what a group commit does to them.
//!
//! A stream is a folder. `SEQUENCE.open` is a segment: frames, appended. `SEQUENCE-POINTS-EARLIEST-LATEST-FORM.batch` is what
//! became of it when it was sealed; the name carries what an index would hold, so that opening a backlog of any size reads
//! folders, not files. A batch and its segment have the same number, so a crash between the two leaves no doubt: where both
//! are there, the segment goes. A number is never used twice: before the highest file of a stream goes, a higher one is there.

mod bounds;
mod held;
mod losses;
mod rebase;
mod recover;
mod seal;
mod send;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_series::{MAX_BATCH_SERIES, MAX_POINTS, PointBatch};
use farshore_trust::sealed::{
    DEVICE_WRAP_BYTES, DataKey, DeviceKey, INGEST_WRAP_BYTES, IngestPublicKey, SealError,
};

use self::held::Held;
pub(crate) use self::losses::Loss;
pub(crate) use self::recover::{BatchName, epoch, epoch_of};
pub use self::send::{Outgoing, PeerMark};
use crate::clock::Now;
use crate::config::{Class, Config, Durability, Overflow, StreamConfig};
use crate::error::JournalError;
use crate::files::{AppendFile, Files};
use crate::frame::{self, MAX_PAYLOAD_BYTES, Span};
use crate::stats::{LossReason, Stats, StreamStats};
use crate::stream::StreamName;

/// A segment that has enough points is sealed when it is so old.
const ENOUGH_AGE_NS: i64 = 1_000_000_000;
pub(crate) const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
/// The stream that says what was lost.
pub(crate) const LOSSES: &str = "journal/losses";
/// What the streams of the journal itself begin with.
const OF_JOURNAL: &str = "journal/";
pub(crate) const QUARANTINE: &str = "quarantine";

/// One append, encoded by its producer.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) stream: StreamName,
    pub(crate) bytes: Vec<u8>,
    pub(crate) span: Span,
    /// How many series its points are of.
    pub(crate) series: u32,
}

impl Rows {
    /// `None` when there are no points.
    pub(crate) fn of(stream: StreamName, points: &PointBatch) -> Option<Self> {
        let (earliest_ns, latest_ns) = points.span_ns()?;
        let mut bytes = Vec::new();
        points.write_rows(&mut bytes);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let span = Span { points: count(points.len()), earliest_ns, latest_ns };
        Some(Self { stream, bytes, span, series: count(points.series_count()) })
    }
}

/// What some appends come to.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: u64,
    points: u64,
    series: u64,
}

impl Size {
    fn add(&mut self, rows: Option<&Rows>) {
        let Some(rows) = rows else { return };
        self.bytes += rows.bytes.len() as u64;
        self.points += u64::from(rows.span.points);
        self.series += u64::from(rows.series);
    }

    fn fits(self, most: Self) -> bool {
        self.bytes <= most.bytes && self.points <= most.points && self.series <= most.series
    }
}

/// What encrypts, and for whom.
#[derive(Debug)]
pub(crate) struct Keys {
    device: DeviceKey,
    data: DataKey,
    for_device: [u8; DEVICE_WRAP_BYTES],
    for_ingest: Mutex<ForIngest>,
}

/// Which ingest key, and the data key for it.
type ForIngest = Option<([u8; 8], [u8; INGEST_WRAP_BYTES])>;

impl Keys {
    pub(crate) fn new(device: DeviceKey, ingest: Option<&IngestPublicKey>) -> Result<Self, SealError> {
        let data = DataKey::generate()?;
        let for_device = data.wrap_for_device(&device)?;
        let keys = Self { device, data, for_device, for_ingest: Mutex::default() };
        if let Some(ingest) = ingest {
            keys.seal_for(ingest)?;
        }
        Ok(keys)
    }

    /// Batches that are sealed from now on can be opened with this ingest key.
    pub(crate) fn seal_for(&self, ingest: &IngestPublicKey) -> Result<(), SealError> {
        let wrapped = (ingest.id(), self.data.wrap_for_ingest(ingest)?);
        *self.for_ingest.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrapped);
        Ok(())
    }

    fn for_ingest(&self) -> ForIngest {
        *self.for_ingest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Core {
    files: Arc<dyn Files>,
    config: Config,
    keys: Arc<Keys>,
    epoch: u64,
    boot: [u8; 16],
    streams: BTreeMap<StreamName, Stream>,
    losses: StreamName,
    /// Losses that are on record and whose files a crash may have left behind.
    reported: HashSet<(StreamName, u64, LossReason)>,
    syncs: u64,
    turns: send::Turns,
    /// Wall minus monotonic clock, and since when (monotonic) it has not moved.
    clock: Option<(i64, i64)>,
    last_asked: Option<i64>,
    attempts: AtomicU64,
    /// The clocks when the wall clock was last known to be set, as far as this journal knows.
    clock_since: Now,
    corrections: Vec<rebase::Correction>,
    /// Points whose times were set right.
    rebased: u64,
}

#[derive(Debug)]
struct Stream {
    config: StreamConfig,
    folder: String,
    open: Option<OpenSegment>,
    held: Held,
    /// An empty segment that only keeps its number from being used again.
    marker: Option<u64>,
    next_sequence: u64,
    appended: u64,
    lost: BTreeMap<LossReason, u64>,
    lost_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    span: Span,
    /// Of the bytes, those of damaged frames that nobody can count.
    unknown_bytes: u64,
}

impl Kept {
    fn new(bytes: u64, span: Span) -> Self {
        Self { bytes, span, unknown_bytes: 0 }
    }
}

#[derive(Debug, Clone)]
struct Sealed {
    name: String,
    kept: Kept,
    thinned: bool,
    in_flight: bool,
}

#[derive(Debug)]
struct OpenSegment {
    sequence: u64,
    file: Box<dyn AppendFile>,
    written: u64,
    frames: u64,
    nonce: [u8; 16],
    span: Span,
    /// At most so many: each append's own, added up.
    series: u64,
    opened_at: Now,
}

impl OpenSegment {
    /// The room that was taken ahead. Where it can't be given back, it goes with the segment.
    fn give_room_back(&mut self) {
        if let Err(error) = self.file.truncate(self.written) {
            tracing::debug!(%error, "a segment keeps its room until it is sealed");
        }
    }
}

/// The number in the name of a file that was set aside.
fn number_aside(name: &str) -> u64 {
    let digits = name.rsplit_once('-').map_or("", |(_, rest)| rest.split('.').next().unwrap_or_default());
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

fn segment_name(folder: &str, sequence: u64) -> String {
    format!("{folder}/{sequence:016x}.open")
}

impl Core {
    fn new_stream(config: &Config, losses: &StreamName, name: &StreamName) -> Stream {
        let config = if name == losses {
            StreamConfig { durability: Durability::Strict, ..StreamConfig::of(Class::Alert) }
        } else {
            config.stream(name).clone()
        };
        Stream {
            config,
            folder: format!("streams/{}", name.folder()),
            open: None,
            held: Held::default(),
            marker: None,
            next_sequence: 1,
            appended: 0,
            lost: BTreeMap::new(),
            lost_bytes: 0,
        }
    }

    /// Writes a group and makes it durable where its streams ask for that. One answer for each entry.
    pub(crate) fn commit(&mut self, now: Now, group: &[Rows]) -> Vec<Result<u64, JournalError>> {
        let mut answers: Vec<Result<u64, JournalError>> =
            group.iter().map(|_| Err(JournalError::Closed)).collect();
        let mut by_stream: BTreeMap<&StreamName, Vec<usize>> = BTreeMap::new();
        for (index, rows) in group.iter().enumerate() {
            by_stream.entry(&rows.stream).or_default().push(index);
        }
        for (name, entries) in by_stream {
            let mut rest = entries.as_slice();
            let most = self.most_of_a_frame(name);
            while !rest.is_empty() {
                let mut size = Size::default();
                let count = rest
                    .iter()
                    .take_while(|index| {
                        size.add(group.get(**index));
                        size.fits(most)
                    })
                    .count()
                    .max(1);
                let (taken, later) = rest.split_at(count);
                rest = later;
                let frame: Vec<&Rows> = taken.iter().filter_map(|index| group.get(*index)).collect();
                let answer = self.append(now, name, &frame);
                for index in taken {
                    if let Some(slot) = answers.get_mut(*index) {
                        *slot = answer.clone();
                    }
                }
            }
        }
        answers
    }

    /// About a segment's size, an eighth of what the stream keeps, and no more than one batch can hold: a group of appends that fit must not come to
    /// what does not.
    fn most_of_a_frame(&self, name: &StreamName) -> Size {
        let bounds = &self.config.stream(name).bounds;
        let bytes = self.config.segment_bytes.min(MAX_PAYLOAD_BYTES as u64).min(bounds.bytes / 8);
        Size { bytes, points: (bounds.points / 8).min(MAX_POINTS as u64), series: MAX_BATCH_SERIES as u64 }
    }

    fn append(&mut self, now: Now, name: &StreamName, entries: &[&Rows]) -> Result<u64, JournalError> {
        self.ensure_stream(name)?;
        let bytes = Vec::with_capacity(entries.iter().map(|rows| rows.bytes.len()).sum());
        let mut all = Rows { stream: name.clone(), bytes, span: Span::EMPTY, series: 0 };
        for rows in entries {
            all.bytes.extend_from_slice(&rows.bytes);
            all.span.add(rows.span);
            all.series += rows.series;
        }
        if all.bytes.len() > MAX_PAYLOAD_BYTES {
            return Err(JournalError::TooLarge { bytes: all.bytes.len(), max: MAX_PAYLOAD_BYTES });
        }
        if !self.make_room(now, name, all.bytes.len() as u64, u64::from(all.span.points))? {
            // Taken and thrown away, as the stream is set; never without saying so.
            let sequence = self.streams.get(name).map_or(0, |stream| stream.next_sequence);
            let loss = Loss::new(name, sequence, LossReason::DropNewest, all.span);
            self.report(now, &[loss])?;
            return Ok(0);
        }
        self.append_frame(now, &all)
    }

    fn ensure_stream(&mut self, name: &StreamName) -> Result<(), JournalError> {
        if self.streams.contains_key(name) {
            return Ok(());
        }
        // Those with settings of their own, and the journal's, are known beforehand: no producer's inventions keep them out.
        let invented = |name: &StreamName| !self.config.names(name) && !name.as_str().starts_with(OF_JOURNAL);
        let others = || self.streams.keys().filter(|other| invented(other)).count();
        if invented(name) && others() >= self.config.max_streams {
            return Err(JournalError::TooManyStreams { stream: name.clone(), max: self.config.max_streams });
        }
        let stream = Self::new_stream(&self.config, &self.losses, name);
        let io = |e| JournalError::io("make a stream's folder", e);
        self.files.make_folder(&stream.folder).map_err(io)?;
        self.files.sync_folder("streams").map_err(io)?;
        self.streams.insert(name.clone(), stream);
        Ok(())
    }

    fn append_frame(&mut self, now: Now, rows: &Rows) -> Result<u64, JournalError> {
        let (name, span) = (&rows.stream, rows.span);
        let age = self.closing_age(now);
        let Some(stream) = self.streams.get_mut(name) else { return Err(JournalError::Closed) };
        if *name != self.losses || self.reported.is_empty() {
            stream.close_if_done(&self.config, now, age);
            stream.close_if_full(rows);
        }
        let mut open = match stream.open.take() {
            Some(open) => open,
            None => stream.begin(&*self.files, &self.keys, now)?,
        };
        let bytes = frame::seal(&self.keys.data, &open.nonce, open.frames, span, &rows.bytes)
            .map_err(JournalError::seal)?;
        if let Err(error) = open.file.append(&bytes) {
            let error = JournalError::io("write a segment", error);
            // What was there stays; what was half written goes, now or when the segment is read.
            match open.file.truncate(open.written) {
                Ok(()) => stream.open = Some(open),
                Err(_) => stream.close(open),
            }
            return Err(error);
        }
        if stream.config.durability.is_durable() {
            self.syncs += 1;
            if let Err(error) = open.file.sync() {
                // The kernel may have thrown the pages away and forgotten it: this file takes no more.
                let _ = open.file.truncate(open.written);
                stream.close(open);
                return Err(JournalError::io("make a segment durable", error));
            }
        }
        open.written += bytes.len() as u64;
        open.frames += 1;
        open.span.add(span);
        open.series += u64::from(rows.series);
        stream.appended += u64::from(span.points);
        let sequence = open.sequence;
        stream.open = Some(open);
        Ok(sequence)
    }

    /// A segment is sealed by age sooner while somebody fetches batches: offline, larger ones compress better.
    fn closing_age(&self, now: Now) -> i64 {
        let online = self.last_asked.is_some_and(|asked| now.mono_ns.saturating_sub(asked) < 60_000_000_000);
        let age = i64::try_from(self.config.segment_age.as_nanos()).unwrap_or(i64::MAX);
        if online { age } else { age.saturating_mul(30) }
    }

    /// Closes segments that are old, and lets go what is older than its stream keeps. To be called every second or so.
    pub(crate) fn maintain(&mut self, now: Now) {
        let age = self.closing_age(now);
        self.watch_clock(now);
        if let Err(error) = self.finish_removals(now) {
            tracing::warn!(%error, "what is to go stays for now");
        }
        for (name, stream) in &mut self.streams {
            if *name != self.losses || self.reported.is_empty() {
                stream.close_if_done(&self.config, now, age);
            }
        }
        self.expire(now);
    }

    /// Closes all segments, whatever their age: before a transfer, or at the end.
    pub(crate) fn close_segments(&mut self) {
        self.close_segments_of(&Class::ALL);
    }

    /// The same for the streams of these classes.
    pub(crate) fn close_segments_of(&mut self, classes: &[Class]) {
        for (name, stream) in &mut self.streams {
            if *name == self.losses && !self.reported.is_empty() || !classes.contains(&stream.config.class) {
                continue;
            }
            if let Some(open) = stream.open.take() {
                if open.span.points > 0 { stream.close(open) } else { stream.open = Some(open) }
            }
        }
    }

    /// At an orderly end: nothing is appended any more.
    pub(crate) fn give_room_back(&mut self) {
        self.streams
            .values_mut()
            .filter_map(|stream| stream.open.as_mut())
            .for_each(OpenSegment::give_room_back);
    }

    /// Whether points of an alert wait that are not sealed, be their segment closed or not.
    pub(crate) fn has_open_alerts(&self) -> bool {
        self.streams.iter().any(|(name, stream)| {
            let growing = stream.growing().is_some() && !self.keeps_losses(name);
            stream.config.class == Class::Alert && (growing || self.next_to_seal(name, stream).is_some())
        })
    }

    /// Lets the oldest of what was set aside go, as far as there is more than fits. Each was told as a loss when it was set aside; what goes here is
    /// the copy to look at.
    pub(super) fn trim_quarantine(&self, newest: &str) {
        let trim = || -> std::io::Result<()> {
            let mut files = self.files.list(QUARANTINE)?;
            let mut total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
            // By number: within a stream, that is the order in which they came.
            files.sort_by(|(a, _), (b, _)| number_aside(a).cmp(&number_aside(b)).then(a.cmp(b)));
            for (name, bytes) in files {
                if total <= self.config.quarantine_bytes {
                    break;
                }
                let path = format!("{QUARANTINE}/{name}");
                // The last one stays, however large it is.
                if path != newest {
                    self.files.remove(&path)?;
                    total -= bytes;
                    tracing::warn!(file = name, bytes, "what was set aside is too much: the oldest went");
                }
            }
            Ok(())
        };
        if let Err(error) = trim() {
            tracing::warn!(%error, "what was set aside could not be looked through");
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let streams: BTreeMap<_, _> =
            self.streams.iter().map(|(name, stream)| (name.clone(), stream.stats())).collect();
        let bytes = streams.values().map(|stream| stream.pending_bytes).sum();
        Stats { streams, bytes, syncs: self.syncs, future_times: 0, rebased: self.rebased, epoch: self.epoch }
    }
}

impl Stream {
    fn begin(&mut self, files: &dyn Files, keys: &Keys, now: Now) -> Result<OpenSegment, JournalError> {
        let sequence = self.next_sequence;
        let io = |e| JournalError::io("begin a segment", e);
        let name = segment_name(&self.folder, sequence);
        // A failed attempt may have left one.
        files.remove(&name).map_err(io)?;
        let mut file = files.create(&name).map_err(io)?;
        let nonce = farshore_trust::sealed::random_bytes().map_err(JournalError::seal)?;
        let head = frame::segment_head(&keys.for_device, &nonce);
        file.append(&head).map_err(io)?;
        file.sync().map_err(io)?;
        files.sync_folder(&self.folder).map_err(io)?;
        self.next_sequence += 1;
        if let Some(marker) = self.marker.take() {
            files.remove(&segment_name(&self.folder, marker)).map_err(io)?;
        }
        file.take_room();
        let written = head.len() as u64;
        Ok(OpenSegment {
            sequence,
            file,
            written,
            frames: 0,
            nonce,
            span: Span::EMPTY,
            series: 0,
            opened_at: now,
        })
    }

    fn close_if_done(&mut self, config: &Config, now: Now, age: i64) {
        if let Some(open) = self.open.take() {
            let lived = now.mono_ns.saturating_sub(open.opened_at.mono_ns);
            let enough = config.segment_points.is_some_and(|points| open.span.points >= points);
            let old = lived >= age || enough && lived >= ENOUGH_AGE_NS;
            // What goes when bounds are reached, goes in whole segments: they are small where bounds are.
            let bounds = &self.config.bounds;
            let large = open.written >= config.segment_bytes.min(bounds.bytes / 8)
                || u64::from(open.span.points) >= bounds.points / 8;
            if open.span.points > 0 && (large || old) {
                self.close(open);
            } else {
                self.open = Some(open);
            }
        }
    }

    /// A segment becomes one batch: what comes must fit into it as well.
    fn close_if_full(&mut self, rows: &Rows) {
        let full = self.open.take_if(|open| {
            let points = u64::from(open.span.points) + u64::from(rows.span.points);
            points > MAX_POINTS as u64 || open.series + u64::from(rows.series) > MAX_BATCH_SERIES as u64
        });
        if let Some(full) = full {
            self.close(full);
        }
    }

    fn close(&mut self, mut open: OpenSegment) {
        open.give_room_back();
        self.held.insert_closed(open.sequence, Kept::new(open.written, open.span));
    }

    /// Makes sure that the highest number stays on disk when everything below goes.
    fn keep_number(
        &mut self,
        files: &dyn Files,
        keys: &Keys,
        now: Now,
        going: u64,
    ) -> Result<(), JournalError> {
        if self.open.is_none() && going + 1 == self.next_sequence {
            let open = self.begin(files, keys, now)?;
            self.open = Some(open);
        }
        Ok(())
    }

    /// The open segment, where it holds points.
    fn growing(&self) -> Option<Kept> {
        let open = self.open.as_ref().filter(|open| open.span.points > 0);
        open.map(|open| Kept::new(open.written, open.span))
    }

    fn bytes(&self) -> u64 {
        self.held.bytes() + self.growing().map_or(0, |kept| kept.bytes)
    }

    fn points(&self) -> u64 {
        self.held.points() + self.growing().map_or(0, |kept| u64::from(kept.span.points))
    }

    fn stats(&self) -> StreamStats {
        let growing = self.growing();
        let oldest = self.held.oldest_ns().into_iter().chain(growing.map(|kept| kept.span.earliest_ns));
        StreamStats {
            class: self.config.class,
            appended: self.appended,
            pending_points: self.points(),
            pending_bytes: self.bytes(),
            pending_batches: self.held.count() + u64::from(growing.is_some()),
            oldest_ns: oldest.min(),
            next_sequence: self.next_sequence,
            lost: self.lost.clone(),
            lost_bytes: self.lost_bytes,
        }
    }
}
