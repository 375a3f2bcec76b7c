//! The runner with real processes.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use farshore_agent::runner::{ClientError, Reply, Request, RunnerClient, Signed};
use farshore_domain::digest::Digest;
use farshore_domain::id::ReleaseId;
use farshore_domain::name::Name;
use farshore_domain::policy::Bounds;
use farshore_domain::reconcile::Running;
use proptest::strategy::{Strategy, ValueTree};

use crate::disk::{Filler, mounted};
use crate::release::{Release, SLEEPER, Signer};
use crate::wait::{seen, until};

/// A runner of its own, in a folder and control group of its own. Everything is stopped when it is dropped.
pub(crate) struct Bed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) client: RunnerClient,
    runner: Option<Child>,
    group: String,
    users: bool,
    /// The apps lie on a disk of this many bytes, which only the runner and what it starts can see.
    disk: Option<u64>,
}

fn web() -> Name {
    Name::new("web").unwrap()
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(false).await
    }

    /// With `users`, each app has a user of its own, as on a real device.
    async fn with(users: bool) -> Self {
        // Under the runner's unit only what is delegated to the apps can be written.
        let parent =
            std::env::var("FARSHORE_TEST_CGROUP").map_or_else(|_| String::new(), |group| format!("{group}/"));
        Self::made(users, format!("{parent}farshore-test-{}", uuid::Uuid::new_v4()), None).await
    }

    /// On a small disk of its own. Needs root.
    pub(crate) async fn on_disk(bytes: u64) -> Self {
        Self::made(false, format!("farshore-test-{}", uuid::Uuid::new_v4()), Some(bytes)).await
    }

    /// On a device where there are no control groups to be had.
    async fn without_groups() -> Self {
        Self::made(false, String::new(), None).await
    }

    async fn made(users: bool, group: String, disk: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let client = RunnerClient::new(folder.path().join("runner.sock"));
        let mut bed = Self { folder, client, runner: None, group, users, disk };
        if users {
            // Users of apps must get in; the temporary folder is for nobody else by default.
            std::fs::set_permissions(bed.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        bed.start_runner().await;
        bed
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("runner.sock")
    }

    fn apps(&self) -> PathBuf {
        self.folder.path().join("apps")
    }

    pub(crate) async fn start_runner(&mut self) {
        // As strict a mask as a unit may set.
        let mut command = Command::new("/bin/sh");
        if let Some(bytes) = self.disk {
            std::fs::create_dir_all(self.apps()).unwrap();
            let mount = mounted(bytes);
            command = Command::new("unshare");
            command.args(["--mount", "--propagation=private", "sh", "-eu", "-c", &mount, "sh"]);
            command.arg(self.apps()).arg("/bin/sh");
        }
        let child = command
            .args(["-c", "umask 0077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_farshore-agent")])
            .args(["runner", "--cgroup", &self.group])
            .args((!self.users).then_some("--unprivileged"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--apps-dir")
            .arg(self.apps())
            .env("FARSHORE_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.runner = Some(child);
        let client = &self.client;
        until("the runner", || async { client.ask(&Request::Hello {}).await.ok() }).await;
    }

    /// A file of the apps, as the runner sees it.
    pub(crate) fn on_its_disk(&self, path: &str) -> PathBuf {
        let runner = self.runner.as_ref().unwrap().id();
        PathBuf::from(format!("/proc/{runner}/root{}", self.apps().join(path).display()))
    }

    /// On the runner's small disk.
    pub(crate) fn filler(&self) -> Filler {
        Filler::new(self.runner.as_ref().unwrap().id(), &self.apps())
    }

    /// As with `kill -9`.
    pub(crate) fn kill_runner(&mut self) {
        let mut runner = self.runner.take().unwrap();
        runner.kill().unwrap();
        runner.wait().unwrap();
    }

    /// Kills supervisors and apps the hard way.
    pub(crate) async fn kill_apps(&self) {
        let lock = self.apps().join("web/state/shim.lock");
        let mut pids = holders(&lock);
        pids.extend(self.app_pids());
        for pid in pids {
            drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
        }
        seen("their end", || (holders(&lock).is_empty() && self.app_pids().is_empty()).then_some(())).await;
    }

    async fn trust(&self, signer: &Signer) {
        let request = Request::Trust {
            tenant: signer.tenant,
            name: signer.tenant_name.clone(),
            sets: vec![signer.first_set()],
        };
        self.client.done(&request).await.unwrap();
    }

    async fn stage_bytes(&self, signed: &Signed, artifact: &[u8]) -> Result<(), ClientError> {
        let path = self.folder.path().join("artifact");
        std::fs::write(&path, artifact).unwrap();
        self.client.done(&Request::Stage { manifest: signed.clone(), artifact: path, images: None }).await
    }

    pub(crate) async fn stage(&self, release: &Release) -> Result<(), ClientError> {
        self.stage_bytes(&release.signed, &release.artifact).await
    }

    async fn start(&self, release: &Release, instance: u64) -> Result<(), ClientError> {
        self.start_with(release, instance, BTreeMap::new()).await
    }

    async fn start_with(
        &self,
        release: &Release,
        instance: u64,
        config: BTreeMap<String, String>,
    ) -> Result<(), ClientError> {
        let release_id = ReleaseId(uuid::Uuid::from_u128(1));
        let manifest = release.manifest;
        self.client
            .done(&Request::Start {
                app: web(),
                manifest,
                release: release_id,
                instance,
                config,
                bounds: Bounds::default(),
                beside: false,
            })
            .await
    }

    async fn stop(&self) {
        self.client.done(&Request::Stop { app: web() }).await.unwrap();
    }

    async fn running(&self) -> Option<Running> {
        match self.client.ask(&Request::List {}).await.unwrap() {
            Reply::Apps { mut apps } => apps.remove(&web()).and_then(|app| app.running),
            other => panic!("{other:?}"),
        }
    }

    /// Processes whose environment says that they are this bed's app; its health check left out.
    pub(crate) fn app_pids(&self) -> Vec<i32> {
        let home = format!("HOME={}", self.apps().canonicalize().unwrap().join("web/data").display());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_app = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let check = String::from_utf8_lossy(&command).contains("bin/fit");
            !check && environ.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
        };
        pids.filter(is_app).collect()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.apps().join("web/logs").join(name)).unwrap_or_default()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut runner) = self.runner.take() {
            runner.kill().unwrap();
            runner.wait().unwrap();
        }
        // Supervisors live on by design: the status files say which processes are ours.
        let apps = self.folder.path().join("apps");
        for entry in std::fs::read_dir(&apps).into_iter().flatten().flatten() {
            for lock in ["state/shim.lock", "state/green/shim.lock"] {
                let lock = entry.path().join(lock);
                if lock.exists() {
                    stop_holder(&lock);
                }
            }
        }
        if self.disk.is_some() {
            // Its files can't be seen from here, but who holds them can.
            stop_holder(&apps.join("web/state/shim.lock"));
        }
        for controller in ["unified", "memory", "cpu", "pids", "."] {
            let base = Path::new("/sys/fs/cgroup").join(controller).join(&self.group);
            drop(std::fs::remove_dir(base.join("web.green")));
            drop(std::fs::remove_dir(base.join("web")));
            drop(std::fs::remove_dir(base));
        }
    }
}

