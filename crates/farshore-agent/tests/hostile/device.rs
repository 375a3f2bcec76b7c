//! One device with real processes, and the oracle that watches it from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use farshore_domain::digest::Digest;

use crate::liar::{Answer, Liar};
use crate::release::Release;
use crate::wait::seen;

/// The agent as it is built; nothing of it is linked into these tests' processes.
const AGENT: &str = env!("CARGO_BIN_EXE_farshore-agent");

/// Whether many seeds are to be tried.
pub(crate) fn long() -> bool {
    std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1")
}

/// What may be on this device, because a verified release says so.
#[derive(Debug, Default)]
struct Oracle {
    /// Programs that may lie in a release's folder, by the manifest whose folder it is.
    staged: BTreeMap<Digest, Digest>,
    /// Programs that may be executed.
    executed: BTreeSet<Digest>,
}

pub(crate) struct Device {
    pub(crate) liar: Arc<Liar>,
    folder: tempfile::TempDir,
    run: Child,
    runner: Child,
    oracle: Oracle,
    generation: u64,
}

fn digest_of(path: &Path) -> Option<Digest> {
    std::fs::read(path).ok().map(|bytes| Digest::of(&bytes))
}

/// Both roles on the files of a folder.
fn start(folder: &Path, environment: &[(&str, OsString)]) -> [Child; 2] {
    let at = |name: &str| folder.join(name);
    let start = |arguments: &[&str], paths: &[(&str, &str)]| {
        let mut command = Command::new(AGENT);
        command.args(arguments).env("FARSHORE_LOG", "error").stdin(Stdio::null());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        for (flag, path) in paths {
            command.arg(flag).arg(at(path));
        }
        command.spawn().unwrap()
    };
    let runner = start(
        &["runner", "--unprivileged", "--cgroup", ""],
        &[("--socket", "runner.sock"), ("--apps-dir", "apps")],
    );
    let run = start(
        &["run"],
        &[("--state-dir", "state"), ("--runner-socket", "runner.sock"), ("--token-file", "token")],
    );
    [run, runner]
}

impl Device {
    /// Claimed and connected.
    pub(crate) async fn new() -> Self {
        let device = Self::start().await;
        device.connected(1).await;
        device
    }

    /// Claimed, connected, and running a good release.
    pub(crate) async fn with_release(version: &str, floor: Option<&str>) -> (Self, Release) {
        let mut device = Self::new().await;
        let release = device.liar.signer.changed(version, |manifest| {
            if let Some(floor) = floor {
                manifest["floor"] = floor.into();
            }
        });
        device.takes(&release).await;
        (device, release)
    }

    /// Both processes, before anything was said.
    pub(crate) async fn start() -> Self {
        Self::start_against(Liar::start().await)
    }

