//! What the points of one hour come to, series by series: the roll-ups that outlive the points, in version 3 of the codec.

use crate::block::Block;
use crate::codec::{DecodeError, EncodeError, capped, frame, malformed, unframe};
use crate::columns::{Columns, DEFAULT_LEVEL};
use crate::key::{MAX_KEY_BYTES, SeriesKey};
use crate::limits::MAX_DECODED_BYTES;
use crate::varint::{self, Reader};
use crate::words::{get_floats, get_integers, put_floats, put_integers};

/// The version byte of summaries.
const VERSION: u8 = 3;
/// Most series in one block of summaries.
pub const MAX_SUMMARIES: usize = 100_000;

/// What some points come to. Only finite numbers have a sum, a least, a greatest and a last one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// All points, those that are no numbers included.
    pub points: u64,
    /// Of these, finite numbers. With none, the fields from `sum` on are zero and mean nothing.
    pub numbers: u64,
    /// Unix time of the earliest point, in nanoseconds.
    pub first_ns: i64,
    /// All numbers added up.
    pub sum: f64,
    /// The least number.
    pub min: f64,
    /// The greatest number.
    pub max: f64,
    /// Unix time of the newest number, in nanoseconds.
    pub last_ns: i64,
    /// The newest number; of several with one time, the one that came last.
    pub last: f64,
}

impl Summary {
    /// Adds a point; `None`, and what is not finite, counts as a point that is no number.
    pub fn add(&mut self, at_ns: i64, value: Option<f64>) {
        let one = match value.filter(|value| value.is_finite()) {
            Some(value) => Self {
                points: 1,
                numbers: 1,
                first_ns: at_ns,
                sum: value,
                min: value,
                max: value,
                last_ns: at_ns,
                last: value,
            },
            None => Self { points: 1, first_ns: at_ns, ..Self::default() },
        };
        self.merge(&one);
    }

    /// Adds points that were put together before; they came later than those in here.
    pub fn merge(&mut self, later: &Self) {
        if later.points == 0 {
            return;
        }
        self.first_ns = if self.points == 0 { later.first_ns } else { self.first_ns.min(later.first_ns) };
        self.points = self.points.saturating_add(later.points);
        if later.numbers == 0 {
            return;
        }
        if self.numbers == 0 {
            *self = Self { points: self.points, first_ns: self.first_ns, ..*later };
            return;
        }
        self.numbers = self.numbers.saturating_add(later.numbers);
        self.sum += later.sum;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        if later.last_ns >= self.last_ns {
            (self.last_ns, self.last) = (later.last_ns, later.last);
        }
    }
}

/// The summary of each series of one hour, by key.
pub type Summaries = std::collections::BTreeMap<SeriesKey, Summary>;

/// Gathers points of any hours. Returns how many points were left out because their hour was not asked for.
pub fn summarize(
    columns: &Columns,
    hour_of: impl Fn(i64) -> Option<i64>,
    into: &mut std::collections::BTreeMap<i64, Summaries>,
) -> u64 {
    let mut left_out = 0;
    for column in &columns.columns {
        let numbers = column.values.numbers();
        let mut open: Option<(i64, Summary)> = None;
        for (index, at) in column.times_ns.iter().enumerate() {
            let Some(hour) = hour_of(*at) else {
                left_out += 1;
                continue;
            };
            let value = numbers.as_ref().and_then(|numbers| numbers.get(index).copied());
            match &mut open {
                Some((same, summary)) if *same == hour => summary.add(*at, value),
                _ => {
                    if let Some((hour, summary)) = open.take() {
                        merge_into(into, hour, &column.key, &summary);
                    }
                    let mut summary = Summary::default();
                    summary.add(*at, value);
                    open = Some((hour, summary));
                }
            }
        }
        if let Some((hour, summary)) = open {
            merge_into(into, hour, &column.key, &summary);
        }
    }
    left_out
}

fn merge_into(
    into: &mut std::collections::BTreeMap<i64, Summaries>,
    hour: i64,
    key: &SeriesKey,
    summary: &Summary,
) {
    let of_hour = into.entry(hour).or_default();
    match of_hour.get_mut(key) {
        Some(known) => known.merge(summary),
        None => drop(of_hour.insert(key.clone(), *summary)),
    }
}

