//! An executor without processes: a table of what would be staged and running. For virtual devices and tests; costs a few hundred bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_domain::digest::Digest;
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_domain::reconcile::{Observed, Running};
use farshore_domain::release::kind::Kind;
use farshore_domain::release::{HealthCheck, Manifest};
use farshore_domain::version::Version;

use crate::executor::{Executor, ExecutorError, ProbeAnswer, StageRequest, StartRequest};
use crate::runner::{Signed, config_digest};

/// What a release does on a virtual device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    Healthy,
    /// Its checks fail from the beginning.
    Sick,
    WontStart,
}

/// Decides how a version of an app behaves here.
type Nature = Arc<dyn Fn(&Name, &Version) -> Behaviour + Send + Sync>;

/// An executor in memory.
#[derive(Clone)]
pub struct MemoryExecutor {
    nature: Nature,
    apps: Arc<Mutex<BTreeMap<Name, App>>>,
}

#[derive(Debug, Default)]
struct App {
    staged: BTreeMap<Digest, Version>,
    running: Option<Running>,
}

impl fmt::Debug for MemoryExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryExecutor").finish_non_exhaustive()
    }
}

fn error(code: &str, message: &str) -> ExecutorError {
    ExecutorError { code: code.to_owned(), message: message.to_owned(), refused: false, unreachable: false }
}

impl MemoryExecutor {
    /// `nature` says how each version of an app behaves.
    pub fn new(nature: impl Fn(&Name, &Version) -> Behaviour + Send + Sync + 'static) -> Self {
        Self { nature: Arc::new(nature), apps: Arc::default() }
    }

    fn apps(&self) -> MutexGuard<'_, BTreeMap<Name, App>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of an app that runs.
    #[must_use]
    pub fn running(&self, app: &Name) -> Option<Version> {
        self.apps().get(app)?.running.as_ref().map(|running| running.version.clone())
    }
}

impl Executor for MemoryExecutor {
    async fn capabilities(&self) -> Result<Vec<String>, ExecutorError> {
        let kinds = Kind::ALL.into_iter().map(Kind::capability);
        Ok(std::iter::once("virtual".to_owned()).chain(kinds).collect())
    }

    async fn trust(&self, _: TenantId, _: Name, _: Vec<Signed>) -> Result<(), ExecutorError> {
        Ok(())
    }

    async fn list(&self) -> Result<BTreeMap<Name, Observed>, ExecutorError> {
        let observed = |app: &App| Observed {
            staged: app.staged.keys().copied().collect(),
            running: app.running.clone(),
            ..Observed::default()
        };
        Ok(self.apps().iter().map(|(name, app)| (name.clone(), observed(app))).collect())
    }

    async fn stage(&self, request: StageRequest) -> Result<(), ExecutorError> {
        let document = &request.manifest.document;
        let manifest = Manifest::parse(document).map_err(|e| error("BadManifest", &e.to_string()))?;
        self.apps().entry(request.app).or_default().staged.insert(Digest::of(document), manifest.version);
        Ok(())
    }

    async fn start(&self, request: StartRequest) -> Result<(), ExecutorError> {
        let mut apps = self.apps();
        let app = apps.entry(request.app.clone()).or_default();
        let Some(version) = app.staged.get(&request.manifest).cloned() else {
            return Err(error("NotStaged", "the release is not staged"));
        };
        if app.running.is_some() || request.beside {
            return Err(error("Doubled", "it runs already"));
        }
        if (self.nature)(&request.app, &version) == Behaviour::WontStart {
            return Err(error("NoProgram", "it can't be started"));
        }
        app.running = Some(Running {
            manifest: request.manifest,
            release: request.release,
            version,
            instance: request.instance,
            config: config_digest(&request.config),
            up: true,
            restarts: 0,
            last_exit: None,
            slot: None,
            isolation: None,
        });
        Ok(())
    }

    async fn stop(&self, app: Name, instance: Option<u64>) -> Result<(), ExecutorError> {
        if let Some(app) = self.apps().get_mut(&app) {
            app.running.take_if(|running| instance.is_none_or(|one| running.instance == one));
        }
        Ok(())
    }

    async fn switch(&self, _: Name, _: u64) -> Result<(), ExecutorError> {
        Err(error("Unsupported", "nothing here has slots"))
    }

    async fn remove(&self, app: Name) -> Result<(), ExecutorError> {
        self.apps().remove(&app);
        Ok(())
    }

    async fn discard(&self, app: Name, keep: Vec<Digest>) -> Result<(), ExecutorError> {
        if let Some(app) = self.apps().get_mut(&app) {
            app.staged.retain(|staged, _| keep.contains(staged));
        }
        Ok(())
    }

    async fn commit(&self, _: Name, _: Digest) -> Result<(), ExecutorError> {
        Ok(())
    }

    async fn probe(
        &self,
        app: Name,
        _: Option<u64>,
        _: HealthCheck,
        _: Arc<BTreeMap<String, String>>,
    ) -> ProbeAnswer {
        match self.running(&app).map(|version| (self.nature)(&app, &version)) {
            Some(Behaviour::Healthy) => ProbeAnswer::Good,
            Some(_) => ProbeAnswer::Bad("it is sick".to_owned()),
            None => ProbeAnswer::Unknown("it does not run".to_owned()),
        }
    }

    async fn cut_logs(&self, _: Name, _: Option<u32>) -> Result<(), ExecutorError> {
        Ok(())
    }

    async fn reboot(&self) -> Result<(), ExecutorError> {
        Err(ExecutorError {
            code: "Unsupported".to_owned(),
            message: "a virtual device can't be rebooted".to_owned(),
            refused: true,
            unreachable: false,
        })
    }

    async fn logs(&self, _: Name, _: u32) -> Result<String, ExecutorError> {
        Ok(String::new())
    }
}
