//! A runner of its own with the settings of a device, in a folder and control group of its own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use farshore_agent::runner::{ClientError, Reply, Request, RunnerClient};
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::policy::Bounds;
use farshore_domain::reconcile::{Observed, Running};

use crate::disk::{Filler, Mounted, mounted};
use crate::release::{Release, Signer};
use crate::wait::until;

pub(crate) fn web() -> Name {
    Name::new("web").unwrap()
}

pub(crate) struct Bed {
    /// A disk under the apps that everybody sees. It goes before its folder.
    _shared: Option<Mounted>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) client: RunnerClient,
    pub(crate) signer: Signer,
    runner: Option<Child>,
    group: String,
    /// The apps lie on a disk of this many bytes, which only the runner sees.
    disk: Option<u64>,
    /// What the runner is started by.
    wrapper: &'static [&'static str],
}

impl Bed {
    /// With what the device's administrator has written into its settings.
    pub(crate) async fn new(allowed: &serde_json::Value) -> Self {
        Self::made(tempfile::tempdir().unwrap(), allowed, None).await
    }

    pub(crate) async fn made(
        folder: tempfile::TempDir,
        allowed: &serde_json::Value,
        disk: Option<u64>,
    ) -> Self {
        Self::of(folder, allowed, disk, &[], None).await
    }

    /// The apps lie on a disk of this many bytes that everybody sees: for what is run by somebody outside of the runner.
    pub(crate) async fn shared(folder: tempfile::TempDir, allowed: &serde_json::Value, bytes: u64) -> Self {
        let apps = folder.path().join("apps");
        std::fs::create_dir_all(&apps).unwrap();
        let shared = Mounted::over(&apps, bytes);
        std::fs::set_permissions(&apps, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self::of(folder, allowed, None, &[], Some(shared)).await
    }

    /// The runner is started by a program that takes something from it.
    pub(crate) async fn wrapped(
        folder: tempfile::TempDir,
        allowed: &serde_json::Value,
        disk: Option<u64>,
        wrapper: &'static [&'static str],
    ) -> Self {
        Self::of(folder, allowed, disk, wrapper, None).await
    }

