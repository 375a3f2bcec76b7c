//! One container: made, started, watched, asked, ended and forgotten.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::super::allowed::Containerd;
use super::super::super::logs::RotatedLog;
use super::super::RuntimeError;
use super::super::process::keep;
use super::exec::{self, Exec, fifo};
use super::grpc::Client;
use super::messages::{
    Any, Container, ContainerId, CreateTask, CreatedTask, Empty, KillTask, Mounts, OneContainer,
    PrepareSnapshot, Runtime, TaskProcess, Waited,
};
use super::network::Plan;
use super::spec::{self, Wish};
use super::{grpc_error, image, layout};

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const TERM: u32 = 15;
const KILL: u32 = 9;
/// How long a killed container may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// After a check's end, what it has said is there within this time.
const SAID_WITHIN: Duration = Duration::from_millis(200);

/// A container of this app.
pub(super) struct Instance {
    client: Client,
    device: Containerd,
    wish: Wish,
    /// Where its pipes are.
    pipes: PathBuf,
    readers: Vec<JoinHandle<()>>,
}

/// Logs of a container.
#[derive(Clone, Debug)]
pub(super) struct LogSettings {
    pub(super) folder: PathBuf,
    pub(super) bytes: u64,
    pub(super) files: u32,
    /// Before the name of each, where an app has several containers.
    pub(super) prefix: String,
}

impl Instance {
    pub(super) fn new(client: Client, device: Containerd, wish: Wish, pipes: PathBuf) -> Self {
        Self { client, device, wish, pipes, readers: Vec::new() }
    }

    /// Makes and starts it from an image of the release, after whatever was left of it is gone.
    pub(super) async fn start(
        &mut self,
        layout: &Path,
        command: &[String],
        env: &std::collections::BTreeMap<String, String>,
        logs: &LogSettings,
    ) -> Result<(), RuntimeError> {
        self.clear().await?;
        Plan::of(&self.wish, &self.device).map_or(Ok(()), |plan| plan.check())?;
        let image = self.prepare(layout, command, env).await?;
        let top = image::unpack(&self.client, &self.device, &image).await?;
        let mounts = self.make(&top).await?;
        let (out, err) = (self.pipe("stdout", logs)?, self.pipe("stderr", logs)?);
        let create = CreateTask {
            container_id: self.wish.id.clone(),
            rootfs: mounts.mounts,
            stdin: String::new(),
            stdout: out,
            stderr: err,
        };
        let _: CreatedTask = self
            .client
            .call("/containerd.services.tasks.v1.Tasks/Create", &create)
            .await
            .map_err(grpc_error("making the container's process"))?;
        let _: Empty = self
            .client
            .call("/containerd.services.tasks.v1.Tasks/Start", &self.task())
            .await
            .map_err(grpc_error("starting the container"))?;
        Ok(())
    }

    /// Reads the image, and makes out what it is to be run with.
    pub(super) async fn prepare(
        &mut self,
        layout: &Path,
        command: &[String],
        env: &std::collections::BTreeMap<String, String>,
    ) -> Result<layout::Image, RuntimeError> {
        let path = layout.to_path_buf();
        let read = tokio::task::spawn_blocking(move || layout::read(&path)).await;
        let image = read.map_err(|error| RuntimeError::Said(error.to_string()))??;
        self.wish.command = image.settings.command(command)?;
        self.wish.env = image.settings.environment(env);
        let inside =
            self.wish.container.working_folder.clone().or_else(|| image.settings.working_dir.clone());
        self.wish.working_folder = inside.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        Ok(image)
    }

    /// The container with its own writable layer.
    async fn make(&self, top: &str) -> Result<Mounts, RuntimeError> {
        let prepare = PrepareSnapshot {
            snapshotter: self.device.snapshotter.clone(),
            key: self.wish.id.clone(),
            parent: top.to_owned(),
            labels: HashMap::from([("containerd.io/gc.root".to_owned(), "1970-01-01T00:00:00Z".to_owned())]),
        };
        let mounts = self
            .client
            .call("/containerd.services.snapshots.v1.Snapshots/Prepare", &prepare)
            .await
            .map_err(grpc_error("making the container's file system"))?;
        let spec = serde_json::to_vec(&spec::of(&self.wish, &self.device)?)
            .map_err(|error| RuntimeError::Said(error.to_string()))?;
        let container = Container {
            id: self.wish.id.clone(),
            labels: HashMap::from([("farshore.dev/app".to_owned(), self.wish.id.clone())]),
            runtime: Some(Runtime { name: "io.containerd.runc.v2".to_owned() }),
            spec: Some(Any { type_url: SPEC_TYPE.to_owned(), value: spec }),
            snapshotter: self.device.snapshotter.clone(),
            snapshot_key: self.wish.id.clone(),
        };
        let _: OneContainer = self
            .client
            .call(
                "/containerd.services.containers.v1.Containers/Create",
                &OneContainer { container: Some(container) },
            )
            .await
            .map_err(grpc_error("making the container"))?;
        Ok(mounts)
    }

    fn task(&self) -> TaskProcess {
        TaskProcess { container_id: self.wish.id.clone(), exec_id: String::new() }
    }

