//! Points in columns: what a batch holds, and its encoding in version 2.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use crate::codec::{DecodeError, EncodeError, capped, frame, malformed, unframe};
use crate::key::{MAX_KEY_BYTES, SeriesKey};
use crate::limits::MAX_DECODED_BYTES;
use crate::points::{Kind, MAX_POINTS, PointBatch, Value};
use crate::varint::{self, Reader};
use crate::words::{
    get_bits, get_floats, get_integers, get_texts, put_bits, put_floats, put_integers, put_texts,
};

/// The version byte of points in columns.
pub(crate) const VERSION: u8 = 2;
/// Most columns in one block.
pub const MAX_COLUMNS: usize = 200_000;
/// zstd's own default.
pub const DEFAULT_LEVEL: i32 = 3;
/// Exponents of ten by which times may be coarser than nanoseconds.
const UNITS: [(u8, i64); 4] = [(9, 1_000_000_000), (6, 1_000_000), (3, 1_000), (0, 1)];

/// The values of one column, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Doubles.
    Float(Vec<f64>),
    /// Whole numbers.
    Integer(Vec<i64>),
    /// Truth values.
    Boolean(Vec<bool>),
    /// Texts.
    Text(Vec<String>),
    /// JSON values, as text.
    Json(Vec<String>),
}

impl Values {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Float => Self::Float(Vec::new()),
            Kind::Integer => Self::Integer(Vec::new()),
            Kind::Boolean => Self::Boolean(Vec::new()),
            Kind::Text => Self::Text(Vec::new()),
            Kind::Json => Self::Json(Vec::new()),
        }
    }

    fn push(&mut self, value: &Value) {
        match (self, value) {
            (Self::Float(values), Value::Float(value)) => values.push(*value),
            (Self::Integer(values), Value::Integer(value)) => values.push(*value),
            (Self::Boolean(values), Value::Boolean(value)) => values.push(*value),
            (Self::Text(values), Value::Text(value)) | (Self::Json(values), Value::Json(value)) => {
                values.push(value.clone());
            }
            // The column was made for this kind.
            _ => {}
        }
    }

    /// Their kind.
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

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Integer(values) => values.len(),
            Self::Boolean(values) => values.len(),
            Self::Text(values) | Self::Json(values) => values.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Value> {
        match self {
            Self::Float(values) => values.get(index).copied().map(Value::Float),
            Self::Integer(values) => values.get(index).copied().map(Value::Integer),
            Self::Boolean(values) => values.get(index).copied().map(Value::Boolean),
            Self::Text(values) => values.get(index).cloned().map(Value::Text),
            Self::Json(values) => values.get(index).cloned().map(Value::Json),
        }
    }

    /// As numbers; `None` for texts.
    #[must_use]
    pub fn numbers(&self) -> Option<Vec<f64>> {
        match self {
            Self::Float(values) => Some(values.clone()),
            Self::Integer(values) => Some(values.iter().map(|value| *value as f64).collect()),
            Self::Boolean(values) => Some(values.iter().map(|value| f64::from(u8::from(*value))).collect()),
            Self::Text(_) | Self::Json(_) => None,
        }
    }
}

/// One series, in the order in which its points came.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesColumn {
    /// Which series.
    pub key: SeriesKey,
    /// Unix times in nanoseconds; shared by the series that were sampled together.
    pub times_ns: Arc<[i64]>,
    /// A value for each time.
    pub values: Values,
}

/// Points in columns. The order within a series is kept, the order between series is not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// One column for each series and kind of value, ascending by key and kind.
    pub columns: Vec<SeriesColumn>,
}

