//! References of config: values that differ from device to device, taken from its labels or its twin.
//!
//! A device writes what it reports itself, and a value ends up in the environment of an app or in a file that root owns. So text with control characters
//! (a line end would begin another line of a configuration file) counts as no value.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ConfigError, check_pair};
use crate::document::path;
use crate::label::{Labels, is_label_key};

/// At most this many bytes are taken.
pub const MAX_TAKEN_BYTES: usize = 4 * 1024;

/// Which half of a twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Half {
    Desired,
    Reported,
}

/// What is known of a device's twin, by half and path.
pub type TwinValues = BTreeMap<(Half, String), String>;

/// Where a value is taken from: one of `label`, `desired` and `reported`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = ConfigReference))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// A label of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// A JSON Pointer into what is desired of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    /// A JSON Pointer into what the device reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<String>,
    /// The value for devices that have none there.
    pub default: String,
}

enum Source<'r> {
    Label(&'r str),
    Twin(Half, &'r str),
}

impl Reference {
    fn source(&self) -> Option<Source<'_>> {
        match (&self.label, &self.desired, &self.reported) {
            (Some(label), None, None) => Some(Source::Label(label)),
            (None, Some(path), None) => Some(Source::Twin(Half::Desired, path)),
            (None, None, Some(path)) => Some(Source::Twin(Half::Reported, path)),
            _ => None,
        }
    }

    /// Checks it as the value of `key`.
    ///
    /// # Errors
    /// When it names not exactly one place, or a place that can't be, or has a default that may not be set.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        check_pair(key, &self.default)?;
        let wrong = |why: &str| ConfigError::Reference(key.to_owned(), why.to_owned());
        match self.source() {
            None => Err(wrong("names one of label, desired and reported")),
            Some(Source::Label(label)) if !is_label_key(label) => Err(wrong("names no label")),
            Some(Source::Twin(_, path)) if path.is_empty() || path::check(path).is_err() => {
                Err(wrong("names a place in the twin by a JSON Pointer, such as /settings/interval"))
            }
            Some(_) => Ok(()),
        }
    }

    /// The place in a twin that it is about.
    #[must_use]
    pub fn place(&self) -> Option<(Half, &str)> {
        match self.source()? {
            Source::Twin(half, path) => Some((half, path)),
            Source::Label(_) => None,
        }
    }

    /// Its value on a device.
    #[must_use]
    pub fn resolve(&self, labels: &Labels, twin: Option<&TwinValues>) -> String {
        let found = match self.source() {
            Some(Source::Label(label)) => labels.get(label).map(str::to_owned),
            Some(Source::Twin(half, path)) => {
                twin.and_then(|twin| twin.get(&(half, path.to_owned())).cloned())
            }
            None => None,
        };
        found.unwrap_or_else(|| self.default.clone())
    }
}

/// As people read it: `label store`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source() {
            Some(Source::Label(label)) => write!(f, "label {label}"),
            Some(Source::Twin(Half::Desired, path)) => write!(f, "desired {path}"),
            Some(Source::Twin(Half::Reported, path)) => write!(f, "reported {path}"),
            None => f.write_str("nothing"),
        }
    }
}

/// What anything on the device may say through its twin, without being a line, an option or a piece of markup in the files and arguments that it is put into.
fn is_plain(text: &str) -> bool {
    !text.starts_with('-') && text.chars().all(|c| c.is_alphanumeric() || " ._:/@+,-".contains(c))
}

/// What the document of a twin has at these places, as text. What no app can be told is left out; of what the device reports, also what is more than a
/// number, a truth value or plain text (letters, digits, space and `._:/@+,-`, no `-` at the beginning).
pub fn take<'p>(
    half: Half,
    document: &serde_json::Value,
    places: impl IntoIterator<Item = &'p str>,
) -> impl Iterator<Item = ((Half, String), String)> {
    places.into_iter().filter_map(move |place| {
        let text = match path::get(Some(document), place)? {
            serde_json::Value::Null => return None,
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let fits = text.len() <= MAX_TAKEN_BYTES
            && !text.chars().any(char::is_control)
            && (half == Half::Desired || is_plain(&text) || text.parse::<f64>().is_ok());
        fits.then(|| ((half, place.to_owned()), text))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(label: Option<&str>, desired: Option<&str>, reported: Option<&str>) -> Reference {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Reference {
            label: text(label),
            desired: text(desired),
            reported: text(reported),
            default: "none".to_owned(),
        }
    }

    #[test]
    fn a_reference_names_one_place_that_can_be() {
        for good in
            [of(Some("store"), None, None), of(None, Some("/a/b~1c"), None), of(None, None, Some("/a"))]
        {
            assert_eq!(good.check("X"), Ok(()), "{good}");
        }
        for (wrong, why) in [
            (of(None, None, None), "one of"),
            (of(Some("a"), Some("/a"), None), "one of"),
            (of(Some("-"), None, None), "no label"),
            (of(None, Some("a"), None), "JSON Pointer"),
            (of(None, None, Some("")), "JSON Pointer"),
            (of(None, None, Some("/a~2")), "JSON Pointer"),
        ] {
            let said = wrong.check("X").expect_err("refused").to_string();
            assert!(said.contains(why), "{said}");
        }
        assert!(of(Some("store"), None, None).check("LD_PRELOAD").is_err());
        let large = Reference { default: "x".repeat(100_000), ..of(Some("store"), None, None) };
        assert!(large.check("X").is_err());
    }

    #[test]
    fn values_come_from_the_device_or_are_the_default() {
        let labels = Labels::try_from([("store", "12")]).expect("labels");
        let reported = json!({
            "n": 10, "on": true, "text": "a b", "list": [1, "x"], "none": null,
            "option": "--config=/tmp/x", "markup": "x; include /tmp/y;", "below": -5,
            "lines": "a\nb", "long": "x".repeat(MAX_TAKEN_BYTES + 1), "in": {"it": 1.5},
        });
        let places = [
            "/n", "/on", "/text", "/list", "/option", "/markup", "/below", "/none", "/lines", "/long",
            "/in/it", "/missing",
        ];
        let twin: TwinValues = take(Half::Reported, &reported, places).collect();
        for (reference, expected) in [
            (of(Some("store"), None, None), "12"),
            (of(Some("floor"), None, None), "none"),
            (of(None, None, Some("/n")), "10"),
            (of(None, None, Some("/on")), "true"),
            (of(None, None, Some("/text")), "a b"),
            (of(None, None, Some("/list")), "none"),
            (of(None, None, Some("/option")), "none"),
            (of(None, None, Some("/markup")), "none"),
            (of(None, None, Some("/below")), "-5"),
            (of(None, None, Some("/none")), "none"),
            (of(None, None, Some("/lines")), "none"),
            (of(None, None, Some("/long")), "none"),
            (of(None, None, Some("/in/it")), "1.5"),
            (of(None, None, Some("/missing")), "none"),
            (of(None, Some("/n"), None), "none"),
        ] {
            assert_eq!(reference.resolve(&labels, Some(&twin)), expected, "{reference}");
        }
        assert_eq!(of(None, None, Some("/n")).resolve(&labels, None), "none");
    }
}
