//! Real clients send to a real gateway, which is then killed; what they were told is kept is in the journal.
//!
//! `curl` and `mosquitto_pub` must be there. The clients in Python (paho, the OTLP exporter of OpenTelemetry) run with the interpreter named by
//! `FARSHORE_TEST_PYTHON`, which `.ci/run` makes; without it, their tests say so and end.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use farshore_journal::{Config, Journal};

struct Gateway {
    child: Child,
    http: String,
    mqtt_port: String,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), variables)
    }

    fn start_in(folder: tempfile::TempDir, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore-agent"));
        command
            .arg("gateway")
            .env_clear()
            .env("LOCAL_DB_PATH", folder.path().join("journal"))
            .env("GATEWAY_HTTP_LISTEN", "127.0.0.1:0")
            .env("GATEWAY_MQTT_LISTEN", "127.0.0.1:0")
            .env("LOG_FILE", folder.path().join("logs/gateway.log"))
            .envs(variables.iter().copied())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the agent");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let ready = line.strip_prefix("ready ").expect("ready");
        let at: serde_json::Value = serde_json::from_str(ready).expect("JSON");
        let http = format!("http://{}", at["http"].as_str().expect("an address"));
        let mqtt = at["mqtt"].as_str().expect("an address");
        let mqtt_port = mqtt.rsplit(':').next().expect("a port").to_owned();
        Self { child, http, mqtt_port, folder }
    }

    fn status(&self) -> serde_json::Value {
        let status = run("curl", &["-sS", "--fail", &format!("{}/api/status", self.http)]);
        serde_json::from_str(&status).expect("JSON")
    }

    /// Waits until the status is as it should be.
    fn until(&self, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let status = self.status();
            if holds(&status) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "waited in vain for {what}: {status}");
            std::thread::yield_now();
        }
    }

    /// Asks it to stop, and gives its folder to the next one.
    fn stop(mut self) -> tempfile::TempDir {
        run("kill", &["-TERM", &self.child.id().to_string()]);
        assert!(self.child.wait().expect("ended").success());
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"))
    }

    /// `kill -9`, and how many points the journal then has.
    fn kill_and_count(mut self) -> u64 {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
        let journal =
            Journal::open(self.folder.path().join("journal"), Config::default()).expect("the journal");
        journal.stats().pending_points()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Gone already where the test came to its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {} {said}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("FARSHORE_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("FARSHORE_TEST_PYTHON is not set: the clients in Python are not tried");
    }
    python
}

