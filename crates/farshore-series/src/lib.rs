//! Columns of measurements: the block codec that edge and cloud share.
//!
//! A [`Block`] holds the samples of one device's stream: a column of timestamps and one column per series.
//! [`encode`] turns it into bytes that are stored, sent and acknowledged unchanged; [`decode`] turns them
//! back, bit for bit. [`BlockBuilder`] gathers a block sample by sample.
//!
//! What the codec promises:
//!
//! - **Nothing is lost.** Every timestamp and every `f64` comes back with the same bits, NaN payloads,
//!   infinities and negative zero included; a missing value stays missing.
//! - **Nothing is made up.** A CRC-32C covers every byte, so a damaged block is an error, never a wrong value.
//! - **Decoding is total.** Any input gives a block or an error, within the caps of [`limits`], without panic.
//! - **Old blocks stay readable.** The first byte is the [`CODEC_VERSION`]; a sample of every version is kept
//!   under `tests/golden/` and must decode for ever.
//!
//! # Version 1
//!
//! ```text
//! block      = 0x01 · varint(length of body) · zstd frame of body · crc32c of everything before, little endian
//! body       = varint(rows) · varint(series) · name* · timestamps · column*
//! name       = varint(length) · UTF-8 bytes                    strictly ascending
//! timestamps = zigzag varints: the first value, the first delta, then deltas of deltas (wrapping)
//! column     = head byte · [decimals byte] · [presence bitmap] · [exceptions] · values of the present rows
//! head       = 0 decimal, 1 decimal delta, 2 decimal delta of delta, 3 XOR planes; + 0x80: bitmap, + 0x40: exceptions
//! decimals   = k in 0..=6, only for the decimal forms: value = integer / 10^k, |integer| < 2^53, zigzag varints
//! bitmap     = one bit per row, least significant first, padding bits zero
//! exceptions = only for the decimal forms: varint(count), then for each varint(values skipped) and the f64, little
//!              endian; it replaces the integer written in its place
//! XOR planes = each value's bits XOR those of the one before, as eight planes of one byte per value, high byte first
//! ```
//!
//! # Version 2
//!
//! Points of any kind in [`Columns`], for the sealed batches of streams; frame, varints and checksum as in version 1.
//!
//! ```text
//! body    = varint(groups) · times* · varint(columns) · key* · head* · values*
//! times   = unit (9, 6, 3 or 0: the time is the integer × 10^unit ns) · varint(rows) · integers
//! key     = varint(bytes shared with the key before) · varint(further bytes) · bytes     canonical, see SeriesKey
//! head    = kind (0 float, 1 integer, 2 boolean, 3 text, 4 JSON; + 0x80: bitmap) · varint(group) · [bitmap of the group's rows]
//! float   = 0 decimals | 1 decimals with exceptions | 2 bits, then: [decimals k · [exceptions as in version 1]] · integers
//! boolean = bitmap          text, JSON = varint(different) · varint(length)* · bytes · integers (which one, for each value)
//! integers = form (0 plain, 1 differences, 2 differences of differences; wrapping, zigzag) · layout · words
//! layout  = 0: varints; 1 to 8: so many planes of one byte per word, high byte first
//! ```
//!
//! # Version 3
//!
//! What the points of one hour come to, by series ([`Summary`]); frame, keys, integers and floats as in version 2.
//!
//! ```text
//! body = varint(series) · key* · integers (points) · integers (numbers) · integers (first ns) · integers (last ns) · floats (sum) · floats (min)
//!        · floats (max) · floats (last)
//! ```
//!
//! Varints are LEB128. Decimal forms follow the observation of ALP (Afroozeh and Boncz, SIGMOD 2023) that
//! measured doubles mostly began as short decimals, with the odd exception; XOR follows Gorilla (Pelkonen et al., VLDB 2015), with
//! byte planes in place of bit packing because the zstd stage does the packing.

mod block;
mod checksum;
mod codec;
mod column;
mod columns;
mod concat;
mod key;
pub mod limits;
mod points;
mod summary;
mod varint;
mod words;

pub use block::{Block, BlockBuilder, ShapeError};
pub use checksum::crc32c;
pub use codec::{CODEC_VERSION, DecodeError, EncodeError, decode, encode};
pub use columns::{
    Columns, DEFAULT_LEVEL, MAX_COLUMNS, SeriesColumn, Values, decode_columns, encode_columns,
};
pub use key::{KeyError, MAX_KEY_BYTES, MAX_PART_BYTES, MAX_TAGS, SeriesKey};
pub use points::{
    Kind, MAX_BATCH_SERIES, MAX_POINTS, MAX_TEXT_BYTES, Point, PointBatch, PointError, RowsError, Sample,
    SeriesId, Value,
};
pub use summary::{MAX_SUMMARIES, Summaries, Summary, decode_summaries, encode_summaries, summarize};
