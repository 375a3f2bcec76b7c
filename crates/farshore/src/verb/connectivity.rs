//! How a device stood to its control plane, as `describe` shows it.

use std::fmt::Write as _;

use farshore_api::device::{ConnectivitySpan, DeviceConnectivity};
use farshore_domain::connectivity::Connectivity;
use farshore_domain::time::{HOUR_MS, UnixMs};

use crate::client::{Client, typed};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::cell::{Look, clean, state};
use crate::output::time::{age, exact, span};

/// So much of the past is one character of the strip.
const CELL_MS: i64 = 3 * HOUR_MS;
/// So many outages are told one by one.
const TOLD: usize = 5;

/// The lines about a device; nothing where the control plane is older than this command.
pub(super) async fn lines(client: &Client, device: &str, look: Look) -> Result<String> {
    let path = format!("/api/devices/{device}/connectivity");
    match client.get("can't read the connectivity", &path, &[("days", "7".to_owned())]).await {
        Ok(told) => Ok(shown(&typed("can't read the connectivity", told)?, look)),
        Err(failure) if matches!(failure.exit(), Exit::NotFound | Exit::NotAllowed) => Ok(String::new()),
        Err(failure) => Err(failure),
    }
}

fn shown(told: &DeviceConnectivity, look: Look) -> String {
    let mut text = String::new();
    let since = told.since.map_or_else(String::new, |since| format!(" for {}", age(since, told.to)));
    let message = if told.message.is_empty() { String::new() } else { format!(": {}", clean(&told.message)) };
    _ = writeln!(text, "Connectivity:  {}{since}{message}", state(told.state.word(), look));
    let Some(share) = told.online_share else { return text };
    let outages = match told.outages {
        1 => "1 outage".to_owned(),
        count => format!("{count} outages"),
    };
    _ = writeln!(text, "  online {:.2} % of the last 7 days, as far as known; {outages}", share * 100.0);
    _ = writeln!(
        text,
        "  [{}] # online, - partly, ! not, . not known",
        strip(&told.spans, told.from, told.to)
    );
    let away: Vec<_> = told.spans.iter().filter(|span| span.state != Connectivity::Online).collect();
    for one in away.iter().rev().take(TOLD) {
        let said = if one.message.is_empty() { String::new() } else { format!(": {}", clean(&one.message)) };
        let lasted = span(one.to.since_ms(one.from));
        _ = writeln!(text, "  {} {} for {lasted}{said}", exact(one.from), one.state.word());
    }
    text
}

/// One character for each stretch of three hours, the newest last.
fn strip(spans: &[ConnectivitySpan], from: UnixMs, to: UnixMs) -> String {
    let mut text = String::new();
    let mut begin = from;
    while begin < to {
        let end = begin.plus_ms(CELL_MS).min(to);
        let (mut known, mut online) = (0, 0);
        for span in spans.iter().filter(|span| span.state != Connectivity::Unknown) {
            let length = span.to.min(end).since_ms(span.from.max(begin)).max(0);
            known += length;
            online += if span.state == Connectivity::Online { length } else { 0 };
        }
        text.push(match (known, online) {
            (0, _) => '.',
            (known, online) if known == online => '#',
            (_, 0) => '!',
            _ => '-',
        });
        begin = end;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strip_says_of_each_three_hours_how_they_were() {
        let at = |hours: i64| UnixMs(hours * HOUR_MS);
        let span = |from: i64, to: i64, state| ConnectivitySpan {
            from: at(from),
            to: at(to),
            state,
            message: "no such\u{1b}[2J name".to_owned(),
        };
        let spans = vec![
            span(3, 7, Connectivity::Online),
            span(7, 13, Connectivity::Dns),
            span(13, 15, Connectivity::Online),
        ];
        assert_eq!(strip(&spans, at(0), at(15)), ".#-!-");
        let told = DeviceConnectivity {
            state: Connectivity::Online,
            since: Some(at(13)),
            message: String::new(),
            from: at(0),
            to: at(15),
            online_share: Some(0.5),
            outages: 1,
            spans,
            truncated: false,
        };
        let text = shown(&told, Look { marks: false, colour: false });
        assert!(text.starts_with("Connectivity:  online for 2h\n  online 50.00 % of"), "{text}");
        assert!(text.contains("dns for 6h: no such") && !text.contains('\u{1b}'), "{text}");
    }
}
