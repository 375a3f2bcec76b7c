//! Points as they come from producers: in any order, of any series, not yet in columns.

use std::collections::HashMap;

use crate::key::{KeyError, MAX_KEY_BYTES, SeriesKey, write_key};
use crate::varint::{self, Reader};

/// Longest text or JSON value, in bytes.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Most points of one [`PointBatch`].
pub const MAX_POINTS: usize = 1_000_000;
/// Most series of one [`PointBatch`].
pub const MAX_BATCH_SERIES: usize = 100_000;

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any double; every bit of it is kept.
    Float(f64),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// Text, at most [`MAX_TEXT_BYTES`].
    Text(String),
    /// A JSON value as text, at most [`MAX_TEXT_BYTES`]; kept as it was written.
    Json(String),
}

/// Which kind a [`Value`] is; a series may change its kind, and then has a column for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// [`Value::Float`].
    Float = 0,
    /// [`Value::Integer`].
    Integer = 1,
    /// [`Value::Boolean`].
    Boolean = 2,
    /// [`Value::Text`].
    Text = 3,
    /// [`Value::Json`].
    Json = 4,
}

impl Kind {
    pub(crate) fn of_byte(byte: u8) -> Option<Self> {
        [Self::Float, Self::Integer, Self::Boolean, Self::Text, Self::Json].get(usize::from(byte)).copied()
    }
}

impl Value {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Float(_) => Kind::Float,
            Self::Integer(_) => Kind::Integer,
            Self::Boolean(_) => Kind::Boolean,
            Self::Text(_) => Kind::Text,
            Self::Json(_) => Kind::Json,
        }
    }

    /// As a number, for charts and sums: a truth value is 0 or 1, text is none.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Integer(value) => Some(*value as f64),
            Self::Boolean(value) => Some(f64::from(u8::from(*value))),
            Self::Text(_) | Self::Json(_) => None,
        }
    }
}

/// One value of one series at one time, to be handed over on its own. Many at once go into a [`PointBatch`].
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The series.
    pub series: SeriesKey,
    /// Unix time in nanoseconds.
    pub at_ns: i64,
    /// The value.
    pub value: Value,
}

impl Point {
    /// A point at a time in Unix milliseconds.
    #[must_use]
    pub fn at_ms(series: SeriesKey, at_ms: i64, value: Value) -> Self {
        Self { series, at_ns: at_ms.saturating_mul(1_000_000), value }
    }
}

/// A series within one [`PointBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(pub(crate) u32);

impl SeriesId {
    /// Its place among the series of its batch: 0, 1, 2, … in the order in which they were named.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One value within a [`PointBatch`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which series of the batch.
    pub series: SeriesId,
    /// Unix time in nanoseconds.
    pub at_ns: i64,
    /// The value.
    pub value: Value,
}

/// Why a point does not go into a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// Its series has no proper name.
    #[error("the series cannot be named so")]
    Key(#[from] KeyError),
    /// Its text is too long.
    #[error("a text or JSON value has {bytes} bytes; at most {MAX_TEXT_BYTES} are allowed")]
    TextTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The batch is full.
    #[error("a batch has at most {MAX_POINTS} points of {MAX_BATCH_SERIES} series")]
    BatchFull,
    /// The id belongs to another batch.
    #[error("the series does not belong to this batch")]
    UnknownSeries,
}

/// Points of any number of series; each series is named once.
///
/// ```
/// use farshore_series::{PointBatch, Value};
///
/// let mut batch = PointBatch::new();
/// let series = batch.series("temperature", "value", [("room", "12")])?;
/// batch.push(series, 1_700_000_000_000_000_000, Value::Float(21.37))?;
/// assert_eq!(batch.len(), 1);
/// # Ok::<(), farshore_series::PointError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct PointBatch {
    keys: Vec<SeriesKey>,
    index: HashMap<SeriesKey, u32>,
    samples: Vec<Sample>,
    scratch: Vec<u8>,
}

impl PointBatch {
    /// A batch without points.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many series its points are of.
    #[must_use]
    pub fn series_count(&self) -> usize {
        self.keys.len()
    }

