//! What the arguments and the environment say.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// Longest version or greeting that is shown, in characters; the rest is cut off.
const MAX_TEXT: usize = 200;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    Serve(Settings),
    Version(String),
    Help,
}

/// How the service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) listen: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) version: String,
    pub(crate) greeting: String,
    pub(crate) hostname: String,
    pub(crate) fail_health_when: Option<Condition>,
    pub(crate) unhealthy_after: Option<Duration>,
    pub(crate) crash_after: Option<Duration>,
}

/// `NAME=VALUE` of `FAIL_HEALTH_WHEN`, and what NAME was when the service started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) holds: bool,
}

/// Why the service did not start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SettingsError {
    UnknownArgument(String),
    MissingValue(&'static str),
    NotANumber { name: &'static str, value: String },
    NotAnAddress(String),
    NotACondition(String),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownArgument(argument) => write!(f, "unknown argument {argument:?}"),
            Self::MissingValue(name) => write!(f, "{name} needs a value"),
            Self::NotANumber { name, value } => {
                write!(f, "{name} is {value:?}, which is not a number in range")
            }
            Self::NotAnAddress(value) => write!(f, "--listen is {value:?}, which is not an IPv4 address"),
            Self::NotACondition(value) => write!(f, "FAIL_HEALTH_WHEN is {value:?}; write NAME=VALUE"),
        }
    }
}

/// Reads the settings. `environment` looks a variable up, so that a test needs no process-wide state.
///
/// # Errors
/// Names the argument or variable that cannot be understood: a misspelt setting must not start a service that then
/// behaves otherwise than its operator thinks.
pub(crate) fn parse(
    arguments: impl Iterator<Item = String>,
    environment: &dyn Fn(&str) -> Option<String>,
    program: Option<&Path>,
) -> Result<Invocation, SettingsError> {
    let mut port = None;
    let mut listen = Ipv4Addr::LOCALHOST;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let (name, mut value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        match name {
            "--help" | "-h" => return Ok(Invocation::Help),
            "--version" | "-V" => return Ok(Invocation::Version(version(environment, program))),
            "--port" => {
                let value = value.take().or_else(|| arguments.next());
                port = Some(number("--port", value.ok_or(SettingsError::MissingValue("--port"))?)?);
            }
            "--listen" => {
                let value = value.take().or_else(|| arguments.next());
                let value = value.ok_or(SettingsError::MissingValue("--listen"))?;
                listen = value.parse().map_err(|_| SettingsError::NotAnAddress(value))?;
            }
            _ => return Err(SettingsError::UnknownArgument(argument)),
        }
    }
    let port = match (port, environment("PORT")) {
        (Some(port), _) => port,
        (None, Some(port)) => number("PORT", port)?,
        (None, None) => 8080,
    };
    let milliseconds = |name: &'static str| match environment(name) {
        Some(value) => number(name, value).map(|ms| Some(Duration::from_millis(ms))),
        None => Ok(None),
    };
    let fail_health_when = match environment("FAIL_HEALTH_WHEN").filter(|text| !text.is_empty()) {
        Some(text) => Some(condition(text, environment)?),
        None => None,
    };
    Ok(Invocation::Serve(Settings {
        listen,
        port,
        version: version(environment, program),
        greeting: clip(&environment("GREETING").unwrap_or_else(|| "Hello from the edge".to_owned())),
        hostname: hostname(),
        fail_health_when,
        unhealthy_after: milliseconds("UNHEALTHY_AFTER_MS")?,
        crash_after: milliseconds("CRASH_AFTER_MS")?,
    }))
}

fn number<N: std::str::FromStr>(name: &'static str, value: String) -> Result<N, SettingsError> {
    value.trim().parse().map_err(|_| SettingsError::NotANumber { name, value })
}

fn condition(text: String, environment: &dyn Fn(&str) -> Option<String>) -> Result<Condition, SettingsError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let holds = environment(name).as_deref() == Some(value);
            Ok(Condition { name: name.to_owned(), value: value.to_owned(), holds })
        }
        _ => Err(SettingsError::NotACondition(text)),
    }
}

