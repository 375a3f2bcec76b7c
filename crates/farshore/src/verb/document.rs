//! `farshore document`: JSON that a device and the cloud may both change; its history, conflicts and rules.

use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;
use farshore_api::document::{
    Choice, ConflictChoice, Document, DocumentCollection, DocumentCollectionChange, DocumentConflict,
    DocumentRevision,
};
use farshore_domain::document::{Rule, Strategy};
use serde_json::Value;

use crate::cli::Session;
use crate::client::{Client, typed};
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output::cell::{bytes, clean};
use crate::output::time::{age, exact};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the documents of a device
    List {
        #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
        device: String,
        /// Only of this collection
        #[arg(short, long)]
        collection: Option<String>,
    },
    /// Show a document
    Get(Target),
    /// Change a document by a JSON Merge Patch, or write it as a whole from a file
    Edit(Edit),
    /// Delete a document, on the device too
    Delete(Target),
    /// Show the kept revisions of a document and what each changed
    History(Target),
    /// List what a device and the cloud had both changed
    Conflicts {
        /// Only of this device
        #[arg(add = ArgValueCompleter::new(crate::complete::devices))]
        device: Option<String>,
        /// Only those that wait for somebody's choice
        #[arg(long)]
        open: bool,
    },
    /// Decide an open conflict
    Resolve(Choose),
    /// Bring back a value that lost in a conflict
    Restore(Choose),
    /// Show what decides conflicts, by collection; or set it for one
    Rules(Rules),
}

#[derive(Debug, clap::Args)]
struct Target {
    #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    device: String,
    /// COLLECTION/NAME
    document: String,
}

#[derive(Debug, clap::Args)]
struct Edit {
    #[command(flatten)]
    target: Target,
    /// The patch: '{"volume": 5, "old": null}'
    #[arg(short, long, value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    patch: Option<String>,
    /// The whole document; - reads stdin
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Only if it is at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<i64>,
}

#[derive(Debug, clap::Args)]
struct Choose {
    /// The conflict's uid
    conflict: uuid::Uuid,
    /// Whose value: edge, cloud or base
    #[arg(long, value_name = "SIDE", required_unless_present = "value", conflicts_with = "value",
        value_parser = ["edge", "cloud", "base"])]
    choose: Option<String>,
    /// Another value
    #[arg(long, value_name = "JSON")]
    value: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Rules {
    /// The collection; all that have rules when left out
    collection: Option<String>,
    /// last-write-wins, cloud-wins, edge-wins, merge, manual or custom
    #[arg(long, requires = "collection")]
    strategy: Option<Strategy>,
    /// The path that the strategy is for; the whole document when left out
    #[arg(long, default_value = "", hide_default_value = true, requires = "strategy")]
    path: String,
    /// For custom: CEL over base, edge and cloud
    #[arg(long, value_name = "CEL", requires = "strategy")]
    resolver: Option<String>,
    /// Whether devices may only read these documents
    #[arg(long, requires = "collection")]
    read_only: Option<bool>,
    /// For how many days decided conflicts are kept
    #[arg(long, value_name = "DAYS", requires = "collection")]
    conflict_days: Option<u32>,
    /// Forget the rules of the collection
    #[arg(long, requires = "collection", conflicts_with_all = ["strategy", "read_only", "conflict_days"])]
    reset: bool,
}

/// Where a document is, and how it is called in messages.
fn address(target: &Target) -> Result<(String, String)> {
    let device = check_name(target.device.strip_prefix("device/").unwrap_or(&target.device))?;
    let Some((collection, name)) = target.document.split_once('/') else {
        return Err(Failure::usage("a document is written COLLECTION/NAME, such as settings/main"));
    };
    farshore_domain::document::check_names(collection, name)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let path = format!("{}/documents/{collection}/{name}", find("device")?.path_of(&device));
    Ok((path, format!("document {collection}/{name} of device {device}")))
}

