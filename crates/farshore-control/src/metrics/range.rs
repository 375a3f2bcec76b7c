//! A range of measurements out of many blocks, thinned out to as many points as a chart can show.

use std::collections::BTreeMap;

use farshore_api::device::Measurements;
use farshore_series::Block;

/// Which value stands for the samples of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Aggregate {
    #[default]
    Mean,
    Min,
    Max,
}

/// The samples of one series in one bucket.
#[derive(Clone, Copy, Debug)]
struct Cell {
    sum: f64,
    count: u32,
    min: f64,
    max: f64,
}

impl Cell {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn value(self, aggregate: Aggregate) -> f64 {
        match aggregate {
            Aggregate::Mean => self.sum / f64::from(self.count.max(1)),
            Aggregate::Min => self.min,
            Aggregate::Max => self.max,
        }
    }
}

/// Gathers blocks into buckets of equal width.
#[derive(Debug)]
pub(super) struct Range {
    from_ms: i64,
    to_ms: i64,
    width_ms: i64,
    /// First sample's time of each bucket that has any.
    at: BTreeMap<i64, i64>,
    series: BTreeMap<String, BTreeMap<i64, Cell>>,
    wanted: Vec<String>,
}

impl Range {
    /// From `from_ms` to `to_ms`, both included, in at most `points` buckets. An empty list of names wants all series.
    pub(super) fn new(from_ms: i64, to_ms: i64, points: u32, wanted: Vec<String>) -> Self {
        let points = i64::from(points.max(1));
        let span = to_ms.saturating_sub(from_ms).saturating_add(1).max(1);
        // Rounded up, so that there are never more buckets than points.
        let width_ms = (span / points + i64::from(span % points != 0)).max(1);
        Self { from_ms, to_ms, width_ms, at: BTreeMap::new(), series: BTreeMap::new(), wanted }
    }

    pub(super) fn add(&mut self, block: &Block) {
        let mut buckets = Vec::with_capacity(block.rows());
        for at in &block.at_ms {
            let bucket = (*at >= self.from_ms && *at <= self.to_ms)
                .then(|| at.saturating_sub(self.from_ms) / self.width_ms);
            if let Some(bucket) = bucket {
                let first = self.at.entry(bucket).or_insert(*at);
                *first = (*first).min(*at);
            }
            buckets.push(bucket);
        }
        for (name, column) in block.series.iter().zip(&block.columns) {
            if !self.wanted.is_empty() && !self.wanted.contains(name) {
                continue;
            }
            let mut cells = self.series.remove(name).unwrap_or_default();
            for (bucket, value) in buckets.iter().zip(column) {
                let (Some(bucket), Some(value)) = (bucket, value) else { continue };
                if value.is_finite() {
                    cells
                        .entry(*bucket)
                        .or_insert(Cell { sum: 0.0, count: 0, min: f64::INFINITY, max: f64::NEG_INFINITY })
                        .add(*value);
                }
            }
            self.series.insert(name.clone(), cells);
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
                    .map(|bucket| cells.get(bucket).map(|cell| cell.value(aggregate)))
                    .collect();
                (name, column)
            })
            .collect();
        Measurements { stream, at: self.at.into_values().collect(), columns }
    }
}

#[cfg(test)]
mod tests {
    use farshore_series::BlockBuilder;

    use super::*;

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
        range.add(&block(&[(999, 9.0), (1_000, 0.5), (5_000, 0.25), (5_001, 9.0)]));
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
                rows.chunks(60).for_each(|chunk| range.add(&block(chunk)));
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
        range.add(&block(&[(0, 1.0)]));
        assert!(range.finish("host".to_owned(), Aggregate::Mean).at.len() <= 1);
    }
}
