//! `farshore serve`: the control plane, until it is asked to stop.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use clap::{Arg, ArgMatches, Command};
use farshore_control::server::{Running, Server};
use farshore_control::settings::{Settings, TABLE};
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Result};
use crate::signal::Stop;

/// The flags are the table of settings: a new setting is one row there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    flags: BTreeMap<String, String>,
    log_format: LogFormat,
}

/// How the log is written to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Text on a terminal, JSON elsewhere
    #[default]
    Auto,
    Text,
    Json,
}

impl clap::FromArgMatches for Arguments {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut arguments = Self::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        for setting in TABLE {
            if let Some(value) = matches.get_one::<String>(setting.name) {
                self.flags.insert(setting.name.to_owned(), value.clone());
            }
        }
        if let Some(format) = matches.get_one::<LogFormat>("log-format") {
            self.log_format = *format;
        }
        Ok(())
    }
}

impl clap::Args for Arguments {
    fn augment_args(mut command: Command) -> Command {
        for setting in TABLE {
            let default = if setting.default.is_empty() {
                String::new()
            } else {
                format!(" [default: {}]", setting.default)
            };
            command = command.arg(Arg::new(setting.name).long(setting.name).value_name("VALUE").help(
                format!("{} [env: {}]{default}", setting.says.trim_end_matches('.'), setting.variable()),
            ));
        }
        command.arg(
            Arg::new("log-format")
                .long("log-format")
                .env("FARSHORE_LOG_FORMAT")
                .value_name("FORMAT")
                .value_parser(clap::value_parser!(LogFormat))
                .default_value("auto")
                .help("How the log is written; FARSHORE_LOG says how much, such as info or farshore_control=debug"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    start_log(arguments.log_format)?;
    let mut settings =
        Settings::read(&arguments.flags, &|name| std::env::var(name).ok()).map_err(|error| {
            let failure = Failure::usage("the settings are not valid");
            error
                .0
                .iter()
                .fold(failure, |failure, (name, why)| failure.why(format!("--{name}: {why}")))
                .next("farshore serve --help")
        })?;
    settings.check_pipelines = super::pipeline::check;
    let mut stop = Stop::listen()?;
    let running = Server::start(settings)
        .await
        .map_err(|error| Failure::because("can't start the control plane", &error))?;
    greet(&running);
    stop.requested().await;
    tracing::info!("stopping; connections get ten seconds to end");
    tokio::select! {
        () = Box::pin(running.shutdown()) => {}
        () = stop.requested() => tracing::warn!("stopped at once, because it was asked twice"),
    }
    Ok(())
}

/// What an operator needs of a server that has started.
fn greet(running: &Running) {
    eprintln!("API and page:    {}", running.api_url);
    eprintln!("Device port:     {}", running.device_url);
    eprintln!("CA fingerprint:  {}", running.ca_fingerprint);
    if let Some(link) = &running.first_login {
        eprintln!("First admin:     {link}");
        eprintln!("                 (works once, for a day; in a browser or as");
        eprintln!("                 farshore login '{link}' --ca-fingerprint {})", running.ca_fingerprint);
    }
}

fn filter() -> EnvFilter {
    let text = std::env::var("FARSHORE_LOG").unwrap_or_default();
    EnvFilter::try_new(if text.is_empty() { "info" } else { &text })
        .unwrap_or_else(|_| EnvFilter::new("info"))
}

fn start_log(format: LogFormat) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let text = match format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter()).with_writer(std::io::stderr);
    let started = if text {
        builder.with_ansi(terminal).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    started.map_err(|error| Failure::because("can't start the log", error.as_ref()))
}

/// For `farshore dev`: the log goes to a file, because the terminal is for people.
pub(crate) fn log_to(file: std::fs::File) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(filter())
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .try_init()
        .map_err(|error| Failure::because("can't start the log", error.as_ref()))
}
