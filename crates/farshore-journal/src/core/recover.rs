//! Opening what is there: after a clean end, a crash, a power cut, on a medium that rots.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use farshore_series::PointBatch;
use farshore_trust::sealed::random_bytes;

use super::{Core, Kept, Keys, LOSSES, Loss, QUARANTINE, Sealed, Stream, segment_name};
use crate::clock::Now;
use crate::config::Config;
use crate::error::JournalError;
use crate::files::Files;
use crate::frame::{self, Found, Frames, Span};
use crate::stats::LossReason;
use crate::stream::StreamName;

/// What a batch's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchName {
    pub(crate) sequence: u64,
    pub(crate) span: Span,
    pub(crate) thinned: bool,
}

impl BatchName {
    pub(crate) fn to_text(self) -> String {
        format!(
            "{:016x}-{:x}-{:016x}-{:016x}-{}.batch",
            self.sequence,
            self.span.points,
            self.span.earliest_ns,
            self.span.latest_ns,
            if self.thinned { "t" } else { "p" }
        )
    }

    pub(crate) fn read(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".batch")?.split('-');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (sequence, points) = (number()?, u32::try_from(number()?).ok()?);
        let (earliest, latest) = (number()?, number()?);
        let thinned = match parts.next()? {
            "t" => true,
            "p" => false,
            _ => return None,
        };
        let span = Span { points, earliest_ns: earliest.cast_signed(), latest_ns: latest.cast_signed() };
        parts.next().is_none().then_some(Self { sequence, span, thinned })
    }
}

impl Core {
    /// Opens what is there. Damage is set aside and counted when its segment is sealed, and is never fatal.
    pub(crate) fn open(
        files: Arc<dyn Files>,
        config: Config,
        keys: Keys,
        boot: [u8; 16],
        now: Now,
    ) -> Result<Self, JournalError> {
        let io = |e| JournalError::io("make its folders", e);
        files.make_folder("streams").map_err(io)?;
        files.make_folder(QUARANTINE).map_err(io)?;
        files.sync_folder("").map_err(io)?;
        let epoch = epoch(&*files)?;
        let losses: StreamName = LOSSES.parse().map_err(|_| JournalError::Closed)?;
        let mut core = Self {
            files,
            config,
            keys: Arc::new(keys),
            epoch,
            boot,
            streams: BTreeMap::new(),
            losses,
            reported: HashSet::new(),
            syncs: 0,
            turns: super::send::Turns::default(),
            clock: None,
            last_asked: None,
            attempts: AtomicU64::new(0),
            clock_since: now,
            corrections: Vec::new(),
            rebased: 0,
        };
        let folders = core.files.folders("streams").map_err(|e| JournalError::io("list its streams", e))?;
        for folder in folders {
            let Some(name) = StreamName::of_folder(&folder) else { continue };
            let mut stream = Self::new_stream(&core.config, &core.losses, &name);
            core.recover(&mut stream)?;
            core.streams.insert(name, stream);
        }
        core.forget_finished();
        core.finish_removals(now)?;
        Ok(core)
    }