    /// Number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The series of this name in this batch; named when it is new.
    ///
    /// # Errors
    /// [`PointError`] when it cannot be named so or there are too many.
    pub fn series<'t>(
        &mut self,
        measurement: &str,
        field: &str,
        tags: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Result<SeriesId, PointError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let id = write_key(&mut scratch, measurement, field, tags).map_err(PointError::from).and_then(|()| {
            match self.index.get(scratch.as_slice()) {
                Some(id) => Ok(SeriesId(*id)),
                None => self.add(SeriesKey::trusted(&scratch)),
            }
        });
        self.scratch = scratch;
        id
    }

    /// The series with this key in this batch.
    ///
    /// # Errors
    /// [`PointError::BatchFull`] when there are too many.
    pub fn series_of(&mut self, key: &SeriesKey) -> Result<SeriesId, PointError> {
        match self.index.get(key.as_bytes()) {
            Some(id) => Ok(SeriesId(*id)),
            None => self.add(key.clone()),
        }
    }

    fn add(&mut self, key: SeriesKey) -> Result<SeriesId, PointError> {
        if self.keys.len() >= MAX_BATCH_SERIES {
            return Err(PointError::BatchFull);
        }
        let id = u32::try_from(self.keys.len()).map_err(|_| PointError::BatchFull)?;
        self.keys.push(key.clone());
        self.index.insert(key, id);
        Ok(SeriesId(id))
    }

    /// Adds a value of a series of this batch. `at_ns` is Unix time in nanoseconds.
    ///
    /// # Errors
    /// [`PointError`] when the batch is full, the text too long or the series not of this batch.
    pub fn push(&mut self, series: SeriesId, at_ns: i64, value: Value) -> Result<(), PointError> {
        if self.samples.len() >= MAX_POINTS {
            return Err(PointError::BatchFull);
        }
        if series.0 as usize >= self.keys.len() {
            return Err(PointError::UnknownSeries);
        }
        if let Value::Text(text) | Value::Json(text) = &value
            && text.len() > MAX_TEXT_BYTES
        {
            return Err(PointError::TextTooLong { bytes: text.len() });
        }
        self.samples.push(Sample { series, at_ns, value });
        Ok(())
    }

    /// Adds one point.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_point(&mut self, point: Point) -> Result<(), PointError> {
        let series = self.series_of(&point.series)?;
        self.push(series, point.at_ns, point.value)
    }

    /// The name of a series of this batch.
    #[must_use]
    pub fn key(&self, series: SeriesId) -> Option<&SeriesKey> {
        self.keys.get(series.0 as usize)
    }

    /// The values, in the order in which they came.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The points, in the order in which they came.
    pub fn points(&self) -> impl Iterator<Item = (&SeriesKey, i64, &Value)> + '_ {
        self.samples.iter().filter_map(|sample| Some((self.key(sample.series)?, sample.at_ns, &sample.value)))
    }

    /// Earliest and latest time.
    #[must_use]
    pub fn span_ns(&self) -> Option<(i64, i64)> {
        let times = || self.samples.iter().map(|sample| sample.at_ns);
        Some((times().min()?, times().max()?))
    }

    /// Sets each time to what `change` makes of it.
    pub fn change_times(&mut self, mut change: impl FnMut(i64) -> i64) {
        for sample in &mut self.samples {
            sample.at_ns = change(sample.at_ns);
        }
    }

    /// Adds all points of another batch.
    ///
    /// # Errors
    /// [`PointError::BatchFull`]; nothing was added then.
    pub fn extend(&mut self, other: &Self) -> Result<(), PointError> {
        let mut series = self.keys.len() + other.keys.len();
        if series > MAX_BATCH_SERIES {
            series -= other.keys.iter().filter(|key| self.index.contains_key(key.as_bytes())).count();
        }
        if series > MAX_BATCH_SERIES || self.samples.len() + other.samples.len() > MAX_POINTS {
            return Err(PointError::BatchFull);
        }
        let ids = other.keys.iter().map(|key| self.series_of(key)).collect::<Result<Vec<_>, _>>()?;
        for sample in &other.samples {
            let series = *ids.get(sample.series.0 as usize).ok_or(PointError::UnknownSeries)?;
            self.push(series, sample.at_ns, sample.value.clone())?;
        }
        Ok(())
    }

    /// Appends the rows form, which is quick to write: the open segment's. It stands on its own.
    ///
    /// `varint(series) · (varint(length) · key)* · varint(points) · (varint(series) · zigzag(time since the one before) · kind · value)*`
    pub fn write_rows(&self, out: &mut Vec<u8>) {
        out.reserve(self.samples.len() * 16 + self.keys.len() * 48);
        varint::put(out, self.keys.len() as u64);
        for key in &self.keys {
            varint::put(out, key.as_bytes().len() as u64);
            out.extend_from_slice(key.as_bytes());
        }
        varint::put(out, self.samples.len() as u64);
        let mut before = 0i64;
        for sample in &self.samples {
            varint::put(out, u64::from(sample.series.0));
            varint::put_signed(out, sample.at_ns.wrapping_sub(before));
            before = sample.at_ns;
            out.push(sample.value.kind() as u8);
            match &sample.value {
                Value::Float(value) => out.extend_from_slice(&value.to_bits().to_le_bytes()),
                Value::Integer(value) => varint::put_signed(out, *value),
                Value::Boolean(value) => out.push(u8::from(*value)),
                Value::Text(text) | Value::Json(text) => {
                    varint::put(out, text.len() as u64);
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
    }

    /// Reads rows forms, one after another until the bytes end, and adds their points.
    ///
    /// # Errors
    /// [`RowsError`] at the first thing that is not a row; the points before it have been added.
    pub fn read_rows(&mut self, bytes: &[u8]) -> Result<(), RowsError> {
        let mut reader = Reader::new(bytes);
        while reader.remaining() > 0 {
            self.read_one(&mut reader)?;
        }
        Ok(())
    }

    fn read_one(&mut self, reader: &mut Reader<'_>) -> Result<(), RowsError> {
        const ENDS: RowsError = RowsError::Malformed { what: "the rows end early" };
        let length = |reader: &mut Reader<'_>, cap: usize| {
            reader.unsigned().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= cap).ok_or(ENDS)
        };
        let count = length(reader, MAX_BATCH_SERIES)?;
        if count > reader.remaining() {
            return Err(ENDS);
        }
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let length = length(reader, MAX_KEY_BYTES)?;
            let bytes = reader.bytes(length).ok_or(ENDS)?;
            let id = match self.index.get(bytes) {
                Some(id) => SeriesId(*id),
                None => self.add(SeriesKey::from_bytes(bytes).map_err(PointError::from)?)?,
            };
            ids.push(id);
        }
        let points = length(reader, MAX_POINTS)?;
        let mut before = 0i64;
        for _ in 0..points {
            let series = *ids.get(length(reader, u32::MAX as usize)?).ok_or(ENDS)?;
            before = before.wrapping_add(reader.signed().ok_or(ENDS)?);
            let kind = reader.byte().and_then(Kind::of_byte).ok_or(ENDS)?;
            let value = match kind {
                Kind::Float => {
                    let bytes = reader.bytes(8).and_then(|bytes| bytes.try_into().ok()).ok_or(ENDS)?;
                    Value::Float(f64::from_bits(u64::from_le_bytes(bytes)))
                }
                Kind::Integer => Value::Integer(reader.signed().ok_or(ENDS)?),
                Kind::Boolean => Value::Boolean(match reader.byte() {
                    Some(0) => false,
                    Some(1) => true,
                    _ => return Err(ENDS),
                }),
                Kind::Text | Kind::Json => {
                    let length = length(reader, MAX_TEXT_BYTES)?;
                    let text =
                        reader.bytes(length).and_then(|bytes| str::from_utf8(bytes).ok()).ok_or(ENDS)?;
                    if kind == Kind::Text {
                        Value::Text(text.to_owned())
                    } else {
                        Value::Json(text.to_owned())
                    }
                }
            };
            self.push(series, before, value)?;
        }
        Ok(())
    }
}

