//! The post-mortem of an incident: everything that is known filled in, the rest asked for.

use std::fmt::Write as _;

use farshore_api::event::Event;
use farshore_domain::time::UnixMs;
use farshore_store::incidents::IncidentRow;

/// What it is written from.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) incident: &'a IncidentRow,
    pub(super) rollout: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) events: &'a [Event],
    pub(super) samples: usize,
    pub(super) parts: &'a [(&'a str, UnixMs)],
    pub(super) kernel_events: usize,
    pub(super) now: UnixMs,
}

/// At most this many lines of the timeline.
const MAX_LINES: usize = 200;

fn time(at: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |time| time.to_string())
}

fn took(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// One line, in which nothing is taken for Markdown.
fn plain(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars().take(500) {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' => {
                line.push('\\');
                line.push(c);
            }
            _ => line.push(c),
        }
    }
    line
}

/// Writes it.
pub(super) fn write(about: &About<'_>) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = compose(&mut text, about);
    text
}

fn compose(text: &mut String, about: &About<'_>) -> std::fmt::Result {
    let incident = about.incident;
    let app = if incident.app.is_empty() { "the device" } else { incident.app.as_str() };
    writeln!(text, "# Post-mortem: {} on {} ({})\n", plain(app), incident.device_name, incident.name)?;
    writeln!(text, "| | |\n|---|---|")?;
    let mut row = |name: &str, value: String| writeln!(text, "| {name} | {value} |");
    row("Device", format!("{} ({})", incident.device_name, incident.device))?;
    if !incident.location.is_empty() {
        row("Location", plain(&incident.location))?;
    }
    row("Cause", incident.cause.to_string())?;
    row("First sign", plain(&incident.message))?;
    row("Began", time(incident.started_at))?;
    row("Last sign", format!("{} ({} in all)", time(incident.last_at), incident.signs))?;
    match incident.ended_at.or(incident.resolved_at) {
        Some(at) => {
            row("Well again", format!("{} (after {})", time(at), took(at.since_ms(incident.started_at))))?
        }
        None => row("Well again", "not yet".to_owned())?,
    }
    if let Some(at) = incident.acknowledged_at {
        let after = took(at.since_ms(incident.started_at));
        row("Acknowledged", format!("{} by {} (after {after})", time(at), plain(&incident.acknowledged_by)))?;
    }
    if !incident.version.is_empty() {
        let key = about.key.map_or_else(String::new, |key| format!(", signed with key {}", plain(key)));
        row("Release", format!("{} {}{key}", plain(app), plain(&incident.version)))?;
    }
    row("Rollout", about.rollout.map_or_else(|| "none".to_owned(), plain))?;

    writeln!(text, "\n## What the device did by itself\n")?;
    if incident.actions.is_empty() {
        writeln!(text, "Nothing.")?;
    }
    for action in &incident.actions {
        let times = if action.count > 1 {
            format!(" ({} times, last {})", action.count, time(action.last_at))
        } else {
            String::new()
        };
        writeln!(text, "- {} **{}**{times}: {}", time(action.at), action.kind, plain(&action.message))?;
    }
    if !incident.history.is_empty() {
        writeln!(text, "\n## What people did\n")?;
        for note in &incident.history {
            writeln!(
                text,
                "- {} {} by {}: {}",
                time(note.at),
                note.did,
                plain(&note.by),
                plain(&note.comment)
            )?;
        }
    }

    writeln!(text, "\n## Timeline\n")?;
    let skipped = about.events.len().saturating_sub(MAX_LINES);
    if skipped > 0 {
        writeln!(text, "{skipped} earlier events are in `events.json`.\n")?;
    }
    for event in about.events.iter().skip(skipped) {
        writeln!(text, "- {} `{}` {}", time(event.at), event.kind, plain(&event.message))?;
    }
    if about.events.is_empty() {
        writeln!(text, "No events were kept.")?;
    }

    writeln!(text, "\n## Evidence in this archive\n")?;
    writeln!(text, "- `metrics.csv`: {} samples of the host, from ten minutes before", about.samples)?;
    writeln!(text, "- `kernel-events.json`: {} events of the kernel", about.kernel_events)?;
    for (part, at) in about.parts {
        writeln!(text, "- `logs/{part}.log`: the end of the app's log at {}", time(*at))?;
    }
    if about.parts.is_empty() {
        writeln!(text, "- no black box has come from the device yet")?;
    }
    writeln!(
        text,
        "- `release.json`, `rollout.json`, `policy.json`, `reasons.json`, `device.json`, `incident.json`: those there are, as they were when this was made\n"
    )?;
    for (title, ask) in [
        ("Impact", "Who noticed it, and what could they not do?"),
        ("Root cause", "Why did it happen? Why was it not found before the rollout?"),
        ("What went well", "What limited it?"),
        ("What to change", "- [ ] what, who, until when"),
    ] {
        writeln!(text, "## {title}\n\n{ask}\n")?;
    }
    writeln!(text, "Made {} by Farshore {}.", time(about.now), env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_says_is_no_markdown() {
        assert_eq!(plain("a|b\n# <script> `x` [y](z)"), r"a\|b \# \<script\> \`x\` \[y\](z)");
        assert_eq!(
            (took(61_000), took(200_000), took(9_000_000)),
            ("61 s".to_owned(), "3 min 20 s".to_owned(), "2 h 30 min".to_owned())
        );
    }
}