/// The processes that have this very file open.
pub(crate) fn holders(lock: &Path) -> Vec<i32> {
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

/// Ends the supervisor that holds this lock, and with it its app.
fn stop_holder(lock: &Path) {
    for pid in holders(lock) {
        drop(Command::new("kill").arg(pid.to_string()).status());
    }
    for _ in 0..300 {
        if holders(lock).is_empty() {
            break;
        }
        drop(Command::new("sleep").arg("0.01").status());
    }
}

fn refused(result: Result<(), ClientError>, expect: &str) {
    match result {
        Err(ClientError::Failed { code, message, .. }) => assert_eq!(code, expect, "{message}"),
        other => panic!("expected {expect}, got {other:?}"),
    }
}

#[tokio::test]
async fn a_killed_runner_leaves_the_app_running_and_the_next_one_adopts_it() {
    let mut bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let release = signer.release("1.0", &[("bin/app", 0o755, SLEEPER)], |_| {});
    bed.stage(&release).await.unwrap();
    bed.start(&release, 7).await.unwrap();
    let before = seen("the app", || Some(bed.app_pids()).filter(|pids| pids.len() == 1)).await;
    seen("its output", || bed.log("stdout.log").contains("hello from 1.0").then_some(())).await;

    bed.kill_runner();
    assert_eq!(bed.app_pids(), before);
    bed.start_runner().await;
    let running = bed.running().await.unwrap();
    assert_eq!((running.instance, running.up, running.manifest), (7, true, release.manifest));
    assert_eq!(running.release, ReleaseId(uuid::Uuid::from_u128(1)));
    // Never doubled.
    refused(bed.start(&release, 8).await, "Doubled");
    assert_eq!(bed.app_pids(), before);
    bed.stop().await;
    assert_eq!(bed.app_pids(), Vec::<i32>::new());
    assert_eq!(bed.running().await, None);
}

#[tokio::test]
async fn a_dead_supervisors_app_is_killed_before_the_next_one_starts() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let release = signer.release("1.0", &[("bin/app", 0o755, SLEEPER)], |_| {});
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let old = seen("the app", || Some(bed.app_pids()).filter(|pids| pids.len() == 1)).await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", old[0])).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
    assert!(Command::new("kill").args(["-9", &parent]).status().unwrap().success());
    until("the supervisor's end", || async { bed.running().await.is_none().then_some(()) }).await;
    assert_eq!(bed.app_pids(), old, "the app outlives even that");
    bed.start(&release, 2).await.unwrap();
    let new = seen("the new one", || Some(bed.app_pids()).filter(|pids| pids.len() == 1)).await;
    assert_ne!(new, old);
}

