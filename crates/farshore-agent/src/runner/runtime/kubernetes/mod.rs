//! Objects of the device's Kubernetes, through its API and not behind its back.
//!
//! A release's objects are applied by server-side apply with a field manager of our own, waited for by their conditions, and looked after: what
//! somebody deletes is applied again. What a release no longer has is removed once the new one is ready, so that going back finds everything: the previous
//! release is applied like any other. Objects stay when an app is stopped; they go when it is removed.

mod api;
mod health;
mod objects;

use std::time::Duration;

use farshore_domain::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::super::allowed::Kubernetes;
use super::super::folder::AppFolder;
use super::super::logs::RotatedLog;
use super::super::spec::{Process, Spec};
use super::{Runtime, RuntimeError, Work};
use crate::file;
use api::{Api, ApiError};
use health::Condition;
use objects::{APP_LABEL, Key, Wanted};

/// How often the cluster is asked: while something is on its way, and when all is well.
const SOON: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_secs(5);
/// Applied again this often, so that fields that somebody else has changed are ours again.
const AGAIN: Duration = Duration::from_secs(300);
/// An object that is not ready for this long has failed, as far as the release is concerned: the cluster had its time to heal it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What lies in the cluster because of this app, in a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Applied {
    /// The release whose objects were all ready last.
    manifest: Option<Digest>,
    /// In the order in which they were applied. Before something is applied for the first time, it is here already.
    objects: Vec<Object>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Object {
    key: Key,
    /// Empty until it was applied.
    uid: String,
}

/// Why objects were not applied or removed.
enum Stopped {
    /// The cluster does not answer, as while it starts: that says nothing about the objects, and it is tried again.
    Away(String),
    Failed(RuntimeError),
}

impl From<ApiError> for Stopped {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unreachable(why) => Self::Away(why),
            error => Self::Failed(refused(error)),
        }
    }
}

impl From<RuntimeError> for Stopped {
    fn from(error: RuntimeError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopped> for RuntimeError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Away(why) => refused(ApiError::Unreachable(why)),
            Stopped::Failed(error) => error,
        }
    }
}

/// Applies the objects of a release.
pub(crate) struct KubernetesRuntime {
    folder: AppFolder,
    spec: Spec,
}

fn said(text: impl Into<String>) -> RuntimeError {
    RuntimeError::Said(text.into())
}

fn refused(error: ApiError) -> RuntimeError {
    said(error.to_string())
}

fn label(object: &Value) -> Option<&str> {
    object["metadata"]["labels"].get(APP_LABEL)?.as_str()
}

