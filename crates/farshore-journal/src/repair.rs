//! What is done by hand to a journal that nobody has open.

use std::path::Path;
use std::sync::Arc;

use crate::clock;
use crate::config::Config;
use crate::core::{Core, Keys};
use crate::error::JournalError;
use crate::files::{Files as _, RealFiles};
use crate::key::KeySource;
use crate::rest::{AtRest, Fault, PartKind};

/// What a repair did.
#[derive(Debug, Default)]
pub struct Repair {
    /// Damage that was set aside; what could be read of it was kept, the rest is on record as lost.
    pub mended: Vec<Fault>,
    /// Damage that is still there, and why.
    pub left: Vec<(Fault, String)>,
}

/// Locks a journal that is there.
fn lock(root: &Path) -> Result<RealFiles, JournalError> {
    if !root.join("epoch").is_file() {
        return Err(JournalError::NoJournal { path: root.to_owned() });
    }
    RealFiles::open(root)
        .map_err(|error| JournalError::io("open its folder", error))?
        .ok_or_else(|| JournalError::InUse { path: root.to_owned() })
}

/// Sets aside what is damaged, as the journal itself would when it comes across it: whole frames of a damaged segment become a batch, the
/// damaged file goes into quarantine, and what is lost is put on record.
///
/// # Errors
/// [`JournalError::InUse`]; when there is no journal or no key; what the disk says.
pub fn repair(root: impl AsRef<Path>, config: Config) -> Result<Repair, JournalError> {
    let root = root.as_ref();
    let files = lock(root)?;
    // Never a new one: everything would be taken for damaged.
    let device = KeySource::of(root).get()?;
    let keys = Keys::new(device, config.ingest_key.as_ref()).map_err(JournalError::seal)?;
    let now = clock::now();
    let mut core = Core::open(Arc::new(files), config, keys, clock::boot_id(), now)?;
    let rest = AtRest::open(root)?;
    let mut repair = Repair::default();
    for part in rest.parts()? {
        let faults = rest.contents(&part)?.map(|contents| contents.faults).unwrap_or_default();
        let faults: Vec<Fault> = faults.into_iter().filter(|fault| fault.loss).collect();
        if faults.is_empty() {
            continue;
        }
        let mended = match part.kind {
            PartKind::Batch | PartKind::Thinned => core.set_aside(now, &part.stream, part.sequence),
            PartKind::Segment => core.seal_damaged(now, &part.stream, part.sequence),
        };
        match mended {
            Ok(()) => repair.mended.extend(faults),
            Err(error) => {
                let why = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
                repair.left.extend(faults.into_iter().map(|fault| (fault, why.clone())));
            }
        }
    }
    Ok(repair)
}

/// Begins a new life of the journal: what it numbers from now on can't be taken for anything that was sent before.
///
/// # Errors
/// [`JournalError::InUse`]; when there is no journal; what the disk says.
pub fn new_epoch(root: impl AsRef<Path>) -> Result<u64, JournalError> {
    let files = lock(root.as_ref())?;
    let io = |e| JournalError::io("begin a new epoch", e);
    files.remove("epoch").map_err(io)?;
    files.sync_folder("").map_err(io)?;
    crate::core::epoch(&files)
}
