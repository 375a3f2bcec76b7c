//! Columns of integers, doubles, truth values and texts in version 2: differences, then whole bytes that zstd packs.

use std::collections::HashMap;

use crate::column::{Decimals, as_decimals, get_exceptions, put_exceptions, unscaled_at};
use crate::varint::{self, Reader};

/// How integers are written: as they are, as differences, or as differences of these.
const PLAIN: u8 = 0;
const DELTA: u8 = 1;
const DELTA2: u8 = 2;

/// How doubles are written.
const DECIMALS: u8 = 0;
const DECIMALS_WITH_EXCEPTIONS: u8 = 1;
const BITS: u8 = 2;

const ENDS: &str = "column ends early";

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Appends `words`: a byte that says how, then either varints (0) or planes of one byte per word, high byte first (1 to 8).
fn put_words(out: &mut Vec<u8>, words: &[u64]) {
    let bits = |word: u64| 64 - word.leading_zeros();
    let most = words.iter().map(|word| bits(*word)).max().unwrap_or(0);
    let sum: u64 = words.iter().map(|word| u64::from(bits(*word))).sum();
    let planes = most.div_ceil(8).max(1);
    // Planes cost as much as the widest word; they pay when most words need about that.
    let narrow = most <= 7
        || sum < words.len() as u64 * 7
        || u64::from(planes - 1) * 8 * words.len() as u64 > sum + 8 * words.len() as u64;
    if narrow {
        out.push(0);
        for word in words {
            varint::put(out, *word);
        }
        return;
    }
    out.push(planes as u8);
    for plane in (0..planes).rev() {
        out.extend(words.iter().map(|word| (word >> (8 * plane)) as u8));
    }
}

fn get_words(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u64>, &'static str> {
    let planes = usize::from(reader.byte().ok_or(ENDS)?);
    if count > reader.remaining() {
        return Err(ENDS);
    }
    if planes == 0 {
        return (0..count).map(|_| reader.unsigned().ok_or(ENDS)).collect();
    }
    if planes > 8 {
        return Err("column has more than eight planes");
    }
    let bytes = count.checked_mul(planes).and_then(|length| reader.bytes(length)).ok_or(ENDS)?;
    let mut words = vec![0u64; count];
    if count > 0 {
        for plane in bytes.chunks_exact(count) {
            for (word, byte) in words.iter_mut().zip(plane) {
                *word = *word << 8 | u64::from(*byte);
            }
        }
    }
    Ok(words)
}

/// The differences of a form, zigzag; everything wraps, so that any integers come back.
fn differences(form: u8, integers: &[i64]) -> impl Iterator<Item = u64> + '_ {
    let (mut before, mut delta_before) = (0i64, 0i64);
    integers.iter().enumerate().map(move |(index, &integer)| {
        let delta = integer.wrapping_sub(before);
        let word = match form {
            PLAIN => integer,
            DELTA => delta,
            _ => delta.wrapping_sub(delta_before),
        };
        before = integer;
        delta_before = if index == 0 { 0 } else { delta };
        zigzag(word)
    })
}

/// Appends integers in the form whose differences need the fewest bits.
pub(crate) fn put_integers(out: &mut Vec<u8>, integers: &[i64]) {
    let bits =
        |form: u8| -> u64 { differences(form, integers).map(|w| u64::from(64 - w.leading_zeros())).sum() };
    let form = [DELTA, DELTA2, PLAIN].into_iter().min_by_key(|form| bits(*form)).unwrap_or(DELTA);
    out.push(form);
    let words: Vec<u64> = differences(form, integers).collect();
    put_words(out, &words);
}

pub(crate) fn get_integers(reader: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, &'static str> {
    let form = reader.byte().filter(|form| *form <= DELTA2).ok_or("column has an unknown form")?;
    let words = get_words(reader, count)?;
    let (mut before, mut delta_before) = (0i64, 0i64);
    Ok(words
        .into_iter()
        .enumerate()
        .map(|(index, word)| {
            let difference = unzigzag(word);
            let integer = match form {
                PLAIN => difference,
                DELTA => before.wrapping_add(difference),
                _ => before.wrapping_add(delta_before.wrapping_add(difference)),
            };
            delta_before = if index == 0 { 0 } else { integer.wrapping_sub(before) };
            before = integer;
            integer
        })
        .collect())
}

