//! `farshore diff`: what `apply` would change, which devices would get other releases, and what they would obey. Exit 0: nothing, 1: something.

use std::fmt::Write as _;

use farshore_api::fleet::AssignmentPreview;
use farshore_api::policy::PolicyPreview;
use serde_json::{Map, Value, json};

use super::apply::{Document, Source, read_documents};
use crate::cli::Session;
use crate::client::{Client, typed};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::cell::clean;
use crate::output::{self, Format};

/// At most this many devices are named on the terminal.
const NAMED: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A file, a folder (its .yaml, .yml and .json files) or '-' for stdin; may come several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    file: Vec<Source>,
}

/// What is different about one object.
struct Difference<'a> {
    document: &'a Document,
    /// Whether it is not there yet.
    is_new: bool,
    changes: Vec<Change>,
}

/// One field: where, what it is, what it would be.
struct Change {
    path: String,
    from: Option<Value>,
    to: Option<Value>,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let documents = read_documents(&arguments.file)?;
    if documents.is_empty() {
        return Err(Failure::usage("there is nothing to compare").why("the files hold no documents"));
    }
    let client = session.client()?;
    let mut differences = Vec::new();
    for document in &documents {
        if let Some(difference) = compare(&client, document).await? {
            differences.push(difference);
        }
    }
    let preview = assignments(&client, &differences).await?;
    let policies = policies(&client, &differences).await?;
    match session.output.format {
        Format::Table | Format::Wide => {
            output::print(&text(&differences, preview.as_ref()))?;
            output::print(&policy_text(&policies))?;
        }
        Format::Name => {
            let names =
                differences.iter().map(|d| format!("{}/{}\n", d.document.kind.singular, d.document.name));
            output::print(&names.collect::<String>())?;
        }
        format => print_value(format, &as_json(&differences, preview.as_ref(), &policies))?,
    }
    if differences.is_empty() {
        return Ok(());
    }
    let count = differences.len();
    let objects = if count == 1 { "object differs" } else { "objects differ" };
    Err(Failure::new(Exit::Failed, format!("{count} {objects}")).next("farshore apply -f FILE"))
}

fn print_value(format: Format, value: &Value) -> Result<()> {
    output::print(&match format {
        Format::Yaml => output::yaml(value)?,
        Format::Ndjson => format!("{value}\n"),
        _ => format!("{}\n", output::pretty(value)?),
    })
}

async fn compare<'a>(client: &Client, document: &'a Document) -> Result<Option<Difference<'a>>> {
    let current = match super::get::one(client, document.kind, &document.name).await {
        Ok(object) => Some(object),
        Err(failure) if failure.exit() == Exit::NotFound => None,
        Err(failure) => return Err(failure),
    };
    let is_new = current.is_none();
    if current.as_ref().is_some_and(|current| super::apply::is_same(current, &document.body)) {
        return Ok(None);
    }
    let mut changes = Vec::new();
    let empty = Value::Object(Map::new());
    for part in ["metadata/labels", "metadata/managedBy", "spec"] {
        let pointer = format!("/{part}");
        let to = document.body.pointer(&pointer);
        // What the file does not say of who keeps it stays as it is.
        if part == "metadata/managedBy" && to.is_none() {
            continue;
        }
        let from = current.as_ref().and_then(|current| current.pointer(&pointer));
        let path = part.replace('/', ".");
        walk(&path, Some(from.unwrap_or(&empty)), Some(to.unwrap_or(&empty)), &mut changes);
    }
    Ok(Some(Difference { document, is_new, changes }))
}

/// Collects what differs below a path.
fn walk(path: &str, from: Option<&Value>, to: Option<&Value>, changes: &mut Vec<Change>) {
    if from == to {
        return;
    }
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (from, to) {
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            walk(&format!("{path}.{key}"), old.get(key), new.get(key), changes);
        }
        return;
    }
    changes.push(Change { path: path.to_owned(), from: from.cloned(), to: to.cloned() });
}