#[tokio::test]
async fn an_app_that_dies_is_restarted_with_growing_pauses_and_its_logs_rotate() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let crasher = "#!/bin/sh\nhead -c 700000 /dev/zero | tr '\\0' x\necho\nexit 3\n";
    let release = signer.release("1.0", &[("bin/app", 0o755, crasher)], |_| {});
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let running = until("five restarts", || async {
        bed.running().await.filter(|running| running.restarts >= 5 && running.last_exit.is_some())
    })
    .await;
    assert_eq!(running.last_exit.as_deref(), Some("exited with 3"));
    bed.stop().await;
    let logs = bed.folder.path().join("apps/web/logs");
    let sizes: Vec<u64> = std::fs::read_dir(logs)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("stdout.log"))
        .map(|entry| entry.metadata().unwrap().len())
        .collect();
    assert!(sizes.len() > 1 && sizes.len() <= 4, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 1024 * 1024 + 700_100), "{sizes:?}");
    match bed.client.ask(&Request::Logs { app: web(), bytes: 1000 }).await.unwrap() {
        Reply::Logs { text } => assert!(text.contains("xxxx") && text.len() < 2000),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_for_this_tenant_is_staged() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    let files = [("bin/app", 0o755, SLEEPER)];
    let good = signer.release("1.0", &files, |_| {});
    refused(bed.stage(&good).await, "BadTrustedKeys");
    bed.trust(&signer).await;

    let stranger = Signer::new("acme");
    let unsigned = Signed { signature: Vec::new(), ..good.signed.clone() };
    let mut bent = good.signed.clone();
    bent.document.push(b'\n');
    refused(bed.stage(&stranger.release("1.0", &files, |_| {})).await, "BadSignature");
    refused(bed.stage_bytes(&unsigned, &good.artifact).await, "BadSignature");
    refused(bed.stage_bytes(&bent, &good.artifact).await, "BadSignature");
    let foreign = signer.release("1.0", &files, |manifest| manifest["tenant"] = "umbrella".into());
    refused(bed.stage(&foreign).await, "WrongTenant");
    let elsewhere =
        signer.release("1.0", &files, |manifest| manifest["platforms"][0]["arch"] = "riscv64".into());
    refused(bed.stage(&elsewhere).await, "WrongPlatform");
    let newer = signer.release("1.0", &files, |manifest| manifest["sandbox"] = true.into());
    refused(bed.stage(&newer).await, "Unsupported");
    let mut swapped = good.artifact.clone();
    swapped[600] ^= 1;
    refused(bed.stage_bytes(&good.signed, &swapped).await, "DigestMismatch");
    refused(bed.stage_bytes(&good.signed, &good.artifact[1..]).await, "WrongSize");
    let evil = signer.release_of("1.0", crate::release::tar(&[("bin/other", 0o755, "")]), |_| {});
    refused(bed.stage(&evil).await, "NoProgram");
    let link = bed.folder.path().join("link");
    std::fs::write(bed.folder.path().join("artifact"), &good.artifact).unwrap();
    std::os::unix::fs::symlink(bed.folder.path().join("artifact"), &link).unwrap();
    refused(
        bed.client
            .done(&Request::Stage { manifest: good.signed.clone(), artifact: link, images: None })
            .await,
        "NoPlainFile",
    );
    // None of it left anything that could be started.
    let releases = bed.folder.path().join("apps/web/releases");
    assert!(!releases.exists() || std::fs::read_dir(releases).unwrap().count() == 0);
    refused(bed.start(&good, 1).await, "NotStaged");
    // Another tenant can't take the runner over, nor a set that no known key signed.
    let takeover = Request::Trust {
        tenant: stranger.tenant,
        name: stranger.tenant_name.clone(),
        sets: vec![stranger.first_set()],
    };
    refused(bed.client.done(&takeover).await, "WrongTenant");
    let key = farshore_trust::keyset::TrustedKey {
        name: Name::new("mine").unwrap(),
        key: stranger.key.public().clone(),
    };
    let second = stranger.sign(farshore_trust::keyset::document(signer.tenant, 2, &[key]).unwrap());
    let takeover =
        Request::Trust { tenant: signer.tenant, name: signer.tenant_name.clone(), sets: vec![second] };
    refused(bed.client.done(&takeover).await, "BadTrustedKeys");
    bed.stage(&good).await.unwrap();
    bed.stage(&good).await.unwrap();
}

