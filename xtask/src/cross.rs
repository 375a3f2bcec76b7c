//! `cargo xtask cross aarch64`: the agent for 64-bit ARM, made on an amd64 machine, tried under qemu-user, and packaged.
//!
//! The compiler is Debian's (`rustc-web`), because it comes with a standard library for arm64 that apt can fetch; it is newer than the one in
//! `rust-toolchain.toml`. What is tried is what needs no kernel of its own: formats and decisions of the library crates by their own tests, and the
//! program out of its package. Namespaces, control groups and eBPF of ARM are not tried here.

mod emulated;
mod toolchain;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{self, Step, Steps};
use crate::{package, tools::which};
use toolchain::Toolchain;

/// As Rust calls it.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Runs programs of the other processor, with the C library that they were linked with.
pub(crate) const EMULATOR: [&str; 3] = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"];

/// Crates whose tests need no kernel: the block format, the journal, the decisions.
const TESTED: [&str; 6] = ["-p", "farshore-series", "-p", "farshore-journal", "-p", "farshore-domain"];
/// What lives through thousands of histories would take an hour under the emulator, and decides there as it does here; formats and numbers might not.
const LEFT_OUT: &str = "not test(/histories|model|virtual_fleet|scale|forecast|crash|power/)";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The processor
    processor: Processor,
    /// Where the package goes
    #[arg(long, default_value = "dist")]
    out: PathBuf,
    /// Do not run tests or the program
    #[arg(long)]
    skip_tests: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Processor {
    Aarch64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Processor::Aarch64 = arguments.processor;
    if let Some(why) = why_not() {
        bail!("{why}");
    }
    let toolchain = Toolchain::ready()?;
    let mut package = None;
    let mut steps = Steps::default();
    steps.step("agent", || {
        let mut build = toolchain.cargo(&["build", "--locked", "--profile", "agent", "-p", "farshore-agent"]);
        tools::run(&mut build)?;
        let program = toolchain.target().join(TARGET).join("agent/farshore-agent");
        let bytes = fs::metadata(&program).context("the program is missing")?.len();
        eprintln!("{}: {bytes} bytes", program.display());
        let out = tools::root().join(&arguments.out);
        package =
            Some(package::make(&program, "arm64", env!("CARGO_PKG_VERSION"), &out, package::Packing::Small)?);
        Ok(Step::Done)
    });
    if !arguments.skip_tests {
        if let Some(package) = &package {
            steps.step("the program out of its package", || {
                emulated::program_works(package).map(|()| Step::Done)
            });
        }
        steps.step("tests that need no kernel", || tests(&toolchain));
    }
    steps.finish("cross")?;
    if let Some(package) = package {
        println!("{}", package.display());
    }
    Ok(())
}

fn why_not() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("this is for building on an amd64 machine; on ARM, type: cargo xtask package".into());
    }
    let needed = [
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        ("qemu-aarch64-static", "qemu-user-static"),
        ("apt-get", "apt"),
        ("dpkg-deb", "dpkg"),
        ("curl", "curl"),
    ];
    let missing: Vec<_> =
        needed.iter().filter(|(program, _)| which(program).is_none()).map(|(_, package)| *package).collect();
    (!missing.is_empty())
        .then(|| format!("type: sudo apt-get install --no-install-recommends {}", missing.join(" ")))
}

fn tests(toolchain: &Toolchain) -> Result<Step> {
    if which("cargo-nextest").is_none() {
        return Ok(Step::Skipped(
            "cargo-nextest picks them; type: cargo install cargo-nextest --locked".into(),
        ));
    }
    let mut suite = toolchain.cargo(&["nextest", "run", "--locked", "--no-fail-fast"]);
    // An emulated program takes many times as long.
    suite.args(["--profile", "ci"]).args(TESTED).args(["-E", LEFT_OUT]);
    tools::run(&mut suite)?;
    Ok(Step::Done)
}

/// A program of the other processor, as a command.
pub(crate) fn emulated(program: &std::path::Path) -> Command {
    let [emulator, arguments @ ..] = EMULATOR;
    let mut command = Command::new(emulator);
    command.args(arguments).arg(program);
    command
}

/// # Errors
/// When it does not hold, with what was seen.
fn check(what: &str, holds: bool, seen: &str) -> Result<()> {
    ensure!(holds, "{what}: {seen}");
    eprintln!("{what}");
    Ok(())
}
