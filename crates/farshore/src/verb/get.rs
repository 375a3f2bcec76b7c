//! `farshore get`: lists and objects, once or as they change.

use std::collections::HashMap;

use clap_complete::engine::ArgValueCompleter;
use farshore_domain::label::Labels;
use farshore_domain::selector::Selector;
use serde_json::Value;

use crate::cli::Session;
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{Kind, Selection, select};
use crate::output;
use crate::output::Format;
use crate::watch::{Change, Watch};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TYPE, TYPE NAME… or TYPE/NAME…: devices, device kiosk-7, rollout/edge-web-1-1
    #[arg(required = true, value_name = "TYPE[/NAME]", add = ArgValueCompleter::new(crate::complete::objects))]
    what: Vec<String>,
    /// Only objects whose labels match: store=12,env in (a,b),!canary
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<Selector>,
    /// Only objects with these states or fields: reachability=offline,health=failing
    #[arg(long, value_name = "FIELD=VALUE,…", value_delimiter = ',', value_parser = super::parse_pair)]
    field_selector: Vec<(String, String)>,
    /// Sort by this, downwards with a '-' before it: name, -lastSeen
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// At most this many objects; all when left out
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Go on, and print what changes
    #[arg(short, long)]
    watch: bool,
}

/// The most that a server gives in one page.
const PAGE: usize = 1000;

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    match select(&arguments.what)? {
        Selection::Objects(objects) => named(session, &client, &arguments, objects).await,
        Selection::Kinds(kinds) => {
            if arguments.watch && kinds.len() != 1 {
                return Err(Failure::usage("only one kind can be watched at a time"));
            }
            for (index, kind) in kinds.iter().enumerate() {
                if index > 0 && session.output.is_for_people() {
                    output::print("\n")?;
                }
                if arguments.watch {
                    return watch(session, &client, &arguments, kind, None).await;
                }
                let list = fetch(&client, kind, &query(&arguments), arguments.limit).await?;
                session.output.list(kind, &list)?;
            }
            Ok(())
        }
    }
}

async fn named(
    session: &Session,
    client: &Client,
    arguments: &Arguments,
    objects: Vec<(&'static Kind, String)>,
) -> Result<()> {
    if arguments.selector.is_some() || !arguments.field_selector.is_empty() {
        return Err(Failure::usage(
            "objects that are named are not selected: leave -l and --field-selector out",
        ));
    }
    if arguments.watch {
        let kind = objects.first().map(|(kind, _)| *kind);
        let Some(kind) = kind.filter(|kind| objects.iter().all(|(other, _)| other.kind == kind.kind)) else {
            return Err(Failure::usage("only one kind can be watched at a time"));
        };
        let names = objects.into_iter().map(|(_, name)| name).collect();
        return watch(session, client, arguments, kind, Some(names)).await;
    }
    if let [(kind, name)] = objects.as_slice() {
        return session.output.object(kind, &one(client, kind, name).await?);
    }
    let mut found: Vec<(&'static Kind, Vec<Value>)> = Vec::new();
    for (kind, name) in objects {
        let object = one(client, kind, &name).await?;
        match found.iter_mut().find(|(known, _)| known.kind == kind.kind) {
            Some((_, items)) => items.push(object),
            None => found.push((kind, vec![object])),
        }
    }
    for (kind, items) in found {
        session.output.list(kind, &serde_json::json!({"items": items, "keys": items, "metadata": {}}))?;
    }
    Ok(())
}

/// Reads one object by name or uid.
pub(crate) async fn one(client: &Client, kind: &'static Kind, name: &str) -> Result<Value> {
    let what = format!("can't get {} {name}", kind.singular);
    if kind.single {
        return client.get(&what, &kind.path_of(name), &[]).await.map_err(|failure| {
            if failure.exit() == Exit::NotFound {
                failure.next(format!("farshore get {}", kind.plural))
            } else {
                failure
            }
        });
    }
    let list = fetch(client, kind, &[], None).await?;
    let is_it = |item: &&Value| {
        kind.name_of(item) == name || crate::output::cell::text_at(item, "/metadata/uid") == name
    };
    kind.items(&list).iter().find(is_it).cloned().ok_or_else(|| {
        Failure::new(Exit::NotFound, what)
            .why(format!("There is no {} {name:?} here.", kind.singular))
            .next(format!("farshore get {}", kind.plural))
    })
}

fn query(arguments: &Arguments) -> Vec<(&str, String)> {
    let mut query = Vec::new();
    if let Some(selector) = &arguments.selector {
        query.push(("labelSelector", selector.to_string()));
    }
    if let Some(sort) = &arguments.sort {
        query.push(("sort", sort.clone()));
    }
    query.extend(arguments.field_selector.iter().map(|(key, value)| (key.as_str(), value.clone())));
    query
}

/// Reads a list, page by page, into one.
pub(crate) async fn fetch(
    client: &Client,
    kind: &'static Kind,
    query: &[(&str, String)],
    limit: Option<usize>,
) -> Result<Value> {
    let what = format!("can't get {}", kind.plural);
    let mut left = limit.unwrap_or(usize::MAX);
    let mut whole: Option<Value> = None;
    let mut next: Option<String> = None;
    loop {
        let mut query = query.to_vec();
        if kind.is_paged() {
            query.push(("limit", left.clamp(1, PAGE).to_string()));
        }
        let before = next.take();
        if let Some(before) = &before {
            query.push(("continue", before.clone()));
        }
        let mut page = client.get(&what, kind.path, &query).await?;
        let count = kind.items(&page).len();
        next = page.pointer("/metadata/continue").and_then(Value::as_str).map(str::to_owned);
        left = left.saturating_sub(count);
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => {
                if let (Some(Value::Array(items)), Some(Value::Array(more))) =
                    (whole.pointer_mut("/items"), page.pointer_mut("/items"))
                {
                    items.append(more);
                }
            }
        }
        // A page without items may lead to one that has some.
        if next.is_none() || next == before || left == 0 || !kind.is_paged() {
            break;
        }
    }
    let mut whole = whole.unwrap_or_default();
    if let Some(metadata) = whole.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        match next {
            Some(next) => metadata.insert("continue".to_owned(), next.into()),
            None => metadata.remove("continue"),
        };
    }
    Ok(whole)
}

