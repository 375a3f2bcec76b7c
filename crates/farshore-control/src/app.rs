//! What everything in the control plane shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_store::{Driver, Store, StoreError, StoreResult};
use farshore_trust::online::OnlineSigner;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::access::Passwords;
use crate::alerts::Alerts;
use crate::artifacts::{ArtifactFolder, Uploads};
use crate::authority::Authority;
use crate::channel::Hub;
use crate::claims::Standings;
use crate::documents::Documents;
use crate::fleet::Fleet;
use crate::install::Packages;
use crate::pipelines::Pipelines;
use crate::series::{Hours, Room};
use crate::server::{Addresses, Metrics};
use crate::settings::Settings;
use crate::sinks::Sinks;
use crate::sync::Sync;

/// The control plane's shared parts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App {
    inner: Arc<Inner>,
}

/// What is opened before the control plane starts.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub settings: Settings,
    pub artifacts: ArtifactFolder,
    pub authority: Authority,
    pub addresses: Addresses,
    /// Ends what runs for long: drivers, streams, channels.
    pub shutdown: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: Settings,
    artifacts: ArtifactFolder,
    packages: Packages,
    uploads: Uploads,
    hub: Hub,
    fleet: Fleet,
    alerts: Alerts,
    authority: Authority,
    addresses: Addresses,
    passwords: Passwords,
    standings: Standings,
    sync: Sync,
    series: Room,
    hours: Hours,
    sinks: Sinks,
    documents: Documents,
    pipelines: Pipelines,
    metrics: Metrics,
    shutdown: CancellationToken,
    events_written: Notify,
    tenant_names: Mutex<BTreeMap<TenantId, Name>>,
}

impl App {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, settings, artifacts, authority, addresses, shutdown } = parts;
        let packages = Packages::new(settings.data.packages.clone());
        Self {
            inner: Arc::new(Inner {
                store,
                settings,
                artifacts,
                packages,
                uploads: Uploads::default(),
                hub: Hub::default(),
                fleet: Fleet::default(),
                alerts: Alerts::default(),
                authority,
                addresses,
                passwords: Passwords::default(),
                standings: Standings::default(),
                sync: Sync::default(),
                series: Room::default(),
                hours: Hours::default(),
                sinks: Sinks::default(),
                documents: Documents::default(),
                pipelines: Pipelines::default(),
                metrics: Metrics::default(),
                shutdown,
                events_written: Notify::new(),
                tenant_names: Mutex::default(),
            }),
        }
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The folder of artifacts.
    #[must_use]
    pub fn artifacts(&self) -> &ArtifactFolder {
        &self.inner.artifacts
    }

    /// The agent's packages, for new devices.
    #[must_use]
    pub fn packages(&self) -> &Packages {
        &self.inner.packages
    }

    #[must_use]
    pub fn uploads(&self) -> &Uploads {
        &self.inner.uploads
    }

    /// The live device sessions of this replica.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// The driver of desired states: tell it what changed ([`Fleet::changed`]) and who reported ([`Fleet::reported`]).
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    /// The drivers of alerts: tell them what rules look at has changed ([`Alerts::changed`]).
    #[must_use]
    pub fn alerts(&self) -> &Alerts {
        &self.inner.alerts
    }

    /// The certificate authority at work.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// What desired states are signed with now.
    #[must_use]
    pub fn online_signer(&self) -> Arc<OnlineSigner> {
        self.inner.authority.online()
    }

    /// Where this replica listens, and how others reach it.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.inner.addresses
    }

    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.inner.passwords
    }

    /// Which devices may use the device port, as seen a moment ago. Tell it when that changes ([`Standings::forget`]).
    #[must_use]
    pub fn standings(&self) -> &Standings {
        &self.inner.standings
    }

    /// Room for batches from gateways.
    #[must_use]
    pub fn sync(&self) -> &Sync {
        &self.inner.sync
    }

    /// Room for ranges of series.
    #[must_use]
    pub fn series(&self) -> &Room {
        &self.inner.series
    }

    /// The driver of hours.
    #[must_use]
    pub fn hours(&self) -> &Hours {
        &self.inner.hours
    }

    /// The driver of sinks: tell it that a batch came ([`Sinks::changed`]).
    #[must_use]
    pub fn sinks(&self) -> &Sinks {
        &self.inner.sinks
    }

    /// What gateways are given: tell it what changed ([`Pipelines::changed`]).
    #[must_use]
    pub(crate) fn pipelines(&self) -> &Pipelines {
        &self.inner.pipelines
    }

    /// Who waits for changes of documents.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        &self.inner.documents
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Cancelled when the control plane stops: streams and channels end then.
    #[must_use]
    pub fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }

    /// Events were committed: the sequencer may number them.
    pub fn events_written(&self) {
        self.inner.events_written.notify_one();
    }

    /// What [`App::events_written`] wakes.
    #[must_use]
    pub fn events_wake(&self) -> &Notify {
        &self.inner.events_written
    }

    /// A tenant's name, which never changes.
    pub async fn tenant_name(&self, tenant: TenantId) -> StoreResult<Name> {
        let known = |names: &BTreeMap<TenantId, Name>| names.get(&tenant).cloned();
        if let Some(name) = known(&self.inner.tenant_names.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(name);
        }
        let all = self.store().system(Driver::Assignments).tenant_ids().await?;
        let mut names = self.inner.tenant_names.lock().unwrap_or_else(PoisonError::into_inner);
        names.extend(all);
        known(&names).ok_or(StoreError::NotFound("tenant"))
    }
}
