//! Segments and their frames: what one group commit adds to one stream.
//!
//! ```text
//! segment = head · frame*
//! head    = "FSJS" · version 1, 0, 0, 0 · data key wrapped for the device (72) · nonce prefix (16) · u32 crc32c      (100 bytes)
//! frame   = header · payload · trailer
//! header  = "FSJF" · u32 length of payload · u64 index in the segment · u32 points · i64 earliest · i64 latest (Unix ns)
//!           · u32 crc32c of payload · u32 crc32c of the header before it             (all little endian, 44 bytes)
//! trailer = the header again, beginning with "FSJT"
//! payload = rows forms, encrypted: XChaCha20-Poly1305, nonce = prefix · index, authenticated with the header's first 36 bytes
//! ```
//!
//! A header stands on its own, and twice, so that points of a damaged frame can be counted, and the next frame found. Zeros may follow
//! the last frame of a segment that was not closed: room that was taken ahead of what is written.

use farshore_series::crc32c;
use farshore_trust::sealed::{DEVICE_WRAP_BYTES, DataKey, DeviceKey, SealError};

use crate::stats::LossReason;

pub(crate) const HEADER_BYTES: usize = 44;
/// A shorter piece was never acknowledged: it is the beginning of a write that did not end.
const LEAST_FRAME_BYTES: usize = 2 * HEADER_BYTES + 16;
pub(crate) const HEAD_BYTES: usize = 8 + DEVICE_WRAP_BYTES + 16 + 4;
const AUTHENTICATED_BYTES: usize = 36;
const HEAD_MAGIC: &[u8; 8] = b"FSJS\x01\0\0\0";
const HEADER: &[u8; 4] = b"FSJF";
const TRAILER: &[u8; 4] = b"FSJT";
/// Larger than any payload that is written.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 32 * 1024 * 1024;

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

/// The head of a new segment.
pub(crate) fn segment_head(wrapped: &[u8; DEVICE_WRAP_BYTES], nonce: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    out.extend_from_slice(HEAD_MAGIC);
    out.extend_from_slice(wrapped);
    out.extend_from_slice(nonce);
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn read_head(content: &[u8]) -> Option<([u8; DEVICE_WRAP_BYTES], [u8; 16])> {
    let head = content.get(..HEAD_BYTES)?;
    let (rest, crc) = head.split_last_chunk::<4>()?;
    if crc32c(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let rest = rest.strip_prefix(HEAD_MAGIC)?;
    let (wrapped, nonce) = rest.split_first_chunk::<DEVICE_WRAP_BYTES>()?;
    Some((*wrapped, *nonce.first_chunk()?))
}

/// The frames of a segment, whatever its head is like.
pub(crate) fn after_head(content: &[u8]) -> &[u8] {
    content.get(HEAD_BYTES..).unwrap_or_default()
}

/// Zeros after what was written, give or take the last frame's own.
pub(crate) fn blank_at_end(content: &[u8]) -> u64 {
    content.iter().rev().take_while(|byte| **byte == 0).count() as u64
}

fn nonce_of(prefix: &[u8; 16], index: u64) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&index.to_le_bytes());
    nonce
}

fn authenticated(index: u64, span: Span, length: u32) -> [u8; AUTHENTICATED_BYTES] {
    let mut bytes = [0; AUTHENTICATED_BYTES];
    bytes[0..4].copy_from_slice(HEADER);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..20].copy_from_slice(&span.points.to_le_bytes());
    bytes[20..28].copy_from_slice(&span.earliest_ns.to_le_bytes());
    bytes[28..36].copy_from_slice(&span.latest_ns.to_le_bytes());
    bytes
}

/// A frame, ready to be appended.
pub(crate) fn seal(
    key: &DataKey,
    prefix: &[u8; 16],
    index: u64,
    span: Span,
    payload: &[u8],
) -> Result<Vec<u8>, SealError> {
    let length = u32::try_from(payload.len() + 16).map_err(|_| SealError::TooLarge)?;
    let aad = authenticated(index, span, length);
    let sealed = key.encrypt(&nonce_of(prefix, index), &aad, payload)?;
    Ok(assemble(&aad, &sealed))
}

fn assemble(aad: &[u8; AUTHENTICATED_BYTES], sealed: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sealed.len() + 2 * HEADER_BYTES);
    let payload_crc = crc32c(sealed).to_le_bytes();
    let mark = |out: &mut Vec<u8>, magic: &[u8; 4]| {
        let start = out.len();
        out.extend_from_slice(magic);
        out.extend_from_slice(&aad[4..]);
        out.extend_from_slice(&payload_crc);
        let crc = crc32c(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
    };
    mark(&mut out, HEADER);
    out.extend_from_slice(sealed);
    mark(&mut out, TRAILER);
    out
}