/// Appends doubles: as integers with a common number of decimals where nearly all come back with the same bits, else as their bits.
pub(crate) fn put_floats(out: &mut Vec<u8>, values: &[f64]) {
    match as_decimals(values) {
        Some(Decimals { decimals, integers, exceptions }) => {
            out.push(if exceptions.is_empty() { DECIMALS } else { DECIMALS_WITH_EXCEPTIONS });
            out.push(decimals);
            put_exceptions(out, &exceptions);
            put_integers(out, &integers);
        }
        None => {
            out.push(BITS);
            let bits: Vec<i64> = values.iter().map(|value| value.to_bits().cast_signed()).collect();
            put_integers(out, &bits);
        }
    }
}

pub(crate) fn get_floats(reader: &mut Reader<'_>, count: usize) -> Result<Vec<f64>, &'static str> {
    let form = reader.byte().ok_or(ENDS)?;
    if form == BITS {
        let bits = get_integers(reader, count)?;
        return Ok(bits.into_iter().map(|bits| f64::from_bits(bits.cast_unsigned())).collect());
    }
    if form > DECIMALS_WITH_EXCEPTIONS {
        return Err("column has an unknown form");
    }
    let decimals = usize::from(reader.byte().ok_or(ENDS)?);
    let exceptions =
        if form == DECIMALS_WITH_EXCEPTIONS { get_exceptions(reader, count)? } else { Vec::new() };
    let integers = get_integers(reader, count)?;
    let mut values = integers
        .into_iter()
        .map(|integer| unscaled_at(integer, decimals).ok_or("column holds a decimal that cannot be"))
        .collect::<Result<Vec<f64>, _>>()?;
    for (index, bits) in exceptions {
        *values.get_mut(index).ok_or("an exception stands for a value that does not exist")? =
            f64::from_bits(bits);
    }
    Ok(values)
}

pub(crate) fn put_bits(out: &mut Vec<u8>, bits: impl ExactSizeIterator<Item = bool>) {
    let start = out.len();
    out.resize(start + bits.len().div_ceil(8), 0);
    for (index, bit) in bits.enumerate() {
        if let Some(byte) = out.get_mut(start + index / 8) {
            *byte |= u8::from(bit) << (index % 8);
        }
    }
}

pub(crate) fn get_bits(reader: &mut Reader<'_>, count: usize) -> Result<Vec<bool>, &'static str> {
    let bytes = reader.bytes(count.div_ceil(8)).ok_or(ENDS)?;
    let bit = |index: usize| bytes.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    if (count..bytes.len() * 8).any(bit) {
        return Err("a bitmap marks values that do not exist");
    }
    Ok((0..count).map(bit).collect())
}

/// Appends texts: each different one once, in the order of their first use, then which it is for each value.
pub(crate) fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    let mut index: HashMap<&str, i64> = HashMap::new();
    let mut different: Vec<&str> = Vec::new();
    let ids: Vec<i64> = texts
        .iter()
        .map(|text| {
            *index.entry(text).or_insert_with(|| {
                different.push(text);
                different.len() as i64 - 1
            })
        })
        .collect();
    varint::put(out, different.len() as u64);
    for text in &different {
        varint::put(out, text.len() as u64);
    }
    for text in &different {
        out.extend_from_slice(text.as_bytes());
    }
    put_integers(out, &ids);
}

/// `room` is the memory that texts may still take; it shrinks by what these take.
pub(crate) fn get_texts(
    reader: &mut Reader<'_>,
    count: usize,
    room: &mut usize,
) -> Result<Vec<String>, &'static str> {
    let different = reader.unsigned().and_then(|n| usize::try_from(n).ok()).ok_or(ENDS)?;
    if different > count || different > reader.remaining() {
        return Err("column has more texts than values");
    }
    let mut lengths = Vec::with_capacity(different);
    for _ in 0..different {
        lengths.push(reader.unsigned().and_then(|n| usize::try_from(n).ok()).ok_or(ENDS)?);
    }
    let mut texts = Vec::with_capacity(different);
    for length in lengths {
        let bytes = reader.bytes(length).ok_or(ENDS)?;
        texts.push(str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?);
    }
    let ids = get_integers(reader, count)?;
    let mut values = Vec::with_capacity(count);
    for id in ids {
        let text = usize::try_from(id)
            .ok()
            .and_then(|id| texts.get(id))
            .ok_or("a value names a text that is not there")?;
        *room = room.checked_sub(text.len()).ok_or("texts take more memory than a block may")?;
        values.push((*text).to_owned());
    }
    Ok(values)
}
