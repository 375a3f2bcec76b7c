//! The runner: a small privileged helper with a closed list of verbs over a unix socket.
//!
//! It starts and stops apps from manifests whose signature it has itself checked against its own copy of the tenant's keys. A `run` that
//! was taken over can choose among signed releases at or above the floor; it can't make the runner execute anything else. Each app lives
//! under a supervisor of its own ([`supervise`]), outside `run` and the runner, and is found again after either has died.

mod allowed;
mod anchor;
pub(crate) mod apps;
mod cgroup;
mod client;
mod error;
mod exec;
mod folder;
mod images;
mod inside;
mod isolate;
mod keys;
mod logs;
mod orphans;
mod reboot;
mod room;
mod runbook;
mod runtime;
mod shim;
mod slots;
mod socket;
mod spec;
mod stage;
mod unpack;
mod users;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_domain::name::Name;
use farshore_domain::operation::{
    EXEC_CAPABILITY, EXEC_INSIDE_CAPABILITY, EXEC_INSIDE_CAPABILITY_2, REBOOT_CAPABILITY,
};
use farshore_domain::release::slot::SLOTS_CAPABILITY;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

pub use allowed::{ALLOWED_FILE, Allowed, Containerd, Kubernetes, Systemd};
pub use anchor::{Anchor, SignedState};
pub use client::{ClientError, RunnerClient};
pub use error::RunnerError;
pub use exec::{ExecError, Part, become_app};
pub(crate) use isolate::remedy as isolation_remedy;
pub use isolate::{IsolateError, missing as missing_isolation};
pub use runbook::{Ended, Order, become_command};
pub use runtime::RuntimeError;
pub use runtime::{NetworkError, container_network};
pub(crate) use shim::take_lock;
pub use shim::{ShimError, supervise};
pub use unpack::{UnpackError, UnpackLimits, unpack};
pub use users::{APP_UIDS, AppsUser};
pub use wire::{MAX_FRAME_BYTES, Reply, Request, Signed, WireError, config_digest};

use anchor::Anchored;
use apps::{Apps, Start};
use cgroup::Cgroups;
use keys::Keys;
use users::Users;

use crate::eyes::{Loader, Watch};
use crate::reserve::Reserve;

/// At most this many connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Another runner is there when the apps folder is still locked after this long.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// A connection that says nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How a runner is set up.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    pub socket: PathBuf,
    pub apps: PathBuf,
    /// Besides root and the runner's own user, who may ask.
    pub allow_uid: Option<u32>,
    pub user: AppsUser,
    /// Where control groups are mounted, and the name of the group that apps get theirs in; `None` leaves them alone.
    pub cgroups: Option<(PathBuf, String)>,
    /// The `farshore-agent` program that supervisors are started from.
    pub program: PathBuf,
    /// What the device allows beyond plain processes.
    pub allowed: Allowed,
    /// The program that reboots the device, with its arguments; empty where that is not to be done.
    pub reboot: Vec<String>,
    /// eBPF programs may be loaded into the kernel.
    pub ebpf: bool,
    /// A socket at which a loader of such programs is started; `None` or not there: the runner starts it itself.
    pub eyes: Option<PathBuf>,
}

impl RunnerSettings {
    /// Control groups under `/sys/fs/cgroup/farshore-apps`, supervisors from this very program.
    #[must_use]
    pub fn new(socket: PathBuf, apps: PathBuf, user: AppsUser) -> Self {
        Self {
            socket,
            apps,
            allow_uid: None,
            user,
            cgroups: Some((PathBuf::from("/sys/fs/cgroup"), "farshore-apps".to_owned())),
            program: PathBuf::from("/proc/self/exe"),
            allowed: Allowed::default(),
            reboot: Vec::new(),
            ebpf: true,
            eyes: None,
        }
    }
}

/// Takes the lock of the apps folder. A runner that was killed while it started a process leaves the lock to that process until it
/// has become its program: that passes, so it is waited for a moment.
fn wait_for_lock(path: &std::path::Path) -> std::io::Result<Option<File>> {
    let deadline = std::time::Instant::now() + LOCK_WITHIN;
    loop {
        match shim::take_lock(path)? {
            None if std::time::Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(20))
            }
            taken => return Ok(taken),
        }
    }
}

/// A runner that listens.
#[derive(Debug)]
pub struct Runner {
    listener: UnixListener,
    _lock: File,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    apps: Apps,
    capabilities: Vec<String>,
    allowed: Vec<u32>,
    busy: Mutex<BTreeMap<Name, Arc<Mutex<()>>>>,
    staging: Mutex<()>,
    /// What the control plane has signed for this device, and the turn of commands from afar.
    anchored: std::sync::Mutex<Anchored>,
    commands: Mutex<()>,
    slots: Arc<Semaphore>,
    reboot: Vec<String>,
    watch: Watch,
}

