//! `cargo xtask dev`: from a clone to a running control plane with a demo fleet, in one command.
//!
//! Everything is built first, with progress; then this process *becomes* `farshore dev`, so that Ctrl-C reaches it and
//! its exit code is the command's.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tools::{self, Step};
use crate::web::{self, Npm};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Build with optimisations: several times slower to build, faster to run
    #[arg(long)]
    release: bool,
    /// Serve the programs without the page, which then needs no Node
    #[arg(long)]
    skip_web: bool,
    /// Arguments for `farshore dev`, such as `--empty`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let begin = Instant::now();
    if arguments.skip_web {
        eprintln!("[1/3] page: left out");
    } else {
        eprintln!("[1/3] page");
        if let Step::Skipped(why) = web::build_page(&Npm::find()?)? {
            eprintln!("      {why}");
        }
    }
    eprintln!("[2/3] programs (the first time takes some minutes)");
    if tools::which("cc").is_none() {
        bail!("a C compiler is missing; type: sudo apt-get install gcc libc6-dev");
    }
    let folder = tools::build_programs(arguments.release)?;
    eprintln!("[3/3] built after {} s; starting", begin.elapsed().as_secs());
    let program = folder.join("farshore");
    // Replaces this process; it comes back only when that fails.
    let error = Command::new(&program).arg("dev").args(&arguments.rest).current_dir(tools::root()).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
