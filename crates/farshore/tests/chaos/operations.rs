//! Operations from the command line to the device and back, with a real control plane, a real `run` and a real runner: allowed by policy,
//! streamed, recorded, kept for who is away, and done once whoever is killed meanwhile.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use farshore_domain::digest::Digest;
use serde_json::{Value, json};

use crate::containerd::{self, Containerd};
use crate::fleet::{Fleet, Victim};

/// What a runbook does: notes that it ran, says `first`, waits for a file, says `last`.
struct Waiting {
    folder: tempfile::TempDir,
}

impl Waiting {
    fn new() -> Self {
        // The user of commands has to get in.
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { folder }
    }

    fn ran(&self) -> PathBuf {
        self.folder.path().join("ran")
    }

    fn go(&self) {
        std::fs::write(self.folder.path().join("go"), "").unwrap();
    }

    fn stop(&self) {
        std::fs::remove_file(self.folder.path().join("go")).unwrap();
    }

    fn script(&self) -> String {
        let go = self.folder.path().join("go");
        format!(
            "echo x >> {}; echo first; while [ ! -e {} ]; do sleep 0.05; done; id -u; echo last",
            self.ran().display(),
            go.display()
        )
    }

    fn runs(&self) -> usize {
        lines(&self.ran())
    }
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

impl Fleet {
    /// Runs a line that is to end with this exit code, and says what it wrote.
    fn ends(&self, code: i32, line: &str) -> (String, String) {
        let done = self.run(&line.split_whitespace().collect::<Vec<_>>());
        let (out, err) = (String::from_utf8_lossy(&done.stdout).into_owned(), said(&done));
        assert_eq!(done.status.code(), Some(code), "{line}\n{out}\n{err}");
        (out, err)
    }

    /// Runs a line however it ends.
    fn tries(&self, line: &str) -> (String, String) {
        let done = self.run(&line.split_whitespace().collect::<Vec<_>>());
        (String::from_utf8_lossy(&done.stdout).into_owned(), said(&done))
    }

    pub(crate) fn read(&self, line: &str) -> Option<Value> {
        serde_json::from_str(&self.farshore(&line.split_whitespace().collect::<Vec<_>>())?).ok()
    }

