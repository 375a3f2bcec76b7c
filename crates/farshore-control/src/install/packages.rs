//! The folder of packages: `farshore-agent_<version>_<arch>.deb`, put there by whoever runs the control plane.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use farshore_domain::digest::{Digest, Digester};

/// Packages beyond these are not looked at.
const MAX_PACKAGES: usize = 32;
/// A file that is larger is no package of ours.
const MAX_PACKAGE_BYTES: u64 = 100 * 1024 * 1024;

/// Size, last change and digest of a file.
type Known = (u64, Option<SystemTime>, Digest);

/// The packages that devices may fetch, with their digests.
#[derive(Debug)]
pub struct Packages {
    folder: PathBuf,
    /// What a file's digest was, and when the file had last changed then.
    known: Mutex<BTreeMap<String, Known>>,
}

impl Packages {
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, known: Mutex::default() }
    }

    /// Names and digests of all packages, in the order of their names. A folder that does not exist has none. Blocks.
    pub fn list(&self) -> io::Result<BTreeMap<String, Digest>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().filter(|name| is_package(name)).map(str::to_owned)
            else {
                continue;
            };
            let about = std::fs::metadata(entry.path())?;
            if !about.is_file() || about.len() > MAX_PACKAGE_BYTES || found.len() >= MAX_PACKAGES {
                continue;
            }
            found.insert(name.clone(), self.digest(name, &entry.path(), about.len(), about.modified().ok())?);
        }
        Ok(found)
    }

    fn digest(
        &self,
        name: String,
        path: &Path,
        size: u64,
        changed: Option<SystemTime>,
    ) -> io::Result<Digest> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((was, at, digest)) = known().get(&name)
            && (*was, *at) == (size, changed)
            && changed.is_some()
        {
            return Ok(*digest);
        }
        let mut digester = Digester::default();
        let mut file = std::fs::File::open(path)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match io::Read::read(&mut file, &mut buffer)? {
                0 => break,
                count => digester.update(buffer.get(..count).unwrap_or_default()),
            }
        }
        let digest = digester.finish();
        known().insert(name, (size, changed, digest));
        Ok(digest)
    }

    /// Where a package lies; none for a name that no package can have.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        is_package(name).then(|| self.folder.join(name))
    }
}

/// The names that packages have. They are shown to a shell: nothing but these letters.
fn is_package(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'+' | b'~');
    name.starts_with("farshore-agent_")
        && name.ends_with(".deb")
        && name.len() <= 128
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_are_listed_and_a_changed_one_has_its_new_digest() {
        let folder = tempfile::tempdir().unwrap();
        let packages = Packages::new(folder.path().join("none"));
        assert!(packages.list().unwrap().is_empty());
        let packages = Packages::new(folder.path().to_owned());
        let deb = "farshore-agent_0.1.0_amd64.deb";
        for (name, text) in [(deb, "one"), ("notes.txt", "x"), ("farshore-agent_$(id).deb", "x")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::create_dir(folder.path().join("farshore-agent_1_arm64.deb")).unwrap();
        assert_eq!(packages.list().unwrap(), BTreeMap::from([(deb.to_owned(), Digest::of(b"one"))]));
        std::fs::write(folder.path().join(deb), "another").unwrap();
        assert_eq!(packages.list().unwrap(), BTreeMap::from([(deb.to_owned(), Digest::of(b"another"))]));
        assert!(packages.path("../secret.deb").is_none() && packages.path(deb).is_some());
    }
}
