//! The local page: it works without the cloud, without scripts and without anything from elsewhere.

use std::fmt::Write as _;

use http::StatusCode;

use super::answer::{self, Answer};
use crate::clock;
use crate::gateway::Shared;
use crate::pipeline::{AlertState, ProcessingStatus};
use crate::status::{GatewayStatus, StreamStatus};

const STYLE: &str = include_str!("page.css");

pub(super) fn page(shared: &Shared) -> Answer {
    let (status, health) = (shared.status(), shared.health());
    let mut html = String::with_capacity(16 * 1024);
    let name = escape(&status.device_name);
    let _ = write!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"10\"><title>{name} – edge gateway</title><style>{STYLE}</style></head><body><main>\
         <h1>{name}</h1><p class=\"sub\">{} · up {}</p><dl>",
        escape(&status.device_id),
        duration(health.uptime_seconds)
    );
    let mut fact = |name: &str, value: &str| {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    };
    fact(
        "State",
        match health.status {
            crate::status::Health::Healthy => "takes readings and keeps them",
            crate::status::Health::Degraded => "takes readings; some were lost (see below)",
            crate::status::Health::Unhealthy => "does not take readings",
        },
    );
    let cloud = match (&status.metered_link, status.is_online) {
        (Some(interface), true) => format!("connected over {interface}, which costs: only alerts are sent"),
        (None, true) => "connected".to_owned(),
        (_, false) => "not connected".to_owned(),
    };
    fact("Cloud", &cloud);
    if let Some(broker) = &status.broker {
        let state = match (&broker.note, broker.connected) {
            (_, true) => format!("{} connected", broker.address),
            (Some(note), false) => format!("{}: {note}", broker.address),
            (None, false) => format!("{} is being connected", broker.address),
        };
        fact("Broker", &state);
    }
    fact("Waiting", &format!("{} points, {}", status.pending_sync_count, bytes(status.pending_bytes)));
    let oldest = status.oldest_unsent_age.map_or_else(
        || "nothing waits".to_owned(),
        |age| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a figure to be looked at"
            )]
            let seconds = age as u64;
            format!("{} old", duration(seconds))
        },
    );
    fact("Oldest", &oldest);
    fact("Memory", &format!("{} MB", health.memory_mb));
    fact("Processor", &format!("{} %", health.cpu_percent));
    html.push_str("</dl>");
    if let Some(why) = &status.refusal {
        let _ = write!(html, "<p class=\"note\">Readings are refused: {}</p>", escape(why));
    }
    if let Some(note) = &status.sync_note {
        let _ = write!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    html.push_str("<h2>Streams</h2>");
    if status.streams.is_empty() {
        html.push_str("<p>No reading came in yet. Send one:</p><pre>curl -d '{\"sensor_id\":\"temp-01\",\"value\":23.5}' http://localhost:8000/api/data</pre>");
    } else {
        html.push_str("<div class=\"scroll\"><table><thead><tr><th>Stream</th><th>Class</th><th>Acknowledged when</th><th class=\"n\">Points waiting</th><th class=\"n\">On disk</th><th class=\"n\">Points lost</th></tr></thead><tbody>");
        for stream in &status.streams {
            let _ = write!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&stream.name),
                stream.class,
                if stream.durable { "durable" } else { "taken, not durable" },
                stream.pending_points,
                bytes(stream.pending_bytes),
                stream.lost_points
            );
        }
        html.push_str("</tbody></table></div>");
    }
    write_losses(&status, &mut html);
    if let Some(processing) = &status.processing {
        write_processing(processing, &mut html);
    }
    let latest = shared.ingest.latest();
    if !latest.is_empty() {
        html.push_str("<h2>Latest values</h2><div class=\"scroll\"><table><thead><tr><th>Series</th><th class=\"n\">Value</th><th>Time (UTC)</th></tr></thead><tbody>");
        for (series, value) in &latest {
            let _ = write!(
                html,
                "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
                escape(series),
                escape(&value.value),
                clock::rfc3339(value.at_ns)
            );
        }
        html.push_str("</tbody></table></div>");
    }
    html.push_str("<p class=\"sub\">This page is served by the gateway itself and renews itself every 10 seconds. <a href=\"/metrics\">Metrics</a> · <a href=\"/health\">Health</a></p></main></body></html>");
    let mut answer = answer::body(StatusCode::OK, "text/html; charset=utf-8", html);
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    for (name, value) in [
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        answer.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    answer
}

