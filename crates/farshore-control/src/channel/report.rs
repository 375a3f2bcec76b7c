//! From frames to what the store keeps. Everything a device sends is capped and cleaned here; nothing behind this file looks at frames.

use std::collections::BTreeMap;

use farshore_api::event::{Event, Subject};
use farshore_domain::desired::Generation;
use farshore_domain::device::{AppPhase, Conformance, Hardware, Health, Sense};
use farshore_domain::id::{DeviceId, IncidentId, OperationId, TenantId};
use farshore_domain::incident::{Incident, MAX_ACTIONS, MAX_MESSAGE, Part};
use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::operation::State;
use farshore_domain::release::isolation::Isolation;
use farshore_domain::time::{DAY_MS, MINUTE_MS, UnixMs};
use farshore_protocol as wire;
use farshore_store::channel::DeviceEvents;
use farshore_store::device_apps::{AppReport, HelloReport, StatusReport};
use farshore_store::events::NewEvent;
use farshore_store::incidents::{IncidentReport, NewEvidence};
use farshore_store::metrics::NewBlock;
use farshore_store::operations::{OperationProgress, OperationReport};
use prost::Message as _;
use uuid::Uuid;

/// At most this many apps on a device.
pub const MAX_APPS: usize = 64;
/// At most this many reasons for one state.
pub const MAX_REASONS: usize = 16;
/// At most this many events in a batch.
pub const MAX_EVENTS: usize = 500;
/// At most this many bytes in one block, and rows in it.
pub const MAX_BLOCK_BYTES: usize = 512 * 1024;
/// See [`MAX_BLOCK_BYTES`].
pub const MAX_BLOCK_ROWS: usize = 20_000;
/// At most this many bytes of an operation's output.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// At most this many updates of operations in a batch.
const MAX_UPDATES: usize = 64;
/// At most this many signals of the kernel.
const MAX_SENSES: usize = 32;
/// At most this much of what an app is kept apart from.
const MAX_ISOLATION_BYTES: usize = 16 * 1024;
const MAX_CAPABILITIES: usize = 64;
const MAX_JSON_BYTES: usize = 16 * 1024;

/// Why a frame breaks the rules; the text goes to the device, the log and an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub &'static str);

/// Text for people: control characters are gone, and so is everything after `max` characters.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').take(max).collect()
}

/// A word for programs: letters, digits, and `-._/+`.
fn word(text: &str, max: usize) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | '+'))
        .take(max)
        .collect()
}

/// JSON that any database takes: no NUL in any text.
fn clean_json(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(text.replace('\0', "")),
        Value::Array(items) => Value::Array(items.into_iter().map(clean_json).collect()),
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(key, value)| (key.replace('\0', ""), clean_json(value))).collect(),
        ),
        other => other,
    }
}

/// A device's own time, as far as it can be true: not after `now` and a little.
fn past(at_ms: i64, now: UnixMs) -> UnixMs {
    if at_ms <= 0 { now } else { UnixMs(at_ms).min(now.plus_ms(MINUTE_MS)) }
}

fn reasons(reasons: &[wire::Reason], now: UnixMs) -> Vec<Reason> {
    reasons
        .iter()
        .take(MAX_REASONS)
        .map(|reason| Reason {
            code: word(&reason.code, 64),
            message: clean(&reason.message, 1_000),
            since: past(reason.since_ms, now),
        })
        .collect()
}

/// What `hello` says of the device.
pub fn hello(tenant: TenantId, device: DeviceId, hello: &wire::Hello) -> Result<HelloReport, Unfit> {
    if hello.capabilities.len() > MAX_CAPABILITIES {
        return Err(Unfit("hello names too many capabilities"));
    }
    let hardware = match hello.hardware_json.as_str() {
        "" => None,
        json if json.len() > MAX_JSON_BYTES => return Err(Unfit("hello's hardware is too long")),
        json => {
            let value: serde_json::Value =
                serde_json::from_str(json).map_err(|_| Unfit("hello's hardware is no JSON"))?;
            if !value.is_object() {
                return Err(Unfit("hello's hardware is no object"));
            }
            let hardware: Hardware = serde_json::from_value(clean_json(value))
                .map_err(|_| Unfit("hello's hardware can't be read"))?;
            Some(hardware)
        }
    };
    Ok(HelloReport {
        tenant,
        device,
        agent_version: word(&hello.agent_version, 64),
        capabilities: hello.capabilities.iter().map(|capability| word(capability, 64)).collect(),
        hardware,
        accepted: Generation { epoch: hello.epoch, generation: hello.generation },
    })
}

