//! A reading as the decoders hand it on: borrowed from the bytes it came in, so that none is copied before the journal has it.

use std::borrow::Cow;

use crate::limits::{MAX_FIELDS, MAX_NAME_BYTES, MAX_TAGS, MAX_TEXT_BYTES};

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Always finite.
    Float(f64),
    Integer(i64),
    Bool(bool),
    Text(Cow<'a, str>),
    /// The text of a JSON value that is none of the above.
    Json(Cow<'a, str>),
}

/// A pair of a tag.
pub type Tag<'a> = (Cow<'a, str>, Cow<'a, str>);
/// A pair of a field.
pub type Field<'a> = (Cow<'a, str>, Value<'a>);

/// One reading: a measurement with tags (together: a series), one or more fields, and perhaps a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point<'a> {
    pub measurement: Cow<'a, str>,
    /// Ascending by key, no key twice (after [`Point::finish`]).
    pub tags: Vec<Tag<'a>>,
    pub fields: Vec<Field<'a>>,
    /// Unix nanoseconds; the gateway's own clock where the producer told none.
    pub time_ns: Option<i64>,
}

/// Why something is no point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    #[error("{what} is missing")]
    Missing { what: &'static str },
    #[error("{what} {name:?} can't be read: {why}")]
    Malformed { what: &'static str, name: String, why: &'static str },
    #[error("{what} has {bytes} bytes, at most {max} are taken")]
    TooLong { what: &'static str, bytes: usize, max: usize },
    #[error("there are more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    /// Of a body as a whole, of which nothing is taken.
    #[error("the body has more than {max} {what}; send smaller batches")]
    TooMuch { what: &'static str, max: usize },
    #[error("{what} {name:?} is there twice")]
    Twice { what: &'static str, name: String },
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("the JSON is broken: {0}")]
    Json(String),
    #[error("{0}")]
    Refused(String),
}

impl PointError {
    /// A piece of foreign text, short enough for a message.
    pub(crate) fn malformed(what: &'static str, name: &str, why: &'static str) -> Self {
        Self::Malformed { what, name: name.chars().take(64).collect(), why }
    }
}

impl Point<'_> {
    /// Puts the tags in order and checks the point as a whole.
    ///
    /// # Errors
    /// When it is not within the limits or names something twice.
    pub fn finish(&mut self) -> Result<(), PointError> {
        check_name("the measurement", &self.measurement)?;
        if self.tags.len() > MAX_TAGS {
            return Err(PointError::TooMany { what: "tags", max: MAX_TAGS });
        }
        if self.fields.is_empty() {
            return Err(PointError::Missing { what: "a field" });
        }
        if self.fields.len() > MAX_FIELDS {
            return Err(PointError::TooMany { what: "fields", max: MAX_FIELDS });
        }
        if !self.tags.is_sorted_by(|a, b| a.0 < b.0) {
            self.tags.sort_by(|a, b| a.0.cmp(&b.0));
            let mut pairs = self.tags.iter().zip(self.tags.iter().skip(1));
            if let Some(((key, _), _)) = pairs.find(|((key, _), (next, _))| key == next) {
                return Err(PointError::Twice { what: "tag", name: key.chars().take(64).collect() });
            }
        }
        for (key, value) in &self.tags {
            check_name("a tag's key", key)?;
            check_name("a tag's value", value)?;
        }
        for (index, (key, value)) in self.fields.iter().enumerate() {
            check_name("a field's key", key)?;
            if self.fields.iter().take(index).any(|(other, _)| other == key) {
                return Err(PointError::Twice { what: "field", name: key.chars().take(64).collect() });
            }
            match value {
                Value::Float(number) if !number.is_finite() => {
                    return Err(PointError::malformed("field", key, "the number is not finite"));
                }
                Value::Text(text) | Value::Json(text) if text.len() > MAX_TEXT_BYTES => {
                    return Err(PointError::TooLong {
                        what: "a field",
                        bytes: text.len(),
                        max: MAX_TEXT_BYTES,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets the last point and keeps the memory.
    pub fn clear(&mut self) {
        self.measurement = Cow::Borrowed("");
        self.tags.clear();
        self.fields.clear();
        self.time_ns = None;
    }

    /// The same, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Point<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        Point {
            measurement: own(self.measurement),
            tags: self.tags.into_iter().map(|(key, value)| (own(key), own(value))).collect(),
            fields: self.fields.into_iter().map(|(key, value)| (own(key), value.into_owned())).collect(),
            time_ns: self.time_ns,
        }
    }
}

impl Value<'_> {
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Float(value) => Value::Float(value),
            Self::Integer(value) => Value::Integer(value),
            Self::Bool(value) => Value::Bool(value),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Json(text) => Value::Json(Cow::Owned(text.into_owned())),
        }
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), PointError> {
    if name.is_empty() {
        return Err(PointError::Missing { what });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(PointError::TooLong { what, bytes: name.len(), max: MAX_NAME_BYTES });
    }
    if name.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(PointError::malformed(what, name, "control characters are not taken"));
    }
    Ok(())
}