/// What was taken and is no more: how much for which reason since the start, and of which time the newest losses were.
fn write_losses(status: &GatewayStatus, html: &mut String) {
    let lost = || {
        let of = |stream: &StreamStatus| stream.lost.iter().any(|(_, points)| *points > 0);
        status.streams.iter().filter(move |stream| of(stream))
    };
    if status.losses.is_empty() && lost().next().is_none() {
        return;
    }
    html.push_str("<h2>Losses</h2>");
    if lost().next().is_some() {
        html.push_str("<div class=\"scroll\"><table><thead><tr><th>Stream</th><th>Reason</th><th class=\"n\">Points since the start</th></tr></thead><tbody>");
        for stream in lost() {
            for (reason, points) in &stream.lost {
                let name = escape(&stream.name);
                let _ =
                    write!(html, "<tr><td>{name}</td><td>{reason}</td><td class=\"n\">{points}</td></tr>");
            }
        }
        html.push_str("</tbody></table></div>");
    }
    if status.losses.is_empty() {
        return;
    }
    html.push_str("<p class=\"sub\">The newest, with the times of the points that are lost:</p><div class=\"scroll\"><table><thead><tr><th>Noticed (UTC)</th><th>Stream</th><th>Reason</th><th class=\"n\">Points</th><th>From</th><th>To</th></tr></thead><tbody>");
    for loss in &status.losses {
        let more = match loss.unknown_bytes {
            0 => String::new(),
            unknown => format!(" and more in {}", bytes(unknown)),
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}{more}</td><td>{}</td><td>{}</td></tr>",
            escape(&loss.noticed),
            escape(&loss.stream),
            escape(&loss.reason),
            loss.points,
            escape(&loss.earliest),
            escape(&loss.latest)
        );
    }
    html.push_str("</tbody></table></div>");
}

/// The pipelines: what each step did, what came too late, which alerts there were.
fn write_processing(processing: &ProcessingStatus, html: &mut String) {
    html.push_str("<h2>Processing</h2>");
    let from = match (&processing.config, &processing.file, processing.source) {
        (Some(config), ..) => format!("Pipelines of the control plane ({})", config.name),
        (_, Some(file), _) => format!("Pipelines of {file}"),
        (.., "aggregates") => "Aggregates of all series".to_owned(),
        (.., "program") => "Processing of this program".to_owned(),
        _ => "No pipelines".to_owned(),
    };
    let _ = write!(
        html,
        "<p class=\"sub\">{}: {} points processed, {} wait, {} came too late, {} dropped, {} alerts raised.</p>",
        escape(&from),
        processing.engine.points,
        processing.backlog,
        processing.late,
        processing.dropped,
        processing.alerts_raised
    );
    for trouble in processing.refused.iter().chain(&processing.trouble) {
        let _ = write!(html, "<p class=\"note\">{}</p>", escape(trouble));
    }
    html.push_str("<div class=\"scroll\"><table><thead><tr><th>Pipeline</th><th>Step</th><th class=\"n\">In</th><th class=\"n\">Out</th><th class=\"n\">Late</th><th class=\"n\">Dropped</th><th class=\"n\">Open windows</th></tr></thead><tbody>");
    for pipeline in &processing.pipelines {
        for (index, step) in pipeline.steps.iter().enumerate() {
            let counts = step.counts;
            let _ = write!(
                html,
                "<tr><td>{}</td><td>{} {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                if index == 0 { escape(&pipeline.name) } else { String::new() },
                index + 1,
                step.kind,
                counts.taken,
                counts.passed,
                counts.late,
                counts.unknown + counts.no_room,
                step.open_windows
            );
        }
    }
    html.push_str("</tbody></table></div>");
    if !processing.alerts.is_empty() {
        html.push_str("<h2>Local alerts</h2><div class=\"scroll\"><table><thead><tr><th>Rule</th><th>State</th><th>Severity</th><th>Message</th><th>Time (UTC)</th></tr></thead><tbody>");
        for alert in &processing.alerts {
            let state = if alert.state == AlertState::Raised { "raised" } else { "over" };
            let _ = write!(
                html,
                "<tr><td>{}</td><td>{state}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&alert.rule),
                alert.severity.as_str(),
                escape(&alert.message),
                clock::rfc3339(alert.at_ns)
            );
        }
        html.push_str("</tbody></table></div>");
    }
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a figure to be looked at")]
    let size = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", size / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", size / 1e6),
        _ => format!("{:.2} GB", size / 1e9),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_text() {
        assert_eq!(escape("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
        assert_eq!((bytes(1_500).as_str(), duration(90_000).as_str()), ("1.5 kB", "1 d 1 h"));
    }
}