impl Columns {
    /// The points of a batch in columns.
    #[must_use]
    pub fn of(batch: &PointBatch) -> Self {
        let mut slots: HashMap<(u32, Kind), usize> = HashMap::new();
        let mut gathered: Vec<(u32, Vec<i64>, Values)> = Vec::new();
        for sample in batch.samples() {
            let kind = sample.value.kind();
            let slot = *slots.entry((sample.series.0, kind)).or_insert_with(|| {
                gathered.push((sample.series.0, Vec::new(), Values::new(kind)));
                gathered.len() - 1
            });
            if let Some((_, times, values)) = gathered.get_mut(slot) {
                times.push(sample.at_ns);
                values.push(&sample.value);
            }
        }
        let mut shared: HashMap<u64, Vec<Arc<[i64]>>> = HashMap::new();
        let mut columns: Vec<SeriesColumn> = gathered
            .into_iter()
            .filter_map(|(series, times, values)| {
                let key = batch.key(crate::points::SeriesId(series))?.clone();
                Some(SeriesColumn { key, times_ns: share(&mut shared, times), values })
            })
            .collect();
        columns.sort_by(|a, b| (&a.key, a.values.kind()).cmp(&(&b.key, b.values.kind())));
        Self { columns }
    }

    /// How many bytes it takes in memory, about: far more than its block has where values repeat.
    #[must_use]
    pub fn memory(&self) -> usize {
        let of_values = |values: &Values| match values {
            Values::Float(values) => size_of_val(&values[..]),
            Values::Integer(values) => size_of_val(&values[..]),
            Values::Boolean(values) => values.len(),
            Values::Text(values) | Values::Json(values) => {
                values.iter().map(|text| size_of::<String>() + text.len()).sum()
            }
        };
        let of_column = |column: &SeriesColumn| {
            column.key.as_bytes().len() + size_of_val(&column.times_ns[..]) + of_values(&column.values)
        };
        self.columns.iter().map(of_column).sum()
    }

    /// Number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.iter().map(|column| column.values.len()).sum()
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The points, series by series.
    pub fn points(&self) -> impl Iterator<Item = (&SeriesKey, i64, Value)> + '_ {
        self.columns.iter().flat_map(|column| {
            column
                .times_ns
                .iter()
                .enumerate()
                .filter_map(|(index, at_ns)| Some((&column.key, *at_ns, column.values.get(index)?)))
        })
    }

    /// Earliest and latest time.
    #[must_use]
    pub fn span_ns(&self) -> Option<(i64, i64)> {
        let times = || self.columns.iter().flat_map(|column| column.times_ns.iter().copied());
        Some((times().min()?, times().max()?))
    }
}

/// Times that are already there are used again.
fn share(shared: &mut HashMap<u64, Vec<Arc<[i64]>>>, times: Vec<i64>) -> Arc<[i64]> {
    let mut hasher = DefaultHasher::new();
    times.hash(&mut hasher);
    let same = shared.entry(hasher.finish()).or_default();
    if let Some(found) = same.iter().find(|candidate| ***candidate == *times) {
        return Arc::clone(found);
    }
    let times: Arc<[i64]> = times.into();
    same.push(Arc::clone(&times));
    times
}

/// Encodes points in version 2, compressed at a level of zstd (1 to 22; [`DEFAULT_LEVEL`] is a good one).
///
/// # Errors
/// [`EncodeError`] when there are more than a block may hold.
pub fn encode_columns(columns: &Columns, level: i32) -> Result<Vec<u8>, EncodeError> {
    let body = put_body(&columns.columns);
    if body.len() > MAX_DECODED_BYTES || columns.len() > MAX_POINTS || columns.columns.len() > MAX_COLUMNS {
        return Err(EncodeError::TooLarge { bytes: body.len() });
    }
    frame(VERSION, &body, level)
}

/// Decodes what [`encode_columns`] wrote, of any version.
///
/// Safe on bytes from anyone: memory is bounded and nothing panics.
///
/// # Errors
/// [`DecodeError`] when the bytes are anything else.
pub fn decode_columns(bytes: &[u8]) -> Result<Columns, DecodeError> {
    match bytes.first() {
        None => Err(DecodeError::Empty),
        Some(&VERSION) => get_body(&unframe(bytes)?),
        Some(&version) => Err(DecodeError::UnknownVersion { version }),
    }
}

