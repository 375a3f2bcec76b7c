//! A range of points out of many blocks and hours, one line for each group and one value for each step. Pure.

use std::collections::BTreeMap;

use farshore_api::series::{SeriesAggregate, SeriesGroup};
use farshore_domain::id::DeviceId;
use farshore_domain::time::UnixMs;
use farshore_series::{Columns, SeriesKey, Summaries, Summary, decode_columns, decode_summaries};

use super::stored::{Gather, Span};

/// Most lines of one answer.
pub(super) const MAX_LINES: usize = 1_000;
/// Most steps that hold points, all lines together.
pub(super) const MAX_CELLS: usize = 500_000;

/// Nanoseconds in a millisecond.
const NS: i64 = 1_000_000;

/// Which series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stream: Option<String>,
    pub(super) measurement: Option<String>,
    pub(super) field: Option<String>,
    /// Name, value, and whether it must be that value or must not.
    pub(super) tags: Vec<(String, String, bool)>,
}

impl Wanted {
    pub(super) fn stream(&self, stream: &str) -> bool {
        self.stream.as_deref().is_none_or(|wanted| wanted == stream)
    }

    pub(super) fn names(&self, measurement: &str, field: &str) -> bool {
        self.measurement.as_deref().is_none_or(|wanted| wanted == measurement)
            && self.field.as_deref().is_none_or(|wanted| wanted == field)
    }

    pub(super) fn tags<'t>(&self, value_of: impl Fn(&str) -> Option<&'t str>) -> bool {
        self.tags.iter().all(|(name, value, equal)| (value_of(name) == Some(value.as_str())) == *equal)
    }

    fn key(&self, key: &SeriesKey) -> bool {
        self.names(key.measurement(), key.field()) && self.tags(|name| key.tag(name))
    }
}

/// Where a block's points come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) device: DeviceId,
    pub(super) location: String,
    pub(super) stream: String,
}

/// What the points of a line share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    Series { key: SeriesKey, device: DeviceId, stream: String },
    Device { measurement: String, field: String, device: DeviceId },
    Location { measurement: String, field: String, location: String },
    All { measurement: String, field: String },
}

impl Line {
    fn of(by: SeriesGroup, key: &SeriesKey, origin: &Origin) -> Self {
        let (measurement, field) = (key.measurement().to_owned(), key.field().to_owned());
        match by {
            SeriesGroup::Series => {
                Self::Series { key: key.clone(), device: origin.device, stream: origin.stream.clone() }
            }
            SeriesGroup::Device => Self::Device { measurement, field, device: origin.device },
            SeriesGroup::Location => Self::Location { measurement, field, location: origin.location.clone() },
            SeriesGroup::All => Self::All { measurement, field },
        }
    }
}

/// A line with the starts of its steps, Unix milliseconds, and their values.
pub(super) type Steps = (Line, Vec<i64>, Vec<Option<f64>>);

fn value(cell: &Summary, aggregate: SeriesAggregate) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
    let (points, numbers) = (cell.points as f64, cell.numbers as f64);
    if aggregate == SeriesAggregate::Count {
        return Some(points);
    }
    (cell.numbers > 0).then(|| match aggregate {
        SeriesAggregate::Mean => cell.sum / numbers,
        SeriesAggregate::Min => cell.min,
        SeriesAggregate::Max => cell.max,
        SeriesAggregate::Sum => cell.sum,
        SeriesAggregate::Last => cell.last,
        SeriesAggregate::Count => points,
    })
}

/// Gathers points into steps.
#[derive(Debug)]
pub(super) struct Fold {
    from_ns: i64,
    /// Not included.
    to_ns: i64,
    step_ns: i64,
    by: SeriesGroup,
    wanted: Wanted,
    lines: BTreeMap<Line, BTreeMap<i64, Summary>>,
    cells: usize,
    truncated: bool,
}

