//! `cargo xtask mutants`: breaks one rule of the rollout engine at a time, in its source, and runs the engine's tests on it.
//!
//! The rules are in `crates/farshore-domain/tests/rollout/mutants.json`: a name, a file of the engine, what to find there (exactly once) and what to
//! put in its place. The repository itself is never changed: the tracked files are copied to `target/mutants`, and each mutant is
//! written there. A mutant that the tests let live is a failure, and so is one that does not compile or no longer fits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::tools;

const LIST: &str = "crates/farshore-domain/tests/rollout/mutants.json";
const ENGINE: &str = "crates/farshore-domain/src/rollout";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only mutants whose name contains this
    name: Option<String>,
    /// How many histories may pass before a mutant has survived
    #[arg(long, default_value_t = 4_000)]
    histories: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    file: String,
    find: String,
    replace: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = fs::read_to_string(tools::root().join(LIST)).context("cannot read the list of mutants")?;
    let list: Vec<Mutant> = serde_json::from_str(&text).context("cannot read the list of mutants")?;
    let wanted = |mutant: &&Mutant| arguments.name.as_ref().is_none_or(|part| mutant.name.contains(part));
    let list: Vec<_> = list.iter().filter(wanted).collect();
    ensure!(!list.is_empty(), "no mutant has such a name; see {LIST}");
    let scratch = tools::target().join("mutants");
    copy(&scratch)?;
    eprintln!("== the engine as it is");
    ensure!(passes(&scratch, arguments.histories)?, "the tests fail without any mutant");
    let mut survivors = Vec::new();
    for mutant in list {
        eprintln!("\n== {}", mutant.name);
        let file = scratch.join(ENGINE).join(&mutant.file);
        let source = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let places = source.matches(&mutant.find).count();
        ensure!(places == 1, "{}: fits {places} places of {}, not one", mutant.name, mutant.file);
        fs::write(&file, source.replacen(&mutant.find, &mutant.replace, 1))?;
        let lives = passes(&scratch, arguments.histories);
        fs::write(&file, &source)?;
        if lives.with_context(|| mutant.name.clone())? {
            eprintln!("SURVIVED {}", mutant.name);
            survivors.push(mutant.name.as_str());
        } else {
            eprintln!("caught   {}", mutant.name);
        }
    }
    if !survivors.is_empty() {
        bail!("no test notices: {}", survivors.join(", "));
    }
    Ok(())
}

/// Copies the tracked files as they are now, those that have not changed excepted, so that little is built again.
fn copy(scratch: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.args(["ls-files", "-z", "--", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "clippy.toml"]);
    list.args(["crates", "xtask", "examples", "openapi.json", "docs", "web/index.html"])
        .current_dir(tools::root());
    for name in tools::output(&mut list)?.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (tools::root().join(name), scratch.join(name));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

/// Whether the engine's tests pass in the copy. A copy that does not compile says nothing.
fn passes(scratch: &Path, histories: u32) -> Result<bool> {
    let test = |more: &[&str]| {
        let mut command =
            tools::cargo(&["test", "--quiet", "--package", "farshore-domain", "--test", "rollout"]);
        command.args(more).current_dir(scratch);
        command
            .env("CARGO_TARGET_DIR", scratch.join("target"))
            .env("FARSHORE_HISTORIES", histories.to_string())
            .env("FARSHORE_SHRINK", "0")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("RUST_BACKTRACE", "0").stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    ensure!(test(&["--no-run"]).status()?.success(), "it does not compile");
    let skipped = ["--", "--skip", "scale::", "--skip", "fits_the_source"];
    // Most mutants are caught by the scenarios, in a second; the histories are for those that are not.
    let scenarios = [&skipped[..], &["--skip", "histories::", "--skip", "model::"]].concat();
    Ok(test(&scenarios).status()?.success() && test(&skipped).status()?.success())
}
