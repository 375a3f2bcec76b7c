//! A block to bytes and back: version, body, compression, checksum. The layout is in the crate's documentation.

use std::io;

use zstd::zstd_safe::CParameter;

use crate::block::{Block, ShapeError, check_names, check_size};
use crate::checksum::crc32c;
use crate::column;
use crate::limits::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES, MAX_NAME_BYTES, MAX_ROWS, MAX_SERIES};
use crate::varint::{Reader, put, put_signed};

/// The version that [`encode`] writes, as the first byte of the block. [`decode`] reads every version up to it.
pub const CODEC_VERSION: u8 = 1;

const LEVEL: i32 = 3;
const CHECKSUM_BYTES: usize = 4;

/// Why a block could not be encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The fields do not make a block within the limits.
    #[error("block cannot be encoded")]
    Shape(#[from] ShapeError),
    /// The body is larger than a decoder accepts.
    #[error("block has a body of {bytes} bytes, more than {MAX_DECODED_BYTES}")]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
    },
    /// Compression failed.
    #[error("block cannot be compressed")]
    Compress(#[source] io::Error),
}

/// Why bytes could not be decoded. Whatever the variant, no value was made up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There is no byte at all.
    #[error("block is empty")]
    Empty,
    /// The block was written by a version that this one does not know.
    #[error("block has codec version {version}; this program reads up to {CODEC_VERSION}")]
    UnknownVersion {
        /// The version byte.
        version: u8,
    },
    /// The bytes are not those that were written.
    #[error("block is damaged: its checksum does not match")]
    Checksum,
    /// A length or count is beyond its cap.
    #[error("block declares {value} {what}, more than {cap}")]
    BeyondCap {
        /// What is counted.
        what: &'static str,
        /// The declared number.
        value: u64,
        /// The largest that is accepted.
        cap: usize,
    },
    /// The checksum is right and the contents are not.
    #[error("block is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// The decoded fields do not make a block.
    #[error("block is malformed")]
    Shape(#[from] ShapeError),
    /// Decompression failed.
    #[error("block cannot be decompressed")]
    Decompress(#[source] io::Error),
}

/// Encodes a block in the current version.
///
/// # Errors
/// [`EncodeError`] when the block does not fit together or is beyond the [`limits`](crate::limits).
pub fn encode(block: &Block) -> Result<Vec<u8>, EncodeError> {
    block.check()?;
    let body = put_body(block);
    if body.len() > MAX_DECODED_BYTES {
        return Err(EncodeError::TooLarge { bytes: body.len() });
    }
    frame(CODEC_VERSION, &body, LEVEL)
}

/// Version, length, compressed body and checksum, as every version has them.
pub(crate) fn frame(version: u8, body: &[u8], level: i32) -> Result<Vec<u8>, EncodeError> {
    let frame = compress(body, level).map_err(EncodeError::Compress)?;
    let mut out = Vec::with_capacity(frame.len() + 10);
    out.push(version);
    put(&mut out, body.len() as u64);
    out.extend_from_slice(&frame);
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

/// Decodes a block of any known version.
///
/// Safe on bytes from anyone: it allocates at most twice [`MAX_DECODED_BYTES`] (body and block) and never panics.
///
/// # Errors
/// [`DecodeError`] when the bytes are not exactly what [`encode`] of some version wrote.
pub fn decode(bytes: &[u8]) -> Result<Block, DecodeError> {
    match bytes.first() {
        None => Err(DecodeError::Empty),
        Some(1) => decode_v1(bytes),
        Some(&version) => Err(DecodeError::UnknownVersion { version }),
    }
}

fn decode_v1(bytes: &[u8]) -> Result<Block, DecodeError> {
    get_body(&unframe(bytes)?)
}

/// The body within what [`frame`] made.
pub(crate) fn unframe(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if bytes.len() > MAX_ENCODED_BYTES {
        return Err(beyond("bytes", bytes.len() as u64, MAX_ENCODED_BYTES));
    }
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DecodeError::Checksum)?;
    if crc32c(content) != u32::from_le_bytes(*checksum) {
        return Err(DecodeError::Checksum);
    }
    let mut reader = Reader::new(content);
    reader.byte();
    let length = capped(&mut reader, "bytes of body", MAX_DECODED_BYTES)?;
    decompress(reader.rest(), length)
}

fn compress(body: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    // Length and checksum are ours; small blocks need not carry them twice.
    compressor.set_parameter(CParameter::ContentSizeFlag(false))?;
    compressor.set_parameter(CParameter::ChecksumFlag(false))?;
    compressor.set_parameter(CParameter::DictIdFlag(false))?;
    compressor.compress(body)
}

/// Decompresses into a buffer of exactly `length` bytes: zstd's bulk form writes straight into it and has no
/// window of its own to allocate, so a frame cannot ask for more.
fn decompress(frame: &[u8], length: usize) -> Result<Vec<u8>, DecodeError> {
    let mut body = vec![0; length];
    let written = zstd::bulk::decompress_to_buffer(frame, &mut body[..]).map_err(DecodeError::Decompress)?;
    if written != length {
        return Err(malformed("body is shorter than declared"));
    }
    Ok(body)
}

fn put_body(block: &Block) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + block.rows() * (block.series.len() + 1) * 2);
    put(&mut out, block.rows() as u64);
    put(&mut out, block.series.len() as u64);
    for name in &block.series {
        put(&mut out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
    }
    let (mut before, mut delta_before) = (0i64, 0i64);
    for (row, &at_ms) in block.at_ms.iter().enumerate() {
        let delta = at_ms.wrapping_sub(before);
        put_signed(&mut out, delta.wrapping_sub(delta_before));
        before = at_ms;
        delta_before = if row == 0 { 0 } else { delta };
    }
    for cells in &block.columns {
        column::put(&mut out, cells);
    }
    out
}

