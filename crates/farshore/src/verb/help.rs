//! `farshore help` and `farshore version`.

use clap::CommandFactory as _;

use crate::cli::{Cli, Session};
use crate::exit;
use crate::failure::{Failure, Result};
use crate::kind::nearest;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A command, or exit-codes
    topic: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.topic.first().is_some_and(|topic| topic == "exit-codes") {
        return output::print(exit::HELP);
    }
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in &arguments.topic {
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        if !names.contains(word) {
            let failure = Failure::usage(format!("there is no help on {word:?}"));
            let near = nearest(word, names.iter().map(String::as_str).chain(["exit-codes"]));
            return Err(match near {
                Some(near) => failure.why(format!("did you mean {near:?}?")),
                None => failure.next("farshore help"),
            });
        }
        command = command
            .find_subcommand_mut(word)
            .ok_or_else(|| Failure::usage(format!("there is no help on {word:?}")))?;
    }
    output::print(&command.render_long_help().to_string())
}

pub(crate) fn version(session: &Session) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match session.output.format {
        Format::Json | Format::Ndjson => {
            output::print(&format!("{}\n", serde_json::json!({"version": version})))
        }
        Format::Yaml => output::print(&format!("version: {version}\n")),
        _ => output::print(&format!("farshore {version}\n")),
    }
}