fn script(python: &Path, text: &str, arguments: &[&str]) {
    let output = Command::new(python).arg("-c").arg(text).args(arguments).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_proxy_in_the_env_file_is_read_and_every_mistake_is_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let started = |text: &str| {
        std::fs::write(folder.path().join(".env"), text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore-agent"));
        command.args(["gateway", "--init-db"]).env_clear().current_dir(folder.path());
        let output = command.output().expect("the agent");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (good, said) = started("FARSHORE_PROXY=user:secret@nonsense # of the site\nBATCH_SIZE=0\n");
    assert!(!good && said.contains("FARSHORE_PROXY") && said.contains("BATCH_SIZE"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let (good, said) = started("FARSHORE_PROXY=\"http://user:secret@127.0.0.1:3128\" # of the site\n");
    assert!(good, "{said}");
}

#[test]
fn the_journals_key_may_be_a_credential_and_is_then_nowhere_on_the_disk() {
    use std::os::unix::fs::PermissionsExt as _;
    let credentials = tempfile::tempdir().expect("a folder");
    let key = credentials.path().join("edge-gateway.device-key");
    std::fs::write(&key, "5a".repeat(32)).expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o400)).expect("for its owner");
    let with = [("CREDENTIALS_DIRECTORY", credentials.path().to_str().expect("a path"))];
    let mut folder = tempfile::tempdir().expect("a folder");
    for waiting in 1..=2 {
        let gateway = Gateway::start_in(folder, &with);
        run(
            "curl",
            &["-sS", "--fail", "-d", r#"{"sensor_id":"a","value":1}"#, &format!("{}/api/data", gateway.http)],
        );
        let status = gateway.status();
        assert_eq!(status["pending_sync_count"], waiting, "what was there is still read: {status}");
        assert!(!gateway.folder.path().join("journal/device.key").exists());
        folder = gateway.stop();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_farshore-agent"))
        .args(["gateway", "--init-db"])
        .env_clear()
        .env("LOCAL_DB_PATH", folder.path().join("journal"))
        .current_dir(folder.path())
        .output()
        .expect("the agent");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("edge-gateway.device-key is missing"), "{said}");
    assert!(!folder.path().join("journal/device.key").exists(), "no other one is made");
}

#[test]
fn curl_sends_every_form_and_nothing_is_lost_by_a_kill() {
    let gateway = Gateway::start(&[("GATEWAY_TOKEN", "secret")]);
    let (data, write) =
        (format!("{}/api/data", gateway.http), format!("{}/api/v2/write?precision=s", gateway.http));
    let common = ["-sS", "--fail-with-body", "-H", "Authorization: Token secret"];
    let send = |more: &[&str]| run("curl", &[&common[..], more].concat());
    let answer = send(&["-d", r#"{"sensor_id":"temp-01","value":23.5,"unit":"celsius"}"#, &data]);
    assert!(answer.contains("\"accepted\":1"), "{answer}");
    send(&["--data-binary", "m,a=b f=1 1700000000\nm,a=b f=2 1700000001", &write]);
    // Chunked, of unknown length.
    send(&[
        "-H",
        "Transfer-Encoding: chunked",
        "-d",
        r#"[{"sensor_id":"a","value":1},{"sensor_id":"b","value":2}]"#,
        &data,
    ]);
    let health = run("curl", &["-sS", "--fail", &format!("{}/health", gateway.http)]);
    let health: BTreeMap<String, serde_json::Value> = serde_json::from_str(&health).expect("JSON");
    assert_eq!(health["pending_sync_count"], 5);
    let log = std::fs::read_to_string(gateway.folder.path().join("logs/gateway.log")).expect("a log");
    let line: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["message"], "the gateway takes readings");
    assert_eq!(gateway.kill_and_count(), 5);
}

#[test]
fn mosquitto_pub_sends_in_both_versions_and_nothing_is_lost_by_a_kill() {
    let gateway = Gateway::start(&[("GATEWAY_USER", "plc"), ("GATEWAY_PASSWORD", "secret")]);
    let port = gateway.mqtt_port.as_str();
    let common = ["-h", "127.0.0.1", "-p", port, "-u", "plc", "-P", "secret", "-t", "hall/temp"];
    for version in ["mqttv311", "mqttv5"] {
        run("mosquitto_pub", &[&common[..], &["-V", version, "-q", "1", "-m", "21.5"]].concat());
        run(
            "mosquitto_pub",
            &[&common[..], &["-V", version, "-q", "1", "-m", r#"{"temp": 20, "hum": 40}"#]].concat(),
        );
        run("mosquitto_pub", &[&common[..], &["-V", version, "-q", "1", "-m", "w,site=a wind=3"]].concat());
        run(
            "mosquitto_pub",
            &[&common[..], &["-V", version, "-q", "1", "--repeat", "20", "-m", "1"]].concat(),
        );
    }
    let wrong = ["-h", "127.0.0.1", "-p", port, "-u", "plc", "-P", "wrong", "-t", "t", "-m", "1"];
    let refused = Command::new("mosquitto_pub").args(wrong).output().expect("mosquitto_pub");
    assert!(!refused.status.success());
    assert_eq!(gateway.kill_and_count(), 2 * (1 + 2 + 1 + 20));
}

#[test]
fn mosquitto_writes_and_reads_documents_and_a_kill_takes_none_away() {
    let credentials = [("GATEWAY_USER", "plc"), ("GATEWAY_PASSWORD", "secret")];
    let mut gateway = Gateway::start(&credentials);
    let common = |port: &str| ["-h", "127.0.0.1", "-u", "plc", "-P", "secret", "-p", port].map(str::to_owned);
    let publish = |port: &str, more: &[&str]| {
        let common = common(port);
        run("mosquitto_pub", &[&common.each_ref().map(String::as_str)[..], &["-q", "1"], more].concat());
    };
    for version in ["mqttv311", "mqttv5"] {
        let topic = format!("$documents/settings/{version}");
        let (put, patch) = (format!("{topic}/put"), format!("{topic}/patch"));
        publish(&gateway.mqtt_port, &["-V", version, "-t", &put, "-m", r#"{"volume": 3, "on": true}"#]);
        publish(&gateway.mqtt_port, &["-V", version, "-t", &patch, "-m", r#"{"volume": 5, "on": null}"#]);
    }
    publish(&gateway.mqtt_port, &["-t", "$twin/reported/patch", "-m", r#"{"firmware": "1.2"}"#]);
    let wrong = [
        "-h",
        "127.0.0.1",
        "-u",
        "plc",
        "-P",
        "wrong",
        "-p",
        &gateway.mqtt_port,
        "-t",
        "$twin/#",
        "-C",
        "1",
        "-W",
        "10",
    ];
    assert!(!Command::new("mosquitto_sub").args(wrong).output().expect("mosquitto_sub").status.success());
    gateway.child.kill().expect("killed");
    gateway.child.wait().expect("ended");
    let folder = std::mem::replace(&mut gateway.folder, tempfile::tempdir().expect("a folder"));
    let gateway = Gateway::start_in(folder, &credentials);
    for version in ["mqttv311", "mqttv5"] {
        let common = common(&gateway.mqtt_port);
        let more = [
            "-V",
            version,
            "-t",
            "$documents/#",
            "-t",
            "$twin/#",
            "--retained-only",
            "-W",
            "10",
            "-C",
            "3",
            "-F",
            "%t %p",
        ];
        let heard = run("mosquitto_sub", &[&common.each_ref().map(String::as_str)[..], &more].concat());
        let values: Vec<(String, serde_json::Value)> = heard
            .lines()
            .map(|line| {
                let (topic, document) = line.split_once(' ').expect("a topic");
                let document: serde_json::Value = serde_json::from_str(document).expect("JSON");
                (topic.to_owned(), document["value"].clone())
            })
            .collect();
        let settings = serde_json::json!({"volume": 5});
        let wanted = [
            ("$documents/settings/mqttv311".to_owned(), settings.clone()),
            ("$documents/settings/mqttv5".to_owned(), settings),
            ("$twin/reported".to_owned(), serde_json::json!({"firmware": "1.2"})),
        ];
        assert_eq!(values, wanted);
    }
    assert_eq!(gateway.kill_and_count(), 0);
}

/// A real Mosquitto, with a user, on a port of its own.
struct Broker {
    folder: tempfile::TempDir,
    port: String,
    child: Child,
}

impl Broker {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port().to_string();
        drop(listener);
        let passwords = folder.path().join("passwords");
        run("mosquitto_passwd", &["-b", "-c", passwords.to_str().expect("text"), "plc", "secret"]);
        let text = format!(
            "listener {port} 127.0.0.1\npassword_file {}\npersistence true\npersistence_location {}/\nuser root\n",
            passwords.display(),
            folder.path().display()
        );
        std::fs::write(folder.path().join("mosquitto.conf"), text).expect("written");
        let child = Self::spawn(folder.path());
        let broker = Self { folder, port, child };
        broker.answers();
        broker
    }

    fn spawn(folder: &Path) -> Child {
        // Not in the path of everybody.
        let program = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(|path| !path.starts_with('/') || Path::new(path).exists());
        Command::new(program.expect("a program"))
            .arg("-c")
            .arg(folder.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto")
    }

    fn answers(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpStream::connect(format!("127.0.0.1:{}", self.port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "mosquitto does not listen");
            std::thread::yield_now();
        }
    }

    fn publish(&self, arguments: &[&str]) {
        let common = ["-h", "127.0.0.1", "-p", &self.port, "-u", "plc", "-P", "secret", "-q", "1"];
        run("mosquitto_pub", &[&common[..], arguments].concat());
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn readings_of_a_sites_own_broker_are_taken_also_those_of_an_absence() {
    let mut broker = Broker::start();
    // Retained: what was said before the gateway came is no reading of now.
    broker.publish(&["-t", "hall/old", "-m", "1", "-r"]);
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let variables = [
        ("GATEWAY_BROKER_URL", url.as_str()),
        ("GATEWAY_BROKER_TOPICS", "hall/#,line/+/speed"),
        ("GATEWAY_BROKER_USER", "plc"),
        ("GATEWAY_BROKER_PASSWORD", "secret"),
    ];
    let connected = |status: &serde_json::Value| status["broker"]["connected"] == true;
    let waits = |points: u64| move |status: &serde_json::Value| status["pending_sync_count"] == points;
    let gateway = Gateway::start(&variables);
    gateway.until("the broker", connected);
    broker.publish(&["-t", "hall/temp", "-m", "21.5", "--repeat", "10"]);
    broker.publish(&["-t", "line/3/speed", "-m", r#"{"rpm": 900, "load": 0.5}"#]);
    broker.publish(&["-t", "elsewhere/temp", "-m", "1"]);
    broker.publish(&["-t", "hall/temp", "-m", "no reading"]);
    gateway.until("twelve points", waits(12));

    // While it is away, the broker keeps what comes.
    let folder = gateway.stop();
    broker.publish(&["-t", "hall/temp", "-m", "22", "--repeat", "20"]);
    let gateway = Gateway::start_in(folder, &variables);
    gateway.until("those of the absence", waits(32));

    // The broker goes and comes back.
    broker.kill();
    gateway.until("the loss of the broker", |status| status["broker"]["note"].is_string());
    broker.child = Broker::spawn(broker.folder.path());
    broker.answers();
    gateway.until("the broker again", connected);
    broker.publish(&["-t", "hall/temp", "-m", "23"]);
    gateway.until("one more", waits(33));
    let metrics = run("curl", &["-sS", "--fail", &format!("{}/metrics", gateway.http)]);
    assert!(metrics.contains("edge_gateway_broker_connected 1"), "{metrics}");
    assert_eq!(gateway.kill_and_count(), 33);
}

#[test]
fn a_broker_that_refuses_is_told_and_stops_nothing() {
    let broker = Broker::start();
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let variables = [
        ("GATEWAY_BROKER_URL", url.as_str()),
        ("GATEWAY_BROKER_TOPICS", "#"),
        ("GATEWAY_BROKER_USER", "plc"),
    ];
    let gateway = Gateway::start(&variables);
    gateway.until("the refusal", |status| {
        status["broker"]["note"].as_str().is_some_and(|note| note.contains("it refuses the connection"))
    });
    let data = format!("{}/api/data", gateway.http);
    run("curl", &["-sS", "--fail", "-d", r#"{"sensor_id":"a","value":1.5}"#, &data]);
    assert_eq!(gateway.kill_and_count(), 1);
}

#[test]
fn paho_sends_and_nothing_is_lost_by_a_kill() {
    let Some(python) = python() else { return };
    let gateway = Gateway::start(&[]);
    let text = r"
import sys, paho.mqtt.client as mqtt
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id='paho', clean_session=False)
client.connect('127.0.0.1', int(sys.argv[1]))
client.loop_start()
sent = [client.publish('line/speed', str(n), qos=1) for n in range(500)]
for message in sent:
    message.wait_for_publish(30)
    assert message.is_published()
client.disconnect()
";
    script(&python, text, &[&gateway.mqtt_port]);
    assert_eq!(gateway.kill_and_count(), 500);
}

#[test]
fn paho_is_told_of_changes_and_of_what_is_refused() {
    let Some(python) = python() else { return };
    let gateway = Gateway::start(&[]);
    let text = r#"
import json, queue, sys, urllib.request, paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
for version in (mqtt.MQTTv311, mqtt.MQTTv5):
    heard, subscribed = queue.Queue(), queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id='till', protocol=version)
    client.on_message = lambda client, data, message: heard.put((message.topic, json.loads(message.payload), message.retain))
    client.on_subscribe = lambda client, data, mid, codes, properties: subscribed.put(codes)
    client.connect('127.0.0.1', int(sys.argv[1]))
    client.loop_start()
    collection = f'v{version}'
    client.subscribe([(f'$documents/{collection}/#', 1), ('$documents/refused', 1)])
    subscribed.get(timeout=30)
    client.publish(f'$documents/{collection}/menu/put', json.dumps({'soup': 3}), qos=1).wait_for_publish(30)
    topic, said, there = heard.get(timeout=30)
    assert (topic, said['value'], said['pending'], there) == (f'$documents/{collection}/menu', {'soup': 3}, True, False), said
    request = urllib.request.Request(f'{sys.argv[2]}/documents/{collection}/menu', b'{"soup": 4}', method='PATCH')
    urllib.request.urlopen(request, timeout=30).read()
    changed = heard.get(timeout=30)
    assert (changed[0], changed[1]['value']) == (topic, {'soup': 4}), changed
    client.publish(f'$documents/{collection}/menu/patch/{said["version"]}', '{"soup": 9}', qos=1).wait_for_publish(30)
    refused = heard.get(timeout=30)
    assert (refused[0], refused[1]['error']) == ('$documents/refused', 'version mismatch'), refused
    client.publish(f'$documents/{collection}/menu/delete/{changed[1]["version"]}', '', qos=1).wait_for_publish(30)
    gone = heard.get(timeout=30)
    assert (gone[0], gone[1]['value']) == (topic, None), gone
    client.disconnect()
    client.loop_stop()
"#;
    script(&python, text, &[&gateway.mqtt_port, &gateway.http]);
    assert_eq!(gateway.kill_and_count(), 0);
}

#[test]
fn the_exporter_of_opentelemetry_sends_and_nothing_is_lost_by_a_kill() {
    let Some(python) = python() else { return };
    let gateway = Gateway::start(&[]);
    let text = r"
import sys
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
exporter = OTLPMetricExporter(endpoint=sys.argv[1] + '/v1/metrics', compression=Compression.Gzip)
provider = MeterProvider(metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=600000)])
meter = provider.get_meter('test')
meter.create_counter('parts', unit='1').add(3, {'line': 'a'})
meter.create_gauge('temperature', unit='Cel').set(21.5, {'room': 'b'})
meter.create_histogram('wait', explicit_bucket_boundaries_advisory=[1.0, 5.0]).record(2.5)
assert provider.force_flush(10000)
provider.shutdown()
";
    script(&python, text, &[&gateway.http]);
    // The counter, the gauge, and of the histogram count, sum, min, max and three buckets.
    let points = gateway.kill_and_count();
    assert!(points >= 9, "{points} points");
}

#[test]
fn wrong_settings_are_told_and_init_db_makes_the_journal() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore-agent"));
        command.arg("gateway").env_clear().current_dir(folder.path());
        command
    };
    let output =
        agent().env("GATEWAY_HTTP_LISTEN", "0.0.0.0:8000").env("BATCH_SIZE", "x").output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("GATEWAY_TOKEN") && said.contains("BATCH_SIZE=x"), "{said}");
    std::fs::write(folder.path().join(".env"), "LOCAL_DB_PATH=./data/edge_gateway.db\n").expect("written");
    let output = agent().arg("--init-db").output().expect("ran");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join("data/edge_gateway.db").is_dir());
}

#[test]
fn the_journal_by_hand() {
    let gateway = Gateway::start(&[]);
    let data = format!("{}/api/data", gateway.http);
    run(
        "curl",
        &["-sS", "--fail", "-d", r#"[{"sensor_id":"a","value":1.5},{"sensor_id":"b","value":true}]"#, &data],
    );
    let folder = gateway.folder.path().to_owned();
    let journal = folder.join("journal");
    let by_hand = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore-agent"));
        command.arg("journal").args(arguments).env_clear().env("LOCAL_DB_PATH", &journal);
        let output = command.current_dir(&folder).output().expect("ran");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // While it runs: looking is fine, changing is not.
    let (code, said, _) = by_hand(&["inspect"]);
    assert!(code == Some(0) && said.contains("data/default: 2 points in 1 segments"), "{said}");
    assert_eq!(by_hand(&["fsck"]).0, Some(0));
    let (code, said, _) = by_hand(&["export", "--form", "points", "--out", "-"]);
    assert!(code == Some(0) && said.contains(r#""measurement":"a","field":"value""#), "{said}");
    let (code, _, complaint) = by_hand(&["fsck", "--repair"]);
    assert!(code == Some(1) && complaint.contains("in use by another process"), "{complaint}");
    assert_eq!(by_hand(&["export", "--out", "x", "--stream", "../y"]).0, Some(2));
    assert_eq!(gateway.kill_and_count(), 2);

    // Its folder went with it; a journal of another life.
    let folder = tempfile::tempdir().expect("a folder");
    let journal = folder.path().join("journal");
    let text = r#"{"stream":"data/a","measurement":"m","field":"","time_ns":1,"kind":"text","value":"x"}"#;
    std::fs::write(folder.path().join("points"), text).expect("written");
    let by_hand = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore-agent"));
        command.arg("journal").args(arguments).env_clear().env("LOCAL_DB_PATH", &journal);
        let output = command.current_dir(folder.path()).output().expect("ran");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(by_hand(&["inspect"]).0, Some(1), "there is none yet");
    let (code, said) = by_hand(&["import", "points", "-o", "json"]);
    let imported: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(code == Some(0) && imported["points"] == 1, "{said}");
    assert_eq!(by_hand(&["export", "--out", "batches"]), (Some(0), said_of(&folder.path().join("batches"))));
    let batch = std::fs::read_dir(journal.join("streams/data+a"))
        .expect("a stream")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "batch"))
        .expect("a batch");
    let mut bytes = std::fs::read(&batch).expect("read");
    bytes[200] ^= 1;
    std::fs::write(&batch, bytes).expect("written");
    let (code, said) = by_hand(&["fsck"]);
    assert!(code == Some(3) && said.contains("the checksum is wrong, 1 points"), "{said}");
    let (code, said) = by_hand(&["fsck", "--repair"]);
    assert!(code == Some(0) && said.contains("mended"), "{said}");
    let (code, said) = by_hand(&["inspect"]);
    assert!(code == Some(0) && said.contains("lost (corrupt-batch): 1 points of data/a"), "{said}");
}

fn said_of(export: &Path) -> String {
    format!("1 batches with 1 points, {} bytes\n", std::fs::metadata(export).expect("metadata").len())
}