/// The version of this release: `APP_VERSION`, else `version.txt` in the release folder (the program lies in it or in
/// its `bin/`), else the version it was built as.
fn version(environment: &dyn Fn(&str) -> Option<String>, program: Option<&Path>) -> String {
    if let Some(version) = environment("APP_VERSION").filter(|version| !version.trim().is_empty()) {
        return clip(version.trim());
    }
    let folder = program.and_then(Path::parent);
    let beside = folder.map(|folder| folder.join("version.txt"));
    let above = folder
        .filter(|folder| folder.file_name() == Some(OsStr::new("bin")))
        .and_then(Path::parent)
        .map(|folder| folder.join("version.txt"));
    let written = [beside, above].into_iter().flatten().find_map(|path| first_line(&path));
    written.unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
}

fn hostname() -> String {
    first_line(Path::new("/proc/sys/kernel/hostname")).unwrap_or_else(|| "unknown".to_owned())
}

/// The first line of a small text file; nothing when it cannot be read or is empty.
fn first_line(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| clip(line))
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Invocation, SettingsError> {
        let lookup = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        parse(arguments.iter().map(|argument| (*argument).to_owned()), &lookup, None)
    }

    fn settings(arguments: &[&str], environment: &[(&str, &str)]) -> Settings {
        match parse_with(arguments, environment) {
            Ok(Invocation::Serve(settings)) => settings,
            other => panic!("expected settings, got {other:?}"),
        }
    }

    #[test]
    fn the_argument_wins_over_the_environment() {
        assert_eq!(settings(&["--port", "0"], &[("PORT", "9000")]).port, 0);
        assert_eq!(settings(&["--port=81"], &[("PORT", "9000")]).port, 81);
        assert_eq!(settings(&[], &[("PORT", "9000")]).port, 9000);
    }

    #[test]
    fn misspelt_settings_are_refused_by_name() {
        assert_eq!(
            parse_with(&["--prot", "1"], &[]),
            Err(SettingsError::UnknownArgument("--prot".to_owned()))
        );
        assert_eq!(parse_with(&["--port"], &[]), Err(SettingsError::MissingValue("--port")));
        assert_eq!(
            parse_with(&["--port", "65536"], &[]),
            Err(SettingsError::NotANumber { name: "--port", value: "65536".to_owned() })
        );
        assert_eq!(
            parse_with(&[], &[("CRASH_AFTER_MS", "soon")]),
            Err(SettingsError::NotANumber { name: "CRASH_AFTER_MS", value: "soon".to_owned() })
        );
        assert_eq!(
            parse_with(&[], &[("FAIL_HEALTH_WHEN", "LOCATION")]),
            Err(SettingsError::NotACondition("LOCATION".to_owned()))
        );
    }

    #[test]
    fn the_condition_compares_whole_values() {
        let holds = |location: Option<&str>| {
            let mut environment = vec![("FAIL_HEALTH_WHEN", "LOCATION=store-1")];
            environment.extend(location.map(|value| ("LOCATION", value)));
            settings(&[], &environment).fail_health_when.map(|condition| condition.holds)
        };
        assert_eq!(holds(Some("store-1")), Some(true));
        assert_eq!(holds(Some("store-12")), Some(false));
        assert_eq!(holds(None), Some(false));
        assert_eq!(settings(&[], &[]).fail_health_when, None);
    }

    #[test]
    fn the_version_comes_from_the_release_folder() {
        let folder = std::env::temp_dir().join(format!("edge-web-service-version-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("bin")).expect("temp folder");
        std::fs::write(folder.join("version.txt"), "1.7.3\nnot this\n").expect("version file");
        let nothing = |_: &str| None;
        assert_eq!(version(&nothing, Some(&folder.join("edge-web-service"))), "1.7.3");
        assert_eq!(version(&nothing, Some(&folder.join("bin/edge-web-service"))), "1.7.3");
        let given = |name: &str| (name == "APP_VERSION").then(|| "2.0".to_owned());
        assert_eq!(version(&given, Some(&folder.join("edge-web-service"))), "2.0");
        std::fs::remove_dir_all(&folder).expect("remove temp folder");
        assert_eq!(version(&nothing, Some(&folder.join("edge-web-service"))), env!("CARGO_PKG_VERSION"));
    }
}
