//! The two slots of an app: which one is the current one, and sending the traffic to the other.
//!
//! `slots.json` is the truth, written in one step before anything is done about it. Whatever is cut afterwards is made up for by being asked to
//! switch once more: until it is known that the traffic goes there, the runner says so.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use farshore_domain::name::Name;
use farshore_domain::release::slot::{self, Slot};
use serde::{Deserialize, Serialize};

use super::apps::Apps;
use super::cgroup;
use super::error::RunnerError;
use super::folder::AppFolder;
use super::runtime;
use super::spec::Spec;
use crate::{clock, file};

/// Where the traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Current {
    pub(super) slot: Slot,
    pub(super) port: u16,
    /// It is known that it goes there.
    pub(super) told: bool,
}

impl Current {
    /// None for an app without slots. What can't be read is not known to be told.
    pub(super) fn read(folder: &AppFolder) -> io::Result<Option<Self>> {
        let Some(bytes) = file::read_capped(&folder.slots(), 4096)? else { return Ok(None) };
        let unknown = Self { slot: Slot::Blue, port: 0, told: false };
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "the current slot can't be read; it is found out again");
            unknown
        })))
    }

    fn write(self, folder: &AppFolder) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self).map_err(io::Error::other)?;
        file::write_atomically(&folder.slots(), &bytes, 0o600)
    }

    /// The folder as the current slot sees it.
    pub(super) fn of(folder: &AppFolder) -> io::Result<AppFolder> {
        Ok(folder.in_slot(Self::read(folder)?.map_or(Slot::Blue, |current| current.slot)))
    }
}

/// Makes this slot the current one, for an instance that is about to start or to get the traffic. Whether it is known that the traffic goes there.
pub(super) fn point(folder: &AppFolder, spec: &Spec) -> io::Result<bool> {
    let Some(slots) = spec.run.as_ref().and_then(|run| run.slots.as_ref()) else {
        // An app that has no slots any more.
        for path in [folder.slots(), folder.current_env()] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        folder.switch(spec.manifest)?;
        return Ok(true);
    };
    let (slot, port) = (folder.slot(), slots.port(folder.slot()));
    let before = Current::read(folder)?;
    let told = before.is_some_and(|before| before == Current { slot, port, told: true });
    if before != Some(Current { slot, port, told }) {
        Current { slot, port, told }.write(folder)?;
    }
    folder.switch(spec.manifest)?;
    let text = format!("{}={slot}\n{}={port}\nFARSHORE_VERSION={}\n", slot::SLOT, slot::PORT, spec.version);
    file::write_atomically(&folder.current_env(), text.as_bytes(), 0o644)?;
    // The mask of the unit lets nobody else read it.
    std::fs::set_permissions(folder.current_env(), std::fs::Permissions::from_mode(0o644))?;
    Ok(told)
}

impl Apps {
    /// The slot in which an instance is supervised.
    pub(super) fn slot_of(
        &self,
        app: &Name,
        instance: u64,
    ) -> Result<Option<(AppFolder, Spec)>, RunnerError> {
        let folder = self.app(app);
        for slot in Slot::BOTH {
            let folder = folder.in_slot(slot);
            if Self::is_supervised(&folder)?
                && let Some(spec) = Self::spec(&folder).filter(|spec| spec.instance == instance)
            {
                return Ok(Some((folder, spec)));
            }
        }
        Ok(None)
    }

    /// What is left of an instance in a slot whose supervisor is gone: its number.
    pub(super) fn stray(&self, folder: &AppFolder) -> Option<u64> {
        let status = Self::stored_status(folder)?;
        let lives =
            status.boot == clock::boot_id() && status.process.is_some_and(|process| process.is_alive());
        let left = lives || cgroup::is_used(&self.cgroups.folders(&folder.group()));
        left.then_some(status.running.instance)
    }

    pub(super) async fn stop_one(&self, app: &Name, instance: u64) -> Result<(), RunnerError> {
        if let Some((folder, _)) = self.slot_of(app, instance)? {
            return self.stop_in(app, &folder).await;
        }
        for slot in Slot::BOTH {
            let folder = self.app(app).in_slot(slot);
            if !Self::is_supervised(&folder)? && self.stray(&folder) == Some(instance) {
                self.stop_in(app, &folder).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn switch(&self, app: &Name, instance: u64) -> Result<(), RunnerError> {
        let found = self.slot_of(app, instance)?;
        let (folder, spec) = found.ok_or_else(|| RunnerError::NotRunning(app.clone()))?;
        let Some(slots) = spec.run.as_ref().and_then(|run| run.slots.clone()) else {
            return Err(RunnerError::NoSlots(app.clone()));
        };
        let io = |e| RunnerError::io("switching the slot", e);
        if point(&folder, &spec).map_err(io)? {
            return Ok(());
        }
        if !slots.switch.is_empty() {
            let limit = Duration::from_secs(u64::from(slots.timeout_seconds));
            let told = runtime::hook(&folder, &spec, "switch", limit).await;
            told.map_err(|source| RunnerError::Runtime { what: "sending the traffic to it", source })?;
        }
        let (slot, port) = (folder.slot(), slots.port(folder.slot()));
        Current { slot, port, told: true }.write(&folder).map_err(io)
    }
}
