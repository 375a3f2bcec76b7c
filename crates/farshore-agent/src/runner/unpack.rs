//! Unpacking an archive into a folder that nothing can leave.
//!
//! Regular files, folders and symbolic links that point downwards; everything else is refused: absolute paths, `..`, hard
//! links, devices, fifos, the same path twice, a path through a symbolic link. Set-id bits and owners are dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use farshore_domain::release::ArtifactFormat;
use tar::EntryType;

/// What one archive may unpack to.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    pub bytes: u64,
    pub entries: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { bytes: 8 * 1024 * 1024 * 1024, entries: 200_000 }
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("reading the archive failed")]
    Read(#[source] io::Error),
    #[error("writing {path} failed")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the archive holds {path:?}, which {what}")]
    Evil { path: String, what: &'static str },
    #[error("the archive has more than {0} entries")]
    TooMany(u64),
    #[error("the archive unpacks to more than {0} bytes")]
    TooLarge(u64),
}

impl UnpackError {
    /// Whether the archive itself is at fault, not this device.
    #[must_use]
    pub fn is_evil(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

/// Unpacks `archive` into `into`, which exists and is empty. What was written when an error ends it is for the caller to delete.
///
/// # Errors
/// An [`UnpackError`]; at the first entry that is not plain.
pub fn unpack(
    archive: impl Read,
    format: ArtifactFormat,
    into: &Path,
    limits: UnpackLimits,
) -> Result<(), UnpackError> {
    match format {
        ArtifactFormat::Tar => unpack_tar(archive, into, limits),
        ArtifactFormat::TarGz => unpack_tar(flate2::read::MultiGzDecoder::new(archive), into, limits),
        ArtifactFormat::TarZst => {
            let mut decoder = zstd::stream::read::Decoder::new(archive).map_err(UnpackError::Read)?;
            // 128 MiB of window at most: what `zstd --long` writes.
            decoder.window_log_max(27).map_err(UnpackError::Read)?;
            unpack_tar(decoder, into, limits)
        }
    }
}

fn evil(path: &Path, what: &'static str) -> UnpackError {
    UnpackError::Evil { path: path.to_string_lossy().chars().take(200).collect(), what }
}

/// The parts of a path that stays inside: plain names only. Empty for the folder itself.
fn parts(path: &Path) -> Result<Vec<&std::ffi::OsStr>, UnpackError> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(evil(path, "leads out of the release's folder")),
            Component::RootDir | Component::Prefix(_) => return Err(evil(path, "is an absolute path")),
        }
    }
    if parts.len() > 64 || path.as_os_str().len() > 4096 {
        return Err(evil(path, "is too long a path"));
    }
    Ok(parts)
}

/// Makes the folders above an entry, each of which must be a folder and no link. New ones are added to `made`.
fn make_parents(
    into: &Path,
    parts: &[&std::ffi::OsStr],
    whole: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<PathBuf, UnpackError> {
    let mut folder = into.to_path_buf();
    for part in parts {
        folder.push(part);
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(evil(whole, "leads through something that is no folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&folder)?;
                made.push(folder.clone());
            }
            Err(source) => return Err(UnpackError::Write { path: folder, source }),
        }
    }
    Ok(folder)
}

/// The mode is set whatever the process's mask: the app's user must get in.
fn make_folder(folder: &Path) -> Result<(), UnpackError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(folder)
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)))
        .map_err(|source| UnpackError::Write { path: folder.to_path_buf(), source })
}

fn unpack_tar(archive: impl Read, into: &Path, limits: UnpackLimits) -> Result<(), UnpackError> {
    // Counts what comes out of the decompressor, headers and padding too, so that no bomb grows beyond the limit.
    let capped = Capped { inner: archive, left: limits.bytes, limit: limits.bytes };
    let mut archive = tar::Archive::new(capped);
    let mut count = 0_u64;
    let mut folders = vec![into.to_path_buf()];
    for entry in archive.entries().map_err(read_error)? {
        let mut entry = entry.map_err(read_error)?;
        count += 1;
        if count > limits.entries {
            return Err(UnpackError::TooMany(limits.entries));
        }
        let path = entry.path().map_err(UnpackError::Read)?.into_owned();
        let parts = parts(&path)?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let Some((name, above)) = parts.split_last() else {
            if kind == EntryType::Directory {
                continue;
            }
            return Err(evil(&path, "is the release's folder itself"));
        };
        let folder = make_parents(into, above, &path, &mut folders)?;
        let target = folder.join(name);
        match kind {
            EntryType::Directory => match fs::symlink_metadata(&target) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => return Err(evil(&path, "comes twice")),
                Err(_) => {
                    make_folder(&target)?;
                    folders.push(target);
                }
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
                let mode = if executable { 0o755 } else { 0o644 };
                let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
                let mut file = match file {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Err(evil(&path, "comes twice"));
                    }
                    Err(source) => return Err(UnpackError::Write { path: target, source }),
                };
                copy(&mut entry, &mut file, &target)?;
                file.set_permissions(fs::Permissions::from_mode(mode))
                    .and_then(|()| file.sync_all())
                    .map_err(|source| UnpackError::Write { path: target, source })?;
            }
            EntryType::Symlink => {
                let link = entry.link_name().map_err(UnpackError::Read)?;
                let link = link.ok_or_else(|| evil(&path, "is a link to nothing"))?;
                let down =
                    link.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
                if !down || link.as_os_str().is_empty() || link.as_os_str().len() > 4096 {
                    return Err(evil(&path, "is a link that does not point downwards"));
                }
                match std::os::unix::fs::symlink(&link, &target) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        return Err(evil(&path, "comes twice"));
                    }
                    Err(source) => return Err(UnpackError::Write { path: target, source }),
                }
            }
            EntryType::Link => return Err(evil(&path, "is a hard link")),
            _ => return Err(evil(&path, "is neither file, folder nor symbolic link")),
        }
    }
    for folder in folders {
        crate::file::sync_folder(&folder).map_err(|source| UnpackError::Write { path: folder, source })?;
    }
    Ok(())
}

fn copy(from: &mut impl Read, to: &mut File, path: &Path) -> Result<(), UnpackError> {
    use std::io::Write;
    let write = |source| UnpackError::Write { path: path.to_path_buf(), source };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).map_err(read_error)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        to.write_all(bytes).map_err(write)?;
    }
    Ok(())
}

/// Marks the error of a reader that reached its limit, through whatever wraps it.
#[derive(Debug, thiserror::Error)]
#[error("the limit of {0} bytes is reached")]
struct LimitReached(u64);

fn read_error(error: io::Error) -> UnpackError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<LimitReached>()) {
        Some(LimitReached(limit)) => UnpackError::TooLarge(*limit),
        None => UnpackError::Read(error),
    }
}

struct Capped<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(LimitReached(self.limit))),
        }
        Ok(count)
    }
}