fn release(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|uid| !uid.is_nil())
}

fn senses(senses: &[wire::Sense]) -> BTreeMap<String, Sense> {
    let sense = |sense: &wire::Sense| {
        (word(&sense.signal, 32), Sense { by: word(&sense.by, 16), reason: clean(&sense.reason, 300) })
    };
    senses.iter().take(MAX_SENSES).map(sense).collect()
}

/// What can't be read comes from another version, and is as good as not told.
fn isolation(text: &str) -> Option<Isolation> {
    // A list would be read as values without their names, and `\u0000` is nothing that every database keeps.
    let fits = text.len() <= MAX_ISOLATION_BYTES && text.starts_with('{') && !text.contains("\\u");
    fits.then(|| serde_json::from_str(text).ok()).flatten()
}

/// What a status report says.
pub fn status(
    tenant: TenantId,
    device: DeviceId,
    report: &wire::StatusReport,
    now: UnixMs,
) -> Result<StatusReport, Unfit> {
    if report.apps.len() > MAX_APPS {
        return Err(Unfit("the status names too many apps"));
    }
    let mut apps: BTreeMap<Name, AppReport> = BTreeMap::new();
    for app in &report.apps {
        let name = Name::new(app.app.as_str()).map_err(|_| Unfit("the status names an app badly"))?;
        let report = AppReport {
            app: name.clone(),
            phase: AppPhase::from_word(&app.phase),
            health: Health::from_word(&app.health),
            active_release: release(&app.active_release),
            active_version: word(&app.active_version, 128),
            staged_release: release(&app.staged_release),
            previous_release: release(&app.previous_release),
            failed_release: release(&app.failed_release),
            refused_release: release(&app.refused_release),
            permit: release(&app.permit),
            committed: app.committed,
            restarts: app.restarts,
            reasons: reasons(&app.reasons, now),
            isolation: isolation(&app.isolation),
            resumed_seen: app.resumed,
        };
        if apps.insert(name, report).is_some() {
            return Err(Unfit("the status names an app twice"));
        }
    }
    Ok(StatusReport {
        tenant,
        device,
        accepted: Generation { epoch: report.epoch, generation: report.generation },
        health: Health::from_word(&report.health),
        conformance: Conformance::from_word(&report.conformance),
        reasons: reasons(&report.reasons, now),
        apps: apps.into_values().collect(),
        senses: senses(&report.senses),
        at: now,
    })
}

/// `host`, or `app/<name>`.
#[must_use]
pub fn is_stream(stream: &str) -> bool {
    stream == "host" || stream.strip_prefix("app/").is_some_and(|name| Name::new(name).is_ok())
}

/// A block, read once. The second part says what is wrong with it; then only its number is kept, so that the device can forget it.
#[must_use]
pub fn block(
    tenant: TenantId,
    device: DeviceId,
    batch: wire::MetricBatch,
    now: UnixMs,
) -> (NewBlock, Option<Unfit>) {
    let empty = |stream: String| NewBlock {
        tenant,
        device,
        stream,
        sequence: i64::try_from(batch.sequence).unwrap_or(i64::MAX),
        from: now,
        to: now,
        samples: 0,
        block: Vec::new(),
        latest: BTreeMap::new(),
    };
    if batch.block.len() > MAX_BLOCK_BYTES {
        return (empty(batch.stream), Some(Unfit("a block of measurements is too large")));
    }
    let Ok(block) = farshore_series::decode(&batch.block) else {
        return (empty(batch.stream), Some(Unfit("a block of measurements can't be read")));
    };
    if block.rows() > MAX_BLOCK_ROWS {
        return (empty(batch.stream), Some(Unfit("a block of measurements has too many rows")));
    }
    let Some((from, to)) = block.span_ms() else { return (empty(batch.stream), None) };
    if to > now.0.saturating_add(DAY_MS) || from < 0 {
        return (empty(batch.stream), Some(Unfit("a block of measurements is not of this time")));
    }
    if block.series.iter().any(|name| name.contains('\0')) {
        return (empty(batch.stream), Some(Unfit("a block of measurements names a series badly")));
    }
    let latest = block
        .latest()
        .filter(|(_, _, value)| value.is_finite())
        .map(|(name, _, value)| (name.to_owned(), value))
        .collect();
    let samples = u32::try_from(block.rows()).unwrap_or(u32::MAX);
    let base = empty(batch.stream);
    (NewBlock { from: UnixMs(from), to: UnixMs(to), samples, block: batch.block, latest, ..base }, None)
}