    pub(crate) fn start_against(liar: Arc<Liar>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("token"), liar.token().to_text().as_bytes()).unwrap();
        std::fs::write(at("record"), "").unwrap();
        let [run, runner] = start(folder.path(), &[]);
        Self { liar, folder, run, runner, oracle: Oracle::default(), generation: 0 }
    }

    /// Everything of this device dies at once.
    pub(crate) async fn power_off(&mut self) {
        self.kill_all();
        seen("nothing of the device", || self.programs().is_empty().then_some(())).await;
        // What comes next is said on another channel.
        seen("the end of the channel", || self.liar.book().outbox.is_none().then_some(())).await;
        self.liar.book().frames.clear();
    }

    pub(crate) fn power_on(&mut self) {
        self.power_on_with(&[]);
    }

    pub(crate) fn power_on_with(&mut self, environment: &[(&str, OsString)]) {
        [self.run, self.runner] = start(self.folder.path(), environment);
    }

    /// Whether one of the two processes has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        [&mut self.run, &mut self.runner].into_iter().any(|child| child.try_wait().unwrap().is_some())
    }

    fn kill_all(&mut self) {
        for child in [&mut self.run, &mut self.runner] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Supervisors and apps live on by design. Only ours name this folder.
        let Ok(ours) = self.folder.path().canonicalize() else { return };
        let ours = ours.join("apps").into_os_string().into_encoded_bytes();
        for pid in processes() {
            let of = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let named = [of("cmdline"), of("environ")]
                .iter()
                .any(|bytes| bytes.windows(ours.len()).any(|window| window == ours));
            if named && let Some(pid) = rustix::process::Pid::from_raw(pid) {
                // Gone already is as good.
                _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) async fn connected(&self, count: usize) {
        seen("a channel", || {
            let book = self.liar.book();
            (book.channels >= count && book.outbox.is_some()).then_some(())
        })
        .await;
    }

    /// The next number for a desired state.
    pub(crate) const fn next(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Jumps to a number.
    pub(crate) const fn generation_at(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// This release is verified: it may be unpacked.
    pub(crate) fn may_stage(&mut self, release: &Release) {
        self.oracle.staged.insert(release.manifest, release.program);
    }

    /// And it has a permit: it may be executed.
    pub(crate) fn may_run(&mut self, release: &Release) {
        self.may_stage(release);
        self.oracle.executed.insert(release.program);
    }

    /// Asks for a release with whatever answer its artifact has by now.
    pub(crate) fn desire(&mut self, release: &Release) {
        let generation = self.next();
        let signed = self.liar.sign(&self.liar.state(generation, release), &[release]);
        self.liar.tell(farshore_protocol::server_frame::Body::Desired(signed));
    }

    /// A good release is taken: the world may become honest at any time.
    pub(crate) async fn takes(&mut self, release: &Release) {
        self.may_run(release);
        self.liar.publish(release, Answer::ok(&release.artifact));
        self.desire(release);
        self.runs(release).await;
    }

    /// The release is active and proven, and its program is what runs.
    pub(crate) async fn runs(&self, release: &Release) {
        seen(&format!("{} to be committed", release.version), || {
            let app = self.liar.app_status()?;
            let runs = app.committed && app.active_release == release.uid().to_string();
            (runs
                && app.phase == "running"
                && self.programs().values().any(|digest| *digest == release.program))
            .then_some(())
        })
        .await;
    }

    /// Says whether the app has this reason, and since when.
    pub(crate) async fn says(&self, what: &str, codes: &[&str], since: farshore_domain::time::UnixMs) {
        seen(&format!("one of {codes:?} ({what})"), || {
            let app = self.liar.app_status()?;
            let found = |reason: &farshore_protocol::Reason| {
                codes.contains(&reason.code.as_str()) && reason.since_ms >= since.0
            };
            app.reasons.iter().any(found).then_some(())
        })
        .await;
    }

    /// The agent answers on a channel, this one or the next.
    pub(crate) async fn answers(&self, what: &str) {
        let mut uid = uuid::Uuid::new_v4().to_string();
        let mut asked = 0;
        seen(&format!("an answer ({what})"), || {
            let channels = self.liar.book().channels;
            // Once on each channel: the one it was asked on may just have been closed, and the answer lost with it.
            if asked < channels {
                uid = uuid::Uuid::new_v4().to_string();
                if self.liar.diagnose(&uid) {
                    asked = channels;
                }
            }
            self.liar.answered(&uid).then_some(())
        })
        .await;
    }

    fn apps(&self) -> PathBuf {
        self.folder.path().join("apps").canonicalize().unwrap()
    }

    /// Processes of this device's apps that are not the agent's own, with what they execute.
    pub(crate) fn programs(&self) -> BTreeMap<i32, Digest> {
        let Ok(apps) = self.folder.path().join("apps").canonicalize() else { return BTreeMap::new() };
        let home = format!("HOME={}/", apps.display());
        let mut found = BTreeMap::new();
        for pid in processes() {
            let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
            let link = std::fs::read_link(of("exe")).unwrap_or_default();
            let environ = std::fs::read(of("environ")).unwrap_or_default();
            let ours = link.starts_with(&apps)
                || environ.split(|byte| *byte == 0).any(|variable| variable.starts_with(home.as_bytes()));
            if ours && let Some(digest) = digest_of(&of("exe")) {
                found.insert(pid, digest);
            }
        }
        found
    }

    /// What the record says was executed: digests and arguments.
    pub(crate) fn recorded(&self) -> Vec<(Digest, String)> {
        let record = std::fs::read_to_string(self.folder.path().join("record")).unwrap();
        let line = |line: &str| {
            let mut parts = line.splitn(3, ' ');
            (parts.next().unwrap().parse().unwrap(), parts.nth(1).unwrap_or_default().to_owned())
        };
        record.lines().map(line).collect()
    }

    /// Nothing unverified was executed, is executing, or lies where it could be; the agent is what it was.
    pub(crate) fn check(&mut self, what: &str) {
        for (name, child) in [("run", &mut self.run), ("runner", &mut self.runner)] {
            assert_eq!(child.try_wait().unwrap(), None, "{what}: {name} ended");
        }
        self.check_executed(what);
    }

    /// The same, where the agent may have ended.
    pub(crate) fn check_executed(&mut self, what: &str) {
        for (digest, arguments) in self.recorded() {
            assert!(self.oracle.executed.contains(&digest), "{what}: {digest} was executed ({arguments})");
        }
        for (pid, digest) in self.programs() {
            assert!(self.oracle.executed.contains(&digest), "{what}: process {pid} executes {digest}");
        }
        let apps = self.apps();
        for app in names(&apps).into_iter().filter(|name| name != ".runner") {
            for name in names(&apps.join(&app).join("releases")) {
                let manifest: Digest = format!("sha256:{name}").parse().unwrap();
                let program = self.oracle.staged.get(&manifest);
                let program = program.unwrap_or_else(|| panic!("{what}: {manifest} was unpacked for {app}"));
                let release = apps.join(&app).join("releases").join(&name);
                assert_eq!(files(&release), ["bin/app"], "{what}");
                assert_eq!(digest_of(&release.join("bin/app")).as_ref(), Some(program), "{what}");
            }
        }
        // Whatever escaped would lie beside what belongs here.
        let known = ["apps", "record", "runner.sock", "state", "token"];
        assert_eq!(names(self.folder.path()), known, "{what}");
        let known = [".runner", "web"];
        assert!(names(&apps).iter().all(|name| known.contains(&name.as_str())), "{what}: {:?}", names(&apps));
    }

    /// The same once what is staged has settled, and the app is still the very process it was.
    pub(crate) fn check_still(&mut self, what: &str, before: &BTreeMap<i32, Digest>) {
        self.check(what);
        for (pid, digest) in before {
            assert_eq!(self.programs().get(pid), Some(digest), "{what}: the app that ran is gone");
        }
    }

    /// The app alone, without checks that come and go.
    pub(crate) async fn steady(&self) -> BTreeMap<i32, Digest> {
        seen("only the app", || {
            let mut programs = self.programs();
            programs.retain(|pid, _| {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                command.ends_with(b"\0run\0")
            });
            (programs.len() == 1).then_some(programs)
        })
        .await
    }
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Paths of everything below a folder that is no folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(files(&path).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            found.push(name);
        }
    }
    found
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill_all();
    }
}
