//! The `farshore` binary: the server, the operator's command line, and everything on one machine.
//!
//! Thin: it parses, runs one verb, and ends with an exit code ([`exit`]). A verb is a file in [`verb`]; whatever it does on a
//! server it does through [`client`], as any other user of the REST API could. [`kind`] is the table of what can be got and
//! described, [`output`] prints it, [`failure`] says what did not work.

mod bench;
mod cli;
mod client;
mod clock;
mod complete;
mod context;
mod dev;
mod exit;
mod failure;
mod kind;
mod output;
mod prompt;
mod release;
mod signal;
mod sse;
mod verb;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::cli::Cli;
use crate::exit::Exit;
use crate::failure::Failure;

fn main() -> ExitCode {
    farshore_trust::provider::install();
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse();
    let session = cli.session();
    let outcome = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(Box::pin(cli.command.run(&session)));
            // A thread that waits for input must not keep the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::because("can't start", &error)),
    };
    let exit = match outcome {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            if failure.exit() != Exit::Ok {
                eprint!("{}", failure.render(session.output.format, session.output.colours_errors()));
            }
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}
