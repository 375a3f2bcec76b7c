//! Which user an app runs as.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use farshore_domain::name::Name;
use serde::{Deserialize, Serialize};

use super::error::RunnerError;
use crate::file;

/// User ids that neither Debian nor systemd gives to anybody else (<https://systemd.io/UIDS-GIDS/>: 60706 to 61183 are unused).
pub const APP_UIDS: RangeInclusive<u32> = 60_706..=61_183;

/// The last of [`APP_UIDS`] runs commands from afar, and no app.
const COMMANDS_UID: u32 = *APP_UIDS.end();

/// How apps get their user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppsUser {
    /// Each app its own id out of [`APP_UIDS`]. Needs root.
    PerApp,
    /// All apps this user of `/etc/passwd`. Needs root.
    Named(String),
    /// The runner's own: for development and tests.
    Unprivileged,
}

/// A user to become; `None` stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Debug)]
pub(crate) struct Users {
    mode: AppsUser,
    path: PathBuf,
    given: BTreeMap<Name, u32>,
}

impl Users {
    pub(crate) fn load(mode: AppsUser, folder: &Path) -> Result<Self, RunnerError> {
        let path = folder.join("users.json");
        let read =
            file::read_capped(&path, 1024 * 1024).map_err(|e| RunnerError::io("reading users.json", e))?;
        let given = match read {
            None => BTreeMap::new(),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| RunnerError::io("reading users.json", std::io::Error::other(e)))?,
        };
        Ok(Self { mode, path, given })
    }

    /// The user of commands from afar, which is never root: also a runner that gives apps no users of their own does so here, if it can.
    pub(crate) fn of_commands(&self) -> Result<Option<Identity>, RunnerError> {
        match &self.mode {
            AppsUser::Named(name) => named(name).map(Some),
            AppsUser::PerApp | AppsUser::Unprivileged => Ok(rustix::process::geteuid()
                .is_root()
                .then_some(Identity { uid: COMMANDS_UID, gid: COMMANDS_UID })),
        }
    }

    /// The user of an app; the same one for ever, because its data belongs to it.
    pub(crate) fn of(&mut self, app: &Name) -> Result<Option<Identity>, RunnerError> {
        match &self.mode {
            AppsUser::Unprivileged => Ok(None),
            AppsUser::Named(name) => named(name).map(Some),
            AppsUser::PerApp => {
                if let Some(uid) = self.given.get(app) {
                    return Ok(Some(Identity { uid: *uid, gid: *uid }));
                }
                let taken = |uid: &u32| self.given.values().any(|given| given == uid);
                let free = |uid: &u32| *uid != COMMANDS_UID && !taken(uid);
                let uid = APP_UIDS.clone().find(free).ok_or(RunnerError::NoUser)?;
                self.given.insert(app.clone(), uid);
                let bytes = serde_json::to_vec(&self.given)
                    .map_err(|e| RunnerError::io("writing users.json", std::io::Error::other(e)))?;
                file::write_atomically(&self.path, &bytes, 0o600)
                    .map_err(|e| RunnerError::io("writing users.json", e))?;
                Ok(Some(Identity { uid, gid: uid }))
            }
        }
    }
}

/// The ids of a user by name or number; `None` when there is none of that name.
pub(crate) fn lookup_user(name: &str) -> std::io::Result<Option<(u32, u32)>> {
    if let Ok(uid) = name.parse::<u32>() {
        return Ok(Some((uid, uid)));
    }
    let passwd = file::read_capped(Path::new("/etc/passwd"), 4 * 1024 * 1024)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&passwd).lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((uid, gid))
    }))
}

/// The id of a group by name or number; `None` when there is none of that name.
pub(crate) fn lookup_group(name: &str) -> std::io::Result<Option<u32>> {
    if let Ok(gid) = name.parse::<u32>() {
        return Ok(Some(gid));
    }
    let groups = file::read_capped(Path::new("/etc/group"), 4 * 1024 * 1024)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&groups).lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let gid = fields.nth(1)?.parse().ok()?;
        found.then_some(gid)
    }))
}

fn named(name: &str) -> Result<Identity, RunnerError> {
    let unknown = || RunnerError::UnknownUser(name.to_owned());
    lookup_user(name)
        .map_err(|e| RunnerError::io("reading /etc/passwd", e))?
        .map(|(uid, gid)| Identity { uid, gid })
        .filter(|identity| identity.uid != 0)
        .ok_or_else(unknown)
}
