//! Commands from afar: runbooks of the signed policy, and any command where the policy says so. One at a time, as an unprivileged user, in a
//! control group and with a time limit; what is left of it is killed when it ends, when whoever asked hangs up, and when the runner begins.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_domain::name::Name;
use farshore_domain::operation::{
    Arguments, DEFAULT_TIMEOUT_SECONDS, EXEC_OUTPUT_BYTES, Kind, MAX_TIMEOUT_SECONDS, permitted,
};
use farshore_domain::release::Limits;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::apps::Apps;
use super::cgroup;
use super::error::RunnerError;
use super::exec::ExecError;
use super::shim::kill_leftovers;
use super::spec::signal_group;
use super::users::Identity;
use super::wire::{self, Reply};
use super::{Shared, cgroup::Cgroups, inside};
use crate::{clock, file};

/// The variable by which processes of a command are known.
pub(super) const MARK: &str = "FARSHORE_OPERATION";
/// What a command may use, besides time.
const LIMITS: Limits = Limits { memory_bytes: Some(256 << 20), cpu_millis: Some(1_000), processes: Some(64) };
/// How long what is left of a command may take to die.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Output after the command's end (of a child that kept the pipe) is read for so long.
const DRAIN: Duration = Duration::from_millis(500);

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// The operation's uid.
    pub operation: String,
    /// A command is run inside this app's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<Name>,
    pub arguments: Arguments,
    pub reason: String,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// None when a signal ended it.
    pub exit_code: Option<i32>,
    /// Empty when it ended with 0.
    pub message: String,
    /// Bytes of output, those that were not told included.
    pub total: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Spec {
    operation: String,
    command: Vec<String>,
    folder: PathBuf,
    user: Option<Identity>,
    cgroups: Vec<PathBuf>,
}

/// Becomes the command of the specification. Returns only when that fails.
///
/// # Errors
/// Always, when it returns.
pub fn become_command(spec: &Path) -> Result<std::convert::Infallible, ExecError> {
    let bytes = file::read_capped(spec, 1024 * 1024).map_err(ExecError::Spec)?.ok_or(ExecError::Damaged)?;
    let spec: Spec = serde_json::from_slice(&bytes).map_err(|_| ExecError::Damaged)?;
    let (program, arguments) = spec.command.split_first().ok_or(ExecError::Damaged)?;
    let stays_root = rustix::process::geteuid().is_root() && spec.user.is_none_or(|user| user.uid == 0);
    if stays_root {
        return Err(ExecError::Prepare(std::io::Error::other("a command from afar never runs as root")));
    }
    let prepare = |e: rustix::io::Errno| ExecError::Prepare(e.into());
    rustix::process::setsid().map_err(prepare)?;
    cgroup::join(&spec.cgroups).map_err(ExecError::Prepare)?;
    rustix::thread::set_no_new_privs(true).map_err(prepare)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(prepare)?;
    // While it may still be entered.
    std::env::set_current_dir(&spec.folder).map_err(ExecError::Prepare)?;
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", &spec.folder)
        .env("LANG", "C.UTF-8")
        .env(MARK, &spec.operation);
    if let Some(user) = spec.user {
        // Sets the groups to none but this one, too; capabilities go with the user id.
        command.uid(user.uid).gid(user.gid);
    }
    Err(ExecError::Exec(command.exec()))
}

/// Where commands get their folders.
pub(super) fn folder(apps: &Path) -> PathBuf {
    apps.join(".exec")
}

/// Ends what a runner that was killed, or a containerd that did not answer, has left behind.
pub(super) async fn clear(apps: &Path, cgroups: &Cgroups, user: Option<Identity>) {
    let Ok(entries) = std::fs::read_dir(folder(apps)) else { return };
    for entry in entries.flatten() {
        if let Some(group) = entry.file_name().to_str().and_then(|name| Name::new(name).ok()) {
            inside::clear(&entry.path(), &group).await;
            end(group.as_str(), user, &cgroups.folders(group.as_str())).await;
            cgroups.remove(group.as_str());
        }
        delete(&entry.path());
    }
}

/// Deletes a command's folder, unless it is needed to end what is left of it.
fn delete(place: &Path) {
    if inside::is_left(place) {
        return;
    }
    if let Err(error) = std::fs::remove_dir_all(place) {
        tracing::warn!(%error, "the folder of a command can't be deleted");
    }
}

/// Kills what is left of a command: its group, its control groups, and whatever else carries its mark.
pub(super) async fn end(operation: &str, user: Option<Identity>, cgroups: &[PathBuf]) {
    if !kill_leftovers(None, "", cgroups).await {
        tracing::warn!("processes of a command can't be killed");
    }
    let uid = user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    let deadline = Instant::now() + GONE_WITHIN;
    while kill_marked(operation, uid) && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
    }
}