impl Fold {
    /// Points from `from_ms` to `to_ms`, both included. Steps begin at multiples of their length, so that the same points are together whenever one asks.
    pub(super) fn new(from_ms: i64, to_ms: i64, step_ms: i64, by: SeriesGroup, wanted: Wanted) -> Self {
        Self {
            from_ns: from_ms.saturating_mul(NS),
            to_ns: to_ms.saturating_add(1).saturating_mul(NS),
            step_ns: step_ms.max(1).saturating_mul(NS),
            by,
            wanted,
            lines: BTreeMap::new(),
            cells: 0,
            truncated: false,
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.cells >= MAX_CELLS
    }

    /// Says that there would have been more.
    pub(super) fn truncate(&mut self) {
        self.truncated = true;
    }

    /// Adds the points of a block that lie in the span, from and up to before, in nanoseconds.
    pub(super) fn add(&mut self, origin: &Origin, (from, to): (i64, i64), columns: &Columns) {
        let within = from.max(self.from_ns)..to.min(self.to_ns);
        for column in &columns.columns {
            if !self.wanted.key(&column.key) {
                continue;
            }
            let numbers = column.values.numbers();
            let Some((line, mut cells)) = self.open(&column.key, origin) else { continue };
            let before = cells.len();
            for (index, at) in column.times_ns.iter().enumerate() {
                if !within.contains(at) {
                    continue;
                }
                let value = numbers.as_ref().and_then(|numbers| numbers.get(index).copied());
                if let Some(cell) = self.cell(&mut cells, before, *at) {
                    cell.add(*at, value);
                }
            }
            self.close(line, cells, before);
        }
    }

    /// Adds an hour, which lies in one step as a whole.
    pub(super) fn add_hour(&mut self, origin: &Origin, hour_ns: i64, summaries: &Summaries) {
        for (key, summary) in summaries {
            if !self.wanted.key(key) {
                continue;
            }
            let Some((line, mut cells)) = self.open(key, origin) else { continue };
            let before = cells.len();
            if let Some(cell) = self.cell(&mut cells, before, hour_ns) {
                cell.merge(summary);
            }
            self.close(line, cells, before);
        }
    }

    /// Takes a line out, to add to it.
    fn open(&mut self, key: &SeriesKey, origin: &Origin) -> Option<(Line, BTreeMap<i64, Summary>)> {
        let line = Line::of(self.by, key, origin);
        if !self.lines.contains_key(&line) && self.lines.len() >= MAX_LINES {
            self.truncated = true;
            return None;
        }
        let cells = self.lines.remove(&line).unwrap_or_default();
        Some((line, cells))
    }

    fn cell<'c>(
        &mut self,
        cells: &'c mut BTreeMap<i64, Summary>,
        before: usize,
        at_ns: i64,
    ) -> Option<&'c mut Summary> {
        let step = at_ns.div_euclid(self.step_ns);
        if self.cells + (cells.len() - before) >= MAX_CELLS && !cells.contains_key(&step) {
            self.truncated = true;
            return None;
        }
        Some(cells.entry(step).or_default())
    }

    fn close(&mut self, line: Line, cells: BTreeMap<i64, Summary>, before: usize) {
        self.cells += cells.len() - before;
        if !cells.is_empty() {
            self.lines.insert(line, cells);
        }
    }

    /// Each line, and whether there was more.
    pub(super) fn finish(self, aggregate: SeriesAggregate) -> (Vec<Steps>, bool) {
        let step_ms = self.step_ns / 1_000_000;
        let lines = self
            .lines
            .into_iter()
            .map(|(line, cells)| {
                let at = cells.keys().map(|step| step.saturating_mul(step_ms)).collect();
                (line, at, cells.values().map(|cell| value(cell, aggregate)).collect())
            })
            .collect();
        (lines, self.truncated)
    }
}

/// The points of one stream on their way into a range.
#[derive(Debug)]
pub(super) struct OfStream {
    pub(super) origin: Origin,
    pub(super) fold: Fold,
}

impl Gather for OfStream {
    fn points(&mut self, (from, to): Span, block: &[u8]) {
        match decode_columns(block) {
            Ok(columns) => {
                self.fold.add(&self.origin, (from.saturating_mul(NS), to.saturating_mul(NS)), &columns);
            }
            Err(error) => self.unreadable(&error),
        }
    }

    fn hour(&mut self, hour: UnixMs, block: &[u8]) {
        match decode_summaries(block) {
            Ok(summaries) => self.fold.add_hour(&self.origin, hour.0.saturating_mul(NS), &summaries),
            Err(error) => self.unreadable(&error),
        }
    }

    fn is_full(&self) -> bool {
        self.fold.is_full()
    }
}

impl OfStream {
    fn unreadable(&mut self, error: &farshore_series::DecodeError) {
        tracing::warn!(%error, "a stored block can't be read");
        self.fold.truncate();
    }
}

