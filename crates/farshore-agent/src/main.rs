//! The program of a device: `run`, `runner`, `gateway`, and what one asks it by hand.

mod gateway_role;
mod journal_verb;
mod log;
mod pipeline_verb;
mod settings;
mod sync_now;

use std::process::ExitCode;

use clap::Parser;
use farshore_agent::{Status, chain, clock, eyes, roles, runner};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use settings::{Cli, NetworkVerb, Output, Role};

fn main() -> ExitCode {
    match Cli::parse().verb.validate() {
        Ok(role) => start(role),
        Err(errors) => {
            for error in errors {
                eprintln!("farshore-agent: {error}");
            }
            ExitCode::from(2)
        }
    }
}

pub(crate) fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("farshore-agent: {}", chain(error));
    ExitCode::FAILURE
}

fn start(role: Role) -> ExitCode {
    // Before anything makes a thread: this becomes the app.
    if let Role::AppExec { spec, check, hook } = role {
        let part = match (&check, &hook) {
            (Some(check), _) => runner::Part::Check(check),
            (None, Some(hook)) => runner::Part::Hook(hook),
            (None, None) => runner::Part::App,
        };
        return match runner::become_app(&spec, part) {
            Err(error) => {
                eprintln!("farshore-agent: {}", chain(&error));
                ExitCode::from(127)
            }
        };
    }
    if let Role::ContainerNetwork { verb } = role {
        return done(runner::container_network(verb == NetworkVerb::Add));
    }
    if let Role::CommandExec { spec } = role {
        return match runner::become_command(&spec) {
            Err(error) => {
                eprintln!("farshore-agent: {}", chain(&error));
                ExitCode::from(127)
            }
        };
    }
    // The gateway reads foreign bytes on threads of its own, and says in JSON what it does.
    if let Role::Gateway(settings) = role {
        return gateway_role::start(*settings);
    }
    let quiet = if matches!(role, Role::Journal(_) | Role::Pipeline(_)) { "error" } else { "info" };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(log::filter(quiet)).init();
    if let Role::Journal(work) = role {
        return journal_verb::start(work);
    }
    if let Role::Pipeline(work) = role {
        return pipeline_verb::start(*work);
    }
    if let Role::EyesLoader = role {
        return done(eyes::load_and_hand_over());
    }
    farshore_trust::provider::install();
    let runtime =
        match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&error),
        };
    runtime.block_on(work(role))
}

/// Told on SIGTERM or SIGINT.
pub(crate) fn stop_on_signal() -> std::io::Result<oneshot::Receiver<()>> {
    let (tell, stop) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // Nobody waits any more: it ends anyway.
        let _ = tell.send(());
    });
    Ok(stop)
}

async fn work(role: Role) -> ExitCode {
    match role {
        Role::Run(settings) => match stop_on_signal() {
            Ok(stop) => done(roles::run(settings, stop).await),
            Err(error) => fail(&error),
        },
        Role::Runner(settings) => match stop_on_signal() {
            Ok(stop) => done(roles::runner(*settings, stop).await),
            Err(error) => fail(&error),
        },
        Role::Claim { state, token, labels } => match roles::claim_device(&state, &token, &labels).await {
            Ok(identity) => {
                let registration = &identity.registration;
                println!(
                    "claimed as {} ({}) by tenant {}",
                    registration.name, registration.device, registration.tenant_name
                );
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        },
        Role::Status { state, output } => match Status::read(&state) {
            Ok(status) => {
                match output {
                    Output::Text => print!("{}", status.text(clock::wall())),
                    Output::Json => println!("{}", serde_json::to_string_pretty(&status).unwrap_or_default()),
                }
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        },
        Role::Capabilities { socket } => {
            let hardware = farshore_agent::hardware();
            println!("{}/{} {} – {}", hardware.os, hardware.arch, hardware.variant, hardware.os_name);
            let client = runner::RunnerClient::new(socket);
            match client.ask(&runner::Request::Hello {}).await {
                Ok(runner::Reply::Hello { capabilities, tenant, trusted_keys_version }) => {
                    println!("runner: {}", capabilities.join(" "));
                    if let Some(missing) = runner::missing_isolation(&capabilities) {
                        println!("isolation: {missing}");
                    }
                    let tenant = tenant.map_or_else(|| "none yet".to_owned(), |tenant| tenant.to_string());
                    println!("tenant: {tenant}, trusted keys version {trusted_keys_version}");
                    match eyes::sources(&client).await {
                        Ok(sources) => {
                            for (signal, source) in sources {
                                println!("{signal}: {} ({})", source.by, source.reason);
                            }
                            ExitCode::SUCCESS
                        }
                        Err(error) => fail(&error),
                    }
                }
                Ok(_) => ExitCode::FAILURE,
                Err(error) => fail(&error),
            }
        }
        // Handled before the runtime was made.
        Role::EyesLoader => ExitCode::FAILURE,
        Role::Shim { folder, slot } => match runner::supervise(&folder, slot).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                fail(&error);
                ExitCode::from(error.exit_code())
            }
        },
        // Handled before the runtime was made.
        Role::AppExec { .. }
        | Role::CommandExec { .. }
        | Role::ContainerNetwork { .. }
        | Role::Gateway(_)
        | Role::Journal(_)
        | Role::Pipeline(_) => ExitCode::FAILURE,
    }
}

fn done<E: std::error::Error + 'static>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
