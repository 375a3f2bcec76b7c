//! The journal without threads: streams, their segments, and what a group commit does to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Now;
use crate::config::{Config, StreamConfig};
use crate::error::JournalError;
use crate::files::{AppendFile, Files};
use crate::frame::{self, Found, Frames, MAX_PAYLOAD_BYTES, Span};
use crate::stats::{LossReason, Stats, StreamStats};
use crate::stream::StreamName;

const MAX_SEGMENT_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// One append, encoded by its producer.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) stream: StreamName,
    pub(crate) bytes: Vec<u8>,
    pub(crate) span: Span,
}

#[derive(Debug)]
pub(crate) struct Core {
    files: Arc<dyn Files>,
    config: Config,
    streams: BTreeMap<StreamName, Stream>,
    syncs: u64,
}

#[derive(Debug)]
struct Stream {
    config: StreamConfig,
    folder: String,
    open: Option<OpenSegment>,
    /// Segments that take no more, by sequence.
    closed: BTreeMap<u64, Kept>,
    next_sequence: u64,
    appended: u64,
    lost: BTreeMap<LossReason, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    bytes: u64,
    span: Span,
}

#[derive(Debug)]
struct OpenSegment {
    sequence: u64,
    file: Box<dyn AppendFile>,
    /// Bytes that are written, and of these, bytes that are known to be good.
    written: u64,
    frames: u64,
    span: Span,
    opened_at: Now,
}

fn segment_name(folder: &str, sequence: u64) -> String {
    format!("{folder}/{sequence:016x}.open")
}

impl Core {
    /// Opens what is there. Damaged frames are counted, not fatal.
    pub(crate) fn open(files: Arc<dyn Files>, config: Config) -> Result<Self, JournalError> {
        files.make_folder("streams").map_err(|e| JournalError::io("make its folder", e))?;
        let mut core = Self { files, config, streams: BTreeMap::new(), syncs: 0 };
        for folder in core.files.folders("streams").map_err(|e| JournalError::io("list its streams", e))? {
            let Some(name) = StreamName::of_folder(&folder) else { continue };
            let mut stream = core.new_stream(&name);
            core.recover(&mut stream)?;
            core.streams.insert(name, stream);
        }
        Ok(core)
    }

    fn new_stream(&self, name: &StreamName) -> Stream {
        Stream {
            config: self.config.stream(name).clone(),
            folder: format!("streams/{}", name.folder()),
            open: None,
            closed: BTreeMap::new(),
            next_sequence: 1,
            appended: 0,
            lost: BTreeMap::new(),
        }
    }