/// Encodes summaries, ascending by key.
///
/// # Errors
/// [`EncodeError`] when there are more than a block may hold.
pub fn encode_summaries(summaries: &Summaries) -> Result<Vec<u8>, EncodeError> {
    if summaries.len() > MAX_SUMMARIES {
        return Err(EncodeError::TooLarge { bytes: summaries.len() * size_of::<Summary>() });
    }
    let mut body = Vec::with_capacity(64 + summaries.len() * 48);
    varint::put(&mut body, summaries.len() as u64);
    let mut before: &[u8] = &[];
    for key in summaries.keys() {
        let key = key.as_bytes();
        let same = key.iter().zip(before).take_while(|(a, b)| a == b).count();
        varint::put(&mut body, same as u64);
        varint::put(&mut body, (key.len() - same) as u64);
        body.extend_from_slice(key.get(same..).unwrap_or_default());
        before = key;
    }
    let integers = |of: fn(&Summary) -> i64| summaries.values().map(of).collect::<Vec<i64>>();
    let floats = |of: fn(&Summary) -> f64| summaries.values().map(of).collect::<Vec<f64>>();
    put_integers(&mut body, &integers(|one| one.points.cast_signed()));
    put_integers(&mut body, &integers(|one| one.numbers.cast_signed()));
    put_integers(&mut body, &integers(|one| one.first_ns));
    put_integers(&mut body, &integers(|one| one.last_ns));
    put_floats(&mut body, &floats(|one| one.sum));
    put_floats(&mut body, &floats(|one| one.min));
    put_floats(&mut body, &floats(|one| one.max));
    put_floats(&mut body, &floats(|one| one.last));
    if body.len() > MAX_DECODED_BYTES {
        return Err(EncodeError::TooLarge { bytes: body.len() });
    }
    frame(VERSION, &body, DEFAULT_LEVEL)
}

/// Decodes what [`encode_summaries`] wrote, of any version.
///
/// Safe on bytes from anyone: memory is bounded and nothing panics.
///
/// # Errors
/// [`DecodeError`] when the bytes are anything else.
pub fn decode_summaries(bytes: &[u8]) -> Result<Summaries, DecodeError> {
    match bytes.first() {
        None => Err(DecodeError::Empty),
        Some(&VERSION) => get_body(&unframe(bytes)?),
        Some(&version) => Err(DecodeError::UnknownVersion { version }),
    }
}

fn get_body(body: &[u8]) -> Result<Summaries, DecodeError> {
    let mut reader = Reader::new(body);
    let count = capped(&mut reader, "summaries", MAX_SUMMARIES)?;
    if count > reader.remaining() {
        return Err(malformed("body ends before its keys"));
    }
    let mut room = MAX_DECODED_BYTES;
    let mut keys: Vec<SeriesKey> = Vec::with_capacity(count);
    let mut key: Vec<u8> = Vec::new();
    for _ in 0..count {
        let same = capped(&mut reader, "bytes of a key", key.len())?;
        let rest = capped(&mut reader, "bytes of a key", MAX_KEY_BYTES)?;
        key.truncate(same);
        key.extend_from_slice(reader.bytes(rest).ok_or(malformed("body ends inside a key"))?);
        room = room
            .checked_sub(key.len() + size_of::<Summary>())
            .ok_or(malformed("block takes more memory decoded than a block may"))?;
        let key = SeriesKey::from_bytes(&key).map_err(|_| malformed("a key names no series"))?;
        if keys.last().is_some_and(|before| *before >= key) {
            return Err(malformed("keys are not ascending"));
        }
        keys.push(key);
    }
    let mut integers = || get_integers(&mut reader, count).map_err(malformed);
    let (points, numbers, first, last_at) = (integers()?, integers()?, integers()?, integers()?);
    let mut floats = || get_floats(&mut reader, count).map_err(malformed);
    let (sum, min, max, last) = (floats()?, floats()?, floats()?, floats()?);
    if reader.remaining() > 0 {
        return Err(malformed("body goes on after its last column"));
    }
    let at = |column: &[i64], index: usize| column.get(index).copied().unwrap_or_default();
    let number = |column: &[f64], index: usize| column.get(index).copied().unwrap_or_default();
    keys.into_iter()
        .enumerate()
        .map(|(index, key)| {
            let (points, numbers) = (at(&points, index), at(&numbers, index));
            if points < numbers || numbers < 0 {
                return Err(malformed("a summary counts more numbers than points"));
            }
            let summary = Summary {
                points: points.cast_unsigned(),
                numbers: numbers.cast_unsigned(),
                first_ns: at(&first, index),
                last_ns: at(&last_at, index),
                sum: number(&sum, index),
                min: number(&min, index),
                max: number(&max, index),
                last: number(&last, index),
            };
            Ok((key, summary))
        })
        .collect()
}