impl Runner {
    /// Takes the apps folder, looks at what this machine can do, and listens.
    ///
    /// # Errors
    /// When another runner has the folder, or its files can't be read: nothing is then started.
    pub fn bind(settings: RunnerSettings) -> Result<Self, RunnerError> {
        let RunnerSettings {
            socket: path,
            apps: folder,
            allow_uid,
            user,
            cgroups,
            program,
            allowed: device,
            reboot,
            ebpf,
            eyes,
        } = settings;
        let make = |path: &std::path::Path, mode| {
            crate::file::make_folder(path, mode)
                .map_err(|e| RunnerError::io("making the runner's folders", e))
        };
        make(&folder, 0o755)?;
        // Absolute, because supervisors work from another folder.
        let folder = folder.canonicalize().map_err(|e| RunnerError::io("finding the apps folder", e))?;
        let private = Apps::private(&folder);
        make(&private, 0o700)?;
        make(&private.join("staging"), 0o700)?;
        let lock = wait_for_lock(&private.join("lock")).map_err(|e| RunnerError::io("locking", e))?;
        let lock = lock.ok_or_else(|| RunnerError::AlreadyRunning(folder.clone()))?;
        let groups = cgroups.map_or_else(Cgroups::default, |(root, group)| Cgroups::detect(&root, &group));
        let mut capabilities =
            ["process", "manifest/v1", EXEC_CAPABILITY, EXEC_INSIDE_CAPABILITY, EXEC_INSIDE_CAPABILITY_2]
                .map(str::to_owned)
                .to_vec();
        capabilities.push(SLOTS_CAPABILITY.to_owned());
        capabilities.extend(groups.capabilities());
        let isolates = isolate::capabilities();
        capabilities.extend(isolates.iter().cloned());
        if reboot::is_possible(&reboot) {
            capabilities.push(REBOOT_CAPABILITY.to_owned());
        }
        if user != AppsUser::Unprivileged {
            capabilities.push("users".to_owned());
        }
        let own = rustix::process::geteuid().as_raw();
        let listener = socket::listen(&path).map_err(|e| RunnerError::io("listening", e))?;
        // Who may ask is decided by the peer's credentials; the mode only has to let them connect.
        let mode = if allow_uid.is_some() { 0o666 } else { 0o600 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(|e| RunnerError::io("opening the socket", e))?;
        let watch = Watch::new(ebpf, Loader { socket: eyes, program: program.clone() });
        let apps = Apps {
            keys: std::sync::Mutex::new(Keys::load(&private)?),
            users: std::sync::Mutex::new(Users::load(user, &private)?),
            folder,
            program,
            hardware: crate::hardware(),
            cgroups: groups,
            allowed: device,
            isolates,
            reserve: Reserve::at(private.join("reserve")),
        };
        apps.reserve.keep();
        let allowed = [Some(0), Some(own), allow_uid].into_iter().flatten().collect();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let shared = Shared {
            anchored: std::sync::Mutex::new(Anchored::load(&private)?),
            apps,
            capabilities,
            allowed,
            busy: Mutex::default(),
            staging: Mutex::default(),
            commands: Mutex::default(),
            slots,
            reboot,
            watch,
        };
        Ok(Self { listener, _lock: lock, shared: Arc::new(shared) })
    }

    /// Serves until dropped. Apps go on when it ends.
    ///
    /// # Errors
    /// When connections can't be accepted any more.
    pub async fn serve(self) -> Result<(), RunnerError> {
        let apps = &self.shared.apps;
        let user = apps.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner).of_commands()?;
        runbook::clear(&apps.folder, &apps.cgroups, user).await;
        loop {
            let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
            let slot = slot.map_err(|e| RunnerError::io("counting connections", std::io::Error::other(e)))?;
            let (stream, _) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, for instance: it passes.
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                shared.connection(stream).await;
                drop(slot);
            });
        }
    }
}

