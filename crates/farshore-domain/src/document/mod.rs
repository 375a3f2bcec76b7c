//! Documents: JSON that one device and the cloud may both change.
//!
//! The cloud is the hub and decides; the device applies what was decided. Each side changes its own copy at once. A device sends a change against the
//! **base revision** that it was made on ([`local`]); the hub merges three-way ([`merge`]) by the rules of the collection ([`rule`]) and answers with
//! the outcome ([`hub`]). What loses stays as a [`merge::Conflict`]. A twin is two documents of the collection [`TWIN`]: `desired` belongs to the cloud,
//! `reported` to the device, so that they never conflict.
//!
//! A document is a JSON object without `null` members (`null` deletes in a patch, as in RFC 7396); its leaves are everything that is no object with
//! members, so a list is one leaf. Everything here is deterministic: the same inputs give the same document.

pub mod clock;
pub mod exchange;
pub mod hub;
pub mod local;
pub mod merge;
pub mod patch;
pub mod path;
pub mod resolver;
pub mod rule;
pub mod stamps;
pub mod twin;

#[cfg(test)]
mod model_tests;

use serde_json::{Number, Value};

pub use clock::Hlc;
pub use rule::{Rule, Rules, Strategy};
pub use stamps::{Stamp, Stamps};

/// The collection of a device's twin.
pub const TWIN: &str = "twin";
/// The half of the twin that the cloud writes.
pub const DESIRED: &str = "desired";
/// The half of the twin that the device writes.
pub const REPORTED: &str = "reported";

/// Most bytes of a document, as JSON.
pub const MAX_BYTES: usize = 128 * 1024;
/// Most levels of a document.
pub const MAX_DEPTH: usize = 32;
/// Most leaves of a document.
pub const MAX_LEAVES: usize = 4_000;
/// Most bytes of the pointers to all places of a document together.
pub const MAX_PLACES_BYTES: usize = 512 * 1024;
/// Most documents of a device.
pub const MAX_DOCUMENTS: u64 = 50_000;
/// Most bytes of the documents of a device, with the times of their leaves.
pub const MAX_DEVICE_BYTES: u64 = 512 * 1024 * 1024;

/// Why something can't be a document, or its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DocumentError(pub String);

impl DocumentError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Who may write a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Edge,
    Cloud,
}

fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Checks the names of a collection and of a document in it.
///
/// # Errors
/// When one of them is none.
pub fn check_names(collection: &str, name: &str) -> Result<(), DocumentError> {
    check_collection(collection)?;
    if !is_word(name, 128) {
        return Err(DocumentError::new(
            "a document's name has 1 to 128 letters, digits, '-', '_' or '.', and begins with a letter or digit",
        ));
    }
    if collection == TWIN && name != DESIRED && name != REPORTED {
        return Err(DocumentError::new("the collection twin has two documents, desired and reported"));
    }
    Ok(())
}

/// Checks the name of a collection.
///
/// # Errors
/// When it is none.
pub fn check_collection(collection: &str) -> Result<(), DocumentError> {
    if is_word(collection, 63) && !collection.bytes().any(|b| b.is_ascii_uppercase()) {
        return Ok(());
    }
    Err(DocumentError::new(
        "a collection's name has 1 to 63 small letters, digits, '-', '_' or '.', and begins with a letter or digit",
    ))
}

/// Whether a side may write this document, whatever its collection's rules are.
#[must_use]
pub fn may_write(side: Side, collection: &str, name: &str) -> bool {
    collection != TWIN || (name == DESIRED) == (side == Side::Cloud)
}

/// Makes a document of a value: without `null` members, numbers as they are read again.
///
/// # Errors
/// When it is no object or too large.
pub fn tidy(mut value: Value) -> Result<Value, DocumentError> {
    if !value.is_object() {
        return Err(DocumentError::new("a document is a JSON object"));
    }
    tidy_in(&mut value, 0, Some(0), &mut Size::default())?;
    let bytes = serde_json::to_string(&value).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_BYTES {
        return Err(DocumentError::new(format!(
            "a document has at most {MAX_BYTES} bytes, this has {bytes}"
        )));
    }
    Ok(value)
}

/// What was met of a document.
#[derive(Default)]
struct Size {
    leaves: usize,
    /// Bytes of the pointers to all places.
    places: usize,
}

