//! `farshore rollout`: make, start, pause, resume, abort, watch.

use std::io::IsTerminal as _;
use std::str::FromStr;
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use farshore_api::rollout::{Rollout, RolloutAction};
use farshore_api::{NewMetadata, NewObject};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::release::slot::Activation;
use farshore_domain::rollout::{Amount, OnFailure, Phase, ReleaseRef, RolloutSpec, WaveSpec};
use farshore_domain::version::Version;
use indicatif::ProgressBar;
use serde_json::Value;

use crate::cli::Session;
use crate::client::{Client, typed};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output::cell::{Look, percent, state};
use crate::output::time::parse_seconds;
use crate::output::{self, Format};
use crate::watch::{Change, Watch};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a rollout and start it
    Create(Create),
    /// Show how a rollout would go: times, what stands in the way, what a bad release would do
    Simulate(super::forecast::Simulate),
    /// Start a rollout that was made with --no-start
    Start(Target),
    /// Start nothing more, until it is resumed
    Pause(Target),
    /// Go on
    Resume(Target),
    /// End a rollout
    Abort(Abort),
    /// End a rollout: every device that has the new release gets the old one back
    Rollback(Target),
    /// Let the gate open that waits for an approval
    Approve(Target),
    /// Say at a gate that the release is not good: the rollout ends
    Reject(Target),
    /// Go on without waiting for the rest of the wave
    SkipWave(Target),
    /// Let the devices that failed try again
    RetryFailed(Target),
    /// Let a release be rolled out again that failed, was rolled back or was rejected
    ReleaseHold(Target),
    /// Show how a rollout goes; ends with 6 when it failed
    Status(Status),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What to call it; APP-VERSION when left out
    #[arg(long)]
    name: Option<Name>,
    /// The app
    #[arg(long)]
    app: Name,
    /// The channel that is moved
    #[arg(long)]
    channel: Name,
    /// The version to move it to
    #[arg(long = "to", value_name = "VERSION")]
    to: Version,
    /// A wave: a cumulative percentage or count, and how long it must stay good: 5%, 25%:10m, 3:0s; may come several times
    #[arg(long, value_name = "SIZE[:SOAK]")]
    wave: Vec<WaveText>,
    /// The percentage of failures at which it halts
    #[arg(long, value_name = "PERCENT")]
    failure_threshold: Option<u8>,
    /// How many devices may change at once: 3 or 25%
    #[arg(long, value_name = "AMOUNT")]
    max_unavailable: Option<Amount>,
    /// How a device goes to the release; as its manifest says when left out: blue-green where it has slots
    #[arg(long, value_enum)]
    activation: Option<ActivationText>,
    /// What happens when it halts
    #[arg(long, value_enum)]
    on_failure: Option<OnFailureText>,
    /// Only make it; `rollout start` starts it
    #[arg(long, conflicts_with = "watch")]
    no_start: bool,
    /// Show how it goes until it ends
    #[arg(short, long)]
    watch: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnFailureText {
    Pause,
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ActivationText {
    /// Stop the old release, then start the new one
    Replace,
    /// Start and check the new release beside the old one, then switch
    BlueGreen,
}

/// `25%:10m`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WaveText(WaveSpec);

impl FromStr for WaveText {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (size, soak) = text.split_once(':').map_or((text, None), |(size, soak)| (size, Some(soak)));
        let mut wave = match size.parse::<Amount>().map_err(|error| error.to_string())? {
            Amount::Percent(percent) => WaveSpec::percent(percent),
            Amount::Count(count) => WaveSpec::count(count),
        };
        if let Some(soak) = soak {
            wave = wave
                .soak(u32::try_from(parse_seconds(soak)?).map_err(|_| "the soak is too long".to_owned())?);
        }
        Ok(Self(wave))
    }
}

#[derive(Debug, clap::Args)]
struct Target {
    #[arg(add = ArgValueCompleter::new(crate::complete::rollouts))]
    rollout: String,
    /// Why; kept in its history
    #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
    comment: String,
}

#[derive(Debug, clap::Args)]
struct Abort {
    #[command(flatten)]
    target: Target,
    /// Take every device that has the new release back to the old one
    #[arg(long)]
    rollback: bool,
}

