//! The file layer: what the journal asks of a filesystem, and the real one.
//!
//! Names are relative to the journal's folder. What is written is durable after [`AppendFile::sync`]; a new name, a
//! rename or a removal after [`Files::sync_folder`].

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What is taken ahead, at least and at most.
const LEAST_ROOM: u64 = 4 * 1024;
const MOST_ROOM: u64 = 128 * 1024;

/// A folder of files.
pub(crate) trait Files: Debug + Send + Sync {
    /// Makes a folder; fine when it is there.
    fn make_folder(&self, folder: &str) -> io::Result<()>;
    /// Names in a folder, with their lengths; folders are left out.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;
    /// Names of the folders in a folder.
    fn folders(&self, folder: &str) -> io::Result<Vec<String>>;
    /// A new, empty file for its owner only. A file of that name must not exist.
    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>>;
    /// All bytes of a file of at most `cap`.
    fn read(&self, name: &str, cap: u64) -> io::Result<Vec<u8>>;
    /// Puts a file in the place of another, at once.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; fine when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes new names, renames and removals in a folder durable.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
}

/// A file that grows at its end.
pub(crate) trait AppendFile: Debug + Send {
    /// From now on room is taken ahead of what is appended, so that a sync seldom has a new length to write. Zeros may then follow what was
    /// written, until the file is cut. Where the filesystem has no such room, nothing changes.
    fn take_room(&mut self);
    /// Adds bytes; on an error some of them may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything so far durable. After an error, nothing can be said about what was not yet.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file back to this length.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The real filesystem.
#[derive(Debug)]
pub(crate) struct RealFiles {
    root: PathBuf,
    /// Held as long as the journal is open, so that two processes cannot write one journal.
    _lock: Option<File>,
}

impl RealFiles {
    /// Opens the folder, makes it (0700) when it is not there, and locks it.
    pub(crate) fn open(root: &Path) -> io::Result<Option<Self>> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(root)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { root: root.to_owned(), _lock: Some(lock) })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder without a lock: for reading only.
    pub(crate) fn look(root: &Path) -> Self {
        Self { root: root.to_owned(), _lock: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn entries(&self, folder: &str) -> io::Result<Vec<fs::DirEntry>> {
        fs::read_dir(self.path(folder))?.collect()
    }
}

impl Files for RealFiles {
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(self.path(folder))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut names = Vec::new();
        for entry in self.entries(folder)? {
            let metadata = entry.metadata()?;
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push((name, metadata.len()));
            }
        }
        Ok(names)
    }

    fn folders(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.entries(folder)? {
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(name))?;
        Ok(Box::new(RealFile { file, length: 0, room: None }))
    }

    fn read(&self, name: &str, cap: u64) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(name))?;
        let length = file.metadata()?.len();
        if length > cap {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is larger than it can be"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
        // It may be cut meanwhile, when it is read beside a gateway that runs: room is given back.
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.path(folder))?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    length: u64,
    /// How far room was taken, where it is.
    room: Option<u64>,
}

impl RealFile {
    /// As much again as there is: a small file stays small.
    fn extend_room(&mut self, end: u64) {
        let Some(room) = self.room.filter(|room| end > *room) else { return };
        let to = end.saturating_add(end.clamp(LEAST_ROOM, MOST_ROOM));
        let taken = rustix::fs::fallocate(
            &self.file,
            rustix::fs::FallocateFlags::empty(),
            self.length,
            to.saturating_sub(self.length),
        );
        if let Err(error) = taken {
            tracing::debug!(%error, room, "no room is taken ahead");
            // What was taken of it is not kept from others on a full disk. A write that finds no place says so itself.
            let _ = self.file.set_len(self.length);
        }
        self.room = Some(to);
    }
}

impl AppendFile for RealFile {
    fn take_room(&mut self) {
        self.room = Some(self.length);
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_room(self.length.saturating_add(bytes.len() as u64));
        // At the offset, not at the end: what a failed write left behind is written over.
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.length = length;
        self.room = self.room.map(|_| length);
        Ok(())
    }
}
