//! When the clock turns out to have been wrong.
//!
//! A device without a battery boots in 1970, or at the last time its filesystem knew, and gets the right time minutes later. Points that it stamped
//! until then say wrong times. The jump of the wall clock against the clock that never goes back tells by how much: points that say they were taken **while
//! the wrong clock ran, by that clock**, are moved by the jump, once; others came with a time of their own and stay. Nothing is moved when the
//! two cannot be told apart: the jump is short, or shorter than the clock had been wrong.

use std::collections::HashSet;

use farshore_series::{Columns, PointBatch, Value, encode_columns};
use farshore_trust::sealed::Batch;

use super::recover::BatchName;
use super::{Core, Kept, Rows, Sealed};
use crate::clock::Now;
use crate::error::JournalError;
use crate::frame::Span;
use crate::rest::points_of;
use crate::stream::StreamName;

/// The stream that says how the clock was corrected.
pub(crate) const CLOCK: &str = "journal/clock";
/// A shorter jump is a correction as they happen every day.
const JUMP_NS: i64 = 600_000_000_000;
/// Clocks are read one after the other, and time passes between a reading and its append.
const SLACK_NS: i64 = 2_000_000_000;

/// A jump of the clock, and the points that it concerns.
#[derive(Debug)]
pub(super) struct Correction {
    by_ns: i64,
    /// What the wrong clock showed first and last.
    from_ns: i64,
    to_ns: i64,
    /// Batches that are to be looked at.
    todo: Vec<(StreamName, u64)>,
    moved: u64,
}

impl Core {
    /// Looks whether the clock has jumped. What was stored by the wrong clock is then held back until it is moved.
    pub(super) fn watch_clock(&mut self, now: Now) {
        let since = self.clock_since;
        let by_ns = now
            .wall_ns
            .saturating_sub(since.wall_ns)
            .saturating_sub(now.mono_ns.saturating_sub(since.mono_ns));
        if by_ns.saturating_abs() < JUMP_NS {
            return;
        }
        self.clock_since = now;
        let ran_ns = now.mono_ns.saturating_sub(since.mono_ns);
        let (from_ns, to_ns) = (since.wall_ns - SLACK_NS, since.wall_ns + ran_ns + SLACK_NS);
        tracing::warn!(by_ns, ran_ns, "the clock was set");
        if by_ns.saturating_abs() <= ran_ns + 2 * SLACK_NS {
            return;
        }
        self.close_segments();
        let concerned = |name: &StreamName| *name != self.losses && name.as_str() != CLOCK;
        let mut todo = Vec::new();
        for (name, stream) in self.streams.iter().filter(|(name, _)| concerned(name)) {
            let closed = stream.held.closed().iter().map(|(sequence, kept)| (*sequence, kept.span));
            let sealed = stream.held.sealed().iter().filter(|(_, sealed)| !sealed.in_flight);
            let sealed = sealed.map(|(sequence, sealed)| (*sequence, sealed.kept.span));
            let within = |span: &Span| span.earliest_ns <= to_ns && span.latest_ns >= from_ns;
            todo.extend(
                closed.chain(sealed).filter(|(_, span)| within(span)).map(|(s, _)| (name.clone(), s)),
            );
        }
        self.corrections.push(Correction { by_ns, from_ns, to_ns, todo, moved: 0 });
    }

    /// Batches of a stream that are not to be sent before their times are right.
    pub(super) fn held_back(&self, name: &StreamName) -> HashSet<u64> {
        let of = |(other, sequence): &(StreamName, u64)| (other == name).then_some(*sequence);
        self.corrections.iter().flat_map(|correction| correction.todo.iter().filter_map(of)).collect()
    }

