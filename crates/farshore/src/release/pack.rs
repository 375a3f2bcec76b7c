//! Packing a folder into an archive that is the same bytes each time: sorted, without owners and times.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use farshore_domain::digest::{Digest, Digester};
use flate2::{Compression, GzBuilder};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The most files that are packed.
const MAX_FILES: usize = 100_000;

/// A file with its digest and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Packs `folder` as tar.gz into `out`.
pub(crate) fn pack(folder: &Path, out: &Path) -> Result<Packed> {
    let what = || format!("can't pack {}", folder.display());
    let failed = |error: std::io::Error| Failure::because(what(), &error);
    let mut files = Vec::new();
    collect(folder, Path::new(""), &mut files).map_err(failed)?;
    if files.is_empty() {
        return Err(Failure::new(Exit::Failed, what()).why("it holds nothing"));
    }
    files.sort();
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let target = tempfile::Builder::new()
        .prefix(".pack-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(parent)
        .map_err(failed)?;
    // No name and no time in the header: the same folder gives the same bytes.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(target, Compression::new(6));
    let mut tar = tar::Builder::new(gzip);
    tar.mode(tar::HeaderMode::Deterministic);
    for relative in files {
        append(&mut tar, folder, &relative).map_err(failed)?;
    }
    let target = tar.into_inner().and_then(flate2::write::GzEncoder::finish).map_err(failed)?;
    target.as_file().sync_all().map_err(failed)?;
    target.persist(out).map_err(|error| Failure::because(what(), &error.error))?;
    measure(out)
}

/// Digest and size of a file.
pub(crate) fn measure(path: &Path) -> Result<Packed> {
    let failed = |error: std::io::Error| Failure::because(format!("can't read {}", path.display()), &error);
    let mut file = fs::File::open(path).map_err(failed)?;
    let mut writer = Measure::default();
    let size = std::io::copy(&mut file, &mut writer).map_err(failed)?;
    Ok(Packed { path: path.to_owned(), digest: writer.0.finish(), size })
}

#[derive(Default)]
struct Measure(Digester);

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn collect(folder: &Path, relative: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder.join(relative))? {
        let entry = entry?;
        let path = relative.join(entry.file_name());
        let kind = entry.file_type()?;
        if files.len() >= MAX_FILES {
            return Err(std::io::Error::other(format!("it holds more than {MAX_FILES} files")));
        }
        if kind.is_dir() {
            files.push(path.clone());
            collect(folder, &path, files)?;
        } else if kind.is_file() || kind.is_symlink() {
            files.push(path);
        } else {
            return Err(std::io::Error::other(format!("{} is no file, folder or link", path.display())));
        }
    }
    Ok(())
}

fn append<W: Write>(tar: &mut tar::Builder<W>, folder: &Path, relative: &Path) -> std::io::Result<()> {
    let full = folder.join(relative);
    let metadata = fs::symlink_metadata(&full)?;
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    if metadata.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        return tar.append_data(&mut header, relative, std::io::empty());
    }
    if metadata.is_symlink() {
        let target = fs::read_link(&full)?;
        // Devices refuse what leads out of the release; better to hear of it here.
        let inside = target.is_relative() && {
            let mut depth = relative.components().count() as i64 - 1;
            target.components().all(|part| {
                depth += match part {
                    std::path::Component::ParentDir => -1,
                    std::path::Component::Normal(_) => 1,
                    _ => 0,
                };
                depth >= 0
            })
        };
        if !inside {
            return Err(std::io::Error::other(format!(
                "the link {} leads out of the folder",
                relative.display()
            )));
        }
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        return tar.append_link(&mut header, relative, target);
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
    header.set_size(metadata.len());
    tar.append_data(&mut header, relative, fs::File::open(&full)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/app"), b"#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.path().join("bin/app"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("version.txt"), b"1.0\n").unwrap();
        std::os::unix::fs::symlink("bin/app", folder.path().join("start")).unwrap();
        folder
    }

    #[test]
    fn the_same_folder_gives_the_same_bytes() {
        let (one, two) = (folder(), folder());
        fs::set_permissions(two.path().join("version.txt"), fs::Permissions::from_mode(0o600)).unwrap();
        let out = tempfile::tempdir().unwrap();
        let first = pack(one.path(), &out.path().join("a.tar.gz")).unwrap();
        let second = pack(two.path(), &out.path().join("b.tar.gz")).unwrap();
        assert_eq!((first.digest, first.size), (second.digest, second.size));
        let listing = std::process::Command::new("tar")
            .arg("-tvzf")
            .arg(&first.path)
            .env("TZ", "UTC")
            .output()
            .unwrap();
        insta::assert_snapshot!(String::from_utf8_lossy(&listing.stdout), @r"
        drwxr-xr-x 0/0               0 1970-01-01 00:00 bin
        -rwxr-xr-x 0/0              10 1970-01-01 00:00 bin/app
        lrwxrwxrwx 0/0               0 1970-01-01 00:00 start -> bin/app
        -rw-r--r-- 0/0               4 1970-01-01 00:00 version.txt
        ");
    }

    #[test]
    fn a_link_out_of_the_folder_an_empty_folder_and_a_socket_are_refused() {
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("a.tar.gz");
        for link in ["/etc/passwd", "../x", "bin/../../x"] {
            let folder = folder();
            std::os::unix::fs::symlink(link, folder.path().join("bad")).unwrap();
            assert!(pack(folder.path(), &target).is_err(), "{link}");
        }
        assert!(pack(tempfile::tempdir().unwrap().path(), &target).is_err());
        let folder = folder();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(pack(folder.path(), &target).is_err());
        assert!(!target.exists());
    }
}
