//! `farshore bench NAME`: what `cargo xtask bench` measures. Hidden, because it is for people who build Farshore.
//!
//! The control plane is `farshore serve` in a process of its own, on loopback and a temporary folder ([`plane`]); whatever puts load
//! on it runs in others ([`worker`], [`readers`]), which end when this process does. [`process`] reads what a process costs,
//! [`figures`] holds what was measured. docs/benchmarks.md explains each workload.

mod agent;
mod chaos;
mod claim;
mod converge;
mod device;
mod documents;
mod drain;
mod exits;
mod figures;
mod fleet;
mod helper;
mod peers;
mod plane;
mod process;
mod raw;
mod readers;
mod reconnect;
mod release;
mod rollout;
mod slow_link;
mod worker;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "farshore bench", disable_help_subcommand = true)]
struct Bench {
    #[command(subcommand)]
    which: Which,
    /// Write the figures to this file as one flat JSON object
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Devices claimed one after another and at once: time until listed
    Claim(claim::Arguments),
    /// Virtual devices over mTLS: connect time, memory, event and API latency
    Fleet(fleet::Arguments),
    /// The control plane comes back under its devices
    Reconnect(reconnect::Arguments),
    /// One agent with one app, idle and under a storm of exits; peers beside it
    Agent(agent::Arguments),
    /// Documents of a device: the first sync, nothing new, one change
    Documents(documents::Arguments),
    /// The rollout engine over virtual fleets: devices touched, false halts, cost of a decision
    Rollout(rollout::Arguments),
    /// Network, disk, clock and processor break and roles are killed while releases are rolled out
    ChaosAgent(chaos::Arguments),
    /// What waits in a gateway goes over a slow link while readings go on coming
    Drain(drain::Arguments),
    #[command(hide = true)]
    Worker(worker::Arguments),
    #[command(hide = true)]
    Readers(readers::Arguments),
    #[command(hide = true)]
    RawServer(raw::ServerArguments),
    #[command(hide = true)]
    RawClient(raw::ClientArguments),
}

/// Runs the bench that `words` name.
///
/// # Errors
/// When it cannot measure.
pub(crate) async fn run(words: Vec<String>) -> Result<()> {
    let words = std::iter::once("farshore bench".to_owned()).chain(words);
    let bench = match Bench::try_parse_from(words) {
        Ok(bench) => bench,
        Err(error) => error.exit(),
    };
    let figures = match bench.which {
        Which::Claim(arguments) => Box::pin(claim::run(arguments)).await?,
        Which::Fleet(arguments) => Box::pin(fleet::run(arguments)).await?,
        Which::Reconnect(arguments) => Box::pin(reconnect::run(arguments)).await?,
        Which::Agent(arguments) => Box::pin(agent::run(arguments)).await?,
        Which::Documents(arguments) => Box::pin(documents::run(arguments)).await?,
        Which::Rollout(arguments) => Box::pin(rollout::run(&arguments)).await?,
        Which::ChaosAgent(arguments) => Box::pin(chaos::run(arguments)).await?,
        Which::Drain(arguments) => Box::pin(drain::run(arguments)).await?,
        Which::Worker(arguments) => return Box::pin(worker::run(arguments)).await,
        Which::Readers(arguments) => return Box::pin(readers::run(arguments)).await,
        Which::RawServer(arguments) => return Box::pin(raw::serve(arguments)).await,
        Which::RawClient(arguments) => return Box::pin(raw::connect(arguments)).await,
    };
    match bench.json {
        Some(path) => figures.write(&path),
        None => {
            print!("{}", figures.table());
            Ok(())
        }
    }
}