/// Kills every process of the commands' user that has this operation in its environment, where there are no control groups to know it by; says
/// whether there was one.
fn kill_marked(operation: &str, uid: u32) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    let mark = format!("{MARK}={operation}");
    let mut any = false;
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        if !entry.metadata().is_ok_and(|meta| meta.uid() == uid) {
            continue;
        }
        let environ = file::read_capped(&entry.path().join("environ"), 1024 * 1024).ok().flatten();
        let marked =
            environ.is_some_and(|env| env.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()));
        any |= marked && kill_process(pid, Signal::KILL).is_ok();
    }
    any
}

fn describe(ended: ExitStatus) -> (Option<i32>, String) {
    use std::os::unix::process::ExitStatusExt;
    match (ended.code(), ended.signal()) {
        (Some(0), _) => (Some(0), String::new()),
        (Some(code), _) => (Some(code), format!("it ended with {code}")),
        (None, Some(signal)) => (None, format!("it was killed by signal {signal}")),
        (None, None) => (None, "it ended".to_owned()),
    }
}

pub(super) async fn forward(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 8 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if to.send(buffer.get(..count).unwrap_or_default().to_vec()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What an order comes to.
struct Granted {
    command: Vec<String>,
    seconds: u32,
    inside: Option<Inside>,
}

/// In which app's container, and in which of its services.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    pub(super) app: Name,
    pub(super) service: Option<Name>,
}

/// What of an order the signed policy allows, where it runs, and how long it may take.
fn allowed(shared: &Shared, order: &Order) -> Result<Granted, RunnerError> {
    let refuse = RunnerError::NotAllowed;
    let Order { operation, app, arguments, reason } = order;
    Name::new(operation.as_str()).map_err(|_| refuse("the operation has no good uid".to_owned()))?;
    arguments.check(Kind::Exec, app.as_ref()).map_err(|error| refuse(error.to_string()))?;
    let anchored = shared.anchored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let rules = anchored.rules()?;
    drop(anchored);
    permitted(Kind::Exec, app.as_ref(), arguments, reason, &rules)
        .map_err(|refusal| refuse(refusal.message))?;
    let seconds = arguments.time_limit_seconds(Kind::Exec, &rules).clamp(1, MAX_TIMEOUT_SECONDS);
    let place = |app: &Option<Name>, service: &Option<Name>| {
        app.clone().map(|app| Inside { app, service: service.clone() })
    };
    if let Some(command) = &arguments.command {
        let command = ["/bin/sh", "-c", command.as_str()].map(str::to_owned).to_vec();
        let seconds = arguments.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        return Ok(Granted { command, seconds, inside: place(app, &arguments.service) });
    }
    let runbook = arguments.runbook.as_ref().and_then(|name| rules.runbook(name.as_str()));
    let runbook = runbook.ok_or_else(|| refuse("no such runbook".to_owned()))?;
    let command = runbook.command_with(&arguments.arguments).map_err(|error| refuse(error.to_string()))?;
    Ok(Granted { command, seconds, inside: place(&runbook.app, &runbook.service) })
}

/// Runs an order, telling its output as it comes. Hanging up ends it.
pub(super) async fn run(
    shared: &Shared,
    stream: &mut UnixStream,
    order: Order,
) -> Result<Ended, RunnerError> {
    let Granted { command, seconds, inside } = allowed(shared, &order)?;
    // One at a time: what is left of one is known by its user.
    let _turn = shared.commands.lock().await;
    let user = shared.apps.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner).of_commands()?;
    clear(&shared.apps.folder, &shared.apps.cgroups, user).await;
    let group = Name::new(order.operation.as_str())
        .map_err(|_| RunnerError::NotAllowed("the operation has no good uid".to_owned()))?;
    let home = folder(&shared.apps.folder);
    let making = |e| RunnerError::io("making the command's folder", e);
    file::make_folder(&home, 0o711).map_err(making)?;
    let place = home.join(group.as_str());
    file::make_folder(&place, 0o700).map_err(making)?;
    tracing::info!(operation = %order.operation, command = ?command.first(), "a command from afar begins");
    let ended = match inside {
        Some(inside) => {
            let work =
                inside::Command { operation: &order.operation, words: &command, seconds, place: &place };
            inside::run(&shared.apps, stream, &inside, work).await
        }
        None => run_beside(&shared.apps, stream, &group, command, seconds, &place).await,
    };
    delete(&place);
    if let Ok(Ended { exit_code, total, .. }) = &ended {
        tracing::info!(?exit_code, total, at = clock::wall().0, "a command from afar ended");
    }
    ended
}

