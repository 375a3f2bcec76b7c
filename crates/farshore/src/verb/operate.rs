//! What devices are asked to do, one or many: shown first, then done as it was shown, and followed to its end.

use std::collections::BTreeMap;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap_complete::engine::ArgValueCompleter;
use farshore_api::operation::{
    Ask, CancelOperation, FleetVerb, OperateDevices, OperatePlan, Operation, OutputPiece, PlannedDevice,
};
use farshore_domain::name::Name;
use farshore_domain::operation::{
    Arguments, Budget, GroupBudget, MAX_EXPIRY_SECONDS, MAX_FOLLOW_SECONDS, MAX_TIMEOUT_SECONDS, State,
};
use farshore_domain::rollout::Amount;
use farshore_domain::selector::Selector;
use tokio::task::JoinSet;

use crate::cli::Session;
use crate::client::Client;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output::time::parse_seconds;
use crate::output::{self, Format};
use crate::sse::{Item, Stream};

const PATH: &str = "/api/devices:operate";

/// Which devices, why, how many at once, and whether to wait.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Many {
    /// The devices, by name or uid
    #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    devices: Vec<String>,
    /// Devices whose labels match: store=12,env in (a,b)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<Selector>,
    /// Why; kept with the operation, and asked for by some policies
    #[arg(short = 'm', long, visible_alias = "comment", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only say which devices, what each would do, and which are refused and why
    #[arg(long)]
    dry_run: bool,
    /// Wait until it has ended everywhere; what is read from a device is always waited for
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait
    #[arg(long)]
    no_wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_seconds)]
    timeout: u64,
    /// A device that does not take it within this time does not get it: a day when left out
    #[arg(long, value_name = "TIME", value_parser = parse_expires)]
    expires: Option<u64>,
    /// So many at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_concurrent: Option<u32>,
    /// Of devices with the same value of a label, at most so many down at once: store=1, rack=25%; none for no limit
    #[arg(long = "group", value_name = "LABEL=COUNT", value_parser = parse_group)]
    groups: Vec<Group>,
}

/// A time between two bounds, in the words in which it is typed.
fn between(text: &str, least: u64, most: u64, says: &str) -> Result<u64, String> {
    let seconds = parse_seconds(text)?;
    if (least..=most).contains(&seconds) { Ok(seconds) } else { Err(format!("write a time from {says}")) }
}

fn parse_expires(text: &str) -> Result<u64, String> {
    between(text, 10, MAX_EXPIRY_SECONDS.into(), "10s to 30d")
}

fn parse_follow(text: &str) -> Result<u64, String> {
    between(text, 1, MAX_FOLLOW_SECONDS.into(), "1s to 10m")
}

fn parse_time_limit(text: &str) -> Result<u64, String> {
    between(text, 1, MAX_TIMEOUT_SECONDS.into(), "1s to 1h")
}

#[derive(Clone, Debug)]
enum Group {
    None,
    Budget(GroupBudget),
}