impl KubernetesRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        Self { folder, spec }
    }

    fn settings(&self) -> Result<&Kubernetes, RuntimeError> {
        let settings = self.spec.allowed.kubernetes.as_ref();
        settings.ok_or_else(|| said("this device is told of no cluster"))
    }

    fn api(&self) -> Result<Api, RuntimeError> {
        Api::new(self.settings()?).map_err(refused)
    }

    fn load(&self) -> Result<Applied, RuntimeError> {
        let path = self.folder.installed();
        match file::read_capped(&path, 4 * 1024 * 1024)
            .map_err(RuntimeError::io("reading what was applied"))?
        {
            None => Ok(Applied::default()),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| said(format!("{} is damaged: {error}", path.display()))),
        }
    }

    fn store(&self, applied: &Applied) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(applied).map_err(|error| said(error.to_string()))?;
        file::write_atomically(&self.folder.installed(), &bytes, 0o600)
            .map_err(RuntimeError::io("writing down what is applied"))
    }

    fn note(&self, line: &str) {
        let path = self.folder.log("stdout.log");
        RotatedLog::new(path, self.spec.log_bytes, self.spec.log_files).write(format!("{line}\n").as_bytes());
    }

    fn wanted(&self) -> Result<Vec<Wanted>, RuntimeError> {
        let objects = self.spec.run.as_ref().and_then(|run| run.manifest.as_ref());
        let objects = objects.ok_or_else(|| said("the release has no objects"))?;
        objects::read(&self.spec.folder, objects, &self.spec.app, &self.spec.version).map_err(said)
    }

    /// Applies one after the other. Nobody else's object is touched.
    async fn apply(&self, api: &mut Api) -> Result<(), Stopped> {
        let mut applied = self.load()?;
        for wanted in self.wanted()? {
            let namespaced = api.namespaced(&wanted.key).await?;
            let wanted = wanted.placed(namespaced, self.settings()?).map_err(said)?;
            let there = api.get(&wanted.key).await?;
            if there.is_some_and(|there| label(&there) != Some(self.spec.app.as_str())) {
                let why = format!(
                    "{} is there already and does not belong to this app; delete it, or give it the label {APP_LABEL}={}",
                    wanted.key, self.spec.app
                );
                return Err(said(why).into());
            }
            let known = applied.objects.iter().position(|object| object.key == wanted.key);
            let at = match known {
                Some(at) => at,
                None => {
                    // Known before it is there: whatever happens in between, it is found and removed one day.
                    applied.objects.push(Object { key: wanted.key.clone(), uid: String::new() });
                    self.store(&applied)?;
                    applied.objects.len() - 1
                }
            };
            let object = api.apply(&wanted).await?;
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            let changed = applied
                .objects
                .get_mut(at)
                .is_some_and(|object| std::mem::replace(&mut object.uid, uid.to_owned()) != uid);
            if changed {
                self.store(&applied)?;
            }
        }
        Ok(())
    }

    /// The first object that is not ready, and how it is; an object that is gone has failed.
    async fn look(&self, api: &mut Api) -> Result<Option<(Key, Condition)>, ApiError> {
        let applied = self.load().map_err(|error| ApiError::Settings(error.to_string()))?;
        let wanted = self.wanted().map_err(|error| ApiError::Settings(error.to_string()))?;
        let ours = |object: &&Object| {
            let same = |wanted: &Wanted| {
                let Key { api_version, kind, name, .. } = &object.key;
                (&wanted.key.api_version, &wanted.key.kind, &wanted.key.name) == (api_version, kind, name)
                    && (object.key.namespace.is_empty() || object.key.namespace == wanted.key.namespace)
            };
            wanted.iter().any(same)
        };
        for object in applied.objects.iter().filter(ours) {
            let condition = match api.get(&object.key).await? {
                None => Condition::Failed("it was deleted in the cluster".to_owned()),
                Some(there) if there["metadata"]["uid"] != object.uid => {
                    Condition::Failed("it was replaced in the cluster".to_owned())
                }
                Some(there) => health::of(&there),
            };
            if condition != Condition::Ready {
                return Ok(Some((object.key.clone(), condition)));
            }
        }
        Ok(None)
    }

    /// Removes what the release does not have any more.
    async fn prune(&self, api: &mut Api) -> Result<(), Stopped> {
        let mut applied = self.load()?;
        let mut wanted = Vec::new();
        for one in self.wanted()? {
            let namespaced = api.namespaced(&one.key).await?;
            wanted.push(one.placed(namespaced, self.settings()?).map_err(said)?.key);
        }
        let gone: Vec<Object> =
            applied.objects.iter().filter(|object| !wanted.contains(&object.key)).cloned().collect();
        for object in gone.iter().rev() {
            self.delete(api, object).await?;
            self.note(&format!("removed {}", object.key));
            applied.objects.retain(|one| one.key != object.key);
            self.store(&applied)?;
        }
        // In the release's order, whenever each was applied for the first time.
        applied.objects.sort_by_key(|object| wanted.iter().position(|key| *key == object.key));
        applied.manifest = Some(self.spec.manifest);
        Ok(self.store(&applied)?)
    }

    /// Deletes an object of ours. What was written down and never applied may be somebody else's by now.
    async fn delete(&self, api: &mut Api, object: &Object) -> Result<(), ApiError> {
        if !object.uid.is_empty() {
            return api.delete(&object.key, &object.uid).await;
        }
        match api.get(&object.key).await {
            Ok(Some(there)) if label(&there) == Some(self.spec.app.as_str()) => {
                let uid = there["metadata"]["uid"].as_str().unwrap_or_default();
                if uid.is_empty() { Ok(()) } else { api.delete(&object.key, uid).await }
            }
            // Its kind may be gone, too.
            Ok(_) | Err(ApiError::Refused { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tries until the cluster answers; the time that a start may take is the bound.
    async fn patiently(
        &self,
        api: &mut Api,
        work: impl AsyncFn(&Self, &mut Api) -> Result<(), Stopped>,
    ) -> Result<(), RuntimeError> {
        let mut told = false;
        loop {
            match work(self, api).await {
                Ok(()) => return Ok(()),
                Err(Stopped::Failed(error)) => return Err(error),
                Err(Stopped::Away(why)) if !told => {
                    told = true;
                    self.note(&format!("waiting for the cluster: {why}"));
                }
                Err(Stopped::Away(why)) => tracing::debug!(%why, "the cluster does not answer"),
            }
            sleep_until(Instant::now() + SOON).await;
        }
    }

    async fn bring_up(&self) -> Result<(), RuntimeError> {
        let mut api = self.api()?;
        self.patiently(&mut api, Self::apply).await?;
        self.note(&format!("applied the objects of {} {}", self.spec.app, self.spec.version));
        let mut last = String::new();
        loop {
            match self.look(&mut api).await {
                Ok(None) => break,
                Ok(Some((key, Condition::Failed(why)))) => return Err(said(format!("{key}: {why}"))),
                Ok(Some((key, Condition::Waiting(why)))) => {
                    let line = format!("waiting for {key}: {why}");
                    if line != last {
                        self.note(&line);
                        last = line;
                    }
                }
                Ok(Some((_, Condition::Ready))) => {}
                // Its API is started again while it is upgraded; the time that a start may take is the bound.
                Err(ApiError::Unreachable(why)) => tracing::debug!(%why, "the cluster does not answer"),
                Err(error) => return Err(refused(error)),
            }
            sleep_until(Instant::now() + SOON).await;
        }
        self.patiently(&mut api, Self::prune).await?;
        self.note(&format!("{} {} is ready", self.spec.app, self.spec.version));
        Ok(())
    }

    /// Looks after what was applied until it is not well any more, and says how.
    async fn watch(&self) -> Result<String, RuntimeError> {
        let mut api = self.api()?;
        let mut again = Instant::now() + AGAIN;
        let mut unwell: Option<Instant> = None;
        loop {
            sleep_until(Instant::now() + LOOK).await;
            match self.look(&mut api).await {
                Ok(None) => unwell = None,
                // As while it starts, or until a new token is there.
                Err(ApiError::Refused { status: 401 | 403, what, said }) => {
                    tracing::warn!(what, said, "the cluster does not let us look");
                }
                Ok(Some((key, Condition::Failed(why)))) => return Ok(format!("{key}: {why}")),
                Ok(Some((key, Condition::Waiting(why)))) => {
                    let since = *unwell.get_or_insert_with(Instant::now);
                    if since.elapsed() >= PATIENCE {
                        return Ok(format!("{key} is not ready for {} s: {why}", PATIENCE.as_secs()));
                    }
                }
                Ok(Some((_, Condition::Ready))) => {}
                // A cluster that does not answer says nothing about the app, which may be well.
                Err(ApiError::Unreachable(why)) => tracing::debug!(%why, "the cluster does not answer"),
                Err(error) => return Ok(error.to_string()),
            }
            if Instant::now() >= again && unwell.is_none() {
                again = Instant::now() + AGAIN;
                if let Err(error) = self.apply(&mut api).await.map_err(RuntimeError::from) {
                    tracing::warn!(%error, "the objects can't be applied again");
                }
            }
        }
    }

    async fn take_away(&self) -> Result<(), RuntimeError> {
        let mut applied = self.load()?;
        if applied.objects.is_empty() {
            return Ok(());
        }
        let mut api = self.api()?;
        while let Some(object) = applied.objects.last() {
            self.delete(&mut api, object).await.map_err(refused)?;
            applied.objects.pop();
            self.store(&applied)?;
        }
        Ok(())
    }
}

impl Runtime for KubernetesRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async { Ok(None) })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        Some(Box::pin(self.bring_up()))
    }

    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(self.watch())
    }

    /// Objects stay until another release changes them or the app is removed.
    fn stop(&mut self, _: bool) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn remove(&mut self) -> Work<'_, ()> {
        Box::pin(self.take_away())
    }
}