fn read_header(bytes: &[u8], magic: &[u8; 4]) -> Option<FrameHeader> {
    let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let u32_at = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let u64_at = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    if bytes.get(..4)? != magic || crc32c(bytes.get(..40)?) != u32_at(40)? {
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
    (header.length as usize <= MAX_PAYLOAD_BYTES + 16).then_some(header)
}

/// What was found on the way through a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A frame whose checksums hold.
    Frame(FrameHeader, &'a [u8]),
    /// A frame that is damaged, and counted by its header or trailer.
    Damaged(FrameHeader),
    /// So many bytes between frames that are none.
    Gap(usize),
    /// The rest of the segment holds no whole frame: what a power cut left of the last write, or damage at the very end.
    Tail(Option<FrameHeader>, usize),
}

impl Found<'_> {
    /// Bytes that held points of which nobody knows how many: neither header nor trailer of their frame is left.
    pub(crate) fn unknown_bytes(&self) -> u64 {
        match self {
            Self::Gap(bytes) | Self::Tail(None, bytes) if *bytes >= LEAST_FRAME_BYTES => *bytes as u64,
            _ => 0,
        }
    }
}

/// A place in the header and one in the trailer of each frame.
#[cfg(test)]
pub(crate) fn marks(content: &[u8]) -> Vec<(usize, usize)> {
    let frames = after_head(content);
    let end_of = |rest: &[u8]| content.len() - rest.len();
    let mut reader = Frames::new(frames);
    let mut marks = Vec::new();
    if content.starts_with(HEAD_MAGIC) {
        loop {
            let start = end_of(reader.rest);
            match reader.next() {
                Some(Found::Frame(..)) => marks.push((start + 20, end_of(reader.rest) - 20)),
                Some(_) => {}
                None => break,
            }
        }
    }
    marks
}

/// Goes through the frames of a segment, and past what is damaged.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Only room that was taken ahead, or blocks that a power cut left without what was written to them.
    fn is_blank(&self) -> bool {
        self.rest.iter().all(|byte| *byte == 0)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Where the next header or trailer that holds begins, and which it is.
    fn next_mark(&self) -> Option<(usize, Option<FrameHeader>)> {
        let mut at = 1;
        loop {
            let rest = self.rest.get(at..)?;
            at += rest.windows(4).position(|window| window == HEADER || window == TRAILER)?;
            let here = self.rest.get(at..)?;
            if read_header(here, HEADER).is_some() {
                return Some((at, None));
            }
            if let Some(trailer) = read_header(here, TRAILER) {
                return Some((at, Some(trailer)));
            }
            at += 1;
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let Some(header) = read_header(self.rest, HEADER) else {
            if self.is_blank() {
                return None;
            }
            return Some(match self.next_mark() {
                Some((at, None)) => {
                    self.skip(at);
                    Found::Gap(at)
                }
                // Its frame begins later: what lies before that are other frames, of which nothing is left.
                Some((at, Some(trailer))) if at > HEADER_BYTES + trailer.length as usize => {
                    let before = at - HEADER_BYTES - trailer.length as usize;
                    self.skip(before);
                    Found::Gap(before)
                }
                Some((at, Some(trailer))) => {
                    self.skip(at + HEADER_BYTES);
                    if self.is_blank() {
                        Found::Tail(Some(trailer), at + HEADER_BYTES)
                    } else {
                        Found::Damaged(trailer)
                    }
                }
                None => {
                    let rest = std::mem::take(&mut self.rest);
                    let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    Found::Tail(None, written)
                }
            });
        };
        let end = HEADER_BYTES + header.length as usize;
        let Some(payload) = self.rest.get(HEADER_BYTES..end) else {
            let rest = std::mem::take(&mut self.rest);
            return Some(Found::Tail(Some(header), rest.len()));
        };
        self.skip(end + HEADER_BYTES);
        Some(if crc32c(payload) == header.payload_crc {
            Found::Frame(header, payload)
        } else if self.is_blank() {
            Found::Tail(Some(header), end + HEADER_BYTES)
        } else {
            Found::Damaged(header)
        })
    }
}

/// What of a segment could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) reason: LossReason,
    pub(crate) span: Span,
    /// More points than the span counts: those of so many bytes, whatever their number.
    pub(crate) unknown_bytes: u64,
}

/// A segment, read.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Rows of each frame, decrypted.
    pub(crate) rows: Vec<Vec<u8>>,
    /// What the frame of these rows says of itself.
    pub(crate) spans: Vec<Span>,
    /// What could not be read.
    pub(crate) lost: Vec<Missing>,
    /// Whether anything could not be read, known by number or not.
    pub(crate) damaged: bool,
}

