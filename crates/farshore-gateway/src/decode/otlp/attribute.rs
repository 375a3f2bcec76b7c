//! Attributes' values as tags: text as it is, other things as JSON would write them.

use std::borrow::Cow;

use super::wire::{Fields, Wire, broken};
use crate::limits::{MAX_NAME_BYTES, MAX_TAGS};
use crate::point::{PointError, Tag};

/// A `KeyValue`.
pub(super) fn key_value<'a>(message: &'a [u8], tags: &mut Vec<Tag<'a>>) -> Result<(), PointError> {
    let mut fields = Fields::of(message);
    let (mut key, mut value) = ("", Cow::Borrowed(""));
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => key = wire.text()?,
            2 => value = any_value(wire.bytes()?)?,
            _ => {}
        }
    }
    super::attribute(tags, Cow::Borrowed(key), value)
}

/// An `AnyValue`. Lists and maps are no tags: there is no end to what may be in them.
fn any_value(message: &[u8]) -> Result<Cow<'_, str>, PointError> {
    let mut fields = Fields::of(message);
    let mut value = Cow::Borrowed("");
    while let Some((number, wire)) = fields.next()? {
        value = match (number, wire) {
            (1, wire) => Cow::Borrowed(wire.text()?),
            (2, Wire::Varint(flag)) => Cow::Borrowed(if flag == 0 { "false" } else { "true" }),
            (3, Wire::Varint(integer)) => Cow::Owned(integer.cast_signed().to_string()),
            (4, wire) => Cow::Owned(wire.double()?.to_string()),
            (5, Wire::Bytes(list)) => Cow::Owned(array(list)?),
            (6, _) => return Err(PointError::Refused("an attribute that is a map is not taken".to_owned())),
            (7, _) => return Err(PointError::Refused("an attribute of bytes is not taken".to_owned())),
            (1..=6, _) => return Err(broken()),
            _ => continue,
        };
    }
    Ok(value)
}

/// An `ArrayValue` of plain values, such as `host.ip`, joined by commas.
fn array(message: &[u8]) -> Result<String, PointError> {
    let mut fields = Fields::of(message);
    let mut joined = String::new();
    let mut count = 0;
    while let Some((number, wire)) = fields.next()? {
        if number != 1 {
            continue;
        }
        count += 1;
        if count > MAX_TAGS || joined.len() > MAX_NAME_BYTES {
            return Err(PointError::TooLong {
                what: "an attribute",
                bytes: joined.len(),
                max: MAX_NAME_BYTES,
            });
        }
        let inner = wire.bytes()?;
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&scalar(inner)?);
    }
    Ok(joined)
}

/// An `AnyValue` that must not be a list: a list within a list would make this call itself without end.
fn scalar(message: &[u8]) -> Result<Cow<'_, str>, PointError> {
    let mut fields = Fields::of(message);
    while let Some((number, _)) = fields.next()? {
        if number == 5 {
            return Err(PointError::Refused("an attribute that is a list of lists is not taken".to_owned()));
        }
    }
    any_value(message)
}
