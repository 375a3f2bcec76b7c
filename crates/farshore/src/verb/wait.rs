//! `farshore wait`: until an object is in a state. Driven by events, not by asking again and again.

use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use farshore_domain::device::{Conformance, Health, Lifecycle, Reachability};
use farshore_domain::rollout::{Phase, WaveState};
use serde_json::Value;

use crate::cli::Session;
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{self, Kind, nearest};
use crate::output;
use crate::output::cell::text_at;
use crate::output::time::{parse_seconds, span};
use crate::watch::{Change, Watch};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// TYPE/NAME, such as device/kiosk-7 or rollout/edge-web-1-1
    #[arg(value_name = "TYPE/NAME", required = true, add = ArgValueCompleter::new(crate::complete::objects))]
    what: Vec<String>,
    /// What to wait for: a device's online, healthy, conforming, claimed or version=APP@VERSION; a rollout's succeeded,
    /// failed, paused or done; condition=TYPE[=STATUS]; exists; deleted
    #[arg(long = "for", value_name = "STATE")]
    wanted: String,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_seconds)]
    timeout: u64,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Exists,
    Deleted,
    /// One of a device's four states, at a JSON pointer.
    Word {
        pointer: &'static str,
        word: String,
    },
    Version {
        app: String,
        version: String,
    },
    /// Any phase that is final.
    Done,
    /// A gate of the rollout waits for people.
    Approval,
    Condition {
        kind: String,
        status: String,
    },
}

/// Where the object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Reached,
    NotYet,
    /// It ended otherwise, and will never be reached.
    Never(String),
}

impl Wanted {
    /// Reads the text for one kind.
    pub(crate) fn parse(kind: &Kind, text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "exists" => return Ok(Self::Exists),
            "deleted" | "delete" => return Ok(Self::Deleted),
            "done" if kind.kind == "Rollout" => return Ok(Self::Done),
            word if kind.kind == "Rollout" && word == WaveState::AwaitingApproval.word() => {
                return Ok(Self::Approval);
            }
            _ => {}
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, status) = condition.split_once('=').unwrap_or((condition, "True"));
            return Ok(Self::Condition { kind: name.to_owned(), status: status.to_owned() });
        }
        if let Some(version) = text.strip_prefix("version=") {
            return match version.split_once('@') {
                Some((app, version)) if kind.kind == "Device" => {
                    Ok(Self::Version { app: app.to_owned(), version: version.to_owned() })
                }
                _ => Err(Failure::usage(format!("can't wait for {text:?}"))
                    .why("write version=APP@VERSION, of a device")),
            };
        }
        let words = words(kind);
        if let Some((pointer, word)) = words.iter().find(|(_, word)| *word == lower) {
            return Ok(Self::Word { pointer, word: (*word).to_owned() });
        }
        let failure = Failure::usage(format!("a {} is never {text:?}", kind.singular));
        Err(match nearest(&lower, words.iter().map(|(_, word)| *word)) {
            Some(near) => failure.why(format!("did you mean {near:?}?")),
            None => failure.why(format!(
                "wait for exists, deleted, condition=TYPE{}",
                words.iter().map(|(_, word)| format!(", {word}")).collect::<String>()
            )),
        })
    }

    /// Judges an object; none when it is not there.
    pub(crate) fn judge(&self, object: Option<&Value>) -> Standing {
        let reached = |yes: bool| if yes { Standing::Reached } else { Standing::NotYet };
        let Some(object) = object else { return reached(*self == Self::Deleted) };
        let phase = text_at(object, "/status/summary/phase");
        let over = Phase::from_word(&phase).is_final();
        match self {
            Self::Exists => Standing::Reached,
            Self::Deleted => Standing::NotYet,
            Self::Done => reached(over),
            Self::Approval if over => Standing::Never(phase),
            Self::Approval => {
                let waves = object.pointer("/status/summary/waves").and_then(Value::as_array);
                let waits = |wave| text_at(wave, "/state") == WaveState::AwaitingApproval.word();
                reached(waves.into_iter().flatten().any(waits))
            }
            Self::Word { pointer, word } if text_at(object, pointer) == *word => Standing::Reached,
            Self::Word { pointer: "/status/summary/phase", .. } if over => Standing::Never(phase),
            Self::Word { pointer: "/status/lifecycle", .. } | Self::Version { .. }
                if text_at(object, "/status/lifecycle") == Lifecycle::Decommissioned.word() =>
            {
                Standing::Never("decommissioned".to_owned())
            }
            Self::Word { .. } => Standing::NotYet,
            Self::Version { app, version } => reached(
                object.pointer("/status/apps").and_then(Value::as_array).into_iter().flatten().any(|entry| {
                    text_at(entry, "/app") == *app
                        && text_at(entry, "/activeVersion") == *version
                        && entry.pointer("/committed").and_then(Value::as_bool) == Some(true)
                }),
            ),
            Self::Condition { kind, status } => reached(
                object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten().any(
                    |condition| {
                        text_at(condition, "/type").eq_ignore_ascii_case(kind)
                            && text_at(condition, "/status").eq_ignore_ascii_case(status)
                    },
                ),
            ),
        }
    }
}