/// The kinds a device may speak of begin with one of these; whatever else it says is put under `agent.`.
const EVENT_NOUNS: [&str; 8] =
    ["app", "health", "release", "desired", "agent", "runner", "host", "connectivity"];

/// What the kernel tells the device: names without a noun.
pub const KERNEL_EVENTS: [&str; 5] = ["process_exit", "oom_kill", "tcp_retransmit", "exec", "connect"];

fn event_kind(kind: &str) -> String {
    if KERNEL_EVENTS.contains(&kind) {
        return kind.to_owned();
    }
    let kind: String = kind
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        .take(64)
        .collect();
    let noun = kind.split('.').next().unwrap_or("");
    if kind.contains('.') && EVENT_NOUNS.contains(&noun) { kind } else { format!("agent.{kind}") }
}

/// Events that happened on the device.
pub fn events(
    tenant: TenantId,
    device: DeviceId,
    name: &str,
    batch: wire::EventBatch,
    now: UnixMs,
) -> Result<DeviceEvents, Unfit> {
    if batch.events.len() > MAX_EVENTS {
        return Err(Unfit("the batch has too many events"));
    }
    let sequence = i64::try_from(batch.sequence).map_err(|_| Unfit("the batch's number is too large"))?;
    if sequence == 0 {
        return Err(Unfit("a batch of events has no number"));
    }
    let events = new_events(device, name, batch.events, now)?;
    Ok(DeviceEvents { tenant, device, sequence, events })
}

/// Events that happened on the device and are kept by nobody: for whoever looks now.
pub fn live_events(
    device: DeviceId,
    name: &str,
    batch: wire::EventBatch,
    now: UnixMs,
) -> Result<Vec<Event>, Unfit> {
    if batch.events.len() > MAX_EVENTS {
        return Err(Unfit("the batch has too many events"));
    }
    let shown = |event: NewEvent| Event {
        uid: event.uid,
        sequence: 0,
        at: event.at,
        kind: event.kind,
        subject: Subject { kind: event.subject_kind, uid: event.subject, name: event.subject_name },
        actor: event.actor,
        message: event.message,
        payload: event.payload,
    };
    Ok(new_events(device, name, batch.events, now)?.into_iter().map(shown).collect())
}

fn new_events(
    device: DeviceId,
    name: &str,
    given: Vec<wire::DeviceEvent>,
    now: UnixMs,
) -> Result<Vec<NewEvent>, Unfit> {
    let mut events = Vec::with_capacity(given.len());
    for event in given {
        let uid = release(&event.uid).ok_or(Unfit("an event has no uid"))?;
        let mut payload = match event.detail_json.as_str() {
            "" => serde_json::json!({}),
            json if json.len() > MAX_JSON_BYTES => {
                serde_json::json!({ "dropped": "the details were too long" })
            }
            json => serde_json::from_str(json)
                .map(clean_json)
                .unwrap_or_else(|_| serde_json::json!({ "text": clean(json, 1_000) })),
        };
        if !payload.is_object() {
            payload = serde_json::json!({ "value": payload });
        }
        if let (Ok(app), Some(fields)) = (Name::new(event.app.as_str()), payload.as_object_mut()) {
            fields.insert("app".to_owned(), serde_json::Value::String(app.to_string()));
        }
        events.push(NewEvent {
            uid,
            at: past(event.at_ms, now),
            kind: event_kind(&event.kind),
            subject_kind: "Device".to_owned(),
            subject: device.0,
            subject_name: name.to_owned(),
            actor: format!("device:{name}"),
            message: clean(&event.message, 2_000),
            payload,
        });
    }
    Ok(events)
}

