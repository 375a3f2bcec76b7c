//! `farshore rollout simulate`: how a rollout would go, before anything is started.

use std::fmt::Write as _;

use clap_complete::engine::ArgValueCompleter;
use farshore_api::forecast::{RolloutForecast, SimulateRequest};
use serde_json::Value;

use crate::cli::Session;
use crate::client::{Client, typed};
use crate::failure::Result;
use crate::kind::{check_name, find};
use crate::output::cell::{clean, percent};
use crate::output::time::{exact, span};
use crate::output::{self, Format, Output};

/// At most this many groups are shown.
const GROUPS: usize = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Simulate {
    #[arg(add = ArgValueCompleter::new(crate::complete::rollouts))]
    rollout: String,
    /// The same seed gives the same forecast
    #[arg(long)]
    seed: Option<u32>,
    /// Virtual rollouts, 1 to 200; as many as take about a second when left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200))]
    runs: Option<u32>,
    /// Show the turns of this many devices
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    devices: u32,
}

pub(crate) async fn run(session: &Session, client: &Client, simulate: Simulate) -> Result<()> {
    let name = check_name(simulate.rollout.strip_prefix("rollout/").unwrap_or(&simulate.rollout))?;
    let request = SimulateRequest {
        seed: simulate.seed,
        runs: simulate.runs,
        offset: None,
        limit: Some(simulate.devices),
    };
    let path = format!("{}:simulate", find("rollout")?.path_of(&name));
    let object: Value = client.post(&format!("can't simulate rollout {name}"), &path, &request).await?;
    match session.output.format {
        Format::Table | Format::Wide => {
            let forecast: RolloutForecast = typed("can't read the forecast", object)?;
            output::print(&text(&name, &forecast, &session.output))
        }
        Format::Name => output::print(&format!("rollout/{name}\n")),
        Format::Yaml => output::print(&output::yaml(&object)?),
        Format::Ndjson => output::print(&format!("{object}\n")),
        Format::Json => output::print(&format!("{}\n", output::pretty(&object)?)),
    }
}

fn after(seconds: Option<u32>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| span(i64::from(seconds) * 1_000))
}

fn small(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn titles(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

fn text(name: &str, answer: &RolloutForecast, out: &Output) -> String {
    let forecast = &answer.forecast;
    let mut text = format!(
        "rollout/{name}: {} devices, {} virtual rollouts from {}\n",
        forecast.devices,
        forecast.runs,
        exact(forecast.at)
    );
    _ = writeln!(
        text,
        "  succeeds in {} of them; takes {} (p50), {} (p90)",
        percent(forecast.finishes),
        after(forecast.finish_p50_seconds),
        after(forecast.finish_p90_seconds)
    );
    for ending in &forecast.endings {
        _ = writeln!(text, "  {} of them: {}", percent(ending.share), clean(&ending.how));
    }
    text.push('\n');
    text.push_str(&out.rows(
        titles(&["WAVE", "DEVICES", "STARTS P50", "P90", "ENDS P50", "P90", "FALSE HALT", "MISSED"]),
        forecast.waves.iter().map(|wave| {
            let error =
                |of: fn(&_) -> f64| wave.real_error.as_ref().map_or_else(String::new, |e| small(of(e)));
            vec![
                wave.wave.to_string(),
                wave.devices.to_string(),
                after(wave.starts_p50),
                after(wave.starts_p90),
                after(wave.ends_p50),
                after(wave.ends_p90),
                error(|error| error.false_halt),
                error(|error| error.missed),
            ]
        }),
    ));
    if !forecast.blocked.is_empty() {
        text.push('\n');
        text.push_str(&out.rows(
            titles(&["IN THE WAY", "DEVICES", "FROM", "FOR", "WHY"]),
            forecast.blocked.iter().map(|block| {
                vec![
                    clean(&block.code),
                    block.devices.to_string(),
                    exact(block.first_at),
                    after(Some(block.seconds)),
                    clean(&block.why),
                ]
            }),
        ));
    }
    text.push('\n');
    text.push_str(&out.rows(
        titles(&["MOST DOWN AT ONCE", "DEVICES", "OF"]),
        forecast.peak_down.iter().take(GROUPS).map(|peak| {
            let group = if peak.label.is_empty() {
                "the fleet".to_owned()
            } else {
                format!("{}={}", clean(&peak.label), clean(&peak.group))
            };
            vec![group, peak.devices.to_string(), peak.of.to_string()]
        }),
    ));
    text.push('\n');
    text.push_str(&out.rows(
        titles(&["IF THIS MANY FAIL", "HALTS", "TOUCHED P50", "P95"]),
        forecast.operating_characteristic.iter().map(|point| {
            vec![
                percent(point.failure_rate),
                small(point.halt_probability),
                point.devices_touched_p50.to_string(),
                point.devices_touched_p95.to_string(),
            ]
        }),
    ));
    text.push('\n');
    text.push_str(
        &out.rows(
            titles(&["DEVICE", "WAVE", "HAS IT AFTER ABOUT"]),
            forecast
                .assignments
                .iter()
                .map(|turn| vec![turn.name.to_string(), turn.wave.to_string(), after(turn.about_seconds)]),
        ),
    );
    let shown = forecast.assignments.len();
    if answer.assignments_total as usize > shown {
        _ = writeln!(text, "{shown} of {} devices; --devices shows more", answer.assignments_total);
    }
    text.push_str("\nTaken for granted:\n");
    for one in &forecast.assumptions {
        _ = writeln!(text, "  {}", clean(one));
    }
    let basis = &forecast.basis;
    let installs = match basis.install_times {
        0 => "no past install times: 45 s are assumed".to_owned(),
        times => format!("{times} past install times of {} devices", basis.devices_with_install_times),
    };
    _ = writeln!(text, "  {installs}; presence of {} devices is known", basis.devices_with_presence);
    text
}
