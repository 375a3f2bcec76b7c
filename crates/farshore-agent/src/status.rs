//! What `farshore-agent status` shows, with or without network: `run` keeps it in a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use farshore_domain::connectivity::Connectivity;
use farshore_domain::id::DeviceId;
use farshore_domain::name::Name;
use farshore_domain::object::Reason;
use farshore_domain::reconcile::AppView;
use farshore_domain::release::isolation::Isolation;
use farshore_domain::time::UnixMs;
use serde::{Deserialize, Serialize};

use crate::file;

/// The name of the file in the state folder.
pub const STATUS_FILE: &str = "status.json";

/// The device as it sees itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub device: DeviceId,
    pub name: String,
    pub tenant: Name,
    pub control_plane: String,
    pub connected: bool,
    /// Why there is no channel; empty when there is one.
    pub link: String,
    /// How it stands to its control plane, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connectivity: Option<(Connectivity, UnixMs)>,
    pub certificate_ends: UnixMs,
    pub epoch: u64,
    pub generation: u64,
    pub health: String,
    pub conformance: String,
    pub reasons: Vec<Reason>,
    pub apps: Vec<AppStatus>,
    pub capabilities: Vec<String>,
    /// Who tells which signal of the kernel.
    #[serde(default)]
    pub sources: crate::eyes::Sources,
    /// Batches that were dropped because the journal was full, by stream.
    pub dropped: BTreeMap<String, u64>,
    pub written_at: UnixMs,
}

/// One app.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppStatus {
    pub app: Name,
    pub phase: String,
    pub health: String,
    pub conformance: String,
    pub version: String,
    pub committed: bool,
    pub restarts: u32,
    pub reasons: Vec<Reason>,
    /// What the running instance is kept apart from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
}

impl AppStatus {
    pub(crate) fn of(app: &AppView) -> Self {
        Self {
            app: app.app.clone(),
            phase: app.phase.word().to_owned(),
            health: app.health.word().to_owned(),
            conformance: app.conformance.word().to_owned(),
            version: app.active.as_ref().map(|(_, version)| version.to_string()).unwrap_or_default(),
            committed: app.committed,
            restarts: app.restarts,
            reasons: app.reasons.clone(),
            isolation: app.isolation.clone(),
        }
    }
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("no status: `farshore-agent run` has not run with this state folder yet")]
    Missing,
    #[error("the status can't be read")]
    Io(#[source] std::io::Error),
    #[error("the status is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl Status {
    /// Reads what `run` wrote last.
    ///
    /// # Errors
    /// A [`StatusError`].
    pub fn read(state: &Path) -> Result<Self, StatusError> {
        let bytes = file::read_capped(&state.join(STATUS_FILE), 16 * 1024 * 1024).map_err(StatusError::Io)?;
        serde_json::from_slice(&bytes.ok_or(StatusError::Missing)?).map_err(StatusError::Damaged)
    }

    /// The status for people.
    #[must_use]
    pub fn text(&self, now: UnixMs) -> String {
        let mut out = String::new();
        let age = now.since_ms(self.written_at).max(0) / 1000;
        let link =
            if self.connected { "connected".to_owned() } else { format!("not connected: {}", self.link) };
        let lines = [
            format!("device       {} ({})", self.name, self.device),
            format!("tenant       {}", self.tenant),
            format!("control      {} – {link}", self.control_plane),
            match self.connectivity {
                Some((state, since)) => {
                    format!("network      {state} for {} s", now.since_ms(since).max(0) / 1000)
                }
                None => "network      not known".to_owned(),
            },
            format!("health       {}", self.health),
            format!("conformance  {}", self.conformance),
            format!("desired      epoch {}, generation {}", self.epoch, self.generation),
            format!("last change  {age} s ago"),
        ];
        for line in lines {
            out.push_str(&line);
            out.push('\n');
        }
        for reason in &self.reasons {
            // Writing to a string can't fail.
            let _ = writeln!(out, "             {}: {}", reason.code, reason.message);
        }
        for app in &self.apps {
            let version = if app.version.is_empty() { "–" } else { &app.version };
            let _ = writeln!(
                out,
                "\napp {}  {version}  {}  {}  {}  restarts {}",
                app.app, app.phase, app.health, app.conformance, app.restarts
            );
            let apart = app.isolation.as_ref().map(Isolation::words).unwrap_or_default();
            if !apart.is_empty() {
                let _ = writeln!(out, "    isolation: {}", apart.join(", "));
            }
            for reason in &app.reasons {
                let _ = writeln!(out, "    {}: {}", reason.code, reason.message);
            }
        }
        out
    }
}