/// Beside the apps, as a user that no app has.
async fn run_beside(
    apps: &Apps,
    stream: &mut UnixStream,
    group: &Name,
    command: Vec<String>,
    seconds: u32,
    place: &Path,
) -> Result<Ended, RunnerError> {
    let user = apps.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner).of_commands()?;
    let io = |what| move |e| RunnerError::io(what, e);
    let work = place.join("work");
    file::make_folder(&work, 0o700).map_err(io("making the command's folder"))?;
    // The specification lies above, where the command can't write.
    file::make_folder(place, 0o711).map_err(io("making the command's folder"))?;
    let cgroups =
        apps.cgroups.prepare(group.as_str(), &LIMITS).map_err(io("setting the command's limits"))?;
    if let Some(user) = user {
        std::os::unix::fs::chown(&work, Some(user.uid), Some(user.gid))
            .map_err(io("giving the command its folder"))?;
    }
    let spec = Spec { operation: group.to_string(), command, folder: work, user, cgroups: cgroups.clone() };
    let bytes = serde_json::to_vec(&spec).map_err(|e| RunnerError::io("writing the command", e.into()))?;
    let path = place.join("spec.json");
    file::write_atomically(&path, &bytes, 0o600).map_err(io("writing the command"))?;
    let child = Command::new(&apps.program)
        .arg("command-exec")
        .arg(&path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(io("starting the command"));
    let ended = match child {
        Ok(child) => follow_child(stream, child, seconds).await,
        Err(error) => Err(error),
    };
    end(group.as_str(), user, &cgroups).await;
    apps.cgroups.remove(group.as_str());
    ended
}

async fn follow_child(stream: &mut UnixStream, mut child: Child, seconds: u32) -> Result<Ended, RunnerError> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let (sender, output) = mpsc::channel(4);
    let pipes = (child.stdout.take(), child.stderr.take());
    let mut readers = Vec::new();
    if let Some(pipe) = pipes.0 {
        readers.push(tokio::spawn(forward(pipe, sender.clone())));
    }
    if let Some(pipe) = pipes.1 {
        readers.push(tokio::spawn(forward(pipe, sender.clone())));
    }
    drop(sender);
    let waiting = async {
        let ended = child.wait().await.map_err(|e| RunnerError::io("waiting for the command", e))?;
        Ok(describe(ended))
    };
    let followed = follow(stream, output, waiting, seconds).await;
    // Its whole group; the leader's number is not given away as long as the group has members.
    signal_group(pid, Signal::KILL);
    if !matches!(&followed, Ok((_, true))) {
        child.kill().await.map_err(|e| RunnerError::io("ending the command", e))?;
    }
    for reader in readers {
        reader.abort();
    }
    followed.map(|(ended, _)| ended)
}

/// Tells output until a command has ended, its time is over, or nobody listens any more. Says whether it has ended by itself.
pub(super) async fn follow(
    stream: &mut UnixStream,
    mut output: mpsc::Receiver<Vec<u8>>,
    waiting: impl Future<Output = Result<(Option<i32>, String), RunnerError>>,
    seconds: u32,
) -> Result<(Ended, bool), RunnerError> {
    let deadline = Instant::now() + Duration::from_secs(u64::from(seconds));
    let late = || format!("it took longer than {seconds} s and was ended");
    let mut waiting = std::pin::pin!(waiting);
    let (mut total, mut told) = (0_u64, 0_usize);
    let (mut reader, mut writer) = stream.split();
    let mut hung_up = [0; 1];
    let mut exit = None;
    // After its end, what it had written is still read, for a moment.
    let mut until = deadline;
    let mut message = None;
    loop {
        tokio::select! {
            biased;
            // Nothing more is asked on this connection: whatever comes means that nobody waits for the answer.
            _ = reader.read(&mut hung_up) => {
                message = Some("whoever asked for it hung up".to_owned());
                break;
            }
            chunk = output.recv() => {
                let Some(chunk) = chunk else {
                    // Both ends of its output are closed: only its end is missing.
                    if exit.is_none() {
                        match timeout_at(deadline, &mut waiting).await {
                            Ok(ended) => exit = Some(ended?),
                            Err(_) => message = Some(late()),
                        }
                    }
                    break;
                };
                total = total.saturating_add(chunk.len() as u64);
                let free = EXEC_OUTPUT_BYTES.saturating_sub(told).min(chunk.len());
                if let Some(part) = chunk.get(..free).filter(|part| !part.is_empty()) {
                    told += part.len();
                    let reply = Reply::Output { bytes: STANDARD.encode(part) };
                    if wire::write(&mut writer, &reply).await.is_err() {
                        message = Some("whoever asked for it hung up".to_owned());
                        break;
                    }
                }
            }
            ended = &mut waiting, if exit.is_none() => {
                exit = Some(ended?);
                until = Instant::now() + DRAIN;
            }
            () = tokio::time::sleep_until(until) => {
                if exit.is_none() {
                    message = Some(late());
                }
                break;
            }
        }
    }
    let by_itself = exit.is_some();
    let (exit_code, said) = exit.unwrap_or_default();
    Ok((Ended { exit_code, message: message.unwrap_or(said), total }, by_itself))
}
