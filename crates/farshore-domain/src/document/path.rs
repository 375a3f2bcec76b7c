//! Places in a document: JSON Pointers, RFC 6901. The empty one is the whole document.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::DocumentError;

/// Most bytes of a pointer.
pub const MAX_BYTES: usize = 1_024;

/// The pointer to a member.
#[must_use]
pub fn join(at: &str, name: &str) -> String {
    let name: Cow<'_, str> = if name.contains(['~', '/']) {
        name.replace('~', "~0").replace('/', "~1").into()
    } else {
        name.into()
    };
    format!("{at}/{name}")
}

/// How much longer the pointer to a member is than the one to what it is in.
pub(super) fn step_bytes(name: &str) -> usize {
    1 + name.len() + name.bytes().filter(|byte| matches!(byte, b'~' | b'/')).count()
}

/// The names on the way.
pub fn names(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~"))
}

/// Whether `at` is `above`, or in it.
#[must_use]
pub fn within(at: &str, above: &str) -> bool {
    at.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks a pointer that somebody wrote.
///
/// # Errors
/// When it is none.
pub fn check(pointer: &str) -> Result<(), DocumentError> {
    let escapes_are_right = pointer.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    if pointer.len() > MAX_BYTES
        || !(pointer.is_empty() || pointer.starts_with('/'))
        || !escapes_are_right
        || pointer.contains('\0')
    {
        return Err(DocumentError::new(
            "a path is a JSON Pointer, such as /settings/volume, or empty for the whole document",
        ));
    }
    Ok(())
}

/// The value at a place; only members of objects are places.
#[must_use]
pub fn get<'v>(document: Option<&'v Value>, pointer: &str) -> Option<&'v Value> {
    let mut at = document?;
    for name in names(pointer) {
        at = at.as_object()?.get(&name)?;
    }
    Some(at)
}

/// The document with another value at a place, or without one. What is no object on the way becomes one.
#[must_use]
pub fn set(document: Option<&Value>, pointer: &str, value: Option<Value>) -> Option<Value> {
    fn put(at: Option<&Value>, mut names: std::vec::IntoIter<String>, value: Option<Value>) -> Option<Value> {
        let Some(name) = names.next() else { return value };
        let mut members: Map<String, Value> = match (at.and_then(Value::as_object), &value) {
            (Some(members), _) => members.clone(),
            // Nothing is there to be deleted.
            (None, None) => return at.cloned(),
            (None, Some(_)) => Map::new(),
        };
        match put(members.get(&name), names, value) {
            Some(member) => members.insert(name, member),
            None => members.remove(&name),
        };
        Some(Value::Object(members))
    }
    put(document, names(pointer).collect::<Vec<_>>().into_iter(), value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places() {
        let document = json!({"a/b": {"~": 1}, "c": [1]});
        let at = join(&join("", "a/b"), "~");
        assert_eq!(at, "/a~1b/~0");
        assert_eq!(get(Some(&document), &at), Some(&json!(1)));
        assert_eq!(get(Some(&document), "/c/0"), None);
        assert_eq!(get(Some(&document), ""), Some(&document));
        assert_eq!(set(Some(&document), &at, None), Some(json!({"a/b": {}, "c": [1]})));
        assert_eq!(set(None, "/x/y", Some(json!(2))), Some(json!({"x": {"y": 2}})));
        assert_eq!(set(Some(&json!({"x": 1})), "/x/y", None), Some(json!({"x": 1})));
        assert_eq!(set(Some(&document), "", None), None);
        assert!(within("/a/b", "/a") && within("/a", "") && !within("/ab", "/a"));
        assert!(check("/a~0/~1").is_ok() && check("").is_ok());
        assert!(check("a").is_err() && check("/~2").is_err() && check("/~").is_err());
    }
}
