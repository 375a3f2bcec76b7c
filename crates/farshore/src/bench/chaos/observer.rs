//! Looks from outside, all the time, at what an agent executes and at what it says that it obeys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farshore_domain::digest::Digest;
use serde_json::Value;
use tokio::time::sleep;

use crate::bench::device::processes_of_apps;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Moments with more than one process of the app.
    pub(super) doubled: u32,
    /// Processes whose program was not the signed one.
    pub(super) unverified: u32,
    /// Of every process, whether its program was looked at.
    pub(super) known: BTreeMap<u32, bool>,
    pub(super) looks: u64,
    /// The newest (epoch, generation) that it said it obeys, and how often it said an older one afterwards.
    newest: (u64, u64),
    pub(super) went_back: u32,
    pub(super) generations: u32,
}

/// Looks until the task is ended.
pub(super) async fn observe(home: PathBuf, signed: Digest, seen: Arc<Mutex<Seen>>) {
    loop {
        let apps: Vec<_> = processes_of_apps(&home)
            .unwrap_or_default()
            .into_iter()
            .filter(|process| !process.supervises)
            .collect();
        let mut fresh = Vec::new();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.looks += 1;
            // A second look, without those that were just ending.
            let alive = apps.iter().filter(|process| is_alive(process.pid)).count();
            seen.doubled += u32::from(alive > 1);
            fresh.extend(apps.iter().filter(|process| !seen.known.contains_key(&process.pid)).map(|p| p.pid));
        }
        for pid in fresh {
            // The file of the process itself, whatever its name has become.
            let Ok(bytes) = tokio::fs::read(format!("/proc/{pid}/exe")).await else { continue };
            let good = Digest::of(&bytes) == signed;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.known.insert(pid, good);
            seen.unverified += u32::from(!good);
        }
        if let Some(obeyed) = obeyed(&home) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.went_back += u32::from(obeyed < seen.newest);
            seen.generations += u32::from(obeyed > seen.newest);
            seen.newest = seen.newest.max(obeyed);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// What the agent's own status says, where it could be written.
fn obeyed(home: &Path) -> Option<(u64, u64)> {
    let status: Value = serde_json::from_slice(&std::fs::read(home.join("state/status.json")).ok()?).ok()?;
    Some((status["epoch"].as_u64()?, status["generation"].as_u64()?))
}

/// Whether the process has not ended: one that waits for its parent to look has.
fn is_alive(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}
