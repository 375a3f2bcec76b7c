//! The objects of a release, as they are handed to the cluster.

use std::collections::BTreeSet;
use std::path::Path;

use farshore_domain::name::Name;
use farshore_domain::release::kind::Objects;
use farshore_domain::version::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::super::allowed::Kubernetes;
use crate::file;

const MAX_FILE: u64 = 1024 * 1024;
const MAX_OBJECTS: usize = 256;
/// Says whose an object is.
pub(super) const APP_LABEL: &str = "farshore.dev/app";
const VERSION_ANNOTATION: &str = "farshore.dev/version";

/// Which object. Its place in the API is found out when it is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Key {
    pub(super) api_version: String,
    pub(super) kind: String,
    /// Empty for what belongs to the whole cluster.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// An object to be applied.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) body: Value,
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A name as Kubernetes takes it in a path: nothing that could lead elsewhere.
fn is_plain(name: &str, most: usize) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b);
    !name.is_empty() && name.len() <= most && name.bytes().all(inner) && !name.starts_with('.')
}

fn flatten(value: Value, into: &mut Vec<Value>) -> Result<(), String> {
    let list = text(&value, "/kind").ends_with("List") && value.get("items").is_some_and(Value::is_array);
    if !list {
        into.push(value);
    } else if let Some(Value::Array(items)) = value.get("items") {
        into.extend(items.iter().cloned());
    }
    if into.len() > MAX_OBJECTS {
        Err(format!("a release has at most {MAX_OBJECTS} objects"))
    } else {
        Ok(())
    }
}

/// Reads them from the release's folder. Whether an object has a namespace is known to the cluster only: those that name none get the release's, and
/// lose it again where they have none.
pub(super) fn read(
    folder: &Path,
    objects: &Objects,
    app: &Name,
    version: &Version,
) -> Result<Vec<Wanted>, String> {
    let mut all = Vec::new();
    for path in &objects.objects {
        let bytes =
            file::read_capped(&folder.join(path), MAX_FILE).map_err(|error| format!("{path}: {error}"))?;
        let bytes = bytes.ok_or_else(|| format!("the release holds no {path}"))?;
        let value = serde_json::from_slice(&bytes).map_err(|error| format!("{path} is no JSON: {error}"))?;
        flatten(value, &mut all).map_err(|error| format!("{path}: {error}"))?;
    }
    let mut keys = BTreeSet::new();
    let mut wanted = Vec::with_capacity(all.len());
    for mut body in all {
        let (api_version, kind) = (text(&body, "/apiVersion").to_owned(), text(&body, "/kind").to_owned());
        let name = text(&body, "/metadata/name").to_owned();
        let known = api_version.split('/').all(|part| is_plain(part, 253))
            && api_version.split('/').count() <= 2
            && kind.bytes().all(|b| b.is_ascii_alphanumeric())
            && !kind.is_empty();
        if !known || !is_plain(&name, 253) {
            return Err(format!(
                "an object has no good apiVersion, kind or metadata.name: {api_version:?} {kind:?} {name:?}"
            ));
        }
        let namespace = match text(&body, "/metadata/namespace") {
            "" => objects.namespace.clone(),
            namespace if is_plain(namespace, 63) => namespace.to_owned(),
            other => return Err(format!("{other:?} is no namespace")),
        };
        let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(format!("{kind} {name} has no metadata"));
        };
        let mut put = |field: &str, key: &str, value: &str| {
            let fields = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
            if let Some(fields) = fields.as_object_mut() {
                fields.insert(key.to_owned(), value.into());
            }
        };
        put("labels", APP_LABEL, app.as_str());
        put("annotations", VERSION_ANNOTATION, &version.to_string());
        // What only the cluster says has no place in what is applied.
        for theirs in ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"] {
            metadata.remove(theirs);
        }
        if let Some(fields) = body.as_object_mut() {
            fields.remove("status");
        }
        let key = Key { api_version, kind, namespace, name };
        if !keys.insert(key.clone()) {
            return Err(format!("{key} is there twice"));
        }
        wanted.push(Wanted { key, body });
    }
    if wanted.is_empty() { Err("the release has no objects".to_owned()) } else { Ok(wanted) }
}