fn parse(text: &str, what: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("{what} is no JSON: {error}")))
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        Verb::List { device, collection } => list(session, &client, &device, collection).await,
        Verb::Get(target) => {
            let (path, name) = address(&target)?;
            shown(session, client.get(&format!("can't get {name}"), &path, &[]).await?)
        }
        Verb::Edit(edit) => {
            let (path, name) = address(&edit.target)?;
            let what = format!("can't change {name}");
            let answer = match (&edit.patch, &edit.file) {
                (Some(patch), _) => {
                    let patch = parse(patch, "--patch")?;
                    client.patch_json(&what, &path, &patch, edit.if_revision).await?
                }
                (None, Some(file)) => {
                    let whole = parse(&read(file)?, "the file")?;
                    client.put(&what, &path, &whole, edit.if_revision).await?
                }
                (None, None) => return Err(Failure::usage("give --patch or --file")),
            };
            changed(session, &name, "changed", answer)
        }
        Verb::Delete(target) => {
            let (path, name) = address(&target)?;
            client.delete(&format!("can't delete {name}"), &path).await?;
            output::print(&format!("{name} deleted\n"))
        }
        Verb::History(target) => history(session, &client, &target).await,
        Verb::Conflicts { device, open } => conflicts(session, &client, device, open).await,
        Verb::Resolve(choose) => decide(session, &client, choose, "resolve", "resolved").await,
        Verb::Restore(choose) => decide(session, &client, choose, "restore", "restored").await,
        Verb::Rules(arguments) => rules(session, &client, arguments).await,
    }
}

fn read(file: &PathBuf) -> Result<String> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| Failure::because(format!("can't read {}", file.display()), &error))
}

/// For programs: as the server wrote it. Says whether that was done.
fn for_programs(session: &Session, value: &Value) -> Result<bool> {
    match session.output.format {
        Format::Json => output::print(&format!("{}\n", output::pretty(value)?))?,
        Format::Yaml => output::print(&output::yaml(value)?)?,
        Format::Ndjson => {
            for item in value["items"].as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                output::print(&format!("{item}\n"))?;
            }
        }
        Format::Name | Format::Table | Format::Wide => return Ok(false),
    }
    Ok(true)
}

fn shown(session: &Session, value: Value) -> Result<()> {
    if for_programs(session, &value)? {
        return Ok(());
    }
    let document: Document = typed("can't read the document", value)?;
    let value = document.value.unwrap_or_default();
    output::print(&format!("{}\n", output::pretty(&value)?))?;
    let delivered = if document.delivered { "the device has it" } else { "the device does not have it yet" };
    eprintln!(
        "revision {} by {} at {}; {delivered}",
        document.revision,
        clean(&document.author),
        exact(document.changed_at)
    );
    Ok(())
}

fn changed(session: &Session, name: &str, done: &str, value: Value) -> Result<()> {
    if for_programs(session, &value)? {
        return Ok(());
    }
    output::print(&format!("{name} {done}: revision {}\n", value["revision"]))
}

async fn all(client: &Client, what: &str, path: &str, query: &[(&str, String)]) -> Result<Value> {
    let mut items = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let mut query = query.to_vec();
        query.extend(next.take().map(|next| ("continue", next)));
        let mut page = client.get(what, path, &query).await?;
        if let Some(more) = page["items"].as_array_mut() {
            items.append(more);
        }
        match page["metadata"]["continue"].as_str() {
            Some(more) => next = Some(more.to_owned()),
            None => return Ok(serde_json::json!({ "items": items })),
        }
    }
}

fn items<T: serde::de::DeserializeOwned>(what: &str, mut list: Value) -> Result<Vec<T>> {
    typed(what, list["items"].take())
}

