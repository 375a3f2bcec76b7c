//! The page in `web/`: its tools (Node and npm), and what `package.json` can do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::tools::{self, Step};

/// Oldest versions that the page's tools run with (`engines` in web/package.json).
const NODE: Version = (20, 19);
const NPM: Version = (10, 0);
const NEEDED: &str = "Node 20.19 and npm 10 or newer";
/// What is fetched from the npm registry, into the target folder, where the machine's own is older.
const NODE_PACKAGE: &str = "node@22";
const NPM_PACKAGE: &str = "npm@11";

/// Major and minor.
type Version = (u32, u32);

/// The page's folder.
pub(crate) fn folder() -> PathBuf {
    tools::root().join("web")
}

#[derive(Debug, Deserialize)]
struct Package {
    #[serde(default)]
    scripts: std::collections::BTreeMap<String, String>,
}

/// The page's scripts; nothing while there is no page.
fn package() -> Result<Option<Package>> {
    let path = folder().join("package.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).context("cannot read web/package.json")?;
    Ok(Some(serde_json::from_str(&text).context("web/package.json is no package")?))
}

/// Lints and types.
///
/// # Errors
/// When they find something, or the tools cannot be had.
pub(crate) fn check() -> Result<Step> {
    script("check")
}

/// Unit tests.
///
/// # Errors
/// As [`check`].
pub(crate) fn test() -> Result<Step> {
    script("test")
}

/// The whole product in a browser, by Playwright. The programs are built first; the tests find them in
/// `FARSHORE_BIN_DIR` and the browser in `CHROMIUM` (or where Playwright itself keeps one).
///
/// # Errors
/// As [`check`].
pub(crate) fn end_to_end() -> Result<Step> {
    let Some(package) = package()? else { return Ok(no_page()) };
    if !package.scripts.contains_key("e2e") {
        return Ok(Step::Skipped("web/package.json has no script \"e2e\"".into()));
    }
    let npm = Npm::find()?;
    build_page(&npm)?;
    let programs = tools::build_programs(false)?;
    // Every view with axe, and what the page does, against the stand-in server; then real processes.
    for script in ["e2e:mock", "e2e"] {
        let mut command = npm.command(&["run", script]);
        command.env("FARSHORE_BIN_DIR", &programs);
        if let Some(chromium) = tools::which("chromium").or_else(|| tools::which("chromium-browser")) {
            command.env("CHROMIUM", chromium);
        }
        tools::run(&mut command)?;
    }
    Ok(Step::Done)
}

/// Runs one script of the page, if there is a page that has it.
///
/// # Errors
/// When it fails.
pub(crate) fn script(name: &str) -> Result<Step> {
    let Some(package) = package()? else { return Ok(no_page()) };
    if !package.scripts.contains_key(name) {
        return Ok(Step::Skipped(format!("web/package.json has no script \"{name}\"")));
    }
    let npm = Npm::find()?;
    npm.install()?;
    tools::run(&mut npm.command(&["run", name]))?;
    Ok(Step::Done)
}

fn no_page() -> Step {
    Step::Skipped("there is no web/package.json".into())
}

/// Builds the page into `web/dist`, unless that is newer than everything it is made from.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_page(npm: &Npm) -> Result<Step> {
    if package()?.is_none() {
        return Ok(no_page());
    }
    let built = fs::metadata(folder().join("dist/index.html")).and_then(|file| file.modified()).ok();
    if let Some(built) = built {
        let sources = ["src", "public", "index.html", "package.json", "package-lock.json", "vite.config.ts"];
        let newer = sources.iter().map(|name| folder().join(name)).any(|path| has_newer(&path, built));
        if !newer {
            return Ok(Step::Skipped("web/dist is up to date".into()));
        }
    }
    npm.install()?;
    tools::run(&mut npm.command(&["run", "build"]))?;
    Ok(Step::Done)
}

