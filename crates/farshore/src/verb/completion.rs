//! `farshore completion`: scripts that ask this program what may come next, names on the server included.

use clap_complete::env::Shells;

use crate::failure::{Failure, Result};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// bash, zsh, fish, elvish or powershell
    shell: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(&arguments.shell) else {
        let known: Vec<_> = shells.names().collect();
        return Err(Failure::usage(format!("can't write a script for {:?}", arguments.shell))
            .why(format!("known shells are {}", known.join(", "))));
    };
    let mut script = Vec::new();
    completer
        .write_registration("COMPLETE", "farshore", "farshore", "farshore", &mut script)
        .map_err(|error| Failure::because("can't write the script", &error))?;
    output::print(&String::from_utf8_lossy(&script))
}
