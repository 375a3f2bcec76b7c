//! A range of measurements out of many blocks, thinned out to as many points as a chart can show.

use std::collections::BTreeMap;

use farshore_api::device::Measurements;
use farshore_domain::time::{HOUR_MS, UnixMs};
use farshore_series::{Block, Summaries, Summary, decode, decode_summaries};

use crate::series::stored::{Gather, Span, hour_of};

/// Which value stands for the samples of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Aggregate {
    #[default]
    Mean,
    Min,
    Max,
}

fn value(cell: &Summary, aggregate: Aggregate) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
    let numbers = cell.numbers as f64;
    (cell.numbers > 0).then(|| match aggregate {
        Aggregate::Mean => cell.sum / numbers,
        Aggregate::Min => cell.min,
        Aggregate::Max => cell.max,
    })
}

/// Gathers blocks into buckets of equal width. Where they are wider than an hour they are made of whole hours.
#[derive(Debug)]
pub(super) struct Range {
    from_ms: i64,
    to_ms: i64,
    /// Where the first bucket begins.
    origin_ms: i64,
    width_ms: i64,
    /// First sample's time of each bucket that has any.
    at: BTreeMap<i64, i64>,
    series: BTreeMap<String, BTreeMap<i64, Summary>>,
    wanted: Vec<String>,
}

fn div_up(span: i64, by: i64) -> i64 {
    (span / by + i64::from(span % by != 0)).max(1)
}

impl Range {
    /// From `from_ms` to `to_ms`, both included, in at most `points` buckets. An empty list of names wants all series.
    pub(super) fn new(from_ms: i64, to_ms: i64, points: u32, wanted: Vec<String>) -> Self {
        let points = i64::from(points.max(1));
        let span = |origin: i64| to_ms.saturating_sub(origin).saturating_add(1).max(1);
        // Rounded up, so that there are never more buckets than points.
        let (mut origin_ms, mut width_ms) = (from_ms, div_up(span(from_ms), points));
        if width_ms >= HOUR_MS {
            origin_ms = hour_of(from_ms);
            width_ms = div_up(div_up(span(origin_ms), points), HOUR_MS).saturating_mul(HOUR_MS);
        }
        Self { from_ms, to_ms, origin_ms, width_ms, at: BTreeMap::new(), series: BTreeMap::new(), wanted }
    }

    /// Whether buckets are made of whole hours.
    pub(super) const fn is_hourly(&self) -> bool {
        self.width_ms >= HOUR_MS
    }

    fn bucket(&self, at_ms: i64) -> i64 {
        at_ms.saturating_sub(self.origin_ms) / self.width_ms
    }

    fn seen(&mut self, bucket: i64, at_ms: i64) {
        let first = self.at.entry(bucket).or_insert(at_ms);
        *first = (*first).min(at_ms);
    }

    /// Adds the samples of a block from `from` and up to before `to`.
    pub(super) fn add(&mut self, (from, to): Span, block: &Block) {
        let mut buckets = Vec::with_capacity(block.rows());
        for at in &block.at_ms {
            let wanted = *at >= self.from_ms && *at <= self.to_ms && *at >= from && *at < to;
            let bucket = wanted.then(|| self.bucket(*at));
            if let Some(bucket) = bucket {
                self.seen(bucket, *at);
            }
            buckets.push(bucket);
        }
        for (name, column) in block.series.iter().zip(&block.columns) {
            if !self.wanted.is_empty() && !self.wanted.contains(name) {
                continue;
            }
            let mut cells = self.series.remove(name).unwrap_or_default();
            for ((bucket, at), value) in buckets.iter().zip(&block.at_ms).zip(column) {
                let (Some(bucket), Some(value)) = (bucket, value) else { continue };
                if value.is_finite() {
                    cells.entry(*bucket).or_default().add(at.saturating_mul(1_000_000), Some(*value));
                }
            }
            self.series.insert(name.clone(), cells);
        }
    }

    /// Adds an hour, which lies in one bucket as a whole.
    pub(super) fn add_hour(&mut self, hour_ms: i64, summaries: &Summaries) {
        let bucket = self.bucket(hour_ms);
        for (key, summary) in summaries {
            self.seen(bucket, summary.first_ns.div_euclid(1_000_000));
            let name = key.measurement();
            if !self.wanted.is_empty() && !self.wanted.iter().any(|wanted| wanted == name) {
                continue;
            }
            let cells = self.series.entry(name.to_owned()).or_default();
            if summary.numbers > 0 {
                cells.entry(bucket).or_default().merge(summary);
            }
        }
    }

    pub(super) fn finish(self, stream: String, aggregate: Aggregate) -> Measurements {
        let columns = self
            .series
            .into_iter()
            .map(|(name, cells)| {
                let column = self
                    .at
                    .keys()
                    .map(|bucket| cells.get(bucket).and_then(|cell| value(cell, aggregate)))
                    .collect();
                (name, column)
            })
            .collect();
        Measurements { stream, at: self.at.into_values().collect(), columns }
    }
}

