//! Files of a release, put into place on the device.
//!
//! They are rendered beside, checked by the release's own command, then switched: each by a rename, all of them or none. What was there before is kept:
//! a reload that fails takes everything back, a power cut in between is taken back at the next start, and removing the app restores what it found.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_domain::digest::Digest;
use farshore_domain::release::kind::{FileEntry, Files};
use farshore_domain::release::template;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::super::allowed::is_below;
use super::super::folder::AppFolder;
use super::super::spec::{Process, Spec};
use super::super::users;
use super::{Runtime, RuntimeError, Work, hook};
use crate::file;

/// One file has at most this many bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps files as the release says.
pub(crate) struct FilesRuntime {
    folder: AppFolder,
    spec: Spec,
}

/// What lies where on the device because of this app.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Applied {
    entries: BTreeMap<PathBuf, Kept>,
    /// A switch that is under way: how to take it back.
    pending: Vec<Undo>,
    /// Numbers the files kept for taking back.
    next: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    file: Look,
    /// What was there before the app came.
    original: Option<Saved>,
}

/// How one target was before a switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Undo {
    target: PathBuf,
    before: Option<Saved>,
}

/// A copy of a file in the app's own folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    name: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    digest: Digest,
    mode: u32,
    uid: u32,
    gid: u32,
}

struct Rendered {
    target: PathBuf,
    bytes: Vec<u8>,
    look: Look,
}

fn said(text: impl Into<String>) -> RuntimeError {
    RuntimeError::Said(text.into())
}

fn io_at(what: &str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    RuntimeError::io(format!("{what} {}", path.display()))
}

/// How a file is; `None` when there is none.
fn look(path: &Path) -> io::Result<Option<(Look, Vec<u8>)>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if !found.is_file() => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "something that is no plain file is there",
            ));
        }
        Ok(_) => {}
    }
    let Some(bytes) = file::read_capped(path, MAX_FILE)? else { return Ok(None) };
    let found = fs::symlink_metadata(path)?;
    let look = Look {
        digest: Digest::of(&bytes),
        mode: found.permissions().mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    };
    Ok(Some((look, bytes)))
}

/// Writes a file with its mode and owner by one rename.
fn put(target: &Path, bytes: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<()> {
    let folder = target.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = target.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".farshore");
    let beside = folder.join(beside);
    // For its owner only until it has its owner.
    file::write_atomically(&beside, bytes, 0o600)?;
    let found = fs::symlink_metadata(&beside)?;
    if (found.uid(), found.gid()) != (uid, gid) {
        chown(&beside, Some(uid), Some(gid))?;
    }
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode))?;
    fs::File::open(&beside)?.sync_all()?;
    fs::rename(&beside, target)?;
    file::sync_folder(folder)
}