/// `place` has the bytes of the pointer to this value; none in a list, which is one place.
fn tidy_in(
    value: &mut Value,
    depth: usize,
    place: Option<usize>,
    size: &mut Size,
) -> Result<(), DocumentError> {
    if depth > MAX_DEPTH {
        return Err(DocumentError::new(format!("a document has at most {MAX_DEPTH} levels")));
    }
    match value {
        Value::Object(members) => {
            if place.is_some() {
                members.retain(|_, member| !member.is_null());
            }
            for (name, member) in members {
                check_string(name)?;
                let place = place.map(|place| place + path::step_bytes(name));
                // A long name that everything is in would be in each pointer: what a document weighs would have nothing to do with its size.
                size.places += place.unwrap_or_default();
                if place.is_some_and(|place| place > path::MAX_BYTES) || size.places > MAX_PLACES_BYTES {
                    return Err(DocumentError::new(format!(
                        "the path of a value has at most {} bytes, and all paths of a document together {MAX_PLACES_BYTES}",
                        path::MAX_BYTES
                    )));
                }
                tidy_in(member, depth + 1, place, size)?;
            }
        }
        Value::Array(elements) => {
            for element in elements {
                tidy_in(element, depth + 1, None, size)?;
            }
        }
        Value::String(text) => check_string(text)?,
        Value::Number(number) => {
            if let Some(stable) = number.as_f64().filter(|_| number.is_f64()).and_then(stable) {
                *number = stable;
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    size.leaves += 1;
    if size.leaves > MAX_LEAVES {
        return Err(DocumentError::new(format!("a document has at most {MAX_LEAVES} values")));
    }
    Ok(())
}

fn check_string(text: &str) -> Result<(), DocumentError> {
    if text.contains('\0') {
        return Err(DocumentError::new(r"the character \u0000 can't be in a document"));
    }
    Ok(())
}

/// The nearby number that is read again as it was written. The reader of JSON is off by one in the last place for some numbers of 16 digits and more,
/// and a number that changed each time it was stored would look like a change.
fn stable(number: f64) -> Option<Number> {
    let again = |number: f64| {
        let text = serde_json::to_string(&number).ok()?;
        serde_json::from_str::<f64>(&text).ok()
    };
    let mut number = number;
    for _ in 0..8 {
        let read = again(number)?;
        if read.to_bits() == number.to_bits() {
            return Number::from_f64(number);
        }
        number = read;
    }
    // Fifteen digits are read exactly.
    Number::from_f64(format!("{number:.14e}").parse().ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_be_a_document() {
        let nested = (0..40).fold(json!(1), |inner, _| json!({"a": inner}));
        let long = json!({"a": "x".repeat(MAX_BYTES)});
        let many: serde_json::Map<_, _> = (0..=MAX_LEAVES).map(|n| (n.to_string(), json!(n))).collect();
        for wrong in [json!([1]), json!(null), json!("a"), nested, long, many.into(), json!({"a": "\0"})] {
            assert!(
                tidy(wrong.clone()).is_err(),
                "{}",
                &wrong.to_string()[..wrong.to_string().len().min(60)]
            );
        }
        let tidied = tidy(json!({"a": null, "b": {"c": null}, "d": [null, {"e": null}]})).unwrap();
        assert_eq!(tidied, json!({"b": {}, "d": [null, {"e": null}]}));
    }

    #[test]
    fn paths_that_weigh_more_than_the_document_are_refused() {
        let leaves = |name: String, count: usize| {
            let inner: serde_json::Map<_, _> = (0..count).map(|n| (n.to_string(), json!(0))).collect();
            json!({name: inner})
        };
        assert!(tidy(leaves("k".repeat(90_000), 3_900)).is_err());
        // Each path is short enough, all together are too long.
        assert!(tidy(leaves("k".repeat(1_000), 3_900)).is_err());
        assert!(tidy(leaves("k".repeat(1_000), 500)).is_ok());
        // With its slash and the escapes.
        let fits = path::MAX_BYTES - 1;
        assert!(
            tidy(json!({"k".repeat(fits): 1})).is_ok() && tidy(json!({"k".repeat(fits + 1): 1})).is_err()
        );
        assert!(tidy(json!({"/".repeat(fits / 2 + 1): 1})).is_err());
        // What is in a list has no path.
        assert!(tidy(json!({"list": [{"k".repeat(2_000): 1}]})).is_ok());
        let (place, document) = (path::join("", "a~/b"), json!({"a~/b": 1}));
        assert_eq!((place.len(), tidy(document.clone())), (path::step_bytes("a~/b"), Ok(document)));
    }

    #[test]
    fn numbers_are_read_again_as_they_were_written() {
        let mut number = 0.123_456_789_012_345_68_f64;
        for step in 0..20_000_u32 {
            number = (number * 1.618_033_988_749_895 + f64::from(step).sqrt()) % 1e9;
            let tidied = tidy(json!({"n": number})).unwrap();
            let again: Value = serde_json::from_str(&tidied.to_string()).unwrap();
            assert_eq!(tidied, again);
        }
    }

    #[test]
    fn names() {
        assert!(check_names("settings", "Line-1.a").is_ok() && check_names(TWIN, DESIRED).is_ok());
        for (collection, name) in
            [("", "a"), ("A", "a"), ("a/b", "a"), ("a", ""), ("a", "../b"), ("a", ".b"), (TWIN, "other")]
        {
            assert!(check_names(collection, name).is_err(), "{collection}/{name}");
        }
        assert!(may_write(Side::Cloud, TWIN, DESIRED) && !may_write(Side::Edge, TWIN, DESIRED));
        assert!(may_write(Side::Edge, TWIN, REPORTED) && !may_write(Side::Cloud, TWIN, REPORTED));
    }
}
