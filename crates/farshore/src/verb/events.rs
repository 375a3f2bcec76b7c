//! `farshore events`: what happened, oldest first, and what goes on.

use clap_complete::engine::ArgValueCompleter;
use serde_json::Value;

use crate::cli::Session;
use crate::failure::Result;
use crate::kind::{find, object};
use crate::output::cell::text_at;
use crate::sse::{Item, Stream};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only events about this object: device/kiosk-7
    #[arg(value_name = "TYPE/NAME", add = ArgValueCompleter::new(crate::complete::objects))]
    about: Option<String>,
    /// Only events of this type: device.claimed
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// How many of the past to show
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    limit: usize,
    /// Go on as they happen
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    let kind = find("events")?;
    let mut query: Vec<(&'static str, String)> = Vec::new();
    if let Some(about) = &arguments.about {
        let (subject, name) = object(about)?;
        query.push(("subjectKind", subject.kind.to_owned()));
        query.push(("subject", name));
    }
    if let Some(wanted) = &arguments.kind {
        query.push(("kind", wanted.clone()));
    }
    let stream = if arguments.watch {
        Some(Stream::open(&client, "can't watch events", "/api/events/stream", query.clone()).await?)
    } else {
        None
    };
    let mut list = super::get::fetch(&client, kind, &query, Some(arguments.limit.max(1))).await?;
    // The server gives the newest first; people read downwards.
    if let Some(Value::Array(items)) = list.pointer_mut("/items") {
        items.truncate(arguments.limit);
        items.reverse();
    }
    let mut last = kind
        .items(&list)
        .last()
        .and_then(|event| event.pointer("/sequence"))
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let Some(mut stream) = stream else { return session.output.list(kind, &list) };
    for event in kind.items(&list) {
        session.output.changed(kind, event)?;
    }
    loop {
        let Item::Event(event) = stream.next().await? else { continue };
        let Ok(data) = serde_json::from_str::<Value>(&event.data) else { continue };
        let sequence = data.pointer("/sequence").and_then(Value::as_i64);
        // Without a number it is no event of the log, such as `device-changed`.
        let Some(sequence) = sequence.filter(|sequence| *sequence > last) else { continue };
        if text_at(&data, "/type").is_empty() {
            continue;
        }
        last = sequence;
        session.output.changed(kind, &data)?;
    }
}
