//! LEB128 varints, zigzag, and a reader that cannot run past its input.

/// Appends `value`, seven bits a byte, least significant first.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value, small magnitudes of either sign in few bytes.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, zigzag(value));
}

/// Bytes that [`put_signed`] takes for `value`.
pub(crate) fn signed_len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// A cursor over bytes from outside. `None` means that the input ended or a varint was too long.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    pub(crate) fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        self.unsigned().map(unzigzag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_round_trip_and_lengths_agree() {
        for value in [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i64::MAX, i64::MIN, i64::MIN + 1] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(out.len(), signed_len(value), "{value}");
            let mut reader = Reader::new(&out);
            assert_eq!(reader.signed(), Some(value));
            assert_eq!(reader.remaining(), 0);
        }
    }

    #[test]
    fn a_varint_that_overflows_or_never_ends_is_refused() {
        assert_eq!(Reader::new(&[0xff; 10]).unsigned(), None);
        assert_eq!(Reader::new(&[0x80; 3]).unsigned(), None);
        let mut too_big = [0xff; 10];
        too_big[9] = 0x02;
        assert_eq!(Reader::new(&too_big).unsigned(), None);
        too_big[9] = 0x01;
        assert_eq!(Reader::new(&too_big).unsigned(), Some(u64::MAX));
    }
}