fn put_body(columns: &[SeriesColumn]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024 + columns.iter().map(|c| c.values.len() * 2).sum::<usize>());
    let groups = Groups::of(columns);
    varint::put(&mut out, groups.times.len() as u64);
    for times in &groups.times {
        let unit = UNITS.iter().find(|(_, unit)| times.iter().all(|at| at % unit == 0)).unwrap_or(&(0, 1));
        out.push(unit.0);
        varint::put(&mut out, times.len() as u64);
        let scaled: Vec<i64> = times.iter().map(|at| at / unit.1).collect();
        put_integers(&mut out, &scaled);
    }
    varint::put(&mut out, columns.len() as u64);
    let mut before: &[u8] = &[];
    for column in columns {
        let key = column.key.as_bytes();
        let same = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        varint::put(&mut out, same as u64);
        varint::put(&mut out, (key.len() - same) as u64);
        out.extend_from_slice(key.get(same..).unwrap_or_default());
        before = key;
    }
    for (column, (group, present)) in columns.iter().zip(&groups.of_column) {
        out.push(column.values.kind() as u8 | if present.is_some() { 0x80 } else { 0 });
        varint::put(&mut out, *group as u64);
        if let Some(present) = present {
            put_bits(&mut out, present.iter().copied());
        }
    }
    for column in columns {
        match &column.values {
            Values::Float(values) => put_floats(&mut out, values),
            Values::Integer(values) => put_integers(&mut out, values),
            Values::Boolean(values) => put_bits(&mut out, values.iter().copied()),
            Values::Text(values) | Values::Json(values) => put_texts(&mut out, values),
        }
    }
    out
}

/// The columns of times, and for each column of values which it uses, and which rows of it.
#[derive(Debug)]
struct Groups<'a> {
    times: Vec<&'a [i64]>,
    of_column: Vec<(usize, Option<Vec<bool>>)>,
}

impl<'a> Groups<'a> {
    fn of(columns: &'a [SeriesColumn]) -> Self {
        // The longest come first, so that one with a gap finds one without.
        let mut order: Vec<usize> = (0..columns.len()).collect();
        order.sort_by_key(|index| columns.get(*index).map(|c| std::cmp::Reverse(c.times_ns.len())));
        let mut times: Vec<&[i64]> = Vec::new();
        let mut exact: HashMap<&[i64], usize> = HashMap::new();
        let mut of_column = vec![(0, None); columns.len()];
        for index in order {
            let (Some(column), Some(slot)) = (columns.get(index), of_column.get_mut(index)) else { continue };
            let own: &[i64] = &column.times_ns;
            if let Some(group) = exact.get(own) {
                *slot = (*group, None);
                continue;
            }
            // A few are tried: the rows must be there in the same order, and at least half of them be used.
            let part = times.iter().enumerate().take(4).find_map(|(group, all)| {
                (own.len() * 2 >= all.len()).then(|| rows_of(own, all)).flatten().map(|rows| (group, rows))
            });
            *slot = match part {
                Some((group, rows)) => (group, Some(rows)),
                None => {
                    times.push(own);
                    exact.insert(own, times.len() - 1);
                    (times.len() - 1, None)
                }
            };
        }
        Self { times, of_column }
    }
}

/// Which of `all` are `own`, if `own` is a part of it in the same order.
fn rows_of(own: &[i64], all: &[i64]) -> Option<Vec<bool>> {
    let mut rest = own.iter().peekable();
    let rows: Vec<bool> = all.iter().map(|at| rest.next_if_eq(&at).is_some()).collect();
    rest.peek().is_none().then_some(rows)
}

