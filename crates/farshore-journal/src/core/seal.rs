//! From a segment to a batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farshore_series::{Columns, PointBatch, encode_columns};
use farshore_trust::sealed::{BatchHeader, seal};

use super::recover::BatchName;
use super::{Core, Kept, Keys, Loss, QUARANTINE, Sealed, Stream, segment_name};
use crate::clock::Now;
use crate::error::JournalError;
use crate::files::Files;
use crate::frame::{self, Missing, Span};
use crate::stats::LossReason;
use crate::stream::StreamName;

/// A segment to be sealed; the work needs no lock.
#[derive(Debug)]
pub(crate) struct SealJob {
    stream: StreamName,
    folder: String,
    sequence: u64,
    class: u8,
    files: Arc<dyn Files>,
    keys: Arc<Keys>,
    epoch: u64,
    boot: [u8; 16],
    level: i32,
    /// Tells this attempt's file from that of another, which may be written at the same time.
    attempt: u64,
}

/// What became of it: a batch under a passing name, unless nothing could be read; and what could not.
#[derive(Debug)]
pub(crate) struct SealedSegment {
    batch: Option<(u64, Span)>,
    lost: Vec<Missing>,
    damaged: bool,
}

impl SealJob {
    pub(crate) fn stream(&self) -> &StreamName {
        &self.stream
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn passing_name(&self) -> String {
        format!("{}/{:016x}-{:x}.new", self.folder, self.sequence, self.attempt)
    }

    /// Reads the segment, puts it in columns, seals and writes it.
    pub(crate) fn run(&self, now: Now) -> Result<SealedSegment, JournalError> {
        let io = |e| JournalError::io("seal a segment", e);
        let content =
            self.files.read(&segment_name(&self.folder, self.sequence), super::MAX_FILE_BYTES).map_err(io)?;
        let opened = match frame::open(&self.keys.device, &content) {
            Ok(opened) => opened,
            // The head is gone: the frames' own heads say what was there.
            Err(lost) => {
                return Ok(SealedSegment { batch: None, lost: vec![lost], damaged: true });
            }
        };
        let mut points = PointBatch::new();
        let mut lost = opened.lost;
        let mut damaged = opened.damaged;
        for (rows, span) in opened.rows.iter().zip(&opened.spans) {
            let mut one = PointBatch::new();
            match one.read_rows(rows).map_err(|_| ()).and_then(|()| points.extend(&one).map_err(|_| ())) {
                Ok(()) => {}
                // Whole by its checksum and not to be read: written by a fault of ours. Set aside, said, and on.
                Err(()) => {
                    lost.push(Missing { reason: LossReason::Corrupt, span: *span, unknown_bytes: 0 });
                    damaged = true;
                }
            }
        }
        let Some((earliest_ns, latest_ns)) = points.span_ns() else {
            return Ok(SealedSegment { batch: None, lost, damaged });
        };
        let span = Span { points: u32::try_from(points.len()).unwrap_or(u32::MAX), earliest_ns, latest_ns };
        let contents = encode_columns(&Columns::of(&points), self.level).map_err(JournalError::encode)?;
        let bytes = self.write(now, &contents, span, false)?;
        Ok(SealedSegment { batch: Some((bytes, span)), lost, damaged })
    }

    /// Writes a batch under its passing name; durable, but not yet there.
    pub(super) fn write(
        &self,
        now: Now,
        contents: &[u8],
        span: Span,
        thinned: bool,
    ) -> Result<u64, JournalError> {
        let header = BatchHeader {
            class: self.class,
            thinned,
            epoch: self.epoch,
            sequence: self.sequence,
            points: span.points,
            earliest_ns: span.earliest_ns,
            latest_ns: span.latest_ns,
            boot: self.boot,
            sealed_wall_ns: now.wall_ns,
            sealed_mono_ns: now.mono_ns,
            stream: self.stream.as_str().to_owned(),
            for_device: self.keys.for_device,
            for_ingest: self.keys.for_ingest(),
        };
        let bytes = seal(&header, &self.keys.data, contents).map_err(JournalError::seal)?;
        let io = |e| JournalError::io("write a batch", e);
        let name = self.passing_name();
        self.files.remove(&name).map_err(io)?;
        let mut file = self.files.create(&name).map_err(io)?;
        if let Err(error) = file.append(&bytes).and_then(|()| file.sync()) {
            // Space is what may be missing.
            let _ = self.files.remove(&name);
            return Err(io(error));
        }
        Ok(bytes.len() as u64)
    }
}

impl Core {
    /// The next segment to seal, of streams that are not passed over: most urgent class first, oldest first.
    pub(crate) fn seal_job(&self, passed_over: &HashSet<StreamName>) -> Option<SealJob> {
        self.streams
            .iter()
            .filter(|(name, _)| !passed_over.contains(name))
            .filter_map(|(name, stream)| Some((stream.config.class, self.next_to_seal(name, stream)?, name)))
            .min()
            .and_then(|(_, sequence, name)| self.job(name, sequence))
    }

