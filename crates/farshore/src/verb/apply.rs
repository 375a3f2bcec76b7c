//! `farshore apply`: makes the server's objects as files say. Everything is read and checked before anything is sent.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use farshore_api::NewObject;
use farshore_api::access::{ApiTokenSpec, TenantSpec, UserSpec};
use farshore_api::alert::{AlertRouteSpec, SilenceSpec};
use farshore_api::claim::ClaimTokenSpec;
use farshore_api::device::DeviceSpec;
use farshore_api::fleet::{AppSpec, ChannelSpec, ConfigSpec, PinSpec, PlacementSpec};
use farshore_api::gateway_key::GatewayKeySpec;
use farshore_api::sink::SinkSpec;
use farshore_domain::alert::AlertRuleSpec;
use farshore_domain::claim::ClaimRule;
use farshore_domain::object::API_VERSION;
use farshore_domain::policy::PolicySpec;
use farshore_domain::rollout::RolloutSpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::cli::Session;
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{self, KINDS, Kind};
use crate::output::cell::text_at;
use crate::output::{self, Format};

/// At most this many bytes in one file.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A file, a folder (its .yaml, .yml and .json files) or '-' for stdin; may come several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    file: Vec<Source>,
    /// `client`: check the files and say what they hold, without sending anything
    #[arg(long, value_name = "WHERE", value_enum)]
    dry_run: Option<DryRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DryRun {
    Client,
}

/// Where documents come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdin,
    Path(PathBuf),
}

impl From<&OsStr> for Source {
    fn from(text: &OsStr) -> Self {
        if text == "-" { Self::Stdin } else { Self::Path(text.into()) }
    }
}

impl std::str::FromStr for Source {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(OsStr::new(text)))
    }
}

/// One document, checked.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// `fleet.yaml, document 2`.
    pub(crate) origin: String,
    pub(crate) kind: &'static Kind,
    pub(crate) name: String,
    /// What is sent, with every default filled in.
    pub(crate) body: Value,
    /// The version that it was read at, when the file says so.
    version: Option<i64>,
}

impl Document {
    /// One that a verb has made.
    pub(crate) fn of(origin: String, kind: &'static Kind, name: String, body: Value) -> Self {
        Self { origin, kind, name, body, version: None }
    }
}

/// What came of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let documents = read_documents(&arguments.file)?;
    if documents.is_empty() {
        return Err(Failure::usage("there is nothing to apply").why("the files hold no documents"));
    }
    if arguments.dry_run.is_some() {
        for document in &documents {
            match session.output.format {
                Format::Table | Format::Wide => {
                    output::print(&format!(
                        "{}/{} valid (dry run)\n",
                        document.kind.singular, document.name
                    ))?;
                }
                _ => session.output.changed(document.kind, &document.body)?,
            }
        }
        return Ok(());
    }
    let client = session.client()?;
    for document in &documents {
        let (outcome, object) = apply(&client, document).await?;
        match session.output.format {
            Format::Table | Format::Wide => {
                output::print(&format!("{}/{} {}\n", document.kind.singular, document.name, outcome.word()))?;
            }
            _ => session.output.changed(document.kind, &object)?,
        }
        once(&object);
    }
    Ok(())
}

/// Says what the server shows only once.
fn once(object: &Value) {
    for (pointer, what) in [
        ("/status/token", "token"),
        ("/status/loginLink", "login link"),
        ("/status/command", "on the device"),
    ] {
        let text = text_at(object, pointer);
        if !text.is_empty() {
            eprintln!("  {what} (shown once): {text}");
        }
    }
}

