//! `cargo xtask test units`: the agent's units come up in a machine with systemd, and the agent's own tests pass in there
//! under the sandboxes that those units describe.
//!
//! The sandbox is read from the unit files each time, so that a directive which would break the agent fails here before it
//! fails on a device. nextest runs the tests as usual; each test process goes through
//! `xtask in-machine`, which starts it inside by `systemd-run` with the unit's directives.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::machine::{self, Machine};
use super::{runner, unit_file};
use crate::tools::{self, Step};

/// Each unit and the tests that run under it, as a nextest filter. What starts apps (modules `runner` and `line`) runs
/// under the runner's unit, all the rest under the agent's. The hostile and the conformance suites start both and compiles programs, and `incidents`,
/// `operations`, `policy` and `slots` start apps and a control plane of their own: they run outside, and so does the gateway, which is another role.
const SUITES: &[(&str, &str)] = &[
    (
        "farshore-agent.service",
        "package(farshore-agent) - binary(hostile) - binary(conformance) - binary(gateway) - test(/^(runner|line|incidents|policy|operations|slots)::/)",
    ),
    ("farshore-runner.service", "package(farshore-agent) & test(/^(runner|line)::/)"),
    // Apps that are units themselves, without a sandbox around the test.
    (NO_UNIT, "package(farshore-agent) & binary(conformance) & test(/^systemd::/)"),
];

/// For tests that run under no unit's sandbox.
const NO_UNIT: &str = "no unit";

/// Longest time for one test process in the machine, in seconds; nextest's own limit strikes before.
const LONGEST_TEST: u32 = 600;