#[tokio::test]
async fn a_key_that_was_removed_starts_nothing_new_and_takes_nothing_away() {
    let bed = Bed::new().await;
    let (old, new) = (Signer::new("acme"), Signer::new("acme"));
    bed.trust(&old).await;
    let files = [("bin/app", 0o755, SLEEPER)];
    let (known, fresh) = (old.release("1.0", &files, |_| {}), old.release("2.0", &files, |_| {}));
    bed.stage(&known).await.unwrap();
    bed.stage(&fresh).await.unwrap();
    bed.start(&known, 1).await.unwrap();
    bed.stop().await;

    let name = Name::new("new").unwrap();
    let key = farshore_trust::keyset::TrustedKey { name, key: new.key.public().clone() };
    let second = old.sign(farshore_trust::keyset::document(old.tenant, 2, &[key]).unwrap());
    let rotate = Request::Trust { tenant: old.tenant, name: old.tenant_name.clone(), sets: vec![second] };
    bed.client.done(&rotate).await.unwrap();
    refused(bed.start(&fresh, 2).await, "BadSignature");
    bed.start(&known, 3).await.unwrap();
    bed.stop().await;

    // The same release, signed again with the key that is trusted now.
    let again = new.sign(fresh.signed.document.clone());
    bed.stage_bytes(&again, &fresh.artifact).await.unwrap();
    bed.start(&fresh, 4).await.unwrap();
    bed.stop().await;
}

#[tokio::test]
async fn below_the_floor_of_a_committed_release_nothing_is_staged_or_started() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let files = [("bin/app", 0o755, SLEEPER)];
    let old = signer.release("1.0", &files, |_| {});
    let new = signer.release("2.0", &files, |manifest| manifest["floor"] = "1.5".into());
    bed.stage(&old).await.unwrap();
    bed.stage(&new).await.unwrap();
    bed.client.done(&Request::Commit { app: web(), manifest: new.manifest }).await.unwrap();
    refused(bed.start(&old, 1).await, "BelowFloor");
    bed.client.done(&Request::Remove { app: web() }).await.unwrap();
    refused(bed.stage(&old).await, "BelowFloor");
    bed.stage(&new).await.unwrap();
}

#[tokio::test]
async fn an_app_gets_its_config_and_nothing_of_the_runners_environment() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let script = "#!/bin/sh\necho \"args $*\"\nenv | sort\nexec sleep 1000\n";
    let release = signer.release("1.0", &[("bin/app", 0o755, script)], |manifest| {
        manifest["run"]["command"] =
            serde_json::json!(["bin/app", "--port", "${PORT}", "${HOME}x", "${NONE}"]);
        manifest["run"]["env"] = serde_json::json!({ "PORT": "1", "GREETING": "hello" });
    });
    bed.stage(&release).await.unwrap();
    let config = |key: &str| BTreeMap::from([(key.to_owned(), "8080".to_owned())]);
    refused(bed.start_with(&release, 1, config("LD_PRELOAD")).await, "BadConfig");
    bed.start_with(&release, 1, config("PORT")).await.unwrap();
    let log =
        seen("its environment", || Some(bed.log("stdout.log")).filter(|log| log.contains("PORT="))).await;
    let home = bed.folder.path().canonicalize().unwrap().join("apps/web/data");
    assert!(log.contains(&format!("args --port 8080 {}x ${{NONE}}", home.display())), "{log}");
    let mut names: Vec<_> =
        log.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(names, ["FARSHORE_APP", "FARSHORE_VERSION", "GREETING", "HOME", "PATH", "PORT"]);
}