    fn recover(&self, stream: &mut Stream) -> Result<(), JournalError> {
        let io = |e| JournalError::io("read its segments", e);
        for (name, bytes) in self.files.list(&stream.folder).map_err(io)? {
            let Some(sequence) = name.strip_suffix(".open").and_then(|hex| u64::from_str_radix(hex, 16).ok())
            else {
                continue;
            };
            let content = self
                .files
                .read(&segment_name(&stream.folder, sequence), MAX_SEGMENT_FILE_BYTES)
                .map_err(io)?;
            let mut span = Span::EMPTY;
            for found in Frames::new(&content) {
                match found {
                    Found::Frame(header, _) => span.add(header.span),
                    Found::Damaged(header) => {
                        *stream.lost.entry(LossReason::Corrupt).or_default() += u64::from(header.span.points);
                    }
                    Found::Gap | Found::Tail { .. } => {}
                }
            }
            stream.closed.insert(sequence, Kept { bytes, span });
            stream.next_sequence = stream.next_sequence.max(sequence + 1);
        }
        Ok(())
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
            while !rest.is_empty() {
                // As many as make one frame.
                let mut bytes = 0;
                let count = rest
                    .iter()
                    .take_while(|index| {
                        bytes += group.get(**index).map_or(0, |rows| rows.bytes.len());
                        bytes <= MAX_PAYLOAD_BYTES
                    })
                    .count()
                    .max(1);
                let (taken, later) = rest.split_at(count);
                rest = later;
                let frame: Vec<&Rows> = taken.iter().filter_map(|index| group.get(*index)).collect();
                let answer = self.append_frame(now, name, &frame);
                for index in taken {
                    if let Some(slot) = answers.get_mut(*index) {
                        *slot = answer.clone();
                    }
                }
            }
        }
        answers
    }

    fn append_frame(&mut self, now: Now, name: &StreamName, entries: &[&Rows]) -> Result<u64, JournalError> {
        if !self.streams.contains_key(name) {
            if self.streams.len() >= self.config.max_streams {
                return Err(JournalError::TooManyStreams {
                    stream: name.clone(),
                    max: self.config.max_streams,
                });
            }
            let stream = self.new_stream(name);
            let io = |e| JournalError::io("make a stream's folder", e);
            self.files.make_folder(&stream.folder).map_err(io)?;
            self.files.sync_folder("streams").map_err(io)?;
            self.streams.insert(name.clone(), stream);
        }
        let Some(stream) = self.streams.get_mut(name) else { return Err(JournalError::Closed) };
        let mut payload = Vec::with_capacity(entries.iter().map(|rows| rows.bytes.len()).sum());
        let mut span = Span::EMPTY;
        for rows in entries {
            payload.extend_from_slice(&rows.bytes);
            span.add(rows.span);
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(JournalError::TooLarge { bytes: payload.len(), max: MAX_PAYLOAD_BYTES });
        }
        stream.close_if_old(&self.config, now);
        let mut open = match stream.open.take() {
            Some(open) => open,
            None => stream.begin(&*self.files, now)?,
        };
        let header = frame::header(open.frames, span, &payload);
        let mut bytes = Vec::with_capacity(header.len() + payload.len());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(&payload);
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
                // The kernel may have thrown the pages away and forgotten: this file takes no more.
                let _ = open.file.truncate(open.written);
                stream.close(open);
                return Err(JournalError::io("make a segment durable", error));
            }
        }
        open.written += bytes.len() as u64;
        open.frames += 1;
        open.span.add(span);
        stream.appended += u64::from(span.points);
        let sequence = open.sequence;
        stream.open = Some(open);
        Ok(sequence)
    }

    pub(crate) fn stats(&self) -> Stats {
        let streams: BTreeMap<_, _> =
            self.streams.iter().map(|(name, stream)| (name.clone(), stream.stats())).collect();
        let bytes = streams.values().map(|stream| stream.pending_bytes).sum();
        Stats { streams, bytes, syncs: self.syncs }
    }
}

impl Stream {
    fn begin(&mut self, files: &dyn Files, now: Now) -> Result<OpenSegment, JournalError> {
        let sequence = self.next_sequence;
        let name = segment_name(&self.folder, sequence);
        let io = |e| JournalError::io("begin a segment", e);
        let file = files.create(&name).map_err(io)?;
        // Counted as used whatever comes: a number is never given twice.
        self.next_sequence += 1;
        files.sync_folder(&self.folder).map_err(io)?;
        Ok(OpenSegment { sequence, file, written: 0, frames: 0, span: Span::EMPTY, opened_at: now })
    }

    fn close_if_old(&mut self, config: &Config, now: Now) {
        let age = i64::try_from(config.segment_age.as_nanos()).unwrap_or(i64::MAX);
        if let Some(open) = self.open.take() {
            let old = now.mono_ns.saturating_sub(open.opened_at.mono_ns) >= age;
            if open.written >= config.segment_bytes || (old && open.written > 0) {
                self.close(open);
            } else {
                self.open = Some(open);
            }
        }
    }

    fn close(&mut self, open: OpenSegment) {
        self.closed.insert(open.sequence, Kept { bytes: open.written, span: open.span });
    }

    fn stats(&self) -> StreamStats {
        let open = self.open.as_ref().map(|open| Kept { bytes: open.written, span: open.span });
        let mut stats = StreamStats {
            class: self.config.class,
            appended: self.appended,
            pending_points: 0,
            pending_bytes: 0,
            pending_batches: 0,
            oldest_ns: None,
            next_sequence: self.next_sequence,
            lost: self.lost.clone(),
        };
        for kept in self.closed.values().chain(open.as_ref()) {
            stats.pending_points += u64::from(kept.span.points);
            stats.pending_bytes += kept.bytes;
            stats.pending_batches += 1;
            if kept.span.points > 0 {
                let earliest = kept.span.earliest_ns;
                stats.oldest_ns = Some(stats.oldest_ns.map_or(earliest, |oldest| oldest.min(earliest)));
            }
        }
        stats
    }
}