    /// A pipe that containerd writes to and that is kept in a log that rotates.
    fn pipe(&mut self, name: &str, logs: &LogSettings) -> Result<String, RuntimeError> {
        let path = self.pipes.join(format!("{}.{name}", self.wish.id));
        let io = |error: std::io::Error| RuntimeError::io("making the container's pipes")(error);
        fifo(&path)?;
        // Both ends are held, so that it does not end before containerd has opened it.
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0))
            .open(&path)
            .map_err(io)?;
        let reader = pipe::Receiver::from_file_unchecked(file).map_err(io)?;
        let log =
            RotatedLog::new(logs.folder.join(format!("{}{name}.log", logs.prefix)), logs.bytes, logs.files);
        self.readers.push(tokio::spawn(keep(reader, log)));
        Ok(path.to_string_lossy().into_owned())
    }

    /// Waits until it has ended; its exit code, or 128 and the signal.
    pub(super) async fn wait(&self) -> Result<u32, RuntimeError> {
        let waited: Waited = self
            .client
            .call("/containerd.services.tasks.v1.Tasks/Wait", &self.task())
            .await
            .map_err(grpc_error("waiting for the container"))?;
        Ok(waited.exit_status)
    }

    async fn kill(&self, signal: u32, all: bool) -> Result<(), RuntimeError> {
        let kill = KillTask { container_id: self.wish.id.clone(), exec_id: String::new(), signal, all };
        match self.client.call::<Empty>("/containerd.services.tasks.v1.Tasks/Kill", &kill).await {
            // It has ended by itself.
            Err(error) if !error.is_gone() => Err(grpc_error("ending the container")(error)),
            _ => Ok(()),
        }
    }

    /// Asks it to end, and makes it end.
    pub(super) async fn stop(&self, patience: Duration) -> Result<(), RuntimeError> {
        self.kill(TERM, false).await?;
        match timeout(patience, self.wait()).await {
            // Gone already, or ended now.
            Ok(_) => Ok(()),
            Err(_) => self.kill(KILL, true).await,
        }
    }

    /// Ends and forgets it. Fine when there is none.
    pub(super) async fn clear(&mut self) -> Result<(), RuntimeError> {
        self.kill(KILL, true).await?;
        // Gone already, ended, or neither: then deleting says why it can't be.
        drop(timeout(GONE_WITHIN, self.wait()).await);
        let deadline = Instant::now() + GONE_WITHIN;
        loop {
            match self.client.call::<Empty>("/containerd.services.tasks.v1.Tasks/Delete", &self.task()).await
            {
                Ok(_) => break,
                Err(error) if error.is_gone() => break,
                // It has ended, and not all of containerd knows yet.
                Err(error) if error.is_busy() && Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await
                }
                Err(error) => return Err(grpc_error("forgetting the container's process")(error)),
            }
        }
        let id = ContainerId { id: self.wish.id.clone() };
        match self.client.call::<Empty>("/containerd.services.containers.v1.Containers/Delete", &id).await {
            Err(error) if !error.is_gone() => return Err(grpc_error("forgetting the container")(error)),
            _ => {}
        }
        image::remove(&self.client, &self.device, &self.wish.id).await?;
        for mut reader in std::mem::take(&mut self.readers) {
            // What is still in the pipe is read; as both ends are held, it never ends by itself.
            drop(timeout(Duration::from_millis(100), &mut reader).await);
            reader.abort();
        }
        Ok(())
    }

    /// A process inside, as a specification; the image must have been read.
    pub(super) fn process(&self, command: &[String], mark: &str) -> serde_json::Value {
        let mut wish = self.wish.clone();
        wish.env.push(mark.to_owned());
        spec::process(&wish, command)
    }

    /// The container's name in containerd.
    pub(super) fn id(&self) -> &str {
        &self.wish.id
    }

    /// Runs a command inside; whether it ended well in time.
    pub(super) async fn exec(
        &self,
        command: &[String],
        limit: Duration,
    ) -> Result<Result<(), String>, RuntimeError> {
        let id = format!("check-{}", uuid::Uuid::now_v7().simple());
        let (pipes, paths) = exec::pipes(&self.pipes, &id)?;
        let exec = Exec::new(self.client.clone(), &self.wish.id, id);
        exec.make(&spec::process(&self.wish, command), &paths).await?;
        let outcome = match exec.start().await {
            Err(error) => Ok(Err(crate::chain(&error))),
            Ok(()) => {
                let mut said = tokio::spawn(exec::last_words(pipes));
                let asked = match timeout(limit, exec.wait()).await {
                    Ok(Ok(0)) => Ok(Ok(())),
                    Ok(Ok(status)) => {
                        // A child that it has left behind may hold its output open.
                        let said = timeout(SAID_WITHIN, &mut said).await.ok().and_then(Result::ok);
                        let said = said.filter(|said| !said.is_empty()).map(|said| format!(": {said}"));
                        Ok(Err(format!("exited with {status}{}", said.unwrap_or_default())))
                    }
                    Ok(Err(error)) => Err(error),
                    Err(_) => Ok(Err(format!("no answer within {} ms", limit.as_millis()))),
                };
                said.abort();
                asked
            }
        };
        if let Err(error) = exec.end().await {
            tracing::debug!(error = %crate::chain(&error), "a check is not forgotten yet");
        }
        for path in paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(%error, "a check's pipe is not there any more");
            }
        }
        outcome
    }
}

/// How a container ended, in the words used for every kind of app.
pub(super) fn describe(status: u32) -> String {
    match status {
        129..=192 => format!("was killed by signal {}", status - 128),
        code => format!("exited with {code}"),
    }
}
