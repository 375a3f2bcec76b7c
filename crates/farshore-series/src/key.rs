//! What a series is called: measurement, field and tags, as one canonical string of bytes.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::varint::{self, Reader};

/// Longest measurement, field, tag name or tag value, in bytes.
pub const MAX_PART_BYTES: usize = 256;
/// Most tags of one series.
pub const MAX_TAGS: usize = 32;
/// Longest key in its canonical form, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// Why something cannot name a series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A part is empty.
    #[error("{part} is empty")]
    Empty {
        /// Which part.
        part: &'static str,
    },
    /// A part is too long.
    #[error("{part} has {bytes} bytes; at most {MAX_PART_BYTES} are allowed")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// More tags than a series may have.
    #[error("a series has at most {MAX_TAGS} tags")]
    TooManyTags,
    /// One tag is there twice.
    #[error("tag {name:?} is there twice")]
    TagTwice {
        /// The tag's name.
        name: String,
    },
    /// All parts together are too long.
    #[error("the name of a series takes {bytes} bytes; at most {MAX_KEY_BYTES} are allowed")]
    KeyTooLong {
        /// Bytes of the canonical form.
        bytes: usize,
    },
    /// Bytes that are not the canonical form of a key.
    #[error("these bytes name no series")]
    Malformed,
}

/// Measurement, field and sorted tags. Cheap to clone; equal keys have equal bytes.
///
/// Canonical form: `measurement · field · varint(tags) · (name · value)*`, each text as varint(length) and UTF-8,
/// tags strictly ascending by name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey(Arc<[u8]>);

impl SeriesKey {
    /// The key of these parts; tags in any order.
    ///
    /// # Errors
    /// [`KeyError`] when a part is empty (a tag's value and the field may be), too long or there twice.
    pub fn new<'t>(
        measurement: &str,
        field: &str,
        tags: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Result<Self, KeyError> {
        let mut bytes = Vec::with_capacity(64);
        write_key(&mut bytes, measurement, field, tags)?;
        Ok(Self(bytes.into()))
    }

    /// The key with this canonical form.
    ///
    /// # Errors
    /// [`KeyError`] when the bytes are anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        check(bytes)?;
        Ok(Self(bytes.into()))
    }

    /// Takes bytes that [`write_key`] made.
    pub(crate) fn trusted(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The canonical form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What is measured: `cpu`, `temperature`, a sensor's id.
    #[must_use]
    pub fn measurement(&self) -> &str {
        text(&mut Reader::new(&self.0)).unwrap_or_default()
    }

    /// Which value of it. Empty when there is but one without a name.
    #[must_use]
    pub fn field(&self) -> &str {
        let mut reader = Reader::new(&self.0);
        text(&mut reader).and_then(|_| text(&mut reader)).unwrap_or_default()
    }

    /// Names and values of the tags, ascending by name.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> + '_ {
        let mut reader = Reader::new(&self.0);
        let count = text(&mut reader)
            .and_then(|_| text(&mut reader))
            .and_then(|_| reader.unsigned())
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0);
        (0..count).map_while(move |_| Some((text(&mut reader)?, text(&mut reader)?)))
    }

    /// The value of one tag.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// The same series with another field.
    ///
    /// # Errors
    /// [`KeyError`] when the field is too long.
    pub fn with_field(&self, field: &str) -> Result<Self, KeyError> {
        Self::new(self.measurement(), field, self.tags())
    }
}

impl Borrow<[u8]> for SeriesKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// `measurement{name=value,…} field`, to be read, not parsed.
impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.measurement())?;
        let mut open = '{';
        for (name, value) in self.tags() {
            write!(f, "{open}{name}={value}")?;
            open = ',';
        }
        if open == ',' {
            f.write_str("}")?;
        }
        match self.field() {
            "" => Ok(()),
            field => write!(f, " {field}"),
        }
    }
}

impl fmt::Debug for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeriesKey({self})")
    }
}

