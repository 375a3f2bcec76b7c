//! `farshore incident`: acknowledge, resolve, and get the evidence.

use std::path::PathBuf;

use farshore_api::incident::IncidentAction;
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::cli::Session;
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Say that somebody looks after it
    Ack(Target),
    /// Say that it is over
    Resolve(Target),
    /// Get everything that is known about it as one archive (tar.gz)
    Evidence {
        incident: String,
        /// Where to write it; INCIDENT.tar.gz when left out
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Replace a file that is there
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Target {
    incident: String,
    /// Why; kept with the incident
    #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
    comment: String,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        Verb::Ack(target) => change(session, &client, &target, "acknowledge").await,
        Verb::Resolve(target) => change(session, &client, &target, "resolve").await,
        Verb::Evidence { incident, file, force } => evidence(&client, &incident, file, force).await,
    }
}

async fn change(session: &Session, client: &Client, target: &Target, verb: &str) -> Result<()> {
    let name = check_name(&target.incident)?;
    let body = IncidentAction { comment: target.comment.clone() };
    let what = format!("can't {verb} incident {name}");
    let changed = client.post(&what, &format!("/api/incidents/{name}:{verb}"), &body).await?;
    session.output.changed(find("incident")?, &changed)
}

/// Written beside its place and renamed, so that half an archive never looks like one.
async fn evidence(client: &Client, incident: &str, file: Option<PathBuf>, force: bool) -> Result<()> {
    let name = check_name(incident)?;
    let path = file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    if !force && path.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} is there already", path.display()))
            .why("--force replaces it"));
    }
    let what = format!("can't get the evidence of incident {name}");
    let response = client.download(&what, &format!("/api/incidents/{name}/evidence")).await?;
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let io = |error: &std::io::Error| Failure::because(format!("can't write {}", path.display()), error);
    let mut out = tokio::fs::File::create(&partial).await.map_err(|error| io(&error))?;
    let mut chunks = response.bytes_stream();
    let mut size = 0_u64;
    let written = async {
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Failure::because(what.clone(), &error))?;
            size += chunk.len() as u64;
            out.write_all(&chunk).await.map_err(|error| io(&error))?;
        }
        out.sync_all().await.map_err(|error| io(&error))
    };
    if let Err(failure) = written.await {
        // What is left of it is of no use; that it could not be removed says nothing new.
        let _ = tokio::fs::remove_file(&partial).await;
        return Err(failure);
    }
    tokio::fs::rename(&partial, &path).await.map_err(|error| io(&error))?;
    output::print(&format!("{} ({})\n", path.display(), crate::output::cell::bytes(size)))
}