fn get_body(body: &[u8]) -> Result<Block, DecodeError> {
    let mut reader = Reader::new(body);
    let rows = capped(&mut reader, "rows", MAX_ROWS)?;
    let count = capped(&mut reader, "series", MAX_SERIES)?;

    let mut series = Vec::with_capacity(count);
    for _ in 0..count {
        let length = capped(&mut reader, "bytes of name", MAX_NAME_BYTES)?;
        let name = reader.bytes(length).ok_or(malformed("body ends inside a name"))?;
        let name = str::from_utf8(name).map_err(|_| malformed("a name is not UTF-8"))?;
        series.push(name.to_owned());
    }
    check_names(&series)?;
    // Before the first cell is allocated: the caps on rows and series alone would allow 400 MB.
    check_size(rows, &series)?;

    if rows > reader.remaining() {
        return Err(malformed("body ends before its timestamps"));
    }
    let mut at_ms = Vec::with_capacity(rows);
    let (mut before, mut delta_before) = (0i64, 0i64);
    for row in 0..rows {
        let difference = reader.signed().ok_or(malformed("body ends inside a timestamp"))?;
        let delta = delta_before.wrapping_add(difference);
        before = before.wrapping_add(delta);
        delta_before = if row == 0 { 0 } else { delta };
        at_ms.push(before);
    }

    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(column::get(&mut reader, rows).map_err(malformed)?);
    }
    if reader.remaining() > 0 {
        return Err(malformed("body goes on after its last column"));
    }
    Ok(Block { series, at_ms, columns })
}

pub(crate) fn capped(reader: &mut Reader<'_>, what: &'static str, cap: usize) -> Result<usize, DecodeError> {
    let value = reader.unsigned().ok_or(malformed("a length is missing or too long"))?;
    usize::try_from(value).ok().filter(|value| *value <= cap).ok_or(beyond(what, value, cap))
}

fn beyond(what: &'static str, value: u64, cap: usize) -> DecodeError {
    DecodeError::BeyondCap { what, value, cap }
}

