//! Containers of containerd, over its socket: kind `container` is one of them, kind `compose` several.

mod cdi;
mod cni;
mod compose;
mod exec;
mod grpc;
mod image;
mod instance;
mod layout;
mod messages;
mod network;
mod spec;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use farshore_domain::release::Limits;
use farshore_domain::release::image::ImageRef;
use farshore_domain::release::kind;

use super::super::allowed::Containerd;
use super::super::folder::AppFolder;
use super::super::images;
use super::super::spec::{Process, Spec};
use super::{Runtime, RuntimeError, Work};
pub use cni::{NetworkError, container_network};
pub(crate) use compose::ComposeRuntime;
pub(crate) use exec::{ContainerCommand, inside};
use grpc::{Client, GrpcError};
use instance::{Instance, LogSettings, describe};
use spec::Wish;

fn grpc_error(what: &str) -> impl FnOnce(GrpcError) -> RuntimeError {
    let what = what.to_owned();
    move |error| {
        let text = format!("{what}: {}", crate::chain(&error));
        if error.is_full() {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return RuntimeError::Io { what: text, source };
        }
        RuntimeError::Said(text)
    }
}

/// What containers of an app share.
#[derive(Clone)]
struct Ground {
    folder: AppFolder,
    spec: Spec,
    device: Containerd,
    client: Client,
}

impl Ground {
    fn new(folder: AppFolder, spec: Spec) -> Self {
        let device = spec.allowed.container.clone().unwrap_or_default();
        let client = Client::new(&device.socket, &device.namespace);
        Self { folder, spec, device, client }
    }

    /// A container of the app, by its name among them.
    fn instance(&self, id: String, name: &str, container: kind::Container, limits: Limits) -> Instance {
        let wish = Wish {
            id,
            container,
            command: Vec::new(),
            env: Vec::new(),
            working_folder: "/".to_owned(),
            limits,
            user: self.spec.user,
            data: self.folder.data(),
            name: name.to_owned(),
            hosts: self.hosts(),
        };
        Instance::new(self.client.clone(), self.device.clone(), wish, self.folder.pipes())
    }

    /// Where containers of the app with a network of their own find each other's addresses.
    fn hosts(&self) -> PathBuf {
        self.folder.pipes().join("hosts")
    }

    fn layout(&self, image: &str) -> PathBuf {
        match ImageRef::find(image) {
            Ok(Some(image)) => images::layout(&self.spec.folder, &image),
            _ if image == "." => self.spec.folder.clone(),
            _ => self.spec.folder.join(image),
        }
    }

    fn logs(&self, prefix: String) -> LogSettings {
        LogSettings {
            folder: self.folder.logs(),
            bytes: self.spec.log_bytes,
            files: self.spec.log_files,
            prefix,
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.spec.stop_timeout_ms)
    }

    /// The app's environment, with what names folders of the device named as it is inside.
    fn environment(&self) -> BTreeMap<String, String> {
        let mut env = self.spec.env.clone();
        env.remove("PATH");
        env.insert("HOME".to_owned(), "/".to_owned());
        env
    }
}

/// Runs an app as one container.
pub(crate) struct ContainerRuntime {
    ground: Ground,
    instance: Option<Instance>,
    container: Option<kind::Container>,
}

impl ContainerRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        let container = spec.run.as_ref().and_then(|run| run.container.clone());
        let ground = Ground::new(folder, spec);
        let instance = container.clone().map(|container| {
            let app = ground.spec.app.to_string();
            ground.instance(app.clone(), &app, container, ground.spec.limits.clone())
        });
        Self { ground, instance, container }
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        let (Some(instance), Some(container)) = (&mut self.instance, &self.container) else {
            return Err(RuntimeError::Said("the release names no container".to_owned()));
        };
        let layout = self.ground.layout(&container.image);
        let env = self.ground.environment();
        network::begin_hosts(&self.ground.hosts())?;
        instance.start(&layout, &self.ground.spec.command, &env, &self.ground.logs(String::new())).await
    }

    /// A process inside, with `mark` in its environment.
    async fn process_in(&mut self, words: &[String], mark: &str) -> Result<serde_json::Value, RuntimeError> {
        let (Some(instance), Some(container)) = (&mut self.instance, &self.container) else {
            return Err(RuntimeError::Said("the release names no container".to_owned()));
        };
        let (layout, env) = (self.ground.layout(&container.image), self.ground.environment());
        instance.prepare(&layout, &self.ground.spec.command, &env).await?;
        Ok(instance.process(words, mark))
    }

    async fn wait(&mut self) -> Result<String, RuntimeError> {
        match &self.instance {
            Some(instance) => Ok(describe(instance.wait().await?)),
            None => Ok("it does not run".to_owned()),
        }
    }
}

impl Runtime for ContainerRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async { Ok(None) })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        Some(Box::pin(self.start()))
    }

    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(self.wait())
    }

    fn stop(&mut self, _: bool) -> Work<'_, ()> {
        Box::pin(async {
            match &self.instance {
                Some(instance) => instance.stop(self.ground.patience()).await,
                None => Ok(()),
            }
        })
    }

    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            match &mut self.instance {
                Some(instance) => instance.clear().await,
                None => Ok(()),
            }
        })
    }

    fn remove(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            self.clear().await?;
            image::prune(&self.ground.client, &self.ground.device).await
        })
    }

    fn check<'a>(
        &'a mut self,
        command: &'a [String],
        limit: Duration,
    ) -> Option<Work<'a, Result<(), String>>> {
        let env = self.ground.environment();
        let layout = self.container.as_ref().map(|container| self.ground.layout(&container.image))?;
        let (instance, own) = (self.instance.as_mut()?, &self.ground.spec.command);
        Some(Box::pin(async move {
            instance.prepare(&layout, own, &env).await?;
            instance.exec(command, limit).await
        }))
    }
}