impl Block {
    /// The samples as points in columns: a series' name is the measurement, without a field.
    #[must_use]
    pub fn to_columns(&self) -> Columns {
        let columns = self.series.iter().zip(&self.columns).filter_map(|(name, cells)| {
            let (times, values): (Vec<i64>, Vec<f64>) = self
                .at_ms
                .iter()
                .zip(cells)
                .filter_map(|(at, cell)| cell.map(|value| (at.saturating_mul(1_000_000), value)))
                .unzip();
            let key = SeriesKey::new(name, "", []).ok()?;
            Some(crate::SeriesColumn { key, times_ns: times.into(), values: crate::Values::Float(values) })
        });
        Columns { columns: columns.collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u32) -> SeriesKey {
        SeriesKey::new("t", "v", [("n", n.to_string().as_str())]).unwrap()
    }

    fn sample() -> Summaries {
        let mut all = Summaries::new();
        for n in 0..20 {
            let summary = all.entry(key(n)).or_default();
            summary.add(1_700_000_000_000_000_000 + i64::from(n), Some(f64::from(n) / 100.0));
            summary.add(1_700_000_001_000_000_000, (n % 3 == 0).then_some(21.25));
        }
        all.entry(key(99)).or_default().add(5, None);
        all
    }

    #[test]
    fn the_golden_block_of_version_3_reads_for_ever() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v3.summaries");
        if std::env::var_os("FARSHORE_WRITE_GOLDEN").is_some() {
            std::fs::write(golden, encode_summaries(&sample()).unwrap()).unwrap();
        }
        assert_eq!(decode_summaries(&std::fs::read(golden).unwrap()).unwrap(), sample());
    }

    #[test]
    fn what_is_no_number_counts_and_does_nothing_else() {
        let mut summary = Summary::default();
        for value in [None, Some(f64::NAN), Some(f64::INFINITY)] {
            summary.add(7, value);
        }
        assert_eq!(summary, Summary { points: 3, first_ns: 7, ..Summary::default() });
        summary.add(3, Some(-2.5));
        let expected = Summary {
            points: 4,
            numbers: 1,
            first_ns: 3,
            sum: -2.5,
            min: -2.5,
            max: -2.5,
            last_ns: 3,
            last: -2.5,
        };
        assert_eq!(summary, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn summaries_of_parts_merge_to_the_summary_of_all(
            points in prop::collection::vec((0i64..50, prop::option::of(-1_000i32..1_000)), 0..60),
            cut in any::<prop::sample::Index>(),
        ) {
            let of = |points: &[(i64, Option<i32>)]| {
                let mut summary = Summary::default();
                for (at, value) in points { summary.add(*at, value.map(f64::from)); }
                summary
            };
            let at = cut.index(points.len() + 1);
            let mut merged = of(&points[..at]);
            merged.merge(&of(&points[at..]));
            prop_assert_eq!(merged, of(&points));
        }

        #[test]
        fn damaged_bodies_give_an_error_or_summaries(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut body = unframe(&encode_summaries(&sample()).unwrap()).unwrap();
            let at = at.index(body.len());
            body[at] = byte;
            if cut { body.truncate(at); }
            if let Ok(read) = decode_summaries(&frame(VERSION, &body, 1).unwrap()) {
                prop_assert!(encode_summaries(&read).is_ok());
            }
        }
    }
}
