//! Programs that are run inside a container beside its own: command checks and healthchecks, and commands from afar.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_domain::name::Name;
use farshore_domain::release::kind::Kind;
use rustix::fs::{CWD, FileType, Mode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::super::super::folder::AppFolder;
use super::super::super::spec::Spec;
use super::super::RuntimeError;
use super::grpc::{ALREADY_EXISTS, Client};
use super::messages::{Any, Empty, ExecTask, KillTask, TaskProcess, Waited};
use super::{ComposeRuntime, ContainerRuntime, grpc_error};

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const KILL: u32 = 9;
/// How long one that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// So many characters of what a check says last are told.
const LAST_WORDS: usize = 200;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Exec {
    client: Client,
    container: String,
    id: String,
}

impl Exec {
    pub(super) fn new(client: Client, container: &str, id: String) -> Self {
        Self { client, container: container.to_owned(), id }
    }

    fn task(&self) -> TaskProcess {
        TaskProcess { container_id: self.container.clone(), exec_id: self.id.clone() }
    }

    /// Makes it known to containerd. Its output goes to these pipes: without any, it would be an error to write some.
    pub(super) async fn make(
        &self,
        process: &Value,
        [stdout, stderr]: &[PathBuf; 2],
    ) -> Result<(), RuntimeError> {
        let value = serde_json::to_vec(process).map_err(|error| RuntimeError::Said(error.to_string()))?;
        let exec = ExecTask {
            container_id: self.container.clone(),
            stdin: String::new(),
            stdout: stdout.to_string_lossy().into_owned(),
            stderr: stderr.to_string_lossy().into_owned(),
            spec: Some(Any { type_url: PROCESS_TYPE.to_owned(), value }),
            exec_id: self.id.clone(),
        };
        match self.client.call::<Empty>("/containerd.services.tasks.v1.Tasks/Exec", &exec).await {
            Err(error) if !error.is(ALREADY_EXISTS) => Err(grpc_error("making a process inside")(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn start(&self) -> Result<(), RuntimeError> {
        let task = self.task();
        let started = self.client.call::<Empty>("/containerd.services.tasks.v1.Tasks/Start", &task).await;
        started.map(drop).map_err(grpc_error("starting it"))
    }

    /// Waits until it has ended; its exit code, or 128 and the signal.
    pub(super) async fn wait(&self) -> Result<u32, RuntimeError> {
        let task = self.task();
        let waited = self.client.call::<Waited>("/containerd.services.tasks.v1.Tasks/Wait", &task).await;
        waited.map(|waited| waited.exit_status).map_err(grpc_error("waiting for it"))
    }

    /// Ends and forgets it. Fine when it has ended, or never was.
    pub(super) async fn end(&self) -> Result<(), RuntimeError> {
        let kill = KillTask {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            signal: KILL,
            all: false,
        };
        match self.client.call::<Empty>("/containerd.services.tasks.v1.Tasks/Kill", &kill).await {
            // It has ended by itself, or was made and never started.
            Err(error) if error.is_gone() || error.is_busy() => {}
            Err(error) => return Err(grpc_error("ending it")(error)),
            Ok(_) => drop(timeout(GONE_WITHIN, self.wait()).await),
        }
        let deleted = self
            .client
            .call::<Empty>("/containerd.services.tasks.v1.Tasks/DeleteProcess", &self.task())
            .await;
        match deleted {
            Err(error) if !error.is_gone() => Err(grpc_error("forgetting it")(error)),
            _ => Ok(()),
        }
    }
}

/// A named pipe; what is there under its name goes.
pub(super) fn fifo(path: &Path) -> Result<(), RuntimeError> {
    let io = |error: std::io::Error| RuntimeError::io("making a pipe of the container")(error);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(|e| io(e.into()))
}

/// Pipes for what a program says, with their names below a folder. They end when containerd, which opens them when the program starts, has written the last of it.
pub(super) fn pipes(folder: &Path, name: &str) -> Result<([pipe::Receiver; 2], [PathBuf; 2]), RuntimeError> {
    let open = |kind: &str| {
        let path = folder.join(format!("{name}.{kind}"));
        fifo(&path)?;
        let pipe = pipe::OpenOptions::new().open_receiver(&path);
        let pipe = pipe.map_err(RuntimeError::io("opening a pipe of the container"))?;
        Ok::<_, RuntimeError>((pipe, path))
    };
    let ((out, out_path), (err, err_path)) = (open("stdout")?, open("stderr")?);
    Ok(([out, err], [out_path, err_path]))
}

/// Reads what a program says to its end; its last words, for people.
pub(super) async fn last_words([out, err]: [pipe::Receiver; 2]) -> String {
    let (out, err) = tokio::join!(tail(out), tail(err));
    let last = [err, out].into_iter().find_map(|bytes| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
    });
    last.unwrap_or_default().chars().filter(|c| !c.is_control()).take(LAST_WORDS).collect()
}

async fn tail(mut pipe: pipe::Receiver) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let over = kept.len().saturating_sub(2 * LAST_WORDS);
        kept.drain(..over);
    }
    kept
}

/// A command from afar in a container, as a runner that comes after this one can end it, too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerCommand {
    socket: PathBuf,
    namespace: String,
    container: String,
    service: Option<Name>,
    exec: String,
}

/// Where a command goes: the container of an app, or of one of its services.
pub(crate) fn inside(
    folder: &AppFolder,
    spec: &Spec,
    service: Option<&Name>,
    operation: &str,
) -> Result<ContainerCommand, RuntimeError> {
    let said = |text: String| Err(RuntimeError::Said(text));
    let kind = spec.run.as_ref().map_or(Kind::Process, |run| run.kind);
    let container = match kind {
        Kind::Container => match service {
            None => spec.app.to_string(),
            Some(service) => return said(format!("{} has no services, so no {service}", spec.app)),
        },
        Kind::Compose => ComposeRuntime::new(folder.clone(), spec.clone()).container_of(service)?,
        other => {
            let app = &spec.app;
            return said(format!(
                "{app} is of kind {other}; commands run inside apps of kind container and compose"
            ));
        }
    };
    let device = spec.allowed.container.clone().unwrap_or_default();
    Ok(ContainerCommand {
        socket: device.socket,
        namespace: device.namespace,
        container,
        service: service.cloned(),
        exec: format!("operation-{operation}"),
    })
}

impl ContainerCommand {
    fn exec(&self) -> Exec {
        Exec::new(Client::new(&self.socket, &self.namespace), &self.container, self.exec.clone())
    }

    /// Starts it with `mark` in its environment; its output comes through pipes that lie in `place`.
    pub(crate) async fn begin(
        &self,
        folder: &AppFolder,
        spec: &Spec,
        words: &[String],
        mark: &str,
        place: &Path,
    ) -> Result<[pipe::Receiver; 2], RuntimeError> {
        let (folder, spec) = (folder.clone(), spec.clone());
        let process = match spec.run.as_ref().map(|run| run.kind) {
            Some(Kind::Compose) => {
                ComposeRuntime::new(folder, spec).process_in(self.service.as_ref(), words, mark).await?
            }
            _ => ContainerRuntime::new(folder, spec).process_in(words, mark).await?,
        };
        let (pipes, paths) = pipes(place, "command")?;
        let exec = self.exec();
        exec.make(&process, &paths).await?;
        exec.start().await?;
        Ok(pipes)
    }

    /// Waits until it has ended; its exit code, or 128 and the signal.
    pub(crate) async fn wait(&self) -> Result<u32, RuntimeError> {
        self.exec().wait().await
    }

    /// Ends and forgets it. Fine when there is none.
    pub(crate) async fn end(&self) -> Result<(), RuntimeError> {
        self.exec().end().await
    }
}