    fn device_name(&self) -> String {
        let list = self.read("get devices -o json").unwrap();
        list["items"][0]["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Says what the devices' policy allows.
    fn allow(&self, operations: Value) {
        let policy = json!({
            "apiVersion": "farshore.dev/v1", "kind": "Policy", "metadata": {"name": "operations"},
            "spec": {"rules": {"operations": operations}},
        });
        std::fs::write(self.root().join("policy.json"), policy.to_string()).unwrap();
        self.line("apply -f policy.json");
    }

    /// Asks for something that is not waited for; its uid.
    fn ask(&self, line: &str) -> String {
        let asked = self.line(&format!("device {line} --no-wait -o name"));
        asked.trim().strip_prefix("operation/").unwrap().to_owned()
    }

    async fn operation(&self, uid: &str, state: &str) -> Value {
        self.until(&format!("operation {uid} {state}"), || {
            self.read(&format!("get operation {uid} -o json"))
                .filter(|operation| operation["status"]["state"] == state)
        })
        .await
    }

    /// Waits until the device has said that it can do this: its runner may come later than its channel.
    async fn able(&self, what: &str) {
        self.until(what, || {
            let (out, _) = self.tries(&format!("device {what} --dry-run"));
            (!out.is_empty() && !out.contains("it does not say")).then_some(())
        })
        .await;
    }

    async fn lifecycle(&self, name: &str, wanted: &str) {
        self.until(wanted, || {
            let device = self.read(&format!("get device {name} -o json"))?;
            (device["status"]["lifecycle"] == wanted).then_some(())
        })
        .await;
    }

    /// The app's processes on the only device.
    fn app(&self) -> Vec<crate::watcher::Process> {
        self.watcher.apps().into_values().flatten().collect()
    }
}

fn runbook(name: &str, script: &str) -> Value {
    json!({"name": name, "command": ["/bin/sh", "-c", script], "timeoutSeconds": 60})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_allows_is_done_on_a_real_device_and_streamed_and_recorded() {
    let mut fleet = Fleet::start(1).await;
    fleet.release("1.0", true).await;
    fleet.roll_out("1.0").await;
    fleet.settled("1.0", "succeeded").await;
    let name = fleet.device_name();
    let waiting = Waiting::new();

    let (_, why) = fleet.ends(4, &format!("device exec {name} --runbook wait"));
    assert!(why.contains("has no runbook wait"), "{why}");
    let slow = json!({"name": "slow", "command": ["/bin/sleep", "600"], "timeoutSeconds": 1});
    let echo = json!({
        "name": "echo", "command": ["/bin/echo", "-n"], "arguments": [{"name": "word", "pattern": "a*"}],
    });
    let big = runbook("big", "head -c 300000 /dev/zero | tr '\\0' x; exit 3");
    let runbooks = json!([runbook("wait", &waiting.script()), slow, echo, big]);
    fleet.allow(json!({"runbooks": runbooks}));

    // At once: what the policy has just come to allow, the device has not heard of yet.
    let mut exec = fleet.start_line(&format!("device exec {name} --runbook wait -m because"));
    let mut output = BufReader::new(exec.stdout.take().unwrap());
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert_eq!(first, "first\n");
    let open = fleet.read("get operations --field-selector state=open -o json").unwrap();
    assert_eq!(open["items"][0]["status"]["state"], "running", "its output comes before its end: {open}");
    waiting.go();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(exec.wait().unwrap().success());
    let (user, last) = rest.split_once('\n').unwrap();
    assert!(last == "last\n" && user != "0", "{rest}");
    assert_eq!(waiting.runs(), 1);

    // Whoever comes later reads the same.
    let done =
        &fleet.read(&format!("get operations --field-selector device={name} -o json")).unwrap()["items"][0];
    let uid = done["metadata"]["uid"].as_str().unwrap();
    assert_eq!((&done["spec"]["reason"], &done["status"]["exitCode"]), (&json!("because"), &json!(0)));
    assert_eq!(fleet.ends(0, &format!("device output {uid}")).0, format!("first\n{rest}"));
    let told = fleet.line(&format!("events device/{name}"));
    assert!(told.contains("of runbook wait") && told.contains("because"), "{told}");

    let (_, why) = fleet.ends(4, &format!("device exec {name} --command id"));
    assert!(why.contains("does not allow a free command"), "{why}");
    assert_eq!(fleet.ends(0, &format!("device exec {name} --runbook echo -- abc")).0, "abc");
    let (_, why) = fleet.ends(1, &format!("device exec {name} --runbook echo -- bcd"));
    assert!(why.contains("does not fit"), "{why}");
    let (_, why) = fleet.ends(1, &format!("device exec {name} --runbook slow"));
    assert!(why.contains("longer than 1 s"), "{why}");
    let (out, why) = fleet.ends(1, &format!("device exec {name} --runbook big"));
    assert_eq!(out.len(), 100 * 1024);
    assert!(why.contains("it ended with 3") && why.contains("of 300000 bytes"), "{why}");

    let (out, _) = fleet.ends(0, &format!("device diagnostics {name}"));
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["connectivity"]["connected"], true);
    let (out, _) = fleet.ends(0, &format!("device inventory {name}"));
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["apps"][0]["app"], &told["apps"][0]["version"]), (&json!("web"), &json!("1.0")));
    let (out, _) = fleet.ends(0, &format!("device logs {name} --app web"));
    assert!(out.contains("stdout") && out.contains("started with run"), "{out}");

    let before = fleet.app();
    fleet.ends(0, &format!("device restart-app {name} --app web --wait"));
    fleet
        .until("another process", || {
            let now = fleet.app();
            (now.len() == 1 && now != before).then_some(())
        })
        .await;

