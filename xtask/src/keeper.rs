//! Something that lives as long as its owner, and is removed however the owner ends.
//!
//! A verb that needs a PostgreSQL or a machine starts this program a second time as a keeper. The keeper starts the thing,
//! writes one line that says how to reach it, and waits for the end of its standard input: that end comes when the owner
//! returns, panics, is interrupted or is killed. The keeper has a process group of its own, so that Ctrl-C in a
//! terminal does not end it before it has tidied up.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::test::{machine, postgres};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum What {
    /// A private PostgreSQL; says its URL
    Postgres,
    /// A machine that has this one's root file system under an overlay; says the id of its first process
    Machine {
        /// Folders that are shown read-only at the same place inside
        #[arg(long)]
        show: Vec<PathBuf>,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Postgres => postgres::keep(),
        What::Machine { show } => machine::keep(show),
    }
}

/// The owner's end.
#[derive(Debug)]
pub(crate) struct Kept {
    keeper: Child,
    /// The line that the keeper wrote.
    pub(crate) said: String,
}

impl Kept {
    /// Starts a keeper and waits for its line.
    ///
    /// # Errors
    /// When the thing cannot be started; the keeper has then said why on stderr.
    pub(crate) fn start(what: &[&str]) -> Result<Self> {
        let program = crate::tools::this_program()?;
        let mut keeper = Command::new(program)
            .arg("keep")
            .args(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start the keeper")?;
        let mut said = String::new();
        if let Some(stdout) = keeper.stdout.take() {
            BufReader::new(stdout).read_line(&mut said).context("cannot hear the keeper")?;
        }
        let mut kept = Self { keeper, said: said.trim().to_owned() };
        if kept.said.is_empty() {
            let status = kept.end()?;
            bail!("{} could not be started: the keeper ended with {status}", what.join(" "));
        }
        Ok(kept)
    }

    fn end(&mut self) -> Result<std::process::ExitStatus> {
        drop(self.keeper.stdin.take());
        self.keeper.wait().context("cannot wait for the keeper")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// The keeper's end: says the line, then waits for the owner to end.
///
/// # Errors
/// When the owner is gone already.
pub(crate) fn say_and_wait(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("the owner is gone")?;
    let mut rest = Vec::new();
    std::io::stdin().lock().read_to_end(&mut rest).context("cannot wait for the owner")?;
    Ok(())
}
