//! `farshore-agent journal …`: a gateway's journal by hand.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use farshore_gateway::by_hand::{self, ByHandError, Form};
use serde::Serialize;

use crate::fail;
use crate::settings::Output;

/// Damage was found, or is left.
const DAMAGED: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct JournalArgs {
    #[command(subcommand)]
    verb: JournalVerb,
}

#[derive(Debug, Args)]
struct Folder {
    /// The journal's folder.
    #[arg(long, env = "LOCAL_DB_PATH", default_value = "./data/edge_gateway.db")]
    journal: PathBuf,
}

#[derive(Debug, Subcommand)]
enum JournalVerb {
    /// Say what lies in the journal: streams, numbers, bytes, losses. The gateway may be running.
    Inspect {
        #[command(flatten)]
        folder: Folder,
        #[arg(short, long, default_value = "text")]
        output: Output,
    },
    /// Read every file down to its last point. Ends with 3 when something is damaged.
    Fsck {
        #[command(flatten)]
        folder: Folder,
        /// Set aside what is damaged, keep what can be read of it, and put the loss on record. The gateway must not be running.
        #[arg(long)]
        repair: bool,
        #[arg(short, long, default_value = "text")]
        output: Output,
    },
    /// Write what waits to a file; the journal keeps it.
    Export {
        #[command(flatten)]
        folder: Folder,
        /// batches: sealed and encrypted, the gateway must not be running; points: JSON, one point a line, in the clear.
        #[arg(long, default_value = "batches")]
        form: FormArg,
        /// Only this stream; may be given again.
        #[arg(long = "stream")]
        streams: Vec<String>,
        /// The file to write; it must not be there yet. `-` for standard output.
        #[arg(long)]
        out: PathBuf,
        #[arg(short, long, default_value = "text")]
        output: Output,
    },
    /// Put the points of an export into the journal, under new numbers in a new epoch. The gateway must not be running.
    Import {
        /// The export.
        file: PathBuf,
        #[command(flatten)]
        folder: Folder,
        /// The file of the device's key with which batches were sealed, when it is not this journal's.
        #[arg(long)]
        key: Option<PathBuf>,
        #[arg(short, long, default_value = "text")]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormArg {
    Batches,
    Points,
}

/// What is to be done, checked.
#[derive(Debug)]
pub(crate) enum JournalWork {
    Inspect {
        folder: PathBuf,
        output: Output,
    },
    Fsck {
        folder: PathBuf,
        repair: bool,
        output: Output,
    },
    Export {
        folder: PathBuf,
        form: Form,
        streams: Vec<farshore_gateway::StreamName>,
        out: PathBuf,
        output: Output,
    },
    Import {
        file: PathBuf,
        folder: PathBuf,
        key: Option<PathBuf>,
        output: Output,
    },
}

impl JournalArgs {
    pub(crate) fn validate(self) -> Result<JournalWork, Vec<String>> {
        Ok(match self.verb {
            JournalVerb::Inspect { folder, output } => {
                JournalWork::Inspect { folder: folder.journal, output }
            }
            JournalVerb::Fsck { folder, repair, output } => {
                JournalWork::Fsck { folder: folder.journal, repair, output }
            }
            JournalVerb::Export { folder, form, streams, out, output } => {
                let (mut names, mut errors) = (Vec::new(), Vec::new());
                for text in streams {
                    match text.parse() {
                        Ok(name) => names.push(name),
                        Err(error) => errors.push(format!("--stream {text}: {error}")),
                    }
                }
                if !errors.is_empty() {
                    return Err(errors);
                }
                let form = match form {
                    FormArg::Batches => Form::Batches,
                    FormArg::Points => Form::Points,
                };
                JournalWork::Export { folder: folder.journal, form, streams: names, out, output }
            }
            JournalVerb::Import { file, folder, key, output } => {
                JournalWork::Import { file, folder: folder.journal, key, output }
            }
        })
    }
}

fn show(output: Output, value: &impl Serialize, text: &str) {
    match output {
        Output::Text => print!("{text}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(value).unwrap_or_default()),
    }
}

pub(crate) fn start(work: JournalWork) -> ExitCode {
    match run(work) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn run(work: JournalWork) -> Result<ExitCode, ByHandError> {
    match work {
        JournalWork::Inspect { folder, output } => {
            let inspection = by_hand::inspect(&folder)?;
            show(output, &inspection, &inspection.text());
        }
        JournalWork::Fsck { folder, repair, output } => {
            let checked = by_hand::check(&folder, repair)?;
            show(output, &checked, &checked.text());
            if !checked.is_sound() {
                return Ok(ExitCode::from(DAMAGED));
            }
        }
        JournalWork::Export { folder, form, streams, out, output } => {
            let exported = by_hand::export(&folder, form, &streams, &out)?;
            let damaged = match exported.damaged_points {
                0 => String::new(),
                points => format!("; {points} points could not be read"),
            };
            let what = match form {
                Form::Batches => format!("{} batches with {} points", exported.batches, exported.points),
                Form::Points => format!("{} points", exported.points),
            };
            let text = format!("{what}, {} bytes{damaged}\n", exported.bytes);
            // What was exported may stand on standard output.
            if out == std::path::Path::new("-") {
                eprint!("{text}");
            } else {
                show(output, &exported, &text);
            }
        }
        JournalWork::Import { file, folder, key, output } => {
            let imported = by_hand::import(&folder, &file, key.as_deref())?;
            let left_out = match imported.left_out {
                0 => String::new(),
                points => format!("; {points} points about losses of the other journal were left out"),
            };
            let text = format!(
                "{} points in {}, epoch {}{left_out}\n",
                imported.points,
                imported.streams.join(", "),
                imported.epoch
            );
            show(output, &imported, &text);
        }
    }
    Ok(ExitCode::SUCCESS)
}
