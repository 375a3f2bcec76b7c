//! Staging: from a signed manifest and a file somebody else may write, to a release's folder that only the runner writes.
//!
//! Everything is checked before anything is unpacked: signature, tenant, platform, floor, size and digest. The file is hashed a
//! second time while it is unpacked, through the same descriptor, so that changing it in between gains nothing.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use farshore_domain::device::Hardware;
use farshore_domain::digest::{Digest, Digester};
use farshore_domain::name::Name;
use farshore_domain::release::{ArtifactRef, Manifest};
use rustix::fs::{Mode, OFlags};

use super::error::RunnerError;
use super::folder::AppFolder;
use super::images;
use super::unpack::{UnpackLimits, unpack};
use super::wire::Signed;
use crate::file;

/// A manifest that is good for this device, with the artifact it names for this platform.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) manifest: Manifest,
    pub(crate) digest: Digest,
    pub(crate) artifact: ArtifactRef,
}

/// Checks what a manifest, whose signature is good, says.
pub(crate) fn accept(bytes: &[u8], tenant: &Name, hardware: &Hardware) -> Result<Accepted, RunnerError> {
    let manifest = Manifest::parse(bytes).map_err(RunnerError::Manifest)?;
    if manifest.tenant != *tenant {
        return Err(RunnerError::WrongTenant(manifest.tenant));
    }
    let Hardware { os, arch, variant, .. } = hardware;
    let artifact = manifest.artifact_for(os, arch, variant).cloned();
    let artifact = artifact
        .ok_or_else(|| RunnerError::NoPlatform(format!("{os}/{arch} {variant}").trim().to_owned()))?;
    Ok(Accepted { manifest, digest: Digest::of(bytes), artifact })
}

/// The floor of this device counts, and must be readable.
pub(crate) fn check_floor(folder: &AppFolder, manifest: &Manifest) -> Result<(), RunnerError> {
    let floor = folder.floor().map_err(|e| RunnerError::io("reading the floor", e))?;
    match floor {
        Some(floor) if manifest.version < floor => {
            Err(RunnerError::BelowFloor { offered: manifest.version.to_string(), floor: floor.to_string() })
        }
        _ => Ok(()),
    }
}

/// What `run` has fetched, none of which is believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched<'a> {
    pub(crate) artifact: &'a Path,
    /// A folder with the blobs of the images that the release names.
    pub(crate) images: Option<&'a Path>,
}

/// Verifies the artifact and unpacks it. Blocks; `temporary` is a folder on the same filesystem that only the runner writes.
pub(crate) fn stage(
    folder: &AppFolder,
    accepted: &Accepted,
    signed: &Signed,
    fetched: Fetched<'_>,
    temporary: &Path,
) -> Result<(), RunnerError> {
    let release = folder.release(accepted.digest);
    let kept =
        folder.read_manifest(accepted.digest).map_err(|e| RunnerError::io("reading the manifest", e))?;
    let write = |path: &Path, bytes: &[u8]| {
        file::write_atomically(path, bytes, 0o644).map_err(|e| RunnerError::io("writing the manifest", e))
    };
    if release.is_dir() && kept.is_some() {
        // Signed again, perhaps, since the key of the first signature was removed.
        return write(&folder.signature(accepted.digest), &signed.signature);
    }
    let mut file = open_plain(fetched.artifact)?;
    let expected = &accepted.artifact;
    let found = file.metadata().map_err(|e| RunnerError::io("looking at the artifact", e))?.len();
    if found != expected.size {
        return Err(RunnerError::WrongSize { expected: expected.size, found });
    }
    let mut hashing = Hashing::new(&mut file, expected.size);
    let whole = drain(&mut hashing).map_err(|e| RunnerError::io("reading the artifact", e))?;
    check_digest(expected.digest, whole)?;

    file.seek(SeekFrom::Start(0)).map_err(|e| RunnerError::io("reading the artifact", e))?;
    let into = temporary.join(accepted.digest.hex());
    clear(&into)?;
    file::make_folder(&into, 0o755).map_err(|e| RunnerError::io("making a folder", e))?;
    let mut hashing = Hashing::new(&mut file, expected.size);
    let unpacked = unpack(&mut hashing, expected.format, &into, UnpackLimits::default())
        .map_err(RunnerError::Unpack)
        .and_then(|()| drain(&mut hashing).map_err(|e| RunnerError::io("reading the artifact", e)))
        .and_then(|again| check_digest(expected.digest, again))
        .and_then(|()| check_program(&into, &accepted.manifest))
        .and_then(|()| images::take(&accepted.manifest, fetched.images, &into));
    if let Err(error) = unpacked {
        clear(&into)?;
        return Err(error);
    }
    folder.make().map_err(|e| RunnerError::io("making the app's folder", e))?;
    clear(&release)?;
    fs::rename(&into, &release).map_err(|e| RunnerError::io("moving the release", e))?;
    file::sync_folder(&folder.releases()).map_err(|e| RunnerError::io("moving the release", e))?;
    write(&folder.signature(accepted.digest), &signed.signature)?;
    // Last: a release counts as staged when its manifest is there.
    write(&folder.manifest(accepted.digest), &signed.document)
}

pub(super) fn check_digest(expected: Digest, found: Digest) -> Result<(), RunnerError> {
    if found == expected { Ok(()) } else { Err(RunnerError::WrongDigest { expected, found }) }
}

fn clear(path: &Path) -> Result<(), RunnerError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RunnerError::io("clearing a folder", error))
        }
        _ => Ok(()),
    }
}

/// The program must be a plain file that can be executed, or a link to one within the release.
pub(crate) fn check_program(folder: &Path, manifest: &Manifest) -> Result<(), RunnerError> {
    use std::os::unix::fs::PermissionsExt;
    if !manifest.run.has_program() {
        return Ok(());
    }
    let program = manifest.run.command.first().map_or("", String::as_str);
    let found = fs::metadata(folder.join(program));
    if found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0) {
        Ok(())
    } else {
        Err(RunnerError::NoProgram(program.to_owned()))
    }
}

/// Opens without following a link, without waiting for a fifo, without becoming owner of a terminal.
pub(super) fn open_plain(path: &Path) -> Result<File, RunnerError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::LOOP => RunnerError::NoPlainFile,
        other => RunnerError::io("opening the artifact", other.into()),
    })?;
    let file = File::from(file);
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        _ => Err(RunnerError::NoPlainFile),
    }
}

/// Hashes what is read, and reads no more than there may be.
pub(super) struct Hashing<'a> {
    inner: io::Take<&'a mut File>,
    digester: Digester,
}

impl<'a> Hashing<'a> {
    pub(super) fn new(file: &'a mut File, size: u64) -> Self {
        Self { inner: file.take(size), digester: Digester::default() }
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digester.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Reads to the end; the digest of everything read through it.
fn drain(hashing: &mut Hashing<'_>) -> io::Result<Digest> {
    copy(hashing, &mut io::sink())
}

/// Copies to the end; the digest of everything read through it.
pub(super) fn copy(hashing: &mut Hashing<'_>, to: &mut impl io::Write) -> io::Result<Digest> {
    io::copy(hashing, to)?;
    Ok(hashing.digester.clone().finish())
}
