//! `cargo xtask fuzz`: every decoder of foreign bytes under libFuzzer, guided by coverage, for a bounded time.
//!
//! It builds with the ordinary compiler: the passes that `cargo fuzz` asks of a nightly one are options of stable rustc as long as no sanitizer is wanted,
//! and there is no unsafe code here for one to look into. `--target` keeps the counters out of build scripts. The corpus that is checked in is read only;
//! what a run learns is kept in `target/fuzz/corpus`, what breaks a decoder in `target/fuzz/findings`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use crate::metadata::Metadata;
use crate::tools::{self, Step};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What `cargo fuzz build --sanitizer none` sets: counters for each edge, and what is compared with what.
const COVERAGE: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// No decoder needs more memory than this, and none takes longer for one input.
const MAX_RESIDENT_MB: u32 = 512;
const MAX_INPUT_SECONDS: u32 = 10;
/// Long enough for every form; what is larger is refused by its size, which the ordinary tests see to.
const MAX_INPUT_BYTES: u32 = 64 * 1024;
/// Seconds for each target in `cargo xtask check`.
const SECONDS_IN_CHECK: u32 = 3;
/// What the fuzzer itself needs beside what the product is made of.
const OF_THE_FUZZER: &[&str] = &["farshore-fuzz", "libfuzzer-sys", "arbitrary", "jobserver"];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these decoders (names in fuzz/fuzz_targets); all, when none is named
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Run one input through one decoder, and show what it does
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    for name in &arguments.targets {
        ensure!(known.contains(name), "there is no decoder {name:?}; there are {}", known.join(", "));
    }
    let wanted = if arguments.targets.is_empty() { known } else { arguments.targets.clone() };
    if let Some(input) = &arguments.input {
        let [name] = wanted.as_slice() else { bail!("name the one decoder that is to read the input") };
        let input = std::path::absolute(input)?;
        ensure!(input.is_file(), "{} is no file", input.display());
        let program = build(&wanted)?.join(name);
        let mut command = Command::new(program);
        return tools::run(
            command.arg(input).args(limits()).current_dir(folder()?).env("RUST_BACKTRACE", "1"),
        );
    }
    if let Step::Skipped(why) = fuzz(&wanted, arguments.seconds, true)? {
        bail!("{why}");
    }
    Ok(())
}

/// The short form, for the check.
///
/// # Errors
/// When a decoder breaks.
pub(crate) fn check() -> Result<Step> {
    check_lock()?;
    fuzz(&targets()?, SECONDS_IN_CHECK, false)
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let folder = tools::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "{} has no targets", folder.display());
    Ok(names)
}

