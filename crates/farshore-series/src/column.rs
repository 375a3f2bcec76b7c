//! One column of values: which form fits, and the way there and back.

use crate::varint::{self, Reader, put_signed, signed_len};

const DECIMAL: u8 = 0;
const DECIMAL_DELTA: u8 = 1;
const DECIMAL_DELTA2: u8 = 2;
const XOR_PLANES: u8 = 3;
const HAS_EXCEPTIONS: u8 = 0x40;
const HAS_BITMAP: u8 = 0x80;

const MAX_DECIMALS: usize = 6;
const POWERS: [f64; MAX_DECIMALS + 1] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
/// Integers below this are exact in an `f64`.
const MAX_INTEGER: i64 = 1 << 53;

/// Appends one column.
pub(crate) fn put(out: &mut Vec<u8>, cells: &[Option<f64>]) {
    let present: Vec<f64> = cells.iter().flatten().copied().collect();
    let bitmap = if present.len() == cells.len() { 0 } else { HAS_BITMAP };
    match as_decimals(&present) {
        Some(Decimals { decimals, integers, exceptions }) => {
            let form = smallest_form(&integers);
            let flag = if exceptions.is_empty() { 0 } else { HAS_EXCEPTIONS };
            out.push(form | flag | bitmap);
            out.push(decimals);
            put_bitmap(out, bitmap, cells);
            put_exceptions(out, &exceptions);
            each_difference(form, &integers, |difference| put_signed(out, difference));
        }
        None => {
            out.push(XOR_PLANES | bitmap);
            put_bitmap(out, bitmap, cells);
            put_planes(out, &present);
        }
    }
}

/// Reads one column of `rows` cells.
pub(crate) fn get(reader: &mut Reader<'_>, rows: usize) -> Result<Vec<Option<f64>>, &'static str> {
    let head = reader.byte().ok_or("column ends before its head")?;
    let form = head & !HAS_BITMAP & !HAS_EXCEPTIONS;
    let has_exceptions = head & HAS_EXCEPTIONS != 0;
    let power = match form {
        DECIMAL | DECIMAL_DELTA | DECIMAL_DELTA2 => {
            let decimals = reader.byte().ok_or("column ends before its decimals")?;
            *POWERS.get(usize::from(decimals)).ok_or("column has more than 6 decimals")?
        }
        XOR_PLANES if !has_exceptions => 1.0,
        _ => return Err("column has an unknown form"),
    };
    let bitmap = if head & HAS_BITMAP == 0 { None } else { Some(get_bitmap(reader, rows)?) };
    let present = bitmap.map_or(rows, |bitmap| bitmap.iter().map(|byte| byte.count_ones() as usize).sum());

    let values = if form == XOR_PLANES {
        get_planes(reader, present)?
    } else {
        let exceptions = if has_exceptions { get_exceptions(reader, present)? } else { Vec::new() };
        let mut values = get_decimals(reader, present, form, power)?;
        for (index, bits) in exceptions {
            *values.get_mut(index).ok_or(BAD_EXCEPTION)? = f64::from_bits(bits);
        }
        values
    };
    let mut values = values.into_iter();
    Ok(match bitmap {
        None => values.map(Some).collect(),
        Some(bitmap) => (0..rows).map(|row| is_set(bitmap, row).then(|| values.next()).flatten()).collect(),
    })
}

const BAD_EXCEPTION: &str = "an exception stands for a value that does not exist";

/// `exceptions` are (position among the present values, bits), ascending. Nothing is written for none.
pub(crate) fn put_exceptions(out: &mut Vec<u8>, exceptions: &[(usize, u64)]) {
    if exceptions.is_empty() {
        return;
    }
    varint::put(out, exceptions.len() as u64);
    let mut next = 0;
    for &(index, bits) in exceptions {
        varint::put(out, (index - next) as u64);
        out.extend_from_slice(&bits.to_le_bytes());
        next = index + 1;
    }
}

pub(crate) fn get_exceptions(
    reader: &mut Reader<'_>,
    present: usize,
) -> Result<Vec<(usize, u64)>, &'static str> {
    const ENDS: &str = "column ends inside its exceptions";
    let count = reader.unsigned().and_then(|count| usize::try_from(count).ok()).ok_or(ENDS)?;
    if count > present {
        return Err("column has more exceptions than values");
    }
    let mut exceptions = Vec::with_capacity(count);
    let mut next = 0usize;
    for _ in 0..count {
        let gap = usize::try_from(reader.unsigned().ok_or(ENDS)?).map_err(|_| BAD_EXCEPTION)?;
        let index = next.checked_add(gap).filter(|index| *index < present).ok_or(BAD_EXCEPTION)?;
        let bits = reader.bytes(8).and_then(|bytes| bytes.try_into().ok()).ok_or(ENDS)?;
        exceptions.push((index, u64::from_le_bytes(bits)));
        next = index + 1;
    }
    Ok(exceptions)
}