/// Creates or replaces one object.
pub(crate) async fn apply(client: &Client, document: &Document) -> Result<(Outcome, Value)> {
    let Document { kind, name, body, origin, .. } = document;
    let what = format!("can't apply {} {name} ({origin})", kind.singular);
    let current = match super::get::one(client, kind, name).await {
        Ok(object) => Some(object),
        Err(failure) if failure.exit() == Exit::NotFound => None,
        Err(failure) => return Err(failure),
    };
    let Some(current) = current else {
        if kind.kind == "Device" {
            return Err(Failure::new(Exit::NotFound, what)
                .why("a device is not created but claimed, with a claim token")
                .next("farshore token create"));
        }
        return Ok((Outcome::Created, client.post(&what, kind.path, body).await?));
    };
    if is_same(&current, body) {
        return Ok((Outcome::Unchanged, current));
    }
    if matches!(kind.kind, "ClaimToken" | "ApiToken" | "GatewayKey" | "Tenant") {
        return Err(Failure::new(Exit::Conflict, what)
            .why(format!("a {} can't be changed once it is there", kind.singular))
            .next(format!("farshore delete {}/{name}", kind.singular)));
    }
    let version =
        document.version.or_else(|| current.pointer("/metadata/resourceVersion").and_then(Value::as_i64));
    // A rollout that runs is not edited: the server makes a new one that supersedes it.
    Ok((Outcome::Configured, client.put(&what, &kind.path_of(name), body, version).await?))
}

/// Whether an object is as a document says.
pub(crate) fn is_same(current: &Value, wanted: &Value) -> bool {
    let empty = Value::Object(serde_json::Map::new());
    let labels =
        |object: &Value| object.pointer("/metadata/labels").cloned().unwrap_or_else(|| empty.clone());
    let managed = wanted.pointer("/metadata/managedBy");
    current.pointer("/spec") == wanted.pointer("/spec")
        && labels(current) == labels(wanted)
        && managed.is_none_or(|managed| current.pointer("/metadata/managedBy") == Some(managed))
}

/// Reads all documents of all sources, checks each, and sorts them so that what others refer to comes first. Says
/// everything that is wrong at once.
pub(crate) fn read_documents(sources: &[Source]) -> Result<Vec<Document>> {
    let mut texts = Vec::new();
    for source in sources {
        match source {
            Source::Stdin => {
                texts.push(("stdin".to_owned(), read_limited("stdin", &mut std::io::stdin().lock())?))
            }
            Source::Path(path) => read_path(path, true, &mut texts)?,
        }
    }
    let (mut documents, mut wrong) = (Vec::new(), Vec::new());
    for (origin, text) in texts {
        match split(&text) {
            Err(why) => wrong.push(format!("{origin}: {why}")),
            Ok(values) => {
                let many = values.len() > 1;
                for (index, value) in values.into_iter().enumerate() {
                    let origin =
                        if many { format!("{origin}, document {}", index + 1) } else { origin.clone() };
                    match check(&origin, value) {
                        Ok(document) => documents.push(document),
                        Err(why) => wrong.push(format!("{origin}: {why}")),
                    }
                }
            }
        }
    }
    for (index, document) in documents.iter().enumerate() {
        let twin = documents
            .iter()
            .take(index)
            .find(|o| o.kind.kind == document.kind.kind && o.name == document.name);
        if let Some(twin) = twin {
            wrong.push(format!(
                "{}: {}/{} is in {} already",
                document.origin, document.kind.singular, document.name, twin.origin
            ));
        }
    }
    if !wrong.is_empty() {
        let failure = Failure::usage("nothing was sent, because not every document is valid");
        return Err(wrong.into_iter().fold(failure, Failure::why));
    }
    documents.sort_by_key(|document| KINDS.iter().position(|kind| kind.kind == document.kind.kind));
    Ok(documents)
}

fn read_limited(name: &str, reader: &mut dyn std::io::Read) -> Result<String> {
    let what = || format!("can't read {name}");
    let mut text = String::new();
    let count = reader
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::because(what(), &error))?;
    if count as u64 > MAX_BYTES {
        return Err(Failure::new(Exit::Failed, what()).why(format!("it has more than {MAX_BYTES} bytes")));
    }
    Ok(text)
}

