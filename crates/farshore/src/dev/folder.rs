//! The one folder, held by one `farshore dev` at a time.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::context::write_private;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The folder, locked until dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    _lock: File,
}

/// The ports that were chosen, so that devices find the control plane again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) device: u16,
}

impl Folder {
    /// Opens the folder, and makes it if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("can't use the folder {}", path.display());
        let failed = |error: std::io::Error| Failure::because(what(), &error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let root = fs::canonicalize(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(root.join("lock"))
            .map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Failure::new(Exit::Conflict, what())
                .why("another farshore dev runs with it")
                .next("farshore dev --data OTHER-FOLDER --port 0"));
        }
        // It holds keys and tokens: nothing for a repository.
        fs::write(root.join(".gitignore"), "*\n").map_err(failed)?;
        Ok(Self { root, _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A log file in the folder, appended to.
    pub(crate) fn log(&self, name: &str) -> Result<File> {
        let path = self.root.join(name);
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| Failure::because(format!("can't write {}", path.display()), &error))
    }

    /// The ports to listen on: as asked, else those of the last time, else the usual ones, else any that are free.
    pub(crate) fn ports(&self, api: Option<u16>, device: Option<u16>) -> Ports {
        let known = fs::read(self.join("ports.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<Ports>(&text).ok());
        let known_free = |known: Option<u16>| known.filter(|port| is_free(*port));
        let choose = |asked: Option<u16>, known: Option<u16>, usual: u16| match (asked, known_free(known)) {
            (Some(0) | None, Some(known)) => known,
            (Some(asked), _) => asked,
            (None, None) if is_free(usual) => usual,
            (None, None) => 0,
        };
        Ports {
            api: choose(api, known.map(|ports| ports.api), 8443),
            device: choose(device, known.map(|ports| ports.device), 8444),
        }
    }

    pub(crate) fn keep_ports(&self, ports: Ports) -> Result<()> {
        let what = "can't keep the ports";
        let text = serde_json::to_vec(&ports).map_err(|error| Failure::because(what, &error))?;
        write_private(&self.join("ports.json"), &text).map_err(|error| Failure::because(what, &error))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::because("there is no free port", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time_and_remembers_its_ports() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("deep/.farshore");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(Folder::open(&path).unwrap_err().exit(), Exit::Conflict);
        assert_eq!(folder.ports(Some(0), Some(0)), Ports { api: 0, device: 0 });
        let kept = Ports { api: free_port().unwrap(), device: free_port().unwrap() };
        folder.keep_ports(kept).unwrap();
        drop(folder);
        let folder = Folder::open(&path).unwrap();
        assert_eq!(folder.ports(Some(0), None), kept);
        assert_eq!(folder.ports(Some(7), None), Ports { api: 7, device: kept.device });
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, kept.api)).unwrap();
        assert_eq!(folder.ports(Some(0), None), Ports { api: 0, device: kept.device });
    }
}