fn put_bitmap(out: &mut Vec<u8>, wanted: u8, cells: &[Option<f64>]) {
    if wanted == 0 {
        return;
    }
    for group in cells.chunks(8) {
        out.push(
            group.iter().enumerate().fold(0, |byte, (bit, cell)| byte | (u8::from(cell.is_some()) << bit)),
        );
    }
}

fn get_bitmap<'a>(reader: &mut Reader<'a>, rows: usize) -> Result<&'a [u8], &'static str> {
    let bitmap = reader.bytes(rows.div_ceil(8)).ok_or("column ends inside its presence bitmap")?;
    let padding = (rows..bitmap.len() * 8).any(|row| is_set(bitmap, row));
    if padding { Err("presence bitmap marks rows that do not exist") } else { Ok(bitmap) }
}

fn is_set(bitmap: &[u8], row: usize) -> bool {
    bitmap.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

/// A column as integers with a common number of decimals.
#[derive(Debug)]
pub(crate) struct Decimals {
    pub(crate) decimals: u8,
    /// One for each value; an exception repeats the one before it.
    pub(crate) integers: Vec<i64>,
    /// Position and bits of the values that are not such a decimal: a negative zero, a NaN, an outlier.
    pub(crate) exceptions: Vec<(usize, u64)>,
}

/// The column as decimals, if nearly all of its values come back with the same bits.
pub(crate) fn as_decimals(values: &[f64]) -> Option<Decimals> {
    let decimals = common_decimals(values)?;
    let mut integers = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    for (index, &value) in values.iter().enumerate() {
        let integer = scaled(value, decimals).unwrap_or_else(|| {
            exceptions.push((index, value.to_bits()));
            integers.last().copied().unwrap_or(0)
        });
        integers.push(integer);
    }
    Some(Decimals { decimals: u8::try_from(decimals).ok()?, integers, exceptions })
}

/// The fewest decimals that leave one exception in 32 values or fewer; else those that leave the fewest, where
/// that is one in four or fewer. An exception takes about ten bytes, a digit more takes three bits a value.
fn common_decimals(values: &[f64]) -> Option<usize> {
    let (few, most) = (values.len() / 32, values.len() / 4);
    let mut best: Option<(usize, usize)> = None;
    for decimals in 0..=MAX_DECIMALS {
        // Counted no further than to know that there are too many.
        let exceptions =
            values.iter().filter(|value| scaled(**value, decimals).is_none()).take(most + 1).count();
        if exceptions <= few {
            return Some(decimals);
        }
        if exceptions <= most && best.is_none_or(|(fewest, _)| exceptions < fewest) {
            best = Some((exceptions, decimals));
        }
    }
    best.map(|(_, decimals)| decimals)
}

/// The integer that [`unscaled`] turns back into exactly this value.
fn scaled(value: f64, decimals: usize) -> Option<i64> {
    let power = *POWERS.get(decimals)?;
    let rounded = (value * power).round();
    if rounded.is_nan() || rounded.abs() >= MAX_INTEGER as f64 {
        return None;
    }
    let integer = rounded as i64;
    (unscaled(integer, power).to_bits() == value.to_bits()).then_some(integer)
}

fn unscaled(integer: i64, power: f64) -> f64 {
    integer as f64 / power
}

/// The double that is this integer with so many decimals; `None` for what [`as_decimals`] never gives.
pub(crate) fn unscaled_at(integer: i64, decimals: usize) -> Option<f64> {
    let power = *POWERS.get(decimals)?;
    (integer.unsigned_abs() < MAX_INTEGER.unsigned_abs()).then(|| unscaled(integer, power))
}

/// The form whose varints are shortest in sum.
fn smallest_form(integers: &[i64]) -> u8 {
    let length = |form| {
        let mut bytes = 0;
        each_difference(form, integers, |difference| bytes += signed_len(difference));
        bytes
    };
    // On a tie the earlier wins. Deltas come first: zstd finds more in them.
    [DECIMAL_DELTA, DECIMAL_DELTA2, DECIMAL].into_iter().min_by_key(|form| length(*form)).unwrap_or(DECIMAL)
}

/// What is written for each integer in a decimal form. The integers are below 2^53, so nothing overflows.
fn each_difference(form: u8, integers: &[i64], mut write: impl FnMut(i64)) {
    let (mut before, mut delta_before) = (0i64, 0i64);
    for (index, &integer) in integers.iter().enumerate() {
        let delta = integer - before;
        match form {
            DECIMAL => write(integer),
            DECIMAL_DELTA => write(delta),
            _ => write(delta - delta_before),
        }
        before = integer;
        delta_before = if index == 0 { 0 } else { delta };
    }
}

fn get_decimals(
    reader: &mut Reader<'_>,
    present: usize,
    form: u8,
    power: f64,
) -> Result<Vec<f64>, &'static str> {
    if present > reader.remaining() {
        return Err("column ends before its values");
    }
    let mut values = Vec::with_capacity(present);
    let (mut before, mut delta_before) = (0i64, 0i64);
    for index in 0..present {
        let difference = reader.signed().ok_or("column ends inside a value")?;
        let integer = match form {
            DECIMAL => difference,
            DECIMAL_DELTA => before.wrapping_add(difference),
            _ => before.wrapping_add(delta_before.wrapping_add(difference)),
        };
        if integer.unsigned_abs() >= MAX_INTEGER.unsigned_abs() {
            return Err("decimal value is beyond 2^53");
        }
        delta_before = if index == 0 { 0 } else { integer - before };
        before = integer;
        values.push(unscaled(integer, power));
    }
    Ok(values)
}