fn read_path(path: &Path, named: bool, texts: &mut Vec<(String, String)>) -> Result<()> {
    let what = || format!("can't read {}", path.display());
    let metadata = fs::metadata(path).map_err(|error| Failure::because(what(), &error))?;
    if metadata.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut entries: Vec<_> = entries
            .map_err(|error| Failure::because(what(), &error))?
            .into_iter()
            .map(|entry| entry.path())
            .collect();
        entries.sort();
        return entries.iter().try_for_each(|entry| read_path(entry, false, texts));
    }
    let is_document = path
        .extension()
        .and_then(OsStr::to_str)
        .is_some_and(|ending| matches!(ending, "yaml" | "yml" | "json"));
    // A manifest of a release lies beside them sometimes; it is pushed, not applied.
    let is_manifest = path.to_str().is_some_and(|text| text.ends_with(".manifest.json"));
    if named || (is_document && !is_manifest) {
        let mut file = fs::File::open(path).map_err(|error| Failure::because(what(), &error))?;
        texts.push((path.display().to_string(), read_limited(&path.display().to_string(), &mut file)?));
    }
    Ok(())
}

/// The documents of a text: YAML, JSON, or several of them; a `List` is what it holds.
fn split(text: &str) -> Result<Vec<Value>, String> {
    let values = if text.trim_start().starts_with(['{', '[']) {
        // YAML may begin like this too, but JSON objects that just follow each other are no YAML.
        json(text).or_else(|no_json| {
            yaml(text).map_err(|no_yaml| if text.contains("\n---") { no_yaml } else { no_json })
        })?
    } else {
        yaml(text)?
    };
    let mut flat = Vec::new();
    for value in values {
        match value {
            Value::Null => {}
            Value::Array(items) => flat.extend(items),
            Value::Object(mut map)
                if map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
                    || (map.contains_key("items") && !map.contains_key("kind")) =>
            {
                match map.remove("items") {
                    Some(Value::Array(items)) => flat.extend(items),
                    _ => return Err("a list has items".to_owned()),
                }
            }
            other => flat.push(other),
        }
    }
    Ok(flat)
}

fn json(text: &str) -> Result<Vec<Value>, String> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is no JSON: {error}"))
}

fn yaml(text: &str) -> Result<Vec<Value>, String> {
    let read = |document| {
        let value =
            serde_norway::Value::deserialize(document).map_err(|error| format!("it is no YAML: {error}"))?;
        serde_json::to_value(value).map_err(|error| format!("it holds what JSON can't: {error}"))
    };
    serde_norway::Deserializer::from_str(text).map(read).collect()
}

/// A document that this program has written itself.
pub(crate) fn document(origin: &str, value: Value) -> Result<Document> {
    check(origin, value).map_err(|why| Failure::new(Exit::Failed, format!("{origin}: {why}")))
}

/// Checks one document against its kind's type, strictly: what is misspelt is refused.
fn check(origin: &str, mut value: Value) -> Result<Document, String> {
    let Some(object) = value.as_object_mut() else {
        return Err("a document is an object with kind, metadata and spec".to_owned());
    };
    match object.get("apiVersion") {
        None => {}
        Some(Value::String(version)) if version == API_VERSION => {}
        Some(other) => return Err(format!("apiVersion is {other}; this command knows {API_VERSION:?}")),
    }
    let Some(word) = object.get("kind").and_then(Value::as_str).map(str::to_owned) else {
        return Err("kind is missing".to_owned());
    };
    let known = KINDS.iter().find(|kind| kind.kind == word);
    let Some(kind) = known.filter(|kind| is_appliable(kind)) else {
        let near = kind::nearest(&word, KINDS.iter().filter(|kind| is_appliable(kind)).map(|kind| kind.kind));
        return Err(match (known, near) {
            (Some(_), _) => format!("a {word} can't be applied"),
            (None, Some(near)) => format!("there is no kind {word:?}; did you mean {near:?}?"),
            (None, None) => format!("there is no kind {word:?}"),
        });
    };
    // What the server adds when it shows an object.
    object.remove("status");
    let mut version = None;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        version = metadata.remove("resourceVersion").and_then(|version| version.as_i64());
        metadata.remove("uid");
        metadata.remove("createdAt");
    }
    object.insert("apiVersion".to_owned(), API_VERSION.into());
    if !object.contains_key("spec") && matches!(kind.kind, "App" | "Channel" | "Tenant" | "ClaimToken") {
        object.insert("spec".to_owned(), serde_json::json!({}));
    }
    let body = typed(kind, value)?;
    let name = text_at(&body, "/metadata/name");
    Ok(Document { origin: origin.to_owned(), kind, name, body, version })
}