impl Shared {
    async fn connection(&self, mut stream: UnixStream) {
        let uid = match stream.peer_cred() {
            Ok(peer) => peer.uid(),
            Err(error) => {
                tracing::warn!(%error, "a peer without credentials is turned away");
                return;
            }
        };
        if !self.allowed.contains(&uid) {
            tracing::warn!(uid, "a peer that may not ask is turned away");
            return;
        }
        loop {
            let request = match timeout(IDLE, wire::read::<Request>(&mut stream)).await {
                Ok(Ok(Some(request))) => request,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(error = %crate::chain(&error), "a request that can't be read");
                    let code = "BadRequest".to_owned();
                    let reply = Reply::Failed { code, message: crate::chain(&error), refused: true };
                    if let Err(error) = wire::write(&mut stream, &reply).await {
                        tracing::debug!(%error, "the answer was not taken");
                    }
                    return;
                }
            };
            let answered = match request {
                // The rest of the connection belongs to it.
                Request::Watch { look } => {
                    if let Err(error) = self.watch.serve(stream, &self.apps, look).await {
                        tracing::debug!(error = %crate::chain(&error), "a watch ended");
                    }
                    return;
                }
                Request::Exec { order } => runbook::run(self, &mut stream, order).await.map(Reply::Ended),
                request => self.answer(request).await,
            };
            let reply = match answered {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::warn!(code = error.code(), error = %error.chain(), "not done");
                    let refused = error.is_refusal();
                    Reply::Failed { code: error.code().to_owned(), message: error.chain(), refused }
                }
            };
            if let Ok(Err(error)) = timeout(IDLE, wire::write(&mut stream, &reply)).await {
                tracing::debug!(%error, "the answer was not taken");
                return;
            }
        }
    }

    /// One thing at a time for each app.
    async fn turn(&self, app: &Name) -> Arc<Mutex<()>> {
        let mut busy = self.busy.lock().await;
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(busy.entry(app.clone()).or_default())
    }

    async fn answer(&self, request: Request) -> Result<Reply, RunnerError> {
        let apps = &self.apps;
        match request {
            Request::Hello {} => {
                let keys = apps.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut capabilities = self.capabilities.clone();
                // What runs them may have come or gone meanwhile.
                capabilities.extend(apps.allowed.capabilities());
                Ok(Reply::Hello {
                    capabilities,
                    tenant: keys.tenant_name().cloned(),
                    trusted_keys_version: keys.version(),
                })
            }
            Request::Trust { tenant, name, sets } => {
                let mut keys = apps.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                keys.accept(tenant, &name, sets)?;
                Ok(Reply::Done)
            }
            Request::List {} => Ok(Reply::Apps { apps: apps.list().await? }),
            Request::Stage { manifest, artifact, images } => {
                // Staging goes on beside starts and stops; two of the same release would share a folder.
                let _turn = self.staging.lock().await;
                apps.stage(manifest, artifact, images).await?;
                Ok(Reply::Done)
            }
            Request::Start { app, manifest, release, instance, config, bounds, beside } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                let what = Start { digest: manifest, release, instance, beside };
                // What `run` says of the policy may be less than what is signed, never more.
                let demanded =
                    self.anchored.lock().unwrap_or_else(std::sync::PoisonError::into_inner).isolation();
                let mut bounds = bounds;
                bounds.isolation = bounds.isolation.tightened(&demanded);
                apps.start(&app, what, &config, &bounds).await?;
                Ok(Reply::Done)
            }
            Request::StopOne { app, instance } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                apps.stop_one(&app, instance).await?;
                Ok(Reply::Done)
            }
            Request::Switch { app, instance } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                apps.switch(&app, instance).await?;
                Ok(Reply::Done)
            }
            Request::Stop { app } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                apps.stop(&app).await?;
                Ok(Reply::Done)
            }
            Request::Remove { app } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                apps.remove(&app).await?;
                Ok(Reply::Done)
            }
            Request::Discard { app, keep } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                apps.discard(&app, &keep).await?;
                Ok(Reply::Done)
            }
            Request::Commit { app, manifest } => {
                let turn = self.turn(&app).await;
                let _turn = turn.lock().await;
                apps.commit(&app, manifest)?;
                Ok(Reply::Done)
            }
            Request::Probe { app, check, instance } => {
                let (good, message) = apps.probe(&app, &check, instance).await?;
                Ok(Reply::Probed { good, message })
            }
            Request::Obey { anchor, state } => {
                let mut anchored = self.anchored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                anchored.accept(anchor, state, crate::clock::wall())?;
                Ok(Reply::Done)
            }
            // Answered before, because its output goes first.
            Request::Exec { .. } => Err(RunnerError::NotAllowed("not here".to_owned())),
            Request::CutLogs { app, older_than_seconds } => {
                apps.cut_logs(&app, older_than_seconds)?;
                Ok(Reply::Done)
            }
            Request::Reboot {} => {
                if !self.reboot.is_empty() {
                    let anchored = self.anchored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    anchored.may_reboot()?;
                }
                reboot::reboot(&self.reboot).await?;
                Ok(Reply::Done)
            }
            Request::Sources {} => Ok(Reply::Sources { sources: self.watch.sources().await }),
            // Taken before this is asked.
            Request::Watch { .. } => Ok(Reply::Done),
            Request::Logs { app, bytes } => Ok(Reply::Logs { text: apps.logs(&app, bytes).await? }),
        }
    }
}
