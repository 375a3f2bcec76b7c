//! `cargo xtask test units`: the agent's package is put on a machine with systemd, its units come up there, and the agent's own tests pass
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

use super::installed::{Device, Packages};
use super::machine::{self, Machine};
use super::{runner, unit_file};
use crate::tools::{self, Step};

/// Tests that run under the sandbox of a unit.
#[derive(Debug)]
struct Suite {
    /// The unit's file, then its drop-ins; none for tests that run under no unit.
    files: &'static [&'static str],
    /// As nextest takes it.
    filter: &'static str,
    /// What the tests may rely on, for those that would otherwise see for themselves.
    given: &'static [(&'static str, &'static str)],
}

/// What starts apps (modules `runner` and `line`) runs under the runner's unit, all the rest under the agent's. The hostile and the conformance suites start both
/// and compile programs, and `incidents`, `operations`, `policy` and `slots` start apps and a control plane of their own: they run outside, and so does the gateway,
/// which is another role.
const SUITES: &[Suite] = &[
    Suite {
        files: &["farshore-agent.service"],
        filter: "package(farshore-agent) - binary(hostile) - binary(conformance) - binary(gateway) - test(/^(runner|line|incidents|policy|operations|slots)::/)",
        given: &[],
    },
    Suite {
        files: &["farshore-runner.service"],
        filter: "package(farshore-agent) & (test(/^(runner|line)::/) | binary(conformance) & test(=isolation::without_a_network_it_reaches_nobody))",
        given: &[("FARSHORE_TEST_ISOLATION", "no")],
    },
    Suite {
        files: &["farshore-runner.service", "farshore-runner-isolation.conf"],
        filter: "package(farshore-agent) & binary(conformance) & test(/^isolation::/) - test(/hangs|starts_slowly|full_disk/)",
        given: &[("FARSHORE_TEST_ISOLATION", "yes")],
    },
    // Apps that are units themselves, without a sandbox around the test.
    Suite {
        files: &[],
        filter: "package(farshore-agent) & binary(conformance) & test(/^systemd::/)",
        given: &[],
    },
];

impl Suite {
    fn name(&self) -> String {
        if self.files.is_empty() { "no unit".to_owned() } else { self.files.join(" with ") }
    }
}

/// Longest time for one test process in the machine, in seconds; nextest's own limit strikes before.
const LONGEST_TEST: u32 = 600;

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
    let packages = Packages::make(&programs.join("farshore-agent"))?;
    let device = Device { machine: &machine, packages: &packages, farshore: programs.join("farshore") };
    device.install(&packages.now)?;
    device.lies_still()?;
    waits_for_a_token(&machine)?;
    device.is_claimed_by_the_line()?;
    units_stay_up(&machine)?;
    device.has_its_app()?;
    device.hears_of_stalls()?;
    device.keeps_apps_apart_with_the_drop_in()?;
    device.is_updated()?;
    device.is_removed_and_purged()?;
    // For the tests: the user, and the group in which apps are.
    device.install(&packages.now)?;
    machine.script("systemctl start farshore-runner.service", &[])?;
    let mut failed = Vec::new();
    for suite in SUITES {
        eprintln!("\n-- the agent's tests under {}", suite.name());
        // The same packages as the programs, so that nothing is built twice.
        let mut command = runner(&tools::PROGRAMS);
        command.args(["-E", suite.filter, "--no-tests=fail", "--no-fail-fast"]);
        command.envs(suite.given.iter().copied());
        let outcome = tools::run(command.args(["--config", &runner_setting(&machine, suite)?]));
        failed.extend(outcome.err().map(|_| suite.name()));
    }
    if failed.is_empty() { Ok(Step::Done) } else { bail!("tests failed under {}", failed.join(" and ")) }
}

/// On a device that is not claimed and has no token, there is nothing to do.
fn waits_for_a_token(machine: &Machine) -> Result<()> {
    let unclaimed = machine
        .script("systemctl start farshore-agent.service; systemctl is-active farshore-agent || true", &[])?;
    if unclaimed != "inactive\n" {
        bail!(
            "on a device that is not claimed and has no token, farshore-agent should not start, but is {unclaimed}"
        );
    }
    Ok(())
}

/// Looks at the units of a claimed device for a while: each must be active and not have restarted. Then kills what may be killed without an app
/// noticing, and at last stops the apps.
fn units_stay_up(machine: &Machine) -> Result<()> {
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
fn runner_setting(machine: &Machine, suite: &Suite) -> Result<String> {
    let program = tools::this_program()?;
    let version = tools::output(Command::new("rustc").arg("-vV"))?;
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let leader = machine.leader().to_string();
    let mut words = vec![program.display().to_string(), "in-machine".into(), "--leader".into(), leader];
    for file in suite.files {
        words.push("--unit".into());
        words.push(tools::root().join("deploy/systemd").join(file).display().to_string());
    }
    words.push("--".into());
    // A JSON list of strings is a TOML list of strings.
    Ok(format!("target.{host}.runner={}", serde_json::to_string(&words).context("no runner setting")?))
}

#[derive(Debug, clap::Args)]
pub(crate) struct InMachine {
    /// The machine's first process
    #[arg(long)]
    leader: u32,
    /// The unit file whose sandbox to use, and its drop-ins; none for no sandbox
    #[arg(long = "unit")]
    units: Vec<PathBuf>,
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
    let mut files = Vec::new();
    for file in &arguments.units {
        let text = std::fs::read_to_string(file);
        files.push(text.with_context(|| format!("cannot read {}", file.display()))?);
    }
    let here = std::env::current_dir().context("cannot find the working folder")?;
    let mut command = machine::enter(arguments.leader);
    command.args(["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec"]);
    command.arg(format!("--working-directory={}", here.display()));
    command.arg(format!("--property=RuntimeMaxSec={LONGEST_TEST}"));
    for (key, value) in unit_file::sandbox(files.iter().map(String::as_str)) {
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
