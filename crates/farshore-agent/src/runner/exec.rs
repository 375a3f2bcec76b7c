//! The last step before an app: a process of its own that joins the app's control groups, leaves the supervisor's session,
//! gives up every privilege and becomes the app.
//!
//! It is its own program run because a fork in a running program may call almost nothing safely.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use farshore_domain::release::kind::Kind;

use super::cgroup;
use super::spec::Spec;
use crate::file;

/// Why the app was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("the specification can't be read")]
    Spec(#[source] std::io::Error),
    #[error("the specification is damaged")]
    Damaged,
    #[error("the app's session, groups or privileges can't be set")]
    Prepare(#[source] std::io::Error),
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
pub fn become_app(spec: &Path, part: Part<'_>) -> Result<std::convert::Infallible, ExecError> {
    let bytes =
        file::read_capped(spec, 64 * 1024 * 1024).map_err(ExecError::Spec)?.ok_or(ExecError::Damaged)?;
    let spec: Spec = serde_json::from_slice(&bytes).map_err(|_| ExecError::Damaged)?;
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
    Err(ExecError::Exec(app.exec()))
}
