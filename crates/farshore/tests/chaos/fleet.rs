//! A control plane and devices as processes that can be killed, and the command line to tell them what to do.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use farshore_domain::digest::Digest;
use serde_json::Value;

use crate::watcher::Watcher;

/// Everything has settled this long after the last crash, or something hangs.
const PATIENCE: Duration = Duration::from_secs(90);
const MANIFEST: &str = r#"{"tenant": "default", "app": "web", "version": "1.0",
"run": {"command": ["bin/app", "run"], "stopTimeoutSeconds": 1},
"health": [{"name": "fit", "intervalSeconds": 1, "failureThreshold": 2, "probe": {"type": "command", "command": ["bin/app", "check"]}}],
"restart": {"backoffMs": 50, "maxBackoffMs": 200, "maxRestarts": 1}, "soakSeconds": 0, "startTimeoutSeconds": 10}"#;
const OBJECTS: &str = "kind: App\nmetadata: {name: web}\n---\nkind: Channel\nmetadata: {name: prod}\n---\nkind: Placement\nmetadata: {name: web}\nspec: {app: web}\n";

/// Whom to kill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Victim {
    Control,
    Run(usize),
    Runner(usize),
}

pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    ports: [u16; 2],
    control: Child,
    /// Each device's `run` and runner.
    agents: Vec<[Child; 2]>,
    pub(crate) watcher: Watcher,
    recorder: Vec<u8>,
    /// The programs of all signed releases.
    programs: BTreeSet<Digest>,
    rollout: String,
    /// Whether the runners may use eBPF.
    ebpf: bool,
    /// The arguments of a bad release's program: it ends as soon as it starts, unless a test says otherwise.
    pub(crate) bad: Vec<String>,
    /// Whether releases have slots.
    pub(crate) slots: bool,
    /// How often their checks are made.
    pub(crate) check_seconds: u32,
    /// What devices' processes find in their environment.
    pub(crate) device_env: Vec<(String, String)>,
    /// The same of the control plane and of whoever asks it.
    pub(crate) plane_env: Vec<(String, String)>,
}

/// A program beside the `farshore` that these tests were built with.
pub(crate) fn beside(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_farshore")).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build -p {name}", path.display());
    path
}

pub(crate) fn spawn(mut command: Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// A port that was free a moment ago. It has to stay the same when the control plane comes back.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn serve(folder: &Path, ports: [u16; 2]) -> Child {
    serve_with(folder, ports, &[])
}

fn serve_with(folder: &Path, [api, device]: [u16; 2], env: &[(String, String)]) -> Child {
    let mut command = clean(Path::new(env!("CARGO_BIN_EXE_farshore")));
    command.arg("serve").arg("--data-dir").arg(folder.join("server"));
    command.args([
        "--api-listen",
        &format!("127.0.0.1:{api}"),
        "--device-listen",
        &format!("127.0.0.1:{device}"),
    ]);
    command.args(["--heartbeat-seconds", "1", "--alert-targets", "any"]);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    spawn(command, &folder.join("serve.log"))
}

pub(crate) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("FARSHORE_LOG", "warn");
    command
}

/// The role of a device; with a file `boot_id`, in a boot of its own.
fn agent(folder: &Path, role: usize, ebpf: bool, env: &[(String, String)]) -> Child {
    let program = beside("farshore-agent");
    let boot = folder.join("boot_id");
    let mut command = if boot.exists() {
        let mut command = clean(Path::new("unshare"));
        command.args(["--mount", "--propagation=private", "sh", "-eu", "-c"]);
        command.arg("mount --bind \"$1\" /proc/sys/kernel/random/boot_id; shift; exec \"$@\"").arg("sh");
        command.arg(boot).arg(program);
        command
    } else {
        clean(&program)
    };
    command.env("FARSHORE_EBPF", if ebpf { "on" } else { "off" });
    command.envs(env.iter().map(|(name, value)| (name, value)));
    if role == 0 {
        command.arg("run").arg("--state-dir").arg(folder.join("state"));
        command.arg("--runner-socket").arg(folder.join("runner.sock"));
        command.arg("--token-file").arg(folder.join("token"));
    } else {
        command.args(["runner", "--unprivileged", "--cgroup", ""]);
        // Notes that it was asked, and leaves this machine alone.
        command.arg("--reboot-command").arg(format!("/bin/sh {}", folder.join("reboot.sh").display()));
        command.arg("--socket").arg(folder.join("runner.sock")).arg("--apps-dir").arg(folder.join("apps"));
        let executors = folder.join("executors.json");
        if executors.exists() {
            command.arg("--executors").arg(executors);
        }
    }
    spawn(command, &folder.join(["run.log", "runner.log"][role]))
}