#[tokio::test]
async fn an_app_runs_as_a_user_of_its_own_without_privileges_and_keeps_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can give apps users");
        return;
    }
    let bed = Bed::with(true).await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let script = "#!/bin/sh\nid\nls ../../state ../../../.runner 2>&1\necho x >\"$HOME/mine\" && echo wrote\n\
        echo x >bin/app 2>/dev/null || echo unchanged\ngrep -E 'NoNewPrivs|CapEff' /proc/self/status\nexec sleep 1000\n";
    let release = signer.release("1.0", &[("bin/app", 0o755, script)], |_| {});
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let log =
        seen("what it says", || Some(bed.log("stdout.log")).filter(|log| log.contains("NoNewPrivs"))).await;
    let uid = std::fs::metadata(bed.apps().join("web/data")).unwrap().uid();
    assert!(farshore_agent::runner::APP_UIDS.contains(&uid));
    assert!(log.contains(&format!("uid={uid} gid={uid} groups={uid}")), "{log}");
    assert_eq!(log.matches("Permission denied").count(), 2, "{log}");
    assert!(log.contains("wrote") && log.contains("unchanged"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000000") && log.contains("NoNewPrivs:\t1"), "{log}");
    assert_eq!(std::fs::metadata(bed.apps().join("web/data/mine")).unwrap().uid(), uid);
    bed.stop().await;
    bed.start(&release, 2).await.unwrap();
    assert_eq!(std::fs::metadata(bed.apps().join("web/data")).unwrap().uid(), uid);
}

#[tokio::test]
async fn a_stranger_on_the_machine_is_turned_away() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can be a stranger to itself");
        return;
    }
    let bed = Bed::with(true).await;
    // Even one whom the socket's mode lets in.
    std::fs::set_permissions(bed.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut ask = Command::new(env!("CARGO_BIN_EXE_farshore-agent"));
    std::os::unix::process::CommandExt::uid(&mut ask, 65_534);
    let ask = ask.args(["capabilities", "--runner-socket"]).arg(bed.socket()).current_dir("/").output();
    // Its binary may lie where the stranger can't even reach it; then there is nothing to see here.
    let Ok(asked) = ask else { return };
    assert!(!asked.status.success());
    assert!(!String::from_utf8_lossy(&asked.stdout).contains("runner:"), "{asked:?}");
    assert!(bed.client.ask(&Request::Hello {}).await.is_ok());
}

#[tokio::test]
async fn command_checks_run_by_name_and_are_cut_off_in_time() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let check = "#!/bin/sh\ntest ! -e \"$HOME/sick\"\n";
    let files = [("bin/app", 0o755, SLEEPER), ("bin/check", 0o755, check), ("bin/slow", 0o755, SLEEPER)];
    let release = signer.release("1.0", &files, |manifest| {
        manifest["health"] = serde_json::json!([
            {"name": "fit", "probe": {"type": "command", "command": ["bin/check"]}},
            {"name": "slow", "probe": {"type": "command", "command": ["bin/slow"]}, "timeoutSeconds": 1},
        ]);
    });
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let probe = |check: &str| Request::Probe { app: web(), check: Name::new(check).unwrap(), instance: None };
    let good = |reply: Reply| matches!(reply, Reply::Probed { good: true, .. });
    assert!(good(bed.client.ask(&probe("fit")).await.unwrap()));
    std::fs::write(bed.folder.path().join("apps/web/data/sick"), "").unwrap();
    assert!(!good(bed.client.ask(&probe("fit")).await.unwrap()));
    assert!(!good(bed.client.ask(&probe("slow")).await.unwrap()));
    assert!(matches!(bed.client.ask(&probe("sh")).await, Err(ClientError::Failed { .. })));
    assert_eq!(bed.app_pids().len(), 1, "the slow check is gone");
}

