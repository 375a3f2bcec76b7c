//! What a device says of itself, as frames.

use farshore_domain::desired::Generation;
use farshore_domain::object::Reason;
use farshore_domain::reconcile::{AppView, DeviceView, Event};
use farshore_domain::time::UnixMs;
use farshore_protocol as wire;
use uuid::Uuid;

use crate::dice::Dice;

/// The report of a view. Time 0: equal views give equal reports, and the sender stamps it.
pub(crate) fn status(view: &DeviceView, at: Generation) -> wire::StatusReport {
    wire::StatusReport {
        epoch: at.epoch,
        generation: at.generation,
        health: view.health.word().to_owned(),
        conformance: view.conformance.word().to_owned(),
        reasons: view.reasons.iter().map(reason).collect(),
        apps: view.apps.iter().map(app).collect(),
        device_time_ms: 0,
        senses: Vec::new(),
    }
}

fn reason(reason: &Reason) -> wire::Reason {
    wire::Reason { code: reason.code.clone(), message: reason.message.clone(), since_ms: reason.since.0 }
}

fn app(view: &AppView) -> wire::AppStatus {
    let text = |id: Option<farshore_domain::id::ReleaseId>| id.map_or_else(String::new, |id| id.to_string());
    wire::AppStatus {
        app: view.app.to_string(),
        phase: view.phase.word().to_owned(),
        active_release: text(view.active.as_ref().map(|(release, _)| *release)),
        staged_release: text(view.staged),
        previous_release: text(view.previous),
        active_version: view.active.as_ref().map_or_else(String::new, |(_, version)| version.to_string()),
        health: view.health.word().to_owned(),
        reasons: view.reasons.iter().map(reason).collect(),
        restarts: view.restarts,
        failed_release: text(view.failed),
        permit: view.permit.map_or_else(String::new, |permit| permit.to_string()),
        committed: view.committed,
        refused_release: text(view.refused),
        resumed: view.resumed,
        bytes_done: 0,
        bytes_total: 0,
        isolation: String::new(),
    }
}

/// A `UUIDv7` from the device's own dice.
pub(crate) fn event_uid(dice: &mut Dice, now: UnixMs) -> String {
    let (high, low) = (dice.draw().to_be_bytes(), dice.draw().to_be_bytes());
    let mut random = [0; 10];
    for (slot, byte) in random.iter_mut().zip(high.into_iter().chain(low)) {
        *slot = byte;
    }
    let ms = u64::try_from(now.0).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid().to_string()
}

/// What happened, for the event stream.
pub(crate) fn event(event: Event, dice: &mut Dice, now: UnixMs) -> wire::DeviceEvent {
    let mut detail = serde_json::Map::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            detail.insert(key.to_owned(), value.into());
        }
    };
    put("release", event.release.map(|release| Uuid::from(release).to_string()));
    put("version", event.version.map(|version| version.to_string()));
    put("code", event.code);
    wire::DeviceEvent {
        uid: event_uid(dice, now),
        at_ms: now.0,
        kind: event.kind.to_owned(),
        app: event.app.to_string(),
        message: event.message,
        detail_json: serde_json::Value::Object(detail).to_string(),
    }
}