    /// Moves the points of one batch. `false`: there is none left that is sealed.
    pub(crate) fn rebase_next(&mut self, now: Now) -> Result<bool, JournalError> {
        let Some(correction) = self.corrections.first_mut() else { return Ok(false) };
        let (by_ns, from_ns, to_ns) = (correction.by_ns, correction.from_ns, correction.to_ns);
        if correction.todo.is_empty() {
            let moved = correction.moved;
            self.record_correction(now, by_ns, moved)?;
            self.corrections.remove(0);
            return Ok(true);
        }
        // What is not sealed yet comes again, and the others do not wait for it.
        let sealed = |(name, sequence): &(StreamName, u64)| {
            self.streams.get(name).is_none_or(|stream| !stream.held.closed().contains_key(sequence))
        };
        let Some(at) = correction.todo.iter().rposition(sealed) else { return Ok(false) };
        let Some((name, sequence)) = correction.todo.get(at).cloned() else { return Ok(false) };
        let moved = self.rebase(now, &name, sequence, |at_ns| {
            ((from_ns..=to_ns).contains(&at_ns)).then(|| at_ns.saturating_add(by_ns))
        })?;
        if let Some(correction) = self.corrections.first_mut() {
            correction.todo.remove(at);
            correction.moved += moved;
        }
        self.rebased += moved;
        Ok(true)
    }

    /// Writes a batch anew with other times, under its number. How many were changed.
    fn rebase(
        &mut self,
        now: Now,
        name: &StreamName,
        sequence: u64,
        change: impl Fn(i64) -> Option<i64>,
    ) -> Result<u64, JournalError> {
        let Some(stream) = self.streams.get(name) else { return Ok(0) };
        let Some(sealed) = stream.held.sealed().get(&sequence).filter(|sealed| !sealed.in_flight).cloned()
        else {
            return Ok(0);
        };
        let io = |e| JournalError::io("set the times of a batch right", e);
        let bytes = self.files.read(&sealed.name, super::MAX_FILE_BYTES).map_err(io)?;
        let contents = Batch::read(&bytes).and_then(|batch| batch.open_on_device(&self.keys.device)).ok();
        let Some(mut points) = contents.and_then(|contents| points_of(&contents).ok()) else {
            // Damaged: set aside when its turn to be sent comes.
            return Ok(0);
        };
        let mut moved = 0;
        points.change_times(|at_ns| match change(at_ns) {
            Some(right) => {
                moved += 1;
                right
            }
            None => at_ns,
        });
        let (Some((earliest_ns, latest_ns)), true) = (points.span_ns(), moved > 0) else { return Ok(0) };
        let span = Span { earliest_ns, latest_ns, ..sealed.kept.span };
        let Some(job) = self.job(name, sequence) else { return Ok(0) };
        let contents =
            encode_columns(&Columns::of(&points), self.config.zstd_level).map_err(JournalError::encode)?;
        let written = job.write(now, &contents, span, sealed.thinned)?;
        let Some(stream) = self.streams.get_mut(name) else { return Ok(0) };
        let text = BatchName { sequence, span, thinned: sealed.thinned }.to_text();
        let path = format!("{}/{text}", stream.folder);
        self.files.rename(&job.passing_name(), &path).map_err(io)?;
        if path != sealed.name {
            // A crash before this leaves both; either is whole, and one goes when the journal is opened.
            self.files.remove(&sealed.name).map_err(io)?;
        }
        self.files.sync_folder(&stream.folder).map_err(io)?;
        let kept = Kept::new(written, span);
        stream.held.insert_sealed(sequence, Sealed { name: path, kept, in_flight: false, ..sealed });
        Ok(moved)
    }

    fn record_correction(&mut self, now: Now, by_ns: i64, moved: u64) -> Result<(), JournalError> {
        let name: StreamName = CLOCK.parse().map_err(|_| JournalError::Closed)?;
        let mut batch = PointBatch::new();
        for (field, value) in [("by_ns", by_ns), ("points", i64::try_from(moved).unwrap_or(i64::MAX))] {
            let series = batch.series("journal_clock", field, [])?;
            batch.push(series, now.wall_ns, Value::Integer(value))?;
        }
        tracing::warn!(by_ns, moved, "points that were stored by a wrong clock have right times now");
        self.ensure_stream(&name)?;
        let Some(rows) = Rows::of(name, &batch) else { return Ok(()) };
        self.append_frame(now, &rows).map(|_| ())
    }
}