/// Asks the server which devices would get other releases, if anything that differs decides on that.
async fn assignments(client: &Client, differences: &[Difference<'_>]) -> Result<Option<AssignmentPreview>> {
    let of = |kind: &str| -> Vec<&Value> {
        let those = differences.iter().filter(|difference| difference.document.kind.kind == kind);
        those.map(|difference| &difference.document.body).collect()
    };
    let (placements, pins, rollouts) = (of("Placement"), of("Pin"), of("Rollout"));
    let there = differences.iter().filter(|d| d.document.kind.kind == "Device" && !d.is_new);
    let devices: Vec<&Value> = there.map(|difference| &difference.document.body).collect();
    if placements.is_empty() && pins.is_empty() && rollouts.is_empty() && devices.is_empty() {
        return Ok(None);
    }
    let body = json!({"placements": placements, "pins": pins, "devices": devices, "rollouts": rollouts});
    let what = "can't find out which devices would change";
    typed(what, client.post(what, "/api/assignments:preview", &body).await?).map(Some)
}

/// Asks the server what devices would obey, for each policy that differs by itself.
async fn policies<'a>(
    client: &Client,
    differences: &'a [Difference<'_>],
) -> Result<Vec<(&'a str, PolicyPreview)>> {
    let mut previews = Vec::new();
    for Difference { document, .. } in differences.iter().filter(|d| d.document.kind.kind == "Policy") {
        let what = format!("can't find out what policy {} would change", document.name);
        let answer = client.post(&what, "/api/policies:preview", &document.body).await?;
        previews.push((document.name.as_str(), typed(&what, answer)?));
    }
    Ok(previews)
}

fn policy_text(previews: &[(&str, PolicyPreview)]) -> String {
    let mut text = String::new();
    let said =
        |value: Option<&String>| value.map_or_else(|| "(nobody says)".to_owned(), |value| clean(value));
    for (name, preview) in previews {
        let PolicyPreview { matching, changed, .. } = preview;
        _ = writeln!(
            text,
            "policy/{name} would apply to {matching} devices; {changed} would obey something else"
        );
        for change in preview.changes.iter().take(NAMED) {
            let (from, to) = (said(change.from.as_ref()), said(change.to.as_ref()));
            _ = writeln!(text, "  {}: {from} → {to} on {} devices", change.path, change.devices);
        }
    }
    text
}

fn value(value: Option<&Value>) -> String {
    value.map_or_else(|| "(nothing)".to_owned(), |value| clean(&value.to_string()))
}

fn text(differences: &[Difference<'_>], preview: Option<&AssignmentPreview>) -> String {
    let mut text = String::new();
    for Difference { document, is_new, changes } in differences {
        let what = if *is_new { "would be created" } else { "would change" };
        _ = writeln!(text, "{}/{} {what}", document.kind.singular, document.name);
        for change in changes.iter().filter(|_| !is_new) {
            let (from, to) = (value(change.from.as_ref()), value(change.to.as_ref()));
            _ = writeln!(text, "  {}: {from} → {to}", change.path);
        }
    }
    let Some(preview) = preview else { return text };
    _ = writeln!(text, "{} of {} devices would get other releases", preview.changed, preview.devices);
    let none = || "none".to_owned();
    for item in preview.items.iter().take(NAMED) {
        let (from, to) = (item.from.clone().unwrap_or_else(none), item.to.clone().unwrap_or_else(none));
        _ = writeln!(text, "  device/{}: {} {} → {}", item.name, item.app, clean(&from), clean(&to));
    }
    if preview.items.len() > NAMED {
        _ = writeln!(text, "  … and more; -o json shows them");
    }
    text
}

fn as_json(
    differences: &[Difference<'_>],
    preview: Option<&AssignmentPreview>,
    policies: &[(&str, PolicyPreview)],
) -> Value {
    let objects: Vec<Value> = differences
        .iter()
        .map(|difference| {
            let changes = difference.changes.iter().map(|change| {
                json!({"path": change.path, "from": change.from, "to": change.to})
            });
            json!({
                "kind": difference.document.kind.kind, "name": difference.document.name, "new": difference.is_new,
                "changes": changes.collect::<Vec<_>>(),
            })
        })
        .collect();
    let policies: Map<String, Value> =
        policies.iter().map(|(name, preview)| ((*name).to_owned(), json!(preview))).collect();
    json!({"objects": objects, "assignments": preview, "policies": policies})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_by_its_path() {
        let old = json!({"app": "web", "waves": [1, 2], "gone": 1, "same": {"a": 1}});
        let new = json!({"app": "web", "waves": [1, 3], "came": true, "same": {"a": 1}});
        let mut changes = Vec::new();
        walk("spec", Some(&old), Some(&new), &mut changes);
        let said: Vec<_> = changes
            .iter()
            .map(|c| format!("{} {} {}", c.path, value(c.from.as_ref()), value(c.to.as_ref())))
            .collect();
        assert_eq!(said, ["spec.came (nothing) true", "spec.gone 1 (nothing)", "spec.waves [1,2] [1,3]"]);
    }
}
