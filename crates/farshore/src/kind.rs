//! The kinds of objects that the API has: what people call them, where they live, what a table shows of them.

mod table;

use farshore_domain::digest::Digest;
use farshore_domain::time::UnixMs;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::cell::{Cell, text_at};

pub(crate) use farshore_domain::nearest::nearest;
pub(crate) use table::KINDS;

/// One column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Only with `-o wide`.
    pub(crate) wide: bool,
    pub(crate) cell: fn(&Value, UnixMs) -> Cell,
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.title)
    }
}

/// One kind.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As in YAML: `Device`.
    pub(crate) kind: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) path: &'static str,
    /// JSON pointer of the name that people use.
    name: &'static str,
    /// JSON pointer of the list in a list's answer.
    items: &'static str,
    /// Whether `GET path/{name}` exists.
    pub(crate) single: bool,
    pub(crate) columns: &'static [Column],
}

impl Kind {
    /// The objects of a list's answer.
    pub(crate) fn items<'a>(&self, list: &'a Value) -> &'a [Value] {
        list.pointer(self.items).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Whether its list comes in pages.
    pub(crate) fn is_paged(&self) -> bool {
        self.items == "/items"
    }

    pub(crate) fn name_of(&self, object: &Value) -> String {
        text_at(object, self.name)
    }

    /// The address of one object.
    pub(crate) fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// The kind that a word means: singular, plural, short name or the kind itself, in any case.
pub(crate) fn find(word: &str) -> Result<&'static Kind> {
    let wanted = word.to_ascii_lowercase();
    let words = |kind: &'static Kind| {
        [kind.singular, kind.plural].into_iter().chain(kind.short.iter().copied()).collect::<Vec<_>>()
    };
    if let Some(kind) = KINDS
        .iter()
        .find(|kind| words(kind).contains(&wanted.as_str()) || kind.kind.eq_ignore_ascii_case(&wanted))
    {
        return Ok(kind);
    }
    let failure = Failure::usage(format!("there is no kind {word:?}"));
    let near = nearest(&wanted, KINDS.iter().flat_map(words));
    Err(match near {
        Some(near) => failure.why(format!("did you mean {near:?}?")),
        None => failure.why(format!(
            "known are {}",
            KINDS.iter().map(|kind| kind.plural).collect::<Vec<_>>().join(", ")
        )),
    })
}

/// What a command is about: whole kinds, or objects by name.
#[derive(Debug)]
pub(crate) enum Selection {
    Kinds(Vec<&'static Kind>),
    Objects(Vec<(&'static Kind, String)>),
}

/// Reads `devices`, `device kiosk-7 kiosk-8`, `device/kiosk-7 rollout/x` and `devices,rollouts`.
pub(crate) fn select(words: &[String]) -> Result<Selection> {
    let Some((first, names)) = words.split_first() else {
        return Err(Failure::usage("say of what: TYPE, TYPE NAME or TYPE/NAME").next("farshore get devices"));
    };
    if words.iter().any(|word| word.contains('/')) {
        let objects = words.iter().map(|word| object(word)).collect::<Result<_>>()?;
        return Ok(Selection::Objects(objects));
    }
    let kinds = first.split(',').filter(|word| !word.is_empty()).map(find).collect::<Result<Vec<_>>>()?;
    match (kinds.as_slice(), names) {
        (_, []) => Ok(Selection::Kinds(kinds)),
        ([kind], names) => Ok(Selection::Objects(
            names.iter().map(|name| Ok((*kind, check_name(name)?))).collect::<Result<_>>()?,
        )),
        _ => Err(Failure::usage("names can only follow one kind; write TYPE/NAME for several")),
    }
}

/// Reads `TYPE/NAME`.
pub(crate) fn object(word: &str) -> Result<(&'static Kind, String)> {
    match word.split_once('/') {
        Some((kind, name)) if !name.is_empty() => Ok((find(kind)?, check_name(name)?)),
        _ => Err(Failure::usage(format!("{word:?} names no object"))
            .why("write TYPE/NAME, for example device/kiosk-7")),
    }
}

/// A name or uid (or digest) that can stand in an address.
pub(crate) fn check_name(name: &str) -> Result<String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    let is_name = plain && !name.is_empty() && name.len() <= 253 && name != "." && name != "..";
    if is_name || name.parse::<Digest>().is_ok() {
        Ok(name.to_owned())
    } else {
        Err(Failure::usage(format!("{name:?} is no name")).why("names hold a-z, 0-9, '-' and '.'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_words() {
        for word in ["device", "devices", "dev", "Device", "DEVICES"] {
            assert_eq!(find(word).unwrap().kind, "Device", "{word}");
        }
        assert_eq!(find("claimtokens").unwrap().kind, "ClaimToken");
        assert_eq!(find("ro").unwrap().kind, "Rollout");
    }

    #[test]
    fn no_word_means_two_kinds() {
        let mut seen = std::collections::BTreeMap::new();
        for kind in KINDS {
            for word in [kind.singular, kind.plural].iter().chain(kind.short) {
                if let Some(other) =
                    seen.insert(word.to_owned(), kind.kind).filter(|other| *other != kind.kind)
                {
                    panic!("{word} means {other} and {}", kind.kind);
                }
            }
        }
    }

    #[test]
    fn a_typo_gets_the_nearest_word() {
        let said = |word| find(word).unwrap_err().render(crate::output::Format::Table, false);
        insta::assert_snapshot!(said("devcies"), @r#"error: there is no kind "devcies": did you mean "devices"?"#);
        insta::assert_snapshot!(said("rolout"), @r#"error: there is no kind "rolout": did you mean "rollout"?"#);
        assert!(said("xyzzy").contains("known are"));
    }

    #[test]
    fn selections_are_read_as_kubectl_reads_them() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let Selection::Kinds(kinds) = select(&words("devices,rollouts")).unwrap() else { panic!() };
        assert_eq!(kinds.iter().map(|kind| kind.kind).collect::<Vec<_>>(), ["Device", "Rollout"]);
        let Selection::Objects(objects) = select(&words("dev a b")).unwrap() else { panic!() };
        assert_eq!(
            objects.iter().map(|(kind, name)| format!("{}/{name}", kind.kind)).collect::<Vec<_>>(),
            ["Device/a", "Device/b"]
        );
        for bad in [
            "devices,rollouts a",
            "device/",
            "device/a b",
            "device/../x",
            "device/a?b",
            "device/a/b",
            "device/a:revoke",
        ] {
            assert!(select(&words(bad)).is_err(), "{bad}");
        }
    }
}
