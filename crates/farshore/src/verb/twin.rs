//! `farshore twin`: what is desired of a device, and what it reports.

use clap_complete::engine::ArgValueCompleter;
use farshore_api::document::Twin;
use serde_json::{Map, Value};

use crate::cli::Session;
use crate::client::typed;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output::cell::clean;
use crate::output::time::age;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show what is desired, what is reported, and what is pending since when
    Get {
        #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
        device: String,
    },
    /// Change what is desired: set kiosk-7 interval=10 led.color=red old=null
    Set {
        #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
        device: String,
        /// NAME=VALUE; the value is JSON, or a text; null deletes; a.b is b in a
        #[arg(required_unless_present = "patch")]
        values: Vec<String>,
        /// A JSON Merge Patch instead
        #[arg(short, long, value_name = "JSON", conflicts_with = "values")]
        patch: Option<String>,
        /// Only if desired is at this version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
    },
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    let (Verb::Get { device } | Verb::Set { device, .. }) = &arguments.verb;
    let device = check_name(device.strip_prefix("device/").unwrap_or(device))?;
    let path = format!("{}/twin", find("device")?.path_of(&device));
    let answer = match arguments.verb {
        Verb::Get { .. } => client.get(&format!("can't get the twin of device {device}"), &path, &[]).await?,
        Verb::Set { values, patch, if_version, .. } => {
            let patch = match patch {
                Some(text) => serde_json::from_str(&text)
                    .map_err(|error| Failure::usage(format!("--patch is no JSON: {error}")))?,
                None => patch_of(&values)?,
            };
            let what = format!("can't change what is desired of device {device}");
            client.patch_json(&what, &path, &patch, if_version).await?
        }
    };
    match session.output.format {
        Format::Json => return output::print(&format!("{}\n", output::pretty(&answer)?)),
        Format::Yaml => return output::print(&output::yaml(&answer)?),
        Format::Ndjson => return output::print(&format!("{answer}\n")),
        Format::Name => return output::print(&format!("device/{device}\n")),
        Format::Table | Format::Wide => {}
    }
    shown(session, &typed("can't read the twin", answer)?)
}

/// `a.b=1 c=text` as a patch.
fn patch_of(values: &[String]) -> Result<Value> {
    let mut patch = Map::new();
    for text in values {
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::usage(format!("{text:?}: write NAME=VALUE")));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        let mut at = &mut patch;
        let (above, last) = name.rsplit_once('.').map_or((None, name), |(above, last)| (Some(above), last));
        for part in above.into_iter().flat_map(|above| above.split('.')) {
            let member = at.entry(part.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            at = member
                .as_object_mut()
                .ok_or_else(|| Failure::usage(format!("{name}: {part} has a value already")))?;
        }
        at.insert(last.to_owned(), value);
    }
    Ok(Value::Object(patch))
}

fn shown(session: &Session, twin: &Twin) -> Result<()> {
    let now = crate::clock::now();
    let mut text = format!(
        "desired (version {}{}):\n{}\nreported (version {}):\n{}\n",
        twin.desired.version,
        if twin.delivered { "" } else { ", not on the device yet" },
        output::pretty(&twin.desired.value)?,
        twin.reported.version,
        output::pretty(&twin.reported.value)?
    );
    if twin.desired.version == 0 {
        text.push_str("nothing is desired yet\n");
    } else if twin.pending.is_empty() {
        text.push_str("everything that is desired is reported\n");
    } else {
        let titles = ["PENDING", "DESIRED", "REPORTED", "SINCE"].map(str::to_owned).to_vec();
        let rows = twin.pending.iter().map(|one| {
            vec![
                clean(&one.path),
                clean(&one.desired.to_string()),
                one.reported.as_ref().map_or_else(|| "-".to_owned(), |value| clean(&value.to_string())),
                one.since.map_or_else(|| "-".to_owned(), |since| age(since, now)),
            ]
        });
        text.push_str(&session.output.rows(Some(titles), rows));
    }
    match twin.sync.synced_at {
        Some(at) => text.push_str(&format!("the device asked {} ago", age(at, now))),
        None => text.push_str("the device has never asked for documents"),
    }
    if twin.sync.pending > 0 {
        text.push_str(&format!("; {} documents there wait to be sent", twin.sync.pending));
    }
    text.push('\n');
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_values_make_a_patch() {
        let of =
            |values: &[&str]| patch_of(&values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>());
        let patch = of(&["a=1", "led.color=red", "led.on=true", "old=null", "t=\"1\"", "e="]).unwrap();
        let expected = json!({"a": 1, "led": {"color": "red", "on": true}, "old": null, "t": "1", "e": ""});
        assert_eq!(patch, expected);
        for wrong in [&["a"][..], &["=1"], &["a=1", "a.b=2"]] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }
}
