//! `cargo xtask test vm`: what only a whole kernel of its own shows, in a virtual machine that QEMU emulates: limits of units and apps that
//! control groups of version 2 enforce. The machine with systemd of `cargo xtask test units` shares this machine's control groups, which it may not write.
//!
//! Not part of CI: it downloads some 300 MB once (QEMU, where it is not installed, and Debian with its kernel), into the target folder, and an emulated
//! processor is slow. It needs root, debootstrap and mkfs.ext4; nothing of this machine is changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{self, Step};

/// What is in the machine besides a minimal Debian.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,linux-image-cloud-amd64";
const SUITE: &str = "bookworm";
/// Each test program of the agent and which of its tests run; what they start lies at the same places as here.
const TESTS: [(&str, &str); 2] = [
    ("conformance", "systemd::"),
    ("device", "runner::limits_are_enforced_where_control_groups_are_writable"),
];
/// From power on until everything ran, in seconds. The emulated processor is some twenty times slower than this one.
const LONGEST: &str = "900";
const PASSED: &str = "farshore-vm: everything passed";

/// The machine's only task. What it says goes to the console; then it switches itself off.
const UNIT: &str = "[Unit]
Description=Tests
After=basic.target dbus.service

[Service]
Type=oneshot
ExecStart=/bin/sh /farshore-tests
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStopPost=/bin/systemctl poweroff --force

[Install]
WantedBy=multi-user.target
";

pub(crate) fn run() -> Result<Step> {
    if !tools::is_root() {
        return Ok(Step::Skipped("it needs root; type: sudo -E cargo xtask test vm".into()));
    }
    for (program, package) in [("debootstrap", "debootstrap"), ("mkfs.ext4", "e2fsprogs")] {
        if tools::which(program).is_none() {
            return Ok(Step::Skipped(format!("{program} is missing; type: sudo apt-get install {package}")));
        }
    }
    let kept = tools::target().join("tools/vm");
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let qemu = qemu(&kept)?;
    let debian = debian(&kept)?;
    let programs = programs()?;
    let work = tempfile::Builder::new().prefix("farshore-vm-").tempdir_in(&kept).context("no folder")?;
    let image = image(&debian, &programs, work.path())?;
    let mut command = qemu.command();
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1536", "-smp", "2"]);
    command.args(["-nographic", "-no-reboot", "-nic", "none", "-append"]);
    command.arg("root=/dev/vda rw console=ttyS0 psi=1 quiet systemd.mask=serial-getty@ttyS0.service");
    command.arg("-kernel").arg(boot(&debian, "vmlinuz-")?).arg("-initrd").arg(boot(&debian, "initrd.img-")?);
    command.arg("-drive").arg(format!("file={},if=virtio,format=raw", image.display()));
    eprintln!("$ {}", tools::shown(&command));
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start QEMU")?;
    let console = String::from_utf8_lossy(&done.stdout);
    println!("{console}");
    ensure!(console.contains(PASSED), "the tests in the machine did not pass (its console is above)");
    Ok(Step::Done)
}

/// A QEMU, installed or unpacked from Debian's packages.
struct Qemu {
    /// Where it was unpacked.
    unpacked: Option<PathBuf>,
}

impl Qemu {
    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", LONGEST]);
        let Some(root) = &self.unpacked else {
            command.arg("qemu-system-x86_64");
            return command;
        };
        let under = |path: &str| root.join(path);
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|path| under(path).display().to_string());
        command.env("LD_LIBRARY_PATH", libraries.join(":")).arg(under("usr/bin/qemu-system-x86_64"));
        command.arg("-L").arg(under("usr/share/qemu")).arg("-L").arg(under("usr/share/seabios"));
        command
    }
}

fn qemu(kept: &Path) -> Result<Qemu> {
    if tools::which("qemu-system-x86_64").is_some() {
        return Ok(Qemu { unpacked: None });
    }
    let root = kept.join("qemu");
    if !root.exists() {
        // Unpacked, because to install it can take away another QEMU's tools.
        let plan = tools::output(Command::new("apt-get").args([
            "-s",
            "install",
            "--no-install-recommends",
            "qemu-system-x86",
        ]))?;
        let packages = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
        unpack(&packages.collect::<Vec<_>>(), kept, &root)?;
    }
    Ok(Qemu { unpacked: Some(root) })
}