fn recorder(folder: &Path) -> Vec<u8> {
    let (source, target) = (folder.join("recorder.rs"), folder.join("recorder"));
    std::fs::write(&source, include_str!("../../../farshore-agent/tests/hostile/recorder.rs")).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let options = ["--edition=2024", "-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols", "-o"];
    let done = Command::new(rustc).args(options).args([&target, &source]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(target).unwrap()
}

impl Fleet {
    /// A control plane, devices that are claimed, and an app placed on them.
    pub(crate) async fn start(devices: usize) -> Self {
        Self::seeing(devices, true).await
    }

    /// The same, where eBPF may be forbidden.
    pub(crate) async fn seeing(devices: usize, ebpf: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let ports = [free_port(), free_port()];
        let control = serve(&root, ports);
        let folders: Vec<PathBuf> =
            (0..devices).map(|number| root.join(format!("device-{number}"))).collect();
        for folder in &folders {
            std::fs::create_dir_all(folder.join("apps")).unwrap();
            std::fs::write(folder.join("record"), "").unwrap();
            let reboot = format!("echo rebooted >> {}\n", folder.join("reboots").display());
            std::fs::write(folder.join("reboot.sh"), reboot).unwrap();
        }
        let watcher = Watcher::start(folders.iter().map(|folder| folder.join("apps")).collect());
        let recorder = recorder(&root);
        let mut fleet = Self {
            folder,
            ports,
            control,
            agents: Vec::new(),
            watcher,
            recorder,
            programs: BTreeSet::new(),
            rollout: String::new(),
            ebpf,
            bad: vec!["crash".to_owned()],
            slots: false,
            check_seconds: 1,
            device_env: Vec::new(),
            plane_env: Vec::new(),
        };
        let said = |word: &str| {
            let log = std::fs::read_to_string(root.join("serve.log")).unwrap_or_default();
            log.lines().find_map(|line| Some(line.split_once(word)?.1.trim().to_owned()))
        };
        let link = fleet.until("the first login", || said("First admin:")).await;
        let fingerprint = fleet.until("the fingerprint", || said("CA fingerprint:")).await;
        std::fs::write(root.join("password"), "correct horse battery\n").unwrap();
        let login = ["login", &link, "--ca-fingerprint", &fingerprint, "--password-stdin"];
        fleet.farshore(&login).expect("the login");
        std::fs::write(root.join("objects.yaml"), OBJECTS).unwrap();
        std::fs::write(root.join("manifest.json"), MANIFEST).unwrap();
        fleet.line("apply -f objects.yaml");
        fleet.line("key generate");
        fleet.line("key init --key release.key");
        for folder in folders {
            let token = fleet.line("token create --channel prod");
            std::fs::write(folder.join("token"), token.trim()).unwrap();
            fleet.agents.push([agent(&folder, 0, ebpf, &[]), agent(&folder, 1, ebpf, &[])]);
        }
        fleet
            .until("the devices", || {
                let list: Value =
                    serde_json::from_str(&fleet.farshore(&["get", "devices", "-o", "json"])?).ok()?;
                let items = list["items"].as_array()?;
                let online = items.iter().filter(|item| item["status"]["reachability"] == "online");
                (online.count() == devices).then_some(())
            })
            .await;
        fleet
    }

    pub(crate) fn devices(&self) -> usize {
        self.agents.len()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() > deadline {
                let mut logs: Vec<String> = walk(&self.root(), "log").iter().map(|log| tail(log)).collect();
                logs.extend(self.farshore(&["describe", &format!("rollout/{}", self.rollout)]));
                logs.extend(self.farshore(&["get", "devices", "-o", "json"]));
                panic!("waited in vain for {what}\n{}", logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = clean(Path::new(env!("CARGO_BIN_EXE_farshore")));
        command
            .args(arguments)
            .current_dir(self.root())
            .env("FARSHORE_CONFIG", self.root().join("config.yaml"))
            .envs(self.plane_env.iter().map(|(name, value)| (name, value)));
        let stdin = File::open(self.root().join("password")).map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(stdin).output().unwrap()
    }

    /// What the command prints; `None` when it failed, as it may while the control plane is away.
    pub(crate) fn farshore(&self, arguments: &[&str]) -> Option<String> {
        let done = self.run(arguments);
        if !done.status.success() {
            eprintln!("{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Starts a command whose output is read as it comes.
    pub(crate) fn start_line(&self, line: &str) -> Child {
        let mut command = clean(Path::new(env!("CARGO_BIN_EXE_farshore")));
        command.args(line.split_whitespace()).current_dir(self.root());
        command.env("FARSHORE_CONFIG", self.root().join("config.yaml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
    }

    pub(crate) fn line(&self, line: &str) -> String {
        self.farshore(&line.split_whitespace().collect::<Vec<_>>()).unwrap_or_else(|| panic!("{line}"))
    }

    /// Packs, signs and pushes a release; a bad one fails whenever it is started.
    pub(crate) async fn release(&mut self, version: &str, good: bool) {
        let folder = self.root().join(format!("release-{version}"));
        std::fs::create_dir_all(folder.join("bin")).unwrap();
        let program = [self.recorder.as_slice(), version.as_bytes()].concat();
        std::fs::write(folder.join("bin/app"), &program).unwrap();
        let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.join("bin/app"), mode).unwrap();
        self.programs.insert(Digest::of(&program));
        // A bad one has to soak: on a busy machine its check can be good before it crashes, and it would be committed.
        let manifest = if good {
            MANIFEST.to_owned()
        } else {
            let bad: Vec<String> = self.bad.iter().map(|word| format!("{word:?}")).collect();
            let command = format!("{}]", bad.join(", "));
            MANIFEST.replace("\"run\"]", &command).replace("\"soakSeconds\": 0", "\"soakSeconds\": 20")
        };
        let manifest = if self.slots {
            // Nobody listens there: what is checked is that never two of a device are in one slot.
            let slots = r#""slots": {"blue": 7001, "green": 7002}, "stopTimeoutSeconds""#;
            manifest
                .replace("\"stopTimeoutSeconds\"", slots)
                .replace("\"soakSeconds\": 0", "\"soakSeconds\": 1")
        } else {
            manifest
        };
        let checks = format!("\"intervalSeconds\": {}", self.check_seconds);
        let manifest = manifest.replace("\"intervalSeconds\": 1", &checks);
        self.push(version, &manifest);
    }

    /// Packs what lies in the release's folder, signs it with this manifest, and pushes it.
    pub(crate) fn push(&self, version: &str, manifest: &str) {
        std::fs::write(self.root().join("manifest.json"), manifest).unwrap();
        self.line(&format!("release pack release-{version}"));
        let arch = std::env::consts::ARCH;
        self.line(&format!(
            "release sign manifest.json --key release.key --release-version {version} \
             --artifact linux/{arch}=release-{version}.tar.gz --out out-{version}"
        ));
        self.line(&format!("release push out-{version}"));
    }

    pub(crate) async fn roll_out(&mut self, version: &str) {
        self.rollout = format!("web-{}", version.replace('.', "-"));
        self.line(&format!(
            "rollout create --app web --channel prod --to {version} --name {} --wave 50%:1s --wave 100%:0s \
             --max-unavailable 100% --on-failure rollback",
            self.rollout
        ));
    }

    /// Says what a device lets apps do beyond plain processes; its agent begins anew with it.
    pub(crate) async fn permit(&mut self, device: usize, allowed: &Value) {
        let path = self.root().join(format!("device-{device}/executors.json"));
        std::fs::write(path, allowed.to_string()).unwrap();
        self.crash(Victim::Runner(device)).await;
        self.crash(Victim::Run(device)).await;
    }

    /// Kills a device's `run`, which stays away until it is started again.
    pub(crate) fn kill_run(&mut self, device: usize) {
        kill(&mut self.agents[device][0]);
    }

    pub(crate) fn start_run(&mut self, device: usize) {
        self.start_role(device, 0);
    }

    pub(crate) fn kill_runner(&mut self, device: usize) {
        kill(&mut self.agents[device][1]);
    }

    pub(crate) fn start_runner(&mut self, device: usize) {
        self.start_role(device, 1);
    }

    fn start_role(&mut self, device: usize, role: usize) {
        let folder = self.root().join(format!("device-{device}"));
        self.agents[device][role] = agent(&folder, role, self.ebpf, &self.device_env);
    }

    /// The number of a device's `run`, or of its runner.
    pub(crate) fn pid(&self, device: usize, runner: bool) -> u32 {
        self.agents[device][usize::from(runner)].id()
    }

    /// Kills the control plane, which stays away until it is started again.
    pub(crate) fn kill_control(&mut self) {
        kill(&mut self.control);
    }

    pub(crate) fn start_control(&mut self) {
        self.control = serve_with(&self.root(), self.ports, &self.plane_env);
    }

    /// The device loses its power and gets it back: everything on it begins anew, in another boot.
    pub(crate) fn power_cycle(&mut self, device: usize) {
        let folder = self.root().join(format!("device-{device}"));
        self.agents[device].iter_mut().for_each(kill);
        end_all(&folder.join(""));
        let boot = uuid::Uuid::now_v7().to_string();
        std::fs::write(folder.join("boot_id"), boot).unwrap();
        self.agents[device] = [0, 1].map(|role| agent(&folder, role, self.ebpf, &self.device_env));
    }

    /// Kills one process as a crash would, and starts it again.
    pub(crate) async fn crash(&mut self, victim: Victim) {
        match victim {
            Victim::Control => {
                kill(&mut self.control);
                self.start_control();
            }
            Victim::Run(device) | Victim::Runner(device) => {
                let role = usize::from(matches!(victim, Victim::Runner(_)));
                kill(&mut self.agents[device][role]);
                self.start_role(device, role);
            }
        }
    }

    /// Nothing unsigned was executed, and nothing twice at a time.
    pub(crate) fn check(&self) {
        for device in 0..self.devices() {
            let record = self.root().join(format!("device-{device}/record"));
            for line in std::fs::read_to_string(record).unwrap().lines() {
                let digest: Digest = line.split(' ').next().unwrap().parse().unwrap();
                assert!(self.programs.contains(&digest), "device {device} executed {line}");
            }
        }
        assert!(self.watcher.check() > 0);
    }

    /// The rollout has ended this way, and every device has proven this version and executes it, once.
    pub(crate) async fn settled(&self, version: &str, phase: &str) {
        let program = Digest::of(&[self.recorder.as_slice(), version.as_bytes()].concat());
        let read =
            |arguments: &[&str]| -> Option<Value> { serde_json::from_str(&self.farshore(arguments)?).ok() };
        let what = format!("{version} on all devices, and rollout {} {phase}", self.rollout);
        self.until(&what, || {
            let rollout = read(&["get", "rollout", &self.rollout, "-o", "json"])?;
            let devices = read(&["get", "devices", "-o", "json"])?;
            let ended = rollout["status"]["summary"]["phase"] == phase;
            let has = |device: &&Value| {
                let app = &device["status"]["apps"][0];
                device["status"]["reachability"] == "online"
                    && app["activeVersion"] == version
                    && app["committed"] == true
            };
            let all = devices["items"].as_array()?.iter().filter(has).count() == self.devices();
            let alone = self.watcher.apps().values().all(|apps| apps.len() == 1);
            let runs = alone && self.watcher.programs().iter().all(|programs| programs.iter().eq([&program]));
            (ended && all && runs).then_some(())
        })
        .await;
        self.check();
    }
}

fn walk(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("server") {
            found.extend(walk(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(6).collect();
    format!("{}:\n{}", path.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Kills what names a path that begins so: supervisors and apps live on by design.
pub(crate) fn end_all(prefix: &Path) {
    let ours = prefix.as_os_str().as_encoded_bytes();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let named = ["cmdline", "environ"].iter().any(|name| {
            let bytes = std::fs::read(entry.path().join(name)).unwrap_or_default();
            bytes.windows(ours.len()).any(|window| window == ours)
        });
        if named && let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // Gone already is as good.
            _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.agents.iter_mut().flatten().chain([&mut self.control]).for_each(kill);
        end_all(&self.root().join("device-"));
    }
}