fn delete(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl FilesRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        Self { folder, spec }
    }

    fn files(&self) -> Result<&Files, RuntimeError> {
        self.spec.run.as_ref().and_then(|run| run.files.as_ref()).ok_or_else(|| said("it has no files"))
    }

    fn kept(&self) -> PathBuf {
        self.folder.files().join("kept")
    }

    fn load(&self) -> Result<Applied, RuntimeError> {
        let path = self.folder.files().join("applied.json");
        match file::read_capped(&path, 16 * 1024 * 1024).map_err(io_at("reading", &path))? {
            None => Ok(Applied::default()),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| said(format!("{} is damaged: {error}", path.display()))),
        }
    }

    fn store(&self, applied: &Applied) -> Result<(), RuntimeError> {
        let path = self.folder.files().join("applied.json");
        let bytes = serde_json::to_vec(applied).map_err(|error| said(error.to_string()))?;
        file::write_atomically(&path, &bytes, 0o600).map_err(io_at("writing", &path))
    }

    fn render(&self, entry: &FileEntry) -> Result<Rendered, RuntimeError> {
        let source = self.spec.folder.join(&entry.source);
        let bytes = file::read_capped(&source, MAX_FILE).map_err(io_at("reading", &source))?;
        let bytes = bytes.ok_or_else(|| said(format!("the release holds no {}", entry.source)))?;
        let bytes = if entry.template {
            template::fill(&bytes, &self.spec.env)
                .map_err(|error| said(format!("{}: {error}", entry.source)))?
        } else {
            bytes
        };
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let user = entry.owner.as_deref().map(users::lookup_user).transpose();
        let user = user.map_err(RuntimeError::io("reading /etc/passwd"))?.unwrap_or(Some(own));
        let user = user.ok_or_else(|| said(format!("there is no user {:?}", entry.owner)))?;
        let group = entry.group.as_deref().map(users::lookup_group).transpose();
        let group = group.map_err(RuntimeError::io("reading /etc/group"))?.unwrap_or(Some(user.1));
        let gid = group.ok_or_else(|| said(format!("there is no group {:?}", entry.group)))?;
        let mode = entry.mode().ok_or_else(|| said(format!("{:?} is no mode", entry.mode)))?;
        let look = Look { digest: Digest::of(&bytes), mode, uid: user.0, gid };
        Ok(Rendered { target: PathBuf::from(&entry.target), bytes, look })
    }

    /// Makes the folder a target is in, and checks that it lies where the device allows: now, with all links followed.
    fn open_way(&self, target: &Path) -> Result<(), RuntimeError> {
        let parent = target.parent().ok_or_else(|| said(format!("{} is no file", target.display())))?;
        let mut there = parent;
        while !there.exists() {
            there = there.parent().ok_or_else(|| said(format!("{} is no file", target.display())))?;
        }
        let check = |path: &Path| {
            let real = path.canonicalize().map_err(io_at("finding", path))?;
            if is_below(&real, &self.spec.allowed.files) {
                Ok(())
            } else {
                Err(said(format!("the device does not allow apps to write {}", target.display())))
            }
        };
        check(there)?;
        if there != parent {
            file::make_folder(parent, 0o755).map_err(io_at("making", parent))?;
            check(parent)?;
        }
        Ok(())
    }

    /// Renders everything beside, each file at its own path below one folder, for the app's user to look at.
    fn lay_out(&self, rendered: &[Rendered]) -> Result<(), RuntimeError> {
        let next = self.folder.files_next();
        match fs::remove_dir_all(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_at("clearing", &next)(error));
            }
            _ => {}
        }
        file::make_folder(&next, 0o700).map_err(io_at("making", &next))?;
        let give = |path: &Path| match self.spec.user {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)).map_err(io_at("giving away", path)),
            None => Ok(()),
        };
        give(&next)?;
        for one in rendered {
            let path = next.join(one.target.strip_prefix("/").unwrap_or(&one.target));
            if let Some(parent) = path.parent() {
                file::make_folder(parent, 0o755).map_err(io_at("making", parent))?;
            }
            file::write_atomically(&path, &one.bytes, 0o600).map_err(io_at("writing", &path))?;
            give(&path)?;
        }
        Ok(())
    }

    async fn run_hook(&self, name: &str) -> Result<(), RuntimeError> {
        if !self.spec.hooks.contains_key(name) {
            return Ok(());
        }
        let limit = Duration::from_secs(u64::from(self.files()?.timeout_seconds));
        hook::run(&self.folder, &self.spec, name, b"", limit).await.map(drop)
    }

    fn save(&self, applied: &mut Applied, target: &Path) -> Result<Option<Saved>, RuntimeError> {
        let found = look(target).map_err(io_at("looking at", target))?;
        let Some((look, bytes)) = found else { return Ok(None) };
        applied.next = applied.next.saturating_add(1);
        let saved = Saved { name: applied.next.to_string(), mode: look.mode, uid: look.uid, gid: look.gid };
        let path = self.kept().join(&saved.name);
        file::write_atomically(&path, &bytes, 0o600).map_err(io_at("keeping", target))?;
        Ok(Some(saved))
    }

    fn restore(&self, target: &Path, before: Option<&Saved>) -> Result<(), RuntimeError> {
        match before {
            None => delete(target).map_err(io_at("deleting", target)),
            Some(saved) => {
                let path = self.kept().join(&saved.name);
                let bytes = file::read_capped(&path, MAX_FILE).map_err(io_at("reading", &path))?;
                let bytes = bytes.ok_or_else(|| said(format!("what {} held is lost", target.display())))?;
                put(target, &bytes, saved.mode, saved.uid, saved.gid).map_err(io_at("restoring", target))
            }
        }
    }

    /// Takes back a switch that did not come to its end.
    fn take_back(&self, applied: &mut Applied) -> Result<(), RuntimeError> {
        for undo in applied.pending.iter().rev() {
            self.restore(&undo.target, undo.before.as_ref())?;
        }
        applied.pending.clear();
        self.store(applied)
    }

    /// Deletes kept files that nothing refers to.
    fn prune(&self, applied: &Applied) -> Result<(), RuntimeError> {
        let needed: Vec<&str> = applied
            .entries
            .values()
            .filter_map(|kept| kept.original.as_ref())
            .chain(applied.pending.iter().filter_map(|undo| undo.before.as_ref()))
            .map(|saved| saved.name.as_str())
            .collect();
        let folder = self.kept();
        for entry in fs::read_dir(&folder).map_err(io_at("listing", &folder))? {
            let entry = entry.map_err(io_at("listing", &folder))?;
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(&name)) {
                delete(&entry.path()).map_err(io_at("deleting", &entry.path()))?;
            }
        }
        Ok(())
    }

    async fn apply(&self) -> Result<(), RuntimeError> {
        for (path, mode) in [(self.folder.files(), 0o711), (self.kept(), 0o700)] {
            file::make_folder(&path, mode).map_err(io_at("making", &path))?;
        }
        let mut applied = self.load()?;
        self.take_back(&mut applied)?;
        let rendered = self.files()?.entries.iter().map(|entry| self.render(entry));
        let rendered = rendered.collect::<Result<Vec<_>, _>>()?;
        self.lay_out(&rendered)?;
        self.run_hook("validate").await?;

        let mut changed = Vec::new();
        for one in &rendered {
            self.open_way(&one.target)?;
            let now = look(&one.target).map_err(io_at("looking at", &one.target))?;
            if now.map(|(look, _)| look).as_ref() != Some(&one.look) {
                changed.push(one);
            }
        }
        let wanted = |target: &PathBuf| rendered.iter().any(|one| one.target == *target);
        let gone: Vec<PathBuf> = applied.entries.keys().filter(|target| !wanted(target)).cloned().collect();
        let mut entries = BTreeMap::new();
        for one in &rendered {
            let original = match applied.entries.get(&one.target) {
                Some(kept) => kept.original.clone(),
                None => self.save(&mut applied, &one.target)?,
            };
            entries.insert(one.target.clone(), Kept { file: one.look.clone(), original });
        }
        if !changed.is_empty() || !gone.is_empty() {
            let targets: Vec<PathBuf> =
                changed.iter().map(|one| one.target.clone()).chain(gone.iter().cloned()).collect();
            let mut pending = Vec::new();
            for target in targets {
                let before = self.save(&mut applied, &target)?;
                pending.push(Undo { target, before });
            }
            applied.pending = pending;
            // From here on a power cut is taken back.
            self.store(&applied)?;
            let switched = self.switch(&changed, &gone, &applied);
            let done = match switched {
                Ok(()) => self.run_hook("reload").await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.take_back(&mut applied)?;
                // What runs has to read the old ones again.
                if let Err(again) = self.run_hook("reload").await {
                    tracing::warn!(error = %again, "the reload after taking the files back failed, too");
                }
                return Err(error);
            }
        }
        applied.entries = entries;
        applied.pending.clear();
        self.store(&applied)?;
        self.prune(&applied)
    }

    fn switch(&self, changed: &[&Rendered], gone: &[PathBuf], applied: &Applied) -> Result<(), RuntimeError> {
        for one in changed {
            let Look { mode, uid, gid, .. } = one.look;
            put(&one.target, &one.bytes, mode, uid, gid).map_err(io_at("writing", &one.target))?;
        }
        for target in gone {
            self.restore(target, applied.entries.get(target).and_then(|kept| kept.original.as_ref()))?;
        }
        Ok(())
    }

    /// The first file that is not as it was put there.
    fn drifted(&self) -> Result<Option<String>, RuntimeError> {
        for (target, kept) in self.load()?.entries {
            match look(&target) {
                Ok(Some((found, _))) if found == kept.file => {}
                Ok(Some(_)) => return Ok(Some(format!("{} was changed on the device", target.display()))),
                Ok(None) => return Ok(Some(format!("{} was deleted on the device", target.display()))),
                Err(error) => return Ok(Some(format!("{}: {error}", target.display()))),
            }
        }
        Ok(None)
    }
}

impl Runtime for FilesRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async { Ok(None) })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        Some(Box::pin(self.apply()))
    }

    /// Ends when somebody changes what was put there; then it is put there again.
    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(async {
            loop {
                sleep_until(Instant::now() + LOOK).await;
                if let Some(how) = self.drifted()? {
                    return Ok(how);
                }
            }
        })
    }

    /// Files stay until another release changes them or the app is removed.
    fn stop(&mut self, _: bool) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn remove(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            if !self.folder.files().exists() {
                return Ok(());
            }
            let mut applied = self.load()?;
            self.take_back(&mut applied)?;
            for (target, kept) in &applied.entries {
                self.restore(target, kept.original.as_ref())?;
            }
            self.store(&Applied::default())?;
            self.run_hook("reload").await
        })
    }
}
