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
        let folder = tempfile::tempdir().expect("a folder");
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
