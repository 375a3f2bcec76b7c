//! The program out of its package, as a device of the other processor would have it, under the emulator.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{check, emulated};
use crate::tools;

/// Time until an emulated program answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Unpacks the package and tries its program.
///
/// # Errors
/// When something is not as it should be.
pub(super) fn program_works(package: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let folder = folder.path();
    let about = tools::output(Command::new("dpkg-deb").arg("--field").arg(package))?;
    check("its package is for arm64", about.contains("Architecture: arm64"), &about)?;
    tools::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(folder.join("root")))?;
    let agent = folder.join("root/usr/bin/farshore-agent");
    let version = tools::output(emulated(&agent).arg("--version"))?;
    check(
        "it says its version",
        version.trim() == format!("farshore-agent {}", env!("CARGO_PKG_VERSION")),
        &version,
    )?;
    runner_answers(&agent, folder)?;
    gateway_keeps_readings(&agent, folder)
}

/// A started program that ends with this.
#[derive(Debug)]
struct Started(Child);

impl Started {
    /// Asks it to end; it has to do so by itself.
    fn stop(mut self) -> Result<()> {
        tools::run(Command::new("kill").args(["-TERM", &self.0.id().to_string()]))?;
        let mut ended = None;
        tools::wait_until(PATIENCE, || {
            ended = self.0.try_wait().context("cannot wait for the program")?;
            Ok(ended.is_some())
        })?;
        let ended = ended.context("it does not end when it is asked to")?;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Gone already where it was stopped.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn runner_answers(agent: &Path, folder: &Path) -> Result<()> {
    let socket = folder.join("runner.sock");
    let runner = emulated(agent)
        .args(["runner", "--unprivileged", "--cgroup", "", "--ebpf", "off", "--socket"])
        .arg(&socket)
        .arg("--apps-dir")
        .arg(folder.join("apps"))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the runner")?;
    let runner = Started(runner);
    let up = tools::wait_until(PATIENCE, || Ok(socket.exists()))?;
    ensure!(up, "the runner does not listen");
    let said = tools::output(emulated(agent).args(["capabilities", "--runner-socket"]).arg(&socket))?;
    let holds = said.starts_with("linux/aarch64 ") && said.contains("runner: process manifest/v1");
    check("its runner says what it can do", holds, &said)?;
    runner.stop()
}

fn gateway_keeps_readings(agent: &Path, folder: &Path) -> Result<()> {
    let journal = folder.join("journal");
    let mut gateway = emulated(agent)
        .arg("gateway")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LOCAL_DB_PATH", &journal)
        .env("GATEWAY_HTTP_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_MQTT_LISTEN", "127.0.0.1:0")
        .env("LOG_FILE", folder.join("gateway.log"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the gateway")?;
    let stdout = gateway.stdout.take();
    let gateway = Started(gateway);
    let mut line = String::new();
    BufReader::new(stdout.context("no output")?).read_line(&mut line).context("cannot hear the gateway")?;
    let log = || fs::read_to_string(folder.join("gateway.log")).unwrap_or_default();
    let ready = line
        .strip_prefix("ready ")
        .with_context(|| format!("the gateway does not start: {line}{}", log()))?;
    let ready: Value = serde_json::from_str(ready).context("the gateway's line is no JSON")?;
    let http = ready["http"].as_str().context("the gateway says no address")?;
    let reading =
        r#"[{"sensor_id":"a","value":21.5},{"sensor_id":"b","value":-3},{"sensor_id":"a","value":22}]"#;
    let taken = tools::output(Command::new("curl").args([
        "-sS",
        "--fail-with-body",
        "-d",
        reading,
        &format!("http://{http}/api/data"),
    ]))?;
    check("its gateway takes readings", taken.contains("\"accepted\":3"), &taken)?;
    gateway.stop()?;
    let verb = |verb: &str| emulated_journal(agent, verb, &journal);
    let said = verb("inspect")?;
    let inspected: Value = serde_json::from_str(&said).context("inspect says no JSON")?;
    let streams = inspected["streams"].as_object().into_iter().flatten();
    let points: u64 = streams.filter_map(|(_, stream)| stream["points"].as_u64()).sum();
    let export = tools::output(
        emulated(agent)
            .args(["journal", "export", "--form", "points", "--out", "-", "--journal"])
            .arg(&journal),
    )?;
    let value = |line: &str| serde_json::from_str::<Value>(line).ok()?["value"].as_f64();
    let values: Vec<f64> = export.lines().filter_map(value).collect();
    let holds = points >= 3 && [-3.0, 21.5, 22.0].iter().all(|sent| values.contains(sent));
    check("its journal has them, to the bit", holds, &format!("{said}\n{export}"))?;
    // Ends with 3 where anything is damaged.
    verb("fsck")?;
    Ok(())
}

fn emulated_journal(agent: &Path, verb: &str, journal: &Path) -> Result<String> {
    tools::output(emulated(agent).args(["journal", verb, "-o", "json", "--journal"]).arg(journal))
}
