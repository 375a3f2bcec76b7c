//! The world around one agent that a chaos run may break: its network, its disk, its clock, the processor.
//!
//! Everything lies in namespaces of its own, so that nothing of the machine is touched and nothing is left: the bench begins again in a network
//! and a mount namespace ([`enter`]), the agent lives in a second network namespace at the other end of a cable, on a small disk in memory. Its
//! clock is the machine's, moved by libfaketime.

use std::convert::Infallible;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Says that this process is in namespaces of its own already.
const INSIDE: &str = "FARSHORE_CHAOS_INSIDE";
/// The agent's network namespace, and the two ends of the cable: here, and there.
const SITE: &str = "site";
const HERE: &str = "plane0";
const THERE: &str = "site0";
pub(super) const PLANE: &str = "10.77.0.1";
const AGENT: &str = "10.77.0.2";
/// A neighbour that does not exist: what is sent to it is lost without a word.
const NOBODY: &str = "02:00:00:00:de:ad";
/// The clocks of `run` and runner, and of the gateway.
pub(super) const AGENT_CLOCK: &str = "agent";
pub(super) const GATEWAY_CLOCK: &str = "gateway";
/// The agent's disk. Some releases of a few megabytes, the journals, and not much more.
const DISK: &str = "size=96m,nr_inodes=6000";

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("{program} can't be started"))?;
    if !done.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    run("ip", &line.split(' ').collect::<Vec<_>>())
}

/// libfaketime, as Debian's package `faketime` brings it.
pub(super) fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let file = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    folders.chain([PathBuf::from("/usr/lib")]).map(file).find(|path| path.exists())
}

/// Begins again in namespaces of its own; returns when this is that second beginning.
pub(super) fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("only root may take networks, disks and clocks away");
    }
    if faketime().is_none() {
        bail!("libfaketime is not installed: apt-get install faketime");
    }
    let program = std::env::current_exe().context("this program is not found")?;
    let failed: Result<Infallible> = Err(Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec())
    .context("unshare can't be started");
    failed.map(|never| match never {})
}

/// What may be wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The agent's interface is down.
    Partition,
    /// The cable loses everything both ways, without a word.
    Silence,
    /// What the agent sends is lost; it hears.
    Unheard,
    /// What is sent to the agent is lost; it is heard.
    Deaf,
    /// Not one byte is left on its disk.
    DiskFull,
    /// Not one file more can be made.
    NoInodes,
    /// Its clock is elsewhere.
    Clock(&'static str),
    /// More work than processors.
    Pressure,
    /// Processes that begin and end, as fast as they can.
    Storm,
}

/// One of each kind.
pub(super) const CONDITIONS: [Condition; 9] = [
    Condition::Partition,
    Condition::Silence,
    Condition::Unheard,
    Condition::Deaf,
    Condition::DiskFull,
    Condition::NoInodes,
    Condition::Clock(CLOCKS[0]),
    Condition::Pressure,
    Condition::Storm,
];
/// Where clocks jump to: a wrong zone, far ahead, and where a device without a battery begins.
pub(super) const CLOCKS: [&str; 4] = ["+2h", "-2h", "+40d", LONG_AGO];
const LONG_AGO: &str = "-20000d";
/// The gateway stamps readings, which the control plane keeps for thirty days: its clock goes back less far.
const LATELY: &str = "-25d";

impl Condition {
    /// Its name among the figures.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Silence => "silence",
            Self::Unheard => "unheard",
            Self::Deaf => "deaf",
            Self::DiskFull => "disk_full",
            Self::NoInodes => "no_inodes",
            Self::Clock(_) => "clock",
            Self::Pressure => "pressure",
            Self::Storm => "storm",
        }
    }
}

/// The world of one agent.
#[derive(Debug)]
pub(super) struct World {
    root: PathBuf,
    /// What makes pressure or a storm now.
    workers: Vec<Child>,
    mounted: bool,
}