fn parse_group(text: &str) -> Result<Group, String> {
    if text == "none" {
        return Ok(Group::None);
    }
    let (label, most) = super::parse_pair(text)?;
    let max_unavailable = most.parse::<Amount>().map_err(|error| error.to_string())?;
    Ok(Group::Budget(GroupBudget { label, max_unavailable }))
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManyOfApp {
    #[command(flatten)]
    many: Many,
    /// Which app
    #[arg(long, value_name = "APP")]
    app: Name,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManyLogs {
    #[command(flatten)]
    many: Many,
    /// Which app
    #[arg(long, value_name = "APP")]
    app: Name,
    /// So many bytes of its end
    #[arg(long, value_name = "COUNT")]
    bytes: Option<u32>,
    /// Go on with what comes, for this long (at most 10m)
    #[arg(short, long, value_name = "TIME", value_parser = parse_follow, num_args = 0..=1, default_missing_value = "10m")]
    follow: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManyExec {
    #[command(flatten)]
    many: Many,
    /// The runbook of the device's policy
    #[arg(
        short,
        long,
        value_name = "RUNBOOK",
        conflicts_with = "command",
        required_unless_present = "command"
    )]
    runbook: Option<Name>,
    /// A line for /bin/sh, where the policy allows any
    #[arg(short, long, value_name = "LINE")]
    command: Option<String>,
    /// Run the line inside this app's container; a runbook's place is its policy's affair
    #[arg(long, value_name = "APP", requires = "command")]
    app: Option<Name>,
    /// In which service of an app of kind compose, where it has several
    #[arg(long, value_name = "SERVICE", requires = "app")]
    service: Option<Name>,
    /// It is ended after this long
    #[arg(long, value_name = "TIME", value_parser = parse_time_limit)]
    time_limit: Option<u64>,
    /// What the runbook is given
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManyChannel {
    #[command(flatten)]
    many: Many,
    /// The channel they go to
    #[arg(short, long, value_name = "CHANNEL")]
    channel: Name,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OutputOf {
    /// The operation, by uid
    #[arg(value_name = "OPERATION")]
    operation: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The operations, by uid
    #[arg(required = true, value_name = "OPERATION")]
    operations: Vec<String>,
    /// Why; kept with the operation
    #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
    reason: String,
}

/// A verb without more to say.
pub(crate) async fn plain(session: &Session, many: Many, verb: FleetVerb) -> Result<()> {
    let reads = matches!(verb, FleetVerb::Diagnostics | FleetVerb::Inventory);
    run(session, many, verb, Ask::default(), None, reads).await
}

pub(crate) async fn of_app(session: &Session, of: ManyOfApp, verb: FleetVerb) -> Result<()> {
    run(session, of.many, verb, Ask { app: Some(of.app), ..Ask::default() }, None, false).await
}

fn seconds(given: Option<u64>) -> Option<u32> {
    given.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
}

pub(crate) async fn logs(session: &Session, logs: ManyLogs) -> Result<()> {
    let arguments =
        Arguments { bytes: logs.bytes, follow_seconds: seconds(logs.follow), ..Arguments::default() };
    let ask = Ask { app: Some(logs.app), arguments, ..Ask::default() };
    run(session, logs.many, FleetVerb::Logs, ask, None, true).await
}

pub(crate) async fn exec(session: &Session, exec: ManyExec) -> Result<()> {
    let arguments = Arguments {
        runbook: exec.runbook,
        command: exec.command,
        arguments: exec.arguments,
        service: exec.service,
        timeout_seconds: seconds(exec.time_limit),
        ..Arguments::default()
    };
    let ask = Ask { app: exec.app, arguments, ..Ask::default() };
    run(session, exec.many, FleetVerb::Exec, ask, None, true).await
}

pub(crate) async fn set_channel(session: &Session, set: ManyChannel) -> Result<()> {
    run(session, set.many, FleetVerb::SetChannel, Ask::default(), Some(set.channel), false).await
}

async fn run(
    session: &Session,
    many: Many,
    verb: FleetVerb,
    ask: Ask,
    channel: Option<Name>,
    reads: bool,
) -> Result<()> {
    if many.devices.is_empty() && many.selector.is_none() {
        return Err(Failure::usage("say of which devices: by name, or with -l SELECTOR"));
    }
    let name = |device: &String| check_name(device.strip_prefix("device/").unwrap_or(device));
    let group_by = (!many.groups.is_empty()).then(|| {
        let budget = |group: &Group| match group {
            Group::None => None,
            Group::Budget(budget) => Some(budget.clone()),
        };
        many.groups.iter().filter_map(budget).collect()
    });
    let body = OperateDevices {
        verb,
        selector: many.selector.clone(),
        devices: many.devices.iter().map(name).collect::<Result<_>>()?,
        ask: Ask {
            reason: many.reason.clone(),
            expires_in_seconds: seconds(many.expires),
            budget: Budget { max_concurrent: many.max_concurrent, group_by },
            ..ask
        },
        channel,
        dry_run: true,
        preview: None,
    };
    let client = session.client()?;
    let what = what_fails(verb);
    let plan: OperatePlan = client.post_as(&what, PATH, &body).await?;
    if many.dry_run {
        return show(session, &plan);
    }
    for device in &plan.devices {
        if let Some(refused) = &device.refused {
            eprintln!("device/{}: {}", device.name, refused.message);
        }
    }
    if plan.accepted == 0 {
        let exit = refusal(&plan.devices);
        if plan.total == 0 {
            let selector = many.selector.as_ref().map(ToString::to_string).unwrap_or_default();
            let failure = Failure::new(exit, what).why(format!("no device matches {selector:?}"));
            return Err(failure.next("farshore get devices -o wide"));
        }
        return Err(Failure::new(exit, what).why("every device is refused"));
    }
    let body = OperateDevices { dry_run: false, preview: Some(plan.preview.clone()), ..body };
    let done: OperatePlan = client.post_as(&what, PATH, &body).await?;
    let operations: Vec<(String, String)> = done
        .devices
        .iter()
        .filter_map(|device| Some((device.name.to_string(), device.operation?.to_string())))
        .collect();
    if operations.is_empty() {
        for device in done.devices.iter().filter(|device| device.refused.is_none()) {
            let told = match (session.output.format, verb) {
                (Format::Name, _) => String::new(),
                (_, FleetVerb::Cordon) => " cordoned".to_owned(),
                (_, FleetVerb::Uncordon) => " uncordoned".to_owned(),
                _ => format!(" {}", device.does),
            };
            output::print(&format!("device/{}{told}\n", device.name))?;
        }
        return partly(&done);
    }
    let wait = (many.wait || reads) && !many.no_wait;
    if !wait {
        for (device, operation) in &operations {
            match session.output.format {
                Format::Name => output::print(&format!("operation/{operation}\n"))?,
                Format::Table | Format::Wide => {
                    output::print(&format!("device/{device} {verb}: operation/{operation}\n"))?;
                }
                _ => {}
            }
        }
        if !matches!(session.output.format, Format::Name | Format::Table | Format::Wide) {
            output::print(&output::pretty(&to_value(&done)?)?)?;
        }
        return partly(&done);
    }
    if done.accepted as usize > operations.len() {
        eprintln!("only the first {} are waited for", operations.len());
    }
    follow_all(session, &client, operations, many.timeout).await?;
    partly(&done)
}

/// What did not work, in words.
fn what_fails(verb: FleetVerb) -> String {
    match verb {
        FleetVerb::Exec => "can't run this on these devices".to_owned(),
        FleetVerb::Logs => "can't read logs of these devices".to_owned(),
        FleetVerb::Diagnostics | FleetVerb::Inventory => format!("can't read the {verb} of these devices"),
        FleetVerb::RestartApp => "can't restart the app on these devices".to_owned(),
        FleetVerb::Rollback => "can't take the app back on these devices".to_owned(),
        FleetVerb::ForceSync => "can't have the gateways of these devices send now".to_owned(),
        FleetVerb::SetChannel => "can't put these devices into the channel".to_owned(),
        verb => format!("can't {verb} these devices"),
    }
}

fn to_value(plan: &OperatePlan) -> Result<serde_json::Value> {
    serde_json::to_value(plan).map_err(|error| Failure::because("can't write the plan", &error))
}

fn refusal(devices: &[PlannedDevice]) -> Exit {
    let code = devices.iter().find_map(|device| device.refused.as_ref()).map(|refused| refused.code.as_str());
    match code {
        Some("PolicyForbids") => Exit::NotAllowed,
        Some("Lifecycle") => Exit::Conflict,
        _ => Exit::Failed,
    }
}

/// Done where it may be; that it may not be everywhere is no success.
fn partly(plan: &OperatePlan) -> Result<()> {
    if plan.refused == 0 {
        return Ok(());
    }
    let what = format!("{} of {} devices were refused", plan.refused, plan.total);
    Err(Failure::new(refusal(&plan.devices), what))
}

fn show(session: &Session, plan: &OperatePlan) -> Result<()> {
    if !session.output.is_for_people() {
        return output::print(&output::pretty(&to_value(plan)?)?);
    }
    let width = plan.devices.iter().map(|device| device.name.as_str().len()).max().unwrap_or(0);
    let mut text = String::new();
    for device in &plan.devices {
        let says = match &device.refused {
            None => device.does.clone(),
            Some(refused) => format!("refused: {} ({})", refused.message, refused.code),
        };
        text.push_str(&format!(
            "{:<width$}  {:<8} {says}\n",
            device.name.as_str(),
            device.reachability.word()
        ));
    }
    text.push_str(&format!(
        "{} of {} devices would {}; {} are refused; {}\n",
        plan.accepted, plan.total, plan.verb, plan.refused, plan.pace
    ));
    output::print(&text)
}

/// Follows operations to their ends. Many at once are told apart by their devices' names.
async fn follow_all(
    session: &Session,
    client: &Client,
    operations: Vec<(String, String)>,
    timeout: u64,
) -> Result<()> {
    let named = operations.len() > 1;
    let mut running = JoinSet::new();
    for (device, operation) in operations {
        let client = client.clone();
        let prefix = if named { format!("{device}: ") } else { String::new() };
        running.spawn(async move { (device, follow(&client, &operation, &prefix).await) });
    }
    let people = session.output.is_for_people();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(timeout);
    let mut worst: BTreeMap<u8, Failure> = BTreeMap::new();
    loop {
        let ended = match tokio::time::timeout_at(deadline, running.join_next()).await {
            Ok(None) => break,
            Ok(Some(ended)) => ended,
            Err(_) => {
                let what = format!("{} operations have not ended yet", running.len());
                return Err(Failure::new(Exit::Pending, what)
                    .next("farshore get operations --field-selector state=open"));
            }
        };
        let (device, operation) =
            ended.map_err(|error| Failure::because("can't follow an operation", &error))?;
        let operation = operation?;
        let status = &operation.status;
        if people {
            tell_end(&operation, named);
        }
        let exit = match status.state {
            State::Succeeded => continue,
            State::Expired => Exit::Pending,
            State::Cancelled => Exit::Conflict,
            _ => Exit::Failed,
        };
        let failure = Failure::new(exit, format!("{} on {device} {}", operation.spec.kind, status.state));
        worst.entry(u8::from(exit != Exit::Failed)).or_insert(failure);
    }
    worst.into_values().next().map_or(Ok(()), Err)
}

async fn follow(client: &Client, operation: &str, prefix: &str) -> Result<Operation> {
    let what = format!("can't follow operation {operation}");
    let path = format!("/api/operations/{operation}/output");
    let mut stream = Stream::open(client, &what, &path, Vec::new()).await?;
    let mut told = 0_u64;
    // With names in front, only whole lines are told.
    let mut line = Vec::new();
    loop {
        let Item::Event(event) = stream.next().await? else { continue };
        let bad = |error: &(dyn std::error::Error + 'static)| Failure::because(what.clone(), error);
        match event.event.as_str() {
            "output" => {
                let piece: OutputPiece = serde_json::from_str(&event.data).map_err(|error| bad(&error))?;
                let bytes = STANDARD.decode(&piece.bytes).map_err(|error| bad(&error))?;
                // A stream that was opened again begins anew.
                let skip = usize::try_from(told.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
                let new = bytes.get(skip..).unwrap_or_default();
                told = told.max(piece.offset + bytes.len() as u64);
                tell(new, prefix, &mut line, false)?;
            }
            "end" => {
                tell(&[], prefix, &mut line, true)?;
                return serde_json::from_str(&event.data).map_err(|error| bad(&error));
            }
            _ => {}
        }
    }
}

fn tell(bytes: &[u8], prefix: &str, line: &mut Vec<u8>, last: bool) -> Result<()> {
    let mut out = Vec::new();
    if prefix.is_empty() {
        out.extend_from_slice(bytes);
    } else {
        line.extend_from_slice(bytes);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            out.extend_from_slice(prefix.as_bytes());
            out.extend(line.drain(..=end));
        }
        if last && !line.is_empty() {
            out.extend_from_slice(prefix.as_bytes());
            out.append(line);
            out.push(b'\n');
        }
    }
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(&out).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::because("can't write to stdout", &error))
}

/// `farshore device output`.
pub(crate) async fn output(session: &Session, of: OutputOf) -> Result<()> {
    let uid = check_name(of.operation.strip_prefix("operation/").unwrap_or(&of.operation))?;
    let operation = follow(&session.client()?, &uid, "").await?;
    if session.output.is_for_people() {
        tell_end(&operation, true);
    }
    Ok(())
}

/// How it ended, beside its output.
fn tell_end(operation: &Operation, always: bool) {
    let (device, status) = (&operation.spec.device_name, &operation.status);
    if always || status.state != State::Succeeded || !status.message.is_empty() {
        let tail = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
        eprintln!("device/{device}: {}{tail}", status.state);
    }
    if status.output_total > status.output_bytes {
        let (kept, total) = (status.output_bytes, status.output_total);
        eprintln!("device/{device}: only {kept} of {total} bytes of output are kept");
    }
}

/// `farshore device cancel-operation`.
pub(crate) async fn cancel(session: &Session, cancel: Cancel) -> Result<()> {
    let client = session.client()?;
    for operation in &cancel.operations {
        let uid = check_name(operation.strip_prefix("operation/").unwrap_or(operation))?;
        let what = format!("can't cancel operation {uid}");
        let body = CancelOperation { reason: cancel.reason.clone() };
        let object = client.post(&what, &format!("/api/operations/{uid}:cancel"), &body).await?;
        session.output.changed(find("operation")?, &object)?;
    }
    Ok(())
}