#[tokio::test]
async fn limits_are_enforced_where_control_groups_are_writable() {
    let bed = Bed::new().await;
    let Reply::Hello { capabilities, .. } = bed.client.ask(&Request::Hello {}).await.unwrap() else {
        panic!()
    };
    if !capabilities.iter().any(|word| word == "limit-memory") {
        eprintln!("no control group can be written here: {capabilities:?}");
        return;
    }
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let hungry =
        "#!/bin/sh\nhead -c 100000000 /dev/zero | tail -c 90000000 >/dev/null || exit 9\nexec sleep 1000\n";
    let release = signer.release("1.0", &[("bin/app", 0o755, hungry)], |manifest| {
        manifest["run"]["limits"] =
            serde_json::json!({"memoryBytes": 20_000_000, "processes": 20, "cpuMillis": 500});
    });
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    let running =
        until("the kill", || async { bed.running().await.filter(|running| running.last_exit.is_some()) })
            .await;
    assert_eq!(running.last_exit.as_deref(), Some("exited with 9"), "tail was killed at its limit");
    bed.stop().await;
}

#[tokio::test]
async fn children_that_an_app_leaves_behind_are_gone_when_it_is_stopped() {
    leaves_nothing_behind(Bed::new().await).await;
}

#[tokio::test]
async fn without_control_groups_they_are_gone_too() {
    leaves_nothing_behind(Bed::without_groups().await).await;
}

async fn leaves_nothing_behind(bed: Bed) {
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let script = "#!/bin/sh\ntrap '' TERM\nsleep 1000 &\nsetsid sleep 1000 &\nwhile :; do sleep 1; done\n";
    let release = signer.release("1.0", &[("bin/app", 0o755, script)], |manifest| {
        manifest["run"]["stopTimeoutSeconds"] = 1.into();
    });
    bed.stage(&release).await.unwrap();
    bed.start(&release, 1).await.unwrap();
    seen("all of them", || (bed.app_pids().len() >= 3).then_some(())).await;
    bed.stop().await;
    seen("none of them", || bed.app_pids().is_empty().then_some(())).await;
}

#[tokio::test]
async fn discard_keeps_what_runs_and_what_it_is_told() {
    let bed = Bed::new().await;
    let signer = Signer::new("acme");
    bed.trust(&signer).await;
    let releases: Vec<Release> = ["1.0", "1.1", "1.2"]
        .iter()
        .map(|version| signer.release(version, &[("bin/app", 0o755, SLEEPER)], |_| {}))
        .collect();
    for release in &releases {
        bed.stage(release).await.unwrap();
    }
    bed.start(&releases[0], 1).await.unwrap();
    let keep = vec![releases[2].manifest];
    bed.client.done(&Request::Discard { app: web(), keep }).await.unwrap();
    let Reply::Apps { apps } = bed.client.ask(&Request::List {}).await.unwrap() else { panic!() };
    let staged: Vec<Digest> = apps[&web()].staged.iter().copied().collect();
    let mut expect = vec![releases[0].manifest, releases[2].manifest];
    expect.sort();
    assert_eq!(staged, expect);
    let current = std::fs::read_link(bed.folder.path().join("apps/web/current")).unwrap();
    assert_eq!(current, Path::new("releases").join(releases[0].manifest.hex()));
}

#[tokio::test]
async fn hostile_frames_change_nothing_and_the_runner_goes_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bed = Bed::new().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..300);
    let valid = serde_json::to_vec(&Request::List {}).unwrap();
    for round in 0..200_u32 {
        let mut frame = bytes.new_tree(&mut runner).unwrap().current();
        if round % 3 == 0 {
            // A length that promises the world, or a request that is almost right.
            let mut almost = valid.clone();
            let at = round as usize % almost.len();
            almost[at] ^= 0x11;
            frame = u32::try_from(almost.len()).unwrap().to_be_bytes().to_vec();
            frame.extend(almost);
        } else if round % 3 == 1 {
            frame.splice(0..0, [0xff, 0xff, 0xff, 0xff]);
        }
        let mut stream = tokio::net::UnixStream::connect(bed.socket()).await.unwrap();
        // The runner may have hung up already.
        drop(stream.write_all(&frame).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
    }
    for text in [
        r#"{"verb":"exec","command":["/bin/sh"]}"#,
        r#"{"verb":"start","app":"../x","manifest":"sha256:00","release":"x","instance":1,"config":{}}"#,
        r#"{"verb":"list","also":"this"}"#,
    ] {
        let mut stream = tokio::net::UnixStream::connect(bed.socket()).await.unwrap();
        stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("BadRequest"), "{text}");
    }
    assert!(
        matches!(bed.client.ask(&Request::List {}).await.unwrap(), Reply::Apps { apps } if apps.is_empty())
    );
}