    fn recover(&mut self, stream: &mut Stream) -> Result<(), JournalError> {
        let io = |e| JournalError::io("read its segments", e);
        let mut segments: BTreeMap<u64, u64> = BTreeMap::new();
        for (name, bytes) in self.files.list(&stream.folder).map_err(io)? {
            let path = format!("{}/{name}", stream.folder);
            if let Some(batch) = BatchName::read(&name) {
                let kept = Kept::new(bytes, batch.span);
                let sealed = Sealed { name: path.clone(), kept, thinned: batch.thinned, in_flight: false };
                stream.next_sequence = stream.next_sequence.max(batch.sequence + 1);
                match stream.held.sealed().get(&batch.sequence) {
                    // A crash between writing the thinned one and removing the other.
                    Some(other) if other.thinned => self.files.remove(&path).map_err(io)?,
                    Some(other) => {
                        self.files.remove(&other.name).map_err(io)?;
                        stream.held.insert_sealed(batch.sequence, sealed);
                    }
                    None => {
                        stream.held.insert_sealed(batch.sequence, sealed);
                    }
                }
            } else if let Some(sequence) =
                name.strip_suffix(".open").and_then(|hex| u64::from_str_radix(hex, 16).ok())
            {
                segments.insert(sequence, bytes);
                stream.next_sequence = stream.next_sequence.max(sequence + 1);
            } else if name.ends_with(".new") {
                self.files.remove(&path).map_err(io)?;
            }
        }
        for (sequence, bytes) in segments {
            let path = segment_name(&stream.folder, sequence);
            if stream.held.sealed().contains_key(&sequence) {
                self.files.remove(&path).map_err(io)?;
                continue;
            }
            let content = self.files.read(&path, super::MAX_FILE_BYTES).map_err(io)?;
            let mut span = Span::EMPTY;
            let mut anything = false;
            let mut unknown_bytes = 0;
            for found in Frames::new(frame::after_head(&content)) {
                anything = true;
                unknown_bytes += found.unknown_bytes();
                match found {
                    // What is damaged counts until the segment is sealed and it is said to be lost.
                    Found::Frame(header, _) | Found::Damaged(header) | Found::Tail(Some(header), _) => {
                        span.add(header.span);
                    }
                    Found::Gap(_) | Found::Tail(None, _) => {}
                }
            }
            if anything {
                if stream.folder == format!("streams/{}", self.losses.folder()) {
                    self.read_losses(&content);
                }
                let written = bytes.saturating_sub(frame::blank_at_end(&content));
                stream.held.insert_closed(sequence, Kept { unknown_bytes, ..Kept::new(written, span) });
            } else if sequence + 1 == stream.next_sequence {
                stream.marker = Some(sequence);
            } else {
                self.files.remove(&path).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Losses whose files may still be there.
    fn read_losses(&mut self, content: &[u8]) {
        let Ok(opened) = frame::open(&self.keys.device, content) else { return };
        let mut batch = PointBatch::new();
        for rows in &opened.rows {
            // What cannot be read is counted when the segment is sealed.
            let _ = batch.read_rows(rows);
        }
        let known: Vec<_> = batch.points().filter_map(|(key, _, value)| Loss::known(key, value)).collect();
        self.reported.extend(known.into_iter().filter(|(_, _, reason)| *reason != LossReason::DropNewest));
    }

    /// Removes what is on record as gone and was left by a crash.
    pub(super) fn finish_removals(&mut self, now: Now) -> Result<(), JournalError> {
        let gone: Vec<(StreamName, u64)> = self
            .reported
            .iter()
            .filter(|(_, _, reason)| reason.whole_unit())
            .map(|(name, sequence, _)| (name.clone(), *sequence))
            .collect();
        for (name, sequence) in gone {
            let left = self.streams.get(&name).is_some_and(|stream| stream.held.contains(sequence));
            if left {
                self.forget(now, &name, sequence)?;
            }
            self.reported.retain(|(other, number, _)| *other != name || *number != sequence);
        }
        Ok(())
    }

    /// Of the losses on record, keeps those whose work a crash left unfinished.
    fn forget_finished(&mut self) {
        let streams = &self.streams;
        self.reported.retain(|(name, sequence, reason)| {
            let Some(stream) = streams.get(name) else { return false };
            let (closed, sealed) =
                (stream.held.closed().contains_key(sequence), stream.held.sealed().get(sequence));
            match reason {
                LossReason::DropOldest | LossReason::Expired => closed || sealed.is_some(),
                LossReason::Corrupt | LossReason::TornTail => closed,
                LossReason::Thinned => sealed.is_some_and(|sealed| !sealed.thinned),
                LossReason::Refused | LossReason::CorruptBatch => sealed.is_some(),
                LossReason::DropNewest => false,
            }
        });
    }

    /// Batches of a stream that are on record as lost and not gone yet.
    pub(super) fn going(&self, name: &StreamName) -> HashSet<u64> {
        self.reported
            .iter()
            .filter(|(other, _, reason)| other == name && reason.whole_unit())
            .map(|(_, sequence, _)| *sequence)
            .collect()
    }
}

/// What the file of the epoch says.
pub(crate) fn epoch_of(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok().and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
}

/// The journal's life: drawn once, when the folder is new.
pub(crate) fn epoch(files: &dyn Files) -> Result<u64, JournalError> {
    let io = |e| JournalError::io("read its epoch", e);
    let there = files.list("").map_err(io)?.iter().any(|(name, _)| name == "epoch");
    if there {
        let text = files.read("epoch", 64).map_err(io)?;
        if let Some(epoch) = epoch_of(&text) {
            return Ok(epoch);
        }
        // Damaged: a new life, under which nothing that was sent before can be taken for sent.
        files.remove("epoch").map_err(io)?;
    }
    let epoch = u64::from_le_bytes(random_bytes().map_err(JournalError::seal)?) >> 1;
    files.remove("epoch.new").map_err(io)?;
    let mut file = files.create("epoch.new").map_err(io)?;
    file.append(format!("{epoch:016x}\n").as_bytes()).map_err(io)?;
    file.sync().map_err(io)?;
    files.rename("epoch.new", "epoch").map_err(io)?;
    files.sync_folder("").map_err(io)?;
    Ok(epoch)
}