/// Why bytes are not rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// They end early or hold something that cannot be.
    #[error("rows are malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A point does not fit.
    #[error("rows hold a point that does not fit")]
    Point(#[from] PointError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch() -> PointBatch {
        let mut batch = PointBatch::new();
        let a = batch.series("a", "v", [("t", "1")]).unwrap();
        let b = batch.series("b", "", []).unwrap();
        assert_eq!(batch.series("a", "v", [("t", "1")]).unwrap(), a);
        batch.push(a, 1_700_000_000_000_000_000, Value::Float(f64::NAN)).unwrap();
        batch.push(b, i64::MIN, Value::Integer(i64::MIN)).unwrap();
        batch.push(b, i64::MAX, Value::Boolean(true)).unwrap();
        batch.push(a, 0, Value::Text("grün".into())).unwrap();
        batch.push(a, 1, Value::Json("{\"a\":1}".into())).unwrap();
        batch
    }

    #[test]
    fn rows_come_back_with_every_bit() {
        let batch = batch();
        let mut bytes = Vec::new();
        batch.write_rows(&mut bytes);
        batch.write_rows(&mut bytes);
        let mut back = PointBatch::new();
        back.read_rows(&bytes).unwrap();
        assert_eq!(back.len(), 10);
        let show = |batch: &PointBatch| batch.points().map(|p| format!("{p:?}")).collect::<Vec<_>>();
        let mut twice = batch.clone();
        twice.extend(&batch).unwrap();
        assert_eq!(show(&back), show(&twice));
        assert_eq!(back.span_ns(), Some((i64::MIN, i64::MAX)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        #[test]
        fn damaged_rows_give_an_error_or_points_never_a_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = Vec::new();
            batch().write_rows(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut { bytes.truncate(at); }
            let mut back = PointBatch::new();
            let _ = back.read_rows(&bytes);
            prop_assert!(back.len() <= MAX_POINTS);
        }
    }
}
