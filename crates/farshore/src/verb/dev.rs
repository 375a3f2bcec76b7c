//! `farshore dev`: from nothing to a fleet that one can look at, with one command.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use farshore_control::server::{Running, Server};
use farshore_control::settings::Settings;
use farshore_sim::VirtualFleet;

use crate::cli::Session;
use crate::client::Client;
use crate::dev::agents::{Agents, find_program};
use crate::dev::folder::{Folder, Ports};
use crate::dev::steps::Steps;
use crate::dev::{demo, login, virtual_devices};
use crate::failure::{Failure, Result};
use crate::signal::Stop;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder that holds everything; started again with it, everything goes on
    #[arg(long, value_name = "FOLDER", default_value = ".farshore")]
    data: PathBuf,
    /// Only the control plane: no devices, no releases, no rollouts
    #[arg(long)]
    empty: bool,
    /// How many virtual devices
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=5000))]
    devices: u32,
    /// The port of the API and the page; 0 for any [default: that of the last time, or 8443]
    #[arg(long)]
    port: Option<u16>,
    /// The port that devices connect to; 0 for any [default: that of the last time, or 8444]
    #[arg(long)]
    device_port: Option<u16>,
    /// The agent's program; beside this one when left out
    #[arg(long, value_name = "FILE", env = "FARSHORE_AGENT_BIN")]
    agent_bin: Option<PathBuf>,
    /// The demonstration app's program; beside this one when left out
    #[arg(long, value_name = "FILE", env = "FARSHORE_EDGE_WEB_BIN")]
    app_bin: Option<PathBuf>,
}

/// What has to be stopped in order.
#[derive(Debug, Default)]
struct Parts {
    agents: Agents,
    fleet: Option<VirtualFleet>,
}

pub(crate) async fn run(session: &Session, arguments: Arguments) -> Result<()> {
    let mut stop = Stop::listen()?;
    let steps = Steps::new();
    // Found before anything is started: a missing program is said at once.
    let programs = if arguments.empty {
        None
    } else {
        Some((
            find_program("farshore-agent", arguments.agent_bin.as_deref())?,
            find_program("edge-web-service", arguments.app_bin.as_deref())?,
        ))
    };
    let folder = Folder::open(&arguments.data)?;
    super::serve::log_to(folder.log("farshore.log")?)?;
    eprintln!("Farshore, with everything in {}", folder.root().display());
    let mut parts = Parts { agents: Agents::clean(&folder).await?, fleet: None };
    let step = steps.begin("control plane starts", None);
    let running = start(&folder, &arguments).await?;
    step.done("control plane listens");
    let outcome = tokio::select! {
        outcome = Box::pin(work(session, &arguments, &folder, &steps, programs, &running, &mut parts)) => outcome,
        () = stop.requested() => Ok(()),
    };
    eprintln!("Stopping …");
    let stopped = tokio::select! {
        stopped = Box::pin(end(parts, running)) => stopped,
        () = stop.requested() => Ok(()),
    };
    if outcome.is_ok() && stopped.is_ok() {
        eprintln!(
            "Stopped. farshore dev goes on where this was; to forget everything: rm -r {}",
            folder.root().display()
        );
    }
    outcome.and(stopped)
}

async fn start(folder: &Folder, arguments: &Arguments) -> Result<Running> {
    let ports = folder.ports(arguments.port, arguments.device_port);
    let flags: BTreeMap<String, String> = [
        ("data-dir", folder.join("server").display().to_string()),
        ("api-listen", format!("127.0.0.1:{}", ports.api)),
        ("device-listen", format!("127.0.0.1:{}", ports.device)),
        ("heartbeat-seconds", "10".to_owned()),
        // Receivers of alerts that one tries out run on this machine.
        ("alert-targets", "any".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    // Nothing from the environment: what is meant for a server in the open is not meant here.
    let mut settings = Settings::read(&flags, &|_| None)
        .map_err(|error| Failure::because("can't prepare the control plane", &error))?;
    settings.check_pipelines = super::pipeline::check;
    let running = Server::start(settings).await.map_err(|error| {
        Failure::because("can't start the control plane", &error)
            .next("farshore dev --port 0 --device-port 0")
    })?;
    folder.keep_ports(Ports { api: running.api_addr.port(), device: running.device_addr.port() })?;
    let ca = folder.join("ca.pem");
    fs::write(&ca, &running.ca_pem)
        .map_err(|error| Failure::because(format!("can't write {}", ca.display()), &error))?;
    Ok(running)
}

/// Prepares the demonstration, and then waits until a signal ends it.
async fn work(
    session: &Session,
    arguments: &Arguments,
    folder: &Folder,
    steps: &Steps,
    programs: Option<(PathBuf, PathBuf)>,
    running: &Running,
    parts: &mut Parts,
) -> Result<()> {
    let context_file = folder.join("config.yaml");
    let client = login::admin(running, &context_file, &folder.join("admin.password"), session.debug).await?;
    if let Some((agent, app)) = programs {
        prepare(&client, arguments, folder, steps, &agent, &app, running, parts).await?;
        greet(folder, steps, running, &context_file).await?;
        demo::rollouts(&client).await?;
        eprintln!("  That was the demonstration; everything goes on until Ctrl-C.");
    } else {
        greet(folder, steps, running, &context_file).await?;
    }
    std::future::pending().await
}

#[expect(clippy::too_many_arguments, reason = "the wiring of one command, in one place")]
async fn prepare(
    client: &Client,
    arguments: &Arguments,
    folder: &Folder,
    steps: &Steps,
    agent: &Path,
    app: &Path,
    running: &Running,
    parts: &mut Parts,
) -> Result<()> {
    let step = steps.begin("channels, app, placement, config", None);
    demo::objects(client).await?;
    step.done("channels, app, placement and config are there");
    if arguments.devices > 0 {
        let fleet =
            virtual_devices::start(client, folder, &running.device_url, arguments.devices, steps).await?;
        parts.fleet = Some(fleet);
    }
    let step = steps.begin("agents start", None);
    let count = demo::real_agents(client, folder, agent, &mut parts.agents).await?;
    step.done(&format!("{count} real agents online"));
    let step = steps.begin("releases are packed, signed and pushed", None);
    let tenant = client.target().tenant.clone().unwrap_or_default();
    demo::releases(client, folder, app, &tenant).await?;
    step.done("two releases packed, signed and pushed");
    Ok(())
}

async fn greet(folder: &Folder, steps: &Steps, running: &Running, context_file: &Path) -> Result<()> {
    let link = login::page_link(running).await?;
    eprintln!();
    eprintln!("  Page            {link}");
    eprintln!(
        "                  (the link logs in once; your browser asks about the certificate, whose CA is"
    );
    eprintln!("                  {})", folder.join("ca.pem").display());
    eprintln!("  Command line    farshore --config {} get devices", context_file.display());
    eprintln!(
        "  Password        of {} in {}",
        running.app.settings().first.admin,
        folder.join("admin.password").display()
    );
    eprintln!("  Logs            {}", folder.join("farshore.log").display());
    eprintln!("  Ready after {:.1} s. Ctrl-C stops everything.", steps.seconds());
    eprintln!();
    Ok(())
}

async fn end(parts: Parts, running: Running) -> Result<()> {
    let agents = parts.agents.stop().await;
    if let Some(fleet) = parts.fleet {
        fleet.stop().await.map_err(|error| Failure::because("can't stop the virtual devices", &error))?;
    }
    running.shutdown().await;
    agents
}