    /// The oldest segment of a stream that is closed and is to be sealed.
    pub(super) fn next_to_seal(&self, name: &StreamName, stream: &Stream) -> Option<u64> {
        if self.keeps_losses(name) {
            return None;
        }
        let going = self.going(name);
        stream.held.closed().keys().find(|sequence| !going.contains(sequence)).copied()
    }

    /// Losses whose work is not finished are needed where they are, in case of a crash.
    pub(super) fn keeps_losses(&self, name: &StreamName) -> bool {
        *name == self.losses && !self.reported.is_empty()
    }

    /// Seals one segment that is damaged, so that what can be read of it is kept and the rest is on record.
    pub(crate) fn seal_damaged(
        &mut self,
        now: Now,
        name: &StreamName,
        sequence: u64,
    ) -> Result<(), JournalError> {
        let Some(job) = self.job(name, sequence) else { return Ok(()) };
        let made = job.run(now)?;
        self.finish_seal(now, &job, made)
    }

    pub(super) fn job(&self, name: &StreamName, sequence: u64) -> Option<SealJob> {
        let stream = self.streams.get(name)?;
        Some(SealJob {
            stream: name.clone(),
            folder: stream.folder.clone(),
            sequence,
            class: stream.config.class as u8,
            files: Arc::clone(&self.files),
            keys: Arc::clone(&self.keys),
            epoch: self.epoch,
            boot: self.boot,
            level: self.config.zstd_level,
            attempt: self.attempts.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Puts what a job made in the segment's place.
    pub(crate) fn finish_seal(
        &mut self,
        now: Now,
        job: &SealJob,
        made: SealedSegment,
    ) -> Result<(), JournalError> {
        let io = |e| JournalError::io("put a batch in its place", e);
        let kept = self.streams.get(&job.stream).and_then(|stream| stream.held.closed().get(&job.sequence));
        let Some(kept) = kept.map(|kept| kept.span) else {
            // Dropped in the meantime.
            return self.files.remove(&job.passing_name()).map_err(io);
        };
        // Frames of which only zeros are left at the end of the segment are not seen by its reader.
        let told = made.lost.iter().map(|missing| missing.span).chain(made.batch.map(|(_, span)| span));
        let unseen = told.fold(kept.points, |left, span| left.saturating_sub(span.points));
        let unseen = (unseen > 0).then_some(Missing {
            reason: LossReason::Corrupt,
            span: Span { points: unseen, ..kept },
            unknown_bytes: 0,
        });
        let damaged = made.damaged || unseen.is_some();
        let losses: Vec<Loss> = made
            .lost
            .iter()
            .chain(&unseen)
            .map(|missing| {
                let mut span = missing.span;
                if span.points == 0 {
                    // Nobody knows when they were taken: no sooner than what is left of the segment, and before now.
                    let known = made.batch.map(|(_, span)| span.earliest_ns);
                    span.earliest_ns = known.unwrap_or(now.wall_ns).min(now.wall_ns);
                    span.latest_ns = now.wall_ns;
                }
                let loss = Loss::new(&job.stream, job.sequence, missing.reason, span);
                Loss { unknown_bytes: missing.unknown_bytes, ..loss }
            })
            .collect();
        self.report(now, &merge(losses))?;
        let Some(stream) = self.streams.get_mut(&job.stream) else { return Ok(()) };
        stream.keep_number(&*self.files, &self.keys, now, job.sequence)?;
        let segment = segment_name(&stream.folder, job.sequence);
        if let Some((bytes, span)) = made.batch {
            let name = BatchName { sequence: job.sequence, span, thinned: false }.to_text();
            let name = format!("{}/{name}", stream.folder);
            self.files.rename(&job.passing_name(), &name).map_err(io)?;
            self.files.sync_folder(&stream.folder).map_err(io)?;
            let sealed = Sealed { name, kept: Kept::new(bytes, span), thinned: false, in_flight: false };
            stream.held.insert_sealed(job.sequence, sealed);
        }
        stream.held.remove_closed(job.sequence);
        let mut aside = None;
        if damaged {
            let name = format!("{QUARANTINE}/{}-{:016x}.open", job.stream.folder(), job.sequence);
            self.files.rename(&segment, &name).map_err(io)?;
            aside = Some(name);
        } else {
            self.files.remove(&segment).map_err(io)?;
        }
        self.files.sync_folder(&stream.folder).map_err(io)?;
        if let Some(aside) = aside {
            self.trim_quarantine(&aside);
        }
        self.reported.retain(|(name, sequence, reason)| {
            *name != job.stream
                || *sequence != job.sequence
                || !matches!(reason, LossReason::Corrupt | LossReason::TornTail)
        });
        Ok(())
    }
}

/// One loss for each reason, so that what is on record can be told from what is not by stream, number and reason.
fn merge(losses: Vec<Loss>) -> Vec<Loss> {
    let mut merged: Vec<Loss> = Vec::new();
    for loss in losses {
        match merged.iter_mut().find(|other| other.reason == loss.reason) {
            Some(other) => {
                other.span.add(loss.span);
                other.unknown_bytes += loss.unknown_bytes;
            }
            None => merged.push(loss),
        }
    }
    merged
}