#[cfg(test)]
mod tests {
    use farshore_series::{PointBatch, Value};

    use super::*;

    const ALL: (i64, i64) = (i64::MIN, i64::MAX);
    const S: i64 = 1_000_000_000;

    fn origin(device: u128, location: &str) -> Origin {
        let device = DeviceId(uuid::Uuid::from_u128(device));
        Origin { device, location: location.to_owned(), stream: "data/default".to_owned() }
    }

    fn block(points: &[(&str, i64, Value)]) -> Columns {
        let mut batch = PointBatch::new();
        for (room, at, value) in points {
            let series = batch.series("t", "v", [("room", *room)]).unwrap();
            batch.push(series, *at, value.clone()).unwrap();
        }
        Columns::of(&batch)
    }

    fn values(
        by: SeriesGroup,
        wanted: Wanted,
        aggregate: SeriesAggregate,
    ) -> Vec<(Vec<i64>, Vec<Option<f64>>)> {
        let mut fold = Fold::new(0, 99_999, 10_000, by, wanted);
        let f = Value::Float;
        fold.add(
            &origin(1, "Riga"),
            ALL,
            &block(&[("a", 0, f(1.0)), ("a", 9 * S, f(5.0)), ("b", 3 * S, f(30.0))]),
        );
        fold.add(
            &origin(1, "Riga"),
            ALL,
            &block(&[("a", 4 * S, f(3.0)), ("a", 25 * S, Value::Text("x".into()))]),
        );
        fold.add(
            &origin(2, "Oslo"),
            ALL,
            &block(&[("a", 12 * S, f(7.0)), ("a", 100 * S, f(9.0)), ("a", -1, f(9.0))]),
        );
        let (lines, truncated) = fold.finish(aggregate);
        assert!(!truncated);
        lines.into_iter().map(|(_, at, values)| (at, values)).collect()
    }

    #[test]
    fn each_aggregate_says_of_each_step_what_its_points_are_together() {
        let wanted = || Wanted { tags: vec![("room".into(), "a".into(), true)], ..Wanted::default() };
        for (aggregate, first, text) in [
            (SeriesAggregate::Mean, 3.0, None),
            (SeriesAggregate::Min, 1.0, None),
            (SeriesAggregate::Max, 5.0, None),
            (SeriesAggregate::Sum, 9.0, None),
            (SeriesAggregate::Count, 3.0, Some(1.0)),
            // By time, not by arrival.
            (SeriesAggregate::Last, 5.0, None),
        ] {
            let lines = values(SeriesGroup::Series, wanted(), aggregate);
            assert_eq!(lines.len(), 2);
            assert!(lines.contains(&(vec![0, 20_000], vec![Some(first), text])), "{aggregate:?}: {lines:?}");
        }
    }

    #[test]
    fn points_are_gathered_by_device_location_or_all_together() {
        let count = |by| values(by, Wanted::default(), SeriesAggregate::Count);
        assert_eq!(count(SeriesGroup::Series).len(), 3);
        assert_eq!(count(SeriesGroup::Device).len(), 2);
        let riga = (vec![0, 20_000], vec![Some(4.0), Some(1.0)]);
        assert_eq!(count(SeriesGroup::Location), [(vec![10_000], vec![Some(1.0)]), riga]);
        assert_eq!(
            count(SeriesGroup::All),
            [(vec![0, 10_000, 20_000], vec![Some(4.0), Some(1.0), Some(1.0)])]
        );
        let not_a = Wanted { tags: vec![("room".into(), "a".into(), false)], ..Wanted::default() };
        assert_eq!(values(SeriesGroup::All, not_a, SeriesAggregate::Sum), [(vec![0], vec![Some(30.0)])]);
    }

    #[test]
    fn too_many_lines_are_cut_and_said() {
        let mut fold = Fold::new(0, 1_000, 1_000, SeriesGroup::Series, Wanted::default());
        let mut batch = PointBatch::new();
        for n in 0..=MAX_LINES {
            let series = batch.series("t", &n.to_string(), []).unwrap();
            batch.push(series, 0, Value::Integer(1)).unwrap();
        }
        fold.add(&origin(1, ""), ALL, &Columns::of(&batch));
        let (lines, truncated) = fold.finish(SeriesAggregate::Mean);
        assert!(truncated && lines.len() == MAX_LINES);
    }
}
