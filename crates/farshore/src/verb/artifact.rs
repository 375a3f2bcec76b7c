//! `farshore artifact push`.

use std::path::PathBuf;

use crate::cli::Session;
use crate::failure::Result;
use crate::kind::find;
use crate::output::{self, Format};
use crate::release::pack::measure;
use crate::release::upload::{Uploaded, upload};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Upload files; what is there already is not sent again
    Push {
        #[arg(required = true)]
        file: Vec<PathBuf>,
    },
    /// List the artifacts
    List,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        Verb::List => {
            let kind = find("artifact")?;
            session.output.list(kind, &super::get::fetch(&client, kind, &[], None).await?)
        }
        Verb::Push { file } => {
            for path in file {
                let file = measure(&path)?;
                let outcome = upload(&client, &file, false).await?;
                let word = if outcome == Uploaded::Present { "there already" } else { "uploaded" };
                match session.output.format {
                    Format::Table | Format::Wide => {
                        output::print(&format!("artifact/{} {word}\n", file.digest))?
                    }
                    Format::Name => output::print(&format!("artifact/{}\n", file.digest))?,
                    _ => output::print(&format!(
                        "{}\n",
                        serde_json::json!({"digest": file.digest, "size": file.size})
                    ))?,
                }
            }
            Ok(())
        }
    }
}
