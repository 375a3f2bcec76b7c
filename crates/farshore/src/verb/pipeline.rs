//! `farshore pipeline`: pipelines of gateways, looked at before they are rolled out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farshore_gateway::pipeline::{Context, Definition, Output, RecordedSeries, Trial};
use serde_json::{Value, json};

use crate::cli::Session;
use crate::failure::{Failure, Result};
use crate::output::time::parse_seconds;
use crate::output::{self, Format};

/// The server gives at most so many steps of a line.
const MAX_STEPS: u64 = 5_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Run pipelines over what a device has sent, and show what they would emit and raise. Changes nothing
    Plan(Plan),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    /// The file of pipelines
    file: PathBuf,
    /// The device whose readings are taken
    #[arg(short, long)]
    device: String,
    /// How far back
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_seconds)]
    since: u64,
    /// How much of the end to leave out
    #[arg(long, value_name = "TIME", default_value = "0", hide_default_value = true, value_parser = parse_seconds)]
    until: u64,
    /// One value (the last) is taken for each step; as short as the server gives when left out
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    step: Option<u64>,
    /// Only this measurement
    #[arg(short, long)]
    measurement: Option<String>,
    /// Only this stream of gateways: data/default
    #[arg(long)]
    stream: Option<String>,
    /// A JSON file with `labels` and `twin` of the device
    #[arg(long)]
    context: Option<PathBuf>,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    match arguments.verb {
        Verb::Plan(plan) => plan_over(session, plan).await,
    }
}

fn read(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

async fn plan_over(session: &Session, plan: Plan) -> Result<()> {
    let definition = Definition::parse(&read(&plan.file)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", plan.file.display())))?;
    let context: Context = match &plan.context {
        None => Context::default(),
        Some(path) => serde_json::from_str(&read(path)?)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?,
    };
    if plan.until >= plan.since {
        return Err(Failure::usage("--until leaves nothing of --since"));
    }
    let now = crate::clock::now();
    let back =
        |seconds: u64| now.0.saturating_sub(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000));
    let step = plan.step.unwrap_or((plan.since - plan.until).div_ceil(MAX_STEPS)).max(1);
    let mut query = vec![
        ("from", back(plan.since).to_string()),
        ("to", back(plan.until).to_string()),
        ("aggregate", "last".to_owned()),
        ("by", "series".to_owned()),
        ("device", plan.device),
        ("step", step.saturating_mul(1_000).to_string()),
    ];
    query.extend(plan.measurement.map(|value| ("measurement", value)));
    query.extend(plan.stream.map(|value| ("stream", value)));
    let range = session.client()?.get("can't read the series", "/api/series", &query).await?;
    let recorded = recorded(&range);
    let mut trial = Trial::new(&definition, context);
    trial
        .feed_recorded(&recorded)
        .map_err(|error| Failure::usage(format!("there is nothing to run the pipelines over: {error}")))?;
    trial.finish();
    let summary = trial.summary();
    match session.output.format {
        Format::Json | Format::Yaml => {
            let outputs: Vec<Value> = trial.outputs().iter().map(Output::json).collect();
            let plan = json!({"outputs": outputs, "summary": summary, "stepSeconds": step, "truncated": range["truncated"]});
            match session.output.format {
                Format::Yaml => output::print(&output::yaml(&plan)?)?,
                _ => output::print(&format!("{}\n", output::pretty(&plan)?))?,
            }
        }
        Format::Name | Format::Ndjson => {
            return Err(Failure::usage("a plan is shown as text, json or yaml"));
        }
        Format::Table | Format::Wide => {
            let mut text = String::new();
            for one in trial.outputs() {
                // Names and messages come from devices.
                text.push_str(&output::cell::clean(&one.line()));
                text.push('\n');
            }
            text.push('\n');
            text.push_str(&summary.text());
            output::print(&text)?;
            eprintln!("One value was taken for every {step} s of each series.");
        }
    }
    if range["truncated"] == true {
        eprintln!("There was more: select less, or take longer steps.");
    }
    Ok(())
}

/// The series of an answer, but for what gateways' pipelines wrote themselves.
fn recorded(range: &Value) -> Vec<RecordedSeries> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let mut recorded = Vec::new();
    for line in range["items"].as_array().into_iter().flatten() {
        let tags: BTreeMap<String, String> = line["tags"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect();
        let times = line["at"].as_array().into_iter().flatten().filter_map(Value::as_i64);
        let values = line["values"].as_array().into_iter().flatten().map(Value::as_f64);
        let points = times.zip(values).filter_map(|(at, value)| Some((at, value?))).collect();
        let stream = line["stream"].as_str().unwrap_or("data/default").to_owned();
        let (measurement, field) = (text(line, "measurement"), text(line, "field"));
        recorded.push(RecordedSeries { stream, measurement, field, tags, points });
    }
    recorded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_answer_are_series() {
        let range = json!({"items": [
            {"measurement": "t", "field": "value", "tags": {"room": "1"}, "stream": "data/a", "at": [1000, 2000], "values": [1.5, null]},
            {"measurement": "u", "field": "", "at": [1000], "values": [2]},
        ]});
        let recorded = recorded(&range);
        assert_eq!(recorded.len(), 2);
        assert_eq!(
            (recorded[0].stream.as_str(), recorded[0].points.as_slice()),
            ("data/a", &[(1000, 1.5)][..])
        );
        assert_eq!(
            (recorded[1].stream.as_str(), recorded[1].points.as_slice()),
            ("data/default", &[(1000, 2.0)][..])
        );
    }
}