/// Downloads Debian packages and unpacks them into a folder, which is there when all of them are.
fn unpack(packages: &[&str], kept: &Path, root: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(kept).context("no folder")?;
    // apt fetches as a user of its own where it can.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o777)).context("cannot open the folder")?;
    tools::run(Command::new("apt-get").args(["-q", "download"]).args(packages).current_dir(work.path()))?;
    let into = work.path().join("root");
    for entry in fs::read_dir(work.path()).context("cannot list the packages")? {
        let package = entry.context("cannot list the packages")?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            let done = Command::new("dpkg").arg("-x").args([&package, &into]).status();
            ensure!(done.context("cannot start dpkg")?.success(), "cannot unpack {}", package.display());
        }
    }
    fs::rename(&into, root).with_context(|| format!("cannot keep {}", root.display()))
}

/// A Debian with its kernel in a folder.
fn debian(kept: &Path) -> Result<PathBuf> {
    let root = kept.join(SUITE);
    if !root.exists() {
        let work = tempfile::tempdir_in(kept).context("no folder")?;
        let made = work.path().join("root");
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]).arg(&made);
        tools::run(&mut command)?;
        fs::rename(&made, &root).with_context(|| format!("cannot keep {}", root.display()))?;
    }
    Ok(root)
}

fn boot(debian: &Path, prefix: &str) -> Result<PathBuf> {
    let folder = debian.join("boot");
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.context("cannot list a folder")?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
            return Ok(path);
        }
    }
    bail!("{} has no {prefix}", folder.display())
}

/// The agent, and its test programs with their tests.
fn programs() -> Result<Vec<(PathBuf, Option<&'static str>)>> {
    let agent = tools::build_programs(false)?.join("farshore-agent");
    let listed = tools::output(&mut tools::cargo(
        &[
            &["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"][..],
            &tools::PROGRAMS,
        ]
        .concat(),
    ))?;
    let mut programs = vec![(agent, None)];
    for line in listed.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo wrote no JSON")?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let found = TESTS.iter().find(|(test, _)| *test == name && message["target"]["kind"][0] == "test");
        if let (Some((_, filter)), Some(file)) = (found, message["executable"].as_str()) {
            programs.push((file.into(), Some(*filter)));
        }
    }
    ensure!(programs.len() == TESTS.len() + 1, "cargo built {} of the test programs", programs.len() - 1);
    Ok(programs)
}

/// A disk with Debian and the programs, without their symbols.
fn image(debian: &Path, programs: &[(PathBuf, Option<&'static str>)], work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    tools::run(Command::new("cp").args(["-a", "--reflink=auto"]).args([debian, &root]))?;
    let mut script = "mount -t tmpfs tmpfs /tmp\nexport FARSHORE_TEST_SYSTEMD=1\nfailed=0\n".to_owned();
    for (program, tests) in programs {
        let inside = root.join(program.strip_prefix("/").unwrap_or(program));
        fs::create_dir_all(inside.parent().context("a program without a folder")?)
            .context("cannot make a folder")?;
        tools::run(Command::new("strip").arg("-o").args([&inside, program]))?;
        if let Some(tests) = tests {
            script += &format!("{} --test-threads=1 {tests} || failed=1\n", program.display());
        }
    }
    script += &format!("[ $failed = 0 ] && echo '{PASSED}'\n");
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("farshore-tests", &script)?;
    put("etc/systemd/system/farshore-tests.service", UNIT)?;
    put("etc/fstab", "")?;
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).context("cannot make a folder")?;
    std::os::unix::fs::symlink("../farshore-tests.service", wants.join("farshore-tests.service"))
        .context("cannot enable the tests")?;
    let image = work.join("disk");
    let mut make = Command::new("mkfs.ext4");
    tools::run(make.args(["-q", "-d"]).arg(&root).arg(&image).arg("2G"))?;
    fs::remove_dir_all(&root).context("cannot remove the folder that the disk was made from")?;
    Ok(image)
}
