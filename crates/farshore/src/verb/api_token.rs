//! `farshore api-token`: what programs log in with.

use farshore_api::access::ApiTokenSpec;
use farshore_api::{NewMetadata, NewObject};
use farshore_domain::access::RoleName;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;

use crate::cli::Session;
use crate::failure::Result;
use crate::kind::{check_name, find};
use crate::output::cell::text_at;
use crate::output::time::parse_seconds;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make an API token; prints it on stdout
    Create {
        name: Name,
        /// What it may do: viewer, operator, security-analyst, finops, tenant-admin
        #[arg(long)]
        role: RoleName,
        /// How long it can be used
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = parse_seconds)]
        lifetime: u64,
    },
    /// List the API tokens
    List,
    /// Make an API token useless from now on
    Delete { name: String },
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    let kind = find("api-token")?;
    match arguments.verb {
        Verb::List => session.output.list(kind, &super::get::fetch(&client, kind, &[], None).await?),
        Verb::Delete { name } => {
            let name = check_name(&name)?;
            client.delete(&format!("can't delete API token {name}"), &kind.path_of(&name)).await?;
            output::print(&format!("api-token/{name} deleted\n"))
        }
        Verb::Create { name, role, lifetime } => {
            let token = NewObject {
                api_version: None,
                kind: None,
                metadata: NewMetadata { name, labels: Labels::default(), managed_by: None },
                spec: ApiTokenSpec { role, lifetime_seconds: lifetime },
            };
            let object = client.post("can't make an API token", kind.path, &token).await?;
            match session.output.format {
                Format::Table | Format::Wide => {
                    output::print(&format!("{}\n", text_at(&object, "/status/token")))?;
                    eprintln!(
                        "This is shown once. Use it as FARSHORE_TOKEN, or: farshore login URL --token TOKEN"
                    );
                    Ok(())
                }
                _ => session.output.object(kind, &object),
            }
        }
    }
}