    async fn of(
        folder: tempfile::TempDir,
        allowed: &serde_json::Value,
        disk: Option<u64>,
        wrapper: &'static [&'static str],
        shared: Option<Mounted>,
    ) -> Self {
        // Users of apps must get in; the temporary folder is for nobody else by default.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("executors.json"), serde_json::to_vec(allowed).unwrap()).unwrap();
        std::fs::create_dir_all(folder.path().join("apps")).unwrap();
        let parent =
            std::env::var("FARSHORE_TEST_CGROUP").map_or_else(|_| String::new(), |group| format!("{group}/"));
        let group = format!("{parent}farshore-test-{}", uuid::Uuid::new_v4());
        let client = RunnerClient::new(folder.path().join("runner.sock"));
        let signer = Signer::new("acme");
        let mut bed = Self { _shared: shared, folder, client, signer, runner: None, group, disk, wrapper };
        bed.start_runner().await;
        let signer = &bed.signer;
        let sets = vec![signer.first_set()];
        let trust = Request::Trust { tenant: signer.tenant, name: signer.tenant_name.clone(), sets };
        bed.client.done(&trust).await.unwrap();
        bed
    }

    pub(crate) fn apps(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("apps")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.apps().join("web/data")
    }

    pub(crate) async fn start_runner(&mut self) {
        let mut command = match self.disk {
            None => match self.wrapper.split_first() {
                None => Command::new(env!("CARGO_BIN_EXE_farshore-agent")),
                Some((program, arguments)) => {
                    let mut command = Command::new(program);
                    command.args(arguments).arg(env!("CARGO_BIN_EXE_farshore-agent"));
                    command
                }
            },
            Some(bytes) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation=private", "sh", "-eu", "-c"]);
                command.arg(mounted(bytes));
                command.arg("sh").arg(self.apps()).arg(env!("CARGO_BIN_EXE_farshore-agent"));
                command
            }
        };
        let unprivileged = !rustix::process::geteuid().is_root();
        let child = command
            .args(["runner", "--cgroup", &self.group])
            .args(unprivileged.then_some("--unprivileged"))
            .arg("--socket")
            .arg(self.folder.path().join("runner.sock"))
            .arg("--apps-dir")
            .arg(self.apps())
            .arg("--executors")
            .arg(self.folder.path().join("executors.json"))
            .env("FARSHORE_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.runner = Some(child);
        let client = &self.client;
        until("the runner", || async { client.ask(&Request::Hello {}).await.ok() }).await;
    }

    /// The app's control groups that are there.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let of =
            |controller: &str| Path::new("/sys/fs/cgroup").join(controller).join(&self.group).join("web");
        ["unified", "memory", "cpu", "pids", "."].map(of).into_iter().filter(|group| group.exists()).collect()
    }

    /// The runner's process.
    pub(crate) fn runner(&self) -> u32 {
        self.runner.as_ref().unwrap().id()
    }

    /// As with `kill -9`.
    pub(crate) fn kill_runner(&mut self) {
        let mut runner = self.runner.take().unwrap();
        runner.kill().unwrap();
        runner.wait().unwrap();
    }

    /// As with `kill -9`, the supervisor of the app; the app itself is left alone.
    pub(crate) async fn kill_supervisor(&self) {
        let lock = self.apps().join("web/state/shim.lock");
        for pid in holders(&lock) {
            assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        }
        until("its end", || async { holders(&lock).is_empty().then_some(()) }).await;
    }

    pub(crate) async fn stage(&self, release: &Release) -> Result<(), ClientError> {
        let path = self.folder.path().join("artifact");
        std::fs::write(&path, &release.artifact).unwrap();
        self.client
            .done(&Request::Stage { manifest: release.signed.clone(), artifact: path, images: None })
            .await
    }

    pub(crate) async fn start(&self, release: &Release, instance: u64) -> Result<(), ClientError> {
        self.start_with(release, instance, &[]).await
    }

    pub(crate) async fn start_with(
        &self,
        release: &Release,
        instance: u64,
        config: &[(&str, &str)],
    ) -> Result<(), ClientError> {
        self.start_bound(release, instance, config, Bounds::default()).await
    }

    /// Under a policy of the device.
    pub(crate) async fn start_bound(
        &self,
        release: &Release,
        instance: u64,
        config: &[(&str, &str)],
        bounds: Bounds,
    ) -> Result<(), ClientError> {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let request = Request::Start {
            app: web(),
            manifest: release.manifest,
            release: ReleaseId(uuid::Uuid::from_u128(1)),
            instance,
            config: config.collect::<BTreeMap<_, _>>(),
            bounds,
            beside: false,
        };
        self.client.done(&request).await
    }

    /// Stages, starts, and waits until it is up.
    pub(crate) async fn run(&self, release: &Release, instance: u64) {
        self.stage(release).await.unwrap();
        self.start(release, instance).await.unwrap();
        self.up().await;
    }

    pub(crate) async fn stop(&self) {
        self.client.done(&Request::Stop { app: web() }).await.unwrap();
    }

    pub(crate) async fn running(&self) -> Option<Running> {
        match self.client.ask(&Request::List {}).await.unwrap() {
            Reply::Apps { mut apps } => apps.remove(&web()).and_then(|app| app.running),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn observed(&self) -> Observed {
        match self.client.ask(&Request::List {}).await.unwrap() {
            Reply::Apps { mut apps } => apps.remove(&web()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// On the runner's small disk.
    pub(crate) fn filler(&self) -> Filler {
        Filler::new(self.runner.as_ref().unwrap().id(), &self.apps())
    }

    pub(crate) async fn up(&self) -> Running {
        let mut last = None;
        let bound = std::time::Duration::from_secs(60);
        let waiting = async {
            loop {
                last = self.running().await;
                if let Some(running) = last.clone().filter(|running| running.up) {
                    return running;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(bound, waiting).await {
            Ok(running) => running,
            Err(_) => panic!("it does not come up: {last:?}\n{}", self.logs().await),
        }
    }

    pub(crate) async fn capabilities(&self) -> Vec<String> {
        match self.client.ask(&Request::Hello {}).await.unwrap() {
            Reply::Hello { capabilities, .. } => capabilities,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn logs(&self) -> String {
        match self.client.ask(&Request::Logs { app: web(), bytes: 100_000 }).await.unwrap() {
            Reply::Logs { text } => text,
            other => panic!("{other:?}"),
        }
    }

    /// What the app says after `mark`, once it has said it.
    pub(crate) async fn said(&self, mark: &str) -> String {
        until(&format!("{mark} in its output"), || async {
            let logs = self.logs().await;
            let line = logs.lines().rev().find_map(|line| line.strip_prefix(mark))?;
            Some(line.to_owned())
        })
        .await
    }

    /// What a command check of it answers.
    pub(crate) async fn probe(&self, check: &str) -> (bool, String) {
        let probe = Request::Probe { app: web(), check: Name::new(check).unwrap(), instance: None };
        match self.client.ask(&probe).await.unwrap() {
            Reply::Probed { good, message } => (good, message),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the app has failed so often that its supervisor says why.
    pub(crate) async fn failed(&self, restarts: u32) -> Running {
        until("failures", || async {
            self.running().await.filter(|running| running.restarts >= restarts && running.last_exit.is_some())
        })
        .await
    }
}

pub(crate) fn refused(result: Result<(), ClientError>, expect: &str) {
    match result {
        Err(ClientError::Failed { code, message, .. }) => assert_eq!(code, expect, "{message}"),
        other => panic!("expected {expect}, got {other:?}"),
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut runner) = self.runner.take() {
            drop(runner.kill());
            drop(runner.wait());
        }
        // Supervisors live on by design.
        let lock = self.apps().join("web/state/shim.lock");
        for pid in holders(&lock) {
            drop(Command::new("kill").arg(pid.to_string()).status());
        }
        for _ in 0..500 {
            if holders(&lock).is_empty() {
                break;
            }
            drop(Command::new("sleep").arg("0.01").status());
        }
        for controller in ["unified", "memory", "cpu", "pids", "."] {
            let base = Path::new("/sys/fs/cgroup").join(controller).join(&self.group);
            drop(std::fs::remove_dir(base.join("web")));
            drop(std::fs::remove_dir(base));
        }
    }
}

/// The processes that have this very file open.
fn holders(lock: &Path) -> Vec<i32> {
    let mut holders = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let mut files = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if files.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == lock)) {
            holders.push(pid);
        }
    }
    holders
}
