//! `farshore delete`.

use clap_complete::engine::ArgValueCompleter;

use crate::cli::Session;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{Selection, select};
use crate::output::{self, Format};
use crate::verb::apply::{Source, read_documents};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "TYPE/NAME", required_unless_present = "file", add = ArgValueCompleter::new(crate::complete::objects))]
    what: Vec<String>,
    /// Delete what these files describe; '-' is stdin
    #[arg(short, long = "filename", value_name = "FILE", conflicts_with = "what")]
    file: Vec<Source>,
    /// Go on when one is not there
    #[arg(long)]
    ignore_not_found: bool,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let objects = if arguments.file.is_empty() {
        match select(&arguments.what)? {
            Selection::Objects(objects) => objects,
            Selection::Kinds(kinds) => {
                let kind = kinds.first().map_or("device", |kind| kind.singular);
                return Err(
                    Failure::usage("say which ones to delete").next(format!("farshore delete {kind} NAME"))
                );
            }
        }
    } else {
        let mut objects: Vec<_> = read_documents(&arguments.file)?
            .into_iter()
            .map(|document| (document.kind, document.name))
            .collect();
        // What refers to others goes first.
        objects.reverse();
        objects
    };
    let client = session.client()?;
    for (kind, name) in objects {
        let what = format!("can't delete {} {name}", kind.singular);
        match client.delete(&what, &kind.path_of(&name)).await {
            Ok(_) => {
                let done = if kind.kind == "Device" { "decommissioned" } else { "deleted" };
                let line = match session.output.format {
                    Format::Name => format!("{}/{name}\n", kind.singular),
                    _ => format!("{}/{name} {done}\n", kind.singular),
                };
                output::print(&line)?;
            }
            Err(failure) if failure.exit() == Exit::NotFound && arguments.ignore_not_found => {
                eprintln!("{}/{name} is not there", kind.singular);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
