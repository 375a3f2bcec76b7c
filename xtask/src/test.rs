//! `cargo xtask test`: everything that runs, each suite bounded in time.

mod installed;
pub(crate) mod machine;
pub(crate) mod postgres;
mod unit_file;
pub(crate) mod units;
mod vm;

use std::process::Command;

use anyhow::Result;

use crate::tools::{self, Step, Steps};
use crate::web;

/// Set to 1 for the long form of the slow suites: more seeds, more rounds, hours instead of a minute each.
const LONG: &str = "FARSHORE_TEST_LONG";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    suite: Option<Suite>,
    /// Leave out the end-to-end tests in a browser
    #[arg(long)]
    skip_e2e: bool,
    /// Leave out the page, its unit tests and the end-to-end tests
    #[arg(long)]
    skip_web: bool,
    /// Leave out the agent's tests in a machine with systemd
    #[arg(long)]
    skip_units: bool,
    /// The long form of the slow suites (sets FARSHORE_TEST_LONG=1)
    #[arg(long)]
    long: bool,
    /// Run only Rust tests, with these arguments for `cargo nextest run`, such as `-p farshore-store conformance`
    #[arg(last = true)]
    filter: Vec<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// The Rust tests, with a private PostgreSQL
    Rust,
    /// The agent under its systemd units, in a machine of its own (needs root and systemd-container)
    Units,
    /// Limits that control groups of version 2 enforce, in an emulated machine (downloads 300 MB once; needs root and debootstrap)
    Vm,
    /// The page's unit tests
    Web,
    /// The whole product in a browser
    E2e,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let all = arguments.suite.is_none();
    let only_rust = !arguments.filter.is_empty();
    let mut steps = Steps::default();
    if all || matches!(arguments.suite, Some(Suite::Rust)) {
        steps.step("rust", || rust(&arguments.filter, arguments.long));
    }
    if matches!(arguments.suite, Some(Suite::Units)) || (all && !only_rust && !arguments.skip_units) {
        steps.step("units", units::run);
    }
    if matches!(arguments.suite, Some(Suite::Vm)) {
        steps.step("vm", vm::run);
    }
    let page = all && !only_rust && !arguments.skip_web;
    if matches!(arguments.suite, Some(Suite::Web)) || page {
        steps.step("page", web::test);
    }
    if matches!(arguments.suite, Some(Suite::E2e)) || (page && !arguments.skip_e2e) {
        steps.step("end to end", web::end_to_end);
    }
    steps.finish("test")
}

fn rust(filter: &[String], long: bool) -> Result<Step> {
    let postgres = postgres::start()?;
    let workspace = if filter.is_empty() { vec!["--workspace"] } else { Vec::new() };
    let mut command = runner(&workspace);
    if long {
        command.env(LONG, "1").env("NEXTEST_PROFILE", "long");
    }
    command.args(filter).env(postgres::VARIABLE, &postgres.said);
    tools::run(&mut command)?;
    Ok(Step::Done)
}

/// The test runner: nextest where it is installed, else cargo's own, which is slower and knows no limits of time.
fn runner(arguments: &[&str]) -> Command {
    if tools::which("cargo-nextest").is_some() {
        let mut command = tools::cargo(&["nextest", "run", "--locked"]);
        if tools::is_ci() {
            command.env("NEXTEST_PROFILE", "ci");
        }
        command.args(arguments);
        return command;
    }
    eprintln!(
        "cargo-nextest is not installed; cargo test runs instead (cargo install cargo-nextest --locked)"
    );
    let mut command = tools::cargo(&["test", "--locked", "--all-targets"]);
    command.args(arguments);
    command
}
