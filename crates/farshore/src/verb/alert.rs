//! `farshore alert` and `farshore silence`.

use farshore_api::alert::SilenceSpec;
use farshore_api::incident::IncidentAction;
use farshore_api::{NewMetadata, NewObject};
use farshore_domain::alert::Matcher;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;

use crate::cli::Session;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output;
use crate::output::time::parse_seconds;

#[derive(Debug, clap::Args)]
pub(crate) struct AlertArguments {
    #[command(subcommand)]
    verb: AlertVerb,
}

#[derive(Debug, clap::Subcommand)]
enum AlertVerb {
    /// Say that somebody looks after it
    Ack {
        /// Uid, as `farshore get alerts` shows it
        #[arg(required = true)]
        alert: Vec<String>,
        /// Why; kept with the alert
        #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// Send a message once more that nobody took
    Retry {
        /// Uid, as `farshore get alert-deliveries` shows it
        #[arg(required = true)]
        delivery: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct SilenceArguments {
    #[command(subcommand)]
    verb: SilenceVerb,
}

#[derive(Debug, clap::Subcommand)]
enum SilenceVerb {
    /// Tell nobody of alerts that match: silence create works --match location=Riga --for 2h
    Create {
        name: Name,
        /// A label of alerts and its value, or != for any other: location=Riga, device=kiosk-7, app!=web; all must match
        #[arg(long = "match", value_name = "LABEL=VALUE", required = true, value_parser = parse_matcher)]
        matchers: Vec<Matcher>,
        /// How long
        #[arg(long = "for", value_name = "TIME", default_value = "2h", value_parser = parse_seconds)]
        lasts: u64,
        /// Why
        #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
        comment: String,
    },
    /// End a silence
    Delete { name: String },
}

fn parse_matcher(text: &str) -> Result<Matcher, String> {
    let (name, value, is_equal) = match text.split_once("!=") {
        Some((name, value)) => (name, value, false),
        None => match text.split_once('=') {
            Some((name, value)) => (name, value, true),
            None => return Err("write LABEL=VALUE or LABEL!=VALUE".to_owned()),
        },
    };
    if name.is_empty() {
        return Err("write LABEL=VALUE or LABEL!=VALUE".to_owned());
    }
    Ok(Matcher { name: name.to_owned(), value: value.to_owned(), is_equal })
}

pub(crate) async fn alert(session: &Session, arguments: AlertArguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        AlertVerb::Ack { alert, comment } => {
            for id in alert {
                let id = check_name(&id)?;
                let body = IncidentAction { comment: comment.clone() };
                let path = format!("/api/alerts/{id}:acknowledge");
                let changed = client.post(&format!("can't acknowledge alert {id}"), &path, &body).await?;
                session.output.changed(find("alert")?, &changed)?;
            }
        }
        AlertVerb::Retry { delivery } => {
            for id in delivery {
                let id = check_name(&id)?;
                let path = format!("/api/alert-deliveries/{id}:retry");
                let changed =
                    client.post(&format!("can't send {id} again"), &path, &serde_json::json!({})).await?;
                session.output.changed(find("alert-delivery")?, &changed)?;
            }
        }
    }
    Ok(())
}

pub(crate) async fn silence(session: &Session, arguments: SilenceArguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        SilenceVerb::Create { name, matchers, lasts, comment } => {
            let lasts = i64::try_from(lasts).ok().and_then(|seconds| seconds.checked_mul(1_000));
            let lasts = lasts.ok_or_else(|| Failure::usage("--for is too long"))?;
            let ends_at = crate::clock::now().plus_ms(lasts);
            let body = NewObject {
                api_version: None,
                kind: None,
                metadata: NewMetadata { name, labels: Labels::default(), managed_by: None },
                spec: SilenceSpec { matchers, starts_at: None, ends_at, comment },
            };
            let made = client.post("can't create the silence", "/api/silences", &body).await?;
            session.output.changed(find("silence")?, &made)
        }
        SilenceVerb::Delete { name } => {
            let name = check_name(&name)?;
            client.delete(&format!("can't end silence {name}"), &format!("/api/silences/{name}")).await?;
            output::print(&format!("silence/{name} ended\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_read() {
        let read = |text| parse_matcher(text).map(|matcher| (matcher.name, matcher.value, matcher.is_equal));
        assert_eq!(read("location=Riga"), Ok(("location".to_owned(), "Riga".to_owned(), true)));
        assert_eq!(read("app!=web"), Ok(("app".to_owned(), "web".to_owned(), false)));
        assert!(read("location").is_err() && read("=x").is_err());
    }
}
