//! JSON Merge Patch, RFC 7396.

use serde_json::{Map, Value};

use super::path;

/// `MergePatch(target, patch)` of RFC 7396, section 2.
#[must_use]
pub fn apply(target: &Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut members = target.as_object().cloned().unwrap_or_default();
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            let member = apply(members.get(name).unwrap_or(&Value::Null), change);
            members.insert(name.clone(), member);
        }
    }
    Value::Object(members)
}

/// The patch that makes `to` of `from`, for documents (objects without `null` members).
#[must_use]
pub fn diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return to.clone() };
    let mut changes = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changes.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before) => {
                changes.insert(name.clone(), diff(before, value));
            }
            None => {
                changes.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(changes)
}

/// The leaves that a patch sets or deletes, as pointers.
#[must_use]
pub fn leaves(patch: &Value) -> Vec<String> {
    fn walk(at: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                for (name, member) in members {
                    walk(&path::join(at, name), member, found);
                }
            }
            _ => found.push(at.to_owned()),
        }
    }
    let mut found = Vec::new();
    walk("", patch, &mut found);
    found
}

/// The leaves in which two states of a document differ; the whole (`""`) when one of them is none.
#[must_use]
pub fn changed(from: Option<&Value>, to: Option<&Value>) -> Vec<String> {
    match (from, to) {
        (from, to) if from == to => Vec::new(),
        (Some(from), Some(to)) => leaves(&diff(from, to)),
        (None, Some(to)) => leaves(to),
        (_, None) => vec![String::new()],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Appendix A of RFC 7396.
    #[test]
    fn the_table_of_the_rfc() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(apply(&target, &patch), result, "{target} {patch}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..4_i64).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
            Just(json!([1, null, {"a": null}])),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop::collection::btree_map("[a-d/~]{1,2}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect()))
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-d/~]{1,2}", value(), 0..4)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_patch_makes_one_document_of_the_other(from in object(), to in object()) {
            prop_assert_eq!(apply(&from, &diff(&from, &to)), to.clone());
            prop_assert_eq!(diff(&to, &to), json!({}));
            for leaf in changed(Some(&from), Some(&to)) {
                prop_assert_ne!(path::get(Some(&from), &leaf), path::get(Some(&to), &leaf), "{}", leaf);
            }
        }
    }
}
