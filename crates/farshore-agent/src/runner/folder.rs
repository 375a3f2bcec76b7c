//! Where the runner keeps an app.
//!
//! ```text
//! <apps>/.runner/            0700  trusted keys, user ids, lock, staging, reserve
//! <apps>/<app>/releases/<manifest digest>/   unpacked, read-only for the app's user
//! <apps>/<app>/manifests/<manifest digest>.json, .sig, and .ran once it was started here
//! <apps>/<app>/current → releases/…, previous → releases/…
//! <apps>/<app>/data/         0700  the app's own, its HOME
//! <apps>/<app>/logs/         stdout.log, stderr.log and rotated ones
//! <apps>/<app>/state/        0700  shim.lock, shim.sock, spec.json, status.json, floor, committed, installed.json, before.json
//! <apps>/<app>/files/        of kind `files`: next/ (rendered), kept/ (what was there before), applied.json
//! <apps>/<app>/notify.sock   where the app says that it is ready
//! <apps>/<app>/state/green/   what of state/ belongs to one instance, for the one in slot green; its logs are called green-…
//! <apps>/<app>/state/slots.json   which slot is the current one, and whether the traffic is known to go there
//! <apps>/<app>/current.env    the same for whoever sends the traffic
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use farshore_domain::digest::Digest;
use farshore_domain::name::Name;
use farshore_domain::release::MAX_MANIFEST_BYTES;
use farshore_domain::release::slot::Slot;
use farshore_domain::version::Version;
use farshore_trust::blob::MAX_SIGNATURE_FILE_BYTES;

use super::wire::Signed;
use crate::file;

/// One app's folder, as one of its slots sees it. An app without slots has only the first.
#[derive(Clone, Debug)]
pub(crate) struct AppFolder {
    root: PathBuf,
    slot: Slot,
}

impl AppFolder {
    /// A name holds neither `/` nor a leading dot, so it can't lead elsewhere.
    pub(crate) fn of(apps: &Path, app: &Name) -> Self {
        Self::at(apps.join(app.as_str()), Slot::Blue)
    }

    pub(crate) fn at(root: PathBuf, slot: Slot) -> Self {
        Self { root, slot }
    }

