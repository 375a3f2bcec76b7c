//! The last step before an app: a process of its own that joins the app's control groups, leaves the supervisor's session,
//! gives up every privilege and becomes the app.
//!
//! It is its own program run because a fork in a running program may call almost nothing safely.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use farshore_domain::release::kind::Kind;

use super::cgroup;
use super::isolate::{self, IsolateError};
use super::spec::{ShimStatus, Spec};
use crate::file;

/// Beside the specification: why an app that is to be kept apart was not executed, and what its supervisor says of it.
const FAILED: &str = "failed";
const STATUS: &str = "status.json";

/// Why the app was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("the specification can't be read")]
    Spec(#[source] std::io::Error),
    #[error("the specification is damaged")]
    Damaged,
    #[error("the app's session, groups or privileges can't be set")]
    Prepare(#[source] std::io::Error),
    #[error("it can't be kept apart as it has to be")]
    Isolate(#[from] IsolateError),
    #[error("the program can't be executed")]
    Exec(#[source] std::io::Error),
}

/// What of a specification to become.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    App,
    /// A command check, by its name.
    Check(&'a str),
    /// A hook of the app's runtime, by its name.
    Hook(&'a str),
}

/// Becomes the app of the specification, or one of its command checks or hooks. Returns only when that fails.
///
/// # Errors
/// Always, when it returns.
pub fn become_app(spec: &Path, part: Part<'_>) -> Result<Infallible, ExecError> {
    let state = spec.parent().ok_or(ExecError::Damaged)?;
    let bytes =
        file::read_capped(spec, 64 * 1024 * 1024).map_err(ExecError::Spec)?.ok_or(ExecError::Damaged)?;
    let spec: Spec = serde_json::from_slice(&bytes).map_err(|_| ExecError::Damaged)?;
    // Before there is another view of the file system; it closes with the program that this becomes.
    let report = match part {
        Part::App if !spec.isolation.is_empty() => {
            Some(File::create(state.join(FAILED)).map_err(ExecError::Prepare)?)
        }
        _ => None,
    };
    let Err(error) = prepare(&spec, state, part).and_then(|app| run(&spec, app));
    if let Some(mut report) = report
        && let Err(error) = report.write_all(crate::chain(&error).as_bytes())
    {
        eprintln!("farshore-agent: what has failed can't be written down: {error}");
    }
    Err(error)
}

/// What the last start of an isolated app has failed for; none when it became the app.
pub(super) fn failed(spec: &Path) -> Option<String> {
    let bytes = file::read_capped(&spec.parent()?.join(FAILED), 64 * 1024).ok().flatten()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}

/// Leaves what it is not to have, and says what to execute.
fn prepare(spec: &Spec, state: &Path, part: Part<'_>) -> Result<Command, ExecError> {
    let command = match part {
        Part::App => &spec.command,
        Part::Hook(name) => spec.hooks.get(name).ok_or(ExecError::Damaged)?,
        Part::Check(name) => {
            let check = spec.checks.iter().find(|(check, _)| check.as_str() == name);
            &check.ok_or(ExecError::Damaged)?.1.command
        }
    };
    let (program, arguments) = command.split_first().ok_or(ExecError::Damaged)?;
    match rustix::process::setsid() {
        // systemd has given it a session of its own already.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(ExecError::Prepare(error.into())),
    }
    cgroup::join(&spec.cgroups).map_err(ExecError::Prepare)?;
    let place = spec.folder.ancestors().nth(2).ok_or(ExecError::Damaged)?;
    match part {
        Part::Check(_) if !spec.isolation.is_empty() => {
            let status = file::read_capped(&state.join(STATUS), 1024 * 1024).map_err(ExecError::Spec)?;
            let status: ShimStatus =
                serde_json::from_slice(&status.ok_or(ExecError::Damaged)?).map_err(|_| ExecError::Damaged)?;
            isolate::join(&spec.isolation, place, status.process.ok_or(ExecError::Damaged)?)?;
        }
        _ => isolate::enter(&spec.isolation, place)?,
    }
    if spec.user.is_none() && !spec.isolation.is_empty() && rustix::process::geteuid().is_root() {
        isolate::bind_root()?;
    }
    rustix::thread::set_no_new_privs(true).map_err(|e| ExecError::Prepare(e.into()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    let mut app = Command::new(spec.folder.join(program));
    app.args(arguments).current_dir(&spec.folder).env_clear().envs(&spec.env);
    // systemd's own, where that has started it.
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && spec.run.as_ref().is_some_and(|run| run.kind == Kind::Systemd)
    {
        app.env("NOTIFY_SOCKET", socket);
    }
    if let Some(user) = spec.user {
        // Sets the groups to none but this one, too; capabilities go with the user id.
        app.uid(user.uid).gid(user.gid);
    }
    Ok(app)
}

/// Becomes it; in a namespace of processes of its own, stays beside it.
fn run(spec: &Spec, mut app: Command) -> Result<Infallible, ExecError> {
    isolate::install_seccomp(spec.isolation.seccomp())?;
    if spec.isolation.has_pid() {
        return isolate::first(app).map_err(ExecError::Exec);
    }
    Err(ExecError::Exec(app.exec()))
}
