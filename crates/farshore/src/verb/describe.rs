//! `farshore describe`: everything about an object, and why it is as it is.

use std::fmt::Write as _;

use clap_complete::engine::ArgValueCompleter;
use farshore_api::device::{Device, DeviceApp};
use farshore_api::incident::Incident;
use farshore_api::rollout::Rollout;
use farshore_domain::desired::Because;
use farshore_domain::object::{Metadata, Reason};
use farshore_domain::rollout::{GroupStand, Waiting, WaveSummary};
use farshore_domain::time::UnixMs;
use serde_json::Value;

use crate::cli::Session;
use crate::client::{Client, typed};
use crate::exit::Exit;
use crate::failure::Result;
use crate::kind::{Kind, Selection, select};
use crate::output;
use crate::output::cell::{Look, bytes, clean, percent, state, text_at, time_at};
use crate::output::time::{age, both};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TYPE NAME… or TYPE/NAME…; TYPE alone describes all of them
    #[arg(required = true, value_name = "TYPE/NAME", add = ArgValueCompleter::new(crate::complete::objects))]
    what: Vec<String>,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    let objects = match select(&arguments.what)? {
        Selection::Objects(objects) => objects,
        Selection::Kinds(kinds) => {
            let mut objects = Vec::new();
            for kind in kinds {
                let list = super::get::fetch(&client, kind, &[], None).await?;
                objects.extend(kind.items(&list).iter().map(|item| (kind, kind.name_of(item))));
            }
            objects
        }
    };
    for (index, (kind, name)) in objects.iter().enumerate() {
        let object = super::get::one(&client, kind, name).await?;
        if !session.output.is_for_people() {
            session.output.changed(kind, &object)?;
            continue;
        }
        let mut text = if index > 0 { "\n".to_owned() } else { String::new() };
        let look = session.output.look();
        match kind.kind {
            "Device" => {
                text.push_str(&device(session, &typed("can't read the device", object.clone())?, look));
                let uid = text_at(&object, "/metadata/uid");
                text.push_str(&super::connectivity::lines(&client, &uid, look).await?);
            }
            "Rollout" => text.push_str(
                &rollout(&client, session, &typed("can't read the rollout", object.clone())?, look).await?,
            ),
            "Incident" => text.push_str(&incident(&typed("can't read the incident", object.clone())?, look)),
            _ => text.push_str(&output::yaml(&object)?),
        }
        text.push_str(&events(&client, session, kind, &object).await?);
        output::print(&text)?;
    }
    Ok(())
}

fn field(text: &mut String, name: &str, value: &str) {
    _ = writeln!(text, "{:<14} {value}", format!("{name}:"));
}

fn metadata(text: &mut String, metadata: &Metadata, now: UnixMs) {
    field(text, "Name", metadata.name.as_str());
    field(text, "Uid", &metadata.uid.to_string());
    let labels: Vec<_> = metadata.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    field(text, "Labels", if labels.is_empty() { "-".to_owned() } else { labels.join(", ") }.as_str());
    field(text, "Created", &both(metadata.created_at, now));
}

fn reasons(text: &mut String, title: &str, reasons: &[Reason], now: UnixMs) {
    if reasons.is_empty() {
        return;
    }
    _ = writeln!(text, "{title}:");
    for reason in reasons {
        _ = writeln!(
            text,
            "  {} ({}, {} ago)",
            clean(&reason.message),
            clean(&reason.code),
            age(reason.since, now)
        );
    }
}

