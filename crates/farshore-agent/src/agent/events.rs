//! Events as they are kept and sent.

use farshore_domain::reconcile::Event;
use farshore_protocol::{DeviceEvent, EventBatch};
use prost::Message;

use crate::clock;

/// An event about the whole device.
pub(super) fn note(kind: &str, message: &str, details: &serde_json::Value) -> DeviceEvent {
    DeviceEvent {
        uid: uuid::Uuid::now_v7().to_string(),
        at_ms: clock::wall().0,
        kind: kind.to_owned(),
        app: String::new(),
        message: message.chars().take(2_000).collect(),
        detail_json: details.to_string(),
    }
}

/// An event that a decision brought.
pub(super) fn of_app(event: &Event) -> DeviceEvent {
    let mut details = serde_json::Map::new();
    if let Some(release) = &event.release {
        details.insert("release".to_owned(), release.to_string().into());
    }
    if let Some(version) = &event.version {
        details.insert("version".to_owned(), version.to_string().into());
    }
    if let Some(code) = &event.code {
        details.insert("code".to_owned(), code.clone().into());
    }
    let details = serde_json::Value::Object(details);
    DeviceEvent { app: event.app.to_string(), ..note(event.kind, &event.message, &details) }
}

/// A batch without its number, which it gets when it is sent.
pub(super) fn batch(events: Vec<DeviceEvent>) -> Vec<u8> {
    EventBatch { sequence: 0, events }.encode_to_vec()
}

/// A kept batch with its number; `None` when it is damaged.
pub(super) fn numbered(bytes: &[u8], sequence: u64) -> Option<EventBatch> {
    let mut batch = EventBatch::decode(bytes).ok()?;
    batch.sequence = sequence;
    Some(batch)
}
