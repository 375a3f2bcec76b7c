//! A stored device as the API shows it.

use std::collections::BTreeMap;

use farshore_api::Object;
use farshore_api::device::{Device, DeviceApp, DeviceSpec, DeviceStatus};
use farshore_domain::desired::{DesiredState, Generation};
use farshore_domain::device::{AppPhase, Health};
use farshore_domain::object::{API_VERSION, Reason};
use farshore_domain::time::UnixMs;
use farshore_store::devices::DeviceRow;

/// How much of a device is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// In lists: without the apps' config.
    Listed,
    Full,
}

/// Shows a device.
#[must_use]
pub fn device(row: DeviceRow, detail: Detail, heartbeat_ms: i64, now: UnixMs) -> Device {
    let reachability = row.reachability(heartbeat_ms, now);
    let desired_at = row.desired.as_ref().map_or(Generation::default(), |desired| desired.at);
    let desired = row.desired.as_ref().and_then(|desired| {
        DesiredState::parse(&desired.body)
            .inspect_err(|error| tracing::error!(device = %row.metadata.uid, %error, "stored desired state can't be read"))
            .ok()
    });
    let mut apps: BTreeMap<_, DeviceApp> = row
        .apps
        .into_iter()
        .map(|app| {
            let shown = DeviceApp {
                app: app.app.clone(),
                phase: app.phase,
                health: app.health,
                desired: None,
                because: None,
                active_release: app.active_release,
                active_version: app.active_version,
                staged_release: app.staged_release,
                failed_release: app.failed_release,
                committed: app.committed,
                restarts: app.restarts,
                reasons: app.reasons,
                isolation: app.isolation,
                config: BTreeMap::new(),
                usage: None,
            };
            (app.app, shown)
        })
        .collect();
    for wanted in desired.into_iter().flat_map(|state| state.apps) {
        let shown = apps.entry(wanted.app.clone()).or_insert_with(|| DeviceApp {
            app: wanted.app.clone(),
            phase: AppPhase::Absent,
            health: Health::Unknown,
            desired: None,
            because: None,
            active_release: None,
            active_version: String::new(),
            staged_release: None,
            failed_release: None,
            committed: false,
            restarts: 0,
            reasons: Vec::new(),
            isolation: None,
            config: BTreeMap::new(),
            usage: None,
        });
        shown.desired = Some(wanted.release);
        shown.because = Some(wanted.because);
        if detail == Detail::Full {
            shown.config = wanted.config;
        }
    }
    // What is gone from the device and wanted no more is history.
    let apps =
        apps.into_values().filter(|app| app.phase != AppPhase::Absent || app.desired.is_some()).collect();
    let mut reasons = row.reasons;
    if let Some(at) = row.revoked_at {
        reasons.insert(0, Reason::new("Revoked", "Its certificate and key are refused for ever.", at));
    }
    Object {
        api_version: API_VERSION.to_owned(),
        kind: "Device".to_owned(),
        metadata: row.metadata,
        spec: DeviceSpec { channel: row.channel, location: row.location, driver: row.driver },
        status: DeviceStatus {
            reachability,
            health: row.health,
            conformance: row.conformance,
            lifecycle: row.lifecycle,
            reasons,
            last_seen_at: row.last_seen_at,
            agent_version: row.agent_version,
            capabilities: row.capabilities,
            senses: row.senses,
            hardware: row.hardware,
            accepted: row.accepted,
            desired: desired_at,
            certificate_expires_at: row.certificate_expires_at,
            apps,
            latest: row.latest,
            sparkline: Vec::new(),
        },
    }
}
