//! `farshore explain`: the chain of reasons of a device or a rollout.

use std::fmt::Write as _;

use clap_complete::engine::ArgValueCompleter;
use farshore_api::why::{Cause, Explanation};
use farshore_domain::time::UnixMs;
use serde_json::Value;

use crate::cli::Session;
use crate::client::typed;
use crate::failure::{Failure, Result};
use crate::kind::{Selection, select};
use crate::output::cell::clean;
use crate::output::time::{age, both};
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// device/NAME or rollout/NAME; several are fine
    #[arg(required = true, value_name = "TYPE/NAME", add = ArgValueCompleter::new(crate::complete::objects))]
    what: Vec<String>,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let Selection::Objects(objects) = select(&arguments.what)? else {
        return Err(Failure::usage("say what to explain").next("farshore explain device/NAME"));
    };
    if let Some((kind, name)) = objects.iter().find(|(kind, _)| !matches!(kind.kind, "Device" | "Rollout")) {
        return Err(Failure::usage(format!("can't explain {}/{name}", kind.singular))
            .why("devices and rollouts are explained")
            .next(format!("farshore describe {}/{name}", kind.singular)));
    }
    let client = session.client()?;
    for (index, (kind, name)) in objects.iter().enumerate() {
        let what = format!("can't explain {} {name}", kind.singular);
        let object: Value = client.get(&what, &format!("{}/why", kind.path_of(name)), &[]).await?;
        match session.output.format {
            Format::Table | Format::Wide => {
                let explanation: Explanation = typed("can't read the explanation", object)?;
                if index > 0 {
                    output::print("\n")?;
                }
                output::print(&text(kind.singular, &explanation, crate::clock::now()))?;
            }
            Format::Name => output::print(&format!("{}/{name}\n", kind.singular))?,
            Format::Yaml => output::print(&output::yaml(&object)?)?,
            Format::Ndjson => output::print(&format!("{object}\n"))?,
            Format::Json => output::print(&format!("{}\n", output::pretty(&object)?))?,
        }
    }
    Ok(())
}

/// The subject, then one line for each link, with who has to act until when, and where to look further, below it.
fn text(kind: &str, explanation: &Explanation, now: UnixMs) -> String {
    let mut text = format!("{kind}/{}\n", explanation.subject.name);
    for cause in &explanation.chain {
        let since = cause.since.map_or_else(String::new, |since| format!(", {} ago", age(since, now)));
        _ = writeln!(text, "  {} ({}{since})", clean(&cause.message), clean(&cause.code));
        let more = more(cause, now);
        if !more.is_empty() {
            _ = writeln!(text, "    {more}");
        }
    }
    text
}

fn more(cause: &Cause, now: UnixMs) -> String {
    let owner = cause.owner.map(|owner| format!("waits for the {owner}"));
    let deadline = cause.deadline.map(|deadline| format!("until {}", both(deadline, now)));
    let link = cause.link.as_ref().map(|link| format!("see {}", clean(link)));
    [owner, deadline, link].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
