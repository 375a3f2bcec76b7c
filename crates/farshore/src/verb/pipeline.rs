//! `farshore pipeline`: pipelines of gateways, looked at before they are rolled out, set, and as they stand on a device.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;
use farshore_api::pipeline::{DevicePipelines, PipelinesState};
use farshore_gateway::pipeline::{Context, Definition, Output, RecordedSeries, Trial};
use serde_json::{Value, json};

use super::apply::{self, Document};
use crate::cli::Session;
use crate::client::typed;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output::cell::clean;
use crate::output::time::{age, parse_seconds};
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
    /// Set the pipelines of gateways: of all, of those with labels, or of one. The server refuses what is not good
    Set(Set),
    /// Show what a device is to run, what it runs, and how that stands
    Status {
        #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
        device: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// The file of pipelines
    file: PathBuf,
    /// Name of the config that holds them; the device's name with `pipelines-` before it when left out
    #[arg(long, required_unless_present = "device")]
    name: Option<String>,
    /// Gateways with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "device")]
    selector: Option<String>,
    /// This gateway only
    #[arg(short, long, add = ArgValueCompleter::new(crate::complete::devices))]
    device: Option<String>,
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
        Verb::Set(set) => set_config(session, set).await,
        Verb::Status { device } => status(session, &device).await,
    }
}

/// Whether a text is pipelines that a gateway can run; if not, why. The control plane checks by it, too.
pub(crate) fn check(text: &str) -> std::result::Result<(), String> {
    Definition::parse(text).map(drop).map_err(|error| error.to_string())
}

async fn set_config(session: &Session, set: Set) -> Result<()> {
    let text = read(&set.file)?;
    check(&text).map_err(|error| Failure::usage(format!("{}: {error}", set.file.display())))?;
    let kind = find("config")?;
    let device = set.device.as_deref().map(|name| name.strip_prefix("device/").unwrap_or(name));
    let name = match (set.name, device) {
        (Some(name), _) => name,
        (None, device) => format!("pipelines-{}", device.unwrap_or_default()),
    };
    let name = check_name(&name)?;
    let client = session.client()?;
    // What else a config of that name says stays, and whom it is for, unless that is said anew.
    let current = match super::get::one(&client, kind, &name).await {
        Ok(current) => Some(current),
        Err(failure) if failure.exit() == crate::exit::Exit::NotFound => None,
        Err(failure) => return Err(failure),
    };
    let spec = current.as_ref().and_then(|current| current.get("spec").cloned());
    let mut spec = spec.unwrap_or_else(|| json!({"values": {}}));
    spec["gateway"] = json!({"pipelines": text});
    let scope = [("selector", set.selector.as_deref()), ("device", device)];
    if scope.iter().any(|(_, value)| value.is_some()) {
        for (field, value) in scope {
            // A config is for one or the other.
            spec[field] = value.map_or(Value::Null, Value::from);
        }
    }
    let labels = current.as_ref().and_then(|current| current.pointer("/metadata/labels").cloned());
    let mut metadata = json!({"name": name});
    if let Some(labels) = labels {
        metadata["labels"] = labels;
    }
    let body = json!({"metadata": metadata, "spec": spec});
    let document = Document::of(set.file.display().to_string(), kind, name.clone(), body);
    let (outcome, object) = apply::apply(&client, &document).await?;
    match session.output.format {
        Format::Table | Format::Wide => {
            output::print(&format!("{}/{name} {}\n", kind.singular, outcome.word()))
        }
        _ => session.output.changed(kind, &object),
    }
}

async fn status(session: &Session, device: &str) -> Result<()> {
    let device = check_name(device.strip_prefix("device/").unwrap_or(device))?;
    let path = format!("{}/pipelines", find("device")?.path_of(&device));
    let what = format!("can't get the pipelines of device {device}");
    let answer = session.client()?.get(&what, &path, &[]).await?;
    match session.output.format {
        Format::Json => output::print(&format!("{}\n", output::pretty(&answer)?)),
        Format::Yaml => output::print(&output::yaml(&answer)?),
        Format::Ndjson => output::print(&format!("{answer}\n")),
        Format::Name => output::print(&format!("device/{device}\n")),
        Format::Table | Format::Wide => output::print(&shown(session, &typed(&what, answer)?)),
    }
}

fn shown(session: &Session, pipelines: &DevicePipelines) -> String {
    let now = crate::clock::now();
    let mut text = String::new();
    let wanted = pipelines.wanted.as_ref();
    let config =
        wanted.map(|wanted| format!("config/{} (version {})", wanted.config, wanted.resource_version));
    let config = config.unwrap_or_default();
    text.push_str(&match pipelines.state {
        PipelinesState::None => "no pipelines are set for this device\n".to_owned(),
        PipelinesState::Own => {
            "no pipelines are set for this device; it runs what it has of its own\n".to_owned()
        }
        PipelinesState::Running => format!("runs the pipelines of {config}\n"),
        PipelinesState::Refused => format!("does not take the pipelines of {config}\n"),
        PipelinesState::Pending if wanted.is_none() => {
            "no pipelines are set for this device any more; it has not heard of that yet\n".to_owned()
        }
        PipelinesState::Pending => format!("has not told yet that it has the pipelines of {config}\n"),
        PipelinesState::Unknown => "stands as this version can't tell\n".to_owned(),
    });
    if let Some(running) = &pipelines.running {
        for (what, why) in [
            ("not taken", running.refused.as_ref().map(|refused| &refused.why)),
            ("trouble", running.trouble.as_ref()),
        ] {
            if let Some(why) = why {
                text.push_str(&format!("{what}: {}\n", clean(why)));
            }
        }
        text.push_str(&format!(
            "{} points processed, {} wait, {} came too late, {} dropped; alerts: {} raised, {} ended; {} messages, {} calls ({} failed); {} points written\n",
            running.points,
            running.backlog,
            running.late,
            running.dropped,
            running.alerts_raised,
            running.alerts_cleared,
            running.messages,
            running.calls,
            running.calls_failed,
            running.written
        ));
        let titles = ["PIPELINE", "STEP", "IN", "OUT", "LATE", "DROPPED", "RAISED", "OPEN WINDOWS"];
        let rows: Vec<Vec<String>> = running
            .pipelines
            .iter()
            .flat_map(|pipeline| pipeline.steps.iter().map(move |step| (pipeline, step)))
            .map(|(pipeline, step)| {
                let counts =
                    [step.taken, step.passed, step.late, step.dropped, step.raised, step.open_windows];
                [clean(&pipeline.name), clean(&step.kind)]
                    .into_iter()
                    .chain(counts.map(|count| count.to_string()))
                    .collect()
            })
            .collect();
        if !rows.is_empty() {
            text.push_str(&session.output.rows(Some(titles.map(str::to_owned).to_vec()), rows));
        }
        if running.steps_left_out > 0 {
            text.push_str(&format!("{} more steps\n", running.steps_left_out));
        }
    }
    match pipelines.reported_at {
        Some(at) => text.push_str(&format!("its gateway was heard {} ago\n", age(at, now))),
        None => text.push_str("its gateway was never heard\n"),
    }
    text
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
