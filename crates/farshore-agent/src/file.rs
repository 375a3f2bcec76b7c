//! Files that are there in full or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes a file so that a power cut leaves the old content or the new one: temporary file, fsync, rename, fsync of the
/// folder.
///
/// # Errors
/// What the filesystem says; the old content is then still there.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = folder.join(temporary);
    // A leftover of a crash may have another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(folder)
}

/// Less than this is free for users other than root: a start could not write what it has to.
pub(crate) const ROOM_BYTES: u64 = 256 * 1024;
const ROOM_FILES: u64 = 16;

/// What is free on a disk for users other than root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    files: u64,
}

impl Room {
    /// On the disk where `path` is, or its folder; `None` where that can't be asked.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let asked = rustix::fs::statvfs(path).or_else(|error| match path.parent() {
            Some(folder) if error == rustix::io::Errno::NOENT => rustix::fs::statvfs(folder),
            _ => Err(error),
        });
        match asked {
            Ok(disk) => Some(Self {
                bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
                // Some file systems make their inodes as they go, and say that there are none.
                files: if disk.f_files == 0 { u64::MAX } else { disk.f_favail },
            }),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "it can't be asked how full the disk is");
                None
            }
        }
    }

    /// If so much more were free.
    pub(crate) fn with(self, bytes: u64, files: u64) -> Self {
        Self { bytes: self.bytes.saturating_add(bytes), files: self.files.saturating_add(files) }
    }

    /// Whether it is enough for a start.
    pub(crate) fn is_enough(self) -> bool {
        self.bytes >= ROOM_BYTES && self.files >= ROOM_FILES
    }
}

/// Whether there is room for a start on the disk where `path` is. What can't be asked does not count as full.
pub(crate) fn has_room(path: &Path) -> bool {
    Room::at(path).is_none_or(Room::is_enough)
}

/// Whether something failed because the disk, or somebody's share of it, is full.
pub(crate) fn found_no_room(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return true;
            }
            // What it was made from is not its source.
            next = io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
        } else {
            next = error.source();
        }
    }
    false
}

/// Makes renames and new names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads a file of at most `cap` bytes; `None` when there is none.
pub(crate) fn read_capped(path: &Path, cap: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is larger than it can be"));
    }
    Ok(Some(bytes))
}

/// Makes a folder with this mode, whatever the process's mask; missing folders above it get 0755. Fine when it is there.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        make_folder(parent, 0o755)?;
    }
    match fs::DirBuilder::new().mode(mode & 0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_however_deep_in_an_error_it_lies() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = crate::runner::RunnerError::Runtime {
            what: "starting it",
            source: crate::runner::RuntimeError::Io {
                what: "files".into(),
                source: io::Error::other(full()),
            },
        };
        assert!(found_no_room(&error) && found_no_room(&io::Error::from_raw_os_error(122)));
        assert!(!found_no_room(&io::Error::other("no space left on device")));
        let folder = tempfile::tempdir().unwrap();
        assert!(has_room(&folder.path().join("not/there")), "nothing is known of it");
    }
}
