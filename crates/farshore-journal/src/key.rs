//! Where the device's key is: a file in the journal's folder, or a credential that systemd hands the service.
//!
//! A credential can be bound to the device's TPM (`systemd-creds encrypt --with-key=tpm2`), so that the disk alone opens nothing. Once a journal was
//! opened with one, it is opened with that one only: with another key, or a new one, everything in it would be taken for damaged.

use std::path::{Path, PathBuf};

use farshore_trust::sealed::DeviceKey;

use crate::error::JournalError;
use crate::files::Files;

/// The credential's name.
pub const KEY_CREDENTIAL: &str = "edge-gateway.device-key";
const FILE: &str = "device.key";
/// Which key it was, when it was a credential.
const ID: &str = "device.key.id";

/// Where to look for the key of a journal.
#[derive(Debug)]
pub(crate) struct KeySource {
    file: PathBuf,
    id: PathBuf,
    /// What systemd passed on.
    credential: Option<PathBuf>,
}

impl KeySource {
    /// As the service manager has it: `$CREDENTIALS_DIRECTORY`, see systemd.exec(5).
    pub(crate) fn of(root: &Path) -> Self {
        Self::within(root, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).as_deref())
    }

    pub(crate) fn within(root: &Path, credentials: Option<&Path>) -> Self {
        let credential = credentials.map(|folder| folder.join(KEY_CREDENTIAL)).filter(|path| path.exists());
        Self { file: root.join(FILE), id: root.join(ID), credential }
    }

    /// The key, if it is here; for reading only.
    pub(crate) fn find(&self) -> Result<Option<DeviceKey>, JournalError> {
        let path = self.credential.as_ref().unwrap_or(&self.file);
        // Never made here: a new key opens nothing.
        path.exists().then(|| DeviceKey::open(path).map_err(JournalError::seal)).transpose()
    }

    /// The key of a journal that is there already.
    pub(crate) fn get(&self) -> Result<DeviceKey, JournalError> {
        self.check()?;
        self.find()?.ok_or_else(|| JournalError::NoKey { path: self.file.clone() })
    }

    /// The key of a journal; a new one in a file where there is none.
    pub(crate) fn get_or_make(&self, files: &dyn Files) -> Result<DeviceKey, JournalError> {
        self.check()?;
        let Some(credential) = &self.credential else {
            return DeviceKey::open_or_create(&self.file).map_err(JournalError::seal);
        };
        let key = DeviceKey::open(credential).map_err(JournalError::seal)?;
        if !self.id.exists() {
            remember(files, &key).map_err(|error| JournalError::io("remember its key", error))?;
        }
        if self.file.exists() {
            tracing::warn!(file = %self.file.display(), "the key is a credential, and lies here, too: remove the file");
        }
        Ok(key)
    }

    /// A journal of one key is not opened with another.
    fn check(&self) -> Result<(), JournalError> {
        let known = match std::fs::read_to_string(&self.id) {
            Ok(known) => Some(known),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(JournalError::io("read which key it has", error)),
        };
        let Some(credential) = &self.credential else {
            let path = Path::new("$CREDENTIALS_DIRECTORY").join(KEY_CREDENTIAL);
            return if known.is_some() { Err(JournalError::NoKey { path }) } else { Ok(()) };
        };
        let id = DeviceKey::open(credential).map_err(JournalError::seal)?.id();
        let of_file = || -> Result<bool, JournalError> {
            let file = self.file.exists().then(|| DeviceKey::open(&self.file)).transpose();
            Ok(file.map_err(JournalError::seal)?.is_none_or(|file| file.id() == id))
        };
        let same = match known {
            Some(known) => known.trim() == id,
            None => of_file()?,
        };
        if same { Ok(()) } else { Err(JournalError::OtherKey { path: credential.clone() }) }
    }
}

fn remember(files: &dyn Files, key: &DeviceKey) -> std::io::Result<()> {
    const NEW: &str = "device.key.id.new";
    files.remove(NEW)?;
    let mut file = files.create(NEW)?;
    file.append(key.id().as_bytes())?;
    file.sync()?;
    drop(file);
    files.rename(NEW, ID)?;
    files.sync_folder("")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::files::RealFiles;

    fn credentials(hex: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_CREDENTIAL);
        std::fs::write(&path, hex).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        folder
    }

    fn opened(root: &Path, credentials: Option<&Path>) -> Result<String, JournalError> {
        let files = RealFiles::look(root);
        KeySource::within(root, credentials).get_or_make(&files).map(|key| key.id())
    }

    #[test]
    fn a_journal_of_a_credential_is_opened_with_that_one_only() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (credentials(&"1".repeat(64)), credentials(&"2".repeat(64)));
        let id = opened(root.path(), Some(one.path())).unwrap();
        assert_eq!(opened(root.path(), Some(one.path())).unwrap(), id);
        assert!(!root.path().join("device.key").exists(), "it lies nowhere on the disk");
        assert!(matches!(opened(root.path(), Some(two.path())), Err(JournalError::OtherKey { .. })));
        let none = opened(root.path(), None).unwrap_err();
        assert!(
            none.to_string().contains("$CREDENTIALS_DIRECTORY/edge-gateway.device-key is missing"),
            "{none}"
        );
        assert!(!root.path().join("device.key").exists(), "and none is made in its place");
        assert!(KeySource::within(root.path(), None).find().unwrap().is_none());
        let nothing = tempfile::tempdir().unwrap();
        assert!(opened(root.path(), Some(nothing.path())).is_err(), "credentials of other things are none");
    }

    #[test]
    fn the_key_of_a_file_moves_into_a_credential() {
        let root = tempfile::tempdir().unwrap();
        let id = opened(root.path(), None).unwrap();
        let file = root.path().join("device.key");
        let (same, other) =
            (credentials(&std::fs::read_to_string(&file).unwrap()), credentials(&"3".repeat(64)));
        assert!(matches!(opened(root.path(), Some(other.path())), Err(JournalError::OtherKey { .. })));
        assert_eq!(opened(root.path(), None).unwrap(), id, "nothing was changed");
        assert_eq!(opened(root.path(), Some(same.path())).unwrap(), id);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(opened(root.path(), Some(same.path())).unwrap(), id);
        assert_eq!(KeySource::within(root.path(), Some(same.path())).get().unwrap().id(), id);
    }
}