async fn watch(
    session: &Session,
    client: &Client,
    arguments: &Arguments,
    kind: &'static Kind,
    names: Option<Vec<String>>,
) -> Result<()> {
    if kind.kind == "Event" {
        return Err(
            Failure::usage("events are watched by a verb of their own").next("farshore events --watch")
        );
    }
    if !kind.single {
        return Err(Failure::usage(format!("{} can't be watched", kind.plural)));
    }
    let mut watch = Watch::open(client, kind).await?;
    let query = query(arguments);
    let wanted = |object: &Value| {
        let uid = crate::output::cell::text_at(object, "/metadata/uid");
        names.as_ref().is_none_or(|names| names.contains(&kind.name_of(object)) || names.contains(&uid))
    };
    let matches = |object: &Value| matches(object, arguments);
    // What was shown last, by uid: the same again is not news.
    let mut shown: HashMap<String, Value> = HashMap::new();
    let first = fetch(client, kind, &query, None).await?;
    let items: Vec<_> = kind.items(&first).iter().filter(|object| wanted(object)).cloned().collect();
    if let Some(names) = &names
        && items.is_empty()
    {
        // Says which one is not there, with its exit code.
        for name in names {
            one(client, kind, name).await?;
        }
    }
    for item in &items {
        shown.insert(crate::output::cell::text_at(item, "/metadata/uid"), essence(item));
    }
    match session.output.format {
        Format::Json | Format::Yaml => {
            items.iter().try_for_each(|item| session.output.changed(kind, item))?
        }
        _ => session.output.list(kind, &serde_json::json!({"items": items, "metadata": {}}))?,
    }
    loop {
        match watch.next().await? {
            Change::Object { uid, name } => {
                if names.as_ref().is_some_and(|names| !names.contains(&name) && !names.contains(&uid)) {
                    continue;
                }
                match client
                    .get(&format!("can't get {} {name}", kind.singular), &kind.path_of(&uid), &[])
                    .await
                {
                    Ok(object) => {
                        let new = essence(&object);
                        let was_shown = shown.contains_key(&uid);
                        if shown.get(&uid) != Some(&new) && (matches(&object) || was_shown) {
                            session.output.changed(kind, &object)?;
                            shown.insert(uid, new);
                        }
                    }
                    Err(failure) if failure.exit() == Exit::NotFound => {
                        if shown.remove(&uid).is_some() {
                            eprintln!("{}/{name} deleted", kind.singular);
                        }
                    }
                    Err(failure) => return Err(failure),
                }
            }
            Change::Everything { missed: false } => {}
            Change::Everything { missed: true } => {
                let list = fetch(client, kind, &query, None).await?;
                for object in kind.items(&list).iter().filter(|object| wanted(object)) {
                    let uid = crate::output::cell::text_at(object, "/metadata/uid");
                    let new = essence(object);
                    if shown.get(&uid) != Some(&new) {
                        session.output.changed(kind, object)?;
                        shown.insert(uid, new);
                    }
                }
            }
        }
    }
}

/// An object without what changes all the time and says nothing.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(status) = object.pointer_mut("/status").and_then(Value::as_object_mut) {
        status.remove("lastSeenAt");
        status.remove("latest");
        status.remove("sparkline");
    }
    object
}

/// Whether an object that changed is still one of those that were asked for.
fn matches(object: &Value, arguments: &Arguments) -> bool {
    let labels = object
        .pointer("/metadata/labels")
        .and_then(|labels| serde_json::from_value::<Labels>(labels.clone()).ok())
        .unwrap_or_default();
    let field = |key: &str, value: &str| {
        ["/status", "/spec"]
            .iter()
            .any(|part| crate::output::cell::text_at(object, &format!("{part}/{key}")) == value)
    };
    arguments.selector.as_ref().is_none_or(|selector| selector.matches(&labels))
        && arguments.field_selector.iter().all(|(key, value)| field(key, value))
}
