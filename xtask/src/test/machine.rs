//! A machine with systemd as its first process: `systemd-nspawn` on an overlay of this machine's root file system.
//!
//! Nothing is downloaded and nothing of the host is changed: the upper layer lies in a tmpfs inside a mount namespace
//! that ends with the machine, and the machine's network is its own loopback. It needs root and the package
//! systemd-container; [`why_not`] says what is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::keeper::{self, Kept};
use crate::tools;

/// Time until systemd in the machine has started everything of its basic target.
const START: Duration = Duration::from_secs(60);

/// Run by `sh` in the new mount namespace: $1 is an empty folder, the rest are arguments for systemd-nspawn.
const SCRIPT: &str = r#"
work=$1; shift
mount -t tmpfs -o mode=0755,size=2g farshore-machine "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" farshore-machine "$work/root"
mkdir -p "$work/root/etc/systemd/system"
ln -sf /dev/null "$work/root/etc/systemd/system/tmp.mount"
exec systemd-nspawn --directory="$work/root" "$@"
"#;

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    leader: u32,
    _kept: Kept,
}

impl Machine {
    /// Starts a machine that ends with this process and sees `show` read-only at the same places.
    ///
    /// # Errors
    /// When it does not start; the end of its console has then been shown.
    pub(crate) fn start(show: &[PathBuf]) -> Result<Self> {
        let folders: Vec<String> = show.iter().map(|folder| format!("--show={}", folder.display())).collect();
        let mut what = vec!["machine"];
        what.extend(folders.iter().map(String::as_str));
        let kept = Kept::start(&what)?;
        let leader = kept.said.parse().context("the keeper said no process id")?;
        Ok(Self { leader, _kept: kept })
    }

    /// The id of the machine's first process, as this machine counts.
    pub(crate) fn leader(&self) -> u32 {
        self.leader
    }

    /// Runs a shell script as root inside, and returns what it wrote.
    ///
    /// # Errors
    /// When it fails; its stderr has been shown.
    pub(crate) fn script(&self, script: &str, arguments: &[&Path]) -> Result<String> {
        let mut command = enter(self.leader);
        command.args(["sh", "-eu", "-c", script, "sh"]).args(arguments);
        let output =
            command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start nsenter")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("a script in the machine ended with {}:\n{text}", output.status);
        }
        Ok(text)
    }
}

/// A command that will run inside the machine; its program and arguments are to be added.
pub(crate) fn enter(leader: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--target={leader}"));
    command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
    command
}