fn folder() -> Result<PathBuf> {
    let folder = tools::target().join("fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Builds these targets and returns the folder of their programs.
fn build(names: &[String]) -> Result<PathBuf> {
    let mut command = tools::cargo(&["build", "--release", "--locked", "--target", TRIPLE]);
    for name in names {
        command.args(["--bin", name]);
    }
    command.current_dir(tools::root().join("fuzz"));
    command.env("CARGO_TARGET_DIR", folder()?).env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    // Assertions of ring and of what is written in C are not looked for.
    command.env_remove("RUSTFLAGS");
    tools::run(&mut command)?;
    Ok(folder()?.join(TRIPLE).join("release"))
}

fn limits() -> [String; 2] {
    [format!("-rss_limit_mb={MAX_RESIDENT_MB}"), format!("-timeout={MAX_INPUT_SECONDS}")]
}

/// `keep`: what is learned stays for the next run.
fn fuzz(names: &[String], seconds: u32, keep: bool) -> Result<Step> {
    if tools::which("c++").is_none() {
        let why = "there is no C++ compiler for libFuzzer (apt-get install g++)";
        if tools::is_ci() {
            bail!("{why}");
        }
        return Ok(Step::Skipped(why.into()));
    }
    let programs = build(names)?;
    let learned = if keep {
        Learned::Kept(folder()?.join("corpus"))
    } else {
        Learned::Thrown(tempfile::tempdir().context("cannot make a temporary folder")?)
    };
    let open = Mutex::new(names.iter().rev().collect::<Vec<_>>());
    let broken = Mutex::new(BTreeMap::new());
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(names.len()) {
            scope.spawn(|| {
                while let Some(name) = take(&open) {
                    match fuzz_one(&programs, name, learned.path(), seconds) {
                        Ok(line) => eprintln!("{line}"),
                        Err(error) => {
                            eprintln!("{name}: {error:#}");
                            let mut broken = broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            broken.insert(name.clone(), format!("{error:#}"));
                        }
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if broken.is_empty() {
        return Ok(Step::Done);
    }
    bail!("{}", broken.into_values().collect::<Vec<_>>().join("\n  "))
}

fn take<'n>(open: &Mutex<Vec<&'n String>>) -> Option<&'n String> {
    open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
}

enum Learned {
    Kept(PathBuf),
    Thrown(tempfile::TempDir),
}

impl Learned {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Thrown(folder) => folder.path(),
        }
    }
}

/// Runs one target; says in a line what it did.
fn fuzz_one(programs: &Path, name: &str, learned: &Path, seconds: u32) -> Result<String> {
    let corpus = tools::root().join("fuzz/corpus").join(name);
    ensure!(corpus.is_dir(), "{} is missing: a target needs a few inputs to begin with", corpus.display());
    let learned = learned.join(name);
    let findings = folder()?.join("findings").join(name);
    for folder in [&learned, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // New inputs go to the first folder only.
    let mut command = Command::new(programs.join(name));
    command.arg(&learned).arg(&corpus).args(limits()).args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={MAX_INPUT_BYTES}"),
        format!("-artifact_prefix={}/", findings.display()),
        "-print_final_stats=1".to_owned(),
    ]);
    let output = command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", programs.join(name).display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(summary(name, &said, seconds));
    }
    let shown: Vec<&str> = said.lines().collect();
    for line in &shown[shown.len().saturating_sub(60)..] {
        eprintln!("  {line}");
    }
    let mut message = format!("{name} does not hold ({})", output.status);
    match finding(&said) {
        Some(path) => write!(
            message,
            ": its input is in {path}; again: cargo xtask fuzz {name} --input {path}; once mended, it goes into fuzz/corpus/{name}/ under a name that says what it is"
        )?,
        None => message.push_str(", and it left no input"),
    }
    bail!(message)
}

/// The file that libFuzzer says it has written an input to.
fn finding(said: &str) -> Option<&str> {
    said.lines().filter_map(|line| line.split("Test unit written to ").nth(1)).next_back().map(str::trim)
}

fn summary(name: &str, said: &str, seconds: u32) -> String {
    let figure = |key: &str| {
        let line = said.lines().rev().find_map(|line| line.strip_prefix(key))?;
        line.trim_start_matches([':', ' ']).split_whitespace().next().map(str::to_owned)
    };
    let unknown = || "?".to_owned();
    let covered = said.lines().rev().find_map(|line| line.split(" cov: ").nth(1)?.split_whitespace().next());
    format!(
        "{name}: {} inputs in {seconds} s, {} places covered, peak {} MB",
        figure("stat::number_of_executed_units").unwrap_or_else(unknown),
        covered.unwrap_or("?"),
        figure("stat::peak_rss_mb").unwrap_or_else(unknown),
    )
}

fn lock() -> PathBuf {
    tools::root().join("fuzz/Cargo.lock")
}

/// What is wrong with the lock of the fuzzing workspace: it has the versions that the product has.
fn lock_problem() -> Result<Option<String>> {
    let committed = fs::read_to_string(lock()).unwrap_or_default();
    let product =
        packages(&fs::read_to_string(tools::root().join("Cargo.lock")).context("cannot read Cargo.lock")?);
    let other = packages(&committed).into_iter().find(|package| {
        !product.contains(package) && !OF_THE_FUZZER.contains(&package.split(' ').next().unwrap_or_default())
    });
    if let Some(package) = other {
        return Ok(Some(format!("it has {package}, which Cargo.lock has not")));
    }
    let mut fits = tools::cargo(&["metadata", "--format-version=1", "--locked"]);
    fits.current_dir(tools::root().join("fuzz")).stdout(Stdio::null()).stderr(Stdio::null());
    Ok((!fits.status().context("cannot start cargo")?.success())
        .then(|| "it does not fit the manifests".to_owned()))
}

/// Name and version of each package of a lock file.
fn packages(lock: &str) -> std::collections::BTreeSet<String> {
    let value =
        |line: &str, key: &str| line.strip_prefix(key).map(|value| value.trim_matches('"').to_owned());
    let mut found = std::collections::BTreeSet::new();
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(found) = value(line, "name = ") {
            name = found;
        } else if let Some(version) = value(line, "version = ").filter(|_| !name.is_empty()) {
            found.insert(format!("{name} {version}"));
            name.clear();
        }
    }
    found
}

fn check_lock() -> Result<()> {
    if let Some(problem) = lock_problem()? {
        bail!("fuzz/Cargo.lock is out of date ({problem}); type: cargo xtask gen");
    }
    // Licences and sources of what only the fuzzer needs.
    crate::check::dependencies_of(&Metadata::load_in("fuzz")?)
}

/// Writes fuzz/Cargo.lock anew where it is out of date: the product's versions, and the fuzzer's own.
///
/// # Errors
/// When cargo can't.
pub(crate) fn generate() -> Result<()> {
    if lock_problem()?.is_none() {
        return Ok(());
    }
    fs::copy(tools::root().join("Cargo.lock"), lock()).context("cannot write fuzz/Cargo.lock")?;
    let mut resolve = tools::cargo(&["metadata", "--format-version=1"]);
    tools::output(resolve.current_dir(tools::root().join("fuzz")))?;
    if let Some(problem) = lock_problem()? {
        bail!("fuzz/Cargo.lock can't be made to fit: {problem}");
    }
    eprintln!("wrote {}", lock().display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_says_is_read() {
        let said = "#12\tNEW    cov: 310 ft: 400 corp: 3/9b\nDone 90 runs in 4 second(s)\n#90\tDONE   cov: 412 ft: 7 corp\n\
                    stat::number_of_executed_units: 90\nstat::peak_rss_mb:              55\n";
        assert_eq!(summary("rows", said, 4), "rows: 90 inputs in 4 s, 412 places covered, peak 55 MB");
        let broken = "panicked at x\nartifact_prefix='/t/'; Test unit written to /t/crash-1\nBase64: AA==\n";
        assert_eq!(finding(broken), Some("/t/crash-1"));
        assert_eq!(finding("nothing"), None);
    }

    #[test]
    fn packages_of_a_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\ndependencies = [\n \"b 2\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
        assert_eq!(packages(lock).into_iter().collect::<Vec<_>>(), ["a 1.0.0", "b 2.0.0"]);
    }
}