/// At most this many incidents in a batch, and pieces of evidence.
pub const MAX_INCIDENTS: usize = 200;
/// At most this many bytes of evidence at once.
pub const MAX_EVIDENCE_BYTES: usize = 1024 * 1024;

/// Incidents of the device, and evidence.
pub fn incidents(
    tenant: TenantId,
    device: DeviceId,
    name: &str,
    batch: wire::IncidentBatch,
    now: UnixMs,
) -> Result<IncidentReport, Unfit> {
    if batch.incidents_json.len() > MAX_INCIDENTS || batch.evidence.len() > MAX_INCIDENTS {
        return Err(Unfit("the batch has too many incidents"));
    }
    let sequence = i64::try_from(batch.sequence).map_err(|_| Unfit("the batch's number is too large"))?;
    if sequence == 0 {
        return Err(Unfit("a batch of incidents has no number"));
    }
    let mut incidents = Vec::with_capacity(batch.incidents_json.len());
    for json in &batch.incidents_json {
        if json.len() > 256 * 1024 {
            return Err(Unfit("an incident is too long"));
        }
        let mut incident: Incident =
            serde_json::from_str(json).map_err(|_| Unfit("an incident can't be read"))?;
        incident.message = clean(&incident.message, MAX_MESSAGE);
        incident.actions.truncate(MAX_ACTIONS);
        for action in &mut incident.actions {
            action.message = clean(&action.message, MAX_MESSAGE);
            action.at = past(action.at.0, now);
            action.last_at = past(action.last_at.0, now);
        }
        incident.started_at = past(incident.started_at.0, now);
        incident.last_at = past(incident.last_at.0, now).max(incident.started_at);
        incident.ended_at = incident.ended_at.map(|at| past(at.0, now).max(incident.started_at));
        incidents.push(incident);
    }
    let mut evidence = Vec::with_capacity(batch.evidence.len());
    for mut one in batch.evidence {
        let incident = release(&one.incident).ok_or(Unfit("evidence names no incident"))?;
        let part = Part::from_word(&one.part);
        if part == Part::Unknown {
            return Err(Unfit("evidence is of no part that is known"));
        }
        one.blocks.retain(|block| {
            block.len() <= MAX_BLOCK_BYTES
                && farshore_series::decode(block).is_ok_and(|block| block.rows() <= MAX_BLOCK_ROWS)
        });
        one.events.truncate(MAX_EVENTS);
        let body = one.encode_to_vec();
        if body.len() > MAX_EVIDENCE_BYTES {
            return Err(Unfit("evidence is too large"));
        }
        let taken_at = past(one.taken_at_ms, now);
        evidence.push(NewEvidence {
            incident: IncidentId(incident),
            part: part.word().to_owned(),
            taken_at,
            body,
        });
    }
    Ok(IncidentReport { tenant, device, device_name: name.to_owned(), sequence, incidents, evidence })
}

/// How an operation goes, from an agent that keeps no stream of it.
pub fn operation(
    tenant: TenantId,
    device: DeviceId,
    update: wire::OperationUpdate,
) -> Result<OperationReport, Unfit> {
    let updates = vec![progress(tenant, device, update)?];
    Ok(OperationReport { tenant, device, sequence: None, updates })
}

/// How operations go, in order.
pub fn operations(
    tenant: TenantId,
    device: DeviceId,
    batch: wire::OperationBatch,
) -> Result<OperationReport, Unfit> {
    let sequence = i64::try_from(batch.sequence).map_err(|_| Unfit("the batch's number is too large"))?;
    if sequence == 0 {
        return Err(Unfit("a batch of operations has no number"));
    }
    if batch.updates.len() > MAX_UPDATES {
        return Err(Unfit("too many updates of operations in one batch"));
    }
    let updates =
        batch.updates.into_iter().map(|update| progress(tenant, device, update)).collect::<Result<_, _>>()?;
    Ok(OperationReport { tenant, device, sequence: Some(sequence), updates })
}

