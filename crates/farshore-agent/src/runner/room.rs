//! How much of the disk an app has taken since its release on trial was first started.
//!
//! A release that has filled the disk with its own data must not be what keeps the one before from coming back. So the runner looks at what the app has
//! when a release is started that was not committed yet, and again when the disk is full.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use farshore_domain::digest::Digest;
use serde::{Deserialize, Serialize};

use super::folder::AppFolder;
use crate::file::{self, Room};

/// With more files than this, it is not known how much an app has: looking would take too long.
const MOST_FILES: u64 = 50_000;

/// Who has written less than this since it was started has not filled the disk: it was nearly full before.
const OWN_BYTES: u64 = 4 * 1024 * 1024;
const OWN_FILES: u64 = 1024;

/// What an app has on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    bytes: u64,
    files: u64,
}

impl Taken {
    /// Of its data and logs; `None` where that is too much to look at.
    fn by(folder: &AppFolder) -> io::Result<Option<Self>> {
        let mut taken = Self::default();
        let disk = fs::metadata(folder.root())?.dev();
        let is_here = |found: &fs::Metadata| found.dev() == disk;
        let mut left = vec![folder.data(), folder.logs()];
        left.retain(|root| fs::symlink_metadata(root).is_ok_and(|found| is_here(&found)));
        while let Some(next) = left.pop() {
            let entries = match fs::read_dir(&next) {
                Ok(entries) => entries,
                // The app deletes as it likes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                // Of the entry itself: a link leads nowhere.
                let found = match entry.metadata() {
                    Ok(found) => found,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                taken.files += 1;
                if taken.files > MOST_FILES {
                    return Ok(None);
                }
                // What is mounted there lies on another disk.
                if !is_here(&found) {
                    continue;
                }
                // Of what has several names, each has a part; a folder's names are its own.
                let names = if found.is_dir() { 1 } else { found.nlink().max(1) };
                taken.bytes = taken.bytes.saturating_add(found.blocks().saturating_mul(512) / names);
                if found.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        Ok(Some(taken))
    }
}

/// What an app had when a release that was not committed was first started.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    manifest: Digest,
    /// The instance that was started: another one is another trial.
    #[serde(default)]
    instance: u64,
    taken: Taken,
}

fn before(folder: &AppFolder) -> Option<Before> {
    let bytes = file::read_capped(&folder.before(), 4096).ok().flatten()?;
    serde_json::from_slice(&bytes).ok()
}

/// Whether this release was committed here last.
pub(super) fn is_committed(folder: &AppFolder, manifest: Digest) -> bool {
    let told = file::read_capped(&folder.committed(), 256).ok().flatten();
    told.as_deref() == Some(manifest.to_string().as_bytes())
}

/// Looks at what the app has before a release is first started; of one that was committed nothing need be known. Blocks.
pub(super) fn remember(folder: &AppFolder, manifest: Digest, instance: u64) -> io::Result<()> {
    if before(folder).is_some_and(|before| before.manifest == manifest && before.instance == instance) {
        return Ok(());
    }
    // What can't be looked at is the app's own affair, and no reason not to start it.
    let taken = if is_committed(folder, manifest) { None } else { Taken::by(folder).ok().flatten() };
    match taken {
        Some(taken) => {
            let bytes = serde_json::to_vec(&Before { manifest, instance, taken })?;
            file::write_atomically(&folder.before(), &bytes, 0o600)
        }
        None => match fs::remove_file(folder.before()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// Whether there would be room without what the release on trial, which is one of these, has written since it was first started. Blocks.
pub(super) fn has_filled(folder: &AppFolder, there: &[Digest]) -> bool {
    let Some(before) = before(folder).filter(|before| there.contains(&before.manifest)) else { return false };
    if is_committed(folder, before.manifest) {
        return false;
    }
    let (Some(room), Ok(Some(now))) = (Room::at(folder.root()), Taken::by(folder)) else { return false };
    let bytes = now.bytes.saturating_sub(before.taken.bytes);
    let files = now.files.saturating_sub(before.taken.files);
    (bytes >= OWN_BYTES || files >= OWN_FILES) && room.with(bytes, files).is_enough()
}

#[cfg(test)]
mod tests {
    use farshore_domain::release::slot::Slot;

    use super::*;

    #[test]
    fn what_an_app_has_is_counted_without_following_its_links() {
        let place = tempfile::tempdir().unwrap();
        let folder = AppFolder::at(place.path().join("web"), Slot::Blue);
        folder.make().unwrap();
        assert_eq!(Taken::by(&folder).unwrap(), Some(Taken::default()));
        fs::create_dir(folder.data().join("deep")).unwrap();
        fs::write(folder.data().join("deep/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", folder.logs().join("out")).unwrap();
        fs::hard_link(folder.data().join("deep/file"), folder.data().join("the-same")).unwrap();
        let taken = Taken::by(&folder).unwrap().unwrap();
        assert!(taken.files == 4 && (100_000..200_000).contains(&taken.bytes), "{taken:?}");
    }

    #[test]
    fn what_it_had_is_remembered_from_the_first_start_and_not_of_what_was_committed() {
        let place = tempfile::tempdir().unwrap();
        let folder = AppFolder::at(place.path().join("web"), Slot::Blue);
        folder.make().unwrap();
        let [one, two] = ["1.0", "2.0"].map(|version| Digest::of(version.as_bytes()));
        remember(&folder, one, 1).unwrap();
        fs::write(folder.data().join("file"), vec![1; 100_000]).unwrap();
        remember(&folder, one, 1).unwrap();
        assert_eq!(before(&folder).unwrap().taken, Taken::default(), "it is its own that it has since");
        remember(&folder, two, 2).unwrap();
        assert!(before(&folder).is_some_and(|before| before.manifest == two && before.taken.files == 1));
        // On this disk there is room, with what it has written or without.
        assert!(!has_filled(&folder, &[two]), "it has written nothing");
        fs::write(folder.data().join("more"), vec![1; 5 << 20]).unwrap();
        assert!(has_filled(&folder, &[two]) && !has_filled(&folder, &[one]));
        fs::write(folder.committed(), one.to_string()).unwrap();
        remember(&folder, one, 1).unwrap();
        assert!(before(&folder).is_none() && !has_filled(&folder, &[one, two]));
    }
}