fn put_planes(out: &mut Vec<u8>, values: &[f64]) {
    let mut before = 0u64;
    let changes: Vec<[u8; 8]> = values
        .iter()
        .map(|value| {
            let bits = value.to_bits();
            let change = bits ^ before;
            before = bits;
            change.to_be_bytes()
        })
        .collect();
    for plane in 0..8 {
        out.extend(changes.iter().map(|change| change[plane]));
    }
}

fn get_planes(reader: &mut Reader<'_>, present: usize) -> Result<Vec<f64>, &'static str> {
    let bytes = present
        .checked_mul(8)
        .and_then(|length| reader.bytes(length))
        .ok_or("column ends inside its planes")?;
    let mut changes = vec![0u64; present];
    if present > 0 {
        for plane in bytes.chunks_exact(present) {
            for (change, byte) in changes.iter_mut().zip(plane) {
                *change = *change << 8 | u64::from(*byte);
            }
        }
    }
    let mut bits = 0u64;
    Ok(changes
        .into_iter()
        .map(|change| {
            bits ^= change;
            f64::from_bits(bits)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(values: &[f64]) -> (u8, u8) {
        let cells: Vec<_> = values.iter().copied().map(Some).collect();
        let mut out = Vec::new();
        put(&mut out, &cells);
        let back = get(&mut Reader::new(&out), cells.len()).unwrap();
        let bits =
            |cells: &[Option<f64>]| cells.iter().map(|cell| cell.map(f64::to_bits)).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&cells));
        (out[0], out[1])
    }

    #[test]
    fn readings_with_few_decimals_become_integers() {
        assert_eq!(head_of(&[21.37, 21.4, 21.38]), (DECIMAL_DELTA, 2));
        assert_eq!(head_of(&[10.0, 20.0, 30.0, 40.0, 50.0]).1, 0);
        assert_eq!(head_of(&[0.000_001, -123.5]).1, 6);
        assert_eq!(head_of(&[1e15, 1.0]).1, 0);
        // An uptime counter is all zeroes as a delta of deltas.
        let uptime: Vec<f64> = (0..100).map(|n| f64::from(n) * 1e4).collect();
        assert_eq!(head_of(&uptime), (DECIMAL_DELTA2, 0));
    }

    #[test]
    fn what_is_no_short_decimal_keeps_its_bits() {
        let odd = f64::from_bits(0x7ff0_0000_dead_beef);
        for values in [
            &[0.1 + 0.2][..],
            &[-0.0],
            &[f64::INFINITY, 1.0],
            &[f64::NEG_INFINITY],
            &[f64::NAN, odd, -f64::NAN],
            &[9_007_199_254_740_992.0],
            &[f64::MIN_POSITIVE / 2.0, f64::MAX, f64::MIN],
            &[9_007_199_254_740_991.0, 0.5],
        ] {
            assert_eq!(head_of(values).0, XOR_PLANES, "{values:?}");
        }
    }

    #[test]
    fn a_few_odd_values_do_not_spoil_a_column() {
        let column = |odd: &[(usize, f64)]| {
            let mut values: Vec<f64> = (0..100).map(|n| f64::from(2000 + n % 7) / 100.0).collect();
            for (index, value) in odd {
                values[*index] = *value;
            }
            head_of(&values)
        };
        assert_eq!(column(&[]), (DECIMAL_DELTA, 2));
        assert_eq!(column(&[(0, -0.0), (1, f64::NAN), (99, 1e300)]), (DECIMAL_DELTA | HAS_EXCEPTIONS, 2));
        let quarter: Vec<_> = (0..25).map(|n| (n * 4, f64::NAN)).collect();
        assert_eq!(column(&quarter), (DECIMAL_DELTA | HAS_EXCEPTIONS, 2));
        let more: Vec<_> = (0..26).map(|n| (n, f64::NAN)).collect();
        assert_eq!(column(&more).0, XOR_PLANES);
        // One reading with more digits is cheaper as an exception than as three digits more for all.
        assert_eq!(column(&[(50, 20.12345)]), (DECIMAL_DELTA | HAS_EXCEPTIONS, 2));
    }

    #[test]
    fn exceptions_that_cannot_be_are_refused() {
        let read = |rest: &[u8]| {
            let bytes = [&[DECIMAL | HAS_EXCEPTIONS, 0][..], rest].concat();
            get(&mut Reader::new(&bytes), 2).unwrap_err()
        };
        assert_eq!(read(&[3]), "column has more exceptions than values");
        assert_eq!(read(&[1, 2, 0, 0, 0, 0, 0, 0, 0, 0]), BAD_EXCEPTION);
        assert_eq!(read(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), BAD_EXCEPTION);
        assert_eq!(read(&[1, 0, 0, 0]), "column ends inside its exceptions");
        let planes = [XOR_PLANES | HAS_EXCEPTIONS, 0];
        assert_eq!(get(&mut Reader::new(&planes), 0), Err("column has an unknown form"));
    }
}