pub(crate) fn malformed(what: &'static str) -> DecodeError {
    DecodeError::Malformed { what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body with the right frame around it: what a hostile device could send.
    fn sealed(body: &[u8], declared: u64) -> Vec<u8> {
        let mut out = vec![1];
        put(&mut out, declared);
        out.extend(compress(body, LEVEL).unwrap());
        let checksum = crc32c(&out);
        out.extend(checksum.to_le_bytes());
        out
    }

    fn error_of(body: &[u8]) -> String {
        decode(&sealed(body, body.len() as u64)).unwrap_err().to_string()
    }

    #[test]
    fn unknown_versions_say_which_they_are() {
        let error = decode(&[2, 0, 0]).unwrap_err();
        assert_eq!(error.to_string(), "block has codec version 2; this program reads up to 1");
        assert!(matches!(decode(&[]), Err(DecodeError::Empty)));
        assert!(matches!(decode(&[1]), Err(DecodeError::Checksum)));
    }

    #[test]
    fn declared_sizes_beyond_the_caps_are_refused_before_allocating() {
        let varint = |value| {
            let mut out = Vec::new();
            put(&mut out, value);
            out
        };
        assert_eq!(error_of(&varint(100_001)), "block declares 100001 rows, more than 100000");
        assert_eq!(error_of(&[0, 0x81, 0x02]), "block declares 257 series, more than 256");
        assert!(matches!(
            decode(&sealed(&[0], 33 * 1024 * 1024)),
            Err(DecodeError::BeyondCap { what: "bytes of body", .. })
        ));

        // Both counts within their caps, the product not.
        let mut body = varint(100_000);
        put(&mut body, 256);
        for name in 0..256u32 {
            body.push(4);
            body.extend(format!("{name:04}").bytes());
        }
        body.resize(body.len() + 200_000, 0);
        assert!(matches!(
            decode(&sealed(&body, body.len() as u64)),
            Err(DecodeError::Shape(ShapeError::TooLarge { .. }))
        ));
    }

    #[test]
    fn a_bomb_stops_at_its_declared_length() {
        let bomb = vec![0; 64 * 1024 * 1024];
        assert!(matches!(decode(&sealed(&bomb, 16)), Err(DecodeError::Decompress(_))));
        assert!(matches!(decode(&sealed(&[0, 0], 3)), Err(DecodeError::Malformed { .. })));
        assert!(matches!(decode(&sealed(&[0, 0], 2)), Ok(block) if block == Block::default()));
    }

    #[test]
    fn contents_that_cannot_be_are_refused() {
        assert_eq!(error_of(&[0, 0, 0]), "block is malformed: body goes on after its last column");
        assert_eq!(error_of(&[5, 0]), "block is malformed: body ends before its timestamps");
        assert_eq!(error_of(&[0, 1, 2, 0xff, 0xfe]), "block is malformed: a name is not UTF-8");
        assert_eq!(error_of(&[0, 1, 1, b'a', 9]), "block is malformed: column has an unknown form");
        assert_eq!(error_of(&[0, 1, 1, b'a', 0, 7]), "block is malformed: column has more than 6 decimals");
        // One row, whose bitmap also marks row 1.
        assert_eq!(
            error_of(&[1, 1, 1, b'a', 0, 0x80, 0, 0b11, 0, 0]),
            "block is malformed: presence bitmap marks rows that do not exist"
        );
        let twice = [0, 2, 1, b'a', 1, b'a', 0, 0, 0, 0];
        assert!(matches!(
            decode(&sealed(&twice, twice.len() as u64)),
            Err(DecodeError::Shape(ShapeError::NamesNotAscending { index: 1 }))
        ));
        let mut huge = vec![1, 1, 1, b'a', 0, 0, 0];
        put_signed(&mut huge, 1 << 53);
        assert_eq!(error_of(&huge), "block is malformed: decimal value is beyond 2^53");
    }

    /// What a hostile body may give: an error, or a block that is sound and encodes again.
    fn check_hostile(body: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(block) = decode(&sealed(body, body.len() as u64)) {
            prop_assert_eq!(block.check(), Ok(()));
            prop_assert!(encode(&block).is_ok());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

        #[test]
        fn arbitrary_bodies_under_a_right_checksum_never_panic(
            head in (0u8..20, 0u8..3),
            tail in prop::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..120),
        ) {
            let mut body = vec![head.0, head.1];
            body.extend(tail);
            check_hostile(&body)?;
        }

        #[test]
        fn damaged_bodies_under_a_right_checksum_never_panic(
            cells in prop::collection::vec(prop::option::of(prop_oneof![any::<f64>(), (-99i32..99).prop_map(f64::from)]), 1..20),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<bool>(),
        ) {
            let rows = cells.len() as i64;
            let block = Block {
                series: vec!["a".into(), "b".into()],
                at_ms: (0..rows).collect(),
                columns: vec![cells.clone(), cells],
            };
            let mut body = put_body(&block);
            let at = at.index(body.len());
            body[at] = byte;
            if cut {
                body.truncate(at);
            }
            check_hostile(&body)?;
        }
    }
}
