//! The command line: which verbs there are. Each verb is a file in `verb/`.

use clap::{Parser, Subcommand};

use crate::client::Client;
use crate::context::ServerArguments;
use crate::failure::Result;
use crate::output::{Output, OutputArguments};
use crate::verb;

/// Runs fleets of Linux edge devices.
#[derive(Debug, Parser)]
#[command(
    name = "farshore",
    version,
    about = "Farshore runs fleets of Linux edge devices that must keep working when the network does not.",
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Exit codes: farshore help exit-codes.  Start here: farshore dev"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
    #[command(flatten)]
    pub(crate) server: ServerArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in to a server and remember it as a context
    Login(verb::login::Arguments),
    /// Forget the session of the current context, here and on the server
    Logout(verb::login::LogoutArguments),
    /// List and choose contexts: servers one has logged in to
    Context(verb::context::Arguments),
    /// Show objects: get devices -l store=12 -o wide -w
    Get(verb::get::Arguments),
    /// Show everything about objects, and why they are as they are
    Describe(verb::describe::Arguments),
    /// Say why a device or a rollout is as it is: explain device/NAME
    Explain(verb::explain::Arguments),
    /// Create or replace objects from files
    Apply(verb::apply::Arguments),
    /// Say what apply would change, and which devices would get other releases; ends with 1 when something differs
    Diff(verb::diff::Arguments),
    /// Delete objects
    Delete(verb::delete::Arguments),
    /// Wait until an object is in a state: wait rollout/x --for=succeeded
    Wait(verb::wait::Arguments),
    /// Act on devices: let them in, drain them, run runbooks, read their logs, …
    Device(verb::device::Arguments),
    /// Claim tokens: what a device is claimed with
    Token(verb::token::Arguments),
    /// API tokens: what programs log in with
    ApiToken(verb::api_token::Arguments),
    /// Show what happened, and go on as it happens
    Events(verb::events::Arguments),
    /// Sign, verify and push releases
    Release(verb::release::Arguments),
    /// Keys that releases are signed with, and which of them the devices trust
    Key(verb::key::Arguments),
    /// Upload artifacts
    Artifact(verb::artifact::Arguments),
    /// Move a channel of an app to a release, in waves
    Rollout(verb::rollout::Arguments),
    /// Acknowledge and resolve incidents, and get their evidence
    Incident(verb::incident::Arguments),
    /// Acknowledge alerts, send messages again
    Alert(verb::alert::AlertArguments),
    /// Tell nobody of alerts that match, for a while
    Silence(verb::alert::SilenceArguments),
    /// Show how the readings of gateways come in
    Sync(verb::sync::Arguments),
    /// Read the series that gateways send: series -m temp-01 --since 1d --step 1h -a max
    Series(verb::sync::SeriesArguments),
    /// Read and change documents of devices; their history, conflicts and rules
    Document(verb::document::Arguments),
    /// Show and change what is desired of a device
    Twin(verb::twin::Arguments),
    /// Pipelines of gateways: set them, see how they stand, try them on what a device has sent
    Pipeline(verb::pipeline::Arguments),
    /// Run the control plane
    Serve(verb::serve::Arguments),
    /// Run everything on this machine, with a demonstration fleet
    Dev(verb::dev::Arguments),
    /// Print the OpenAPI document of the REST API
    Openapi,
    /// Print a completion script: source <(farshore completion bash)
    Completion(verb::completion::Arguments),
    /// Print the version
    Version,
    /// Print help on a command, or on exit-codes
    Help(verb::help::Arguments),
    #[command(hide = true)]
    Bench(verb::bench::Arguments),
}

/// What every verb works with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) output: Output,
    pub(crate) server: ServerArguments,
    pub(crate) debug: bool,
}

impl Session {
    /// The client for the server that flags, environment and context name.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(self.server.resolve()?, self.debug)
    }
}

impl Cli {
    pub(crate) fn session(&self) -> Session {
        Session { output: Output::new(self.output), server: self.server.clone(), debug: self.output.debug }
    }
}

impl Command {
    /// Runs the verb.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Login(arguments) => verb::login::run(session, arguments).await,
            Self::Logout(arguments) => verb::login::logout(session, arguments).await,
            Self::Context(arguments) => verb::context::run(session, arguments),
            Self::Get(arguments) => verb::get::run(session, arguments).await,
            Self::Describe(arguments) => verb::describe::run(session, arguments).await,
            Self::Explain(arguments) => verb::explain::run(session, arguments).await,
            Self::Apply(arguments) => verb::apply::run(session, arguments).await,
            Self::Diff(arguments) => verb::diff::run(session, arguments).await,
            Self::Delete(arguments) => verb::delete::run(session, arguments).await,
            Self::Wait(arguments) => verb::wait::run(session, arguments).await,
            Self::Device(arguments) => verb::device::run(session, arguments).await,
            Self::Token(arguments) => verb::token::run(session, arguments).await,
            Self::ApiToken(arguments) => verb::api_token::run(session, arguments).await,
            Self::Events(arguments) => verb::events::run(session, arguments).await,
            Self::Release(arguments) => verb::release::run(session, arguments).await,
            Self::Key(arguments) => verb::key::run(session, arguments).await,
            Self::Artifact(arguments) => verb::artifact::run(session, arguments).await,
            Self::Rollout(arguments) => verb::rollout::run(session, arguments).await,
            Self::Incident(arguments) => verb::incident::run(session, arguments).await,
            Self::Alert(arguments) => verb::alert::alert(session, arguments).await,
            Self::Silence(arguments) => verb::alert::silence(session, arguments).await,
            Self::Sync(arguments) => verb::sync::run(session, arguments).await,
            Self::Series(arguments) => verb::sync::series(session, arguments).await,
            Self::Document(arguments) => verb::document::run(session, arguments).await,
            Self::Twin(arguments) => verb::twin::run(session, arguments).await,
            Self::Pipeline(arguments) => verb::pipeline::run(session, arguments).await,
            Self::Serve(arguments) => verb::serve::run(arguments).await,
            Self::Dev(arguments) => verb::dev::run(session, arguments).await,
            Self::Openapi => verb::openapi::run(),
            Self::Completion(arguments) => verb::completion::run(&arguments),
            Self::Version => verb::help::version(session),
            Self::Help(arguments) => verb::help::run(&arguments),
            Self::Bench(arguments) => verb::bench::run(arguments).await,
        }
    }
}
