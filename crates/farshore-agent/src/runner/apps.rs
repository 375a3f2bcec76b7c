//! What the runner does for each verb.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use farshore_domain::config::check_pair;
use farshore_domain::device::Hardware;
use farshore_domain::digest::Digest;
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::policy::Bounds;
use farshore_domain::reconcile::Observed;
use farshore_domain::release::isolation::Isolation;
use farshore_domain::release::kind::{Kind, Ready, RunUser};
use farshore_domain::release::slot::{self, Slot};
use farshore_domain::release::{Manifest, Probe};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::allowed::Allowed;
use super::cgroup::Cgroups;
use super::error::RunnerError;
use super::folder::AppFolder;
use super::keys::Keys;
use super::room;
use super::shim::{NO_ROOM_EXIT, kill_leftovers, take_lock};
use super::slots::{self, Current};
use super::spec::{Check, ShimReply, ShimRequest, ShimStatus, Spec, signal_group};
use super::stage;
use super::users::Users;
use super::wire::{self, MAX_LOG_BYTES, Signed, config_digest};
use super::{logs, runtime, socket};
use crate::file;
use crate::reserve::Reserve;

/// One log file of an app has about this many bytes, and there are this many of them for each of stdout and stderr.
const LOG_BYTES: u64 = 1024 * 1024;
const LOG_FILES: u32 = 4;
/// How long a supervisor may take to come up.
const SHIM_START: Duration = Duration::from_secs(10);
const SHIM_ANSWER: Duration = Duration::from_secs(2);
/// What runs the app may take this long, besides the time that a check has.
const RUNTIME_ANSWER: Duration = Duration::from_secs(15);

/// An instance to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) digest: Digest,
    pub(super) release: ReleaseId,
    pub(super) instance: u64,
    /// In the slot that is not the current one.
    pub(super) beside: bool,
}

