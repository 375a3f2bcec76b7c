//! `farshore context`: servers one has logged in to.

use crate::cli::Session;
use crate::context::ContextFile;
use crate::failure::{Failure, Result};
use crate::kind::nearest;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the contexts
    List,
    /// Make a context the current one
    Use { name: String },
    /// Print the name of the current context
    Current,
    /// Forget a context; its session on the server stays until it expires
    Delete { name: String },
}

pub(crate) fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let path = session.server.path()?;
    let mut file = ContextFile::load(&path)?;
    match arguments.verb {
        Verb::List => return list(session, &file),
        Verb::Current => {
            let current = session.server.context.as_ref().or(file.current_context.as_ref());
            return match current {
                Some(name) => output::print(&format!("{name}\n")),
                None => {
                    Err(Failure::usage("there is no current context").next("farshore login https://SERVER"))
                }
            };
        }
        Verb::Use { name } => {
            known(&file, &name)?;
            eprintln!("Context {name:?} is the current one now.");
            file.current_context = Some(name);
        }
        Verb::Delete { name } => {
            known(&file, &name)?;
            file.contexts.retain(|context| context.name != name);
            if file.current_context.as_ref() == Some(&name) {
                file.current_context = None;
            }
            eprintln!("Forgot context {name:?}.");
        }
    }
    file.save(&path)
}

fn known(file: &ContextFile, name: &str) -> Result<()> {
    if file.get(name).is_some() {
        return Ok(());
    }
    let failure = Failure::usage(format!("there is no context {name:?}")).next("farshore context list");
    Err(match nearest(name, file.contexts.iter().map(|context| context.name.as_str())) {
        Some(near) => failure.why(format!("did you mean {near:?}?")),
        None => failure,
    })
}

/// Tokens are never listed.
fn list(session: &Session, file: &ContextFile) -> Result<()> {
    let is_current = |name: &str| file.current_context.as_deref() == Some(name);
    if session.output.is_for_people() {
        if file.contexts.is_empty() {
            eprintln!("No contexts. Next: farshore login https://SERVER");
            return Ok(());
        }
        let titles = ["CURRENT", "NAME", "SERVER", "TENANT", "LOGGED IN"].map(str::to_owned).to_vec();
        let rows = file.contexts.iter().map(|context| {
            vec![
                if is_current(&context.name) { "*" } else { "" }.to_owned(),
                context.name.clone(),
                context.server.clone(),
                context.tenant.clone().unwrap_or_default(),
                if context.token.is_some() { "yes" } else { "no" }.to_owned(),
            ]
        });
        return output::print(&session.output.rows(Some(titles), rows));
    }
    let items: Vec<_> = file
        .contexts
        .iter()
        .map(|context| {
            serde_json::json!({
                "name": context.name, "server": context.server, "tenant": context.tenant,
                "current": is_current(&context.name), "loggedIn": context.token.is_some(),
            })
        })
        .collect();
    match session.output.format {
        Format::Name => output::print(
            &file.contexts.iter().map(|context| format!("{}\n", context.name)).collect::<String>(),
        ),
        Format::Ndjson => output::print(&items.iter().map(|item| format!("{item}\n")).collect::<String>()),
        Format::Yaml => output::print(&output::yaml(&items.into())?),
        _ => output::print(&format!("{}\n", output::pretty(&items.into())?)),
    }
}
