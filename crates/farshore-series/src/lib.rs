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
//! Varints are LEB128. Decimal forms follow the observation of ALP (Afroozeh and Boncz, SIGMOD 2023) that
//! measured doubles mostly began as short decimals, with the odd exception; XOR follows Gorilla (Pelkonen et al., VLDB 2015), with
//! byte planes in place of bit packing because the zstd stage does the packing.

mod block;
mod checksum;
mod codec;
mod column;
pub mod limits;
mod varint;

pub use block::{Block, BlockBuilder, ShapeError};
pub use codec::{CODEC_VERSION, DecodeError, EncodeError, decode, encode};