fn get_body(body: &[u8]) -> Result<Columns, DecodeError> {
    let mut reader = Reader::new(body);
    let mut room = MAX_DECODED_BYTES;
    let mut take = |bytes: usize| {
        room =
            room.checked_sub(bytes).ok_or(malformed("block takes more memory decoded than a block may"))?;
        Ok::<(), DecodeError>(())
    };

    let groups = capped(&mut reader, "columns of times", MAX_COLUMNS)?;
    let mut times: Vec<Arc<[i64]>> = Vec::with_capacity(groups.min(1024));
    for _ in 0..groups {
        let exponent = reader.byte().ok_or(malformed("body ends before a unit"))?;
        let unit = UNITS.iter().find(|(candidate, _)| *candidate == exponent);
        let (_, unit) = unit.ok_or(malformed("times have an unknown unit"))?;
        let rows = capped(&mut reader, "rows", MAX_POINTS)?;
        take(rows * 8)?;
        let scaled = get_integers(&mut reader, rows).map_err(malformed)?;
        let scaled: Option<Vec<i64>> = scaled.into_iter().map(|at| at.checked_mul(*unit)).collect();
        times.push(scaled.ok_or(malformed("a time is out of range"))?.into());
    }

    let count = capped(&mut reader, "columns", MAX_COLUMNS)?;
    if count > reader.remaining() {
        return Err(malformed("body ends before its columns"));
    }
    let mut keys = Vec::with_capacity(count);
    let mut key: Vec<u8> = Vec::new();
    for _ in 0..count {
        let same = capped(&mut reader, "bytes of a key", key.len())?;
        let rest = capped(&mut reader, "bytes of a key", MAX_KEY_BYTES)?;
        key.truncate(same);
        key.extend_from_slice(reader.bytes(rest).ok_or(malformed("body ends inside a key"))?);
        take(key.len() + size_of::<SeriesColumn>())?;
        keys.push(SeriesKey::from_bytes(&key).map_err(|_| malformed("a key names no series"))?);
    }
    let mut heads: Vec<(Kind, Arc<[i64]>)> = Vec::with_capacity(count);
    for _ in 0..count {
        let head = reader.byte().ok_or(malformed("body ends before a column"))?;
        let kind = Kind::of_byte(head & 0x7f).ok_or(malformed("column has an unknown kind"))?;
        let group = capped(&mut reader, "columns of times", MAX_COLUMNS)?;
        let all = times.get(group).ok_or(malformed("column names times that are not there"))?;
        let own = if head & 0x80 == 0 {
            Arc::clone(all)
        } else {
            take(all.len() * 9)?;
            let present = get_bits(&mut reader, all.len()).map_err(malformed)?;
            all.iter().zip(present).filter_map(|(at, present)| present.then_some(*at)).collect()
        };
        heads.push((kind, own));
    }
    let mut columns = Vec::with_capacity(count);
    let mut points = 0usize;
    for (key, (kind, times_ns)) in keys.into_iter().zip(heads) {
        let rows = times_ns.len();
        points += rows;
        if points > MAX_POINTS {
            return Err(DecodeError::BeyondCap { what: "points", value: points as u64, cap: MAX_POINTS });
        }
        take(rows * if matches!(kind, Kind::Text | Kind::Json) { 32 } else { 8 })?;
        let mut texts = MAX_DECODED_BYTES;
        let values = match kind {
            Kind::Float => get_floats(&mut reader, rows).map(Values::Float),
            Kind::Integer => get_integers(&mut reader, rows).map(Values::Integer),
            Kind::Boolean => get_bits(&mut reader, rows).map(Values::Boolean),
            Kind::Text => get_texts(&mut reader, rows, &mut texts).map(Values::Text),
            Kind::Json => get_texts(&mut reader, rows, &mut texts).map(Values::Json),
        }
        .map_err(malformed)?;
        take(MAX_DECODED_BYTES - texts)?;
        columns.push(SeriesColumn { key, times_ns, values });
    }
    if reader.remaining() > 0 {
        return Err(malformed("body goes on after its last column"));
    }
    Ok(Columns { columns })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<f64>().prop_map(Value::Float),
            (-9999i32..9999).prop_map(|v| Value::Float(f64::from(v) / 100.0)),
            any::<i64>().prop_map(Value::Integer),
            (0i64..50).prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Boolean),
            "[a-zü]{0,8}".prop_map(Value::Text),
            "[0-9]{0,3}".prop_map(Value::Json),
        ]
    }

    fn bits(columns: &Columns) -> Vec<String> {
        let mut shown: Vec<String> = columns
            .points()
            .map(|(key, at, value)| match value {
                Value::Float(value) => format!("{key} {at} {:x}", value.to_bits()),
                value => format!("{key} {at} {value:?}"),
            })
            .collect();
        shown.sort();
        shown
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

        #[test]
        fn every_point_comes_back_with_every_bit(
            points in prop::collection::vec((0usize..6, prop_oneof![any::<i64>(), (0i64..40).prop_map(|n| n * 1_000_000_000)], value()), 0..200),
        ) {
            let mut batch = PointBatch::new();
            for (series, at, value) in points {
                let tag = (series % 3).to_string();
                let id = batch.series(if series < 3 { "a" } else { "b" }, "v", [("t", tag.as_str())]).unwrap();
                batch.push(id, at, value).unwrap();
            }
            let columns = Columns::of(&batch);
            prop_assert_eq!(columns.len(), batch.len());
            let bytes = encode_columns(&columns, 1).unwrap();
            let back = decode_columns(&bytes).unwrap();
            prop_assert_eq!(bits(&back), bits(&columns));
            // The same columns give the same bytes: a batch written again is the same batch.
            prop_assert_eq!(encode_columns(&back, 1).unwrap(), bytes);
        }

        #[test]
        fn damaged_bodies_under_a_right_checksum_give_an_error_or_points(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut body = put_body(&sample().columns);
            let at = at.index(body.len());
            body[at] = byte;
            if cut { body.truncate(at); }
            if let Ok(columns) = decode_columns(&frame(VERSION, &body, 1).unwrap()) {
                prop_assert!(columns.len() <= MAX_POINTS);
                prop_assert!(encode_columns(&columns, 1).is_ok());
            }
        }
    }

    /// Something of everything: gaps, kinds, odd values.
    fn sample() -> Columns {
        let mut batch = PointBatch::new();
        for row in 0..40i64 {
            let at = 1_700_000_000_000_000_000 + row * 10_000_000_000 + (row % 7) * 1_000_000;
            for series in 0..5 {
                let tag = format!("line-{series}");
                let id = batch.series("temperature", "value", [("line", tag.as_str())]).unwrap();
                if row % 11 != series {
                    batch.push(id, at, Value::Float((2100 + row * series) as f64 / 100.0)).unwrap();
                }
            }
            let id = batch.series("vibration", "rms", []).unwrap();
            batch.push(id, at + row, Value::Float(1.0 / (row + 3) as f64)).unwrap();
            let id = batch.series("state", "", []).unwrap();
            batch.push(id, at, Value::Text(if row % 5 == 0 { "stopped" } else { "running" }.into())).unwrap();
            let id = batch.series("counter", "total", []).unwrap();
            batch.push(id, at, Value::Integer(row * row)).unwrap();
            let id = batch.series("counter", "ok", []).unwrap();
            batch.push(id, at, Value::Boolean(row % 3 == 0)).unwrap();
            let id = batch.series("order", "", []).unwrap();
            batch.push(id, at, Value::Json(format!("{{\"n\":{}}}", row % 4))).unwrap();
        }
        Columns::of(&batch)
    }

    #[test]
    fn the_golden_block_of_version_2_reads_for_ever() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v2.columns");
        if std::env::var_os("FARSHORE_WRITE_GOLDEN").is_some() {
            std::fs::write(golden, encode_columns(&sample(), DEFAULT_LEVEL).unwrap()).unwrap();
        }
        let bytes = std::fs::read(golden).unwrap();
        assert_eq!(bits(&decode_columns(&bytes).unwrap()), bits(&sample()));
    }

    #[test]
    fn series_that_were_sampled_together_share_their_times() {
        let columns = sample();
        let groups = Groups::of(&columns.columns);
        assert_eq!(groups.times.len(), 2, "one for the samples, one for the series with times of its own");
        assert_eq!(groups.of_column.iter().filter(|(_, rows)| rows.is_some()).count(), 5);
    }
}
