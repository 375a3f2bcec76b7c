//! Anything else: a program of the release that installs it, step by step.
//!
//! `<program> <arguments> prepare|install|commit|rollback|inventory`, as the app's user, in the release's folder, for a limited time. It reads one JSON
//! object from its standard input and may write one to its standard output; what it writes to its standard error is the app's log. Each step can come
//! again after a power cut, so each must be fine with having been done already. See docs/executors.md.

use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::version::Version;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::super::folder::AppFolder;
use super::super::spec::{Process, Spec};
use super::{Runtime, RuntimeError, Work, hook};
use crate::file;

/// How often it is looked whether the release was committed.
const LOOK: Duration = Duration::from_secs(1);

/// Installs a release by its own program, and watches that it stays installed.
pub(crate) struct InstallerRuntime {
    folder: AppFolder,
    spec: Spec,
}

/// How far a release is, in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progress {
    manifest: Digest,
    version: Version,
    committed: bool,
    /// What was committed before, and is again after going back.
    previous: Option<Committed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Committed {
    manifest: Digest,
    version: Version,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    step: &'a str,
    app: &'a str,
    version: &'a Version,
    /// The version that was installed and committed before this one.
    previous: Option<&'a Version>,
    folder: &'a std::path::Path,
    data: std::path::PathBuf,
    values: &'a std::collections::BTreeMap<String, String>,
}

/// What a step may answer. Unknown fields are its own affair.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    /// For `inventory`: whether it is installed.
    present: Option<bool>,
    message: Option<String>,
}

impl InstallerRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        Self { folder, spec }
    }

    fn progress(&self) -> Option<Progress> {
        let bytes = file::read_capped(&self.folder.installed(), 64 * 1024).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn keep(&self, progress: &Progress) -> Result<(), RuntimeError> {
        let bytes = serde_json::to_vec(progress).map_err(|error| RuntimeError::Said(error.to_string()))?;
        file::write_atomically(&self.folder.installed(), &bytes, 0o600)
            .map_err(RuntimeError::io("writing down how far it is"))
    }

    async fn step(&self, step: &str, previous: Option<&Committed>) -> Result<Answer, RuntimeError> {
        let previous = previous.map(|previous| &previous.version);
        let told = Told {
            step,
            app: self.spec.app.as_str(),
            version: &self.spec.version,
            previous,
            folder: &self.spec.folder,
            data: self.folder.data(),
            values: &self.spec.env,
        };
        let input = serde_json::to_vec(&told).map_err(|error| RuntimeError::Said(error.to_string()))?;
        let limit = self.spec.run.as_ref().and_then(|run| run.installer.as_ref());
        let limit = Duration::from_secs(limit.map_or(600, |installer| u64::from(installer.timeout_seconds)));
        let output = hook::run(&self.folder, &self.spec, step, &input, limit).await?;
        if output.trim_ascii().is_empty() {
            return Ok(Answer::default());
        }
        serde_json::from_slice(&output).map_err(|error| {
            RuntimeError::Said(format!("{step}: what it answered is no JSON object: {error}"))
        })
    }

    async fn is_present(&self) -> Result<(), RuntimeError> {
        let answer = self.step("inventory", None).await?;
        match answer.present {
            Some(true) => Ok(()),
            Some(false) => Err(RuntimeError::Said(
                answer.message.unwrap_or_else(|| "inventory: it is not installed".to_owned()),
            )),
            None => Err(RuntimeError::Said("inventory: it did not answer whether it is present".to_owned())),
        }
    }

    async fn install(&self) -> Result<(), RuntimeError> {
        let before = self.progress();
        let previous = before.as_ref().and_then(|before| {
            if before.manifest == self.spec.manifest || !before.committed {
                before.previous.clone()
            } else {
                Some(Committed { manifest: before.manifest, version: before.version.clone() })
            }
        });
        if let Some(before) =
            before.filter(|before| before.manifest == self.spec.manifest && before.committed)
            && before.version == self.spec.version
            && self.is_present().await.is_ok()
        {
            // It was only started again.
            return Ok(());
        }
        self.step("prepare", previous.as_ref()).await?;
        // Written first: whatever `install` has begun is to be taken back.
        let progress = Progress {
            manifest: self.spec.manifest,
            version: self.spec.version.clone(),
            committed: false,
            previous: previous.clone(),
        };
        self.keep(&progress)?;
        self.step("install", previous.as_ref()).await?;
        self.is_present().await
    }

    /// Commits when the runner has said that the release has proven itself.
    async fn commit_if_told(&self) -> Result<(), RuntimeError> {
        let Some(progress) = self.progress().filter(|progress| !progress.committed) else { return Ok(()) };
        let told = file::read_capped(&self.folder.committed(), 256).ok().flatten();
        if told.as_deref() != Some(self.spec.manifest.to_string().as_bytes()) {
            return Ok(());
        }
        self.step("commit", progress.previous.as_ref()).await?;
        self.keep(&Progress { committed: true, ..progress })
    }

    async fn roll_back(&self) -> Result<(), RuntimeError> {
        let progress = self.progress();
        let trial = progress.as_ref().is_some_and(|progress| !progress.committed);
        let previous = progress.and_then(|progress| progress.previous).filter(|_| trial);
        self.step("rollback", previous.as_ref()).await?;
        if let Some(Committed { manifest, version }) = previous {
            return self.keep(&Progress { manifest, version, committed: true, previous: None });
        }
        match std::fs::remove_file(self.folder.installed()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RuntimeError::io("forgetting how far it was")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Runtime for InstallerRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async { Ok(None) })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        Some(Box::pin(self.install()))
    }

    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(async {
            let every = self.spec.run.as_ref().and_then(|run| run.installer.as_ref());
            let every =
                Duration::from_secs(every.map_or(300, |installer| u64::from(installer.inventory_seconds)));
            let mut next = Instant::now() + every;
            loop {
                sleep_until(Instant::now() + LOOK.min(every)).await;
                if let Err(error) = self.commit_if_told().await {
                    tracing::warn!(%error, "the release can't be committed yet");
                    sleep_until(Instant::now() + every.min(Duration::from_secs(10))).await;
                }
                if Instant::now() >= next {
                    next = Instant::now() + every;
                    if let Err(error) = self.is_present().await {
                        return Ok(crate::chain(&error));
                    }
                }
            }
        })
    }

    /// A release that was never committed is taken back; one that was stays installed until another takes its place.
    fn stop(&mut self, asked: bool) -> Work<'_, ()> {
        Box::pin(async move {
            let trial = self
                .progress()
                .is_some_and(|progress| progress.manifest == self.spec.manifest && !progress.committed);
            if asked && trial { self.roll_back().await } else { Ok(()) }
        })
    }

    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn remove(&mut self) -> Work<'_, ()> {
        Box::pin(async { if self.progress().is_some() { self.roll_back().await } else { Ok(()) } })
    }
}
