//! `farshore sync`: how gateways' readings come in; and `farshore series`: the readings.

use farshore_api::gateway_key::GatewayKeySpec;
use farshore_api::{NewMetadata, NewObject};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::UnixMs;
use serde_json::{Value, json};

use crate::cli::Session;
use crate::failure::{Failure, Result};
use crate::kind::find;
use crate::output::cell::{clean, text_at};
use crate::output::time::{exact, parse_seconds};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show what waits on each gateway, until when it will have gone, and what was lost
    Status {
        /// Only gateways at this location
        #[arg(long)]
        location: Option<String>,
    },
    /// List the keys that gateways seal their batches for
    Keys,
    /// Make a key for a gateway that has no certificate (its CLOUD_API_KEY); prints it on stdout
    CreateKey(CreateKey),
    /// Let gateways seal for a new key from now on; the old ones go on opening what was sealed for them
    RotateKey,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateKey {
    /// The device whose readings it sends; registered when there is none of this name
    device: Name,
    /// What to call the key; chosen when left out
    #[arg(long)]
    name: Option<Name>,
    /// Where a device is that is registered with it
    #[arg(long, default_value = "", hide_default_value = true)]
    location: String,
    /// How long it can be used
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse_seconds)]
    lifetime: u64,
}

async fn create_key(session: &Session, create: CreateKey) -> Result<()> {
    let kind = find("gateway-keys")?;
    let name = match create.name {
        Some(name) => name,
        None => super::token::random_name("key")?,
    };
    let new = NewObject {
        api_version: None,
        kind: None,
        metadata: NewMetadata { name, labels: Labels::default(), managed_by: None },
        spec: GatewayKeySpec {
            device: create.device,
            location: create.location,
            lifetime_seconds: create.lifetime,
        },
    };
    let object = session.client()?.post("can't make a gateway key", kind.path, &new).await?;
    match session.output.format {
        Format::Table | Format::Wide => {
            output::print(&format!("{}\n", text_at(&object, "/status/key")))?;
            eprintln!(
                "This is shown once. Give it to the gateway as CLOUD_API_KEY (or in the file that CLOUD_API_KEY_FILE names).\n\
                 Made for device {}; `farshore delete gateway-key {}` ends it.",
                text_at(&object, "/spec/device"),
                text_at(&object, "/metadata/name")
            );
            Ok(())
        }
        _ => session.output.object(kind, &object),
    }
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        Verb::Status { location } => {
            let kind = find("gateways")?;
            let query: Vec<_> = location.map(|location| ("location", location)).into_iter().collect();
            session.output.list(kind, &super::get::fetch(&client, kind, &query, None).await?)
        }
        Verb::Keys => {
            let kind = find("ingest-keys")?;
            session.output.list(kind, &client.get("can't get the ingest keys", kind.path, &[]).await?)
        }
        Verb::CreateKey(create) => create_key(session, create).await,
        Verb::RotateKey => {
            let kind = find("ingest-keys")?;
            let made =
                client.post("can't rotate the ingest key", "/api/ingest-keys:rotate", &json!({})).await?;
            session.output.object(kind, &made)
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct SeriesArguments {
    /// Only this measurement (a sensor's id)
    #[arg(short, long)]
    measurement: Option<String>,
    /// Only this field
    #[arg(short, long)]
    field: Option<String>,
    /// Only series with these tags: room=12,hall!=b
    #[arg(short, long)]
    tags: Option<String>,
    /// Only this stream of gateways: data/default
    #[arg(long)]
    stream: Option<String>,
    /// Only this device
    #[arg(short, long)]
    device: Option<String>,
    /// Only devices at this location
    #[arg(long)]
    location: Option<String>,
    /// Only devices whose labels match
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// How far back
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_seconds)]
    since: u64,
    /// How much of the end to leave out
    #[arg(long, value_name = "TIME", default_value = "0", hide_default_value = true, value_parser = parse_seconds)]
    until: u64,
    /// Length of a step
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    step: Option<u64>,
    /// What stands for the points of a step: mean, min, max, sum, count, last
    #[arg(short, long, default_value = "mean", hide_default_value = true)]
    aggregate: String,
    /// What makes a line: series, device, location, all
    #[arg(long, default_value = "series", hide_default_value = true)]
    by: String,
}

pub(crate) async fn series(session: &Session, arguments: SeriesArguments) -> Result<()> {
    let client = session.client()?;
    let now = crate::clock::now();
    let back =
        |seconds: u64| now.0.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000));
    let mut query = vec![
        ("from", back(arguments.since).to_string()),
        ("to", back(arguments.until).to_string()),
        ("aggregate", arguments.aggregate),
        ("by", arguments.by),
    ];
    let step = arguments.step.map(|seconds| seconds.saturating_mul(1_000).to_string());
    for (name, value) in [
        ("measurement", arguments.measurement),
        ("field", arguments.field),
        ("tags", arguments.tags),
        ("stream", arguments.stream),
        ("device", arguments.device),
        ("location", arguments.location),
        ("labelSelector", arguments.selector),
        ("step", step),
    ] {
        query.extend(value.map(|value| (name, value)));
    }
    let range = client.get("can't read the series", "/api/series", &query).await?;
    match session.output.format {
        Format::Json => return output::print(&format!("{}\n", output::pretty(&range)?)),
        Format::Yaml => return output::print(&output::yaml(&range)?),
        Format::Name | Format::Ndjson => {
            return Err(Failure::usage("points are shown as a table, json or yaml"));
        }
        Format::Table | Format::Wide => {}
    }
    let rows = rows(&range);
    if rows.is_empty() {
        eprintln!("No points found.");
        return Ok(());
    }
    let titles = ["TIME", "SERIES", "DEVICE", "LOCATION", "VALUE"].map(str::to_owned).to_vec();
    output::print(&session.output.rows(Some(titles), rows))?;
    if range["truncated"] == true {
        eprintln!("There was more: select less, or take longer steps.");
    }
    Ok(())
}

/// A row for each step of each line.
fn rows(range: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for line in range["items"].as_array().into_iter().flatten() {
        let tags: Vec<String> = line["tags"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        let tags = if tags.is_empty() { String::new() } else { format!("{{{}}}", tags.join(",")) };
        let name = clean(&format!("{}{tags} {}", text_at(line, "/measurement"), text_at(line, "/field")));
        let of = |at: &str| {
            let text = text_at(line, at);
            if text.is_empty() { "-".to_owned() } else { clean(&text) }
        };
        let steps = line["at"].as_array().into_iter().flatten();
        for (at, value) in steps.zip(line["values"].as_array().into_iter().flatten()) {
            let value = value.as_f64().map_or_else(|| "-".to_owned(), |value| value.to_string());
            let at = exact(UnixMs(at.as_i64().unwrap_or_default()));
            rows.push(vec![at, name.trim_end().to_owned(), of("/deviceName"), of("/location"), value]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_of_each_line_is_a_row() {
        let range = json!({"items": [
            {"measurement": "t", "field": "value", "tags": {"room": "12"}, "deviceName": "gw", "at": [0, 60_000], "values": [1.5, null]},
            {"measurement": "t", "field": "", "location": "Riga\u{1b}[2J", "at": [0], "values": [2]},
        ]});
        let shown: Vec<String> = rows(&range).into_iter().map(|row| row.join(" | ")).collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        1970-01-01T00:00:00Z | t{room=12} value | gw | - | 1.5
        1970-01-01T00:01:00Z | t{room=12} value | gw | - | -
        1970-01-01T00:00:00Z | t | - | Riga�[2J | 2
        ");
    }
}
