//! Readings go into a gateway by HTTP and come out of `farshore series`, each once, whoever is killed meanwhile.
//!
//! Only what the gateway acknowledged is counted, and nothing is sent while the gateway is dead: counts are exact.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Random;
use crate::fleet::{beside, clean, free_port, serve, spawn, tail};

const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    folder: tempfile::TempDir,
    ports: [u16; 2],
    http: u16,
    control: Option<Child>,
    gateway: Option<Child>,
    /// How many readings were acknowledged, and their sum.
    sent: (u64, u64),
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn gateway(root: &Path, http: u16) -> Child {
    let mut command = clean(&beside("farshore-agent"));
    command
        .arg("gateway")
        .current_dir(root)
        .env("FARSHORE_STATE_DIR", root.join("device"))
        .env("LOCAL_DB_PATH", root.join("journal"))
        .env("GATEWAY_HTTP_LISTEN", format!("127.0.0.1:{http}"))
        .env("GATEWAY_MQTT_LISTEN", "off")
        // Many small batches: more moments at which a crash can hurt.
        .env("SYNC_STRATEGY", "on-change")
        .env("MAX_RETRY_ATTEMPTS", "1000");
    spawn(command, &root.join("gateway.log"))
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (ports, http) = ([free_port(), free_port()], free_port());
        let control = Some(serve(&root, ports));
        let mut site = Self { folder, ports, http, control, gateway: None, sent: (0, 0) };
        let said = |word: &str| {
            let log = std::fs::read_to_string(root.join("serve.log")).unwrap_or_default();
            log.lines().find_map(|line| Some(line.split_once(word)?.1.trim().to_owned()))
        };
        let link = site.until("the first login", || said("First admin:")).await;
        let fingerprint = site.until("the fingerprint", || said("CA fingerprint:")).await;
        std::fs::write(root.join("password"), "correct horse battery\n").unwrap();
        site.farshore(&["login", &link, "--ca-fingerprint", &fingerprint, "--password-stdin"])
            .expect("the login");
        let token = site.farshore(&["token", "create", "--location", "Riga"]).expect("a token");
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
        site.gateway = Some(gateway(&root, http));
        site.until("the gateway", || site.health()).await;
        site
    }

    fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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

    fn farshore(&self, arguments: &[&str]) -> Option<String> {
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

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.farshore(&[arguments, &["-o", "json"]].concat()).expect("an answer");
        serde_json::from_str(&text).unwrap()
    }

    fn curl(&self, arguments: &[&str]) -> Option<String> {
        let done =
            Command::new("curl").args(["-sS", "--fail", "-m", "20"]).args(arguments).output().expect("curl");
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http)
    }

    fn health(&self) -> Option<Value> {
        serde_json::from_str(&self.curl(&[&self.url("/health")])?).ok()
    }

    /// Sends readings that count up, and sees them acknowledged.
    fn send(&mut self, readings: u64) {
        let lines: Vec<String> =
            (0..readings).map(|n| format!("temp,room=a value={}i", self.sent.0 + n + 1)).collect();
        let body = lines.join("\n");
        let sent = self.curl(&["--data-binary", &body, &self.url("/api/v2/write?bucket=hall")]);
        sent.expect("the readings are acknowledged");
        for n in 0..readings {
            self.sent.1 += self.sent.0 + n + 1;
        }
        self.sent.0 += readings;
    }

    fn aggregate(&self, aggregate: &str) -> u64 {
        let range = ["series", "-m", "temp", "--since", "1d", "--step", "1d", "--by", "all", "-a", aggregate];
        let range = self.json(&range);
        let values = range["items"][0]["values"].as_array().cloned().unwrap_or_default();
        // A day may end meanwhile.
        values.iter().map(|value| value.as_f64().unwrap() as u64).sum()
    }

    /// Everything has arrived, once.
    async fn settled(&self) {
        self.until("an empty journal", || {
            let health = self.health()?;
            (health["pending_sync_count"] == 0 && health["is_online"] == true).then_some(())
        })
        .await;
        assert_eq!((self.aggregate("count"), self.aggregate("sum")), self.sent, "lost or doubled");
    }

    fn restart_control(&mut self) {
        kill(&mut self.control);
        self.control = Some(serve(&self.root(), self.ports));
    }

    async fn restart_gateway(&mut self) {
        kill(&mut self.gateway);
        self.gateway = Some(gateway(&self.root(), self.http));
        self.until("the gateway", || self.health()).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readings_of_an_outage_arrive_once_whoever_is_killed_while_they_drain() {
    let long = std::env::var_os("FARSHORE_TEST_LONG").is_some_and(|value| value == "1");
    let points = if long { 500 } else { 20 };
    let mut random = Random(11);
    let mut site = Site::start().await;
    site.send(10);
    site.settled().await;

    // An outage: readings are taken as ever, and wait.
    kill(&mut site.control);
    for _ in 0..5 {
        site.send(40);
    }
    assert!(site.health().unwrap()["pending_sync_count"].as_u64() > Some(0));
    site.restart_control();
    site.settled().await;
    let status = site.json(&["sync", "status"]);
    let gateway = &status["items"][0];
    assert_eq!(gateway["receivedPoints"], site.sent.0, "{status}");
    assert_eq!((&gateway["location"], &gateway["lostPoints"]), (&"Riga".into(), &0.into()), "{status}");

    for crash in 0..points {
        for _ in 0..1 + random.below(4) {
            site.send(1 + random.below(50));
        }
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        let control = random.below(2) == 0;
        eprintln!(
            "crash {crash}: {} after {} readings",
            if control { "control plane" } else { "gateway" },
            site.sent.0
        );
        if control { site.restart_control() } else { site.restart_gateway().await }
    }
    site.settled().await;

    // Another key for what comes now; what came before is still read.
    site.farshore(&["sync", "rotate-key"]).expect("a new key");
    site.send(5);
    site.settled().await;
    // The latest value is the last one.
    let latest = site.json(&["get", "series"]);
    let temp = latest["items"].as_array().unwrap().iter().find(|item| item["measurement"] == "temp").unwrap();
    assert_eq!((&temp["value"], &temp["tags"]["room"]), (&site.sent.0.into(), &"a".into()), "{latest}");
    // A device that is revoked sends nothing any more, and keeps what it takes.
    let device = gateway_name(&status);
    site.farshore(&["device", "revoke", &device]).expect("revoked");
    site.send(3);
    site.until("the refusal", || {
        let status: Value = serde_json::from_str(&site.curl(&[&site.url("/api/status")])?).ok()?;
        status["sync_note"].as_str()?.contains("refused this device").then_some(())
    })
    .await;
    assert_eq!(site.health().unwrap()["pending_sync_count"], 3);
}

fn gateway_name(status: &Value) -> String {
    status["items"][0]["deviceName"].as_str().unwrap().to_owned()
}