fn is_appliable(kind: &Kind) -> bool {
    !matches!(kind.kind, "Release" | "Artifact" | "Event" | "TrustedKey")
}

/// Reads the document as the API's type and writes it again, which fills in every default.
fn typed(kind: &Kind, value: Value) -> Result<Value, String> {
    fn through<S: DeserializeOwned + Serialize>(value: Value) -> Result<Value, String> {
        let object: NewObject<S> = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            if path == "." { inner.to_string() } else { format!("{path}: {inner}") }
        })?;
        serde_json::to_value(&object).map_err(|error| error.to_string())
    }
    match kind.kind {
        "Device" => through::<DeviceSpec>(value),
        "ClaimToken" => through::<ClaimTokenSpec>(value),
        "ClaimRule" => through::<ClaimRule>(value),
        "App" => through::<AppSpec>(value),
        "Placement" => through::<PlacementSpec>(value),
        "Channel" => through::<ChannelSpec>(value),
        "Pin" => through::<PinSpec>(value),
        "Config" => through::<ConfigSpec>(value),
        "Policy" => {
            let value = through::<PolicySpec>(value)?;
            let spec: PolicySpec =
                serde_json::from_value(value.pointer("/spec").cloned().unwrap_or_default())
                    .map_err(|error| error.to_string())?;
            spec.check().map_err(|error| format!("{}: {}", error.field, error.what))?;
            Ok(value)
        }
        "AlertRule" => through::<AlertRuleSpec>(value),
        "Silence" => through::<SilenceSpec>(value),
        "AlertRoute" => through::<AlertRouteSpec>(value),
        "Sink" => through::<SinkSpec>(value),
        "Tenant" => through::<TenantSpec>(value),
        "User" => through::<UserSpec>(value),
        "ApiToken" => through::<ApiTokenSpec>(value),
        "GatewayKey" => through::<GatewayKeySpec>(value),
        "Rollout" => {
            let mut value = through::<RolloutSpec>(value)?;
            let spec: RolloutSpec =
                serde_json::from_value(value.pointer("/spec").cloned().unwrap_or_default())
                    .map_err(|error| error.to_string())?;
            spec.validate().map_err(|errors| {
                errors
                    .0
                    .iter()
                    .map(|error| format!("spec.{}: {}", error.field, error.message))
                    .collect::<Vec<_>>()
                    .join("; ")
            })?;
            // As the server keeps it: what is applied twice has to compare equal.
            let resolved = serde_json::to_value(spec.resolved()).map_err(|error| error.to_string())?;
            if let Some(place) = value.pointer_mut("/spec") {
                *place = resolved;
            }
            Ok(value)
        }
        _ => Err(format!("a {} can't be applied", kind.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Document>, String> {
        split(text)?.into_iter().map(|value| check("x", value)).collect()
    }

    #[test]
    fn several_yaml_documents_and_lists_and_json_are_read() {
        let two = "kind: App\nmetadata: {name: edge-web}\n---\nkind: Placement\nmetadata: {name: p}\nspec: {app: edge-web}\n---\n";
        let documents = read(two).unwrap();
        assert_eq!(
            documents.iter().map(|d| format!("{}/{}", d.kind.kind, d.name)).collect::<Vec<_>>(),
            ["App/edge-web", "Placement/p"]
        );
        let list = r#"{"kind":"List","items":[{"kind":"App","metadata":{"name":"a"}}]} {"kind":"App","metadata":{"name":"b"}}"#;
        assert_eq!(read(list).unwrap().len(), 2);
    }

    #[test]
    fn yaml_that_begins_like_json_is_read_and_what_is_wrong_is_said_in_its_terms() {
        let documents =
            read("{kind: App, metadata: {name: a}}\n---\nkind: App\nmetadata: {name: b}\n").unwrap();
        assert_eq!(documents.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let mixed = "{\"kind\": \"App\", \"metadata\": {\"name\": \"a\"}}\n---\n{\"kind\": \"App\", \"metadata\": {\"name\": \"b\"}}\n";
        assert_eq!(read(mixed).unwrap().len(), 2);
        assert!(read("{\"kind\": ]").unwrap_err().contains("no JSON"));
        assert!(read("{kind: App}\n---\n{kind: [}\n").unwrap_err().contains("no YAML"));
    }

    #[test]
    fn what_get_prints_can_be_applied_again() {
        let shown = "apiVersion: farshore.dev/v1\nkind: Device\nmetadata:\n  name: kiosk-7\n  uid: 01890a5d-ac96-774b-bcce-b302099a8057\n  resourceVersion: 12\n  createdAt: 1\n  managedBy: api\n  labels: {store: '12'}\nspec: {channel: prod, location: Riga, driver: agent}\nstatus: {reachability: online}\n";
        let documents = read(shown).unwrap();
        let [document] = documents.as_slice() else { panic!() };
        assert_eq!((document.name.as_str(), document.version), ("kiosk-7", Some(12)));
        assert!(document.body.pointer("/status").is_none());
        let mut current = document.body.clone();
        current["status"] = serde_json::json!({"reachability": "offline"});
        assert!(is_same(&current, &document.body));
        current["spec"]["channel"] = "dev".into();
        assert!(!is_same(&current, &document.body));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let said = |text: &str| read(text).unwrap_err();
        insta::assert_snapshot!(said("kind: Placement\nmetadata: {name: p}\nspec: {app: a, selektor: x}"), @"spec.selektor: unknown field `selektor`, expected `app` or `selector`");
        insta::assert_snapshot!(said("kind: Placment\nmetadata: {name: p}"), @r#"there is no kind "Placment"; did you mean "Placement"?"#);
        insta::assert_snapshot!(said("kind: Release\nmetadata: {name: p}"), @"a Release can't be applied");
        insta::assert_snapshot!(said("apiVersion: v9\nkind: App\nmetadata: {name: p}"), @r#"apiVersion is "v9"; this command knows "farshore.dev/v1""#);
        insta::assert_snapshot!(said("kind: Rollout\nmetadata: {name: r}\nspec: {app: a, channel: prod, release: a@1.0, failureThreshold: 0, waves: [{percent: 100}]}"), @"spec.failureThreshold: is a percentage from 1 to 100; with 1 the first failure halts");
        assert!(
            said("{").contains("no JSON") && said("a: [").contains("no YAML") && said("3").contains("object")
        );
        assert!(said("kind: App\nmetadata: {name: Bad_Name}").contains("metadata.name"));
    }

    #[test]
    fn documents_are_sorted_so_that_what_others_refer_to_comes_first_and_twins_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b.yaml"), "kind: Placement\nmetadata: {name: p}\nspec: {app: a}")
            .unwrap();
        fs::write(folder.path().join("c.json"), r#"{"kind":"App","metadata":{"name":"a"}}"#).unwrap();
        fs::write(folder.path().join("readme.md"), "no document").unwrap();
        let source = || vec![Source::Path(folder.path().to_owned())];
        let kinds: Vec<_> = read_documents(&source()).unwrap().iter().map(|d| d.kind.kind).collect();
        assert_eq!(kinds, ["App", "Placement"]);
        fs::write(folder.path().join("d.yaml"), "kind: App\nmetadata: {name: a}").unwrap();
        assert_eq!(read_documents(&source()).unwrap_err().exit(), Exit::Usage);
    }
}
