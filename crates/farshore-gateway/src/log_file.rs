//! A log file that is rotated, so that it can't fill the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::ingest::lock;

const MAX_BYTES: u64 = 10 * 1024 * 1024;
const KEPT: u32 = 4;

/// `LOG_FILE`: 10 MB, then it becomes `LOG_FILE.1`, and so on up to `.4`.
#[derive(Clone, Debug)]
pub struct LogFile(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl LogFile {
    /// Opens the file, and makes its folder.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_size(path, MAX_BYTES)
    }

    fn with_size(path: &Path, max_bytes: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Open { path: path.to_owned(), file, bytes, max_bytes }))))
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

impl Open {
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            match fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(&self.path, 1))?;
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut open = lock(&self.0);
        if open.bytes > 0 && open.bytes + line.len() as u64 > open.max_bytes {
            open.rotate()?;
        }
        open.file.write_all(line)?;
        open.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.0).file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_move_on_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("logs/gateway.log");
        let mut log = LogFile::with_size(&path, 10).expect("writable");
        for line in 0..8 {
            log.write_all(format!("line {line}\n").as_bytes()).expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("there"), "line 7\n");
        assert_eq!(fs::read_to_string(numbered(&path, 4)).expect("there"), "line 3\n");
        assert!(!numbered(&path, 5).exists());
        let mut again = LogFile::with_size(&path, 10).expect("writable");
        again.write_all(b"after a restart\n").expect("written");
        assert_eq!(fs::read_to_string(numbered(&path, 1)).expect("there"), "line 7\n");
    }
}