fn words(kind: &Kind) -> Vec<(&'static str, &'static str)> {
    fn all<T: Copy>(
        pointer: &'static str,
        values: &[T],
        word: fn(T) -> &'static str,
    ) -> Vec<(&'static str, &'static str)> {
        values.iter().map(|value| (pointer, word(*value))).collect()
    }
    match kind.kind {
        "Device" => [
            all("/status/reachability", Reachability::ALL, Reachability::word),
            all("/status/health", Health::ALL, Health::word),
            all("/status/conformance", Conformance::ALL, Conformance::word),
            all("/status/lifecycle", Lifecycle::ALL, Lifecycle::word),
        ]
        .concat(),
        "Rollout" => all("/status/summary/phase", Phase::ALL, Phase::word),
        _ => Vec::new(),
    }
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let objects = match kind::select(&arguments.what)? {
        kind::Selection::Objects(objects) => objects,
        kind::Selection::Kinds(_) => {
            return Err(Failure::usage("say what to wait for").next("farshore wait device/NAME --for=online"));
        }
    };
    let client = session.client()?;
    let all = async {
        for (kind, name) in &objects {
            let wanted = Wanted::parse(kind, &arguments.wanted)?;
            until(&client, kind, name, &wanted).await?;
            output::print(&format!("{}/{name} {}\n", kind.singular, arguments.wanted))?;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(arguments.timeout), all).await.unwrap_or_else(|_| {
        let names: Vec<_> = objects.iter().map(|(kind, name)| format!("{}/{name}", kind.singular)).collect();
        Err(Failure::new(Exit::Pending, format!("{} is not {} yet", names.join(", "), arguments.wanted))
            .why(format!(
                "waited for {}",
                span(i64::try_from(arguments.timeout).unwrap_or(i64::MAX).saturating_mul(1000))
            ))
            .next(format!("farshore describe {}", names.first().map_or("", String::as_str))))
    })
}

/// Waits until the object is as wanted. A rollout that ends otherwise is [`Exit::RolloutFailed`].
pub(crate) async fn until(
    client: &Client,
    kind: &'static Kind,
    name: &str,
    wanted: &Wanted,
) -> Result<Option<Value>> {
    let mut watch = Watch::open(client, kind).await?;
    loop {
        let object = match super::get::one(client, kind, name).await {
            Ok(object) => Some(object),
            Err(failure)
                if failure.exit() == Exit::NotFound && matches!(wanted, Wanted::Deleted | Wanted::Exists) =>
            {
                None
            }
            // A device may be waited for before it is claimed.
            Err(failure) if failure.exit() == Exit::NotFound && kind.kind == "Device" => None,
            Err(failure) => return Err(failure),
        };
        match wanted.judge(object.as_ref()) {
            Standing::Reached => return Ok(object),
            Standing::Never(phase) => {
                let why = object
                    .as_ref()
                    .map(|object| text_at(object, "/status/summary/reasons/0/message"))
                    .unwrap_or_default();
                let exit = if kind.kind == "Rollout" { Exit::RolloutFailed } else { Exit::Failed };
                let failure = Failure::new(exit, format!("{} {name} ended as {phase}", kind.singular));
                let failure = if why.is_empty() { failure } else { failure.why(why) };
                return Err(failure.next(format!("farshore describe {}/{name}", kind.singular)));
            }
            Standing::NotYet => {}
        }
        let uid = object.as_ref().map(|object| text_at(object, "/metadata/uid"));
        loop {
            match watch.next().await? {
                // A keep-alive too: should an event ever be missed, the wait still ends.
                Change::Everything { .. } => break,
                Change::Object { uid: changed, name: changed_name } => {
                    if changed_name == name || changed == name || uid.as_deref() == Some(changed.as_str()) {
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: &str, text: &str) -> Wanted {
        Wanted::parse(kind::find(kind).unwrap(), text).unwrap()
    }

    #[test]
    fn a_rollout_that_ends_otherwise_will_never_be_as_wanted() {
        let rollout = |phase: &str| serde_json::json!({"status": {"summary": {"phase": phase}}});
        let succeeded = wanted("rollout", "Succeeded");
        assert_eq!(succeeded.judge(Some(&rollout("running"))), Standing::NotYet);
        assert_eq!(succeeded.judge(Some(&rollout("rolling-back"))), Standing::NotYet);
        assert_eq!(succeeded.judge(Some(&rollout("succeeded"))), Standing::Reached);
        assert_eq!(succeeded.judge(Some(&rollout("failed"))), Standing::Never("failed".into()));
        let gate = serde_json::json!({"status": {"summary": {"phase": "running",
            "waves": [{"state": "passed"}, {"state": "awaiting-approval"}]}}});
        let approval = wanted("rollout", "awaiting-approval");
        assert_eq!(approval.judge(Some(&gate)), Standing::Reached);
        assert_eq!(approval.judge(Some(&rollout("running"))), Standing::NotYet);
        assert_eq!(approval.judge(Some(&rollout("aborted"))), Standing::Never("aborted".into()));
        assert_eq!(wanted("rollout", "done").judge(Some(&rollout("aborted"))), Standing::Reached);
    }

    #[test]
    fn a_device_is_waited_for_by_any_of_its_four_states_and_by_its_version() {
        let device = serde_json::json!({"status": {"reachability": "online", "health": "healthy", "conformance": "converging",
            "lifecycle": "claimed", "apps": [{"app": "web", "activeVersion": "1.1", "committed": true}]}});
        for state in ["online", "Healthy", "converging", "claimed", "version=web@1.1", "exists"] {
            assert_eq!(wanted("device", state).judge(Some(&device)), Standing::Reached, "{state}");
        }
        for state in ["offline", "conforming", "version=web@1.0", "condition=Ready", "deleted"] {
            assert_eq!(wanted("device", state).judge(Some(&device)), Standing::NotYet, "{state}");
        }
        assert_eq!(wanted("device", "deleted").judge(None), Standing::Reached);
        assert_eq!(wanted("device", "online").judge(None), Standing::NotYet);
    }

    #[test]
    fn a_state_that_does_not_exist_is_a_usage_error_with_the_nearest_word() {
        let failure = Wanted::parse(kind::find("rollout").unwrap(), "succeded").unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.render(crate::output::Format::Table, false).contains("did you mean \"succeeded\"?"));
        assert!(Wanted::parse(kind::find("device").unwrap(), "succeeded").is_err());
    }
}