    /// The same folder, as the other slot sees it.
    pub(crate) fn in_slot(&self, slot: Slot) -> Self {
        Self { root: self.root.clone(), slot }
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// The name of the control group of an instance. An app's own name holds no dot.
    pub(crate) fn group(&self) -> String {
        let app = self.root.file_name().unwrap_or_default().to_string_lossy();
        match self.slot {
            Slot::Blue => app.into_owned(),
            Slot::Green => format!("{app}.green"),
        }
    }

    /// What belongs to the instance in this slot.
    fn own(&self) -> PathBuf {
        match self.slot {
            Slot::Blue => self.state(),
            Slot::Green => self.state().join("green"),
        }
    }

    /// A log of the instance in this slot.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        match self.slot {
            Slot::Blue => self.logs().join(name),
            Slot::Green => self.logs().join(format!("green-{name}")),
        }
    }

    /// Which slot is the current one.
    pub(crate) fn slots(&self) -> PathBuf {
        self.state().join("slots.json")
    }

    /// Where whoever sends the traffic reads which slot is the current one.
    pub(crate) fn current_env(&self) -> PathBuf {
        self.root.join("current.env")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    pub(crate) fn release(&self, manifest: Digest) -> PathBuf {
        self.releases().join(manifest.hex())
    }

    pub(crate) fn manifest(&self, manifest: Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{}.json", manifest.hex()))
    }

    pub(crate) fn signature(&self, manifest: Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{}.sig", manifest.hex()))
    }

    fn ran(&self, manifest: Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{}.ran", manifest.hex()))
    }

    /// Whether this device has started the release before, when a key it trusted then had signed it.
    pub(crate) fn has_run(&self, manifest: Digest) -> io::Result<bool> {
        self.ran(manifest).try_exists()
    }

    /// Remembers that the release was started with a good signature.
    pub(crate) fn remember_run(&self, manifest: Digest) -> io::Result<()> {
        file::write_atomically(&self.ran(manifest), b"", 0o600)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.own().join("shim.lock")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.own().join("shim.sock")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.own().join("spec.json")
    }

    pub(crate) fn status(&self) -> PathBuf {
        self.own().join("status.json")
    }

    /// Where an app says that it is ready.
    pub(crate) fn notify(&self) -> PathBuf {
        match self.slot {
            Slot::Blue => self.root.join("notify.sock"),
            Slot::Green => self.root.join("green-notify.sock"),
        }
    }

    /// Where the pipes of containers are.
    pub(crate) fn pipes(&self) -> PathBuf {
        self.state()
    }

    /// What an app of kind `files` has changed, and what was there before.
    pub(crate) fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// Its rendered files, before they go live.
    pub(crate) fn files_next(&self) -> PathBuf {
        self.files().join("next")
    }

    /// How far an app of kind `installer` is.
    pub(crate) fn installed(&self) -> PathBuf {
        self.state().join("installed.json")
    }

    /// Holds the digest of the release that was committed last.
    pub(crate) fn committed(&self) -> PathBuf {
        self.state().join("committed")
    }

    /// What the app had on the disk when the release on trial was first started.
    pub(crate) fn before(&self) -> PathBuf {
        self.state().join("before.json")
    }

    fn floor_file(&self) -> PathBuf {
        self.state().join("floor")
    }

    pub(crate) fn make(&self) -> io::Result<()> {
        file::make_folder(&self.root, 0o755)?;
        file::make_folder(&self.releases(), 0o755)?;
        file::make_folder(&self.root.join("manifests"), 0o755)?;
        file::make_folder(&self.data(), 0o700)?;
        file::make_folder(&self.logs(), 0o750)?;
        file::make_folder(&self.state(), 0o700)?;
        file::make_folder(&self.own(), 0o700)
    }

    /// Releases whose folder and manifest are both there; a manifest that is damaged is not.
    pub(crate) fn staged(&self) -> io::Result<Vec<Digest>> {
        let entries = match fs::read_dir(self.releases()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut staged = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if let Some(digest) = digest
                && self.read_manifest(digest)?.is_some()
            {
                staged.push(digest);
            }
        }
        Ok(staged)
    }

    /// A staged manifest's exact bytes, checked against the digest it is named by.
    pub(crate) fn read_manifest(&self, manifest: Digest) -> io::Result<Option<Vec<u8>>> {
        let bytes = file::read_capped(&self.manifest(manifest), MAX_MANIFEST_BYTES as u64)?;
        Ok(bytes.filter(|bytes| Digest::of(bytes) == manifest))
    }

    /// A staged manifest's exact bytes with their signature.
    pub(crate) fn read_signed(&self, manifest: Digest) -> io::Result<Option<Signed>> {
        let signature = file::read_capped(&self.signature(manifest), MAX_SIGNATURE_FILE_BYTES as u64)?;
        let document = self.read_manifest(manifest)?;
        Ok(document.zip(signature).map(|(document, signature)| Signed { document, signature }))
    }

    /// The version below which nothing is activated. An unreadable floor is an error: it fails closed.
    pub(crate) fn floor(&self) -> io::Result<Option<Version>> {
        let Some(bytes) = file::read_capped(&self.floor_file(), 256)? else { return Ok(None) };
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "the floor is damaged");
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        text.trim().parse().map(Some).map_err(|_| bad())
    }

    pub(crate) fn raise_floor(&self, floor: &Version) -> io::Result<()> {
        if self.floor()?.is_none_or(|old| old < *floor) {
            file::write_atomically(&self.floor_file(), floor.as_str().as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// Points `current` at a release, and `previous` at what `current` was.
    pub(crate) fn switch(&self, manifest: Digest) -> io::Result<()> {
        let target = PathBuf::from("releases").join(manifest.hex());
        let current = self.root.join("current");
        if let Ok(old) = fs::read_link(&current) {
            if old == target {
                return Ok(());
            }
            self.point("previous", &old)?;
        }
        self.point("current", &target)?;
        file::sync_folder(&self.root)
    }

    fn point(&self, name: &str, target: &Path) -> io::Result<()> {
        let temporary = self.root.join(format!(".{name}.new"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(target, &temporary)?;
        fs::rename(&temporary, self.root.join(name))
    }

    /// Deletes one release and its manifest; the manifest first, so that half a folder is never taken for a release.
    pub(crate) fn discard(&self, manifest: Digest) -> io::Result<()> {
        for file in [self.manifest(manifest), self.signature(manifest), self.ran(manifest)] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match fs::remove_dir_all(self.release(manifest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes everything but the floor.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for manifest in self.staged()? {
            self.discard(manifest)?;
        }
        let floor = self.floor()?;
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(floor) = floor {
            self.make()?;
            self.raise_floor(&floor)?;
        }
        Ok(())
    }
}