#[derive(Debug, clap::Args)]
struct Status {
    #[arg(add = ArgValueCompleter::new(crate::complete::rollouts))]
    rollout: String,
    /// Go on until it ends
    #[arg(short, long)]
    watch: bool,
    /// With --watch: how long at most
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_seconds)]
    timeout: u64,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let client = session.client()?;
    match arguments.verb {
        Verb::Create(create) => run_create(session, &client, create).await,
        Verb::Simulate(simulate) => super::forecast::run(session, &client, simulate).await,
        Verb::Start(target) => action(session, &client, &target, "start", "started", false).await,
        Verb::Pause(target) => action(session, &client, &target, "pause", "paused", false).await,
        Verb::Resume(target) => action(session, &client, &target, "resume", "resumed", false).await,
        Verb::Abort(abort) => {
            let done = if abort.rollback { "rolling back" } else { "aborted" };
            action(session, &client, &abort.target, "abort", done, abort.rollback).await
        }
        Verb::Rollback(target) => action(session, &client, &target, "rollback", "rolling back", false).await,
        Verb::Approve(target) => action(session, &client, &target, "approve", "approved", false).await,
        Verb::Reject(target) => action(session, &client, &target, "reject", "rejected", false).await,
        Verb::SkipWave(target) => {
            action(session, &client, &target, "skip-wave", "goes on with the next wave", false).await
        }
        Verb::RetryFailed(target) => {
            action(session, &client, &target, "retry-failed", "lets failed devices try again", false).await
        }
        Verb::ReleaseHold(target) => {
            action(session, &client, &target, "release-hold", "no longer holds its release back", false).await
        }
        Verb::Status(status) => {
            let name = rollout_name(&status.rollout)?;
            if status.watch {
                let follow = follow(session, &client, &name);
                return tokio::time::timeout(Duration::from_secs(status.timeout), follow)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Failure::new(Exit::Pending, format!("rollout {name} still goes on"))
                            .next(format!("farshore rollout status {name} --watch")))
                    });
            }
            let object = read(&client, &name).await?;
            show(session, &object)?;
            let rollout: Rollout = typed("can't read the rollout", object)?;
            verdict(&rollout)
        }
    }
}

fn rollout_name(text: &str) -> Result<String> {
    check_name(text.strip_prefix("rollout/").unwrap_or(text))
}

async fn read(client: &Client, name: &str) -> Result<Value> {
    super::get::one(client, find("rollout")?, name).await
}

/// The name that a rollout gets by itself.
pub(crate) fn default_name(app: &Name, version: &Version) -> String {
    let version: String = version
        .as_str()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    format!("{app}-{version}")
}

async fn run_create(session: &Session, client: &Client, create: Create) -> Result<()> {
    let what = "can't make the rollout";
    let name = match create.name {
        Some(name) => name,
        None => Name::new(default_name(&create.app, &create.to))
            .map_err(|error| Failure::usage(what).caused_by(&error))?,
    };
    let release = ReleaseRef::Version { app: create.app.clone(), version: create.to };
    let mut spec = RolloutSpec::new(create.app, create.channel, release);
    if !create.wave.is_empty() {
        spec.waves = create.wave.iter().map(|wave| wave.0.clone()).collect();
    }
    if let Some(threshold) = create.failure_threshold {
        spec.failure_threshold = threshold;
    }
    if let Some(amount) = create.max_unavailable {
        spec.max_unavailable = Some(amount);
    }
    spec.activation = create.activation.map(|activation| match activation {
        ActivationText::Replace => Activation::Replace,
        ActivationText::BlueGreen => Activation::BlueGreen,
    });
    match create.on_failure {
        Some(OnFailureText::Pause) => spec.on_failure = OnFailure::Pause,
        Some(OnFailureText::Rollback) => spec.on_failure = OnFailure::Rollback,
        None => {}
    }
    spec.validate().map_err(|error| Failure::usage(what).caused_by(&error))?;
    let new = NewObject {
        api_version: None,
        kind: None,
        metadata: NewMetadata { name: name.clone(), labels: Labels::default(), managed_by: None },
        spec,
    };
    let kind = find("rollout")?;
    // The server starts it too, unless told otherwise.
    let query = if create.no_start { vec![("start", "false".to_owned())] } else { Vec::new() };
    let object =
        client.post_with(what, kind.path, &query, &new).await.map_err(|failure| match failure.exit() {
            Exit::Conflict => failure.next("farshore rollout create --name OTHER-NAME …"),
            _ => failure,
        })?;
    let done = if create.no_start { "created" } else { "started" };
    let made: Rollout = typed("can't read the rollout", object.clone())?;
    for waiting in made.status.waiting.iter().filter(|waiting| waiting.reason.code == "Incapable") {
        eprintln!("Note: {}", output::cell::clean(&waiting.reason.message));
    }
    match session.output.format {
        Format::Table | Format::Wide => {
            output::print(&format!("rollout/{name} {done}\n"))?;
            match (create.no_start, create.watch) {
                (true, _) => eprintln!("Next: farshore rollout start {name}"),
                (false, false) => eprintln!("Next: farshore rollout status {name} --watch"),
                (false, true) => {}
            }
        }
        _ if !create.watch => session.output.object(kind, &object)?,
        _ => {}
    }
    if create.watch { follow(session, client, name.as_str()).await } else { Ok(()) }
}

