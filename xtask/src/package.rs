//! `cargo xtask package`: the agent as a Debian package, with its units, and the digests that a control plane serves with it.
//!
//! Put together by `dpkg-deb`, which every machine that installs such a package has too.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::tools;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the package goes
    #[arg(long, default_value = "dist")]
    out: PathBuf,
    /// Debian's name of the processor: amd64 or arm64; this machine's own when left out
    #[arg(long, requires = "binary")]
    arch: Option<String>,
    /// Package this program instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What the package puts where: file in the repository, place on the device.
const FILES: [(&str, &str); 7] = [
    ("deploy/systemd/farshore-agent.service", "usr/lib/systemd/system/farshore-agent.service"),
    ("deploy/systemd/farshore-runner.service", "usr/lib/systemd/system/farshore-runner.service"),
    ("deploy/systemd/farshore-eyes.socket", "usr/lib/systemd/system/farshore-eyes.socket"),
    ("deploy/systemd/farshore-eyes@.service", "usr/lib/systemd/system/farshore-eyes@.service"),
    ("deploy/systemd/farshore-apps.service", "usr/lib/systemd/system/farshore-apps.service"),
    ("deploy/systemd/farshore-runner-isolation.conf", "usr/share/farshore/farshore-runner-isolation.conf"),
    ("deploy/systemd/farshore.sysusers.conf", "usr/lib/sysusers.d/farshore.conf"),
];

/// An update restarts the two roles; apps run on and are found again.
const POSTINST: &str = "#!/bin/sh
set -e
systemd-sysusers farshore.conf
install -d -m 0755 /etc/farshore
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart farshore-runner.service farshore-agent.service || true
fi
";
const PRERM: &str = "#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --quiet --now farshore-agent.service farshore-runner.service farshore-eyes.socket || true
    # Supervisors stay in the group of the runner's unit, and stop what they supervise, containers and units of apps included.
    for procs in /sys/fs/cgroup/system.slice/farshore-runner.service/cgroup.procs \
        /sys/fs/cgroup/unified/system.slice/farshore-runner.service/cgroup.procs \
        /sys/fs/cgroup/systemd/system.slice/farshore-runner.service/cgroup.procs; do
        [ -e \"$procs\" ] || continue
        while read -r pid; do kill -TERM \"$pid\" 2>/dev/null || true; done < \"$procs\" || true
        tries=0
        while grep -q . \"$procs\" 2>/dev/null && [ $tries -lt 60 ]; do
            sleep 1
            tries=$((tries + 1))
        done
    done
    systemctl disable --quiet --now farshore-apps.service || true
fi
";
/// `purge` forgets the device's identity, its apps and their data.
const POSTRM: &str = "#!/bin/sh
set -e
if [ \"$1\" = purge ]; then
    rm -rf /var/lib/farshore-agent /var/lib/farshore /etc/farshore /run/farshore
    rm -f /etc/systemd/system/farshore-runner.service.d/isolation.conf
    rmdir --ignore-fail-on-non-empty /etc/systemd/system/farshore-runner.service.d 2>/dev/null || true
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build()?,
    };
    let arch = match &arguments.arch {
        Some(arch) => arch.as_str(),
        None => own_arch()?,
    };
    let out = tools::root().join(&arguments.out);
    let package = make(&binary, arch, env!("CARGO_PKG_VERSION"), &out, Packing::Small)?;
    println!("{}", package.display());
    eprintln!("Devices can fetch it once it lies in the control plane's --agent-packages folder.");
    Ok(())
}

/// Debian's name of this machine's processor.
///
/// # Errors
/// When there is no package for it.
pub(crate) fn own_arch() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no package for {other}"),
    }
}

/// How a package is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    /// For devices.
    Small,
    /// For a test of this moment.
    Quick,
}