fn table(session: &Session, titles: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> Result<()> {
    if rows.is_empty() {
        eprintln!("{nothing}");
        return Ok(());
    }
    let titles = titles.iter().map(|title| (*title).to_owned()).collect();
    output::print(&session.output.rows(Some(titles), rows))
}

async fn list(session: &Session, client: &Client, device: &str, collection: Option<String>) -> Result<()> {
    let device = check_name(device.strip_prefix("device/").unwrap_or(device))?;
    let what = format!("can't list the documents of device {device}");
    let query: Vec<_> = collection.map(|collection| ("collection", collection)).into_iter().collect();
    let list = all(client, &what, &format!("{}/documents", find("device")?.path_of(&device)), &query).await?;
    if for_programs(session, &list)? {
        return Ok(());
    }
    let now = crate::clock::now();
    let documents = items::<Document>(&what, list)?;
    if session.output.format == Format::Name {
        let names = documents.iter().map(|one| format!("{}/{}\n", one.collection, one.name));
        return output::print(&names.collect::<String>());
    }
    let rows = documents.into_iter().map(|one| {
        vec![
            format!("{}/{}", one.collection, one.name),
            one.revision.to_string(),
            bytes(one.bytes),
            age(one.changed_at, now),
            clean(&one.author),
            if one.delivered { "yes" } else { "not yet" }.to_owned(),
        ]
    });
    let titles = ["DOCUMENT", "REVISION", "SIZE", "CHANGED", "BY", "ON DEVICE"];
    table(session, &titles, rows.collect(), "No documents found.")
}

async fn history(session: &Session, client: &Client, target: &Target) -> Result<()> {
    let (path, name) = address(target)?;
    let what = format!("can't get the history of {name}");
    let list = client.get(&what, &format!("{path}/history"), &[]).await?;
    if for_programs(session, &list)? {
        return Ok(());
    }
    let now = crate::clock::now();
    let rows = items::<DocumentRevision>(&what, list)?.into_iter().map(|one| {
        let changes = match (&one.changes, &one.value) {
            (Some(changes), _) => changes.to_string(),
            (None, Some(value)) => value.to_string(),
            (None, None) => "deleted".to_owned(),
        };
        vec![one.revision.to_string(), age(one.at, now), one.cause, clean(&one.author), cut(&changes)]
    });
    table(session, &["REVISION", "AGE", "CAUSE", "BY", "CHANGES"], rows.collect(), "No revisions are kept.")
}

/// A value in a cell of a table.
fn cut(text: &str) -> String {
    const MOST: usize = 120;
    let text = clean(text);
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

fn side(value: &Option<Value>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), |value| cut(&value.to_string()))
}

async fn conflicts(session: &Session, client: &Client, device: Option<String>, open: bool) -> Result<()> {
    let what = "can't list conflicts";
    let mut query = Vec::new();
    if let Some(device) = device {
        query.push(("device", check_name(device.strip_prefix("device/").unwrap_or(&device))?));
    }
    if open {
        query.push(("state", "open".to_owned()));
    }
    let list = client.get(what, "/api/document-conflicts", &query).await?;
    if for_programs(session, &list)? {
        return Ok(());
    }
    let now = crate::clock::now();
    let found = items::<DocumentConflict>(what, list)?;
    if session.output.format == Format::Name {
        return output::print(&found.iter().map(|one| format!("{}\n", one.uid)).collect::<String>());
    }
    let rows = found.into_iter().map(|one| {
        let decided = match (&one.chosen, one.open) {
            (Some(chosen), _) => format!("{chosen} (by hand)"),
            (None, true) => "open".to_owned(),
            (None, false) => one.winner.as_str().to_owned(),
        };
        vec![
            one.uid.to_string(),
            age(one.at, now),
            clean(&one.device_name),
            clean(&format!("{}/{}{}", one.collection, one.name, one.path)),
            one.rule.strategy.as_str().to_owned(),
            decided,
            side(&one.edge),
            side(&one.cloud),
        ]
    });
    let titles = ["CONFLICT", "AGE", "DEVICE", "WHERE", "RULE", "DECIDED", "EDGE", "CLOUD"];
    table(session, &titles, rows.collect(), "No conflicts found.")
}

