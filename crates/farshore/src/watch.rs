//! Following objects: a list, and then what changes, as events say so.

use serde_json::Value;

use crate::client::Client;
use crate::failure::Result;
use crate::kind::Kind;
use crate::output::cell::text_at;
use crate::sse::{Item, SseEvent, Stream};

/// What happened to the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// One object changed.
    Object { uid: String, name: String },
    /// Something may have been missed, or time has passed: read everything again.
    Everything { missed: bool },
}

/// A stream of changes of one kind.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: Stream,
    kind: &'static Kind,
}

impl Watch {
    /// Opens the stream. List the objects after this, so that nothing lies between.
    pub(crate) async fn open(client: &Client, kind: &'static Kind) -> Result<Self> {
        let what = format!("can't watch {}", kind.plural);
        let query = vec![("subjectKind", kind.kind.to_owned())];
        Ok(Self { stream: Stream::open(client, &what, "/api/events/stream", query).await?, kind })
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> Result<Change> {
        loop {
            match self.stream.next().await? {
                Item::Alive => return Ok(Change::Everything { missed: false }),
                Item::Reopened => return Ok(Change::Everything { missed: true }),
                Item::Event(event) if event.event == "reset" => {
                    return Ok(Change::Everything { missed: true });
                }
                Item::Event(event) => {
                    if let Some(change) = change_of(self.kind, &event) {
                        return Ok(change);
                    }
                }
            }
        }
    }
}

fn change_of(kind: &Kind, event: &SseEvent) -> Option<Change> {
    let data: Value = serde_json::from_str(&event.data).ok()?;
    if event.event == "device-changed" {
        return (kind.kind == "Device")
            .then(|| Change::Object { uid: text_at(&data, "/uid"), name: text_at(&data, "/name") });
    }
    (text_at(&data, "/subject/kind") == kind.kind).then(|| Change::Object {
        uid: text_at(&data, "/subject/uid"),
        name: text_at(&data, "/subject/name"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_about_the_kind_are_changes() {
        let device = crate::kind::find("device").unwrap();
        let change = |event: &str, data: &str| {
            change_of(device, &SseEvent { id: None, event: event.into(), data: data.into() })
        };
        let expected = Some(Change::Object { uid: "u".into(), name: "a".into() });
        assert_eq!(change("device-changed", r#"{"uid":"u","name":"a"}"#), expected);
        assert_eq!(
            change("device.claimed", r#"{"uid":"e","subject":{"kind":"Device","uid":"u","name":"a"}}"#),
            expected
        );
        assert_eq!(change("rollout.halted", r#"{"subject":{"kind":"Rollout","uid":"u","name":"a"}}"#), None);
        assert_eq!(change("x", "no json"), None);
    }
}
