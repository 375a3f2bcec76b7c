//! Losses are points too: each is written down, durable, before what was lost goes.

use farshore_series::{PointBatch, SeriesKey, Value};

use super::{Core, LOSSES, Rows};
use crate::clock::Now;
use crate::error::JournalError;
use crate::frame::Span;
use crate::stats::LossReason;
use crate::stream::StreamName;

/// The measurement of a loss.
pub(crate) const MEASUREMENT: &str = "journal_loss";

/// Points of one stream that are no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) stream: StreamName,
    pub(crate) sequence: u64,
    pub(crate) reason: LossReason,
    pub(crate) span: Span,
    /// Bytes that held further points, nobody knows how many.
    pub(crate) unknown_bytes: u64,
}

impl Loss {
    pub(crate) fn new(stream: &StreamName, sequence: u64, reason: LossReason, span: Span) -> Self {
        Self { stream: stream.clone(), sequence, reason, span, unknown_bytes: 0 }
    }

    fn add_to(&self, batch: &mut PointBatch, now: Now) -> Result<(), JournalError> {
        let tags = [("reason", self.reason.as_str()), ("stream", self.stream.as_str())];
        let fields = [
            ("points", i64::from(self.span.points)),
            ("sequence", self.sequence.cast_signed()),
            ("earliest_ns", self.span.earliest_ns),
            ("latest_ns", self.span.latest_ns),
        ];
        let unknown = i64::try_from(self.unknown_bytes).unwrap_or(i64::MAX);
        let unknown = (unknown > 0).then_some(("unknown_bytes", unknown));
        for (field, value) in fields.into_iter().chain(unknown) {
            let series = batch.series(MEASUREMENT, field, tags)?;
            batch.push(series, now.wall_ns, Value::Integer(value))?;
        }
        Ok(())
    }

    /// Stream, number and reason of the losses among these points: what recovery needs.
    pub(crate) fn known(key: &SeriesKey, value: &Value) -> Option<(StreamName, u64, LossReason)> {
        let (Value::Integer(sequence), MEASUREMENT, "sequence") = (value, key.measurement(), key.field())
        else {
            return None;
        };
        let stream = key.tag("stream")?.parse().ok()?;
        Some((stream, sequence.cast_unsigned(), LossReason::of(key.tag("reason")?)?))
    }
}

impl Core {
    /// Writes losses down and counts them. One that is on record already, from before a crash, is not written again.
    pub(super) fn report(&mut self, now: Now, losses: &[Loss]) -> Result<(), JournalError> {
        let mut batch = PointBatch::new();
        let fresh: Vec<&Loss> = losses
            .iter()
            .filter(|loss| !self.reported.contains(&(loss.stream.clone(), loss.sequence, loss.reason)))
            .filter(|loss| loss.span.points > 0 || loss.unknown_bytes > 0)
            .collect();
        for loss in &fresh {
            loss.add_to(&mut batch, now)?;
        }
        debug_assert_eq!(self.losses.as_str(), LOSSES);
        if let Some(rows) = Rows::of(self.losses.clone(), &batch) {
            self.ensure_stream(&rows.stream)?;
            self.append_frame(now, &rows)?;
        }
        for loss in fresh {
            tracing::warn!(
                stream = %loss.stream, reason = loss.reason.as_str(), points = loss.span.points, loss.unknown_bytes,
                earliest_ns = loss.span.earliest_ns, latest_ns = loss.span.latest_ns, "points were lost"
            );
            if let Some(stream) = self.streams.get_mut(&loss.stream) {
                *stream.lost.entry(loss.reason).or_default() += u64::from(loss.span.points);
                stream.lost_bytes += loss.unknown_bytes;
            }
            // New points are discarded again and again under the same number; everything else happens once.
            if loss.reason != LossReason::DropNewest {
                self.reported.insert((loss.stream.clone(), loss.sequence, loss.reason));
            }
        }
        Ok(())
    }
}