/// Whether a file, or any file in a folder, was changed after `time`. What cannot be read counts as changed, what does not
/// exist does not.
fn has_newer(path: &Path, time: std::time::SystemTime) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    if metadata.is_dir() {
        return fs::read_dir(path).map_or(true, |mut entries| {
            entries.any(|entry| entry.map_or(true, |entry| has_newer(&entry.path(), time)))
        });
    }
    metadata.modified().map_or(true, |modified| modified > time)
}

/// npm and the Node it runs on.
#[derive(Debug)]
pub(crate) struct Npm {
    /// Put in front of PATH when the machine's own are too old.
    private: Option<PathBuf>,
}

impl Npm {
    /// Finds Node and npm; fetches them where that may be done, and else says what to type.
    ///
    /// # Errors
    /// When they are missing or too old and cannot be fetched.
    pub(crate) fn find() -> Result<Self> {
        let machine = Self { private: None };
        if machine.is_new_enough() {
            return Ok(machine);
        }
        let tools_folder = tools::target().join("tools");
        let private = Self { private: Some(tools_folder.join("node_modules/.bin")) };
        if private.is_new_enough() {
            return Ok(private);
        }
        if tools::which("npm").is_none() {
            install_npm()?;
        }
        if machine.is_new_enough() {
            return Ok(machine);
        }
        eprintln!("{NEEDED} are needed; fetching them into {}", tools_folder.display());
        fs::create_dir_all(&tools_folder).context("cannot make a folder for Node")?;
        tools::run(
            Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"])
                .arg(&tools_folder)
                .args([NODE_PACKAGE, NPM_PACKAGE]),
        )?;
        if !private.is_new_enough() {
            bail!("{NEEDED} are needed; install them (https://nodejs.org) and try again");
        }
        Ok(private)
    }

    /// A command of npm in the page's folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program("npm");
        command.args(arguments).current_dir(folder());
        command
    }

    fn program(&self, name: &str) -> Command {
        let Some(private) = &self.private else { return Command::new(name) };
        let mut command = Command::new(private.join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(private.clone()).chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
    }

    fn is_new_enough(&self) -> bool {
        self.version("node") >= Some(NODE) && self.version("npm") >= Some(NPM)
    }

    fn version(&self, name: &str) -> Option<Version> {
        let output = self.program(name).arg("--version").stderr(Stdio::null()).output().ok()?;
        version(std::str::from_utf8(&output.stdout).ok()?)
    }

    /// Installs exactly what `package-lock.json` says, unless that is there already.
    ///
    /// # Errors
    /// When npm fails.
    pub(crate) fn install(&self) -> Result<()> {
        let modified = |name: &str| fs::metadata(folder().join(name)).and_then(|file| file.modified()).ok();
        // npm writes this file at the end of an installation.
        let installed = modified("node_modules/.package-lock.json");
        if installed.is_some() && installed >= modified("package-lock.json") {
            return Ok(());
        }
        tools::run(&mut self.command(&["ci", "--no-audit", "--no-fund"]))
    }
}

/// `v20.1.2` or `11.0.0` → the first two numbers.
fn version(text: &str) -> Option<Version> {
    let mut numbers = text.trim().trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Installs Debian's Node and npm, which can fetch newer ones.
fn install_npm() -> Result<()> {
    let type_this = "sudo apt-get install --no-install-recommends nodejs npm";
    if !tools::is_root() || tools::which("apt-get").is_none() {
        bail!("npm is missing; type: {type_this}\n(or install {NEEDED} from https://nodejs.org)");
    }
    let apt = |arguments: &[&str]| {
        tools::run(
            Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdin(Stdio::null()),
        )
    };
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", "nodejs", "npm"])
        .with_context(|| format!("npm is missing and could not be installed; type: {type_this}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("v20.20.2\n"), Some((20, 20)));
        assert_eq!(version("11.19.1"), Some((11, 19)));
        assert_eq!(version(""), None);
        assert!(version("v20.9.0") < Some(NODE) && version("9.2.0") < Some(NPM) && None < Some(NPM));
    }
}