async fn action(
    session: &Session,
    client: &Client,
    target: &Target,
    verb: &str,
    done: &str,
    rollback: bool,
) -> Result<()> {
    let name = rollout_name(&target.rollout)?;
    let kind = find("rollout")?;
    let body = RolloutAction { comment: target.comment.clone(), rollback };
    let what = format!("can't {verb} rollout {name}");
    let object = client.post(&what, &format!("{}:{verb}", kind.path_of(&name)), &body).await?;
    match session.output.format {
        Format::Table | Format::Wide => {
            output::print(&format!("rollout/{name} {done}\n"))?;
            eprintln!("Next: farshore rollout status {name} --watch");
            Ok(())
        }
        Format::Name => output::print(&format!("rollout/{name}\n")),
        _ => session.output.object(kind, &object),
    }
}

fn show(session: &Session, object: &Value) -> Result<()> {
    if session.output.is_for_people() {
        let rollout: Rollout = typed("can't read the rollout", object.clone())?;
        output::print(&super::describe::rollout_head(&rollout, session.output.look()))
    } else {
        session.output.changed(find("rollout")?, object)
    }
}

/// How it ended, as an exit code; one that still goes on is fine here.
fn verdict(rollout: &Rollout) -> Result<()> {
    let summary = &rollout.status.summary;
    match summary.phase {
        Phase::Failed | Phase::Aborted | Phase::Superseded => {
            let failure =
                Failure::new(Exit::RolloutFailed, format!("rollout {} {}", summary.name, summary.phase));
            let failure =
                summary.reasons.iter().fold(failure, |failure, reason| failure.why(reason.message.clone()));
            Err(failure.next(format!("farshore describe rollout/{}", summary.name)))
        }
        _ => Ok(()),
    }
}

/// One line on how it goes.
pub(crate) fn line(rollout: &Rollout, look: Look) -> String {
    let summary = &rollout.status.summary;
    let counts = &summary.counts;
    let mut parts = vec![
        state(summary.phase.word(), look),
        format!("wave {} of {}", summary.wave, summary.waves.len().max(rollout.spec.waves.len())),
        format!("{} of {} ok", counts.ok, summary.population),
    ];
    let more = [
        (counts.updating, "updating"),
        (counts.failed, "failed"),
        (counts.unreachable, "unreachable"),
        (counts.rolling_back, "rolling back"),
        (counts.rolled_back, "rolled back"),
    ];
    parts.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")));
    if let Some(ratio) = summary.failure_ratio {
        parts.push(format!("failures {} (halts at {})", percent(ratio), percent(summary.threshold)));
    }
    let mut line = parts.join(" · ");
    if let Some(reason) = summary.reasons.first() {
        line = format!("{line}: {}", crate::output::cell::clean(&reason.message));
    }
    line
}

/// Shows how a rollout goes until it ends.
pub(crate) async fn follow(session: &Session, client: &Client, name: &str) -> Result<()> {
    let kind = find("rollout")?;
    let mut watch = Watch::open(client, kind).await?;
    let bar =
        (session.output.is_for_people() && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
    if let Some(bar) = &bar {
        bar.enable_steady_tick(Duration::from_millis(120));
    }
    let mut last = String::new();
    loop {
        let object = read(client, name).await?;
        let rollout: Rollout = typed("can't read the rollout", object.clone())?;
        let text = line(&rollout, session.output.look());
        if text != last {
            match &bar {
                Some(bar) => bar.set_message(text.clone()),
                None if session.output.is_for_people() => output::print(&format!("{text}\n"))?,
                None => session.output.changed(kind, &object)?,
            }
            last = text;
        }
        if rollout.status.summary.phase.is_final() {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
                output::print(&format!("{last}\n"))?;
            }
            return verdict(&rollout);
        }
        loop {
            let change = tokio::select! {
                change = watch.next() => change?,
                _ = tokio::signal::ctrl_c() => {
                    eprintln!("The rollout goes on without this command. To stop it: farshore rollout pause {name}");
                    return Err(Failure::new(Exit::Interrupted, format!("stopped looking at rollout {name}"))
                        .next(format!("farshore rollout status {name} --watch")));
                }
            };
            match change {
                Change::Everything { .. } => break,
                Change::Object { name: changed, uid } => {
                    if changed == name || uid == name {
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

    #[test]
    fn waves_are_read_with_their_soak() {
        let wave = |text: &str| {
            text.parse::<WaveText>().map(|wave| (wave.0.percent, wave.0.count, wave.0.soak_seconds))
        };
        assert_eq!(wave("25%:10m"), Ok((Some(25), None, 600)));
        assert_eq!(wave("3:0s"), Ok((None, Some(3), 0)));
        assert_eq!(wave("5%"), Ok((Some(5), None, 60)));
        for bad in ["", "x", "5%:", "5%:1y", "-1"] {
            assert!(wave(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rollout_is_named_for_app_and_version() {
        let name = default_name(&Name::new("edge-web").unwrap(), &"1.1-RC.2".parse().unwrap());
        assert_eq!(name, "edge-web-1-1-rc-2");
    }
}
