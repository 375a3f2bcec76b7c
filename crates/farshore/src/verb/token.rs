//! `farshore token`: claim tokens.

use std::collections::BTreeMap;

use farshore_api::claim::ClaimTokenSpec;
use farshore_api::{NewMetadata, NewObject};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;

use crate::cli::Session;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
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
    /// Make a claim token; prints it on stdout, and what to type on the device on stderr
    Create(Create),
    /// List the claim tokens
    List,
    /// Make a claim token useless from now on
    Revoke {
        #[arg(required = true)]
        name: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// What to call it; chosen when left out
    name: Option<Name>,
    /// A label that devices claimed with it get; may come several times
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = super::parse_pair)]
    labels: Vec<(String, String)>,
    /// The channel that they get
    #[arg(long)]
    channel: Option<Name>,
    /// The location that they get
    #[arg(long, default_value = "", hide_default_value = true)]
    location: String,
    /// How long it can be used
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_seconds)]
    lifetime: u64,
    /// How many devices can be claimed with it
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    uses: u32,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    let kind = find("claim-token")?;
    match arguments.verb {
        Verb::List => {
            let list = super::get::fetch(&client, kind, &[], None).await?;
            session.output.list(kind, &list)
        }
        Verb::Revoke { name } => {
            for name in name {
                let name = check_name(&name)?;
                client.delete(&format!("can't revoke claim token {name}"), &kind.path_of(&name)).await?;
                output::print(&format!("claim-token/{name} revoked\n"))?;
            }
            Ok(())
        }
        Verb::Create(create) => {
            let what = "can't make a claim token";
            let labels: BTreeMap<_, _> = create.labels.into_iter().collect();
            let labels = Labels::new(labels).map_err(|error| Failure::usage(what).caused_by(&error))?;
            let name = match create.name {
                Some(name) => name,
                None => random_name("token")?,
            };
            let token = NewObject {
                api_version: None,
                kind: None,
                metadata: NewMetadata { name, labels: Labels::default(), managed_by: None },
                spec: ClaimTokenSpec {
                    labels,
                    channel: create.channel,
                    location: create.location,
                    lifetime_seconds: create.lifetime,
                    uses: create.uses,
                },
            };
            let object = client.post(what, kind.path, &token).await?;
            match session.output.format {
                Format::Table | Format::Wide => {
                    output::print(&format!("{}\n", text_at(&object, "/status/token")))?;
                    eprintln!(
                        "This is shown once. On the device, type:\n\n  {}\n",
                        text_at(&object, "/status/command")
                    );
                    let install = text_at(&object, "/status/install");
                    if !install.is_empty() {
                        eprintln!("Or, where the agent is not installed yet, paste:\n\n  {install}\n");
                    }
                    Ok(())
                }
                _ => session.output.object(kind, &object),
            }
        }
    }
}

/// A name that nobody has chosen.
pub(crate) fn random_name(prefix: &str) -> Result<Name> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    Name::new(format!("{prefix}-{}", random.get(..8).unwrap_or("0")))
        .map_err(|error| Failure::new(Exit::Failed, "can't choose a name").caused_by(&error))
}