fn progress(
    tenant: TenantId,
    device: DeviceId,
    update: wire::OperationUpdate,
) -> Result<OperationProgress, Unfit> {
    let uid = update.uid.parse().map_err(|_| Unfit("an operation's uid can't be read"))?;
    let state = State::from_word(&update.state);
    if matches!(state, State::Unknown | State::Queued) {
        return Err(Unfit("an operation's state is not known"));
    }
    if update.output.len() > MAX_OUTPUT_BYTES {
        return Err(Unfit("an operation's output is too large"));
    }
    Ok(OperationProgress {
        tenant,
        device,
        uid: OperationId(uid),
        state,
        message: clean(&update.message, 2_000),
        output_total: update.output_total.max(update.output.len() as u64),
        output: update.output,
        exit_code: update.exit_code,
    })
}

#[cfg(test)]
mod tests {
    use farshore_series::{BlockBuilder, encode};

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(1));
    const DEVICE: DeviceId = DeviceId(Uuid::from_u128(2));
    const NOW: UnixMs = UnixMs(1_700_000_000_000);

    #[test]
    fn an_isolation_that_can_not_be_kept_everywhere_or_read_says_nothing() {
        let has = isolation(r#"{"network":"none","maskedPaths":["/home"]}"#).unwrap();
        assert_eq!(has.words(), ["no network", "1 hidden path"]);
        assert!(isolation("{}").unwrap().is_empty());
        for text in ["", "[]", r#"{"aether":"none"}"#, r#"{"maskedPaths":["/a\u0000"]}"#] {
            assert_eq!(isolation(text), None, "{text}");
        }
        let long = format!(r#"{{"maskedPaths":["/{}"]}}"#, "a".repeat(MAX_ISOLATION_BYTES));
        assert_eq!(isolation(&long), None);
    }

    fn batch(block: Vec<u8>) -> wire::MetricBatch {
        wire::MetricBatch { stream: "host".to_owned(), sequence: 7, block }
    }

    #[test]
    fn a_block_brings_its_span_and_latest_values() {
        let mut builder = BlockBuilder::new();
        builder.push(NOW.0 - 20_000, [("cpu", 0.5), ("temperature", 40.0)]).unwrap();
        builder.push(NOW.0 - 10_000, [("cpu", 0.25), ("broken", f64::NAN)]).unwrap();
        let (read, wrong) = block(TENANT, DEVICE, batch(encode(&builder.finish()).unwrap()), NOW);
        assert_eq!(wrong, None);
        assert_eq!((read.from.0, read.to.0, read.samples), (NOW.0 - 20_000, NOW.0 - 10_000, 2));
        let latest: Vec<_> = read.latest.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(latest, [("cpu", 0.25), ("temperature", 40.0)]);
    }

    #[test]
    fn an_unreadable_block_keeps_only_its_number() {
        let mut future = BlockBuilder::new();
        future.push(NOW.0 + 2 * DAY_MS, [("cpu", 0.5)]).unwrap();
        let hostile =
            [vec![], vec![0xff; 64], vec![1; MAX_BLOCK_BYTES + 1], encode(&future.finish()).unwrap()];
        for bytes in hostile {
            let (read, wrong) = block(TENANT, DEVICE, batch(bytes), NOW);
            assert!(wrong.is_some());
            assert_eq!((read.sequence, read.samples, read.block.len()), (7, 0, 0));
        }
    }

    #[test]
    fn a_device_can_not_speak_as_the_control_plane() {
        assert_eq!(event_kind("app.started"), "app.started");
        assert_eq!(event_kind("device.revoked"), "agent.device.revoked");
        assert_eq!(event_kind("reset"), "agent.reset");
        assert_eq!(event_kind("app\n.X\u{0}started"), "app.started");
        assert_eq!(event_kind(&"z".repeat(1_000)).len(), "agent.".len() + 64);
    }

    #[test]
    fn hostile_details_become_a_small_object_without_nul() {
        let event = |detail: &str| wire::EventBatch {
            sequence: 1,
            events: vec![wire::DeviceEvent {
                uid: Uuid::from_u128(9).to_string(),
                at_ms: i64::MAX,
                kind: "app.exited".to_owned(),
                app: "edge-web".to_owned(),
                message: "\u{0}gone\u{7}".to_owned(),
                detail_json: detail.to_owned(),
            }],
        };
        for detail in ["", "{", "[1]", r#"{"a\u0000":"b\u0000"}"#, &format!("\"{}\"", "x".repeat(20_000))] {
            let read = events(TENANT, DEVICE, "kiosk-7", event(detail), NOW).unwrap();
            let [one] = read.events.as_slice() else { panic!("one event") };
            let json = one.payload.to_string();
            assert!(one.payload.is_object() && json.len() < 2_000 && !json.contains("\\u0000"), "{json}");
            assert_eq!(one.payload.get("app").and_then(|app| app.as_str()), Some("edge-web"));
            assert_eq!(one.message, "gone");
            assert!(one.at <= NOW.plus_ms(MINUTE_MS));
        }
        let mut many = event("");
        many.events = vec![many.events[0].clone(); MAX_EVENTS + 1];
        assert!(events(TENANT, DEVICE, "kiosk-7", many, NOW).is_err());
    }

    #[test]
    fn hostile_incidents_are_unfit_or_cut_short() {
        let told = |json: String| {
            let batch = wire::IncidentBatch { sequence: 1, incidents_json: vec![json], evidence: Vec::new() };
            incidents(TENANT, DEVICE, "kiosk-7", batch, NOW)
        };
        let json = |message: &str, at: i64| {
            serde_json::json!({"uid": Uuid::from_u128(3), "app": "web", "cause": "process-exit", "message": message,
                "startedAt": at, "lastAt": 0, "endedAt": -5, "signs": 1, "actions": []})
            .to_string()
        };
        let read = told(json(&"x\u{0}".repeat(5_000), i64::MAX)).unwrap();
        let one = &read.incidents[0];
        assert_eq!(one.message, "x".repeat(MAX_MESSAGE));
        assert!(one.started_at <= NOW.plus_ms(MINUTE_MS) && one.ended_at.unwrap() >= one.started_at);
        assert!(one.last_at >= one.started_at);
        for bad in ["", "{}", "[1]", &json(&"x".repeat(300_000), 1), &json("x", 1).replace("web", "../x")] {
            assert!(told(bad.to_owned()).is_err(), "{}", &bad[..bad.len().min(80)]);
        }
        let evidence = |part: &str, log: usize| {
            let one = wire::IncidentEvidence {
                incident: Uuid::from_u128(3).to_string(),
                part: part.to_owned(),
                log: "x".repeat(log),
                blocks: vec![vec![0xff; 64]],
                ..Default::default()
            };
            let batch = wire::IncidentBatch { sequence: 1, incidents_json: Vec::new(), evidence: vec![one] };
            incidents(TENANT, DEVICE, "kiosk-7", batch, NOW)
        };
        let read =
            wire::IncidentEvidence::decode(&*evidence("opening", 10).unwrap().evidence[0].body).unwrap();
        assert_eq!((read.blocks.len(), read.log.len()), (0, 10), "a block that can't be read is left out");
        assert!(evidence("../etc", 1).is_err());
        assert!(evidence("opening", MAX_EVIDENCE_BYTES).is_err());
    }

    #[test]
    fn a_status_with_bad_names_or_too_many_apps_is_unfit() {
        let app =
            |name: String| wire::AppStatus { app: name, phase: "running".to_owned(), ..Default::default() };
        let report = |apps| wire::StatusReport { health: "glowing".to_owned(), apps, ..Default::default() };
        let check = |apps| status(TENANT, DEVICE, &report(apps), NOW);
        assert_eq!(check(vec![app("web".to_owned())]).unwrap().health, Health::Unknown);
        assert!(check(vec![app("../web".to_owned())]).is_err());
        assert!(check(vec![app("web".to_owned()), app("web".to_owned())]).is_err());
        assert!(check((0..=MAX_APPS).map(|n| app(format!("web-{n}"))).collect()).is_err());
    }

    #[test]
    fn hardware_of_any_kind_is_read_or_refused() {
        let say = |json: &str| {
            hello(TENANT, DEVICE, &wire::Hello { hardware_json: json.to_owned(), ..Default::default() })
        };
        assert_eq!(say("").unwrap().hardware, None);
        assert_eq!(say(r#"{"model":"Pi\u0000 4"}"#).unwrap().hardware.unwrap().model, "Pi 4");
        for bad in ["{", "[]", "7", &format!("\"{}\"", "x".repeat(20_000))] {
            assert!(say(bad).is_err(), "{bad}");
        }
    }
}