fn device(session: &Session, device: &Device, look: Look) -> String {
    let now = crate::clock::now();
    let status = &device.status;
    let mut text = String::new();
    metadata(&mut text, &device.metadata, now);
    field(&mut text, "Location", if device.spec.location.is_empty() { "-" } else { &device.spec.location });
    field(&mut text, "Channel", device.spec.channel.as_str());
    let seen = status
        .last_seen_at
        .map_or_else(|| "never seen".to_owned(), |at| format!("last seen {} ago", age(at, now)));
    field(&mut text, "Reachability", &format!("{}, {seen}", state(status.reachability.word(), look)));
    field(&mut text, "Health", &state(status.health.word(), look));
    field(&mut text, "Conformance", &state(status.conformance.word(), look));
    field(&mut text, "Lifecycle", status.lifecycle.word());
    reasons(&mut text, "Why", &status.reasons, now);
    if !status.apps.is_empty() {
        _ = writeln!(text, "Apps:");
        let titles =
            ["  APP", "PHASE", "HEALTH", "ACTIVE", "DESIRED", "BECAUSE OF", "RESTARTS", "CPU", "MEMORY"]
                .map(str::to_owned)
                .to_vec();
        let rows = status.apps.iter().map(|app| {
            vec![
                format!("  {}", app.app),
                state(app.phase.word(), look),
                state(app.health.word(), look),
                if app.active_version.is_empty() { "-".to_owned() } else { app.active_version.clone() },
                app.desired.as_ref().map_or_else(|| "-".to_owned(), |release| release.version.to_string()),
                because(app),
                app.restarts.to_string(),
                used(app, "cpu").map_or_else(|| "-".to_owned(), |cores| format!("{:.1} %", cores * 100.0)),
                used(app, "mem_used").map_or_else(|| "-".to_owned(), |held| bytes(whole(held))),
            ]
        });
        text.push_str(&session.output.rows(Some(titles), rows));
        for app in &status.apps {
            reasons(&mut text, &format!("Why {}", app.app), &app.reasons, now);
            if let Some(isolation) = &app.isolation {
                let words = isolation.words();
                let apart = if words.is_empty() { "none".to_owned() } else { words.join(", ") };
                _ = writeln!(text, "Isolation of {}: {apart}", app.app);
            }
            if !app.config.is_empty() {
                _ = writeln!(text, "Config of {}:", app.app);
                for (key, value) in &app.config {
                    let taken = value.reference.as_ref();
                    let taken = taken.map_or_else(String::new, |taken| format!(": {}", clean(taken)));
                    _ = writeln!(
                        text,
                        "  {key}={} (from {}{taken})",
                        clean(&value.value),
                        clean(&value.from)
                    );
                }
            }
        }
    }
    let hardware = &status.hardware;
    field(
        &mut text,
        "Hardware",
        &clean(&format!(
            "{} {}, {} cores, {} memory, {}",
            hardware.arch,
            hardware.model,
            hardware.cpus,
            bytes(hardware.memory_bytes),
            hardware.os_name
        )),
    );
    field(&mut text, "Kernel", &clean(&hardware.kernel));
    field(
        &mut text,
        "Agent",
        &clean(&format!("{} ({})", status.agent_version, status.capabilities.join(", "))),
    );
    field(
        &mut text,
        "Desired state",
        &format!(
            "accepted {}/{} of {}/{}",
            status.accepted.epoch,
            status.accepted.generation,
            status.desired.epoch,
            status.desired.generation
        ),
    );
    if let Some(at) = status.certificate_expires_at {
        field(&mut text, "Certificate", &format!("until {}", both(at, now)));
    }
    if !status.latest.is_empty() {
        let latest: Vec<_> =
            status.latest.iter().map(|(name, value)| format!("{}={value:.3}", clean(name))).collect();
        field(&mut text, "Latest", &latest.join(" "));
    }
    text
}

