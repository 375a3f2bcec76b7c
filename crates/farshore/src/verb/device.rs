//! `farshore device`: what is done to devices.

use clap_complete::engine::ArgValueCompleter;
use farshore_api::device::{AppAction, Comment};
use farshore_api::operation::FleetVerb;
use farshore_api::policy::DevicePolicy;
use farshore_domain::name::Name;
use serde::Serialize;

use crate::cli::Session;
use crate::failure::{Failure, Result};
use crate::kind::{check_name, find};
use crate::output::{self, Format};
use crate::verb::operate::{self, Cancel, Many, ManyChannel, ManyExec, ManyLogs, ManyOfApp, OutputOf};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Let a device in that waits to be claimed
    Approve(Target),
    /// Refuse a device that waits to be claimed
    Reject(Target),
    /// Take a device's identity away: its connection ends, and its key never comes back
    Revoke(Target),
    /// Give devices nothing new
    Cordon(Many),
    /// Let devices take part again; drained ones start their apps
    Uncordon(Many),
    /// Stop devices' apps and keep them stopped until they are uncordoned
    Drain(Many),
    /// Take one app back to its earlier release, and hold it there until it is resumed
    Rollback(ManyOfApp),
    /// Run a runbook of the devices' policy, or a command where it allows any
    Exec(ManyExec),
    /// Show the end of an app's log, and what comes
    Logs(ManyLogs),
    /// Show how devices are: host, agent, link, disks, what happened last
    Diagnostics(Many),
    /// Show what devices have: hardware, system, packages, apps
    Inventory(Many),
    /// Reboot devices, where policy and agent allow it
    Reboot(Many),
    /// Have the gateways of devices send what waits, now, also over a link that costs
    ForceSync(Many),
    /// Put devices into another channel
    SetChannel(ManyChannel),
    /// Show what an operation has said, and what it says while it runs
    Output(OutputOf),
    /// Give operations up
    CancelOperation(Cancel),
    /// Let a held app of a device try its release again
    Resume(AppTarget),
    /// Restart an app on devices
    RestartApp(ManyOfApp),
    /// Show what a device obeys, and which policy each value comes from
    Policy(One),
}

#[derive(Debug, clap::Args)]
struct One {
    /// The device, by name or uid
    #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    device: String,
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The devices, by name or uid
    #[arg(required = true, value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    devices: Vec<String>,
    /// Why; kept with the event
    #[arg(short = 'm', long, default_value = "", hide_default_value = true)]
    comment: String,
}

#[derive(Debug, clap::Args)]
struct AppTarget {
    /// The devices, by name or uid
    #[arg(required = true, value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    devices: Vec<String>,
    /// Which app
    #[arg(long, value_name = "APP")]
    app: Name,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    match arguments.verb {
        Verb::Approve(target) => comment(session, target, "approve", "approved").await,
        Verb::Reject(target) => comment(session, target, "reject", "rejected").await,
        Verb::Revoke(target) => comment(session, target, "revoke", "revoked").await,
        Verb::Cordon(many) => operate::plain(session, many, FleetVerb::Cordon).await,
        Verb::Uncordon(many) => operate::plain(session, many, FleetVerb::Uncordon).await,
        Verb::Drain(many) => operate::plain(session, many, FleetVerb::Drain).await,
        Verb::Rollback(of) => operate::of_app(session, of, FleetVerb::Rollback).await,
        Verb::Exec(exec) => operate::exec(session, exec).await,
        Verb::Logs(logs) => operate::logs(session, logs).await,
        Verb::Diagnostics(many) => operate::plain(session, many, FleetVerb::Diagnostics).await,
        Verb::Inventory(many) => operate::plain(session, many, FleetVerb::Inventory).await,
        Verb::ForceSync(many) => operate::plain(session, many, FleetVerb::ForceSync).await,
        Verb::Reboot(many) => operate::plain(session, many, FleetVerb::Reboot).await,
        Verb::SetChannel(set) => operate::set_channel(session, set).await,
        Verb::Output(of) => operate::output(session, of).await,
        Verb::CancelOperation(cancel) => operate::cancel(session, cancel).await,
        Verb::Resume(target) => {
            send(session, &target.devices, "resume", "resumed", &AppAction { app: target.app.clone() }).await
        }
        Verb::Policy(one) => policy(session, &one.device).await,
        Verb::RestartApp(of) => operate::of_app(session, of, FleetVerb::RestartApp).await,
    }
}

async fn policy(session: &Session, device: &str) -> Result<()> {
    let kind = find("device")?;
    let device = check_name(device.strip_prefix("device/").unwrap_or(device))?;
    let what = format!("can't read the policy of device {device}");
    let object = session.client()?.get(&what, &format!("{}/policy", kind.path_of(&device)), &[]).await?;
    if !session.output.is_for_people() {
        return session.output.changed(kind, &object);
    }
    let shown: DevicePolicy =
        serde_json::from_value(object).map_err(|error| Failure::because(what, &error))?;
    let rules = serde_json::to_value(&shown.effective.rules).unwrap_or_default();
    let mut text = String::new();
    for (path, from) in &shown.effective.provenance {
        let value = rules.pointer(&format!("/{}", path.replace('.', "/"))).cloned().unwrap_or_default();
        text.push_str(&format!("{path}: {value}  (policy {}, version {})\n", from.policy, from.version));
    }
    if text.is_empty() {
        text.push_str("no policy applies: releases and the agent have their own defaults\n");
    }
    if !shown.understood {
        text.push_str(
            "the agent of this device does not understand all of this, and goes on with its own defaults for the rest\n",
        );
    }
    output::print(&text)
}

async fn comment(session: &Session, target: Target, verb: &str, done: &str) -> Result<()> {
    send(session, &target.devices, verb, done, &Comment { comment: target.comment }).await
}

async fn send<B: Serialize + Sync>(
    session: &Session,
    devices: &[String],
    verb: &str,
    done: &str,
    body: &B,
) -> Result<()> {
    let client = session.client()?;
    let kind = find("device")?;
    for device in devices {
        let device = check_name(device.strip_prefix("device/").unwrap_or(device))?;
        let what = format!("can't {verb} device {device}");
        let object = client.post(&what, &format!("{}:{verb}", kind.path_of(&device)), body).await?;
        match session.output.format {
            Format::Table | Format::Wide => output::print(&format!("device/{device} {done}\n"))?,
            Format::Name => output::print(&format!("device/{device}\n"))?,
            _ => session.output.changed(kind, &object)?,
        }
    }
    Ok(())
}
