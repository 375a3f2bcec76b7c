//! The compiler for the other processor: Debian's, fetched by apt with its signatures checked, unpacked into `target/tools/cross` and installed nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{EMULATOR, TARGET};
use crate::tools;

/// Compiler, and standard library for both processors. The names hold the versions that Debian 12 has.
const PACKAGES: [&str; 6] = [
    "rustc-web",
    "libstd-rust-web-dev",
    "libstd-rust-web-1.96",
    "libllvm22",
    "libstd-rust-web-dev:arm64",
    "libstd-rust-web-1.96:arm64",
];

/// A compiler that works.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// Runs the unpacked compiler with its own libraries.
    rustc: PathBuf,
}

impl Toolchain {
    /// Fetches it, if it is not there.
    ///
    /// # Errors
    /// When a download fails or it does not run.
    pub(super) fn ready() -> Result<Self> {
        let folder = tools::target().join("tools/cross");
        let rustc = folder.join("rustc");
        let unpacked = folder.join("root");
        if !rustc.is_file() {
            fetch(&folder, &unpacked)?;
            // Last, because it says that all is there.
            let script = format!(
                "#!/bin/sh\nexec env LD_LIBRARY_PATH='{root}/usr/lib/x86_64-linux-gnu' '{root}/usr/bin/rustc' \"$@\"\n",
                root = unpacked.display()
            );
            let fresh = folder.join("rustc.new");
            let what = "cannot write the compiler's script";
            fs::write(&fresh, script).context(what)?;
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).context(what)?;
            fs::rename(&fresh, &rustc).context(what)?;
        }
        eprint!("{}", tools::output(Command::new(&rustc).arg("--version"))?);
        Ok(Self { rustc })
    }

    /// Where what it builds lies.
    #[expect(clippy::unused_self, reason = "nothing lies there without a compiler")]
    pub(super) fn target(&self) -> PathBuf {
        tools::target().join("cross")
    }

    /// A cargo command that builds for, and runs what it built as, the other processor.
    pub(super) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = tools::cargo(arguments);
        command
            .args(["--target", TARGET])
            .env("CARGO_TARGET_DIR", self.target())
            .env("RUSTC", &self.rustc)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
            .env("CC_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-gcc")
            .env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", EMULATOR.join(" "));
        command
    }
}

fn fetch(folder: &Path, unpacked: &Path) -> Result<()> {
    let (lists, cache, debs) = (folder.join("apt/lists"), folder.join("apt/cache"), folder.join("debs"));
    for made in [&lists.join("partial"), &cache.join("archives/partial"), &debs] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    // Lists of its own, so that this machine's apt does not learn of another processor.
    let apt = || {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "APT::Architectures::=amd64", "-o", "APT::Architectures::=arm64"]);
        command.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        command.arg("-o").arg(format!("Dir::Cache={}", cache.display()));
        command.current_dir(&debs);
        command
    };
    tools::run(apt().arg("update"))?;
    tools::run(apt().arg("download").args(PACKAGES)).context(
        "the compiler can't be fetched; these are packages of Debian 12 with its security updates",
    )?;
    let mut found = 0;
    for entry in fs::read_dir(&debs).context("cannot list the packages")? {
        let deb = entry.context("cannot list the packages")?.path();
        tools::run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(unpacked))?;
        found += 1;
    }
    ensure!(found >= PACKAGES.len(), "apt-get has fetched {found} packages only");
    fs::remove_dir_all(&debs).context("cannot remove the packages")
}