/// All apps of a device.
#[derive(Debug)]
pub(crate) struct Apps {
    pub(crate) folder: PathBuf,
    pub(crate) program: PathBuf,
    pub(crate) hardware: Hardware,
    pub(crate) cgroups: Cgroups,
    pub(crate) allowed: Allowed,
    /// What apps can be kept apart from, as words of `hello`.
    pub(crate) isolates: Vec<String>,
    pub(super) reserve: Reserve,
    pub(crate) keys: std::sync::Mutex<Keys>,
    pub(crate) users: std::sync::Mutex<Users>,
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn ask(folder: &AppFolder, request: ShimRequest, wait: Duration) -> io::Result<ShimReply> {
    let talk = async {
        let mut stream = socket::connect(&folder.socket()).await?;
        wire::write(&mut stream, &request).await.map_err(io::Error::other)?;
        let reply = wire::read(&mut stream).await.map_err(io::Error::other)?;
        reply.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    timeout(wait, talk).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

impl Apps {
    pub(crate) fn private(apps: &Path) -> PathBuf {
        apps.join(".runner")
    }

    pub(super) fn app(&self, app: &Name) -> AppFolder {
        AppFolder::of(&self.folder, app)
    }

    /// Whether a supervisor lives: it holds the lock.
    pub(super) fn is_supervised(folder: &AppFolder) -> Result<bool, RunnerError> {
        match take_lock(&folder.lock()) {
            Ok(lock) => Ok(lock.is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(RunnerError::io("looking at the supervisor's lock", error)),
        }
    }

    pub(super) fn stored_status(folder: &AppFolder) -> Option<ShimStatus> {
        let bytes = file::read_capped(&folder.status(), 1024 * 1024).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The apps that have a folder.
    pub(crate) fn names(&self) -> Vec<Name> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok()).collect()
    }

    /// What the supervisors of all apps have written down last, whether or not they still live, with the names of their control groups.
    pub(crate) fn statuses(&self) -> Vec<(Name, String, ShimStatus)> {
        let mut found = Vec::new();
        for app in self.names() {
            for slot in Slot::BOTH {
                let folder = self.app(&app).in_slot(slot);
                if let Some(status) = Self::stored_status(&folder) {
                    found.push((app.clone(), folder.group(), status));
                }
            }
        }
        found
    }

    async fn status(folder: &AppFolder) -> Result<Option<ShimStatus>, RunnerError> {
        if !Self::is_supervised(folder)? {
            return Ok(None);
        }
        match ask(folder, ShimRequest::Status, SHIM_ANSWER).await {
            Ok(ShimReply::Status(status)) => Ok(Some(*status)),
            // It lives and does not answer: starting, stopping, or starved.
            Ok(ShimReply::Stopped) | Err(_) => Ok(Self::stored_status(folder)),
        }
    }

    pub(crate) async fn list(&self) -> Result<BTreeMap<Name, Observed>, RunnerError> {
        let mut apps = BTreeMap::new();
        let disk_full = !file::has_room(&self.folder);
        if !disk_full {
            self.reserve.keep();
        }
        let entries = std::fs::read_dir(&self.folder).map_err(|e| RunnerError::io("listing apps", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| RunnerError::io("listing apps", e))?;
            let Some(name) = entry.file_name().to_str().and_then(|name| Name::new(name).ok()) else {
                continue;
            };
            let folder = self.app(&name);
            let staged = folder.staged().map_err(|e| RunnerError::io("listing releases", e))?;
            let current = Current::read(&folder).map_err(|e| RunnerError::io("reading the slot", e))?;
            let slot = current.map_or(Slot::Blue, |current| current.slot);
            let running = Self::status(&folder.in_slot(slot)).await?;
            let beside = Self::status(&folder.in_slot(slot.other())).await?;
            let there = || running.iter().chain(&beside);
            // Where its own disk has room, one of its files, or its container, may lie on another.
            let elsewhere = !disk_full && there().any(|status| status.no_room);
            let full = disk_full || elsewhere;
            let filled = if disk_full {
                let mut there: Vec<_> = there().map(|status| status.running.manifest).collect();
                if there.is_empty() {
                    there.extend(Self::spec(&folder.in_slot(slot)).map(|spec| spec.manifest));
                }
                Self::blocking(&folder, move |folder| Ok(room::has_filled(folder, &there))).await?
            } else {
                // How much of a container runtime's disk is whose is not known: what has not proven itself is not waited for there.
                let contained = |slot| {
                    let run = Self::spec(&folder.in_slot(slot)).and_then(|spec| spec.run);
                    run.is_some_and(|run| matches!(run.kind, Kind::Container | Kind::Compose))
                };
                elsewhere
                    && Slot::BOTH.into_iter().any(contained)
                    && there()
                        .any(|status| status.no_room && !room::is_committed(&folder, status.running.manifest))
            };
            let (running, beside) =
                (running.map(|status| status.running), beside.map(|status| status.running));
            let switching = current.is_some_and(|current| !current.told);
            let other = folder.in_slot(slot.other());
            let stray = current.filter(|_| beside.is_none()).and_then(|_| self.stray(&other));
            let staged = staged.into_iter().collect();
            let observed = Observed { staged, running, beside, switching, stray, full, filled };
            if !observed.staged.is_empty() || !observed.is_idle() {
                apps.insert(name, observed);
            }
        }
        Ok(apps)
    }

    /// Looks through an app's folders beside everything else.
    async fn blocking<T: Send + 'static>(
        folder: &AppFolder,
        work: impl FnOnce(&AppFolder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RunnerError> {
        let folder = folder.clone();
        let done = tokio::task::spawn_blocking(move || work(&folder)).await;
        done.map_err(io::Error::other)
            .flatten()
            .map_err(|e| RunnerError::io("looking at what the app has", e))
    }

    pub(crate) async fn stage(
        &self,
        signed: Signed,
        artifact: PathBuf,
        images: Option<PathBuf>,
    ) -> Result<(), RunnerError> {
        let tenant = locked(&self.keys).verify(&signed)?;
        let accepted = stage::accept(&signed.document, &tenant, &self.hardware)?;
        let folder = self.app(&accepted.manifest.app);
        self.check_allowed(&accepted.manifest)?;
        stage::check_floor(&folder, &accepted.manifest)?;
        let temporary = Self::private(&self.folder).join("staging");
        let work = move || {
            let fetched = stage::Fetched { artifact: &artifact, images: images.as_deref() };
            stage::stage(&folder, &accepted, &signed, fetched, &temporary)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| RunnerError::io("unpacking", io::Error::other(e)))?
    }

    /// What a manifest asks of the device beyond a plain process must be allowed by the device itself.
    fn check_allowed(&self, manifest: &Manifest) -> Result<(), RunnerError> {
        if !self.allowed.allows(manifest.run.kind) {
            return Err(RunnerError::NoRuntime(manifest.run.kind));
        }
        if manifest.run.user == Some(RunUser::Root) && !self.allowed.root.contains(&manifest.app) {
            return Err(RunnerError::RootNotAllowed(manifest.app.clone()));
        }
        self.check_isolation(&manifest.run.isolation.clone().unwrap_or_default())
    }

    /// An app is never run with less than it asks for.
    fn check_isolation(&self, isolation: &Isolation) -> Result<(), RunnerError> {
        let lacks = |word: &&'static str| !self.isolates.iter().any(|has| has == word);
        match isolation.needs().into_iter().find(lacks) {
            Some(word) => Err(RunnerError::NoIsolation(word)),
            None => Ok(()),
        }
    }

    /// What an instance is kept apart from: what its release asks for, and what the policy demands.
    fn isolation(&self, manifest: &Manifest, bounds: &Bounds) -> Result<Isolation, RunnerError> {
        if manifest.run.kind != Kind::Process {
            return Ok(Isolation::default());
        }
        let isolation = manifest.run.isolation.clone().unwrap_or_default().tightened(&bounds.isolation);
        self.check_isolation(&isolation)?;
        if isolation.cuts_off(&manifest.health) {
            return Err(RunnerError::CutOff);
        }
        Ok(isolation)
    }

    fn manifest(folder: &AppFolder, digest: Digest) -> Result<Manifest, RunnerError> {
        let bytes = folder.read_manifest(digest).map_err(|e| RunnerError::io("reading the manifest", e))?;
        Manifest::parse(&bytes.ok_or(RunnerError::NotStaged(digest))?).map_err(RunnerError::Manifest)
    }

    pub(super) async fn start(
        &self,
        app: &Name,
        what: Start,
        config: &BTreeMap<String, String>,
        bounds: &Bounds,
    ) -> Result<(), RunnerError> {
        let Start { digest, release, instance, beside } = what;
        let folder = self.app(app);
        if !folder.release(digest).is_dir() {
            return Err(RunnerError::NotStaged(digest));
        }
        let manifest = Self::manifest(&folder, digest)?;
        if manifest.app != *app {
            return Err(RunnerError::NotStaged(digest));
        }
        self.check_allowed(&manifest)?;
        stage::check_floor(&folder, &manifest)?;
        stage::check_program(&folder.release(digest), &manifest)?;
        let isolation = self.isolation(&manifest, bounds)?;
        let folder = Self::place(&folder, &manifest, beside)?;
        if !file::has_room(&self.folder) {
            // What has proven itself gets what is kept back; nothing else is begun and left half there.
            if !room::is_committed(&folder, digest) {
                let full = io::Error::from(io::ErrorKind::StorageFull);
                return Err(RunnerError::io("starting it", full));
            }
            self.reserve.give_up();
        }
        folder.make().map_err(|e| RunnerError::io("making the app's folder", e))?;
        Self::blocking(&folder, move |folder| room::remember(folder, digest, instance)).await?;
        self.check_signed_still(&folder, digest)?;
        for slot in Slot::BOTH {
            let folder = folder.in_slot(slot);
            if !Self::is_supervised(&folder)? {
                self.clear_leftovers(app, &folder).await?;
            }
        }
        self.leave_other_kind(&folder, manifest.run.kind).await?;
        let user = match manifest.run.user {
            Some(RunUser::Root) => None,
            None => locked(&self.users).of(app)?,
        };
        let limits = bounds.limits(&manifest.run.limits);
        let cgroups = match manifest.run.kind {
            // Who runs them sets their limits.
            Kind::Systemd | Kind::Container | Kind::Compose => Vec::new(),
            _ => self
                .cgroups
                .prepare(&folder.group(), &limits)
                .map_err(|e| RunnerError::io("setting the app's limits", e))?,
        };
        if let Some(user) = user {
            std::os::unix::fs::chown(folder.data(), Some(user.uid), Some(user.gid))
                .map_err(|e| RunnerError::io("giving the app its data folder", e))?;
        }
        let env = environment(&manifest, &folder, config)?;
        let spec = Spec {
            app: app.clone(),
            manifest: digest,
            release,
            version: manifest.version.clone(),
            instance,
            config: config_digest(config),
            folder: folder.release(digest),
            command: expand_arguments(&manifest.run.command, &env),
            checks: command_checks(&manifest, &env),
            env,
            user,
            cgroups,
            stop_timeout_ms: u64::from(manifest.run.stop_timeout_seconds) * 1000,
            backoff_ms: u64::from(bounds.restart.backoff_ms.unwrap_or(manifest.restart.backoff_ms)),
            max_backoff_ms: u64::from(
                bounds.restart.max_backoff_ms.unwrap_or(manifest.restart.max_backoff_ms),
            ),
            backoff_factor: bounds.restart.backoff_factor.unwrap_or(2).clamp(1, 10),
            log_bytes: bounds.retention.log_bytes.map_or(LOG_BYTES, |bytes| bytes.clamp(1 << 14, 1 << 30)),
            run: Some(manifest.run.clone()),
            allowed: self.allowed.clone(),
            limits,
            isolation,
            hooks: hooks(&manifest),
            notifies: manifest.run.kind == Kind::Process && manifest.run.ready == Some(Ready::Notify),
            start_timeout_ms: u64::from(manifest.start_timeout_seconds) * 1000,
            log_files: bounds.retention.log_files.map_or(LOG_FILES, |files| files.clamp(1, 100)),
        };
        let bytes =
            serde_json::to_vec(&spec).map_err(|e| RunnerError::io("writing the specification", e.into()))?;
        file::write_atomically(&folder.spec(), &bytes, 0o600)
            .map_err(|e| RunnerError::io("writing the specification", e))?;
        if !beside {
            slots::point(&folder, &spec).map_err(|e| RunnerError::io("switching the release", e))?;
        }
        self.spawn_shim(&folder).await
    }

    /// Where an instance goes. Only an app with slots runs twice, once in each.
    fn place(folder: &AppFolder, manifest: &Manifest, beside: bool) -> Result<AppFolder, RunnerError> {
        let app = &manifest.app;
        let has_slots = manifest.run.slots.is_some();
        let current = Current::of(folder).map_err(|e| RunnerError::io("reading the slot", e))?;
        let place = match (has_slots, beside) {
            (true, true) => current.in_slot(current.slot().other()),
            (true, false) => current.clone(),
            (false, true) => return Err(RunnerError::NoSlots(app.clone())),
            (false, false) => folder.in_slot(Slot::Blue),
        };
        for slot in Slot::BOTH {
            let there = folder.in_slot(slot);
            if !Self::is_supervised(&there)? {
                continue;
            }
            let slotted = Self::spec(&there).and_then(|spec| spec.run).is_some_and(|run| run.slots.is_some());
            if slot == place.slot() || !has_slots || !slotted {
                return Err(RunnerError::Doubled(app.clone()));
            }
        }
        if beside && !Self::is_supervised(&current)? {
            return Err(RunnerError::NothingBeside(app.clone()));
        }
        Ok(place)
    }

    /// A release starts for the first time only while a key that signed it is trusted. One that has run here before starts again also
    /// when its key is gone: rotating a key must not take away what devices run and go back to.
    fn check_signed_still(&self, folder: &AppFolder, digest: Digest) -> Result<(), RunnerError> {
        let read = |e| RunnerError::io("reading the manifest", e);
        if folder.has_run(digest).map_err(read)? {
            return Ok(());
        }
        let signed = folder.read_signed(digest).map_err(read)?.ok_or(RunnerError::NotStaged(digest))?;
        locked(&self.keys).verify(&signed)?;
        folder.remember_run(digest).map_err(|e| RunnerError::io("remembering the start", e))
    }

    async fn spawn_shim(&self, folder: &AppFolder) -> Result<(), RunnerError> {
        let log = std::fs::File::create(folder.log("supervisor.log"))
            .map_err(|e| RunnerError::io("opening the supervisor's log", e))?;
        let mut command = std::process::Command::new(&self.program);
        command
            .arg0("farshore-agent")
            .arg("shim")
            .arg(folder.root())
            .args((folder.slot() == Slot::Green).then_some("--green"))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let child = Command::from(command).spawn();
        let mut child = child.map_err(|e| RunnerError::io("starting the supervisor", e))?;
        let deadline = Instant::now() + SHIM_START;
        loop {
            if let Ok(ShimReply::Status(_)) = ask(folder, ShimRequest::Status, SHIM_ANSWER).await {
                break;
            }
            if let Ok(Some(ended)) = child.try_wait() {
                if ended.code() == Some(i32::from(NO_ROOM_EXIT)) {
                    let full = io::Error::from(io::ErrorKind::StorageFull);
                    return Err(RunnerError::io("starting the supervisor", full));
                }
                let said = logs::tail(&folder.log("supervisor.log"), 500).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                return Err(RunnerError::Shim(format!("{ended}: {said}")));
            }
            if Instant::now() > deadline {
                child.kill().await.map_err(|e| RunnerError::io("stopping the supervisor", e))?;
                return Err(RunnerError::Shim("it does not answer".to_owned()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        // Reaped when it ends, if this runner lives so long.
        tokio::spawn(async move {
            if let Err(error) = child.wait().await {
                tracing::debug!(%error, "a supervisor can't be waited for");
            }
        });
        Ok(())
    }

    /// Nothing of an instance without a supervisor may run beside the next one.
    async fn clear_leftovers(&self, app: &Name, folder: &AppFolder) -> Result<(), RunnerError> {
        let stored = Self::stored_status(folder);
        let process = stored.as_ref().and_then(|status| status.process);
        let boot = stored.as_ref().map_or("", |status| status.boot.as_str());
        if !kill_leftovers(process, boot, &self.cgroups.folders(&folder.group())).await {
            return Err(RunnerError::Doubled(app.clone()));
        }
        match Self::spec(folder) {
            Some(spec) => runtime::of(folder, &spec)
                .clear()
                .await
                .map_err(|source| RunnerError::Runtime { what: "clearing away the last instance", source }),
            None => Ok(()),
        }
    }

    /// An app that becomes another kind of app takes back what the kind before has changed on the device.
    async fn leave_other_kind(&self, folder: &AppFolder, kind: Kind) -> Result<(), RunnerError> {
        let before = Self::spec(folder).filter(|spec| spec.run.as_ref().is_some_and(|run| run.kind != kind));
        match before {
            Some(spec) => self.take_back(folder, &spec).await,
            None => Ok(()),
        }
    }

    /// Programs that the runtime runs join the app's groups, which may have gone with the last instance or the last boot.
    fn make_groups(&self, folder: &AppFolder, spec: &Spec) -> Result<(), RunnerError> {
        let limits = spec.run.as_ref().map(|run| run.limits.clone()).unwrap_or_default();
        let made = self.cgroups.prepare(&folder.group(), &limits);
        made.map(drop).map_err(|e| RunnerError::io("setting the app's limits", e))
    }

    async fn take_back(&self, folder: &AppFolder, spec: &Spec) -> Result<(), RunnerError> {
        self.make_groups(folder, spec)?;
        runtime::of(folder, spec)
            .remove()
            .await
            .map_err(|source| RunnerError::Runtime { what: "taking back what the app has changed", source })
    }

    pub(crate) async fn stop(&self, app: &Name) -> Result<(), RunnerError> {
        let folder = self.app(app);
        // The first slot also when nothing is there: it may have to be cleared away.
        if Self::is_supervised(&folder.in_slot(Slot::Green))?
            || Self::stored_status(&folder.in_slot(Slot::Green)).is_some()
        {
            self.stop_in(app, &folder.in_slot(Slot::Green)).await?;
        }
        self.stop_in(app, &folder.in_slot(Slot::Blue)).await
    }

    /// Stops what runs in one slot.
    pub(super) async fn stop_in(&self, app: &Name, folder: &AppFolder) -> Result<(), RunnerError> {
        if Self::is_supervised(folder)? {
            let wait = Self::stop_timeout(folder) + Duration::from_secs(15);
            let asked = ask(folder, ShimRequest::Stop, wait).await;
            let deadline = Instant::now() + Duration::from_secs(5);
            while Self::is_supervised(folder)? {
                if Instant::now() > deadline {
                    let why = asked.err().map_or_else(|| "it goes on".to_owned(), |e| e.to_string());
                    return Err(RunnerError::Shim(format!("it does not stop: {why}")));
                }
                sleep(Duration::from_millis(5)).await;
            }
        } else if let Some(spec) = Self::spec(folder) {
            // Its supervisor was killed, or the device was off: what it would have done is done here.
            self.make_groups(folder, &spec)?;
            let stopped = runtime::of(folder, &spec).stop(true).await;
            stopped.map_err(|source| RunnerError::Runtime { what: "stopping the app", source })?;
        }
        self.clear_leftovers(app, folder).await?;
        self.cgroups.remove(&folder.group());
        Ok(())
    }

    pub(super) fn spec(folder: &AppFolder) -> Option<Spec> {
        let bytes = file::read_capped(&folder.spec(), 64 * 1024 * 1024).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn stop_timeout(folder: &AppFolder) -> Duration {
        Self::spec(folder)
            .map_or(Duration::from_secs(600), |spec| Duration::from_millis(spec.stop_timeout_ms))
    }

    pub(crate) async fn remove(&self, app: &Name) -> Result<(), RunnerError> {
        self.stop(app).await?;
        let folder = self.app(app);
        if let Some(spec) = Self::spec(&folder) {
            self.take_back(&folder, &spec).await?;
            self.cgroups.remove(&folder.group());
        }
        folder.remove().map_err(|e| RunnerError::io("deleting the app", e))
    }

    pub(crate) async fn discard(&self, app: &Name, keep: &[Digest]) -> Result<(), RunnerError> {
        let folder = self.app(app);
        let mut running = Vec::new();
        for slot in Slot::BOTH {
            let status = Self::status(&folder.in_slot(slot)).await?;
            running.extend(status.map(|status| status.running.manifest));
        }
        for staged in folder.staged().map_err(|e| RunnerError::io("listing releases", e))? {
            if !keep.contains(&staged) && !running.contains(&staged) {
                folder.discard(staged).map_err(|e| RunnerError::io("deleting a release", e))?;
            }
        }
        Ok(())
    }

    pub(crate) fn commit(&self, app: &Name, digest: Digest) -> Result<(), RunnerError> {
        let folder = self.app(app);
        let floor = Self::manifest(&folder, digest)?.floor;
        let write = || {
            if let Some(floor) = &floor {
                folder.raise_floor(floor).map_err(|e| RunnerError::io("raising the floor", e))?;
            }
            file::write_atomically(&folder.committed(), digest.to_string().as_bytes(), 0o600)
                .map_err(|e| RunnerError::io("writing down what was committed", e))
        };
        match write() {
            // Without it, what has proven itself would not be started again while the disk is full.
            Err(error) if file::found_no_room(&error) && self.reserve.give_up() => write(),
            written => written,
        }
    }

    /// An instance that is up, or what is up in the current slot, as it was started.
    pub(super) async fn up(
        &self,
        app: &Name,
        instance: Option<u64>,
    ) -> Result<(AppFolder, Spec), RunnerError> {
        let folder = match instance {
            Some(instance) => self.slot_of(app, instance)?.map(|(folder, _)| folder),
            None => Some(Current::of(&self.app(app)).map_err(|e| RunnerError::io("reading the slot", e))?),
        };
        let folder = folder.ok_or_else(|| RunnerError::NotRunning(app.clone()))?;
        let status = Self::status(&folder).await?;
        let up = status.is_some_and(|status| status.running.up);
        let spec = Self::spec(&folder).filter(|_| up).ok_or_else(|| RunnerError::NotRunning(app.clone()))?;
        Ok((folder, spec))
    }

    /// Runs a command check in the app's place: its user, its groups, its folder, its environment.
    pub(crate) async fn probe(
        &self,
        app: &Name,
        name: &Name,
        instance: Option<u64>,
    ) -> Result<(bool, String), RunnerError> {
        let (folder, spec) = self.up(app, instance).await?;
        let check = spec.checks.get(name).ok_or_else(|| RunnerError::NoCheck(name.clone()))?;
        let limit = Duration::from_millis(check.timeout_ms);
        if let Some(asked) = runtime::of(&folder, &spec).check(&check.command, limit) {
            let what = "running the check";
            let after = limit + RUNTIME_ANSWER;
            let asked = timeout(after, asked).await.map_err(|_| RunnerError::Stuck { what, after })?;
            return match asked.map_err(|source| RunnerError::Runtime { what, source })? {
                Ok(()) => Ok((true, String::new())),
                Err(message) => Ok((false, message)),
            };
        }
        let mut child = Command::new(&self.program)
            .arg("app-exec")
            .arg(folder.spec())
            .args(["--check", name.as_str()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| RunnerError::io("starting the check", e))?;
        let group = child.id().and_then(|pid| i32::try_from(pid).ok());
        match timeout(Duration::from_millis(check.timeout_ms), child.wait()).await {
            Ok(Ok(ended)) if ended.success() => Ok((true, String::new())),
            Ok(Ok(ended)) => Ok((false, format!("{ended}"))),
            Ok(Err(error)) => Err(RunnerError::io("waiting for the check", error)),
            Err(_) => {
                signal_group(group, rustix::process::Signal::KILL);
                child.kill().await.map_err(|e| RunnerError::io("ending the check", e))?;
                Ok((false, format!("no answer within {} ms", check.timeout_ms)))
            }
        }
    }

    pub(crate) fn cut_logs(&self, app: &Name, older_than_seconds: Option<u32>) -> Result<(), RunnerError> {
        let age = older_than_seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
        logs::cut(&self.app(app).logs(), age, crate::clock::wall())
            .map_err(|e| RunnerError::io("deleting old logs", e))
    }

    pub(crate) async fn logs(&self, app: &Name, bytes: u32) -> Result<String, RunnerError> {
        let app = self.app(app);
        let bytes = u64::from(bytes.min(MAX_LOG_BYTES));
        if let Some(spec) =
            Self::spec(&app).filter(|spec| spec.run.as_ref().is_some_and(|run| run.kind == Kind::Systemd))
        {
            let text = runtime::journal(&app, &spec, bytes).await;
            return text.map_err(|source| RunnerError::Runtime { what: "reading the journal", source });
        }
        let folder = app.logs();
        // An app of several containers has a pair for each.
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let name = entry.map_err(|e| RunnerError::io("reading logs", e))?.file_name();
            if let Some(name) =
                name.to_str().filter(|name| name.ends_with("stdout.log") || name.ends_with("stderr.log"))
            {
                names.push(name.to_owned());
            }
        }
        names
            .sort_by(|a, b| b.ends_with("stdout.log").cmp(&a.ends_with("stdout.log")).then_with(|| a.cmp(b)));
        let each = bytes / (names.len().max(2) as u64);
        let mut text = String::new();
        for name in names {
            let tail =
                logs::tail(&folder.join(&name), each).map_err(|e| RunnerError::io("reading logs", e))?;
            if !tail.is_empty() {
                text.push_str(&format!("==> {name} <==\n{}\n", String::from_utf8_lossy(&tail)));
            }
        }
        Ok(text)
    }
}

/// The whole environment of an app: nothing is inherited. Config wins over the manifest, and can't reach what changes execution.
fn environment(
    manifest: &Manifest,
    folder: &AppFolder,
    config: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, RunnerError> {
    let mut env = manifest.run.env.clone();
    for (key, value) in config {
        check_pair(key, value).map_err(RunnerError::Config)?;
        env.insert(key.clone(), value.clone());
    }
    env.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
    env.insert("HOME".to_owned(), folder.data().to_string_lossy().into_owned());
    env.insert("FARSHORE_APP".to_owned(), manifest.app.to_string());
    env.insert("FARSHORE_VERSION".to_owned(), manifest.version.to_string());
    if let Some(slots) = &manifest.run.slots {
        env.insert(slot::PORT.to_owned(), slots.port(folder.slot()).to_string());
        env.insert(slot::SLOT.to_owned(), folder.slot().to_string());
        env.insert(slot::CURRENT.to_owned(), folder.current_env().to_string_lossy().into_owned());
    }
    if manifest.run.kind == Kind::Process && manifest.run.ready == Some(Ready::Notify) {
        env.insert("NOTIFY_SOCKET".to_owned(), folder.notify().to_string_lossy().into_owned());
    }
    if manifest.run.kind == Kind::Files {
        env.insert("FARSHORE_FILES".to_owned(), folder.files_next().to_string_lossy().into_owned());
    }
    Ok(env)
}

/// Replaces each `${NAME}` by the variable's value, once; what is no such variable stays as it is.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, tail)) if env.contains_key(name) => {
                out.push_str(env.get(name).map_or("", String::as_str));
                rest = tail;
            }
            _ => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// Expands what follows the program. The program itself is what the signed manifest says to the letter: config, which the control
/// plane chooses, can't choose it.
fn expand_arguments(command: &[String], env: &BTreeMap<String, String>) -> Vec<String> {
    let expanded =
        |(index, part): (usize, &String)| if index == 0 { part.clone() } else { expand(part, env) };
    command.iter().enumerate().map(expanded).collect()
}

/// Programs of the release that its runtime runs.
fn hooks(manifest: &Manifest) -> BTreeMap<String, Vec<String>> {
    let run = &manifest.run;
    let mut hooks = BTreeMap::new();
    if let Some(slots) = run.slots.as_ref().filter(|slots| !slots.switch.is_empty()) {
        hooks.insert("switch".to_owned(), slots.switch.clone());
    }
    if let Some(files) = &run.files {
        for (name, command) in [("validate", &files.validate), ("reload", &files.reload)] {
            if !command.is_empty() {
                hooks.insert(name.to_owned(), command.clone());
            }
        }
    }
    if run.kind == Kind::Installer {
        for step in ["prepare", "install", "commit", "rollback", "inventory"] {
            let mut command = run.command.clone();
            command.push(step.to_owned());
            hooks.insert(step.to_owned(), command);
        }
    }
    hooks
}

fn command_checks(manifest: &Manifest, env: &BTreeMap<String, String>) -> BTreeMap<Name, Check> {
    manifest
        .health
        .iter()
        .filter_map(|check| match &check.probe {
            Probe::Command { command } => {
                let command = expand_arguments(command, env);
                let timeout_ms = u64::from(check.timeout_seconds) * 1000;
                Some((check.name.clone(), Check { command, timeout_ms }))
            }
            Probe::Http { .. } | Probe::Tcp { .. } => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_once_and_only_known_ones() {
        let env = BTreeMap::from([("A".to_owned(), "${B}".to_owned()), ("B".to_owned(), "b".to_owned())]);
        assert_eq!(expand("x${A}y${B}${C}$A${", &env), "x${B}yb${C}$A${");
    }

    #[test]
    fn the_program_is_what_was_signed_whatever_config_says() {
        let env = BTreeMap::from([("A".to_owned(), "/bin/sh".to_owned())]);
        let command = ["${A}", "${A}"].map(str::to_owned);
        assert_eq!(expand_arguments(&command, &env), ["${A}", "/bin/sh"]);
    }
}
