//! A small disk of a runner's own, which only the runner sees, to be filled and cleared.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// For `sh -c`: mounts one over the folder that is the first argument, and becomes the program that the others are.
pub(crate) fn mounted(bytes: u64) -> String {
    format!("mount -t tmpfs -o size={bytes} small \"$1\"; shift; exec \"$@\"")
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
