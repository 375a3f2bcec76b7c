//! Reading small kernel files into a buffer that is used again, never beyond the cap.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes read from any one file.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Why a source gives no value. The text is what [`capabilities`](crate::Collector::capabilities) shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file could not be opened or read.
    #[error("{path} cannot be read: {kind}")]
    Io {
        /// The file, as on a real machine.
        path: String,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The file is larger than the cap.
    #[error("{path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file, as on a real machine.
        path: String,
    },
    /// The file is there and does not say what it should.
    #[error("{path} has no {what}")]
    Malformed {
        /// The file, as on a real machine.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
}

/// Where the kernel's files are. All below one root, so that a captured tree can stand in for the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    root: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self::under("/")
    }
}

impl Roots {
    /// `proc`, `sys`, `etc` and `usr/lib` below this folder.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The place of a file that a real machine has at `path`.
    #[must_use]
    pub fn locate(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// One kernel file that is read again and again.
#[derive(Debug)]
pub(crate) struct KernelFile {
    name: &'static str,
    path: PathBuf,
}

impl KernelFile {
    /// `name` is the absolute path on a real machine.
    pub(crate) fn new(roots: &Roots, name: &'static str) -> Self {
        Self { name, path: roots.locate(name) }
    }

    /// Reads the whole file into `buffer` and parses it.
    pub(crate) fn read<T>(
        &self,
        buffer: &mut Vec<u8>,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ReadError> {
        read_into(&self.path, buffer).map_err(|error| error.named(self.name))?;
        let malformed = || ReadError::Malformed { path: self.name.to_owned(), what };
        let text = str::from_utf8(buffer).map_err(|_| malformed())?;
        parse(text).ok_or_else(malformed)
    }
}

/// A failed read, not yet given the name under which it is reported.
#[derive(Debug)]
pub(crate) enum RawReadError {
    Io(io::ErrorKind),
    TooLarge,
}

impl RawReadError {
    pub(crate) fn named(self, path: impl Into<String>) -> ReadError {
        let path = path.into();
        match self {
            Self::Io(kind) => ReadError::Io { path, kind },
            Self::TooLarge => ReadError::TooLarge { path },
        }
    }
}

/// Reads a file into `buffer`, which keeps its memory for the next read.
pub(crate) fn read_into(path: &Path, buffer: &mut Vec<u8>) -> Result<(), RawReadError> {
    buffer.clear();
    let file = File::open(path).map_err(|error| RawReadError::Io(error.kind()))?;
    let cap = MAX_FILE_BYTES as u64 + 1;
    file.take(cap).read_to_end(buffer).map_err(|error| RawReadError::Io(error.kind()))?;
    if buffer.len() > MAX_FILE_BYTES {
        buffer.clear();
        buffer.shrink_to(64 * 1024);
        return Err(RawReadError::TooLarge);
    }
    Ok(())
}

/// One line of text for people: control characters (device-tree strings end in NUL) and outer blanks removed, at
/// most 256 characters. `None` if nothing is left or the file cannot be read.
pub(crate) fn read_line(roots: &Roots, path: &str) -> Option<String> {
    let mut buffer = Vec::new();
    read_into(&roots.locate(path), &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer);
    clean_line(text.lines().next()?)
}

pub(crate) fn clean_line(line: &str) -> Option<String> {
    let line: String = line.chars().filter(|c| !c.is_control()).take(256).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beyond_the_cap_is_refused_and_its_memory_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        let mut buffer = Vec::new();
        std::fs::write(&path, vec![b'x'; MAX_FILE_BYTES]).unwrap();
        assert!(read_into(&path, &mut buffer).is_ok());
        std::fs::write(&path, vec![b'x'; MAX_FILE_BYTES + 1]).unwrap();
        assert!(matches!(read_into(&path, &mut buffer), Err(RawReadError::TooLarge)));
        assert!(buffer.capacity() <= 64 * 1024);
        // Endless: the cap holds where the size is not known beforehand.
        assert!(matches!(read_into(Path::new("/dev/zero"), &mut buffer), Err(RawReadError::TooLarge)));
    }

    #[test]
    fn lines_for_people_are_clean() {
        assert_eq!(clean_line(" Raspberry Pi 4\0\u{1b}[31m "), Some("Raspberry Pi 4[31m".to_owned()));
        assert_eq!(clean_line("\0 "), None);
        assert_eq!(clean_line(&"é".repeat(1000)).unwrap().chars().count(), 256);
    }
}