impl Wanted {
    /// Now that it is known whether it has a namespace: the same with it or without, where the device allows that.
    pub(super) fn placed(mut self, namespaced: bool, allowed: &Kubernetes) -> Result<Self, String> {
        let Some(metadata) = self.body.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(format!("{} has no metadata", self.key));
        };
        if namespaced {
            metadata.insert("namespace".to_owned(), self.key.namespace.clone().into());
            if !allowed.namespaces.contains(&self.key.namespace) {
                let key = &self.key;
                return Err(format!(
                    "the device does not allow apps in namespace {:?}: {key}",
                    key.namespace
                ));
            }
        } else {
            metadata.remove("namespace");
            self.key.namespace.clear();
            if !allowed.cluster_scoped {
                return Err(format!(
                    "the device allows no app to change what belongs to the whole cluster: {}",
                    self.key
                ));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_all(files: &[(&str, Value)]) -> Result<Vec<Wanted>, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in files {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        }
        let objects = Objects {
            objects: files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            namespace: "shop".to_owned(),
        };
        read(folder.path(), &objects, &Name::new("web").unwrap(), &"1.2".parse().unwrap())
    }

    #[test]
    fn objects_keep_their_order_and_say_whose_they_are() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "other"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "b", "labels": {"x": "y"}, "uid": "1"},
             "status": {"replicas": 9}},
        ]});
        let one = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}});
        let wanted = read_all(&[("1.json", list), ("2.json", one)]).unwrap();
        let shown: Vec<String> = wanted.iter().map(|wanted| wanted.key.to_string()).collect();
        assert_eq!(shown, ["ConfigMap other/a", "Deployment shop/b", "Service shop/c"]);
        let body = &wanted[1].body;
        assert_eq!(body["metadata"]["labels"], json!({"x": "y", "farshore.dev/app": "web"}));
        assert_eq!(body["metadata"]["annotations"]["farshore.dev/version"], "1.2");
        assert!(body["metadata"]["uid"].is_null() && body["status"].is_null());
    }

    #[test]
    fn what_is_no_object_or_leads_elsewhere_is_refused() {
        let object =
            |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        for bad in [
            json!({}),
            json!([1]),
            json!({"apiVersion": "v1", "kind": "ConfigMap"}),
            json!({"apiVersion": "a/b/c", "kind": "X", "metadata": {"name": "x"}}),
            json!({"apiVersion": "../v1", "kind": "X", "metadata": {"name": "x"}}),
            json!({"apiVersion": "v1", "kind": "../pods", "metadata": {"name": "x"}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "a/b"}}),
            json!({"kind": "List", "items": []}),
            object("../../secrets/x"),
            object("..."),
            object(""),
        ] {
            assert!(read_all(&[("x.json", bad.clone())]).is_err(), "{bad}");
        }
        assert!(read_all(&[("x.json", object("a")), ("y.json", object("a"))]).unwrap_err().contains("twice"));
    }

    #[test]
    fn namespaces_and_the_whole_cluster_need_the_devices_leave() {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        let wanted = read_all(&[("x.json", object)]).unwrap().remove(0);
        let mut allowed = Kubernetes { namespaces: vec!["shop".to_owned()], ..Kubernetes::default() };
        assert!(wanted.clone().placed(true, &allowed).is_ok());
        assert!(wanted.clone().placed(false, &allowed).unwrap_err().contains("whole cluster"));
        allowed.cluster_scoped = true;
        let placed = wanted.clone().placed(false, &allowed).unwrap();
        assert!(placed.body["metadata"]["namespace"].is_null() && placed.key.namespace.is_empty());
        allowed.namespaces.clear();
        assert!(wanted.placed(true, &allowed).unwrap_err().contains("\"shop\""));
    }
}