impl Gather for Range {
    fn points(&mut self, span: Span, block: &[u8]) {
        match decode(block) {
            Ok(block) => self.add(span, &block),
            Err(error) => tracing::warn!(%error, "a stored block can't be read"),
        }
    }

    fn hour(&mut self, hour: UnixMs, block: &[u8]) {
        match decode_summaries(block) {
            Ok(summaries) => self.add_hour(hour.0, &summaries),
            Err(error) => tracing::warn!(%error, "a stored hour can't be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use farshore_series::BlockBuilder;

    use super::*;

    const ALL: Span = (i64::MIN, i64::MAX);

    fn block(rows: &[(i64, f64)]) -> Block {
        let mut builder = BlockBuilder::new();
        for (at, value) in rows {
            builder.push(*at, [("cpu", *value), ("load1", 1.0)]).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn few_samples_come_as_they_are() {
        let mut range = Range::new(1_000, 5_000, 100, vec!["cpu".to_owned()]);
        range.add(ALL, &block(&[(999, 9.0), (1_000, 0.5), (5_000, 0.25), (5_001, 9.0)]));
        let read = range.finish("host".to_owned(), Aggregate::Mean);
        assert_eq!(read.at, [1_000, 5_000]);
        assert_eq!(
            read.columns.into_iter().collect::<Vec<_>>(),
            [("cpu".to_owned(), vec![Some(0.5), Some(0.25)])]
        );
    }

    #[test]
    fn many_samples_become_at_most_so_many_points_and_peaks_can_be_asked_for() {
        let rows: Vec<(i64, f64)> =
            (0..10_000).map(|n| (n * 10, if n == 5_000 { 1.0 } else { 0.0 })).collect();
        for points in [1, 7, 300] {
            let thin = |aggregate| {
                let mut range = Range::new(0, 99_999, points, Vec::new());
                rows.chunks(60).for_each(|chunk| range.add(ALL, &block(chunk)));
                range.finish("host".to_owned(), aggregate)
            };
            let peak = thin(Aggregate::Max);
            assert!(peak.at.len() <= points as usize, "{} of {points}", peak.at.len());
            assert!(peak.at.is_sorted());
            assert_eq!(peak.columns["cpu"].iter().flatten().copied().fold(0.0, f64::max), 1.0);
            assert!(thin(Aggregate::Mean).columns["cpu"].iter().flatten().all(|value| *value < 1.0));
            assert!(thin(Aggregate::Min).columns["load1"].iter().all(|value| *value == Some(1.0)));
        }
    }

    #[test]
    fn a_range_over_all_of_time_does_not_overflow() {
        let mut range = Range::new(i64::MIN, i64::MAX, 300, Vec::new());
        range.add(ALL, &block(&[(0, 1.0)]));
        assert!(range.finish("host".to_owned(), Aggregate::Mean).at.len() <= 1);
    }

    #[test]
    fn whole_hours_give_what_their_samples_give() {
        const H: i64 = HOUR_MS;
        let rows: Vec<(i64, f64)> =
            (0..3_000).map(|n| (n * 60_000 + 7, f64::from(u16::try_from(n % 97).unwrap()) * 0.25)).collect();
        let blocks: Vec<Block> = rows.chunks(45).map(block).collect();
        let mut hours = BTreeMap::new();
        for block in &blocks {
            farshore_series::summarize(
                &block.to_columns(),
                |at| Some(hour_of(at.div_euclid(1_000_000))),
                &mut hours,
            );
        }
        for (from, to, points) in
            [(0, 50 * H, 7), (5, 50 * H, 3), (H + 1, 40 * H - 9, 39), (0, 50 * H - 1, 50)]
        {
            for aggregate in [Aggregate::Mean, Aggregate::Min, Aggregate::Max] {
                let mut raw = Range::new(from, to, points, Vec::new());
                assert!(raw.is_hourly());
                blocks.iter().for_each(|block| raw.add(ALL, block));
                let mut whole = Range::new(from, to, points, Vec::new());
                let (first, last) = (hour_of(from + H - 1), hour_of(to + 1));
                for block in &blocks {
                    whole.add((from, first), block);
                    whole.add((last, to + 1), block);
                }
                for (hour, summaries) in hours.range(first..last) {
                    whole.add_hour(*hour, summaries);
                }
                let (raw, whole) =
                    (raw.finish("h".to_owned(), aggregate), whole.finish("h".to_owned(), aggregate));
                assert_eq!(whole, raw, "{from} {to} {points} {aggregate:?}");
                assert!(raw.at.len() <= points as usize);
            }
        }
    }
}
