//! The roles of the program, as functions: what `main` and tests in other crates call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_domain::time::UnixMs;
use farshore_trust::clock::FlooredClock;
use farshore_trust::token::ClaimToken;
use tokio::sync::oneshot;

use crate::agent::{Agent, AgentError, AgentSettings, keep_key_sets};
use crate::claim::{self, ClaimError};
use crate::download::{DownloadError, Downloads};
use crate::executor::RunnerExecutor;
use crate::hardware::hardware;
use crate::host::HostSampler;
use crate::identity::{Identity, IdentityFileError, device_key};
use crate::journal::{Journal, JournalError, SqliteJournal};
use crate::registry::Registries;
use crate::runner::{Runner, RunnerClient, RunnerError, RunnerSettings};
use crate::status::STATUS_FILE;
use crate::{clock, file};

/// What waits for an acknowledgement may take this many bytes of disk.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// How long `run` stays when its claim was refused.
const REFUSED_PAUSE: std::time::Duration = std::time::Duration::from_secs(30);

/// Why a role ended.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    #[error("the state folder {path} can't be used")]
    StateFolder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another agent runs with the state folder {0}")]
    Doubled(PathBuf),
    #[error("the device's identity can't be used")]
    Identity(#[source] IdentityFileError),
    #[error(
        "the device is not claimed, and there is no claim token; give --token-file or run `farshore-agent claim`"
    )]
    NotClaimed,
    #[error("the claim failed")]
    Claim(#[source] ClaimError),
    #[error("the journal can't be used")]
    Journal(#[source] JournalError),
    #[error("downloads can't be kept")]
    Downloads(#[source] DownloadError),
    #[error("the agent can't go on")]
    Agent(#[source] AgentError),
    #[error("the runner can't go on")]
    Runner(#[source] RunnerError),
}

/// How `run` is set up.
#[derive(Debug)]
pub struct RunSettings {
    pub state: PathBuf,
    pub runner_socket: PathBuf,
    /// Where images come from that a release names.
    pub registries: Registries,
    /// For the first claim.
    pub token: Option<ClaimToken>,
    pub labels: BTreeMap<String, String>,
}

/// A state folder that nobody else uses.
#[derive(Debug)]
struct State {
    folder: PathBuf,
    clock: FlooredClock,
    journal: SqliteJournal,
    _lock: std::fs::File,
}

impl State {
    fn open(folder: &Path) -> Result<Self, RoleError> {
        let bad = |source| RoleError::StateFolder { path: folder.to_path_buf(), source };
        file::make_folder(folder, 0o711).map_err(bad)?;
        let lock = crate::runner::take_lock(&folder.join("lock")).map_err(bad)?;
        let lock = lock.ok_or_else(|| RoleError::Doubled(folder.to_path_buf()))?;
        let journal = SqliteJournal::open_or_renew(&folder.join("journal").join("journal.db"), JOURNAL_BYTES);
        let journal = journal.map_err(RoleError::Journal)?;
        let floor = journal.get("floor").map_err(RoleError::Journal)?;
        let floor = floor.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(UnixMs(0));
        let clock = FlooredClock::new(clock::wall, floor);
        Ok(Self { folder: folder.to_path_buf(), clock, journal, _lock: lock })
    }

    fn identity_folder(&self) -> PathBuf {
        self.folder.join("identity")
    }

    fn identity(&self) -> Result<Option<Identity>, RoleError> {
        Identity::load(&self.identity_folder(), self.clock.clone()).map_err(RoleError::Identity)
    }

    async fn claim(
        &mut self,
        token: &ClaimToken,
        labels: &BTreeMap<String, String>,
    ) -> Result<Identity, RoleError> {
        let folder = self.identity_folder();
        let key = device_key(&folder).map_err(RoleError::Identity)?;
        let claimed = claim::claim(token, &key, &hardware(), labels, &self.clock).await;
        let claimed = claimed.map_err(RoleError::Claim)?;
        // Before the identity, which says that the claim is complete.
        keep_key_sets(&mut self.journal, &claimed.trusted_keys).map_err(RoleError::Agent)?;
        claimed.into_identity(token.url(), key, self.clock.clone(), Some(&folder)).map_err(RoleError::Claim)
    }
}

/// Claims the device; fine when it is claimed already.
///
/// # Errors
/// A [`RoleError`].
pub async fn claim_device(
    folder: &Path,
    token: &ClaimToken,
    labels: &BTreeMap<String, String>,
) -> Result<Identity, RoleError> {
    let mut state = State::open(folder)?;
    match state.identity()? {
        Some(identity) => Ok(identity),
        None => state.claim(token, labels).await,
    }
}

/// The role `run`, until `stop` is told or dropped.
///
/// # Errors
/// A [`RoleError`].
pub async fn run(settings: RunSettings, mut stop: oneshot::Receiver<()>) -> Result<(), RoleError> {
    let mut state = State::open(&settings.state)?;
    let identity = match (state.identity()?, &settings.token) {
        (Some(identity), _) => identity,
        (None, None) => return Err(RoleError::NotClaimed),
        (None, Some(token)) => tokio::select! {
            claimed = state.claim(token, &settings.labels) => match claimed {
                Ok(identity) => identity,
                Err(error) => {
                    // Whoever starts this again at once would ask again at once.
                    tracing::error!(error = %crate::chain(&error), "not claimed; giving up in half a minute");
                    let pause = tokio::time::sleep(REFUSED_PAUSE);
                    tokio::select! {
                        () = pause => {}
                        _ = &mut stop => {}
                    }
                    return Err(error);
                }
            },
            _ = &mut stop => return Ok(()),
        },
    };
    let registration = &identity.registration;
    tracing::info!(device = %registration.device, name = %registration.name, tenant = %registration.tenant_name, "claimed");
    let identity = Arc::new(identity);
    let downloads = Downloads::new(Arc::clone(&identity), &settings.state.join("downloads"));
    let watch = RunnerClient::new(settings.runner_socket.clone());
    let downloads = downloads.map_err(RoleError::Downloads)?;
    let executor = RunnerExecutor::new(settings.runner_socket, downloads, settings.registries);
    let mut agent = AgentSettings::new(hardware());
    agent.status_file = Some(state.folder.join(STATUS_FILE));
    agent.watch = Some(watch);
    agent.pressure = Some(PathBuf::from(crate::pressure::FOLDER));
    let folder = state.folder.clone();
    let eyes = agent.eyes.clone();
    let samplers = move || Box::new(HostSampler::new(&folder, eyes.clone())) as Box<dyn crate::Sampler>;
    let State { journal, _lock, .. } = state;
    let agent = Agent::new(agent, identity, executor, journal, samplers).map_err(RoleError::Agent)?;
    agent.run(stop).await.map_err(RoleError::Agent)
}

/// The role `runner`, until `stop` is told or dropped. Apps go on.
///
/// # Errors
/// A [`RoleError`].
pub async fn runner(settings: RunnerSettings, stop: oneshot::Receiver<()>) -> Result<(), RoleError> {
    let runner = Runner::bind(settings).map_err(RoleError::Runner)?;
    tokio::select! {
        served = runner.serve() => served.map_err(RoleError::Runner),
        _ = stop => Ok(()),
    }
}
