//! The protobuf wire format, read in place: a message is walked field by field and nothing is built from it, so that a body of a few
//! bytes an element can't become a large memory.

use crate::point::PointError;

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message, in order.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

pub(super) fn broken() -> PointError {
    PointError::Refused("the protobuf message is broken".to_owned())
}

impl<'a> Fields<'a> {
    pub(super) const fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field, or nothing at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, PointError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number =
            u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number)).ok_or_else(broken)?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| broken())?;
                let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(broken)?;
                self.rest = rest;
                Wire::Bytes(bytes)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            // Groups are not in proto3.
            _ => return Err(broken()),
        };
        Ok(Some((number, wire)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PointError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or_else(broken)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn varint(&mut self) -> Result<u64, PointError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or_else(broken)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken())
    }
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], PointError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(broken()),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, PointError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| PointError::NotUtf8("a text of the message"))
    }

    pub(super) fn fixed64(self) -> Result<u64, PointError> {
        match self {
            Self::Fixed64(value) => Ok(value),
            _ => Err(broken()),
        }
    }

    pub(super) fn double(self) -> Result<f64, PointError> {
        self.fixed64().map(f64::from_bits)
    }

    pub(super) fn varint(self) -> Result<u64, PointError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(broken()),
        }
    }

    /// A repeated number of 64 bits, packed or one alone.
    pub(super) fn packed64(self, into: &mut Vec<u64>, most: usize) -> Result<(), PointError> {
        match self {
            Self::Fixed64(value) => into.push(value),
            Self::Bytes(bytes) => {
                let (chunks, rest) = bytes.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(broken());
                }
                if chunks.len() <= most {
                    into.extend(chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)));
                } else {
                    return Err(PointError::TooMany { what: "buckets", max: most });
                }
            }
            _ => return Err(broken()),
        }
        if into.len() > most {
            return Err(PointError::TooMany { what: "buckets", max: most });
        }
        Ok(())
    }
}
