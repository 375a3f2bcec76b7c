//! `cargo xtask check | test | fuzz | dev | gen | bench | package | cross`: the commands a contributor types, so that only cargo need be known.
//!
//! Thin on purpose: it puts the right programs together, in the right order, and says what failed and what to type
//! next. One file for each verb; [`tools`] has what they share. [`keeper`] is how whatever a verb starts beside itself
//! (a PostgreSQL, a machine) is stopped and removed however the verb ends.

mod bench;
mod bpf;
mod check;
mod cross;
mod dev;
mod fuzz;
mod generate;
mod keeper;
mod metadata;
mod mutants;
mod package;
mod test;
mod tools;
mod web;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Farshore's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Everything that can be judged without running the product: format, lints, dependencies, generated files, units
    Check(check::Arguments),
    /// Everything that runs: Rust tests on both databases, the agent under its units, the page, end to end
    Test(test::Arguments),
    /// Look for bytes that break a decoder, guided by coverage (libFuzzer)
    Fuzz(fuzz::Arguments),
    /// Build page and programs, then start a control plane with a demo fleet on this machine
    Dev(dev::Arguments),
    /// Write the generated files: openapi.json and the page's API types; or, with `bpf`, the eBPF object
    Gen(generate::Arguments),
    /// Measure; docs/benchmarks.md explains each bench
    Bench(bench::Arguments),
    /// Build the agent's Debian package, for devices to install
    Package(package::Arguments),
    /// Build, try and package the agent for another processor, with a compiler of Debian's (about 150 MB of downloads)
    Cross(cross::Arguments),
    /// Break the rollout engine's rules one by one, and see that its tests notice each
    Mutants(mutants::Arguments),
    /// Hold something for another process until its end of the pipe closes (internal)
    #[command(hide = true)]
    Keep(keeper::Arguments),
    /// Run a command inside the test machine, under a unit's sandbox (internal; nextest calls it)
    #[command(hide = true)]
    InMachine(test::units::InMachine),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Dev(arguments) => dev::run(&arguments),
        Verb::Gen(arguments) => generate::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Package(arguments) => package::run(&arguments),
        Verb::Cross(arguments) => cross::run(&arguments),
        Verb::Mutants(arguments) => mutants::run(&arguments),
        Verb::Keep(arguments) => keeper::run(&arguments),
        Verb::InMachine(arguments) => return test::units::in_machine(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