/// Why no machine can be started here, if so.
pub(crate) fn why_not() -> Option<String> {
    if !tools::is_root() {
        return Some("it needs root; type: sudo -E cargo xtask test units".into());
    }
    if tools::which("systemd-nspawn").is_none() {
        return Some("systemd-nspawn is missing; type: sudo apt-get install systemd-container".into());
    }
    for program in ["unshare", "nsenter", "setpriv"] {
        if tools::which(program).is_none() {
            return Some(format!("{program} is missing; type: sudo apt-get install util-linux"));
        }
    }
    let namespace = Command::new("unshare")
        .args(["--mount", "--propagation=private", "mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !namespace.is_ok_and(|status| status.success()) {
        return Some("this process may not mount file systems (a container without CAP_SYS_ADMIN?)".into());
    }
    None
}

/// The keeper's part: starts the machine, says its first process, ends it when the owner has gone.
pub(crate) fn keep(show: &[PathBuf]) -> Result<()> {
    let folder =
        tempfile::Builder::new().prefix("farshore-machine-").tempdir().context("no temporary folder")?;
    let groups = Groups::create()?;
    let log = folder.path().with_extension("log");
    let mut nspawn = spawn(folder.path(), &log, show, &groups)?;
    let waited = match wait_until_started(&mut nspawn) {
        Ok(leader) => keeper::say_and_wait(&leader.to_string()),
        Err(error) => {
            let console = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = console.lines().collect();
            let end = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n");
            Err(error.context(format!("the machine does not start; the end of its console:\n{end}")))
        }
    };
    end(&mut nspawn)?;
    groups.remove()?;
    fs::remove_file(&log).context("cannot remove the console's log")?;
    folder.close().context("cannot remove the temporary folder")?;
    waited
}

fn spawn(folder: &Path, log: &Path, show: &[PathBuf], groups: &Groups) -> Result<Child> {
    let console = fs::File::create(log).context("cannot write the console's log")?;
    // setpriv: should this keeper be killed, nspawn is told to shut the machine down.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig=TERM", "sh", "-eu", "-c"])
        .arg("for group in $GROUPS_TO_JOIN; do echo $$ > \"$group/cgroup.procs\"; done; exec unshare --mount --propagation=private sh -eu -c \"$@\"")
        .args(["sh", SCRIPT, "sh"])
        .arg(folder)
        .arg(format!("--machine=farshore-{}", std::process::id()))
        .args(["--register=no", "--private-network", "--console=pipe", "--boot"])
        .env("GROUPS_TO_JOIN", groups.joined())
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .stdin(Stdio::null())
        .stdout(console.try_clone().context("no second handle")?)
        .stderr(console);
    if !groups.folders.is_empty() {
        command.arg("--keep-unit");
    }
    command.args(show.iter().map(|folder| format!("--bind-ro={}", folder.display())));
    command.args(["--", "--unit=basic.target"]);
    command.spawn().context("cannot start systemd-nspawn")
}

/// Ends the machine at once: its state is thrown away in any case. The first process goes first, because it outlives an
/// nspawn that is killed.
fn end(nspawn: &mut Child) -> Result<()> {
    if let Some(leader) = first_child(nspawn.id()) {
        let killed = Command::new("sh").args(["-c", "kill -KILL \"$1\"", "sh", &leader.to_string()]).status();
        if !killed.context("cannot start sh")?.success() {
            bail!("cannot end the machine's first process, {leader}");
        }
    }
    let ended = tools::wait_until(Duration::from_secs(10), || {
        Ok(nspawn.try_wait().context("cannot wait for the machine")?.is_some())
    })?;
    if !ended {
        nspawn.kill().context("cannot end systemd-nspawn")?;
        nspawn.wait().context("cannot wait for systemd-nspawn")?;
    }
    Ok(())
}

fn wait_until_started(nspawn: &mut Child) -> Result<u32> {
    let mut leader = None;
    let started = tools::wait_until(START, || {
        if let Some(status) = nspawn.try_wait().context("cannot wait for systemd-nspawn")? {
            bail!("systemd-nspawn ended with {status}");
        }
        leader = first_child(nspawn.id());
        Ok(leader.is_some_and(is_running))
    })?;
    match leader.filter(|_| started) {
        Some(leader) => Ok(leader),
        None => bail!("it was not ready after {} s", START.as_secs()),
    }
}

/// Whether systemd in there has reached its target. "degraded" means that some unit of the host's own failed, which
/// is none of our affair.
fn is_running(leader: u32) -> bool {
    let output = enter(leader).args(["systemctl", "is-system-running"]).stderr(Stdio::null()).output();
    output.is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"running" | b"degraded"))
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Control groups of its own for a machine on a host without systemd, where nspawn would otherwise put its groups into
/// the root and two machines would meet there. With systemd on the host, nspawn asks that for a scope.
#[derive(Debug)]
struct Groups {
    folders: Vec<PathBuf>,
}

impl Groups {
    fn create() -> Result<Self> {
        if Path::new("/run/systemd/system").is_dir() {
            return Ok(Self { folders: Vec::new() });
        }
        let name = format!("farshore-machine-{}", std::process::id());
        let mut folders = Vec::new();
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"] {
            if Path::new(mount).join("cgroup.procs").exists() {
                let folder = Path::new(mount).join(&name);
                fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
                folders.push(folder);
            }
        }
        Ok(Self { folders })
    }

    fn joined(&self) -> String {
        self.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    fn remove(&self) -> Result<()> {
        for folder in &self.folders {
            // The kernel lets a group go a moment after its last process.
            let gone = tools::wait_until(Duration::from_secs(10), || Ok(remove_groups(folder).is_ok()))?;
            if !gone {
                bail!("cannot remove the control group {}", folder.display());
            }
        }
        Ok(())
    }
}

/// Removes a control group and those below it, the lowest first.
fn remove_groups(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
