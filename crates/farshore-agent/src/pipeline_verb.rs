//! `farshore-agent pipeline …`: pipelines of the gateway, looked at before they run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use farshore_gateway::StreamName;
use farshore_gateway::decode::Precision;
use farshore_gateway::pipeline::{Context, Definition, Output as PipelineOutput, Trial, read_recording};
use serde_json::json;

use crate::settings::Output;

#[derive(Debug, Args)]
pub(crate) struct PipelineArgs {
    #[command(subcommand)]
    verb: PipelineVerb,
}

#[derive(Debug, Subcommand)]
enum PipelineVerb {
    /// Say whether a file of pipelines is good; where not, in which line.
    Check { file: PathBuf },
    /// Run pipelines over recorded points, and say what they would emit and raise. Nothing is sent anywhere.
    Test {
        file: PathBuf,
        /// Recorded points: JSON as the gateway takes it, or line protocol. `-` for standard input.
        #[arg(long)]
        input: PathBuf,
        /// The stream they are taken to come from.
        #[arg(long, default_value = "data/default")]
        stream: String,
        /// The unit of the times in line protocol.
        #[arg(long, default_value = "ns")]
        precision: Unit,
        /// A JSON file with `labels` and `twin`.
        #[arg(long, env = "PIPELINE_CONTEXT_FILE")]
        context: Option<PathBuf>,
        #[arg(short, long, default_value = "text")]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Unit {
    Ns,
    Us,
    Ms,
    S,
}

/// What is to be done, read and checked.
#[derive(Debug)]
pub(crate) enum PipelineWork {
    Checked(String),
    Test {
        definition: Definition,
        context: Context,
        stream: StreamName,
        recording: String,
        precision: Precision,
        output: Output,
    },
}

impl PipelineArgs {
    pub(crate) fn validate(self) -> Result<PipelineWork, Vec<String>> {
        match self.verb {
            PipelineVerb::Check { file } => {
                let definition = definition(&file).map_err(|error| vec![error])?;
                Ok(PipelineWork::Checked(format!("{} is good: {definition}", file.display())))
            }
            PipelineVerb::Test { file, input, stream, precision, context, output } => {
                let mut errors = Vec::new();
                let mut keep = |error: String| errors.push(error);
                let definition = definition(&file).map_err(&mut keep).ok();
                let recording = recorded(&input).map_err(&mut keep).ok();
                let known = match &context {
                    None => Some(Context::default()),
                    Some(path) => known(path).map_err(&mut keep).ok(),
                };
                let stream = stream.parse().map_err(|error| keep(format!("--stream: {error}"))).ok();
                let precision = match precision {
                    Unit::Ns => Precision::Nanoseconds,
                    Unit::Us => Precision::Microseconds,
                    Unit::Ms => Precision::Milliseconds,
                    Unit::S => Precision::Seconds,
                };
                match (definition, recording, known, stream) {
                    (Some(definition), Some(recording), Some(context), Some(stream)) => {
                        Ok(PipelineWork::Test { definition, context, stream, recording, precision, output })
                    }
                    _ => Err(errors),
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn recorded(path: &Path) -> Result<String, String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(|error| format!("--input: {error}"));
    }
    read(path)
}

fn definition(path: &Path) -> Result<Definition, String> {
    Definition::parse(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

fn known(path: &Path) -> Result<Context, String> {
    serde_json::from_str(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

pub(crate) fn start(work: PipelineWork) -> ExitCode {
    match work {
        PipelineWork::Checked(said) => println!("{said}"),
        PipelineWork::Test { definition, context, stream, recording, precision, output } => {
            let points = match read_recording(&recording, precision) {
                Ok(points) => points,
                Err(error) => {
                    eprintln!("farshore-agent: the recorded points can't be read: {error}");
                    return ExitCode::FAILURE;
                }
            };
            let mut trial = Trial::new(&definition, context);
            trial.feed(&stream, &points);
            trial.finish();
            let summary = trial.summary();
            match output {
                Output::Text => {
                    for one in trial.outputs() {
                        println!("{}", one.line());
                    }
                    print!("\n{}", summary.text());
                }
                Output::Json => {
                    let outputs: Vec<_> = trial.outputs().iter().map(PipelineOutput::json).collect();
                    println!("{}", json!({"outputs": outputs, "summary": summary}));
                }
            }
        }
    }
    ExitCode::SUCCESS
}