    let before = fleet.app();
    fleet.ends(0, &format!("device cordon {name} -m works"));
    fleet.lifecycle(&name, "cordoned").await;
    fleet.ends(0, &format!("device uncordon {name}"));
    fleet.lifecycle(&name, "claimed").await;
    assert_eq!(fleet.app(), before, "who is cordoned goes on");
    fleet.ends(0, &format!("device drain {name} --wait -m works"));
    fleet.lifecycle(&name, "drained").await;
    assert!(fleet.app().is_empty(), "its apps are stopped");
    let (_, why) = fleet.ends(5, &format!("device drain {name}"));
    assert!(why.contains("the device is drained"), "{why}");
    fleet.ends(0, &format!("device uncordon {name}"));
    fleet.until("the app again", || (fleet.app().len() == 1).then_some(())).await;
    fleet.settled("1.0", "succeeded").await;
}

/// A release of one container that waits, with a file that says where it is.
fn contain(fleet: &Fleet, version: &str) {
    let files: [(&str, u32, &[u8]); 3] = [
        ("bin/app", 0o755, b"#!/bin/sh\ntrap 'exit 0' TERM\nsleep 1000 &\nwait\n"),
        ("etc/passwd", 0o644, b""),
        ("etc/here", 0o644, b"inside\n"),
    ];
    let layers = [containerd::base(), containerd::layer(&files, &[])];
    let diffs = [Digest::of(&layers[0]), Digest::of(&layers[1])];
    let folder = fleet.root().join(format!("release-{version}"));
    for (path, _, bytes) in containerd::layout("image", &diffs, layers.map(|layer| (layer, "tar"))) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let manifest = json!({
        "tenant": "default", "app": "web", "version": version, "soakSeconds": 0, "startTimeoutSeconds": 60,
        "run": {"kind": "container", "container": {"image": "image"}, "stopTimeoutSeconds": 2},
    });
    fleet.push(version, &manifest.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_from_the_command_line_runs_inside_an_apps_container() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("CONTAINERS NEED ROOT: NOTHING IS TESTED");
        return;
    }
    let containerd = Containerd::start();
    let mut fleet = Fleet::start(1).await;
    fleet.permit(0, &json!({"container": containerd.allowed()})).await;
    let name = fleet.device_name();
    fleet
        .until("that it runs containers", || {
            let device = fleet.read(&format!("get device {name} -o json"))?;
            let can = device["status"]["capabilities"].as_array()?;
            can.contains(&json!("executor/container")).then_some(())
        })
        .await;
    contain(&fleet, "1.0");
    fleet.roll_out("1.0").await;
    fleet
        .until("the container", || {
            let device = fleet.read(&format!("get device {name} -o json"))?;
            let committed = device["status"]["apps"][0]["committed"] == true;
            (committed && containerd.running() == ["web"]).then_some(())
        })
        .await;

    let runbooks = json!([
        {"name": "where", "command": ["/bin/cat", "/etc/here"], "app": "web"},
        {"name": "beside", "command": ["/bin/sh", "-c", "test -e /etc/here || echo beside"]},
    ]);
    fleet.allow(json!({"exec": true, "execInside": true, "runbooks": runbooks}));
    fleet.able(&format!("exec {name} --app web --command env")).await;
    let (out, _) = fleet.ends(0, &format!("device exec {name} --app web --command env -m look"));
    assert!(out.contains("FROM=image\n") && out.contains("FARSHORE_OPERATION="), "{out}");
    assert_eq!(fleet.ends(0, &format!("device exec {name} --runbook where")).0, "inside\n");
    assert_eq!(fleet.ends(0, &format!("device exec {name} --runbook beside")).0, "beside\n");
    let (_, why) = fleet.ends(1, &format!("device exec {name} --app web --command false"));
    assert!(why.contains("it ended with"), "{why}");
    let (_, why) = fleet.ends(1, &format!("device exec {name} --app shop --command env"));
    assert!(why.contains("shop is not on the device"), "{why}");
    // As anybody reads it later.
    let list = fleet.read(&format!("get operations --field-selector device={name} -o json")).unwrap();
    let looked =
        list["items"].as_array().unwrap().iter().find(|one| one["spec"]["reason"] == "look").unwrap();
    assert_eq!(
        (&looked["spec"]["app"], &looked["status"]["exitCode"]),
        (&json!("web"), &json!(0)),
        "{looked}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_while_somebody_is_away_is_done_once_and_never_begun_twice() {
    let mut fleet = Fleet::start(1).await;
    let name = fleet.device_name();
    let waiting = Waiting::new();
    fleet.allow(json!({"runbooks": [runbook("wait", &waiting.script())]}));
    waiting.go();
    fleet.able(&format!("exec {name} --runbook wait")).await;
    fleet.ends(0, &format!("device exec {name} --runbook wait"));

    // The device is away: one is kept for it, one comes too late. The control plane is killed meanwhile, too.
    fleet.kill_run(0);
    let late = fleet.ask(&format!("exec {name} --runbook wait --expires 10s"));
    let kept = fleet.ask(&format!("exec {name} --runbook wait"));
    assert_eq!(fleet.operation(&kept, "queued").await["status"]["outputBytes"], 0);
    fleet.crash(Victim::Control).await;
    let expired = fleet.operation(&late, "expired").await;
    assert!(
        expired["status"]["message"].as_str().unwrap().contains("the device is not connected"),
        "{expired}"
    );
    assert_eq!(waiting.runs(), 1);
    fleet.start_run(0);
    let done = fleet.operation(&kept, "succeeded").await;
    assert!(done["status"]["outputBytes"].as_u64() > Some(0));
    assert_eq!(waiting.runs(), 2);

    // Killed in the middle: it is not done again, by no restart of anybody.
    waiting.stop();
    let runs = |count: usize| (waiting.runs() == count).then_some(());
    let cut = fleet.ask(&format!("exec {name} --runbook wait"));
    let next = fleet.ask(&format!("exec {name} --runbook wait"));
    fleet.until("its begin", || runs(3)).await;
    fleet.crash(Victim::Run(0)).await;
    let failed = fleet.operation(&cut, "failed").await;
    assert!(failed["status"]["message"].as_str().unwrap().contains("not done again"), "{failed}");
    // What only waited behind it is done now.
    fleet.until("the next one's begin", || runs(4)).await;
    fleet.crash(Victim::Runner(0)).await;
    fleet.operation(&next, "failed").await;
    fleet.crash(Victim::Control).await;
    fleet.crash(Victim::Run(0)).await;
    waiting.go();
    fleet.until("the control plane", || fleet.read(&format!("get device {name} -o json"))).await;
    let last = fleet.ask(&format!("exec {name} --runbook wait"));
    fleet.operation(&last, "succeeded").await;
    assert_eq!(waiting.runs(), 5, "each began once");
    for (uid, state) in [(&late, "expired"), (&cut, "failed"), (&next, "failed")] {
        fleet.operation(uid, state).await;
    }

    // A device whose runner comes later than its channel can do what the runner can.
    fleet.kill_runner(0);
    fleet.crash(Victim::Run(0)).await;
    fleet
        .until("that the device lacks its runner", || {
            let (out, _) = fleet.tries(&format!("device exec {name} --runbook wait --dry-run"));
            out.contains("does not say exec/v1").then_some(())
        })
        .await;
    fleet.start_runner(0);
    fleet.able(&format!("exec {name} --runbook wait")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_rebooted_once_where_its_policy_allows_it_and_says_so_when_it_is_back() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("without root no device gets a boot of its own; nothing is tested");
        return;
    }
    let mut fleet = Fleet::start(1).await;
    let name = fleet.device_name();
    let reboots = fleet.root().join("device-0/reboots");
    fleet.able(&format!("reboot {name}")).await;
    let (_, why) = fleet.ends(4, &format!("device reboot {name} -m works"));
    assert!(why.contains("does not allow reboot"), "{why}");
    let waiting = Waiting::new();
    fleet.allow(json!({"reboot": true, "runbooks": [runbook("wait", &waiting.script())]}));
    let before = fleet.ask(&format!("exec {name} --runbook wait"));
    fleet.until("its begin", || (waiting.runs() == 1).then_some(())).await;
    let reboot = fleet.ask(&format!("reboot {name} -m works"));
    fleet.operation(&reboot, "delivered").await;
    assert_eq!(lines(&reboots), 0, "what is under way ends first");
    waiting.go();
    fleet.operation(&before, "succeeded").await;
    fleet.operation(&reboot, "running").await;
    fleet.until("the reboot", || (lines(&reboots) == 1).then_some(())).await;
    // Killed on its way down: the same boot goes on, and it is not asked for again.
    fleet.crash(Victim::Run(0)).await;
    let after = fleet.ask(&format!("exec {name} --runbook wait"));
    fleet.operation(&after, "delivered").await;
    fleet.operation(&reboot, "running").await;
    fleet.power_cycle(0);
    let done = fleet.operation(&reboot, "succeeded").await;
    assert_eq!(done["status"]["message"], "it was rebooted");
    fleet.operation(&after, "succeeded").await;
    assert_eq!((lines(&reboots), waiting.runs()), (1, 2));
}
