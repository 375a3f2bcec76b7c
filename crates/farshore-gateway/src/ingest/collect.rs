//! Gathers the points of one body: each is taken whole or not at all.

use std::collections::{HashSet, hash_map::RandomState};
use std::hash::BuildHasher as _;
use std::sync::Mutex;

use farshore_journal::{PointBatch, SeriesId, SeriesKey};

use super::lock;
use crate::limits::{MAX_BODY_SERIES, MAX_NAMES_BYTES, MAX_VALUES};
use crate::point::{Point, PointError, Value};

/// Times further ahead of the clock are the clock's, as in the journal.
const MAX_AHEAD_NS: i64 = 24 * 3600 * 1_000_000_000;
/// 2025-01-01: a clock that stands before knows nothing of the future.
const PLAUSIBLE_NS: i64 = 1_735_689_600_000_000_000;

/// The series of a stream, by their hashes: two that share one count as one. Locked for a moment for each series of a body, never while one is read.
#[derive(Debug, Default)]
pub(super) struct KnownSeries {
    hasher: RandomState,
    hashes: Mutex<HashSet<u64>>,
}

impl KnownSeries {
    /// Takes in those that are new, and says which; none of them when there is no room for all.
    fn admit<'k>(&self, keys: impl Iterator<Item = &'k SeriesKey>, max: usize) -> Option<Vec<u64>> {
        let mut hashes = lock(&self.hashes);
        let mut new: Vec<u64> = keys.map(|key| self.hasher.hash_one(key.as_bytes())).collect();
        new.retain(|hash| !hashes.contains(hash));
        if hashes.len() + new.len() > max {
            return None;
        }
        hashes.extend(&new);
        Some(new)
    }

    fn forget(&self, series: &[u64]) {
        let mut hashes = lock(&self.hashes);
        for hash in series {
            hashes.remove(hash);
        }
    }
}

pub(super) struct Collector<'k> {
    batch: PointBatch,
    now_ns: i64,
    /// No time is later.
    latest_ns: i64,
    /// Points whose time was.
    future: usize,
    known: &'k KnownSeries,
    max_series: usize,
    newest: Option<SeriesId>,
    /// Series that the batch names and the stream has no room for.
    outside: HashSet<SeriesId>,
    /// Of the point at hand.
    series: Vec<SeriesId>,
    names_bytes: usize,
    /// Series that the stream did not know before.
    admitted: Vec<u64>,
    /// Why the body as a whole is not taken.
    too_much: Option<PointError>,
}

impl<'k> Collector<'k> {
    pub(super) fn new(now_ns: i64, known: &'k KnownSeries, max_series: usize) -> Self {
        let set = now_ns > PLAUSIBLE_NS;
        Self {
            batch: PointBatch::new(),
            now_ns,
            latest_ns: if set { now_ns.saturating_add(MAX_AHEAD_NS) } else { i64::MAX },
            future: 0,
            known,
            max_series,
            newest: None,
            outside: HashSet::new(),
            series: Vec::new(),
            names_bytes: 0,
            admitted: Vec::new(),
            too_much: None,
        }
    }

    /// Why nothing of the body is taken: there is too much of it.
    pub(super) fn too_much(&self) -> Option<&PointError> {
        self.too_much.as_ref()
    }

    pub(super) fn take(&mut self, point: &Point<'_>) -> Result<(), PointError> {
        if let Some(error) = &self.too_much {
            return Err(error.clone());
        }
        self.name(point)?;
        if self.batch.len() + point.fields.len() > MAX_VALUES {
            return Err(self.stop("values", MAX_VALUES));
        }
        let mut at_ns = point.time_ns.unwrap_or(self.now_ns);
        if at_ns > self.latest_ns {
            at_ns = self.now_ns;
            self.future += point.fields.len();
        }
        for (series, (_, value)) in self.series.iter().zip(&point.fields) {
            let value = match value {
                Value::Float(number) => farshore_journal::Value::Float(*number),
                Value::Integer(number) => farshore_journal::Value::Integer(*number),
                Value::Bool(flag) => farshore_journal::Value::Boolean(*flag),
                Value::Text(text) => farshore_journal::Value::Text(text.clone().into_owned()),
                Value::Json(text) => farshore_journal::Value::Json(text.clone().into_owned()),
            };
            self.batch.push(*series, at_ns, value).map_err(|error| refused(&error))?;
        }
        Ok(())
    }

    /// Finds the series of a point's fields, and whether there is room for all of them.
    fn name(&mut self, point: &Point<'_>) -> Result<(), PointError> {
        self.series.clear();
        let mut unsure = false;
        for (field, _) in &point.fields {
            let tags = point.tags.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
            let series = match self.batch.series(&point.measurement, field, tags) {
                Ok(series) => series,
                Err(farshore_journal::PointError::BatchFull) => {
                    return Err(self.stop("series", MAX_BODY_SERIES));
                }
                Err(error) => return Err(refused(&error)),
            };
            // Ids are given in order: a new one is larger than all before.
            if self.newest.is_none_or(|newest| series > newest) {
                self.newest = Some(series);
                self.outside.insert(series);
                self.names_bytes += self.batch.key(series).map_or(0, |key| key.as_bytes().len());
                if self.names_bytes > MAX_NAMES_BYTES {
                    return Err(self.stop("bytes of names of series", MAX_NAMES_BYTES));
                }
            }
            unsure |= !self.outside.is_empty() && self.outside.contains(&series);
            self.series.push(series);
        }
        if !unsure {
            return Ok(());
        }
        let outside = self.series.iter().filter(|series| self.outside.contains(series));
        let keys = outside.filter_map(|series| self.batch.key(*series));
        let Some(admitted) = self.known.admit(keys, self.max_series) else {
            return Err(PointError::TooMany { what: "series in the stream", max: self.max_series });
        };
        self.admitted.extend(admitted);
        for series in &self.series {
            self.outside.remove(series);
        }
        Ok(())
    }

    /// The points that were taken, and how many of them had a time too far ahead. Series for which there was no room are not among them, not even by name.
    pub(super) fn finish(self) -> Result<(PointBatch, usize), PointError> {
        let Self { batch, future, outside, .. } = self;
        if outside.is_empty() || batch.is_empty() {
            return Ok((batch, future));
        }
        let mut tidy = PointBatch::new();
        for (key, at_ns, value) in batch.points() {
            let series = tidy.series_of(key).map_err(|error| refused(&error))?;
            tidy.push(series, at_ns, value.clone()).map_err(|error| refused(&error))?;
        }
        Ok((tidy, future))
    }

    /// The body comes to nothing: its series take no place.
    pub(super) fn give_up(&mut self) {
        self.known.forget(&std::mem::take(&mut self.admitted));
    }

    fn stop(&mut self, what: &'static str, max: usize) -> PointError {
        self.too_much.insert(PointError::TooMuch { what, max }).clone()
    }
}

fn refused(error: &farshore_journal::PointError) -> PointError {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    PointError::Refused(text)
}