/// Writes the canonical form to the end of `out`; on an error, what was written so far has to be thrown away.
pub(crate) fn write_key<'t>(
    out: &mut Vec<u8>,
    measurement: &str,
    field: &str,
    tags: impl IntoIterator<Item = (&'t str, &'t str)>,
) -> Result<(), KeyError> {
    let start = out.len();
    if measurement.is_empty() {
        return Err(KeyError::Empty { part: "the measurement" });
    }
    put_text(out, "the measurement", measurement)?;
    put_text(out, "the field", field)?;
    // The usual few on the stack: this runs for every point.
    let (mut few, mut many) = ([("", ""); 8], Vec::new());
    let mut count = 0;
    for tag in tags {
        match few.get_mut(count) {
            Some(place) => *place = tag,
            None if count < MAX_TAGS => {
                if many.is_empty() {
                    many.extend(few);
                }
                many.push(tag);
            }
            None => return Err(KeyError::TooManyTags),
        }
        count += 1;
    }
    let sorted = if many.is_empty() { few.get_mut(..count).unwrap_or_default() } else { many.as_mut_slice() };
    if !sorted.is_sorted_by(|a, b| a.0 < b.0) {
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(KeyError::TagTwice { name: pair[0].0.to_owned() });
        }
    }
    varint::put(out, count as u64);
    for (name, value) in sorted {
        if name.is_empty() {
            return Err(KeyError::Empty { part: "a tag's name" });
        }
        put_text(out, "a tag's name", name)?;
        put_text(out, "a tag's value", value)?;
    }
    let bytes = out.len() - start;
    if bytes > MAX_KEY_BYTES { Err(KeyError::KeyTooLong { bytes }) } else { Ok(()) }
}

fn put_text(out: &mut Vec<u8>, part: &'static str, text: &str) -> Result<(), KeyError> {
    if text.len() > MAX_PART_BYTES {
        return Err(KeyError::TooLong { part, bytes: text.len() });
    }
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn text<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let length = usize::try_from(reader.unsigned()?).ok()?;
    str::from_utf8(reader.bytes(length)?).ok()
}

fn check(bytes: &[u8]) -> Result<(), KeyError> {
    if bytes.len() > MAX_KEY_BYTES {
        return Err(KeyError::KeyTooLong { bytes: bytes.len() });
    }
    let mut reader = Reader::new(bytes);
    let mut part = || text(&mut reader).ok_or(KeyError::Malformed);
    let (measurement, field) = (part()?, part()?);
    let count = reader.unsigned().ok_or(KeyError::Malformed)?;
    let mut tags = Vec::new();
    for _ in 0..count.min(MAX_TAGS as u64 + 1) {
        let name = text(&mut reader).ok_or(KeyError::Malformed)?;
        tags.push((name, text(&mut reader).ok_or(KeyError::Malformed)?));
    }
    // Written again, they must give the same bytes: nothing but the canonical form is a key.
    let mut again = Vec::with_capacity(bytes.len());
    write_key(&mut again, measurement, field, tags)?;
    if again == bytes { Ok(()) } else { Err(KeyError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_tags_makes_no_difference() {
        let a = SeriesKey::new("cpu", "idle", [("host", "a"), ("core", "1")]).unwrap();
        let b = SeriesKey::new("cpu", "idle", [("core", "1"), ("host", "a")]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.to_string(), "cpu{core=1,host=a} idle");
        assert_eq!((a.measurement(), a.field(), a.tag("host")), ("cpu", "idle", Some("a")));
        assert_eq!(SeriesKey::from_bytes(a.as_bytes()), Ok(a.clone()));
        assert_eq!(a.with_field("busy").unwrap().to_string(), "cpu{core=1,host=a} busy");
    }

    #[test]
    fn what_names_no_series_is_refused() {
        let long = "x".repeat(257);
        assert!(matches!(SeriesKey::new("", "f", []), Err(KeyError::Empty { .. })));
        assert!(matches!(SeriesKey::new(&long, "f", []), Err(KeyError::TooLong { .. })));
        assert!(matches!(SeriesKey::new("m", "", [("", "x")]), Err(KeyError::Empty { .. })));
        assert_eq!(
            SeriesKey::new("m", "", [("b", "1"), ("a", "2"), ("b", "3")]),
            Err(KeyError::TagTwice { name: "b".into() })
        );
        let names: Vec<String> = (0..33).map(|n| format!("t{n}")).collect();
        assert_eq!(
            SeriesKey::new("m", "", names.iter().map(|name| (name.as_str(), ""))),
            Err(KeyError::TooManyTags)
        );
        let good = SeriesKey::new("m", "f", [("a", "1")]).unwrap();
        for cut in 0..good.as_bytes().len() {
            assert!(SeriesKey::from_bytes(&good.as_bytes()[..cut]).is_err(), "{cut}");
        }
        // A longer varint for the same length is another string of bytes and no key.
        assert_eq!(SeriesKey::from_bytes(&[0x81, 0x00, b'm', 0, 0]), Err(KeyError::Malformed));
    }
}