/// Reads a segment.
///
/// # Errors
/// When the head is damaged or of another device: what the frames say they held.
pub(crate) fn open(device: &DeviceKey, content: &[u8]) -> Result<Opened, Missing> {
    let key = read_head(content).and_then(|(wrapped, nonce)| Some((device.unwrap(&wrapped).ok()?, nonce)));
    let mut opened = Opened::default();
    let mut all = Missing { reason: LossReason::Corrupt, span: Span::EMPTY, unknown_bytes: 0 };
    for found in Frames::new(after_head(content)) {
        let unknown_bytes = found.unknown_bytes();
        all.unknown_bytes += unknown_bytes;
        let (reason, span) = match found {
            Found::Frame(header, payload) => {
                all.span.add(header.span);
                let aad = authenticated(header.index, header.span, header.length);
                let rows = key.as_ref().and_then(|(key, prefix)| {
                    key.decrypt(&nonce_of(prefix, header.index), &aad, payload).ok()
                });
                if let Some(rows) = rows {
                    opened.rows.push(rows);
                    opened.spans.push(header.span);
                    continue;
                }
                (LossReason::Corrupt, header.span)
            }
            Found::Damaged(header) => (LossReason::Corrupt, header.span),
            Found::Tail(Some(header), _) => (LossReason::TornTail, header.span),
            Found::Gap(_) => (LossReason::Corrupt, Span::EMPTY),
            Found::Tail(None, _) => (LossReason::TornTail, Span::EMPTY),
        };
        if !matches!(found, Found::Frame(..)) {
            all.span.add(span);
        }
        opened.damaged = true;
        if span.points > 0 || unknown_bytes > 0 {
            opened.lost.push(Missing { reason, span, unknown_bytes });
        }
    }
    if key.is_some() { Ok(opened) } else { Err(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 0..3u32 {
            let payload = vec![index as u8; 10 + index as usize];
            let span = Span { points: index + 1, earliest_ns: -5, latest_ns: 9 };
            bytes.extend(assemble(&authenticated(u64::from(index), span, payload.len() as u32), &payload));
        }
        bytes
    }

    fn show(bytes: &[u8]) -> String {
        Frames::new(bytes)
            .map(|found| match found {
                Found::Frame(header, payload) => format!("{}:{} ", header.index, payload.len()),
                Found::Damaged(header) => format!("{}! ", header.index),
                Found::Gap(bytes) => format!("gap {bytes} "),
                Found::Tail(header, bytes) => format!("tail {:?} {bytes}", header.map(|h| h.span.points)),
            })
            .collect()
    }

    #[test]
    fn damage_costs_its_own_frame_only_and_is_counted() {
        let good = segment();
        let first = 10 + 2 * HEADER_BYTES;
        assert_eq!(show(&good), "0:10 1:11 2:12 ");
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            show(&bytes)
        };
        assert_eq!(flipped(50), "0! 1:11 2:12 ", "a payload");
        assert_eq!(flipped(0), "0! 1:11 2:12 ", "a header");
        assert_eq!(flipped(60), "0:10 1:11 2:12 ", "a trailer");
        assert_eq!(flipped(first + 20), "0:10 1! 2:12 ", "a header between");
        assert_eq!(flipped(good.len() - 50), "0:10 1:11 tail Some(3) 100", "the last payload");
        assert_eq!(flipped(good.len() - 80), "0:10 1:11 tail Some(3) 100", "the last header");
        assert_eq!(show(&good[..good.len() - 3]), "0:10 1:11 2:12 ", "a torn trailer");
        assert_eq!(show(&good[..good.len() - 50]), "0:10 1:11 tail Some(3) 50", "a torn payload");
        assert_eq!(show(&good[..first + 9]), "0:10 tail None 9", "a torn header");
        assert_eq!(show(&[]), "");
    }

    #[test]
    fn room_that_was_taken_ahead_is_no_damage() {
        let good = segment();
        let with_room = |written: &[u8]| show(&[written, &[0; 5_000]].concat());
        assert_eq!(with_room(&good), "0:10 1:11 2:12 ");
        assert_eq!(with_room(&[]), "");
        assert_eq!(with_room(&good[..good.len() - 3]), "0:10 1:11 2:12 ", "a torn trailer");
        assert_eq!(with_room(&good[..good.len() - 50]), "0:10 1:11 tail Some(3) 100", "a torn payload");
        assert_eq!(with_room(&good[..good.len() - 91]), "0:10 1:11 tail None 9", "a torn header");
        let mut hole = good.clone();
        hole[good.len() - 100..good.len() - 60].fill(0);
        assert_eq!(with_room(&hole), "0:10 1:11 tail Some(3) 100", "only the last blocks came to the disk");
        let mut damaged = good;
        damaged[50] ^= 0x10;
        assert_eq!(with_room(&damaged), "0! 1:11 2:12 ");
    }

    #[test]
    fn a_block_of_zeros_over_several_frames_costs_all_of_them() {
        let mut bytes = segment();
        bytes.extend(segment());
        let frame = |payload: usize| payload + 2 * HEADER_BYTES;
        // The second and the third, and the head of the fourth.
        bytes[frame(10)..frame(10) + frame(11) + frame(12) + 20].fill(0);
        assert_eq!(show(&bytes), "0:10 gap 199 0! 1:11 2:12 ");
        let unknown: u64 = Frames::new(&bytes).map(|found| found.unknown_bytes()).sum();
        assert_eq!(unknown, 199);
    }

    #[test]
    fn a_frame_of_which_neither_header_nor_trailer_is_left_is_counted_in_bytes() {
        let unknown = |bytes: &[u8]| Frames::new(bytes).map(|found| found.unknown_bytes()).sum::<u64>();
        let good = segment();
        let frame = |payload: usize| payload + 2 * HEADER_BYTES;
        let flipped = |at: [usize; 2]| {
            let mut bytes = good.clone();
            at.iter().for_each(|at| bytes[*at] ^= 0x10);
            (show(&bytes), unknown(&bytes))
        };
        let middle = frame(10);
        let between = flipped([middle + 20, middle + frame(11) - 20]);
        assert_eq!(between, ("0:10 gap 99 2:12 ".into(), 0), "shorter than any real frame here");
        let last = middle + frame(11);
        assert_eq!(flipped([last + 20, good.len() - 20]).0, "0:10 1:11 tail None 100");
        // Payloads that are encrypted are longer.
        let mut long = good.clone();
        let payload = [9; 40];
        let span = Span { points: 7, earliest_ns: 1, latest_ns: 2 };
        long.extend(assemble(&authenticated(3, span, 40), &payload));
        assert_eq!(unknown(&long), 0);
        let end = long.len();
        long[good.len() + 20] ^= 1;
        long[end - 20] ^= 1;
        assert_eq!(unknown(&long), frame(40) as u64);
        // What a power cut leaves: the beginning of a header, or blocks that were never written.
        assert_eq!(unknown(&good[..last + 30]), 0);
        long[good.len()..].fill(0);
        assert_eq!(unknown(&long), 0);
    }

    #[test]
    fn any_damage_gives_frames_or_losses_and_never_more_than_was_written() {
        use rand::{Rng as _, SeedableRng as _};
        let (key, device) = (DataKey::generate().unwrap(), DeviceKey::generate().unwrap());
        let mut good = segment_head(&key.wrap_for_device(&device).unwrap(), &[7; 16]);
        for index in 0..4 {
            let span = Span { points: 10, earliest_ns: 1, latest_ns: 2 };
            good.extend(seal(&key, &[7; 16], index, span, &[index as u8; 60]).unwrap());
        }
        let mut random = rand::rngs::SmallRng::seed_from_u64(9);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..4) {
                    0 => bytes[at] = random.random(),
                    1 => bytes.truncate(at + 1),
                    2 => bytes[at..].fill(0),
                    _ => {
                        let end = (at + random.random_range(0..200)).min(bytes.len());
                        let piece = bytes[at..end].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            match open(&device, &bytes) {
                Ok(opened) => {
                    for rows in &opened.rows {
                        assert!(rows.len() == 60 && rows[0] < 4 && rows.iter().all(|byte| *byte == rows[0]));
                    }
                    // What is not said to be damaged was read to the last byte that is written. (The last trailer may be torn.)
                    let written = bytes.len() - usize::try_from(blank_at_end(&bytes)).unwrap();
                    let read = HEAD_BYTES + opened.rows.len() * ((good.len() - HEAD_BYTES) / 4);
                    assert!(opened.damaged || read >= written, "{read} of {written} bytes");
                }
                Err(missing) => assert!(missing.unknown_bytes <= bytes.len() as u64),
            }
        }
    }

    #[test]
    fn a_segment_opens_on_its_device_only_and_says_what_it_held_elsewhere() {
        let (key, device) = (DataKey::generate().unwrap(), DeviceKey::generate().unwrap());
        let mut bytes = segment_head(&key.wrap_for_device(&device).unwrap(), &[7; 16]);
        assert_eq!(bytes.len(), HEAD_BYTES);
        let span = Span { points: 4, earliest_ns: 1, latest_ns: 2 };
        bytes.extend(seal(&key, &[7; 16], 0, span, b"rows").unwrap());
        let opened = open(&device, &bytes).unwrap();
        assert_eq!((opened.rows, opened.damaged), (vec![b"rows".to_vec()], false));
        let all = Missing { reason: LossReason::Corrupt, span, unknown_bytes: 0 };
        assert_eq!(open(&DeviceKey::generate().unwrap(), &bytes).unwrap_err(), all);
        // A frame moved to another place is no frame of this segment.
        let mut moved = bytes.clone();
        moved[80] ^= 1;
        assert_eq!(open(&device, &moved).unwrap_err(), all);
    }
}