/// What an app used when that was last told.
fn used(app: &DeviceApp, metric: &str) -> Option<f64> {
    app.usage.as_ref()?.values.get(metric).copied()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, below 2^52")]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

fn because(app: &DeviceApp) -> String {
    match &app.because {
        None => "-".to_owned(),
        Some(Because::Channel { channel }) => format!("channel {channel}"),
        Some(Because::Pin { pin }) => format!("pin {pin}"),
        Some(Because::Rollout { name, wave, forward, .. }) => {
            format!("rollout {name}, wave {wave}{}", if *forward { "" } else { ", old release" })
        }
        Some(Because::Unknown) => "?".to_owned(),
    }
}

fn incident(incident: &Incident, look: Look) -> String {
    let now = crate::clock::now();
    let (spec, status) = (&incident.spec, &incident.status);
    let mut text = String::new();
    field(&mut text, "Name", incident.metadata.name.as_str());
    field(&mut text, "Device", &format!("device/{}", spec.device_name));
    if let Some(app) = &spec.app {
        let version = spec.version.as_ref().map_or_else(String::new, |version| format!(" {version}"));
        field(&mut text, "App", &clean(&format!("{app}{version}")));
    }
    field(&mut text, "Cause", spec.cause.word());
    field(&mut text, "First sign", &clean(&status.message));
    if let Some(rollout) = &spec.rollout_name {
        field(&mut text, "Rollout", &format!("rollout/{rollout}"));
    }
    field(&mut text, "State", &state(status.state.word(), look));
    field(&mut text, "Began", &both(spec.started_at, now));
    field(&mut text, "Last sign", &format!("{} ({} in all)", both(status.last_at, now), status.signs));
    if let Some(at) = status.ended_at {
        field(&mut text, "Well again", &both(at, now));
    }
    if let (Some(at), Some(by)) = (status.acknowledged_at, &status.acknowledged_by) {
        field(&mut text, "Acknowledged", &clean(&format!("{} by {by}", both(at, now))));
    }
    if let (Some(at), Some(by)) = (status.resolved_at, &status.resolved_by) {
        field(&mut text, "Resolved", &clean(&format!("{} by {by}", both(at, now))));
    }
    if !status.actions.is_empty() {
        _ = writeln!(text, "Done by the device:");
        for action in &status.actions {
            let times = if action.count > 1 { format!(" ×{}", action.count) } else { String::new() };
            let ago = age(action.at, now);
            _ = writeln!(text, "  {ago:>8} ago  {}{times}: {}", action.kind, clean(&action.message));
        }
    }
    for note in &status.notes {
        _ = writeln!(
            text,
            "{} {} ago by {}: {}",
            note.did,
            age(note.at, now),
            clean(&note.by),
            clean(&note.comment)
        );
    }
    let parts: Vec<_> = status.evidence.iter().map(|part| clean(&part.part)).collect();
    let parts = if parts.is_empty() { "none has come yet".to_owned() } else { parts.join(", ") };
    field(&mut text, "Black boxes", &parts);
    _ = writeln!(text, "All of it: farshore incident evidence {}", incident.metadata.name);
    text
}

/// What a rollout is and how it goes, with its waves.
pub(crate) fn rollout_head(rollout: &Rollout, look: Look) -> String {
    let now = crate::clock::now();
    let summary = &rollout.status.summary;
    let mut text = String::new();
    metadata(&mut text, &rollout.metadata, now);
    let from =
        summary.from.as_ref().map_or_else(|| "nothing".to_owned(), |release| release.version.to_string());
    field(
        &mut text,
        "Moves",
        &format!("{} in channel {} from {from} to {}", summary.app, summary.channel, summary.to.version),
    );
    field(
        &mut text,
        "Phase",
        &format!("{}, for {}", state(summary.phase.word(), look), age(summary.phase_since, now)),
    );
    if let Some(activation) = summary.activation {
        let how = "the new release starts beside the old one, which is kept for the soak";
        field(&mut text, "Activation", &format!("{activation}: {how}"));
    }
    field(&mut text, "Halts at", &format!("{} failures", percent(summary.threshold)));
    field(&mut text, "In flight", &format!("{} of {}", summary.in_flight, summary.budget));
    if let Some(deadline) = summary.deadline {
        field(&mut text, "Deadline", &both(deadline, now));
    }
    reasons(&mut text, "Why", &summary.reasons, now);
    if let Some(held) = &rollout.status.held_back {
        field(&mut text, "Held back", &format!("since {}: {}", both(held.since, now), clean(&held.reason)));
    }
    waits(&mut text, &rollout.status.waiting, now);
    groups(&mut text, &rollout.status.groups);
    if !summary.waves.is_empty() {
        _ = writeln!(text, "Waves:");
        for wave in &summary.waves {
            let counts = &wave.counts;
            let excluded = match counts.excluded {
                0 => String::new(),
                excluded => format!(" · {excluded} left out"),
            };
            let ratio =
                wave.failure_ratio.map_or_else(String::new, |ratio| format!(", failures {}", percent(ratio)));
            _ = writeln!(
                text,
                "  {} to {:>3} %: {} · {} of {} ok · {} failed · {} updating · {} waiting · {} unreachable{excluded}{ratio}",
                wave.number,
                wave.to_percent,
                state(wave.state.word(), look),
                counts.ok,
                wave.size,
                counts.failed,
                counts.updating,
                counts.waiting,
                counts.unreachable,
            );
            wave_details(&mut text, wave);
        }
    }
    text
}

/// The budgets of groups: those in which somebody is down or waits.
fn groups(text: &mut String, groups: &[GroupStand]) {
    let busy: Vec<_> =
        groups.iter().filter(|group| group.down > 0 || group.waiting > 0 || group.full).collect();
    if busy.is_empty() {
        return;
    }
    _ = writeln!(text, "Groups:");
    for group in busy {
        let full = if group.full { ", full" } else { "" };
        _ = writeln!(
            text,
            "  {}={}: {} of {} down ({} by this rollout, {} of them out of reach; {} by others) of {} devices, {} up{full}; {} wait",
            clean(&group.label),
            clean(&group.value),
            group.down,
            group.budget,
            group.down_by_rollout,
            group.down_unreachable,
            group.down_by_others,
            group.size,
            group.up,
            group.waiting,
        );
    }
}

/// What it waits for, who has to act, and until when.
fn waits(text: &mut String, waiting: &[Waiting], now: UnixMs) {
    if waiting.is_empty() {
        return;
    }
    _ = writeln!(text, "Waits:");
    for wait in waiting {
        let reason = &wait.reason;
        _ = writeln!(
            text,
            "  {} ({}, {} ago; {} until {})",
            clean(&reason.message),
            clean(&reason.code),
            age(reason.since, now),
            wait.owner,
            both(wait.until, now)
        );
    }
}

/// The wave's test and approvals, on lines of their own.
fn wave_details(text: &mut String, wave: &WaveSummary) {
    if let Some(evidence) = &wave.evidence {
        _ = writeln!(
            text,
            "      evidence {:.2}: halts at {:.2}, good enough at {:.2}; halts a good release in at most {} of waves",
            evidence.value,
            evidence.halt_at,
            evidence.pass_at,
            percent(evidence.false_halt)
        );
    }
    if wave.small {
        _ = writeln!(text, "      too small for the promised error: onSmallWave says what a halt means");
    }
    if wave.approvals_needed > 0 {
        let names: Vec<_> = wave.approvals.iter().map(|given| clean(&given.by)).collect();
        let by = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        _ = writeln!(text, "      approvals {} of {}{by}", names.len(), wave.approvals_needed);
    }
}

async fn rollout(client: &Client, session: &Session, rollout: &Rollout, look: Look) -> Result<String> {
    let mut text = rollout_head(rollout, look);
    let path = format!("/api/rollouts/{}/devices", rollout.metadata.uid);
    let query = [("bucket", "failed".to_owned()), ("limit", "20".to_owned())];
    let mut failed = Vec::new();
    for bucket in ["failed", "rolled-back", "rolling-back"] {
        let mut query = query.clone();
        if let Some(first) = query.first_mut() {
            bucket.clone_into(&mut first.1);
        }
        let list = client.get("can't get the rollout's devices", &path, &query).await?;
        failed.extend(list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default());
    }
    failed.retain(|device| !text_at(device, "/reason").is_empty());
    if !failed.is_empty() {
        _ = writeln!(text, "Failures:");
        let rows = failed.iter().take(20).map(|device| {
            vec![
                format!("  device/{}", text_at(device, "/name")),
                state(&text_at(device, "/bucket"), look),
                clean(&text_at(device, "/reason")),
            ]
        });
        text.push_str(&session.output.rows(None, rows));
    }
    if !rollout.status.history.is_empty() {
        _ = writeln!(text, "History:");
        let now = crate::clock::now();
        for entry in rollout.status.history.iter().rev().take(20) {
            let comment = entry
                .comment
                .as_ref()
                .filter(|text| !text.is_empty())
                .map_or_else(String::new, |text| format!(": {text:?}"));
            _ = writeln!(
                text,
                "  {:>8} ago  {}: {}{comment}",
                age(entry.at, now),
                clean(&entry.who),
                clean(&entry.message)
            );
        }
    }
    Ok(text)
}

/// The last events about an object; who may not read events sees none.
async fn events(client: &Client, session: &Session, kind: &Kind, object: &Value) -> Result<String> {
    let uid = text_at(object, "/metadata/uid");
    if uid.is_empty() {
        return Ok(String::new());
    }
    let query = [("subjectKind", kind.kind.to_owned()), ("subject", uid), ("limit", "10".to_owned())];
    let list = match client.get("can't get the events", "/api/events", &query).await {
        Ok(list) => list,
        Err(failure) if failure.exit() == Exit::NotAllowed => return Ok(String::new()),
        Err(failure) => return Err(failure),
    };
    let items = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
    if items.is_empty() {
        return Ok(String::new());
    }
    let now = crate::clock::now();
    let rows = items.iter().rev().map(|event| {
        vec![
            format!("  {} ago", time_at(event, "/at").map_or_else(String::new, |at| age(at, now))),
            clean(&text_at(event, "/type")),
            clean(&text_at(event, "/message")),
        ]
    });
    Ok(format!("Events:\n{}", session.output.rows(None, rows)))
}