/// Puts the package of a program into a folder, and says where it is.
///
/// # Errors
/// When a file can't be read or `dpkg-deb` fails.
pub(crate) fn make(
    binary: &Path,
    arch: &str,
    version: &str,
    out: &Path,
    packing: Packing,
) -> Result<PathBuf> {
    ensure!(matches!(arch, "amd64" | "arm64"), "--arch is amd64 or arm64");
    let work = tempfile::tempdir().context("cannot make a folder")?;
    let root = work.path().join("root");
    let program = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let libc = newest_libc(&program).context("the program names no version of the C library")?;
    let unwinder = if names(&program, b"libgcc_s.so.1") { "libgcc-s1, " } else { "" };
    put(&root, "usr/bin/farshore-agent", &program, 0o755)?;
    for (from, to) in FILES {
        let bytes = fs::read(tools::root().join(from)).with_context(|| format!("cannot read {from}"))?;
        put(&root, to, &bytes, 0o644)?;
    }
    let licence = fs::read(tools::root().join("LICENSE")).context("cannot read LICENSE")?;
    put(&root, "usr/share/doc/farshore-agent/copyright", &licence, 0o644)?;
    let control = format!(
        "Package: farshore-agent\nVersion: {version}\nArchitecture: {arch}\nMaintainer: Farshore <agent@farshore.dev>\n\
         Section: admin\nPriority: optional\nDepends: libc6 (>= {libc}), {unwinder}systemd (>= 247)\nInstalled-Size: {}\n\
         Description: Farshore's agent\n Keeps this device what its control plane wants it to be, with or without a network.\n",
        program.len().div_ceil(1024)
    );
    put(&root, "DEBIAN/control", control.as_bytes(), 0o644)?;
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        put(&root, &format!("DEBIAN/{name}"), script.as_bytes(), 0o755)?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let package = out.join(format!("farshore-agent_{version}_{arch}.deb"));
    let packing: &[&str] = match packing {
        Packing::Small => &["-Zxz"],
        Packing::Quick => &["-Zgzip", "-z1"],
    };
    // What it says about it is nothing for whoever reads the path.
    let built = Command::new("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .args(packing)
        .args([&root, &package])
        .stdout(Stdio::null())
        .status()
        .context("cannot start dpkg-deb; it comes with Debian and its relatives")?;
    ensure!(built.success(), "dpkg-deb failed");
    Ok(package)
}

fn build() -> Result<PathBuf> {
    let built = tools::cargo(&["build", "--locked", "--profile", "agent", "-p", "farshore-agent"]).status();
    ensure!(built.context("cannot start cargo")?.success(), "the agent could not be built");
    Ok(tools::target().join("agent/farshore-agent"))
}

fn put(root: &Path, at: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let path = root.join(at);
    let what = || format!("cannot write {}", path.display());
    // dpkg-deb keeps the modes of folders, too: they are the same whatever the umask here is.
    let mut folder = root.to_owned();
    for part in Path::new(at).parent().into_iter().flat_map(Path::components) {
        folder.push(part);
        fs::create_dir_all(&folder).with_context(what)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).with_context(what)?;
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).with_context(what)?;
    fs::write(&path, bytes).with_context(what)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).with_context(what)
}

fn names(program: &[u8], library: &[u8]) -> bool {
    program.windows(library.len()).any(|window| window == library)
}

/// The newest version of glibc that a program asks for, from its symbol versions (`GLIBC_2.34`).
fn newest_libc(program: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"GLIBC_2.";
    let version = |at: usize| {
        let rest = program.get(at + MARK.len()..)?;
        let digits: Vec<u8> = rest.iter().copied().take(3).take_while(u8::is_ascii_digit).collect();
        String::from_utf8(digits).ok()?.parse::<u32>().ok()
    };
    let newest = program
        .windows(MARK.len())
        .enumerate()
        .filter(|(_, window)| *window == MARK)
        .filter_map(|(at, _)| version(at))
        .max()?;
    Some(format!("2.{newest}"))
}

#[cfg(test)]
mod tests {
    use super::newest_libc;

    #[test]
    fn the_newest_version_counts_and_a_patch_level_does_not() {
        assert_eq!(
            newest_libc(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE"),
            Some("2.34".to_owned())
        );
        assert_eq!(newest_libc(b"nothing"), None);
    }
}
