//! Packed bodies: gzip, deflate and zstd, unpacked within limits, so that a small body can't become a large memory.

use std::borrow::Cow;
use std::io::Read;

use crate::limits::{FREE_UNPACKED_BYTES, MAX_BODY_BYTES, MAX_UNPACK_RATIO, MAX_UNPACKED_BYTES};

/// How a body is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Plain,
    Gzip,
    Deflate,
    Zstd,
}

/// Why a body can't be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    #[error("the body has {bytes} bytes, at most {MAX_BODY_BYTES} are taken; send smaller batches")]
    TooLarge { bytes: usize },
    #[error("the body unpacks to more than {limit} bytes; send smaller batches")]
    Bomb { limit: usize },
    #[error("content-encoding {0:?} is unknown: gzip, deflate, zstd and identity are taken")]
    UnknownEncoding(String),
    #[error("the body can't be unpacked")]
    Broken(#[source] std::io::Error),
}

impl Encoding {
    /// Reads a `Content-Encoding`.
    ///
    /// # Errors
    /// When it is another, or several.
    pub fn parse(header: &str) -> Result<Self, BodyError> {
        let header = header.trim();
        let is = |name: &str| header.eq_ignore_ascii_case(name);
        if header.is_empty() || is("identity") {
            Ok(Self::Plain)
        } else if is("gzip") || is("x-gzip") {
            Ok(Self::Gzip)
        } else if is("deflate") {
            Ok(Self::Deflate)
        } else if is("zstd") {
            Ok(Self::Zstd)
        } else {
            Err(BodyError::UnknownEncoding(header.chars().take(64).collect()))
        }
    }
}

/// The body as it was before it was packed.
///
/// # Errors
/// When it is broken, or larger than the limits allow.
pub fn unpack(body: &[u8], encoding: Encoding) -> Result<Cow<'_, [u8]>, BodyError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(BodyError::TooLarge { bytes: body.len() });
    }
    let limit = most_unpacked(body.len(), encoding);
    match encoding {
        Encoding::Plain => Ok(Cow::Borrowed(body)),
        Encoding::Gzip => read(flate2::read::MultiGzDecoder::new(body), limit),
        Encoding::Deflate => read(flate2::read::ZlibDecoder::new(body), limit),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(BodyError::Broken)?;
            // A frame may ask for a window of gigabytes; 8 MiB is what every level up to 19 needs.
            decoder.window_log_max(23).map_err(BodyError::Broken)?;
            read(decoder, limit)
        }
    }
}

/// Bytes that a body of so many bytes has unpacked at most.
#[must_use]
pub fn most_unpacked(bytes: usize, encoding: Encoding) -> usize {
    match encoding {
        Encoding::Plain => bytes,
        _ => bytes.saturating_mul(MAX_UNPACK_RATIO).clamp(FREE_UNPACKED_BYTES, MAX_UNPACKED_BYTES),
    }
}

fn read(reader: impl Read, limit: usize) -> Result<Cow<'static, [u8]>, BodyError> {
    let mut unpacked = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(most).read_to_end(&mut unpacked).map_err(BodyError::Broken)?;
    if unpacked.len() > limit {
        return Err(BodyError::Bomb { limit });
    }
    Ok(Cow::Owned(unpacked))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn what_was_packed_comes_back() {
        let text = b"temp,room=a value=21.5 1\n".repeat(1000);
        assert_eq!(unpack(&gzip(&text), Encoding::Gzip).expect("gzip").as_ref(), text);
        let packed = zstd::encode_all(text.as_slice(), 3).expect("memory");
        assert_eq!(unpack(&packed, Encoding::Zstd).expect("zstd").as_ref(), text);
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&text).expect("memory");
        assert_eq!(
            unpack(&encoder.finish().expect("memory"), Encoding::Deflate).expect("zlib").as_ref(),
            text
        );
        assert_eq!(unpack(&text, Encoding::Plain).expect("plain").as_ref(), text);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let zeros = vec![0_u8; MAX_UNPACKED_BYTES + 1];
        assert!(matches!(unpack(&gzip(&zeros), Encoding::Gzip), Err(BodyError::Bomb { .. })));
        let packed = zstd::encode_all(zeros.as_slice(), 1).expect("memory");
        assert!(packed.len() < 10_000);
        assert!(matches!(unpack(&packed, Encoding::Zstd), Err(BodyError::Bomb { .. })));
        // Many small gzip members are one body, too.
        let members = gzip(&vec![0_u8; 100_000]).repeat(500);
        assert!(matches!(unpack(&members, Encoding::Gzip), Err(BodyError::Bomb { .. })));
    }

    #[test]
    fn broken_bodies_are_errors() {
        let packed = gzip(b"hello hello hello");
        let cut = &packed[..packed.len() - 6];
        assert!(matches!(unpack(cut, Encoding::Gzip), Err(BodyError::Broken(_))));
        assert!(matches!(unpack(b"not zstd", Encoding::Zstd), Err(BodyError::Broken(_))));
        assert!(matches!(
            unpack(&vec![b'x'; MAX_BODY_BYTES + 1], Encoding::Plain),
            Err(BodyError::TooLarge { .. })
        ));
        assert!(matches!(Encoding::parse("br"), Err(BodyError::UnknownEncoding(_))));
        // A window of 2 GiB.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert!(unpack(&window, Encoding::Zstd).is_err());
    }
}