async fn decide(session: &Session, client: &Client, choose: Choose, verb: &str, done: &str) -> Result<()> {
    let body = match (choose.choose.as_deref(), &choose.value) {
        (_, Some(value)) => ConflictChoice { choose: Choice::Value, value: Some(parse(value, "--value")?) },
        (Some("edge"), None) => ConflictChoice { choose: Choice::Edge, value: None },
        (Some("base"), None) => ConflictChoice { choose: Choice::Base, value: None },
        _ => ConflictChoice { choose: Choice::Cloud, value: None },
    };
    let what = format!("can't {verb} conflict {}", choose.conflict);
    let path = format!("/api/document-conflicts/{}:{verb}", choose.conflict);
    let answer = client.post(&what, &path, &body).await?;
    changed(session, &format!("conflict {}", choose.conflict), done, answer)
}

async fn rules(session: &Session, client: &Client, arguments: Rules) -> Result<()> {
    let what = "can't read the rules of documents";
    let list = client.get(what, "/api/document-collections", &[]).await?;
    let known = items::<DocumentCollection>(what, list.clone())?;
    if let Some(name) = &arguments.collection
        && (arguments.strategy.is_some()
            || arguments.read_only.is_some()
            || arguments.conflict_days.is_some()
            || arguments.reset)
    {
        farshore_domain::document::check_collection(name)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let path = format!("/api/document-collections/{name}");
        let what = format!("can't change the rules of collection {name}");
        if arguments.reset {
            client.delete(&what, &path).await?;
            return output::print(&format!("collection {name}: merged field by field\n"));
        }
        let before = known.into_iter().find(|one| one.name == *name);
        let version = before.as_ref().map(|one| one.resource_version);
        let mut change =
            before.map_or_else(DocumentCollectionChange::default, |one| DocumentCollectionChange {
                rules: one.rules,
                read_only: one.read_only,
                conflict_days: one.conflict_days,
            });
        if let Some(strategy) = arguments.strategy {
            change.rules.retain(|rule| rule.path != arguments.path);
            change.rules.push(Rule { path: arguments.path, strategy, resolver: arguments.resolver });
        }
        change.read_only = arguments.read_only.unwrap_or(change.read_only);
        change.conflict_days = arguments.conflict_days.or(change.conflict_days);
        let answer = client.put(&what, &path, &change, version).await?;
        return if for_programs(session, &answer)? {
            Ok(())
        } else {
            output::print(&format!("collection {name} changed\n"))
        };
    }
    if for_programs(session, &list)? {
        return Ok(());
    }
    let wanted =
        |one: &DocumentCollection| arguments.collection.as_ref().is_none_or(|name| *name == one.name);
    let rows = known.into_iter().filter(wanted).flat_map(|one| {
        let read_only = if one.read_only { "yes" } else { "no" };
        let kept = one.conflict_days.map_or_else(|| "30d".to_owned(), |days| format!("{days}d"));
        let mut rules = one.rules;
        if rules.is_empty() {
            rules.push(Rule::default());
        }
        let row = move |rule: Rule| {
            let path = if rule.path.is_empty() { "(whole)".to_owned() } else { clean(&rule.path) };
            let resolver = rule.resolver.map_or_else(|| "-".to_owned(), |text| cut(&text));
            let strategy = rule.strategy.as_str().to_owned();
            vec![one.name.clone(), path, strategy, resolver, read_only.to_owned(), kept.clone()]
        };
        rules.into_iter().map(row).collect::<Vec<_>>()
    });
    let titles = ["COLLECTION", "PATH", "STRATEGY", "RESOLVER", "READ-ONLY", "CONFLICTS KEPT"];
    table(session, &titles, rows.collect(), "No collection has rules: documents are merged field by field.")
}