/// Installs units, user and binary as a package would. $1 is the folder of the unit files, $2 the binary.
const INSTALL: &str = r#"
install -m 0644 "$1"/*.service /usr/lib/systemd/system/
install -D -m 0644 "$1/farshore.sysusers.conf" /usr/lib/sysusers.d/farshore.conf
install -m 0755 "$2" /usr/bin/farshore-agent
systemd-sysusers farshore.conf
systemctl daemon-reload
"#;

/// Gives the device a claim token of a control plane that is never there, so that `run` keeps trying.
const GIVE_TOKEN: &str = r#"
umask 077
mkdir -p /etc/farshore
digest=sha256:$(printf '%064d' 0)
secret=$(printf '%043d' 0 | tr 0 A)
token=$(printf '{"v":1,"url":"https://127.0.0.1:1","ca":"%s","secret":"%s"}' "$digest" "$secret" | base64 -w0 | tr -d = | tr +/ -_)
echo "FARSHORE_TOKEN=fsct_$token" > /etc/farshore/agent.env
"#;

/// Says the state of our units, one a line, with the number of restarts.
const STATES: &str = r#"
for unit in farshore-apps farshore-runner farshore-agent; do
    echo "$unit $(systemctl is-active $unit || true) $(systemctl show --value --property=NRestarts $unit)"
done
"#;

/// Puts a process into the apps' group, as the runner does with an app, and says its id.
const ADD_APP: &str = r#"
group=/sys/fs/cgroup/farshore.slice/farshore-apps.service/stand-in
mkdir "$group"
setsid sleep 600 </dev/null >/dev/null 2>&1 &
echo $! > "$group/cgroup.procs"
echo $!
"#;

/// Says which processes the apps' group has, if it is there.
const APPS: &str = r#"
group=/sys/fs/cgroup/farshore.slice/farshore-apps.service/stand-in
if [ -e "$group" ]; then cat "$group/cgroup.procs"; fi
"#;

/// # Errors
/// When a unit does not come up or a test fails.
pub(crate) fn run() -> Result<Step> {
    if let Some(why) = machine::why_not() {
        return Ok(Step::Skipped(why));
    }
    if tools::which("cargo-nextest").is_none() {
        return Ok(Step::Skipped(
            "it picks tests by an expression; type: cargo install cargo-nextest --locked".into(),
        ));
    }
    let programs = tools::build_programs(false)?;
    let target = tools::target();
    let mut show = vec![tools::root().to_owned()];
    if !target.starts_with(tools::root()) {
        show.push(target.clone());
    }
    let machine = Machine::start(&show)?;
    eprintln!("the machine is up; its first process is {}", machine.leader());
    machine.script(INSTALL, &[&tools::root().join("deploy/systemd"), &programs.join("farshore-agent")])?;
    units_come_up(&machine)?;
    let mut failed = Vec::new();
    for (unit, filter) in SUITES {
        eprintln!("\n-- the agent's tests under {unit}");
        // The same packages as the programs, so that nothing is built twice.
        let mut suite = runner(&tools::PROGRAMS);
        suite.args(["-E", filter, "--no-tests=pass", "--no-fail-fast"]);
        let outcome = tools::run(suite.args(["--config", &runner_setting(&machine, unit)?]));
        failed.extend(outcome.err().map(|_| *unit));
    }
    if failed.is_empty() { Ok(Step::Done) } else { bail!("tests failed under {}", failed.join(" and ")) }
}

/// Starts the units and looks at them for a while: each must be active and not have restarted. Then kills what may be killed without an app
/// noticing, and at last stops the apps.
fn units_come_up(machine: &Machine) -> Result<()> {
    let unclaimed = machine
        .script("systemctl start farshore-agent.service; systemctl is-active farshore-agent || true", &[])?;
    if unclaimed != "inactive\n" {
        bail!(
            "on a device that is not claimed and has no token, farshore-agent should not start, but is {unclaimed}"
        );
    }
    machine.script(GIVE_TOKEN, &[])?;
    machine.script("systemctl start farshore-agent.service", &[])?;
    let calm = "farshore-apps active 0\nfarshore-runner active 0\nfarshore-agent active 0\n";
    let mut seen = String::new();
    // Long enough for two restarts, were they to restart.
    let changed = tools::wait_until(Duration::from_secs(6), || {
        seen = machine.script(STATES, &[])?;
        Ok(seen != calm)
    })?;
    if changed {
        let journal = machine.script("journalctl --no-pager --lines=40 --unit='farshore-*'", &[])?;
        bail!("the units do not stay up:\n{seen}{journal}");
    }
    eprintln!("the units are up, and stay up");

    let app = machine.script(ADD_APP, &[])?;
    machine.script("systemctl kill --signal=KILL --kill-who=main farshore-runner.service", &[])?;
    let wanted = "farshore-apps active 0\nfarshore-runner active 1\nfarshore-agent active 0\n";
    let back = tools::wait_until(Duration::from_secs(10), || {
        seen = machine.script(STATES, &[])?;
        Ok(seen == wanted)
    })?;
    if !back {
        bail!("after the runner was killed the units should be\n{wanted}but are\n{seen}");
    }
    machine.script("systemctl restart farshore-runner.service farshore-agent.service", &[])?;
    machine.script("systemctl kill --signal=KILL --kill-who=main farshore-apps.service", &[])?;
    let apps = machine.script(APPS, &[])?;
    if apps != app {
        bail!("an app should have lived on as process {app}but its group has: {apps}");
    }
    eprintln!("the runner and the keeper of the apps' group were killed, and the app went on");

    machine.script("systemctl stop farshore-apps.service", &[])?;
    let state = machine.script("systemctl is-active farshore-runner.service || true", &[])?;
    let apps = machine.script(APPS, &[])?;
    if state != "inactive\n" || !apps.is_empty() {
        bail!("after farshore-apps was stopped, the runner is {state}and the group has: {apps}");
    }
    eprintln!("stopping farshore-apps.service stopped the app and the runner");
    machine.script("systemctl start farshore-agent.service farshore-runner.service", &[])?;
    Ok(())
}

/// The cargo setting by which each test process is started through `xtask in-machine`.
fn runner_setting(machine: &Machine, unit: &str) -> Result<String> {
    let program = tools::this_program()?;
    let version = tools::output(Command::new("rustc").arg("-vV"))?;
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let leader = machine.leader().to_string();
    let unit =
        if unit == NO_UNIT { PathBuf::from(unit) } else { tools::root().join("deploy/systemd").join(unit) };
    let words = [
        program.to_string_lossy(),
        "in-machine".into(),
        "--leader".into(),
        leader.into(),
        "--unit".into(),
        unit.to_string_lossy(),
        "--".into(),
    ];
    // A JSON list of strings is a TOML list of strings.
    Ok(format!("target.{host}.runner={}", serde_json::to_string(&words).context("no runner setting")?))
}

#[derive(Debug, clap::Args)]
pub(crate) struct InMachine {
    /// The machine's first process
    #[arg(long)]
    leader: u32,
    /// The unit file whose sandbox to use
    #[arg(long)]
    unit: PathBuf,
    /// Program and arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs one command inside, under the unit's sandbox, and ends as it ends.
pub(crate) fn in_machine(arguments: &InMachine) -> ExitCode {
    let status = in_machine_command(arguments).and_then(|mut command| command.status().context("nsenter"));
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask in-machine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn in_machine_command(arguments: &InMachine) -> Result<Command> {
    let unit = if arguments.unit == Path::new(NO_UNIT) {
        String::new()
    } else {
        std::fs::read_to_string(&arguments.unit)
            .with_context(|| format!("cannot read {}", arguments.unit.display()))?
    };
    let here = std::env::current_dir().context("cannot find the working folder")?;
    let mut command = machine::enter(arguments.leader);
    command.args(["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]);
    command.arg(format!("--working-directory={}", here.display()));
    command.arg(format!("--property=RuntimeMaxSec={LONGEST_TEST}"));
    for (key, value) in unit_file::sandbox(&unit) {
        command.arg(format!("--property={key}={}", opened_for_tests(&key, value)));
    }
    // The test programs lie in the repository, which the sandbox may hide.
    for folder in [tools::root(), &tools::target()] {
        command.arg(format!("--property=BindReadOnlyPaths={}", folder.display()));
    }
    for (name, value) in std::env::vars_os() {
        if is_for_tests(&name.to_string_lossy()) {
            let mut setting = OsString::from("--setenv=");
            setting.push(&name);
            setting.push("=");
            setting.push(&value);
            command.arg(setting);
        }
    }
    // Where the runner's tests make control groups: in what is delegated to the apps.
    command.arg("--setenv=FARSHORE_TEST_CGROUP=farshore.slice/farshore-apps.service");
    // Here is a systemd that tests may play with.
    command.arg("--setenv=FARSHORE_TEST_SYSTEMD=1");
    command.arg("--").args(&arguments.command);
    Ok(command)
}

/// `ProtectHome=yes` makes /home and /root inaccessible without exception; where the repository lies in there, `tmpfs`
/// hides the same and allows the one hole that the tests need.
fn opened_for_tests(key: &str, value: String) -> String {
    let hidden =
        ["/home", "/root", "/run/user"].iter().any(|home| tools::root().starts_with(Path::new(home)));
    if key == "ProtectHome" && hidden { "tmpfs".into() } else { value }
}

/// The part of the environment that a test may look at. systemd refuses names with other characters than these, such
/// as cargo's own `CARGO_BIN_EXE_my-program`.
fn is_for_tests(name: &str) -> bool {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return false;
    }
    ["CARGO_", "NEXTEST", "FARSHORE_TEST_", "RUST_", "PROPTEST_", "INSTA_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
