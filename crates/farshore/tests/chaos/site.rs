//! A control plane and a gateway as processes, and what was sent.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fleet::{beside, clean, free_port, serve, spawn, tail};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Site {
    folder: tempfile::TempDir,
    ports: [u16; 2],
    http: u16,
    journal: PathBuf,
    /// Of the gateway, besides those that it always has.
    variables: Vec<(&'static str, String)>,
    control: Option<Child>,
    gateway: Option<Child>,
    /// How many readings were acknowledged, and their sum.
    pub(crate) sent: (u64, u64),
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

pub(crate) fn long() -> bool {
    std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1")
}

impl Site {
    /// A control plane, and a gateway on a claimed device.
    pub(crate) async fn start() -> Self {
        let mut site = Self::control().await;
        site.claim();
        site.start_gateway().await;
        site
    }

    /// A control plane, somebody who is logged in, and no gateway yet.
    pub(crate) async fn control() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (ports, http) = ([free_port(), free_port()], free_port());
        let control = Some(serve(&root, ports));
        let journal = root.join("journal");
        let site = Self {
            folder,
            ports,
            http,
            journal,
            variables: Vec::new(),
            control,
            gateway: None,
            sent: (0, 0),
        };
        let said = |word: &str| {
            let log = std::fs::read_to_string(root.join("serve.log")).unwrap_or_default();
            log.lines().find_map(|line| Some(line.split_once(word)?.1.trim().to_owned()))
        };
        let link = site.until("the first login", || said("First admin:")).await;
        let fingerprint = site.until("the fingerprint", || said("CA fingerprint:")).await;
        std::fs::write(root.join("password"), "correct horse battery\n").unwrap();
        site.farshore(&["login", &link, "--ca-fingerprint", &fingerprint, "--password-stdin"])
            .expect("the login");
        site
    }

    pub(crate) fn claim(&self) {
        let root = self.root();
        let token = self.farshore(&["token", "create", "--location", "Riga"]).expect("a token");
        std::fs::write(root.join("token"), token.trim()).unwrap();
        let mut claim = clean(&beside("farshore-agent"));
        claim
            .arg("claim")
            .arg("--state-dir")
            .arg(root.join("device"))
            .arg("--token-file")
            .arg(root.join("token"));
        let claimed = claim.output().unwrap();
        assert!(claimed.status.success(), "{}", String::from_utf8_lossy(&claimed.stderr));
    }

    /// A key in place of a claim, and another way to the control plane.
    pub(crate) fn key(&mut self, port: u16) {
        let key = self.farshore(&["sync", "create-key", "hall", "--location", "Riga"]).expect("a key");
        std::fs::write(self.root().join("key"), key.trim()).unwrap();
        self.set("CLOUD_API_KEY_FILE", &self.root().join("key").display().to_string());
        self.set("CLOUD_API_URL", &format!("https://127.0.0.1:{port}/api/v1"));
    }

    pub(crate) fn device_port(&self) -> u16 {
        self.ports[1]
    }

    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.variables.push((name, value.to_owned()));
    }

    pub(crate) fn put_journal(&mut self, folder: PathBuf) {
        self.journal = folder;
    }

    fn agent(&self) -> Command {
        let mut command = clean(&beside("farshore-agent"));
        command
            .arg("gateway")
            .current_dir(self.root())
            .env("FARSHORE_STATE_DIR", self.root().join("device"))
            .env("LOCAL_DB_PATH", &self.journal)
            .env("GATEWAY_HTTP_LISTEN", format!("127.0.0.1:{}", self.http))
            .env("GATEWAY_MQTT_LISTEN", "off")
            // Many small batches: more moments at which a crash can hurt.
            .env("SYNC_STRATEGY", "on-change")
            .env("MAX_RETRY_ATTEMPTS", "1000")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) async fn start_gateway(&mut self) {
        self.gateway = Some(spawn(self.agent(), &self.root().join("gateway.log")));
        self.until("the gateway", || self.health()).await;
    }

    /// `farshore-agent gateway --force-sync`: whether everything went.
    pub(crate) fn force_sync(&self) -> bool {
        let mut command = self.agent();
        let done = command.arg("--force-sync").output().unwrap();
        eprintln!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        done.status.success()
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
                let logs = ["serve.log", "gateway.log"].map(|log| tail(&self.root().join(log)));
                panic!("waited in vain for {what}: {:?}\n{}", self.health(), logs.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn farshore(&self, arguments: &[&str]) -> Option<String> {
        let mut command = clean(Path::new(env!("CARGO_BIN_EXE_farshore")));
        command
            .args(arguments)
            .current_dir(self.root())
            .env("FARSHORE_CONFIG", self.root().join("config.yaml"));
        let stdin = File::open(self.root().join("password")).map_or_else(|_| Stdio::null(), Stdio::from);
        let done = command.stdin(stdin).output().unwrap();
        if !done.status.success() {
            eprintln!("{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.farshore(&[arguments, &["-o", "json"]].concat()).expect("an answer");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn curl(&self, arguments: &[&str]) -> Option<String> {
        let done =
            Command::new("curl").args(["-sS", "--fail", "-m", "20"]).args(arguments).output().expect("curl");
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    pub(crate) fn health(&self) -> Option<Value> {
        serde_json::from_str(&self.curl(&[&self.url("/health")])?).ok()
    }

    /// Sends readings that count up, and sees them acknowledged.
    pub(crate) fn send(&mut self, readings: u64) {
        let lines: Vec<String> =
            (0..readings).map(|n| format!("temp,room=a value={}i", self.sent.0 + n + 1)).collect();
        let sent = self.write(&lines.join("\n"));
        sent.expect("the readings are acknowledged");
        for n in 0..readings {
            self.sent.1 += self.sent.0 + n + 1;
        }
        self.sent.0 += readings;
    }

    /// Sends lines; nothing: they are not acknowledged.
    pub(crate) fn write(&self, lines: &str) -> Option<String> {
        let file = self.root().join("body");
        std::fs::write(&file, lines).unwrap();
        let body = format!("@{}", file.display());
        self.curl(&["--data-binary", &body, &self.url("/api/v2/write?bucket=hall&precision=ns")])
    }

    pub(crate) fn aggregate(&self, aggregate: &str) -> u64 {
        let range = ["series", "-m", "temp", "--since", "1d", "--step", "1d", "--by", "all", "-a", aggregate];
        let range = self.json(&range);
        let values = range["items"][0]["values"].as_array().cloned().unwrap_or_default();
        // A day may end meanwhile.
        values.iter().map(|value| value.as_f64().unwrap() as u64).sum()
    }

    /// Nothing waits in the gateway.
    pub(crate) async fn drained(&self) {
        self.until("an empty journal", || {
            let health = self.health()?;
            (health["pending_sync_count"] == 0 && health["is_online"] == true).then_some(())
        })
        .await;
    }

    /// For `cargo xtask bench chaos`: how often gateway and control plane were killed, and what came of it.
    pub(crate) fn tell_figures(&self, [gateway, control]: [u64; 2]) {
        let Some(file) = std::env::var_os("FARSHORE_FIGURES") else { return };
        let (sent, arrived) = (self.sent.0, self.aggregate("count"));
        let figures = serde_json::json!({
            "rounds": gateway + control, "kills_gateway": gateway, "kills_control": control, "readings": sent,
            "lost": sent.saturating_sub(arrived), "duplicated": arrived.saturating_sub(sent), "stuck": 0,
        });
        std::fs::write(file, figures.to_string()).unwrap();
    }

    /// Everything has arrived, once.
    pub(crate) async fn settled(&self) {
        self.drained().await;
        assert_eq!((self.aggregate("count"), self.aggregate("sum")), self.sent, "lost or doubled");
    }

    pub(crate) fn restart_control(&mut self) {
        kill(&mut self.control);
        self.control = Some(serve(&self.root(), self.ports));
    }

    pub(crate) async fn restart_gateway(&mut self) {
        self.kill_gateway();
        self.start_gateway().await;
    }

    pub(crate) fn kill_gateway(&mut self) {
        kill(&mut self.gateway);
    }

    pub(crate) fn kill_control(&mut self) {
        kill(&mut self.control);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in [&mut self.control, &mut self.gateway] {
            if let Some(mut child) = child.take() {
                // Gone already is as good.
                _ = child.kill();
                _ = child.wait();
            }
        }
    }
}
