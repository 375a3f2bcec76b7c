//! Frames of a segment: what one group commit adds to one stream.
//!
//! ```text
//! frame  = header · payload
//! header = "FSJF" · u32 length of payload · u64 index in the segment · u32 points · i64 earliest · i64 latest (Unix ns)
//!          · u32 crc32c of payload · u32 crc32c of the header before it             (all little endian, 44 bytes)
//! ```
//!
//! The header stands on its own, so that points of a damaged payload can be counted, and the next frame found.

use farshore_series::crc32c;

pub(crate) const HEADER_BYTES: usize = 44;
const MAGIC: &[u8; 4] = b"FSJF";
/// Larger than any payload that is written.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 48 * 1024 * 1024;

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) length: u32,
    pub(crate) index: u64,
    pub(crate) span: Span,
    payload_crc: u32,
}

/// How many points, from when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) points: u32,
    pub(crate) earliest_ns: i64,
    pub(crate) latest_ns: i64,
}

impl Span {
    pub(crate) const EMPTY: Self = Self { points: 0, earliest_ns: i64::MAX, latest_ns: i64::MIN };

    pub(crate) fn add(&mut self, other: Self) {
        self.points = self.points.saturating_add(other.points);
        self.earliest_ns = self.earliest_ns.min(other.earliest_ns);
        self.latest_ns = self.latest_ns.max(other.latest_ns);
    }
}

pub(crate) fn header(index: u64, span: Span, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes[0..4].copy_from_slice(MAGIC);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..20].copy_from_slice(&span.points.to_le_bytes());
    bytes[20..28].copy_from_slice(&span.earliest_ns.to_le_bytes());
    bytes[28..36].copy_from_slice(&span.latest_ns.to_le_bytes());
    bytes[36..40].copy_from_slice(&crc32c(payload).to_le_bytes());
    let crc = crc32c(&bytes[..40]);
    bytes[40..44].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_header(bytes: &[u8]) -> Option<FrameHeader> {
    let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    if bytes.get(..4)? != MAGIC || crc32c(bytes.get(..40)?) != u32_at(40)? {
        return None;
    }
    let header = FrameHeader {
        length: u32_at(4)?,
        index: u64_at(8)?,
        span: Span {
            points: u32_at(16)?,
            earliest_ns: u64_at(20)?.cast_signed(),
            latest_ns: u64_at(28)?.cast_signed(),
        },
        payload_crc: u32_at(36)?,
    };
    (header.length as usize <= MAX_PAYLOAD_BYTES).then_some(header)
}

/// What was found on the way through a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A frame whose checksums hold.
    Frame(FrameHeader, &'a [u8]),
    /// A frame whose header holds and whose payload doesn't.
    Damaged(FrameHeader),
    /// Bytes between frames that are none.
    Gap,
    /// The rest of the segment holds no frame: the end, or what a power cut left of the last write.
    Tail {
        /// Bytes of it.
        bytes: usize,
        /// The header of its first frame, where that holds.
        header: Option<FrameHeader>,
    },
}

/// Goes through the frames of a segment, and past what is damaged.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
    done: bool,
}

impl<'a> Frames<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, done: false }
    }

    /// Where the next header that holds begins, `from` or later.
    fn next_header(&self, from: usize) -> Option<usize> {
        let mut at = from;
        while let Some(found) =
            self.rest.get(at..).and_then(|rest| rest.windows(MAGIC.len()).position(|window| window == MAGIC))
        {
            at += found;
            if self.rest.get(at..).and_then(read_header).is_some() {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if self.done || self.rest.is_empty() {
            return None;
        }
        let Some(header) = read_header(self.rest) else {
            return Some(match self.next_header(1) {
                Some(at) => {
                    self.skip(at);
                    Found::Gap
                }
                None => {
                    self.done = true;
                    Found::Tail { bytes: self.rest.len(), header: None }
                }
            });
        };
        let end = HEADER_BYTES + header.length as usize;
        match self.rest.get(HEADER_BYTES..end) {
            Some(payload) if crc32c(payload) == header.payload_crc => {
                self.skip(end);
                Some(Found::Frame(header, payload))
            }
            _ => match self.next_header(HEADER_BYTES) {
                Some(at) => {
                    self.skip(at);
                    Some(Found::Damaged(header))
                }
                None => {
                    self.done = true;
                    Some(Found::Tail { bytes: self.rest.len(), header: Some(header) })
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 0..3u32 {
            let payload = vec![index as u8; 10 + index as usize];
            let span = Span { points: index + 1, earliest_ns: -5, latest_ns: 9 };
            bytes.extend(header(u64::from(index), span, &payload));
            bytes.extend(payload);
        }
        bytes
    }

    fn show(bytes: &[u8]) -> String {
        Frames::new(bytes)
            .map(|found| match found {
                Found::Frame(header, payload) => format!("{}:{} ", header.index, payload.len()),
                Found::Damaged(header) => format!("{}! ", header.index),
                Found::Gap => "gap ".into(),
                Found::Tail { bytes, header } => format!("tail {bytes} {:?}", header.map(|h| h.span.points)),
            })
            .collect()
    }

    #[test]
    fn damage_costs_its_own_frame_only() {
        let good = segment();
        assert_eq!(show(&good), "0:10 1:11 2:12 ");
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            show(&bytes)
        };
        assert_eq!(flipped(50), "0! 1:11 2:12 ");
        assert_eq!(flipped(0), "gap 1:11 2:12 ");
        assert_eq!(flipped(54 + 20), "0:10 gap 2:12 ");
        assert_eq!(flipped(good.len() - 1), "0:10 1:11 tail 56 Some(3)");
        assert_eq!(show(&good[..good.len() - 3]), "0:10 1:11 tail 53 Some(3)");
        assert_eq!(show(&good[..54 + 55 + 10]), "0:10 1:11 tail 10 None");
        assert_eq!(show(&[]), "");
    }
}