impl World {
    /// Lays the cable and mounts the disk.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let mut world = Self { root: root.to_owned(), workers: Vec::new(), mounted: false };
        fs::create_dir_all(world.home()).context("no folder")?;
        // Names of namespaces and what libfaketime leaves behind stay in here, too.
        for folder in ["/run/netns", "/dev/shm"] {
            fs::create_dir_all(folder).with_context(|| format!("no {folder}"))?;
            run("mount", &["-t", "tmpfs", "tmpfs", folder])?;
        }
        let home = world.home().display().to_string();
        run("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs", &home])?;
        world.mounted = true;
        world.set_clock("+0")?;
        ip("link set lo up")?;
        ip(&format!("netns add {SITE}"))?;
        ip(&format!("link add {HERE} type veth peer name {THERE} netns {SITE}"))?;
        ip(&format!("addr add {PLANE}/24 dev {HERE}"))?;
        ip(&format!("link set {HERE} up"))?;
        ip(&format!("-n {SITE} addr add {AGENT}/24 dev {THERE}"))?;
        ip(&format!("-n {SITE} link set {THERE} up"))?;
        ip(&format!("-n {SITE} link set lo up"))?;
        Ok(world)
    }

    /// The agent's folder, on its own disk.
    pub(super) fn home(&self) -> PathBuf {
        self.root.join("device")
    }

    fn clock(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.clock"))
    }

    /// What starts a program at the agent's end of the cable.
    pub(super) fn wrap() -> Vec<String> {
        ["ip", "netns", "exec", SITE].map(str::to_owned).to_vec()
    }

    /// What gives a program the agent's clock. Only the wall clock: no time is lost on a monotonic one.
    pub(super) fn env(&self, name: &str) -> Vec<(String, String)> {
        let library = faketime().unwrap_or_default().display().to_string();
        let pair = |name: &str, value: String| (name.to_owned(), value);
        vec![
            pair("LD_PRELOAD", library),
            pair("FAKETIME_TIMESTAMP_FILE", self.clock(name).display().to_string()),
            pair("FAKETIME_NO_CACHE", "1".to_owned()),
            pair("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            pair("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// From now on this is wrong.
    pub(super) fn begin(&mut self, condition: Condition) -> Result<()> {
        match condition {
            Condition::Partition => ip(&format!("-n {SITE} link set {THERE} down")),
            Condition::Silence => {
                self.begin(Condition::Unheard)?;
                self.begin(Condition::Deaf)
            }
            Condition::Unheard => {
                ip(&format!("-n {SITE} neigh replace {PLANE} lladdr {NOBODY} dev {THERE} nud permanent"))
            }
            Condition::Deaf => ip(&format!("neigh replace {AGENT} lladdr {NOBODY} dev {HERE} nud permanent")),
            Condition::DiskFull => fill(&self.home().join("filler")),
            Condition::NoInodes => fill_inodes(&self.home().join("fillers")),
            Condition::Clock(by) => self.set_clock(by),
            Condition::Pressure => self.work("while :; do :; done", 6),
            // Each `(exit 3)` is a process of its own.
            Condition::Storm => self.work("while :; do (exit 3); done", 2),
        }
    }

    /// It is not wrong any more.
    pub(super) fn end(&mut self, condition: Condition) -> Result<()> {
        match condition {
            Condition::Partition => ip(&format!("-n {SITE} link set {THERE} up")),
            Condition::Silence => {
                self.end(Condition::Unheard)?;
                self.end(Condition::Deaf)
            }
            Condition::Unheard => ip(&format!("-n {SITE} neigh del {PLANE} dev {THERE}")),
            Condition::Deaf => ip(&format!("neigh del {AGENT} dev {HERE}")),
            Condition::DiskFull => fs::remove_file(self.home().join("filler")).context("the disk stays full"),
            Condition::NoInodes => {
                fs::remove_dir_all(self.home().join("fillers")).context("the disk stays full")
            }
            Condition::Clock(_) => self.set_clock("+0"),
            Condition::Pressure | Condition::Storm => {
                for mut worker in self.workers.drain(..) {
                    worker.kill().context("a worker can't be ended")?;
                    worker.wait().context("a worker can't be waited for")?;
                }
                Ok(())
            }
        }
    }

    /// By one rename each: nobody reads half a time.
    fn set_clock(&self, to: &str) -> Result<()> {
        let gateway = if to == LONG_AGO { LATELY } else { to };
        for (name, to) in [(AGENT_CLOCK, to), (GATEWAY_CLOCK, gateway)] {
            let beside = self.root.join("clock.next");
            fs::write(&beside, to)
                .and_then(|()| fs::rename(&beside, self.clock(name)))
                .context("the clock can't be set")?;
        }
        Ok(())
    }

    fn work(&mut self, script: &str, times: usize) -> Result<()> {
        for _ in 0..times {
            let worker = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn();
            self.workers.push(worker.context("a worker can't be started")?);
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // Gone already is as good.
            _ = worker.kill();
            _ = worker.wait();
        }
        if self.mounted {
            // Lazily: what is left of the agent may be there still. The namespace ends with this process anyway.
            _ = Command::new("umount").arg("-l").arg(self.home()).status();
        }
    }
}

/// Writes until nothing more fits.
fn fill(path: &Path) -> Result<()> {
    let mut file = fs::File::create(path).context("the disk can't be filled")?;
    let mut piece = vec![0x5a; 256 * 1024];
    loop {
        match file.write(&piece) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                if piece.len() == 1 {
                    return Ok(());
                }
                piece.truncate(piece.len() / 2);
            }
            Err(error) => return Err(error).context("the disk can't be filled"),
        }
    }
}

/// Makes files until no more can be made.
fn fill_inodes(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).context("the disk can't be filled")?;
    for number in 0..u32::MAX {
        match fs::File::create(folder.join(number.to_string())) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error).context("the disk can't be filled"),
        }
    }
    bail!("the disk never gets full")
}
