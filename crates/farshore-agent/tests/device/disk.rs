//! Small disks to be filled and cleared: one of a runner's own, which only the runner sees, and one that everybody sees.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// For `sh -c`: mounts one over the folder that is the first argument, and becomes the program that the others are.
pub(crate) fn mounted(bytes: u64) -> String {
    format!("mount -t tmpfs -o size={bytes} small \"$1\"; shift; exec \"$@\"")
}

/// A program that mounts for everybody. In a machine with systemd a test has a view of its own, in which its systemd would see nothing of it.
fn for_all(program: &str) -> Command {
    if std::env::var_os("FARSHORE_TEST_SYSTEMD").is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("nsenter");
    command.args(["--target", "1", "--mount", program]);
    command
}

/// One over a folder that everybody sees; gone with this.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn over(folder: &Path, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        let done = for_all("mount").args(["-t", "tmpfs", "-o", &size, "small"]).arg(folder).status();
        assert!(done.unwrap().success(), "no disk over {}", folder.display());
        Self(folder.to_path_buf())
    }

    pub(crate) fn filler(&self) -> Filler {
        Filler(self.0.join(".filler"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever still looks at it keeps it until then.
        drop(for_all("umount").args(["--lazy", "--quiet"]).arg(&self.0).status());
    }
}

/// What takes its place.
pub(crate) struct Filler(PathBuf);

impl Filler {
    /// As the disk of this runner's apps is seen from here.
    pub(crate) fn new(runner: u32, apps: &Path) -> Self {
        Self(PathBuf::from(format!("/proc/{runner}/root{}", apps.join(".filler").display())))
    }

    /// Writes until nothing more goes.
    pub(crate) fn fill(&self) {
        let mut file = File::create(&self.0).unwrap();
        for size in [1 << 16, 1] {
            let error = loop {
                if let Err(error) = file.write_all(&vec![1; size]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// So that this much is left.
    pub(crate) fn fill_but(&self, bytes: u64) {
        self.fill();
        let file = OpenOptions::new().write(true).open(&self.0).unwrap();
        file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
    }

    pub(crate) fn clear(&self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}
