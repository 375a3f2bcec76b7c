//! What the verbs share: where things are, and how another program is run and its failure told.

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The repository's root folder.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Cargo's target folder, as cargo itself would choose it.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// A cargo command in the repository's root.
///
/// What `cargo run` told *this* program about itself is taken out of the environment: build scripts that watch those
/// variables would otherwise run again each time a build is started from here instead of from a shell.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        });
        if ours {
            command.env_remove(name);
        }
    }
    command
}

/// The packages of the programs that run together, as arguments for cargo.
pub(crate) const PROGRAMS: [&str; 6] = ["-p", "farshore", "-p", "farshore-agent", "-p", "edge-web-service"];

/// Builds the programs that run together, into the target folder's `debug` or `release`, and returns that folder.
///
/// Always these three at once: cargo chooses features for all packages that it is told of, so that each on its own would be
/// another build of half the dependencies.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_programs(release: bool) -> Result<PathBuf> {
    let mut build =
        cargo(&["build", "--locked", "-p", "farshore", "-p", "farshore-agent", "-p", "edge-web-service"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(target().join(if release { "release" } else { "debug" }))
}

/// Shows the command, runs it with this terminal, and fails if it fails.
///
/// # Errors
/// When the program cannot be started or ends with another status than 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it wrote to stdout; its stderr is shown.
///
/// # Errors
/// When it cannot be started, fails, or writes something that is not UTF-8.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", shown(command)))
}

/// A command as one could type it (arguments with spaces in quotes; for people, not for a shell).
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(program).chain(command.get_args()).map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains(' ') { format!("'{word}'") } else { word.into_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Finds an executable file on PATH.
pub(crate) fn which(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = name.as_ref();
    // The folders of system tools are missing from an ordinary user's PATH on Debian.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

/// Whether this is a file that may be executed by somebody.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// Whether this is a build machine (`CI` is set and not "false"): there, what is missing is a failure, not a remark.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false")
}

/// Asks until the answer is yes or the time is over; says which.
///
/// # Errors
/// When asking fails.
pub(crate) fn wait_until(time: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begin = Instant::now();
    loop {
        if ask()? {
            return Ok(true);
        }
        if begin.elapsed() >= time {
            return Ok(false);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// How one step ended.
#[derive(Debug)]
pub(crate) enum Step {
    Done,
    /// Not done, and why; a person should read it, but it is no failure.
    Skipped(String),
}

/// Runs named steps one after another, goes on after a failure, and fails at the end with the names of all that failed.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    lines: Vec<String>,
    failed: Vec<String>,
}

impl Steps {
    pub(crate) fn step(&mut self, name: &str, step: impl FnOnce() -> Result<Step>) {
        eprintln!("\n== {name}");
        let begin = Instant::now();
        let outcome = step();
        let seconds = begin.elapsed().as_secs_f32();
        let line = match outcome {
            Ok(Step::Done) => format!("ok       {name} ({seconds:.1} s)"),
            Ok(Step::Skipped(why)) => format!("skipped  {name}: {why}"),
            Err(error) => {
                self.failed.push(name.to_owned());
                format!("FAILED   {name} ({seconds:.1} s): {error:#}")
            }
        };
        eprintln!("{line}");
        self.lines.push(line);
    }

    /// # Errors
    /// When a step failed; the message names the steps.
    pub(crate) fn finish(self, verb: &str) -> Result<()> {
        eprintln!("\n== {verb}");
        for line in &self.lines {
            eprintln!("{line}");
        }
        if self.failed.is_empty() {
            return Ok(());
        }
        bail!("{verb} failed: {}", self.failed.join(", "))
    }
}

/// This program's file. Building the tests may have put a new one in its place while this one runs; Linux then says that the old one
/// is deleted, and the new one does as well.
///
/// # Errors
/// When there is none.
pub(crate) fn this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let replaced = program.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.filter(|path| path.is_file()).unwrap_or(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_hide_the_next_one_and_is_named_at_the_end() {
        let mut steps = Steps::default();
        let mut reached = false;
        steps.step("first", || bail!("broken"));
        steps.step("second", || {
            reached = true;
            Ok(Step::Done)
        });
        let error = steps.finish("check").expect_err("a step failed");
        assert!(reached);
        assert_eq!(error.to_string(), "check failed: first");
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "a b", ""]);
        assert_eq!(shown(&command), "cargo test 'a b' ''");
    }
}
