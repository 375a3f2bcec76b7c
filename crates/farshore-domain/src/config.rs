//! Config: values for an app in layers, each value with its provenance.

pub mod reference;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use reference::Reference;

/// At most this many bytes in one value.
pub const MAX_VALUE_BYTES: usize = 32 * 1024;
/// At most this many values for one app on one device.
pub const MAX_VALUES: usize = 512;

/// At most this many bytes of pipelines for a gateway.
pub const MAX_PIPELINES_BYTES: usize = 256 * 1024;

/// Where a value comes from. A later layer wins: tenant → app → selector → device; among selector layers the one whose name sorts last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    Tenant,
    App,
    Selector,
    Device,
}

/// One value with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = ConfigValue))]
#[serde(rename_all = "camelCase")]
pub struct Value {
    pub value: String,
    pub layer: Layer,
    /// Name of the config object.
    pub from: String,
    /// What the config object refers to there, such as `label store`; missing where it holds the value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// One config object as far as merging needs it.
#[derive(Clone, Debug)]
pub struct LayerValues<'a> {
    pub layer: Layer,
    pub name: &'a str,
    pub values: &'a BTreeMap<String, String>,
    pub references: &'a BTreeMap<String, Reference>,
}

/// Why a key or value may not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "{0:?} is no variable name: use A-Z, a-z, 0-9 and '_', not starting with a digit, 128 characters at most"
    )]
    Key(String),
    #[error("{0} would change what is executed and can't be set")]
    Denied(String),
    #[error("the value of {0} has more than {MAX_VALUE_BYTES} bytes or holds a NUL")]
    Value(String),
    #[error("{0} {1}")]
    Reference(String, String),
}

/// Whether `key` is a plain environment variable name.
#[must_use]
pub fn is_variable(key: &str) -> bool {
    key.len() <= 128
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && key.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// Variables by which a loader, a shell or a language runtime can be made to run other code.
const DENIED: &[&str] = &[
    "PATH",
    "IFS",
    "ENV",
    "BASH_ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "GCONV_PATH",
    "HOSTALIASES",
    "LOCPATH",
    "NLSPATH",
    "TMPDIR",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "RUBYLIB",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "CLASSPATH",
    "DOTNET_STARTUP_HOOKS",
    "HOME",
    "SHELL",
    "USER",
    "LOGNAME",
    "GLIBC_TUNABLES",
    "MALLOC_TRACE",
    "RES_OPTIONS",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "ZDOTDIR",
    "PERL5DB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "DOTNET_ADDITIONAL_DEPS",
    "DOTNET_SHARED_STORE",
    "R_PROFILE",
    "R_PROFILE_USER",
    "R_ENVIRON",
    "R_ENVIRON_USER",
];
const DENIED_PREFIXES: &[&str] = &[
    "LD_",
    "DYLD_",
    "PYTHON",
    "BASH_FUNC_",
    "FARSHORE_",
    "GIT_",
    "CORECLR_",
    "COMPLUS_",
    "COR_",
    "LUA_",
    "ERL_",
    "JULIA_",
];

/// Whether a config may not set `key`, because it changes what is executed or is the agent's own.
#[must_use]
pub fn is_denied(key: &str) -> bool {
    let upper = key.to_ascii_uppercase();
    DENIED.contains(&upper.as_str()) || DENIED_PREFIXES.iter().any(|prefix| upper.starts_with(prefix))
}

/// Checks one pair, from a config or from a manifest.
pub fn check_pair(key: &str, value: &str) -> Result<(), ConfigError> {
    if !is_variable(key) {
        return Err(ConfigError::Key(key.chars().take(128).collect()));
    }
    if is_denied(key) {
        return Err(ConfigError::Denied(key.to_owned()));
    }
    if value.len() > MAX_VALUE_BYTES || value.contains('\0') {
        return Err(ConfigError::Value(key.to_owned()));
    }
    Ok(())
}

/// Merges layers, each value keeping its provenance. `resolve` says what a reference comes to on the device.
#[must_use]
pub fn merge<'a>(
    layers: impl IntoIterator<Item = LayerValues<'a>>,
    resolve: impl Fn(&Reference) -> String,
) -> BTreeMap<String, Value> {
    let mut layers: Vec<_> = layers.into_iter().collect();
    layers.sort_by(|a, b| (a.layer, a.name).cmp(&(b.layer, b.name)));
    let mut merged = BTreeMap::new();
    for LayerValues { layer, name, values, references } in layers {
        let from = name.to_owned();
        for (key, value) in values {
            let value = Value { value: value.clone(), layer, from: from.clone(), reference: None };
            merged.insert(key.clone(), value);
        }
        for (key, reference) in references {
            let (value, reference) = (resolve(reference), Some(reference.to_string()));
            merged.insert(key.clone(), Value { value, layer, from: from.clone(), reference });
        }
    }
    merged
}

/// The nearest of what layers hold as a whole, by the same order as [`merge`].
#[must_use]
pub fn nearest<'a, T>(layers: impl IntoIterator<Item = (Layer, &'a str, T)>) -> Option<T> {
    layers.into_iter().max_by_key(|(layer, name, _)| (*layer, *name)).map(|(.., held)| held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_execution_is_denied_in_any_case() {
        for key in [
            "LD_PRELOAD",
            "ld_preload",
            "PATH",
            "Path",
            "PYTHONPATH",
            "NODE_OPTIONS",
            "FARSHORE_TOKEN",
            "LUA_INIT_5_4",
            "ERL_AFLAGS",
            "ZDOTDIR",
        ] {
            assert!(is_denied(key), "{key}");
        }
        assert!(!is_denied("PORT"));
    }

    #[test]
    fn the_nearest_layer_holds_as_a_whole() {
        let layers = [(Layer::Selector, "a", 1), (Layer::Tenant, "z", 2), (Layer::Selector, "b", 3)];
        assert_eq!(nearest(layers), Some(3));
        assert_eq!(nearest(layers.into_iter().chain([(Layer::Device, "a", 4)])), Some(4));
        assert_eq!(nearest([(Layer::App, "a", ()); 0]), None);
    }

    #[test]
    fn the_nearer_layer_wins_and_says_where_it_comes_from() {
        let map = |value: &str| BTreeMap::from([("PORT".to_owned(), value.to_owned())]);
        let (a, b, c, d) = (map("1"), map("2"), map("3"), map("4"));
        let (none, label) =
            (BTreeMap::new(), Reference { label: Some("store".into()), ..Reference::default() });
        let references = BTreeMap::from([("PORT".to_owned(), label.clone()), ("STORE".to_owned(), label)]);
        let of = |layer, name, values, references| LayerValues { layer, name, values, references };
        let merged = merge(
            [
                of(Layer::Device, "till-1", &d, &none),
                of(Layer::Selector, "b", &c, &none),
                of(Layer::Selector, "a", &b, &references),
                of(Layer::Tenant, "all", &a, &none),
            ],
            |reference| format!("the {reference}"),
        );
        let value = |value: &str, layer, from: &str, reference: Option<&str>| Value {
            value: value.into(),
            layer,
            from: from.into(),
            reference: reference.map(str::to_owned),
        };
        assert_eq!(merged["PORT"], value("4", Layer::Device, "till-1", None));
        assert_eq!(merged["STORE"], value("the label store", Layer::Selector, "a", Some("label store")));
    }
}
