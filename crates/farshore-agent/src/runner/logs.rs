//! Output of apps in files that rotate.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_domain::time::UnixMs;

/// One rotated log. Never blocks the app for long and never fails it: what can't be written is counted and dropped.
#[derive(Debug)]
pub(crate) struct RotatedLog {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    cap: u64,
    files: u32,
    dropped: u64,
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

impl RotatedLog {
    /// At most `files` files of about `cap` bytes each.
    pub(crate) fn new(path: PathBuf, cap: u64, files: u32) -> Self {
        Self { path, file: None, size: 0, cap: cap.max(1), files: files.max(1), dropped: 0 }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_write(bytes) {
            self.file = None;
            if self.dropped == 0 {
                tracing::warn!(log = %self.path.display(), %error, "output of the app can't be kept");
            }
            self.dropped = self.dropped.saturating_add(bytes.len() as u64);
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size >= self.cap {
            self.rotate()?;
        }
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            if self.dropped > 0 {
                writeln!(file, "[farshore: {} bytes of output could not be kept]", self.dropped)?;
                self.dropped = 0;
            }
            file.write_all(bytes)?;
            self.size = self.size.saturating_add(bytes.len() as u64);
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for number in (1..self.files).rev() {
            let from = if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            match fs::rename(from, numbered(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.files == 1 {
            fs::remove_file(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

/// Deletes rotated files that were last written at least `age` ago; without an age all of them. What is being written stays.
pub(crate) fn cut(folder: &Path, age: Option<Duration>, now: UnixMs) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let rotated = name.to_str().and_then(|name| name.rsplit_once(".log.")).is_some_and(|(_, number)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        if !rotated || !entry.file_type()?.is_file() {
            continue;
        }
        let old = match age {
            None => true,
            Some(age) => {
                let written = entry.metadata()?.mtime().saturating_mul(1000);
                now.0.saturating_sub(written) >= i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
            }
        };
        if old {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The last `bytes` of a log, over its rotated files.
pub(crate) fn tail(path: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut found = Vec::new();
    for number in 0..100 {
        let part = if number == 0 { path.to_path_buf() } else { numbered(path, number) };
        let mut file = match File::open(&part) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let missing = bytes.saturating_sub(found.len() as u64);
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(missing)))?;
        let mut older = Vec::new();
        file.take(missing).read_to_end(&mut older)?;
        older.append(&mut found);
        found = older;
        if found.len() as u64 >= bytes {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_rotated_files_go_and_what_is_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["stdout.log", "stdout.log.1", "stderr.log.12", "app.log.old", "supervisor.log"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let left = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let now = crate::clock::wall();
        let hour = Duration::from_secs(3600);
        cut(folder.path(), Some(hour), now).unwrap();
        assert_eq!(left().len(), 5, "written just now");
        cut(folder.path(), Some(hour), now.plus_ms(3_700_000)).unwrap();
        assert_eq!(left(), ["app.log.old", "stdout.log", "supervisor.log"]);
        fs::write(folder.path().join("stdout.log.1"), "x").unwrap();
        cut(folder.path(), None, now).unwrap();
        assert_eq!(left(), ["app.log.old", "stdout.log", "supervisor.log"]);
        cut(&folder.path().join("none"), None, now).unwrap();
    }
}
